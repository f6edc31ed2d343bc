"""The soak, short: real processes through the bad network, on both backends."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.process import ROOT, environment

from .js import missing_build

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 6
LONGEST_S = 300
DEADLINE_S = 600.0
MINIMA = {"requests": 1_000, "pushes": 1_000, "resumes": 20}


@pytest.mark.long
async def test_soak(backend: str, tmp_path: Path) -> None:
    await soak(backend, tmp_path, "--seconds", str(SECONDS), **MINIMA)


@pytest.mark.long
async def test_clients_of_every_kind(backend: str, tmp_path: Path) -> None:
    if why := missing_build():
        pytest.skip(why)
    size = ("--clients", "30", "--web", "10", "--js", "10", "--seconds", "5")
    minima = {"requests": 1_000, "pushes": 1_000, "resumes": 10, "each-resumes": 2}
    await soak(backend, tmp_path, *size, **minima)


@pytest.mark.long
async def test_sessions_that_move_between_processes_lose_nothing(
    backend: str, tmp_path: Path
) -> None:
    size = ("--clients", "30", "--processes", "3", "--rebind-s", "1", "--seconds", "8")
    minima = {"requests": 1_000, "pushes": 1_000, "resumes": 20, "moves": 20}
    await soak(backend, tmp_path, *size, **minima)


@pytest.mark.long
async def test_upgrades_lose_nothing(backend: str, tmp_path: Path) -> None:
    size = ("--clients", "30", "--processes", "2", "--upgrade-s", "0.2", "--calm")
    pace = ("--workers", "2", "--pause-s", "2", "--seconds", "8")
    minima = {"requests": 500, "pushes": 500, "resumes": 30, "moves": 30, "upgrades": 2}
    await soak(backend, tmp_path, *size, *pace, **minima)


@pytest.mark.long
async def test_tokens_that_expire_one_after_another_lose_nothing(
    backend: str, tmp_path: Path
) -> None:
    size = ("--clients", "60", "--workers", "1", "--pause-s", "1", "--token-s", "8")
    minima = {"requests": 1_000, "pushes": 1_000, "resumes": 30, "renewals": 60}
    await soak(backend, tmp_path, *size, "--seconds", "20", **minima)


async def soak(backend: str, folder: Path, *options: str, **minima: int) -> None:
    """Run a soak, which must find nothing."""
    least = [part for name, value in minima.items() for part in (f"--min-{name}", str(value))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak", "--backend", backend, "--json"),
        *("--longest-s", str(LONGEST_S), *least, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(folder),
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
