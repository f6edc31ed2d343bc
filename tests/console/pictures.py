"""Take the pictures of the console that the documentation shows, from a gateway under load.

``python -m tests.console.pictures http://127.0.0.1:8090/ --out docs``
"""

from __future__ import annotations

import argparse
import asyncio
import io
from pathlib import Path

from PIL import Image
from playwright.async_api import async_playwright

from .conftest import CHROMIUM

SIZES = {"desktop": (1440, 1240, 1.25), "phone": (390, 844, 2.0)}
"""Width, height and pixels a point."""
LIMIT = 500


async def take(url: str, out: Path, settle_s: float) -> None:
    """Write ``console-VIEW-SIZE-SCHEME.webp`` of the overview and of the busiest session."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for size, (width, height, scale) in SIZES.items():
                context = await browser.new_context(
                    viewport={"width": width, "height": height},
                    device_scale_factor=scale,
                    color_scheme=scheme,  # type: ignore[arg-type]
                )
                page = await context.new_page()
                answer = await page.request.get(f"{url}api/v1/sessions?limit={LIMIT}")
                sessions = (await answer.json())["sessions"]
                busiest = max(sessions, key=lambda session: session["in_flight"])
                for view, path in (("overview", ""), ("session", f"sessions/{busiest['session']}")):
                    await page.goto(f"{url}#/{path}")
                    await page.wait_for_selector("#link-state.is-live")
                    if view == "session":
                        await page.wait_for_selector(".strip-cells .cell")
                        await page.keyboard.press("e")
                    await asyncio.sleep(settle_s)
                    picture = await page.screenshot()
                    if view == "session":
                        await page.keyboard.press("e")
                    name = f"console-{view}-{size}-{scheme}.webp"
                    Image.open(io.BytesIO(picture)).save(out / name, quality=80, method=6)
                await context.close()
        await browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--settle", type=float, default=3.0, help="seconds on each page")
    args = parser.parse_args()
    asyncio.run(take(args.url, args.out, args.settle))
