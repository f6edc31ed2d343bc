"""The same, small."""

from __future__ import annotations

from pathlib import Path

import pytest

from .commands import command_all
from .crash import kill_one
from .logins import TOLD, log_in_twice
from .running import running


@pytest.mark.long
async def test_every_command_at_every_process(backend: str, tmp_path: Path) -> None:
    async with running(tmp_path, backend, workers=3) as gateway:
        counts = await command_all(gateway, clients=6, connections=6)
        assert counts["kicks"] == 6
        counts = await log_in_twice(gateway, pairs=20)
        assert counts["one remains"] == counts[TOLD] == 20


@pytest.mark.long
async def test_a_killed_process_is_replaced_and_its_clients_are_told_once(
    backend: str, tmp_path: Path
) -> None:
    async with running(tmp_path, backend, workers=3) as gateway:
        seen = await kill_one(gateway, clients=12)
        assert seen.told_s
        assert not seen.told_twice
