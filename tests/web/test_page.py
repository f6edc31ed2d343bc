"""The demo's page in a real browser: two tabs, a cut, a reload, the looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gatesvr

from ..cli.process import FREE_PORTS, serving
from ..console.conftest import SIZES
from .conftest import DEADLINE_S

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="session")]

CLIENT = Path(gatesvr.__file__).parent / "demo" / "page" / "client.js"
LINES = "[...document.querySelectorAll('#lines .line .bubble')].map((line) => line.textContent)"
VERDICT = "({...document.getElementById('verdict').dataset})"


@dataclass
class Tab:
    """A tab with the page.

    Attributes:
        page: The tab.
        complaints: Errors of scripts, of the content security policy, and on the console.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def until(self, script: str, arg: Any = None) -> None:
        """Wait until a script returns something true.

        The page's own policy forbids the text that playwright's wait_for_function evaluates.
        """
        async with asyncio.timeout(DEADLINE_S):
            while not await self.page.evaluate(script, arg):
                await asyncio.sleep(0.05)

    async def field(self, name: str) -> str:
        """Return the exact value behind a figure."""
        return await self.page.get_attribute(f'[data-field="{name}"]', "data-value") or ""

    async def until_connected(self) -> None:
        await self.page.wait_for_selector(".state.is-good", timeout=DEADLINE_S * 1000)

    async def say(self, words: str) -> None:
        await self.page.fill("#text", words)
        await self.page.keyboard.press("Enter")

    async def has_lines(self, *wanted: str) -> None:
        """Wait for so many lines, and expect these, none of them missing or twice."""
        await self.until(f"(count) => ({LINES}).length >= count", len(wanted))
        assert await self.page.evaluate(LINES) == list(wanted)
        await self.until(f"(count) => ({VERDICT}).count === String(count)", len(wanted))
        verdict = await self.page.evaluate(VERDICT)
        assert (verdict["missing"], verdict["twice"]) == ("0", "0")


Open = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest.fixture
def chromium(browser: Browser) -> Browser:
    """Return the browser of all tests, where the page has its client."""
    if not CLIENT.exists():
        pytest.skip("the client is not built: make browser builds it")
    return browser


@pytest.fixture
def tab_of(chromium: Browser) -> Open:
    """Return a function that opens an address and, in the end, expects no complaint."""

    @asynccontextmanager
    async def opened(
        url: str, *, size: str = "desktop", scheme: str = "light"
    ) -> AsyncIterator[Tab]:
        width, height = SIZES[size]
        context = await chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
            ignore_https_errors=True,
        )
        tab = Tab(await context.new_page())

        def hear(kind: str, text: str) -> None:
            # The browser's own line on a WebSocket that lost the race, or was left with its page.
            is_given_up = text.endswith("closed before the connection is established.")
            if kind in ("error", "warning") and not is_given_up:
                tab.complaints.append(text)

        tab.page.on("console", lambda message: hear(message.type, message.text))
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        await tab.page.goto(url)
        yield tab
        assert tab.complaints == []
        await context.close()

    return opened


@asynccontextmanager
async def demo(tmp_path: Path, *more: str) -> AsyncIterator[tuple[str, str]]:
    """Run a demo; yield the page's addresses with TLS and without."""
    flags = (*more, "--web-bind", "127.0.0.1:0", "--admin", "off", *FREE_PORTS)
    async with serving(tmp_path, "serve", "--demo", *flags) as server:
        words = next(x for x in server.banner.splitlines() if x.startswith("  page ")).split()
        secure, plain = (word.rstrip(",") for word in words if word.startswith("http"))
        yield secure, plain


async def test_two_tabs_a_cut_and_a_reload(tmp_path: Path, tab_of: Open) -> None:
    async with (
        demo(tmp_path) as (secure, plain),
        tab_of(f"{plain}?name=ann") as ann,
        tab_of(f"{secure}?name=bob") as bob,
    ):
        for tab in (ann, bob):
            await tab.until_connected()
        await ann.say("one")
        await ann.has_lines("one")
        await bob.say("<b>two</b> \u202e")
        heard = ["one", "<b>two</b> \\u202e"]
        for tab in (ann, bob):
            await tab.has_lines(*heard)
        session = await ann.field("session")

        await ann.page.click("#cut")
        await ann.page.wait_for_selector(".state.is-bad")
        await bob.page.wait_for_selector(".people .is-away")
        for words in ("three", "four"):
            await bob.say(words)
        await bob.has_lines(*heard, "three", "four")
        await ann.say("five")
        await ann.page.wait_for_selector("#outbox .is-waiting")
        assert await ann.page.evaluate(LINES) == heard
        await ann.page.click("#cut")
        for tab in (ann, bob):
            await tab.has_lines(*heard, "three", "four", "five")
        await ann.page.wait_for_selector("text=2 lines had waited")
        assert await ann.page.evaluate("document.querySelectorAll('.is-late').length") == 2
        assert await ann.page.evaluate("document.querySelectorAll('#outbox li').length") == 0

        await ann.page.click("#reload")
        await ann.page.wait_for_selector("text=Reloaded, in the same session")
        await bob.say("six")
        await ann.has_lines(*heard, "three", "four", "five", "six")
        assert await ann.field("session") == session
        seqs = await ann.page.evaluate(
            "[...document.querySelectorAll('#lines .line')].map((line) => Number(line.dataset.seq))"
        )
        assert seqs == sorted(set(seqs))
        assert int(await ann.field("received")) >= seqs[-1]


