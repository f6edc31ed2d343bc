"""What GateSvr makes of grpcio."""

from __future__ import annotations

import gc
import threading

from gatesvr import grpcio


async def test_poller_thread_outlives_the_last_channel() -> None:
    """grpc.aio joins it in the event loop otherwise, and now and then for ever."""
    before = set(threading.enumerate())
    channel = grpcio.make_channel("127.0.0.1:1")
    pollers = [t for t in threading.enumerate() if "_poll_wrapper" in t.name]
    assert len(pollers) == 1
    await channel.close()
    del channel
    gc.collect()
    assert pollers[0].is_alive()
    assert set(threading.enumerate()) - before <= set(pollers)
