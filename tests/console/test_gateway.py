"""The console on a real gateway: its figures, a kick, and a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gatesvr.admin.server import AdminServer

from ..e2e.harness import running_gateway
from ..e2e.plain_client import answer, business, plain_client
from ..e2e.plain_upstream import plain_upstream
from .conftest import Open

if TYPE_CHECKING:
    from gatesvr import Gateway

pytestmark = pytest.mark.long

FIGURES = """() => [
  Number(document.getElementById("view").dataset.time),
  Object.fromEntries([...document.querySelectorAll("[data-field]")]
    .map((element) => [element.dataset.field, element.dataset.value])),
]"""


@asynccontextmanager
async def running(
    backend: str, upstream: str, bind: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Gateway, AdminServer]]:
    """Run a gateway and its admin server."""
    async with running_gateway(backend, upstream, f'admin.bind="{bind}"') as gateway:
        admin = AdminServer(gateway, gateway.config.admin)
        await admin.start()
        try:
            yield gateway, admin
        finally:
            await admin.stop()


async def _ask(address: str, seqs: range) -> None:
    """Send requests as alice, and await their answers."""
    async with plain_client(address) as client:
        await client.login("alice")
        client.send(*(business(seq, "echo") for seq in seqs))
        for _ in seqs:
            assert answer(await client.receive()).code == 200


def _wanted(overview: dict[str, Any]) -> dict[str, float]:
    """Return every figure of the page as the API has it."""
    refusals = overview["refusals"]
    request = overview["latency"]["request"]
    return {
        "rates.requests": overview["rates"]["requests"],
        "rates.pushes": overview["rates"]["pushes"],
        "rates.cpu": overview["rates"]["cpu"],
        "latency.request.p99": request["p99"] if request["count"] else "",
        "in_flight": overview["in_flight"],
        "queue_messages": overview["queue_messages"],
        "lag_s": overview["lag_s"],
        "memory_bytes": overview["memory_bytes"],
        "sessions": sum(overview["sessions"].values()),
        "refusals": sum(refusal["rate"] for refusal in refusals),
        **{f"sessions.{state}": number for state, number in overview["sessions"].items()},
        **{f"refusals.{one['reason']}": one["total"] for one in refusals[:8]},
    }


async def test_figures_are_those_of_the_api(open_tab: Open, backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running(backend, upstream.address) as (gateway, admin),
        open_tab(admin.url) as tab,
        httpx.AsyncClient(base_url=admin.url, trust_env=False) as api,
    ):
        await tab.until_live()
        asking = asyncio.create_task(_ask(gateway.address, range(2, 200)))
        seen: list[dict[str, Any]] = []
        matched = 0
        async with api.stream("GET", "api/v1/stream", timeout=60) as stream:
            async for line in stream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                seen.append(json.loads(line.removeprefix("data: ")))
                time, shown = await tab.page.evaluate(FIGURES)
                found = next((one for one in seen if one["time"] == time), None)
                if found is None:
                    continue  # the page is ahead of this reader
                for name, value in _wanted(found).items():
                    assert shown[name] == "" == value or float(shown[name]) == value, name
                matched += 1
                if matched >= 3 and found["latency"]["request"]["count"] >= 198:
                    break
        await asking


async def test_a_kick_from_the_page_closes_the_client(open_tab: Open, backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running(backend, upstream.address) as (gateway, admin),
        plain_client(gateway.address) as client,
        # The stream of a session that has just ended is asked for once more, and is not found.
        open_tab(f"{admin.url}#/sessions", may_fail=True) as tab,
    ):
        await client.login("alice")
        page = tab.page
        await page.click("a:text-is('alice')")
        await page.wait_for_selector(".status .badge.good")
        await page.keyboard.press("x")
        await page.fill("#field-reason", "house rules")
        await page.fill("#field-code", "4999")
        await page.click("dialog button[type=submit]")
        assert await client.closed() == 4999
        await page.wait_for_selector("text=This session has ended")


async def test_the_page_survives_a_restart(open_tab: Open, backend: str) -> None:
    async with plain_upstream() as upstream:
        async with running(backend, upstream.address) as (_, admin):
            address, url = admin.address, admin.url
            opened = open_tab(url, may_fail=True)
            tab = await opened.__aenter__()
            await tab.until_live()
        await tab.page.wait_for_selector("#link-state.is-waiting")
        assert await tab.page.evaluate("document.documentElement.classList.contains('is-stale')")
        async with running(backend, upstream.address, address) as (gateway, _):
            await tab.until_live()
            await _ask(gateway.address, range(2, 4))
            await tab.until(
                "Number(document.querySelector('[data-field=\"rates.requests\"]').dataset.value)"
                " > 0 || Number(document.querySelector('.stages tbody td:last-child')"
                ".dataset.value) >= 2"
            )
            await opened.__aexit__(None, None, None)
