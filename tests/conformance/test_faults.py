"""The kit finds planted faults of a client, and finds nothing in one that is whole."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gatesvr.conformance.python_client import READY

from ..conftest import BACKENDS
from .faults import FAULTS
from .in_process import CASES, play

if TYPE_CHECKING:
    from gatesvr.conformance.case import Case

WAYS = [("quic", backend) for backend in BACKENDS]
WAYS += [(way, "auto") for way in READY["transports"] if way != "quic"]
AT_DEADLINE = {"numbers-server-seq", "ack-bytes"}
"""Cases that find their fault by what does not come."""
QUICK = [name for name in FAULTS if not CASES[name].lasts and name not in AT_DEADLINE]
GROUPS = [list(FAULTS)[first::4] for first in range(4)]


@pytest.mark.parametrize("name", QUICK)
async def test_planted_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[name](monkeypatch.setattr)
    (verdict,) = await play(replace(CASES[name], deadline=60))
    assert verdict.outcome == "broken", FAULTS[name].__name__
    assert verdict.expected
    assert "nothing within" not in verdict.did
    assert verdict.transcript


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_is_whole_keeps_the_same_rules(way: tuple[str, str]) -> None:
    await keeps([CASES[name] for name in QUICK], *way)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
async def test_client_keeps_every_rule(way: tuple[str, str]) -> None:
    await keeps([c for c in CASES.values() if c.transport in ("", way[0])], *way)


async def keeps(cases: list[Case], transport: str, backend: str) -> None:
    verdicts = await play(*cases, transport=transport, backend=backend, slowness=4)
    assert [(v.case.name, v.expected, v.did) for v in verdicts if v.outcome != "kept"] == []


@pytest.mark.long
@pytest.mark.parametrize("names", GROUPS, ids=range(len(GROUPS)))
async def test_no_other_case_finds_the_faults(
    names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several faults at once break their own cases alone."""
    for name in names:
        FAULTS[name](monkeypatch.setattr)
    own = [
        replace(CASES[name], deadline=1.5) if name in AT_DEADLINE else CASES[name] for name in names
    ]
    others = [c for c in CASES.values() if not c.lasts and c.name not in names]
    verdicts = await play(*own, *others, slowness=4)
    assert [v.case.name for v in verdicts if v.outcome == "broken"] == names
