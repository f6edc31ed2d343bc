"""``python -m bench.peers``: what calls between the processes of a gateway cost, in CPU time.

Two processes, each side's CPU by itself: pushes to an owner, alone and many at a time, over the
links as they are; beside them the same frames over a bare unix stream, each batch behind its
length, which is what the links would cost without gRPC. And renewals of a worker's sessions at the
hub: all of them named, and by what has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import struct
import subprocess
import sys
import tempfile
import time
from statistics import median
from typing import TYPE_CHECKING, cast

import uvloop

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.cluster.calls import PUSH
from gatesvr.cluster.entries import Entries
from gatesvr.cluster.frames import FrameQueue, FrameReader, Outgoing
from gatesvr.cluster.hub import HUB, HubDirectory, HubServer
from gatesvr.cluster.peer_link import PeerLinks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LENGTH = struct.Struct("<I")
WITHIN_S = 10.0
CALLS = {1: 1_000, 8: 250, 64: 60, 512: 10}
"""Rounds for each number of calls at a time."""
SESSIONS = 10_000
RENEWALS = 10
ANSWER = pb.OwnedPushAnswer(result=pb.OWNER_DONE)


class Bare(asyncio.Protocol):
    """A bare stream of batches, for either side."""

    def __init__(self, serves: bool) -> None:
        self._serves = serves
        self._loop = asyncio.get_running_loop()
        self._queue, self._reader = FrameQueue(), FrameReader()
        self._data = bytearray()
        self._calls = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        begin = 0
        while len(self._data) >= begin + 4:
            end = begin + 4 + LENGTH.unpack_from(self._data, begin)[0]
            if len(self._data) < end:
                break
            for frame in self._reader.receive(bytes(self._data[begin + 4 : end]), 1):
                if self._serves:
                    pb.OwnedPushRequest.FromString(frame.body)
                    self._put(Outgoing(frame.call, ANSWER.SerializeToString()))
                else:
                    self._waiting.pop(frame.call).set_result(frame.body)
            begin = end
        del self._data[:begin]

    async def push(self, request: pb.OwnedPushRequest) -> pb.OwnedPushAnswer:
        call = next(self._calls)
        future = self._waiting[call] = self._loop.create_future()
        self._put(Outgoing(call, request.SerializeToString(), PUSH.name, deadline=1e9))
        timer = self._loop.call_later(WITHIN_S, future.cancel)
        try:
            return pb.OwnedPushAnswer.FromString(await future)
        finally:
            timer.cancel()

    def _put(self, frame: Outgoing) -> None:
        if not self._queue:
            self._loop.call_soon(self._write)
        self._queue.put(frame)

    def _write(self) -> None:
        while batch := self._queue.next_batch(0.0, 1):
            self._transport.write(LENGTH.pack(len(batch)) + batch)


async def serve(path: str) -> None:
    """Serve both ways, and the hub; print the CPU time at each line that comes in."""
    links = PeerLinks(HUB)
    loop = asyncio.get_running_loop()
    entries = Entries(lease=60, resume_window=60, max_tombstones=1, now=loop.time())
    await links.serve(f"{path}/links", {PUSH: lambda *_: ANSWER, **HubServer(entries).handlers()})
    await loop.create_unix_server(lambda: Bare(serves=True), f"{path}/bare")
    print(flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(time.process_time_ns(), flush=True)
    await links.close()


class Server:
    """The other process."""

    def __init__(self, path: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers", "--serve", path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout
        self._process.stdout.readline()

    def cpu(self) -> int:
        """Return its CPU time so far, ns."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


async def cost(server: Server, rounds: int, each: Callable[[], Awaitable[object]]) -> list[float]:
    """Return the µs of CPU that a round costs its caller and its server, and the µs it lasts."""
    began, caller, served = time.perf_counter_ns(), time.process_time_ns(), server.cpu()
    for _ in range(rounds):
        await each()
    ended = time.perf_counter_ns() - began, time.process_time_ns() - caller, server.cpu() - served
    lasted, called, answered = (ns / 1_000 / rounds for ns in ended)
    return [called, answered, lasted]


async def measure(runs: int) -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="gs-") as path:
        server = Server(path)
        links = PeerLinks("bench")
        links.add(HUB, f"{path}/links")
        _, bare = await asyncio.get_running_loop().create_unix_connection(
            lambda: Bare(serves=False), f"{path}/bare"
        )
        request = pb.OwnedPushRequest(session_id="s" * 32)
        request.push.data = bytes(200)
        ways: dict[str, Callable[[], Awaitable[object]]] = {
            "gRPC": lambda: links.call(HUB, PUSH, request, WITHIN_S),
            "bare": lambda: bare.push(request),
        }
        print("at a time   way   µs caller   µs server   µs both   µs until answered")
        for calls, rounds in CALLS.items():
            results: dict[str, list[list[float]]] = {way: [] for way in ways}
            for _ in range(runs):
                for way, push in ways.items():

                    async def each(
                        push: Callable[[], Awaitable[object]] = push, calls: int = calls
                    ) -> None:
                        await asyncio.gather(*(push() for _ in range(calls)))

                    await each()
                    results[way].append(await cost(server, rounds, each))
            for way, costs in results.items():
                called, answered, lasted = (median(column) for column in zip(*costs, strict=True))
                called, answered = called / calls, answered / calls
                print(
                    f"{calls:9} {way:>5} {called:11.1f} {answered:11.1f}"
                    f" {called + answered:9.1f} {lasted:19.0f}"
                )
        await renewals(server, HubDirectory(links, within=WITHIN_S))
        await links.close()
        server.stop()


async def renewals(server: Server, directory: HubDirectory) -> None:
    """Print what renewals cost."""
    await directory.join("bench", "unix:bench")
    held = {}
    for number in range(SESSIONS):
        entry = await directory.create(f"{number:032x}", "bench", "user")
        assert entry is not None
        held[entry.session_id] = entry.epoch

    async def all_named() -> None:
        directory._base, directory._named = 0, {}
        await directory.renew("bench", held)

    async def unchanged() -> None:
        await directory.renew("bench", held)

    print(f"\nrenewal of {SESSIONS:,} sessions   µs worker   µs hub")
    for name, each in (("all named", all_named), ("unchanged", unchanged)):
        called, answered, _ = await cost(server, RENEWALS, each)
        print(f"{name:26} {called:11.0f} {answered:8.0f}")


def main() -> None:
    """Print what it measures."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--serve", metavar="PATH", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=5, help="of each, interleaved; medians count")
    args = parser.parse_args()
    uvloop.run(serve(args.serve) if args.serve else measure(args.runs))


if __name__ == "__main__":
    main()