async def test_transports_change_and_the_session_stays(
    tmp_path: Path, tab_of: Open, backend: str
) -> None:
    async with demo(tmp_path, "--transport", backend) as (secure, plain):
        for url in (secure, plain):
            async with tab_of(f"{url}?name=ann") as tab:
                await tab.until_connected()
                session = await tab.field("session")
                for number, way in enumerate(("webtransport", "websocket", "webtransport")):
                    if number:
                        await tab.page.check(f"#ways input[value={way}]", force=True)
                    await tab.until(
                        "(way) => document.querySelector('[data-field=transport]').dataset.value"
                        " === way",
                        way,
                    )
                    await tab.say(f"by {way}")
                    await tab.until(f"(n) => ({VERDICT}).count >= n", number + 1)
                assert await tab.field("session") == session
                await tab.until(
                    "(n) => document.querySelector('[data-field=connects]').dataset.value === n",
                    "3 2",
                )
                verdict = await tab.page.evaluate(VERDICT)
                assert (verdict["missing"], verdict["twice"]) == ("0", "0")


async def test_a_copied_tab_is_somebody_else(tmp_path: Path, chromium: Browser) -> None:
    async with demo(tmp_path) as (_, plain):
        context = await chromium.new_context()
        first = Tab(await context.new_page())
        await first.page.goto(plain)
        await first.until_connected()
        async with context.expect_page() as copying:
            # Without noopener the other tab gets a copy of sessionStorage, as a duplicate does.
            await first.page.evaluate("(url) => { window.open(url); }", plain)
        second = Tab(await copying.value)
        await second.until_connected()
        names = [await tab.page.inner_text("#name") for tab in (first, second)]
        assert len(set(names)) == 2
        assert await first.field("session") != await second.field("session")
        assert (
            await first.page.evaluate("document.querySelector('.state').textContent") == "Connected"
        )
        await context.close()


async def test_it_says_how_to_get_the_client(tmp_path: Path, chromium: Browser) -> None:
    async with demo(tmp_path) as (_, plain):
        page = await chromium.new_page()
        await page.route("**/client.js", lambda route: route.fulfill(status=404, body=""))
        await page.goto(plain)
        await page.wait_for_selector("#notice:has-text('run make serve where npm is installed')")


@pytest.mark.parametrize("size", ["desktop", "phone"])
async def test_axe_finds_nothing_and_keys_lead_everywhere(
    tmp_path: Path, tab_of: Open, size: str
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.async_playwright", reason="the extra browser is not installed"
    )
    async with demo(tmp_path) as (_, plain):
        for scheme in ("light", "dark"):
            async with tab_of(f"{plain}?name={scheme}", size=size, scheme=scheme) as tab:
                await tab.until_connected()
                await tab.say("hello")
                await tab.page.wait_for_selector("#lines .is-mine")
                await tab.page.evaluate("document.getElementById('figures').open = true")
                await tab.page.wait_for_selector("#people li")
                for is_cut in (False, True):
                    if is_cut:
                        await tab.page.focus("#cut")
                        await tab.page.keyboard.press("Space")
                        await tab.page.wait_for_selector(".state.is-bad")
                        await tab.say("this one waits")
                    results = await axe.Axe().run(tab.page)
                    found = [
                        (one["id"], [node["html"] for node in one["nodes"]][:3])
                        for one in results.response["violations"]
                    ]
                    assert found == [], json.dumps(found, indent=1)
                wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert await tab.page.evaluate(wide) <= 0, "it scrolls sideways"
                reached = set()
                await tab.page.evaluate("document.activeElement.blur()")
                for _ in range(16):
                    await tab.page.keyboard.press("Tab")
                    reached.add(await tab.page.evaluate("document.activeElement.id"))
                assert reached >= {"another", "theme", "cut", "reload", "talk", "text", "scroll"}
