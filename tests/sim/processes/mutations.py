"""The rules of moving, each left out of the real code by itself.

A simulator that does not find one of them would not find the bug of that kind either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from zlib import crc32

import pytest

from gatesvr._pb import cluster_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.cluster.arrivals import Arrivals, is_moved
from gatesvr.cluster.calls import LIFE
from gatesvr.cluster.context import NodeContext
from gatesvr.cluster.directory import DirectoryUnreachableError
from gatesvr.cluster.entries import Entries, Entry
from gatesvr.cluster.leaving import Leaving
from gatesvr.cluster.logins import Logins
from gatesvr.cluster.peers import PeerUnreachableError
from gatesvr.cluster.pushes import Pushes
from gatesvr.cluster.renewal import Renewal
from gatesvr.cluster.results import Forwards
from gatesvr.cluster.starts import Starting, Starts
from gatesvr.dispatch.moved import MovedRequests
from gatesvr.dispatch.processor import AsyncProcessor
from gatesvr.session import mover, outbox
from gatesvr.session.outcome import StartOutcome
from gatesvr.session.role import Role
from gatesvr.session.session import Session

from ..mutations import Mutation, wrap
from .wire import FarPeers

MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Enter a mutation under its name."""
    MUTATIONS[function.__name__] = function
    return function


def leave_out(patch: pytest.MonkeyPatch, change: Callable[[pb.MovedSession], None]) -> None:
    """Change what travels of a session."""
    export = mover.export_session

    def mutant(*args: Any) -> bytes:
        envelope = pb.SessionExport.FromString(export(*args))
        session = pb.MovedSession.FromString(envelope.session)
        change(session)
        envelope.session = session.SerializeToString()
        envelope.crc32 = crc32(envelope.session)
        return envelope.SerializeToString()

    patch.setattr(mover, "export_session", mutant)


# M1, the directory.


@mutation
def ownership_moves_without_compare(patch: pytest.MonkeyPatch) -> None:
    def make(move: Any) -> Any:
        def mutant(self: Entries, session_id: str, owner: str, epoch: int, *args: Any) -> Any:
            entry = self._entries.get(session_id)
            if entry is not None and args[0] != owner:
                owner, epoch = entry.owner, entry.epoch
            return move(self, session_id, owner, epoch, *args)

        return mutant

    wrap(patch, Entries, "move", make)


@mutation
def entries_removed_without_compare(patch: pytest.MonkeyPatch) -> None:
    def make(remove: Any) -> Any:
        def mutant(self: Entries, session_id: str, owner: str, epoch: int, *args: Any) -> bool:
            entry = self._entries.get(session_id)
            if entry is not None:
                owner, epoch = entry.owner, entry.epoch
            is_done: bool = remove(self, session_id, owner, epoch, *args)
            return is_done

        return mutant

    wrap(patch, Entries, "remove", make)


@mutation
def ended_sessions_entered_again(patch: pytest.MonkeyPatch) -> None:
    """A create finds no tombstone, and an epoch is given again."""

    def make(create: Any) -> Any:
        def mutant(
            self: Entries, session_id: str, owner: str, openid: str, now: float
        ) -> Entry | None:
            tombstones, self._tombstones = self._tombstones, {}
            self._last_epoch = 0
            try:
                entry: Entry | None = create(self, session_id, owner, openid, now)
                return entry
            finally:
                self._tombstones = tombstones

        return mutant

    wrap(patch, Entries, "create", make)


@mutation
def no_tombstones(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Entries, "_mark", lambda self, *args: None)


@mutation
def live_owners_buried(patch: pytest.MonkeyPatch) -> None:
    def make(bury: Any) -> Any:
        def mutant(self: Entries, session_id: str, owner: str, epoch: int, now: float) -> bool:
            lease = self._leases.pop(owner, None)
            try:
                is_done: bool = bury(self, session_id, owner, epoch, now)
                return is_done
            finally:
                if lease is not None:
                    self._leases[owner] = lease

        return mutant

    wrap(patch, Entries, "bury", make)


