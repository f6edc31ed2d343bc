"""Admin servers of these tests sample often."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _sample_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.figures.INTERVAL_S", 0.05)
    monkeypatch.setattr("gatesvr.admin.streams.SESSION_S", 0.05)
