"""What systems other than Linux lack is done without."""

from __future__ import annotations

import os
import resource

import pytest

from gatesvr.bench import run
from gatesvr.config import DispatchConfig
from gatesvr.config.memory import ASSUMED_MEMORY_BYTES, memory_limit
from gatesvr.dispatch.processor import AsyncProcessor, usable_cpus
from gatesvr.errors import ConfigError


def test_a_system_that_binds_no_process_to_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus() == 3
    processor = AsyncProcessor(DispatchConfig(), None)  # type: ignore[arg-type]
    assert processor.start_workers % 3 == 0
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus() == 1


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert 0 < memory_limit() <= ASSUMED_MEMORY_BYTES


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_system_with_a_lower_limit_than_it_tells(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(which: int, both: tuple[int, int]) -> None:
        raise error("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(ConfigError, match="open files"):
        run.raise_file_limit(1000)
