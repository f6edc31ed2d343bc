"""A worker's process, started by a supervisor that has calls under way."""

from __future__ import annotations

import asyncio
import tempfile

import pytest
import uvloop

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.cluster.calls import LIFE
from gatesvr.cluster.peer_link import PeerLinks
from gatesvr.config import Config
from gatesvr.workers.assignment import Assignment
from gatesvr.workers.process import WorkerProcess

STARTS = 400


async def start_many(folder: str) -> list[int]:
    here, there = PeerLinks("a"), PeerLinks("b")
    answer = pb.LifeAnswer(has_copy=True)
    await there.serve(f"{folder}/b", {LIFE: lambda request, deadline: answer})
    here.add("b", f"{folder}/b")

    async def ask_on() -> None:
        while True:
            await here.call("b", LIFE, pb.LifeRequest(session_id="s"), 30)

    asking = [asyncio.create_task(ask_on()) for _ in range(8)]
    assignment = Assignment(
        number=0,
        slots=1,
        node_id="n",
        config=Config(),
        folder=folder,
        key=b"",
        secret=b"",
        sockets={},
        loop="uvloop",
    )
    codes = [await WorkerProcess(assignment, 0.0).run(["/bin/true"], (), 30) for _ in range(STARTS)]
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    await here.close()
    await there.close()
    return codes


@pytest.mark.long
def test_a_busy_supervisor_starts_every_worker() -> None:
    """A fork of a process with threads of gRPC's dies at times before it is another program."""
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        codes = uvloop.run(start_many(folder))
    assert codes == [0] * STARTS