@mutation
def entries_of_the_dead_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Entries, "sweep", lambda self, now: 0)


# M3, what travels.


@mutation
def tokens_of_before_the_start_travel(patch: pytest.MonkeyPatch) -> None:
    def change(session: pb.MovedSession) -> None:
        if session.previous_token:
            session.token, session.previous_token = session.previous_token, b""
            session.token_text = b""

    leave_out(patch, change)


@mutation
def push_ids_stay_behind(patch: pytest.MonkeyPatch) -> None:
    def change(session: pb.MovedSession) -> None:
        del session.push_ids[:]
        del session.push_id_age_ms[:]

    leave_out(patch, change)


@mutation
def held_notifies_stay_behind(patch: pytest.MonkeyPatch) -> None:
    leave_out(patch, lambda session: session.ClearField("held"))


@mutation
def bound_notifies_stay_behind(patch: pytest.MonkeyPatch) -> None:
    def change(session: pb.MovedSession) -> None:
        for request in session.requests:
            del request.before[:]
            del request.after[:]

    leave_out(patch, change)


@mutation
def answered_hello_travels_as_unanswered(patch: pytest.MonkeyPatch) -> None:
    leave_out(patch, lambda session: session.ClearField("login_answer"))


@mutation
def failed_resume_forgotten_on_the_way(patch: pytest.MonkeyPatch) -> None:
    leave_out(patch, lambda session: session.ClearField("is_after_failed_resume"))


def frozen_takes_pushes(patch: pytest.MonkeyPatch, role: Role) -> None:
    """Let copies in a role take pushes as the owner does."""

    def make(push: Any) -> Any:
        def mutant(self: Pushes, session_id: str, *args: Any) -> Any:
            session = self._context.copy(session_id)
            if session is None or session.role is not role:
                return push(self, session_id, *args)
            session.role = Role.OWN
            session.outbox.thaw(session.is_logged_in)
            try:
                return push(self, session_id, *args)
            finally:
                session.role = role
                session.outbox.freeze()

        return mutant

    wrap(patch, Pushes, "_own_push", make)


@mutation
def leaving_copies_take_pushes(patch: pytest.MonkeyPatch) -> None:
    frozen_takes_pushes(patch, Role.LEAVING)


@mutation
def arriving_copies_take_pushes(patch: pytest.MonkeyPatch) -> None:
    frozen_takes_pushes(patch, Role.ARRIVING)


@mutation
def answers_lost_while_leaving(patch: pytest.MonkeyPatch) -> None:
    def make(keep: Any) -> Any:
        def mutant(self: Session, result: Any) -> bool:
            is_kept: bool = self.role is not Role.LEAVING and keep(self, result)
            return is_kept

        return mutant

    wrap(patch, Session, "keep", make)


# M1, certain writes.


def uncertain(patch: pytest.MonkeyPatch, name: str, refusal: Any) -> None:
    """Take no answer to a write for a refusal."""

    def make(certainly: Any) -> Any:
        async def mutant(self: NodeContext, write: Any, *args: Any, **kwargs: Any) -> Any:
            if write.__name__ != name:
                return await certainly(self, write, *args, **kwargs)
            try:
                return await self.ask(write, *args, **kwargs)
            except DirectoryUnreachableError:
                return refusal

        return mutant

    wrap(patch, NodeContext, "certainly", make)


@mutation
def unanswered_moves_count_as_refused(patch: pytest.MonkeyPatch) -> None:
    uncertain(patch, "move", None)


@mutation
def unanswered_removals_count_as_done(patch: pytest.MonkeyPatch) -> None:
    uncertain(patch, "remove", True)


@mutation
def sessions_handed_out_before_they_are_entered(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: Starts, starting: Starting) -> Any:
        outcome = self._resume_own(starting)
        session, context = outcome.session, self._context
        if session is None or session.epoch:
            return outcome

        async def enter() -> None:
            entry = await context.certainly(
                context.directory.create, session.session_id, context.node_id, session.openid
            )
            if entry is not None:
                session.epoch = entry.epoch

        context.tasks.start(enter())
        return outcome

    patch.setattr(Starts, "_create", mutant)


