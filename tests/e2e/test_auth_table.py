"""Every way in which a client does not get in: what it sees, and what the gateway counts."""

from __future__ import annotations

import pytest

from gatesvr.auth import keys

from ..auth.cases import CASES, run_cases


@pytest.mark.parametrize("mode", CASES)
async def test_table(mode: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "FETCH_TIMEOUT_S", 0.2)
    sets = ("auth.min_refusal_time=1ms", "auth.timeout=500ms")
    rows = [row async for row in run_cases(mode, backend, *sets)]
    assert [(row.case.name, row.sees, row.counts) for row in rows] == [
        (case.name, case.sees, case.counts) for case in CASES[mode]
    ]
