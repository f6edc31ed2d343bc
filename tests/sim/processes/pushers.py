"""Upstream services that push and kick through whichever process they reach.

What the owner of a session takes is noted there; what the pusher is told is held against it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gatesvr._pb import upstream_pb2 as up
from gatesvr.cluster.peers import PeerUnreachableError
from gatesvr.session.role import Role
from gatesvr.session.state import State

from ..device import _name

if TYPE_CHECKING:
    from .process import Process
    from .world import ProcessesWorld

MAX_TRIES = 4


@dataclass(eq=False)
class Push:
    """A push of an upstream service's.

    Attributes:
        answers: The error codes that its tries got, empty for ok, None for a call that broke.
    """

    name: str
    session_id: str
    request: up.UnicastPushRequest
    process: Process | None = None
    answers: list[str | None] = field(default_factory=list)
    is_again: bool = False
    task: asyncio.Task[Any] | None = None


class ProcessPushers:
    """The services, and what became of their pushes."""

    def __init__(self, world: ProcessesWorld) -> None:
        self.world = world
        self.pushes: list[Push] = []
        self.taken: Counter[tuple[str, str]] = Counter()

    # At the owner.

    def at_owner(
        self,
        process: Process,
        push: Callable[[up.UnicastPushRequest], up.UnicastPushResponse],
        request: up.UnicastPushRequest,
    ) -> up.UnicastPushResponse:
        """Let an owner take a push, and tell the checker of it."""
        world = self.world
        session = process.sessions.by_id(request.target_id)
        if session is None or process.is_dead:
            return push(request)
        session_id, name = session.session_id, _name(request.data)
        queue = session.queue
        seq, held = queue.next_expected_seq, len(session.outbox.held or ())
        is_bound = (
            request.sync_hint != up.NSH_IMMEDIATELY
            and request.bind_client_seq_id in session.pending
            and request.push_id not in (session.outbox.push_ids or ())
        )
        response = push(request)
        world.note(
            "%s takes %s for %s: %s",
            process,
            name,
            session_id[:4],
            response.error_code or "ok",
        )
        if not response.success or session.state is State.CLOSED:
            return response
        if session.role is not Role.OWN:
            world.checker.broken(session_id, f"{process} took {name} and does not own it")
        is_taken = True
        if is_bound:
            before = request.sync_hint == up.NSH_BEFORE_RESPONSE
            world.checker.bound(session_id, request.bind_client_seq_id, name, before=before)
            world.counts["bound"] += 1
        elif len(session.outbox.held or ()) > held:
            world.checker.pushed(session_id, name, stream="held", is_sure=not request.ttl_ms)
            world.counts["held_pushes"] += 1
        elif queue.next_expected_seq > seq:
            world.checker.pushed(session_id, name, seq=seq)
        else:
            is_taken = False
            world.counts["push_repeats"] += 1
        self.taken[session_id, name] += is_taken
        if self.taken[session_id, name] > 1:
            world.checker.broken(session_id, f"push {name} was taken twice")
        return response

    # What the services do.

    def push(self) -> None:
        """Push to some session, by way of some process."""
        sessions = self.world.known_sessions()
        if sessions:
            self.push_to(self.world.random.choice(sessions))

    def push_to(self, session_id: str) -> None:
        world = self.world
        random = world.random
        name = world.new_name("p")
        request = up.UnicastPushRequest(
            msg_type="t", target_type="session", target_id=session_id, data=name.encode()
        )
        if random.random() < 0.6:
            request.push_id = f"id-{name}"
        request.data += b"." * random.choice((0, 0, 20, 100, 300))
        if random.random() < 0.1:
            request.ttl_ms = random.choice((100, 2_000))
        if random.random() < 0.1:
            request.conflate_key = f"key-{random.randrange(3)}"
        self._begin(name, session_id, request)

    def bind(self) -> None:
        """Push around the answer to a request that is under way, or was."""
        world = self.world
        random = world.random
        if not world.calls:
            return
        call = random.choice(world.calls)
        name = world.new_name("b")
        request = up.UnicastPushRequest(
            target_type="session",
            target_id=call.session_id,
            msg_type="t",
            data=name.encode(),
            sync_hint=random.choice((up.NSH_BEFORE_RESPONSE, up.NSH_AFTER_RESPONSE)),
            bind_client_seq_id=max(1, call.client_seq + random.choice((0, 0, 0, 0, 0, -1, 30))),
            push_id=f"id-{name}" if random.random() < 0.6 else "",
        )
        self._begin(name, call.session_id, request)

    def kick(self) -> None:
        world = self.world
        sessions = world.known_sessions()
        process = world.some_process()
        if sessions and process is not None:
            session_id = world.random.choice(sessions)
            world.counts["kicks"] += 1
            world.note("a service kicks %s at %s", session_id[:4], process)
            request = up.KickRequest(target_type="session", target_id=session_id, reason="kicked")
            world.watch(self._kick(process, session_id, request))

    async def _kick(self, process: Process, session_id: str, request: up.KickRequest) -> None:
        try:
            is_done = await process.node.kick(session_id, request)
        except PeerUnreachableError:
            self.world.counts["kicks_unsure"] += 1
            return
        if is_done and session_id not in self.world.ended:
            self.world.checker.broken(session_id, "was kicked and is still there")

    def _begin(self, name: str, session_id: str, request: up.UnicastPushRequest) -> None:
        push = Push(name, session_id, request)
        self.pushes.append(push)
        self.world.counts["pushes"] += 1
        self.try_it(push)

    def try_it(self, push: Push) -> None:
        """Send a push to some process."""
        process = self.world.some_process()
        push.is_again = False
        if process is None:
            push.is_again = True
            return
        push.process = process
        request = up.UnicastPushRequest()
        request.CopyFrom(push.request)
        push.task = self.world.watch(process.node.push(push.session_id, request, needs_login=False))
        push.task.add_done_callback(lambda task: self._ended(push, process, task))

    def _ended(self, push: Push, process: Process, task: asyncio.Task[Any]) -> None:
        if push.process is not process or process.is_dead:
            return
        push.process = push.task = None
        if task.cancelled() or task.exception() is not None:
            return
        response = task.result()
        world = self.world
        world.counts[f"push_{response.error_code.lower() or 'ok'}"] += 1
        world.note("%s at %s gets %s", push.name, process, response.error_code or "ok")
        push.answers.append(response.error_code)
        is_taken = bool(self.taken[push.session_id, push.name])
        if response.success and not is_taken and push.session_id not in world.ended:
            world.checker.broken(push.session_id, f"nobody has taken {push.name}")
        if (
            push.request.push_id
            and response.error_code in ("UNKNOWN", "BUSY")
            and len(push.answers) < MAX_TRIES
        ):
            push.is_again = True

    def forget(self, process: Process) -> None:
        """Break the calls that services had open to a process that is gone."""
        for push in self.pushes:
            if push.process is process:
                push.process = push.task = None
                push.answers.append(None)
                self.world.counts["push_broken"] += 1
                push.is_again = bool(push.request.push_id) and len(push.answers) < MAX_TRIES

    def again(self) -> list[Push]:
        """Return the pushes whose services will try again."""
        return [push for push in self.pushes if push.is_again]

    def is_quiet(self) -> bool:
        """Say whether nobody waits for a push."""
        return not any(push.process is not None or push.is_again for push in self.pushes)

    def check(self) -> None:
        """What was refused for sure was never taken."""
        for push in self.pushes:
            is_sure = None not in push.answers and "UNKNOWN" not in push.answers
            if is_sure and "" not in push.answers and self.taken[push.session_id, push.name]:
                self.world.checker.broken(
                    push.session_id, f"{push.name} was taken, its pusher told {push.answers}"
                )