# M2, STARTs.


@mutation
def unknown_because_the_directory_is_silent(patch: pytest.MonkeyPatch) -> None:
    def make(resume: Any) -> Any:
        async def mutant(self: Starts, starting: Starting) -> Any:
            try:
                return await resume(self, starting)
            except DirectoryUnreachableError:
                return await self._create(starting)

        return mutant

    wrap(patch, Starts, "_resume", make)


@mutation
def unknown_although_another_had_buried(patch: pytest.MonkeyPatch) -> None:
    def make(bury: Any) -> Any:
        async def mutant(self: Starts, starting: Starting, entry: Entry) -> Any:
            outcome = await bury(self, starting, entry)
            is_decided = isinstance(outcome, StartOutcome)
            return outcome if is_decided else await self._create(starting)

        return mutant

    wrap(patch, Starts, "_bury", make)


# M5, the old owner.


@mutation
def taken_counts_for_any_move(patch: pytest.MonkeyPatch) -> None:
    def make(taken: Any) -> Any:
        def mutant(self: Leaving, request: pb.TakenRequest, until: float) -> Any:
            departure = self._departures.get(request.session_id)
            if departure is not None:
                request.move_id = departure.move_id
            return taken(self, request, until)

        return mutant

    wrap(patch, Leaving, "taken", make)


@mutation
def nothing_is_taken_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Leaving, "_overdue", lambda self, session_id: None)


@mutation
def taken_back_on_a_read(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: Leaving, departure: Any) -> None:
        context, session = self._context, departure.session
        session_id = session.session_id
        found = await context.certainly(context.directory.read, session_id)
        if self._departures.get(session_id) is not departure:
            return
        is_back = isinstance(found, Entry) and found.owner == context.node_id
        if is_back:
            self._owning.own(session, found.epoch)
        else:
            self._owning.forget(session)
        self._settle(departure, has_left=not is_back)

    patch.setattr(Leaving, "_take_back", mutant)


@mutation
def ended_on_its_way_and_kept(patch: pytest.MonkeyPatch) -> None:
    """A take-back that is refused because there is no entry any more decides nothing."""

    async def mutant(self: Leaving, departure: Any) -> None:
        context, session = self._context, departure.session
        session_id, epoch = session.session_id, session.epoch
        found = await context.certainly(
            context.directory.move, session_id, context.node_id, epoch, context.node_id
        )
        if self._departures.get(session_id) is not departure or not isinstance(found, Entry):
            return
        if is_moved(found, context.node_id, epoch):
            self._owning.own(session, epoch + 1)
            self._settle(departure, has_left=False)
        else:
            self._owning.forget(session)
            self._settle(departure, has_left=True)

    patch.setattr(Leaving, "_take_back", mutant)


# M6, M7: requests.


@mutation
def answers_to_what_is_answered(patch: pytest.MonkeyPatch) -> None:
    def make(apply: Any) -> Any:
        def mutant(self: MovedRequests, session: Session, result: Any, now: float) -> bool:
            client_seq = result.client_seq
            if session.role is Role.OWN and client_seq not in session.pending:
                session.pending[client_seq] = 1
            is_done: bool = apply(self, session, result, now)
            return is_done

        return mutant

    wrap(patch, MovedRequests, "apply", make)


@mutation
def requests_of_the_dead_wait_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MovedRequests, "lose", lambda self, node_id, now: 0)


@mutation
def serial_chains_end_at_a_move(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MovedRequests, "_hold_place", lambda self, session, route: None)
    patch.setattr(AsyncProcessor, "give_up_place", lambda self, session, route, now: None)


@mutation
def waiting_requests_start_where_they_were(patch: pytest.MonkeyPatch) -> None:
    def make(withdraw: Any) -> Any:
        def mutant(self: AsyncProcessor, session: Session) -> list[Any]:
            tasks: list[Any] = withdraw(self, session)
            for task in tasks:
                self._upstream.send(task)
            return tasks

        return mutant

    wrap(patch, AsyncProcessor, "withdraw", make)


# M8, logins.


