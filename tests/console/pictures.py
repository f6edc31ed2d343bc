"""Take the pictures of the console that the documentation shows, from a running gateway.

``python -m tests.console.pictures http://127.0.0.1:8090/ --out docs`` while it is under load.
"""

from __future__ import annotations

import argparse
import asyncio
import io
from pathlib import Path

from PIL import Image
from playwright.async_api import async_playwright

from .conftest import CHROMIUM, SIZES

SHOTS = (
    ("overview", "", "desktop"),
    ("overview", "", "phone"),
    ("sessions", "sessions?sort=rate", "desktop"),
    ("session", "sessions", "desktop"),
    ("session", "sessions", "phone"),
    ("upstreams", "upstreams", "desktop"),
    ("config", "config", "desktop"),
)


async def take(url: str, out: Path, settle_s: float, session: str) -> None:
    """Write ``console-VIEW-SIZE-SCHEME.webp`` of every shot into a folder."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for view, path, size in SHOTS:
                width, height = SIZES[size]
                context = await browser.new_context(
                    viewport={"width": width, "height": height},
                    device_scale_factor=1.5 if size == "desktop" else 2,
                    color_scheme=scheme,  # type: ignore[arg-type]
                )
                page = await context.new_page()
                await page.goto(f"{url}#/{path}")
                await page.wait_for_selector("#link-state.is-live")
                if view == "session":
                    if session:
                        await page.fill(".search", session)
                    await page.click(".row-link >> nth=0")
                    await page.wait_for_selector(".strip-cells .cell")
                    await page.keyboard.press("e")
                await asyncio.sleep(settle_s)
                picture = await page.screenshot(full_page=True)
                await context.close()
                path_out = out / f"console-{view}-{size}-{scheme}.webp"
                Image.open(io.BytesIO(picture)).save(path_out, quality=82, method=6)
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--settle", type=float, default=3.0, help="seconds on each page")
    parser.add_argument("--session", default="", help="openid of the session's page")
    args = parser.parse_args()
    asyncio.run(take(args.url, args.out, args.settle, args.session))
