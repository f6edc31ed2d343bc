"""A real browser on the console: Debian's Chromium, driven by playwright (`make browser`)."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


@dataclass
class Tab:
    """A page of the browser, and what the browser complained about it.

    Attributes:
        page: The page.
        complaints: Errors of scripts, of the content security policy, and on the console.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)

    async def value(self, name: str) -> str:
        """Return the exact value behind the figure of this field, "" for none yet."""
        found = await self.page.get_attribute(f'[data-field="{name}"]', "data-value")
        return found or ""

    async def until(self, script: str, arg: Any = None) -> None:
        """Wait until a script returns something true.

        The page's own policy forbids the text that playwright's wait_for_function evaluates.
        """
        async with asyncio.timeout(60):
            while not await self.page.evaluate(script, arg):
                await asyncio.sleep(0.05)

    async def until_live(self) -> None:
        """Wait until the page hears its gateway."""
        await self.page.wait_for_selector("#link-state.is-live", timeout=60_000)


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Start Chromium."""
    api = pytest.importorskip("playwright.async_api", reason="the extra browser is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: make browser installs it")
    async with api.async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        await chromium.close()


Open = Callable[..., AbstractAsyncContextManager[Tab]]


@pytest.fixture
def open_tab(browser: Browser) -> Open:
    """Return a function that opens an address and, in the end, expects no complaint."""

    @asynccontextmanager
    async def opened(
        url: str, *, size: str = "desktop", scheme: str = "light", may_fail: bool = False
    ) -> AsyncIterator[Tab]:
        width, height = SIZES[size]
        context = await browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
        )
        tab = Tab(await context.new_page())

        def hear(text: str) -> None:
            # The browser's own line on a request that failed, where the test makes them fail.
            if not (may_fail and text.startswith("Failed to load resource")):
                tab.complaints.append(text)

        tab.page.on("console", lambda m: hear(m.text) if m.type in ("error", "warning") else None)
        tab.page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        await tab.page.goto(url)
        yield tab
        assert tab.complaints == []
        await context.close()

    return opened


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """Serve an application; yield its address."""
    config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        finally:
            server.should_exit = server.force_exit = True
            await serving