@mutation
def failed_resumes_replace(patch: pytest.MonkeyPatch) -> None:
    def make(login: Any) -> Any:
        def mutant(self: Entries, *args: Any, after_failed_resume: bool, now: float) -> Any:
            return login(self, *args, after_failed_resume=False, now=now)

        return mutant

    wrap(patch, Entries, "login_replacing", make)


@mutation
def logins_not_in_one_transaction(patch: pytest.MonkeyPatch) -> None:
    """The others are those that there were when somebody last looked."""
    looked: dict[tuple[int, str], tuple[float, set[str]]] = {}

    def make(login: Any) -> Any:
        def mutant(self: Entries, session_id: str, *args: Any, now: float, **how: Any) -> Any:
            entry = self._entries.get(session_id)
            openid = entry.openid if entry is not None else ""
            others = self._by_openid.get(openid, {})
            at, seen = looked.setdefault((id(self), openid), (now, set(others)))
            if not at <= now < at + 0.5:
                looked[id(self), openid] = (now, set(others))
                seen = set(others)
            unseen = {other: others.pop(other) for other in list(others) if other not in seen}
            try:
                return login(self, session_id, *args, now=now, **how)
            finally:
                if unseen:
                    self._by_openid.setdefault(openid, {}).update(unseen)

        return mutant

    wrap(patch, Entries, "login_replacing", make)


@mutation
def logins_judged_by_an_old_version(patch: pytest.MonkeyPatch) -> None:
    def make(login: Any) -> Any:
        def mutant(self: Entries, session_id: str, *args: Any, version: int, **how: Any) -> Any:
            entry = self._entries.get(session_id)
            if entry is not None:
                version = self._versions.get(entry.openid, 0)
            return login(self, session_id, *args, version=version, **how)

        return mutant

    wrap(patch, Entries, "login_judged", make)


# M9, pushes.


@mutation
def young_push_ids_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outbox, "MAX_PUSH_IDS", 1)
    patch.setattr(outbox, "_is_old", lambda pushed_at, now: True)


@mutation
def results_sent_once(patch: pytest.MonkeyPatch) -> None:
    def make(send: Any) -> Any:
        async def mutant(self: Forwards, session_id: str) -> bool:
            is_done: bool = await send(self, session_id)
            if not is_done:
                self._results.drop(session_id)
            return True

        return mutant

    wrap(patch, Forwards, "_send", make)


@mutation
def results_sent_to_the_first_owner_only(patch: pytest.MonkeyPatch) -> None:
    def make(send: Any) -> Any:
        first: dict[Any, Any] = {}

        async def mutant(self: Forwards, session_id: str) -> bool:
            context = self._context
            directory = context.directory
            key = (context.node_id, session_id)
            if key not in first:
                first[key] = await context.ask(directory.read, session_id)

            class Directory:
                async def read(self, session_id: str) -> Any:
                    return first[key]

            context.directory = Directory()  # type: ignore[assignment]
            try:
                coroutine = send(self, session_id)
                return bool(await coroutine)
            finally:
                context.directory = directory

        return mutant

    wrap(patch, Forwards, "_send", make)


@mutation
def leaving_copies_take_results(patch: pytest.MonkeyPatch) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Forwards, request: pb.ForwardRequest, until: float) -> Any:
            session = self._context.copy(request.session_id)
            if session is not None and session.role is Role.LEAVING:
                return pb.ForwardAnswer(result=pb.OWNER_DONE)
            return take(self, request, until)

        return mutant

    wrap(patch, Forwards, "take", make)


# M8, reject and allow.


@mutation
def owners_not_asked_for_life(patch: pytest.MonkeyPatch) -> None:
    async def mutant(self: Logins, entry: Entry, is_leased: bool) -> bool:
        return False

    patch.setattr(Logins, "_shows_life", mutant)


@mutation
def silent_owners_have_no_life(patch: pytest.MonkeyPatch) -> None:
    def make(call: Any) -> Any:
        async def mutant(self: Any, node_id: str, call_: Any, *args: Any) -> Any:
            try:
                return await call(self, node_id, call_, *args)
            except PeerUnreachableError:
                if call_ is not LIFE:
                    raise
                return pb.LifeAnswer(has_copy=True)

        return mutant

    wrap(patch, FarPeers, "call", make)


