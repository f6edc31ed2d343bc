"""The Python clients' process: the SDK's clients, each with its own way through the network."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from contextlib import suppress
from typing import TYPE_CHECKING

import jwt

from gatesvr import Client
from gatesvr.errors import GatesvrError, RequestFailed, SessionLost
from gatesvr.protocol import events

from .child import Commands, Watch
from .history import History
from .plan import ACTIONS, PATIENCE_S, TOKEN_SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.connection import Connection as Pipe

    from gatesvr.client import Answer

    from .plan import Plan

__all__ = ["serve_clients"]

CONNECT_TIMEOUT_S = 15.0
"""Handshakes that the network cut off last so long: far less than a session outlives."""
CONNECTING = 20
"""Clients that connect for the first time at once."""
REQUEST_TIMEOUT_S = 60.0
SETTLE_S = 0.75 * PATIENCE_S
"""Longest wait, once the weather is calm, for what is under way: more than REQUEST_TIMEOUT_S."""


async def serve_clients(pipe: Pipe, plan: Plan, addresses: list[tuple[str, int]]) -> None:
    """Run the clients until the parent says stop.

    Says ``ready`` when all are logged in; on ``begin`` they ask, at ``counts`` says what those of
    each kind did so far, on ``calm`` they ask no more and wait for what is under way; is told each
    session's last seq, waits for that; says what happened at ``stop``.
    """
    commands = Commands(pipe)
    history = History()
    Watch(history)
    devices = [
        Device(plan, number, address, history) for number, address in enumerate(addresses, 1)
    ]

    def counts() -> dict[str, Counter[str]]:
        total: dict[str, Counter[str]] = {}
        for device in devices:
            total.setdefault(device.kind, Counter()).update(device.counts)
        return total

    turns = asyncio.Semaphore(CONNECTING)

    async def connect(device: Device) -> None:
        async with turns:
            await device.connect()

    await asyncio.gather(*(connect(device) for device in devices))
    pipe.send("ready")
    await commands.expect("begin")
    for device in devices:
        device.begin()
    await commands.expect_counting("calm", counts)
    await asyncio.gather(*(device.finish() for device in devices))
    pipe.send("calm")
    last_seqs = await commands.next()
    for device in devices:
        await device.settle(last_seqs)
    pipe.send("settled")
    await commands.expect("stop")
    # What comes from here on is not judged: sessions end.
    calls = list(history.calls)
    counted = counts()
    await asyncio.gather(*(device.close() for device in devices))
    pipe.send((calls, counted, max(device.longest_silence_s for device in devices)))


class Device(Client):
    """A client that tells a history of what it is handed.

    Attributes:
        name: Its openid.
        kind: ``quic`` or ``websocket``.
        counts: What was done.
        longest_silence_s: The longest time, while it asked, that it was handed nothing.
    """

    def __init__(self, plan: Plan, number: int, address: tuple[str, int], history: History) -> None:
        self.name = f"client{number}"
        self.kind = "quic" if number <= plan.quic else "websocket"
        super().__init__(
            ("{}:{}" if self.kind == "quic" else "wss://{}:{}/gatesvr").format(*address),
            openid=self.name,
            auth_token=self.fetch_token if plan.token_s else "",
            insecure=True,
            transport=plan.client_backend,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            max_notifies=100_000,
        )
        self.counts: Counter[str] = Counter()
        self.longest_silence_s = 0.0
        self._heard_at = 0.0
        self._plan = plan
        self._history = history
        self._random = random.Random(f"{plan.seed}/{self.name}")
        self._asked = 0
        self._is_calm = False
        self._seen = 0
        self._unread: deque[int] = deque()  # seqs of notifies that the iteration has to yield
        self._moved = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._reader: asyncio.Task[None] | None = None

    async def fetch_token(self) -> str:
        """Return a token that expires at a time of its own."""
        self.counts["tokens"] += 1
        life = self._plan.token_s * self._random.uniform(0.5, 1.5)
        claims = {"sub": self.name, "aud": "gatesvr", "iss": "soak", "exp": time.time() + life}
        return jwt.encode(claims, TOKEN_SECRET, algorithm="HS256")

    # What the session is handed, in the order of the server's seqs.

    def handle_event(self, event: events.ClientEvent, now: float) -> None:
        """Tell the history of an event before the SDK handles it."""
        self._tell(event)
        if isinstance(event, events.Answered | events.Notify) and self._heard_at:
            self.longest_silence_s = max(self.longest_silence_s, now - self._heard_at)
            self._heard_at = now
        super().handle_event(event, now)
        self._moved.set()

    def _tell(self, event: events.ClientEvent) -> None:
        tell, session_id = self._history.tell, self.session_id
        if isinstance(event, events.Answered):
            self._seen = event.seq
            action = event.data.decode().rpartition("/")[2]
            order = ACTIONS[action].order if action in ACTIONS else ""
            tell("delivered", session_id, event.seq, client_seq=event.client_seq, order=order)
        elif isinstance(event, events.Notify):
            self._seen = event.seq
            self._unread.append(event.seq)
            tell("delivered", session_id, event.seq, push=event.data.decode())
        elif isinstance(event, events.Failed):
            if event.seq:
                self._seen = event.seq
                seqs = {"client_seq": event.client_seq, "code": event.code}
                tell("delivered", session_id, event.seq, **seqs)
        elif isinstance(event, events.Lost):
            self._seen = event.to_seq
            tell("lost", session_id, event.from_seq, event.to_seq, event.reason.name)
        elif isinstance(event, events.Started):
            tell("started", self.name, event.session_id, is_resumed=event.is_resumed)
            self.counts["resumes" if event.is_resumed else "sessions"] += 1
        elif isinstance(event, events.SessionReset):
            tell("session_lost", self.name, event.session_id, event.reason.name)
        elif isinstance(event, events.StartRefused):
            self.counts[f"start_refused_{event.code}"] += 1
        elif isinstance(event, events.GoAwayReceived):
            self.counts["goaways"] += 1
        elif isinstance(event, events.Ignored | events.Kicked):
            tell("broken", session_id, f"unexpected: {event}")

    def session_ended(self, error: SessionLost | None) -> SessionLost:
        """Tell the history of a session that is over; none should be."""
        if error is not None:
            self._history.tell("broken", self.session_id, f"{self.name}'s session ended: {error}")
        return super().session_ended(error)

    # What the application does.

    async def login(self, data: bytes = b"", params: Mapping[str, str] | None = None) -> Answer:
        """Log in under a name."""
        name = self._new_name("hello")
        self._history.tell("asked", self.name, name, is_login=True)
        try:
            answer = await super().login(name.encode(), params)
        except BaseException:
            self._history.tell("failed", self.name, name, 0, 0)  # it is tried again, or ends all
            raise
        self._history.tell("answered", self.name, name, answer.data.decode(), answer.code)
        return answer

    def begin(self) -> None:
        """Have the workers ask, and the reader read."""
        self._reader = asyncio.ensure_future(self._read())
        self._heard_at = asyncio.get_running_loop().time()
        for _ in range(self._plan.workers):
            self._workers.append(asyncio.ensure_future(self._work()))

    async def finish(self) -> None:
        """Ask no more, and wait for every answer."""
        self._is_calm = True
        self._heard_at = 0.0
        await asyncio.wait(self._workers, timeout=SETTLE_S)
        for worker in self._workers:
            if worker.done():
                worker.result()

    async def settle(self, last_seqs: Mapping[str, int]) -> None:
        """Wait until everything that the gateway sent was handed over and read."""
        last_seq = last_seqs.get(self.session_id, 0)
        try:
            async with asyncio.timeout(SETTLE_S):
                while self._seen < last_seq or self._unread:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            why = f"at {self._seen} of {last_seq}, {len(self._unread)} not read"
            self._history.tell("broken", self.session_id, why)

    async def close(self, *args: object) -> None:  # type: ignore[override]
        """End the session and the tasks."""
        # Without a connection the gateway would not hear of the end.
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while not self.is_connected:
                    await asyncio.sleep(0.01)
        await super().close()
        tasks = [*self._workers, *([self._reader] if self._reader is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self) -> None:
        chance = self._random
        actions, weights = list(ACTIONS), [action.weight for action in ACTIONS.values()]
        while not self._is_calm:
            await self._ask(chance.choices(actions, weights)[0])
            await asyncio.sleep(chance.expovariate(1 / self._plan.pause_s))

    async def _ask(self, action: str) -> None:
        name = self._new_name(action)
        self._history.tell("asked", self.name, name)
        self.counts["requests"] += 1
        try:
            answer = await self.request(action, name.encode())
        except RequestFailed as error:
            self.counts[f"failed_{error.code}_outcome_{int(error.outcome)}"] += 1
            self._history.tell("failed", self.name, name, error.code, int(error.outcome))
        except SessionLost as error:
            self.counts["failed_session_lost"] += 1
            self._history.tell("failed", self.name, name, 0, int(error.outcome))
        else:
            self.counts["answers"] += 1
            text = answer.data.decode()
            self._history.tell("answered", self.name, name, text, answer.code)

    async def _read(self) -> None:
        while True:
            try:
                notify = await anext(self)
            except StopAsyncIteration:
                return
            except GatesvrError as error:
                self._history.tell("broken", self.session_id, f"iteration: {error!r}")
                continue
            self.counts["notifies"] += 1
            expected = self._unread.popleft() if self._unread else 0
            if notify.server_seq != expected:
                why = f"the application read {notify.server_seq} in the place of {expected}"
                self._history.tell("broken", self.session_id, why)
            self._moved.set()

    def _new_name(self, action: str) -> str:
        self._asked += 1
        return f"{self.name}/{self._asked}/{action}"
