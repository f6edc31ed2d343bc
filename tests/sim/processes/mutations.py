"""The rules of moving, each left out of the real code by itself.

A simulator that does not find one of them would not find the bug of that kind either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.cluster.entries import Done, Entries, Entry
from gatesvr.dispatch.moved import MovedRequests
from gatesvr.dispatch.processor import AsyncProcessor
from gatesvr.session import mover, outbox
from gatesvr.session.outbox import Outbox
from gatesvr.session.role import Role
from gatesvr.session.session import Session

from ..mutations import Mutation, wrap

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


@mutation
def leaving_copies_take_pushes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outbox, "freeze", lambda self: None)


@mutation
def answers_lost_while_leaving(patch: pytest.MonkeyPatch) -> None:
    def make(keep: Any) -> Any:
        def mutant(self: Session, result: Any) -> bool:
            is_kept: bool = self.role is not Role.LEAVING and keep(self, result)
            return is_kept

        return mutant

    wrap(patch, Session, "keep", make)


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


__all__ = ["MUTATIONS", "Done"]
