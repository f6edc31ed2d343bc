"""What lies between the processes, and between each of them and the directory.

Calls get lost before they have an effect or behind it, come late, come twice, overtake each other.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from gatesvr.cluster.directory import DirectoryUnreachableError, MemoryDirectory
from gatesvr.cluster.peers import PeerUnreachableError

if TYPE_CHECKING:
    from .process import Process
    from .world import ProcessesWorld

SLOW_CALLS = (
    "Take",
    "Taken",
    "Give",
    "Push",
    "Forward",
    "Life",
    "create",
    "move",
    "remove",
    "login",
    "bury",
    "find",
    "renew",
)
DIRECTORY_TIMEOUT_S = 1.0


class Wire:
    """Carries calls; how badly, the history draws.

    Attributes:
        cuts: Pairs of node ids that do not reach each other; the directory is the empty one.
        is_directory_down: Nobody reaches the directory.
        under_way: Calls that were made, and what still flies of each.
    """

    def __init__(self, world: ProcessesWorld) -> None:
        draw = world.random.choice
        self.world = world
        self.loss = draw((0.0, 0.02, 0.06, 0.15))
        self.repeats = draw((0.0, 0.05, 0.2))
        self.slowness = draw((0.0, 0.05, 0.15))
        self.slow_call = draw(
            (
                "",
                "",
                "Take",
                "Taken",
                "Give",
                "Push",
                "Forward",
                "create",
                "move",
                "remove",
                "login",
            )
        )
        self.pace = draw((0.002, 0.01, 0.05))
        self.cuts: set[frozenset[str]] = set()
        self.is_directory_down = False
        self.under_way = 0

    def calm(self) -> None:
        """Do no more harm."""
        self.loss = self.repeats = self.slowness = 0.0
        self.slow_call = ""
        self.pace = 0.002
        self.cuts.clear()
        self.is_directory_down = False

    def is_cut(self, one: str, other: str) -> bool:
        if self.is_directory_down and not (one and other):
            return True
        return bool(self.cuts) and frozenset((one, other)) in self.cuts

    def delay(self, name: str) -> float:
        """Return how long a message travels."""
        random = self.world.random.random
        if self.slow_call and name.startswith(self.slow_call) and random() < 0.7:
            return random() * 4.0
        if self.slowness and random() < self.slowness:
            return random() * random() * 5.0
        return random() * self.pace

    def carry(
        self,
        sender: Process,
        receiver: Process | None,
        name: str,
        serve: Callable[[], Any],
        within: float,
        unreachable: Callable[[], Exception],
        *,
        is_hint: bool = False,
    ) -> asyncio.Future[Any]:
        """Carry a call, and return what there will be of its answer.

        Args:
            sender: Who calls.
            receiver: Who is called; None is the directory, or a process that there never was.
            name: The call's.
            serve: Does it, once for each time that it arrives.
            within: Seconds until the caller gives up.
            unreachable: Makes what the caller gets then.
            is_hint: Whether nobody waits for the answer.
        """
        loop = self.world.loop
        future: asyncio.Future[Any] = loop.create_future()
        if sender.is_dead:
            return future  # nobody is there any more to wait
        random = self.world.random.random
        counts = self.world.counts
        times = 1
        if self.repeats and random() < self.repeats:
            times = 2
            counts["calls_repeated"] += 1
        for _ in range(times):
            if self.loss and random() < self.loss:
                counts["calls_lost"] += 1
                continue
            self.under_way += 1
            loop.call_later(
                self.delay(name), self._arrive, sender, receiver, name, serve, future, is_hint
            )
        if not is_hint:
            handle = loop.call_later(within, self._give_up, future, unreachable)
            future.add_done_callback(lambda _: handle.cancel())
        return future

    def no_one(self, within: float) -> asyncio.Future[Any]:
        """Return what comes of a call to a process that is not there; of a hint, nothing."""
        future: asyncio.Future[Any] = self.world.loop.create_future()
        if within:
            self.world.loop.call_later(within, self._give_up, future, PeerUnreachableError)
        return future

    def _give_up(self, future: asyncio.Future[Any], unreachable: Callable[[], Exception]) -> None:
        if not future.done():
            self.world.counts["calls_unanswered"] += 1
            future.set_exception(unreachable())

    def _arrive(
        self,
        sender: Process,
        receiver: Process | None,
        name: str,
        serve: Callable[[], Any],
        future: asyncio.Future[Any],
        is_hint: bool,
    ) -> None:
        self.under_way -= 1
        to = receiver.node_id if receiver is not None else ""
        if self.is_cut(sender.node_id, to) or (receiver is not None and receiver.is_dead):
            return
        if future.done():
            self.world.counts["calls_late"] += 1
        result = serve()
        if is_hint:
            if inspect.isawaitable(result):
                self.world.watch(result)
            return
        if not inspect.isawaitable(result):
            self._answer(sender, receiver, name, future, result)
            return
        task = self.world.watch(result)
        task.add_done_callback(partial(self._served, sender, receiver, name, future))

    def _served(
        self,
        sender: Process,
        receiver: Process | None,
        name: str,
        future: asyncio.Future[Any],
        task: asyncio.Task[Any],
    ) -> None:
        if not task.cancelled() and task.exception() is None:
            self._answer(sender, receiver, name, future, task.result())

    def _answer(
        self,
        sender: Process,
        receiver: Process | None,
        name: str,
        future: asyncio.Future[Any],
        result: Any,
    ) -> None:
        if self.loss and self.world.random.random() < self.loss:
            self.world.counts["answers_lost"] += 1
            return
        self.under_way += 1
        self.world.loop.call_later(self.delay(name), self._return, sender, receiver, future, result)

    def _return(
        self,
        sender: Process,
        receiver: Process | None,
        future: asyncio.Future[Any],
        result: Any,
    ) -> None:
        self.under_way -= 1
        to = receiver.node_id if receiver is not None else ""
        if sender.is_dead or future.done() or self.is_cut(sender.node_id, to):
            return
        future.set_result(result)


class FarDirectory:
    """The directory as a process reaches it: each call of MemoryDirectory's, over the wire."""

    def __init__(self, wire: Wire, process: Process, directory: MemoryDirectory) -> None:
        self._wire = wire
        self._process = process
        self._directory = directory

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._directory, name)
        wire, process = self._wire, self._process

        async def ask(*args: Any, **kwargs: Any) -> Any:
            world = wire.world

            def serve() -> Any:
                world.asker = process.node_id
                result = at_once(method(*args, **kwargs))
                if world.is_verbose and name not in ("renew", "nodes", "is_leased"):
                    world.note("  directory: %s %s%s = %s", process, name, args, result)
                return result

            return await wire.carry(
                process, None, name, serve, DIRECTORY_TIMEOUT_S, DirectoryUnreachableError
            )

        ask.__name__ = name
        return ask


