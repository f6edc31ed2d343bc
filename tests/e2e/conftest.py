"""Gateways of these tests look often at what has expired."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _sweep_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.gateway.SWEEP_INTERVAL_S", 0.02)
