"""The soak, short: real processes through the bad network, on both backends."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.process import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 10
LONGEST_S = 300
DEADLINE_S = 600.0
MINIMA = {"requests": 1_000, "pushes": 1_000, "resumes": 20}


@pytest.mark.long
async def test_soak(backend: str, tmp_path: Path) -> None:
    minima = [part for name, least in MINIMA.items() for part in (f"--min-{name}", str(least))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak", "--backend", backend, "--json"),
        *("--seconds", str(SECONDS), "--longest-s", str(LONGEST_S), *minima),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(tmp_path),
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert err == b""
    (verdict,) = json.loads(out)
    assert verdict["findings"] == []
    assert "nothing" not in verdict["controls"].values()
    assert process.returncode == 0
