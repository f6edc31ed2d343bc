"""The console on figures that we choose: ten thousand sessions, keys, access, steady layout."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Open, served
from .mock import MockGateway

pytestmark = pytest.mark.long

VIEWS = ("", "sessions", "upstreams", "routes", "config")
SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""


def _mock(**options: Any) -> MockGateway:
    return MockGateway(**{"sessions": 400, "step_s": 0.2, **options})


async def test_search_among_ten_thousand_sessions(open_tab: Open) -> None:
    mock = _mock(sessions=10_000)
    async with served(mock.app()) as url, open_tab(f"{url}#/sessions") as tab:
        page = tab.page
        await tab.until("document.querySelectorAll('.row-link').length === 50")
        assert await tab.value("total") == "10000"
        await page.keyboard.press("/")
        await page.keyboard.type("player-0042")
        await tab.until("document.querySelectorAll('.row-link').length === 10")
        assert await tab.value("total") == "10"
        assert "q=player-0042" in page.url
        await page.fill(".search", mock.sessions[77]["session"][:12])
        await tab.until("document.querySelectorAll('.row-link').length === 1")
        assert await page.inner_text(".row-link") == "player-00077"
        await page.fill(".search", "nobody")
        await page.wait_for_selector("text=No session matches.")


async def test_sessions_are_sorted_and_paged_by_the_server(open_tab: Open) -> None:
    mock = _mock()
    async with served(mock.app()) as url, open_tab(f"{url}#/sessions") as tab:
        page = tab.page
        await page.click("text=Openid")
        await page.wait_for_selector("th[aria-sort=ascending]")
        await tab.until("document.querySelector('.row-link')?.textContent === 'player-00000'")
        await page.keyboard.press("]")
        await tab.until("document.querySelector('.row-link').textContent === 'player-00050'")
        await page.keyboard.press("[")
        await tab.until("document.querySelector('.row-link').textContent === 'player-00000'")
        await page.select_option("select", "suspended")
        wanted = sum(s["state"] == "suspended" for s in mock.sessions)
        await tab.until("(n) => document.querySelector('.total').dataset.value === n", str(wanted))


async def test_keys_lead_everywhere(open_tab: Open) -> None:
    async with served(_mock().app()) as url, open_tab(url) as tab:
        page = tab.page
        await tab.until_live()
        await page.keyboard.press("?")
        assert "Search sessions" in await page.inner_text("dialog")
        await page.keyboard.press("Escape")
        for key, title in (("s", "Sessions"), ("u", "Upstreams"), ("r", "Routes")):
            await page.keyboard.press("g")
            await page.keyboard.press(key)
            await tab.until("(t) => document.getElementById('title').textContent === t", title)
        await page.keyboard.press("/")
        await page.wait_for_selector(".search:focus")
        await page.keyboard.press("Escape")
        await page.wait_for_selector(".row-link")
        await page.keyboard.press("j")
        await page.keyboard.press("j")
        second = page.locator(".row-link").nth(1)
        assert await second.evaluate("(e) => e === document.activeElement")
        await page.keyboard.press("Enter")
        await page.wait_for_selector(".session-id")
        await page.keyboard.press("t")
        assert await page.get_attribute("html", "data-theme") == "dark"
        await page.keyboard.press("Escape")
        await page.wait_for_selector(".search")


async def test_a_session_is_drawn_traced_pushed_to_and_kicked(open_tab: Open) -> None:
    mock = _mock()
    session = next(s for s in mock.sessions if s["state"] == "normal" and s["queue_messages"] > 5)
    address = f"#/sessions/{session['session']}"
    async with served(mock.app()) as url, open_tab(url + address, may_fail=True) as tab:
        page = tab.page
        await page.wait_for_selector(".strip-cells .cell.open")
        assert await page.locator(".strip-cells .cell.open").count() == 3
        assert await page.locator(".strip-cells .cell.waiting").count() == 3
        assert await tab.value("connection.cwnd") == "48000"
        await page.keyboard.press("e")
        await page.wait_for_selector("td:text-is('request')")
        await page.keyboard.press("p")
        await page.fill("#field-type", "notice")
        await page.fill("#field-content", "hello")
        await page.click("dialog button[type=submit]")
        await page.wait_for_selector("text=Pushed.")
        assert mock.pushed == [{"msg_type": "notice", "content": "hello"}]
        await page.keyboard.press("x")
        await page.click("dialog button:text('Cancel')")
        assert mock.kicked == []
        await page.keyboard.press("x")
        await page.click("dialog button[type=submit]")
        await page.wait_for_selector("text=This session has ended")
        assert mock.kicked == [{"code": 4410, "reason": "kicked by an operator"}]


async def test_drain_and_reload_ask_first(open_tab: Open) -> None:
    mock = _mock()
    async with served(mock.app()) as url, open_tab(url) as tab:
        page = tab.page
        await tab.until_live()
        await page.click("text=Drain…")
        await page.click("dialog button[type=submit]")
        assert await page.is_visible("dialog"), "drained without its word"
        await page.fill("#field-word", "drain")
        await page.click("dialog button[type=submit]")
        await page.wait_for_selector("text=connections left")
        await page.click("#nav >> text=Configuration")
        await page.click("text=Reload…")
        await page.click("dialog button[type=submit]")
        await page.wait_for_selector("dialog >> text=dispatch.deadline")
        assert mock.reloads == 1


async def test_a_token_is_asked_for_once(open_tab: Open) -> None:
    mock = _mock(token="s3cret")
    async with served(mock.app()) as url, open_tab(url, may_fail=True) as tab:
        page = tab.page
        await page.fill("#field-token", "wrong")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("text=this token is not the server's")
        await page.fill("#field-token", "s3cret")
        await page.keyboard.press("Enter")
        await tab.until_live()
        await page.reload()
        await tab.until_live()
        assert not await page.is_visible("dialog")


@pytest.mark.parametrize("size", ["desktop", "phone"])
async def test_the_layout_is_steady(open_tab: Open, size: str) -> None:
    async with served(_mock(workers=4).app()) as url, open_tab(url, size=size) as tab:
        await tab.until_live()
        await tab.page.evaluate(SHIFTS)
        before = await tab.value("rates.requests")
        for _ in range(8):
            await tab.until(
                "(old) => document.querySelector('[data-field=\"rates.requests\"]')"
                ".dataset.value !== old",
                before,
            )
            before = await tab.value("rates.requests")
        assert await tab.page.evaluate("window.shifts") < 0.05
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await tab.page.evaluate(width) <= 0, "it scrolls sideways"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["desktop", "phone"])
async def test_axe_finds_nothing_serious(open_tab: Open, size: str, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.async_playwright", reason="the extra browser is not installed"
    )
    mock = _mock(workers=4 if scheme == "dark" else 0)
    views = (*VIEWS, f"sessions/{mock.sessions[0]['session']}")
    async with (
        served(mock.app()) as url,
        open_tab(url, size=size, scheme=scheme) as tab,
    ):
        await tab.until_live()
        for view in views:
            await tab.page.evaluate("(view) => { location.hash = `#/${view}`; }", view)
            await tab.page.wait_for_selector("td, .strip-cells .cell")
            results = await axe.Axe().run(tab.page)
            serious = [
                (view, found["id"], [node["html"] for node in found["nodes"]][:3])
                for found in results.response["violations"]
                if found["impact"] in ("serious", "critical")
            ]
            assert serious == [], json.dumps(serious, indent=1)


async def test_workers_are_shown_where_there_are_some(open_tab: Open) -> None:
    mock = _mock(workers=4)
    async with served(mock.app()) as url, open_tab(url) as tab:
        page = tab.page
        await tab.until_live()
        rows = page.locator(".workers tbody tr")
        assert await rows.count() == 5
        assert "no answer" in await rows.nth(4).inner_text()
        assert "3 of 4 ready" in await page.inner_text(".panel:has(.workers) .panel-note")
        assert "3 of 4" in await page.inner_text("#facts")
        await page.keyboard.press("g")
        await page.keyboard.press("s")
        await page.wait_for_selector(".row-link")
        assert await page.is_visible("th.of-fleet")
        mock.workers = 0
        await tab.until("!document.documentElement.classList.contains('has-fleet')")
        assert not await page.is_visible("th.of-fleet")


async def test_a_clients_name_rewrites_nothing(open_tab: Open) -> None:
    mock = _mock()
    session = next(s for s in mock.sessions if s["state"] == "normal" and s["queue_messages"] > 5)
    session["openid"] = "\u202egnp<img src=x onerror=alert(1)>00012"  # the mock reads the number
    address = f"#/sessions/{session['session']}"
    async with served(mock.app()) as url, open_tab(url + address) as tab:
        page = tab.page
        await page.wait_for_selector(".strip-cells .cell.open")
        await page.keyboard.press("x")
        shown = await page.inner_text("dialog")
        assert "\\u202egnp<img src=x" in shown
        assert "\u202e" not in shown
        assert await page.locator("dialog img").count() == 0


async def test_an_address_of_any_text_is_a_page(open_tab: Open) -> None:
    async with served(_mock().app()) as url, open_tab(f"{url}#/sessions/%", may_fail=True) as tab:
        await tab.page.wait_for_selector(".session-id")
