"""The upstreams' process: the services behind the gateway, and the pusher."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

from gatesvr.errors import UpstreamError
from gatesvr.service.gateway_client import GatewayClient
from gatesvr.service.push_api import Push
from gatesvr.service.request import Reply, Request
from gatesvr.service.results import PushResult
from gatesvr.service.service import UpstreamService

from .child import Commands, Watch
from .history import History
from .plan import ACTIONS, PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.service.request import Result

    from .plan import Plan

__all__ = ["serve_upstream"]

MAX_STREAM_BATCH = 8
REFUSED = Reply(503, "not started", is_refused=True)


async def serve_upstream(pipe: Pipe, plan: Plan) -> None:
    """Serve until the parent says stop.

    Says the services' addresses; is told the gateway's for pushes; on ``begin`` pushes begin, on
    ``calm`` they end; says each session's last server seq at ``sessions``, and what happened at
    ``stop``.
    """
    commands = Commands(pipe)
    history = History()
    Watch(history)
    services = Services(plan, history)
    pipe.send(await services.serve())
    services.gateway_address = await commands.next()
    await commands.expect("begin")
    pusher = Pusher(plan, history, services)
    tasks = [asyncio.ensure_future(task) for task in pusher.tasks()]
    await commands.expect("calm")
    pusher.is_calm = True
    await asyncio.gather(*tasks)
    pipe.send("calm")
    await commands.expect("sessions")
    pipe.send(await services.last_seqs())
    await commands.expect("stop")
    await services.stop()
    pipe.send((history.calls, dict(services.counts + pusher.counts)))


class Services:
    """The services: zone and hello with one endpoint each, business with two.

    Attributes:
        gateway_address: For pushes, once it is known.
        sessions: Session ids by openid.
        counts: What was done.
    """

    def __init__(self, plan: Plan, history: History) -> None:
        self.gateway_address = ""
        self.sessions: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.gateway = GatewayClient(lambda: self.gateway_address, timeout=PATIENCE_S / 2)
        self._history = history
        self._random = random.Random(f"{plan.seed}/upstream")
        self._names = count(1)
        self._refused: set[tuple[str, int]] = set()
        self._serial: set[str] = set()  # sessions with a serial request under way
        self._served: list[tuple[str, UpstreamService]] = []
        for name in ("hello", "zone", "business", "business"):
            service = UpstreamService(name)
            service.action("*")(self.handle)
            self._served.append((name, service))

    async def serve(self) -> list[tuple[str, str]]:
        """Return (service, address) of every endpoint."""
        return [(name, await service.serve()) for name, service in self._served]

    async def stop(self) -> None:
        """Stop the services."""
        await self.gateway.close()
        for _, service in self._served:
            await service.stop()

    async def last_seqs(self) -> dict[str, int]:
        """Return the highest server seq given out, by session."""
        found = {}
        for session_id in self.sessions.values():
            info = await self.gateway.get_session(session_id, target_type="session")
            if info is None:
                self._history.tell("broken", session_id, "the gateway does not know it any more")
            else:
                found[session_id] = info.last_sent_seq
        return found

    def new_name(self, kind: str) -> str:
        """Return a name that no other notify has."""
        return f"{kind}{next(self._names)}"

    # Handlers.

    def handle(self, request: Request) -> Result | Awaitable[Result]:
        """Run a request: at once, or in a task where there is something to wait for."""
        name = request.data.decode()
        action = request.action
        key = (request.session_id, request.client_seq_id)
        lane = "hello" if action == "hello" else ACTIONS[action].lane
        self._history.tell("executed", *key, name, lane)
        self.counts[f"executed_{action}"] += 1
        if action == "hello":
            self.sessions[request.openid] = request.session_id
        elif action == "refused" or (action == "refused_once" and key not in self._refused):
            self._refused.add(key)
            self._history.tell("refused", *key, name)
            return REFUSED
        elif action == "carried":
            self._carry(request)
        elif action == "bound":
            return self._bind(request)
        elif ACTIONS[action].max_wait_s:
            if action == "serial":
                if request.session_id in self._serial:
                    self._history.tell("broken", request.session_id, f"{name} beside another")
                self._serial.add(request.session_id)
            return self._wait(request, ACTIONS[action].max_wait_s)
        return request.data

    async def _wait(self, request: Request, max_wait_s: float) -> bytes:
        await asyncio.sleep(self._random.uniform(0.0, max_wait_s))
        if request.action == "serial":
            self._serial.discard(request.session_id)
        return request.data

    def _carry(self, request: Request) -> None:
        before = [self.new_name("b") for _ in range(self._random.randint(0, 2))]
        after = [self.new_name("a") for _ in range(self._random.randint(0, 2))]
        for name in before:
            request.notify_before("soak", data=name.encode())
        for name in after:
            request.notify_after("soak", data=name.encode())
        self._history.tell("carried", request.session_id, request.client_seq_id, before, after)

    async def _bind(self, request: Request) -> bytes:
        for _ in range(self._random.randint(1, 3)):
            name = self.new_name("p")
            before = self._random.random() < 0.5
            at = time.monotonic()
            answer = await self.gateway.push_bound(
                request, before=before, msg_type="soak", data=name.encode()
            )
            self.counts["pushes_bound"] += 1
            if answer.success:
                key = (request.session_id, request.client_seq_id)
                self._history.tell("bound", *key, name, at=at, before=before)
            else:
                self.counts[f"push_{answer.error_code}"] += 1
        return request.data


class Pusher:
    """Pushes plain notifies: single ones, streams in order, broadcasts.

    Attributes:
        is_calm: Set to have the tasks end.
        counts: What was done.
    """

    def __init__(self, plan: Plan, history: History, services: Services) -> None:
        self.is_calm = False
        self.counts: Counter[str] = Counter()
        self._plan = plan
        self._history = history
        self._services = services
        self._random = random.Random(f"{plan.seed}/pusher")

    def tasks(self) -> Iterator[Any]:
        """Yield the coroutines to run."""
        openids = sorted(self._services.sessions)
        for number in range(self._plan.push_streams):
            yield self._stream(f"stream{number}", openids[number :: self._plan.push_streams])
        yield self._push_singly(openids)
        yield self._broadcast()

    async def _stream(self, stream: str, openids: list[str]) -> None:
        """Push in order over a PushStream, batch by batch."""
        chance = self._random
        # A connection of its own, so that the streams reach different processes of the gateway.
        async with (
            GatewayClient(self._services.gateway_address, timeout=PATIENCE_S) as gateway,
            gateway.push_stream() as pushes,
        ):
            while not self.is_calm:
                batch = []
                for _ in range(chance.randint(1, MAX_STREAM_BATCH)):
                    openid = chance.choice(openids)
                    batch.append(self._push(openid, self._services.new_name("s")))
                at = time.monotonic()
                for push, result in zip(batch, await pushes.push(*batch), strict=True):
                    self._pushed(push, result, at, stream)
                await asyncio.sleep(chance.expovariate(1 / self._plan.push_pause_s))

    async def _push_singly(self, openids: list[str]) -> None:
        """Push one after the other; some may expire, some are repeated under their push_id."""
        chance = self._random
        while not self.is_calm:
            openid = chance.choice(openids)
            name = self._services.new_name("u")
            ttl = chance.uniform(0.05, 2.0) if chance.random() < 0.2 else 0.0
            at = time.monotonic()
            for _ in range(2 if chance.random() < 0.2 else 1):
                try:
                    answer = await self._services.gateway.push(
                        openid, msg_type="soak", data=name.encode(), push_id=name, ttl=ttl
                    )
                except UpstreamError as error:
                    self._history.tell("broken", "", f"push: {error}")
                    continue
                if at:
                    self._pushed(self._push(openid, name), answer, at, "")
                    at = 0.0
                else:
                    self.counts["push_repeats"] += 1
            await asyncio.sleep(chance.expovariate(1 / self._plan.push_pause_s))

    async def _broadcast(self) -> None:
        while not self.is_calm:
            name = self._services.new_name("all")
            at = time.monotonic()
            sent = await self._services.gateway.broadcast(
                msg_type="soak", data=name.encode(), suspended=True
            )
            sessions = list(self._services.sessions.values())
            for session_id in sessions:
                is_sure = sent.sessions == len(sessions)
                self._history.tell("pushed", session_id, name, at=at, is_sure=is_sure)
            self.counts["broadcasts"] += 1
            await asyncio.sleep(self._random.expovariate(1.0))

    def _push(self, openid: str, name: str) -> Push:
        if self._random.random() < 0.5:
            return Push(openid, msg_type="soak", data=name.encode(), push_id=name)
        session_id = self._services.sessions[openid]
        return Push(session_id, "session", msg_type="soak", data=name.encode(), push_id=name)

    def _pushed(self, push: Push, result: PushResult, at: float, stream: str) -> None:
        self.counts["pushes_streamed" if stream else "pushes_single"] += 1
        if not result.success:
            self.counts[f"push_{result.error_code}"] += 1
        # Of UNKNOWN nobody knows whether it was taken (PROTOCOL 7.5).
        if not result.success and result.error_code != "UNKNOWN":
            return
        session_id = push.target_id
        if push.target_type == "openid":
            session_id = self._services.sessions[session_id]
        self._history.tell(
            "pushed",
            session_id,
            push.data.decode(),
            at=at,
            stream=stream,
            is_sure=result.success,
        )