@mutation
def failed_resumes_take_a_place(patch: pytest.MonkeyPatch) -> None:
    def make(victims: Any) -> Any:
        async def mutant(self: Logins, session: Session, found: Any) -> Any:
            is_after_failed_resume = session.is_after_failed_resume
            session.is_after_failed_resume = False
            try:
                return await victims(self, session, found)
            finally:
                session.is_after_failed_resume = is_after_failed_resume

        return mutant

    wrap(patch, Logins, "_victims", make)


# M9, pushes.


@mutation
def unsure_pushes_answered_as_refused(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: Pushes) -> Any:
        return up.UnicastPushResponse(error_code="BUSY")

    patch.setattr(Pushes, "_unsure", mutant)


@mutation
def refused_pushes_taken_when_they_come_again(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: Pushes, request: pb.OwnedPushRequest, until: float) -> Any:
        if self._context.clock() >= until:
            return pb.OwnedPushAnswer(result=pb.OWNER_MOVING)
        return self._own_push(request.session_id, request.push, request.needs_login)

    patch.setattr(Pushes, "take", mutant)


@mutation
def pushes_taken_that_nobody_waits_for(patch: pytest.MonkeyPatch) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Pushes, request: pb.OwnedPushRequest, until: float) -> Any:
            return take(self, request, math.inf)

        return mutant

    patch.setattr(outbox, "MAX_PUSH_IDS", 1)
    wrap(patch, Pushes, "take", make)


# M10, renewal.


@mutation
def lost_sessions_kept(patch: pytest.MonkeyPatch) -> None:
    def make(compare: Any) -> Any:
        def mutant(self: Renewal, owned: Any, renewed: Any) -> None:
            compare(self, owned, replace(renewed, changed={}))

        return mutant

    wrap(patch, Renewal, "_compare", make)


@mutation
def late_creates_kept(patch: pytest.MonkeyPatch) -> None:
    def make(compare: Any) -> Any:
        def mutant(self: Renewal, owned: Any, renewed: Any) -> None:
            compare(self, owned, replace(renewed, unnamed=()))

        return mutant

    wrap(patch, Renewal, "_compare", make)


@mutation
def judged_by_an_older_question(patch: pytest.MonkeyPatch) -> None:
    """Also what has become this node's since the renewal was sent is judged by its answer."""

    def make(compare: Any) -> Any:
        def mutant(self: Renewal, owned: Any, renewed: Any) -> None:
            compare(self, owned, renewed)
            named = {e.session_id for e in renewed.unnamed}
            for session in list(self._context.sessions.index.by_id.values()):
                session_id = session.session_id
                is_new = session_id not in owned or owned[session_id] != session.epoch
                if session.role is Role.OWN and is_new and session_id not in named:
                    self._owning.lose(session, None)

        return mutant

    wrap(patch, Renewal, "_compare", make)


# M12, sessions that are given.


@mutation
def given_in_place_of_a_copy(patch: pytest.MonkeyPatch) -> None:
    def make(receive: Any) -> Any:
        def mutant(self: Arrivals, request: pb.GiveRequest, until: float) -> Any:
            copy = self._context.copy(request.session_id)
            if copy is not None:
                self._context.sessions.moves.forget(copy, self._context.clock())
            return receive(self, request, until)

        return mutant

    wrap(patch, Arrivals, "receive", make)


@mutation
def given_and_still_owned(patch: pytest.MonkeyPatch) -> None:
    def make(depart: Any) -> Any:
        def mutant(self: Leaving, session: Session, move_id: str, left: Any) -> Any:
            departure = depart(self, session, move_id, left)
            if left is not None:
                moves, now = self._context.sessions.moves, self._context.clock()
                moves.own(session, session.epoch, now)
                self._context.dispatcher.moved.adopt(session, now)
            return departure

        return mutant

    wrap(patch, Leaving, "_depart", make)
