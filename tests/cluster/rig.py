"""Several processes of one gateway in one: real engines and nodes, one directory, peers in memory.

Time passes by itself when nothing else is to do (run()), so that no test waits. What goes between
the nodes, and between them and the directory, a test loses, holds, repeats or cuts off by Wire.
"""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from gatesvr._pb import message_pb2 as message_pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.cluster.directory import DirectoryUnreachableError, MemoryDirectory
from gatesvr.cluster.node import Node
from gatesvr.cluster.peers import PeerUnreachableError
from gatesvr.config import Config, RouteRule, SessionConfig
from gatesvr.engine import Engine

from ..dispatch.fakes import settle
from ..dispatch.rig import Client, Upstream, business, start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping

    from gatesvr.cluster.calls import Call
    from gatesvr.session.session import Session

__all__ = ["Cluster", "Process", "TravelLoop", "Wire", "travelling"]

LEASE = 6.0
T = TypeVar("T")


class TravelLoop(asyncio.SelectorEventLoop):
    """A loop whose time goes on to the next timer as soon as nothing is ready."""

    def __init__(self) -> None:
        self._travelled = 1_000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._travelled

    def travel(self, seconds: float) -> None:
        self._travelled += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: TravelLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if timeout is None:
            raise RuntimeError("nothing is to happen any more")
        if not found and timeout > 0:
            # A little more, so that rounding cannot leave the timer undone.
            self._loop.travel(timeout + math.ulp(self._loop.time()))
        return found


