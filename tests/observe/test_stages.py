"""Stages: the names of their histograms, and the pauses of the garbage collector."""

from __future__ import annotations

import gc

from gatesvr._core.histogram import Histogram
from gatesvr.observe.stages import GcPauses, Stages


def test_histograms_are_named() -> None:
    stages = Stages()
    assert stages.upstream("chat") is stages.upstream("chat")
    stages.upstream("chat").record(1.0)
    stages.lag.record(1.0)
    counts = {name: snapshot.count for name, snapshot in stages.snapshot().items()}
    assert counts == {
        "queue_wait": 0,
        "upstream:chat": 1,
        "send": 0,
        "request": 0,
        "handshake": 0,
        "login": 0,
        "rtt": 0,
        "lag": 1,
        "gc_pause": 0,
    }


def test_each_collection_is_a_pause() -> None:
    pauses = Histogram()
    listener = GcPauses(pauses)
    listener.start()
    try:
        gc.collect()
        assert pauses.count >= 1
    finally:
        listener.stop()
        listener.stop()
    before = pauses.count
    gc.collect()
    assert pauses.count == before
