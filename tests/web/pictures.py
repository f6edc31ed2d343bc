"""Take the pictures of the demo's page that the documentation shows.

``gatesvr serve --demo`` runs, just started, for each scheme; then
``python -m tests.web.pictures http://localhost:8080/ --scheme dark --out docs``
"""

from __future__ import annotations

import argparse
import asyncio
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.async_api import async_playwright

from ..console.conftest import CHROMIUM

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

TAB = {"width": 700, "height": 800}
PHONE = {"width": 390, "height": 844}
SCALE = 1.25
GAP = 14
GROUND = {"light": "#c9ced6", "dark": "#000000"}
TALK = (
    (0, "Morning! Did the deploy go out?"),
    (1, "Ten minutes ago. All green so far."),
    (0, "Great. I'm on the train, so I'll drop out in the tunnel."),
    (1, "No worries, I'll keep typing."),
)
MEANWHILE = (
    "Canary is at 5 %.",
    "25 % now, latency is flat.",
    "Anna signed off.",
    "100 %. Done, closing the ticket.",
)


async def take(url: str, out: Path, scheme: str) -> None:
    """Write ``page-{offline,back}-SCHEME.webp`` of two tabs side by side, and one of a phone."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        await _take_two(browser, url, out, scheme)
        await browser.close()


async def _open(browser: Browser, url: str, name: str, scheme: str, way: str, **size: int) -> Page:
    context = await browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        device_scale_factor=SCALE,
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
        ignore_https_errors=True,
    )
    page = await context.new_page()
    await page.goto(f"{url}?name={name}")
    await page.wait_for_selector(".state.is-good")
    if way != "auto":
        await page.check(f"#ways input[value={way}]", force=True)
        await page.wait_for_selector(f"[data-field=transport][data-value={way}]")
    return page


async def _say(page: Page, words: str) -> None:
    await page.fill("#text", words)
    await page.keyboard.press("Enter")
    await page.wait_for_selector(f"#lines .is-mine:has-text({words!r})")


async def _take_two(browser: Browser, url: str, out: Path, scheme: str) -> None:
    names = (("Mira", "auto"), ("Jonas", "websocket"))
    tabs = [await _open(browser, url, name, scheme, way, **TAB) for name, way in names]
    away, here = tabs
    for who, words in TALK:
        await _say(tabs[who], words)
        await asyncio.sleep(0.4)
    await asyncio.sleep(4)  # some round trips
    await away.click("#cut")
    for words in MEANWHILE:
        await _say(here, words)
    await away.fill("#text", "In the tunnel now, this one waits.")
    await away.keyboard.press("Enter")
    await here.wait_for_selector(".people .is-away")
    await asyncio.sleep(2.5)
    await _save(tabs, out / f"page-offline-{scheme}.webp", scheme)
    await away.click("#cut")
    await away.wait_for_selector(f"#lines .is-late:has-text({MEANWHILE[-1]!r})")
    await asyncio.sleep(2.5)
    await _save(tabs, out / f"page-back-{scheme}.webp", scheme)
    for page in tabs:
        await page.context.close()
    phone = await _open(browser, url, "Edda", scheme, "auto", **PHONE)
    await _say(phone, "And this is a phone.")
    await asyncio.sleep(3)
    await _save([phone], out / f"page-phone-{scheme}.webp", scheme)
    await phone.context.close()


async def _save(pages: list[Page], file: Path, scheme: str) -> None:
    """Write pages side by side."""
    shots = [Image.open(io.BytesIO(await page.screenshot())) for page in pages]
    gap = GAP if len(shots) > 1 else 0
    width = sum(shot.width for shot in shots) + gap * (len(shots) - 1)
    whole = Image.new("RGB", (width, shots[0].height), GROUND[scheme])
    left = 0
    for shot in shots:
        whole.paste(shot, (left, 0))
        left += shot.width + gap
    whole.save(file, quality=80, method=6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--scheme", default="light", choices=("light", "dark"))
    args = parser.parse_args()
    asyncio.run(take(args.url, args.out, args.scheme))