def travelling(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine that runs in a loop whose time passes by itself."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=TravelLoop) as runner:
            runner.run(test(*args, **kwargs))

    return run


@dataclass(eq=False)
class Fault:
    """What becomes of the next calls of a name.

    Attributes:
        name: The call's; of the directory, the method's.
        kind: ``lose`` the question, ``deaf`` lose the answer, ``break`` lose it and know that at
            once, ``repeat``, or ``hold`` until release().
        source: The caller, empty for any.
        left: How many calls.
        behind: How many go through before.
    """

    name: str
    kind: str
    source: str = ""
    left: int = 1
    behind: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    seen: int = 0

    def release(self) -> None:
        """Let what is held go on; what comes later is not held."""
        self.left = 0
        self.gate.set()


class Wire:
    """All that goes between the processes: counts it, and does what a test has ordered."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self._cut: set[frozenset[str]] = set()

    def order(
        self, name: str, kind: str, source: str = "", *, times: int = 1, behind: int = 0
    ) -> Fault:
        """Order a fault; see Fault."""
        fault = Fault(name, kind, source, times, behind)
        self.faults.append(fault)
        return fault

    def cut(self, one: str, other: str = "directory") -> None:
        """Let nothing pass between two nodes, or a node and the directory."""
        self._cut.add(frozenset((one, other)))

    def mend(self, one: str, other: str = "directory") -> None:
        """End cut()."""
        self._cut.discard(frozenset((one, other)))

    def is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cut

    def fault(self, name: str, source: str) -> Fault | None:
        """Return what is to become of a call, and count it."""
        self.counts[name] += 1
        for fault in self.faults:
            if fault.name == name and fault.source in ("", source) and fault.left:
                if fault.behind:
                    fault.behind -= 1
                    continue
                fault.left -= 1
                fault.seen += 1
                return fault
        return None


class MemoryPeers:
    """The Peers of one node: the others' handlers, called by way of the Wire."""

    def __init__(self, cluster: Cluster, node_id: str) -> None:
        self._cluster = cluster
        self._node_id = node_id
        self._tasks: set[asyncio.Task[Any]] = set()

    async def call(self, node_id: str, call: Call[Any, Any], request: Any, within: float) -> Any:
        until = asyncio.get_running_loop().time() + within
        try:
            async with asyncio.timeout_at(until):
                return await self._call(node_id, call, request, until)
        except TimeoutError:
            raise PeerUnreachableError(f"{call.name}: no answer in time") from None

    async def _call(self, node_id: str, call: Call[Any, Any], request: Any, until: float) -> Any:
        wire = self._cluster.wire
        data = request.SerializeToString()
        fault = wire.fault(call.name, self._node_id)
        kind = fault.kind if fault is not None else ""
        if kind == "lose" or wire.is_cut(self._node_id, node_id):
            await asyncio.Event().wait()
        if fault is not None and kind == "hold":
            # As of a wire that is slow: it goes on although nobody waits for it any longer.
            return await self._cluster.later(self._held(fault, node_id, call, data, until))
        answer = await self._answer(node_id, call, data, until)
        if kind == "repeat":
            await self._answer(node_id, call, data, until)
        if kind == "break":
            raise PeerUnreachableError(f"{node_id} broke off")
        if kind == "deaf" or wire.is_cut(self._node_id, node_id):
            await asyncio.Event().wait()
        return call.answer.FromString(answer)

    async def _held(
        self, fault: Fault, node_id: str, call: Call[Any, Any], data: bytes, until: float
    ) -> Any:
        await fault.gate.wait()
        return call.answer.FromString(await self._answer(node_id, call, data, until))

    async def _answer(self, node_id: str, call: Call[Any, Any], data: bytes, until: float) -> bytes:
        process = self._cluster.processes.get(node_id)
        if process is None or not process.is_alive:
            raise PeerUnreachableError(f"{node_id} is not there")
        await asyncio.sleep(0)
        answer = process.node.handlers()[call](call.request.FromString(data), until)
        if asyncio.iscoroutine(answer):
            answer = await answer
        return answer.SerializeToString()

    def tell(self, node_id: str, call: Call[Any, Any], request: Any) -> None:
        task = asyncio.ensure_future(self._tell(node_id, call, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, node_id: str, call: Call[Any, Any], request: Any) -> None:
        try:
            await self.call(node_id, call, request, 1.0)
        except PeerUnreachableError:
            return

    async def stop(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RemoteDirectory:
    """The directory as one node reaches it, by way of the Wire."""

    def __init__(self, cluster: Cluster, node_id: str) -> None:
        self._cluster = cluster
        self._node_id = node_id

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._cluster.directory, name)

        async def ask(*args: Any, **kwargs: Any) -> Any:
            wire = self._cluster.wire
            fault = wire.fault(name, self._node_id)
            kind = fault.kind if fault is not None else ""
            if kind == "lose" or wire.is_cut(self._node_id, "directory"):
                raise DirectoryUnreachableError(name)
            if fault is not None and kind == "hold":
                # It arrives although nobody waits for it any longer.
                return await self._cluster.later(self._held(fault, method, *args, **kwargs))
            answer = await method(*args, **kwargs)
            if kind == "repeat":
                answer = await method(*args, **kwargs)
            if kind == "deaf":
                raise DirectoryUnreachableError(name)
            return answer

        return ask

    async def _held(self, fault: Fault, method: Any, *args: Any, **kwargs: Any) -> Any:
        await fault.gate.wait()
        return await method(*args, **kwargs)


ROUTES = [
    RouteRule(action="hello", service="hello"),
    RouteRule(action="single", service="zone", serial=True),
    RouteRule(action="ordered", service="zone", order="request"),
    RouteRule(action="*", service="zone"),
]


class Process:
    """One process: an Engine, its Node, and upstreams by hand. Serves as the rig of a Client."""

    def __init__(self, cluster: Cluster, node_id: str, config: Config) -> None:
        self.name = node_id
        self.is_alive = True
        self.upstream = Upstream()
        upstream: Any = self.upstream
        upstream.registry = None
        self.clock = asyncio.get_running_loop().time
        self.engine = Engine(config, upstream, clock=self.clock, wall_clock=self.clock)
        self.sessions = self.engine.session_manager
        self.dispatcher = self.engine.dispatcher
        self.processor = self.engine.processor
        self.counters = self.processor.counters
        self.peers = MemoryPeers(cluster, node_id)
        directory: Any = RemoteDirectory(cluster, node_id)
        session = config.session
        self.node = Node(
            node_id,
            self.engine,
            directory,
            self.peers,
            address=f"memory:{node_id}",
            lease=LEASE,
            on_duplicate=session.on_duplicate,
            max_logged_in=session.max_logged_in,
        )

    @property
    def now(self) -> float:
        return self.clock()

    @property
    def moves(self) -> Mapping[str, int]:
        """The node's counters."""
        return self.node.counters.snapshot()

    def session(self, session_id: str) -> Session | None:
        return self.sessions.by_id(session_id)

    def client(self) -> Client:
        rig: Any = self
        return Client(rig)

    async def log_in(self, openid: str = "alice", **fields: Any) -> tuple[Client, Session, bytes]:
        """Return a client that has logged in here, its session, and the token to resume it with."""
        client = self.client()
        response = await client.start(openid, **fields)
        assert response.success, response
        await client.send(business(1, "hello"))
        self.upstream.answer(1, headers={"zone": "1"})
        await client.run()
        session = self.session(response.session_id)
        assert session is not None
        assert session.is_logged_in
        return client, session, response.resume_token

    async def resume(
        self, session: Session, token: bytes, last_acked: int = 0, **fields: Any
    ) -> tuple[Client, message_pb.StartResponse, list[Any]]:
        """Resume a session here; return the client, START_RESP, and what came behind it."""
        client = self.client()
        pushes = await client.send(resuming(session.session_id, token, last_acked, **fields))
        assert pushes[0].type == message_pb.PUSH_START_RESP
        return client, message_pb.StartResponse.FromString(pushes[0].payload), pushes[1:]

    async def push(self, session_id: str, content: str = "", **fields: Any) -> str:
        """Push to a session by its id, by way of this process; return the error_code."""
        request = up.UnicastPushRequest(
            target_type="session", target_id=session_id, content=content, **fields
        )
        response = await self.node.push(session_id, request)
        assert response.success == (not response.error_code)
        return response.error_code

    async def start(self) -> None:
        self.processor.start()
        await self.node.start()

    async def stop(self) -> None:
        await self.node.stop()
        await self.peers.stop()
        await self.processor.stop()

    async def die(self) -> None:
        """End as by kill -9: nobody hears of it."""
        self.is_alive = False
        loop = self.node._loop
        if loop is not None:
            loop.cancel()
        self.node._leaving.stop()
        await self.node._tasks.stop()
        await self.peers.stop()


class Cluster:
    """Processes ``a``, ``b``, … over one directory; an async context."""

    def __init__(self, nodes: str = "ab", **session: Any) -> None:
        self.config = Config(session=SessionConfig(**session), route=ROUTES)
        self.wire = Wire()
        self.directory = MemoryDirectory(lease=LEASE)
        self._nodes = nodes
        self._held: set[asyncio.Task[Any]] = set()
        self.processes: dict[str, Process] = {}

    def __getattr__(self, name: str) -> Process:
        try:
            return self.processes[name]
        except KeyError:
            raise AttributeError(name) from None

    def __iter__(self) -> Iterator[Process]:
        return iter(self.processes.values())

    @property
    def entries(self) -> Any:
        return self.directory.entries

    def entry(self, session_id: str) -> Any:
        return self.entries.read(session_id, asyncio.get_running_loop().time())

    def owner(self, session_id: str) -> str:
        """Return the owner of a session by the directory, empty for none."""
        return getattr(self.entry(session_id), "owner", "")

    async def later(self, held: Coroutine[Any, Any, Any]) -> Any:
        """Wait for what is held; it goes on without its caller."""
        task = asyncio.ensure_future(held)
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        return await asyncio.shield(task)

    async def boot(self, node_id: str) -> Process:
        process = self.processes[node_id] = Process(self, node_id, self.config)
        await process.start()
        return process

    async def __aenter__(self) -> Self:
        for node_id in self._nodes:
            await self.boot(node_id)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in self:
            if process.is_alive:
                self.wire.mend(process.name)
                await process.stop()
            else:
                await process.processor.stop()
        for task in self._held:
            task.cancel()
        await asyncio.gather(*self._held, return_exceptions=True)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, with the sweeps of each second."""
        for _ in range(math.ceil(seconds)):
            await asyncio.sleep(min(1.0, seconds))
            for process in self:
                if process.is_alive:
                    process.engine.sweep()
        await settle(20)


def resuming(
    session_id: str, token: bytes, last_acked: int = 0, **fields: Any
) -> message_pb.ClientRequest:
    """Return a START that resumes a session."""
    return start(
        "", session_id=session_id, resume_token=token, last_acked_seq_id=last_acked, **fields
    )