class FarPeers:
    """The siblings as a process reaches them."""

    def __init__(self, wire: Wire, process: Process) -> None:
        self._wire = wire
        self._process = process

    async def call(self, node_id: str, call: Any, request: Any, within: float) -> Any:
        """See Peers."""
        answer = await self._carry(node_id, call, request, within, is_hint=False)
        return call.answer.FromString(answer)

    def tell(self, node_id: str, call: Any, request: Any) -> None:
        """See Peers."""
        self._carry(node_id, call, request, 1.0, is_hint=True)

    def _carry(
        self, node_id: str, call: Any, request: Any, within: float, *, is_hint: bool
    ) -> asyncio.Future[Any]:
        wire, process = self._wire, self._process
        world = wire.world
        world.counts[f"call_{call.name}"] += 1
        receiver = world.process_of(node_id)
        data = request.SerializeToString()
        until = world.now + within

        def serve() -> Any:
            assert receiver is not None
            world.note("  %s asks %s: %s", process, receiver, call.name)
            result = receiver.handlers[call](call.request.FromString(data), until)
            if inspect.isawaitable(result):
                return _serialized(result)
            return result.SerializeToString()

        if receiver is None or (receiver.is_dead and world.random.random() < 0.5):
            # Who is gone is not known any more, or its stream breaks at once.
            return wire.no_one(0.0 if is_hint else world.random.random() * min(within, 0.05))
        return wire.carry(
            process, receiver, call.name, serve, within, PeerUnreachableError, is_hint=is_hint
        )


async def _serialized(result: Any) -> bytes:
    data: bytes = (await result).SerializeToString()
    return data


def at_once(coroutine: Any) -> Any:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")
