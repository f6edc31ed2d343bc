"""The console on a real gateway: its figures, a kick, and a restart."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatesvr._pb import message_pb2 as pb
from gatesvr.errors import CloseCode

from ..admin.rig import running_admin
from ..e2e.plain_client import answer, business, plain_client
from ..fakes import until
from .conftest import Open

pytestmark = pytest.mark.long

FIGURES = """() => [
  Number(document.getElementById("view").dataset.time),
  Object.fromEntries([...document.querySelectorAll("[data-field]")]
    .map((element) => [element.dataset.field, element.dataset.value])),
]"""


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


def _of_metrics(text: str) -> dict[str, float]:
    """Return the figures of the page that stand still in a quiet gateway, as /metrics has them."""
    metrics = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return {
        "sessions.normal": metrics["gatesvr_sessions", "normal"],
        "sessions.suspended": metrics["gatesvr_sessions", "suspended"],
        "queue_messages": metrics["gatesvr_queue_messages",],
        "in_flight": metrics["gatesvr_requests_in_flight",],
        **{
            f"refusals.{key[1]}": value
            for key, value in metrics.items()
            if key[0] == "gatesvr_refusals_total" and value
        },
    }


async def test_figures_are_those_of_the_api(open_tab: Open, backend: str) -> None:
    async with running_admin(backend=backend) as rig, open_tab(rig.admin.url) as tab:
        await tab.until_live()
        asking = asyncio.create_task(_ask(rig.gateway.address, range(2, 200)))
        seen: list[dict[str, Any]] = []
        matched = 0
        async for name, overview in rig.events("stream"):
            assert name == "overview"
            seen.append(overview)
            time, shown = await tab.page.evaluate(FIGURES)
            found = next((one for one in seen if one["time"] == time), None)
            if found is None:
                continue  # the page is ahead of this reader
            for field, value in _wanted(found).items():
                assert shown[field] == "" == value or float(shown[field]) == value, field
            matched += 1
            if matched >= 3 and found["latency"]["request"]["count"] >= 198:
                break
        await asking


async def test_figures_are_those_of_the_metrics(open_tab: Open, backend: str) -> None:
    async with (
        running_admin(backend=backend) as rig,
        plain_client(rig.gateway.address) as client,
        open_tab(rig.admin.url) as tab,
    ):
        await client.login("alice")
        # Answers that nobody acknowledges.
        client.send(business(2, "echo"), business(3, "echo"))
        assert [answer(await client.receive()).code for _ in range(2)] == [200, 200]
        await until(lambda: rig.gateway.figures().in_flight == 0)
        # The sums over all sessions are a second old at most, in both.
        async with asyncio.timeout(60):
            while True:
                wanted = _of_metrics((await rig.http.get("metrics")).text)
                _, shown = await tab.page.evaluate(FIGURES)
                if wanted["queue_messages"] and all(
                    float(shown.get(field) or "nan") == value for field, value in wanted.items()
                ):
                    break
                await asyncio.sleep(0.1)
        assert wanted["sessions.normal"] == 1


async def test_a_kick_from_the_page_closes_the_client(open_tab: Open, backend: str) -> None:
    async with (
        running_admin(backend=backend) as rig,
        plain_client(rig.gateway.address) as client,
        # The stream of a session that has just ended is asked for once more, and is not found.
        open_tab(f"{rig.admin.url}#/sessions", may_fail=True) as tab,
    ):
        await client.login("alice")
        page = tab.page
        await page.click("a:text-is('alice')")
        await page.wait_for_selector(".status .badge.good")
        await page.keyboard.press("x")
        await page.fill("#field-reason", "house rules")
        await page.fill("#field-code", "4999")
        await page.click("dialog button[type=submit]")
        assert await client.closed() == CloseCode.KICKED
        told = pb.Kick.FromString(client.pushes[-1].payload)
        assert (told.code, told.reason) == (4999, "house rules")
        await page.wait_for_selector("text=This session has ended")


async def test_the_page_survives_a_restart(open_tab: Open, backend: str) -> None:
    async with AsyncExitStack() as stack:
        async with running_admin(backend=backend) as rig:
            address = rig.admin.address
            tab = await stack.enter_async_context(open_tab(rig.admin.url, may_fail=True))
            await tab.until_live()
        await tab.page.wait_for_selector("#link-state.is-waiting")
        await tab.page.wait_for_selector("html.is-stale")
        async with running_admin(f'admin.bind="{address}"', backend=backend) as rig:
            await tab.until_live()
            await _ask(rig.gateway.address, range(2, 4))
            await tab.until(
                "Number(document.querySelector('.stages tbody td:last-child').dataset.value) >= 2"
            )
