"""DeliveryChecker: finds broken promises (PROTOCOL 4.9) in what clients, gateway and upstreams saw.

The checker hears of every event as it happens and forgets settled ones; for a session it holds
only messages on their way. The caller names requests and pushes and never uses a name twice::

    checker = DeliveryChecker()
    checker.pushed("s1", "p1")                 # the pusher: the gateway took it
    checker.delivered("s1", 1, push="p1")      # the client: the application received it
    checker.settled("s1", dropped=0)           # nothing more will arrive
    assert not checker.findings
"""

from __future__ import annotations

from collections.abc import Sequence

from .findings import (
    AnsweredTwice,
    Broken,
    ExecutedTwice,
    FalseOutcome,
    Finding,
    Gap,
    Lost,
    NeedlessLoss,
    NeedlessRefusal,
    Reordered,
    Repeated,
    Replaced,
    StaleResume,
    Torn,
    Unanswered,
    Unasked,
    Unexplained,
    WrongAnswer,
)
from .ledger import BundleEntry, ClientEntry, PushEntry, RequestEntry, SessionEntry

__all__ = ["DeliveryChecker"]

OK = 200
BAD_REQUEST = 400
NOT_LOGGED_IN = 401
NOT_STARTED = 1
LOSS_REASONS = frozenset({"EXPIRED", "OVERFLOW", "CONFLATED"})
"""Reasons for which a gateway may lose plain notifies (PROTOCOL 2.6)."""


class DeliveryChecker:
    """Collects findings over any number of clients and sessions.

    Args:
        knows_ends: Whether the caller reports each session's end with ended(); otherwise a session
            that a client has lost counts as ended.

    Attributes:
        findings: The findings, oldest first.
        delivered_pushes: Pushes delivered to applications.
        delivered_answers: Answers and ERRORs delivered to applications.
        announced_losses: Server seqs announced to applications as lost.
        executions: Requests handed to upstreams.
    """

    def __init__(self, *, knows_ends: bool = True) -> None:
        self.findings: list[Finding] = []
        self.delivered_pushes = 0
        self.delivered_answers = 0
        self.announced_losses = 0
        self.executions = 0
        self._knows_ends = knows_ends
        self._sessions: dict[str, SessionEntry] = {}
        self._clients: dict[str, ClientEntry] = {}
        # Requests by name, to look up the ones that upstreams report.
        self._requests: dict[str, RequestEntry] = {}
        self._logins = 0
        self._last_login: dict[str, tuple[int, str]] = {}

    def __len__(self) -> int:
        """Return the number of requests and pushes that are not settled."""
        return len(self._requests) + sum(len(s.pushes) for s in self._sessions.values())

    # Reports of the clients.

    def started(self, client: str, session_id: str, *, is_resumed: bool) -> None:
        """START_RESP arrived: the client has this session now."""
        state = self._client(client)
        if not is_resumed:
            state.login = None
            state.refused.clear()
        state.session_id = session_id
        self._session(session_id)

    def asked(self, client: str, request: str, *, is_login: bool = False) -> None:
        """The application sent a request."""
        state = self._client(client)
        state.asked += 1
        entry = RequestEntry(state.asked, is_login)
        state.requests[request] = self._requests[request] = entry

    def answered(self, client: str, request: str, answer: str, code: int = OK) -> None:
        """The application got an answer; ``answer`` is the request that the answer names."""
        state = self._client(client)
        entry = self._resolve(state, request)
        if answer != request:
            self._find(WrongAnswer(state.session_id, request, answer))
        if entry is None or not entry.is_login or code != OK:
            return
        for number, refused in state.refused:
            if number > entry.number:
                self._find(NeedlessRefusal(state.session_id, refused, NOT_LOGGED_IN))
        state.refused.clear()
        if state.login is None:
            state.login = entry.number

    def failed(self, client: str, request: str, code: int, outcome: int) -> None:
        """The application learned that a request failed.

        Args:
            client: The client's name.
            request: The request's name.
            code: Wire error code, 0 for none.
            outcome: 0 unknown, 1 not started, 2 done.
        """
        state = self._client(client)
        entry = self._resolve(state, request)
        if entry is None:
            return
        if outcome == NOT_STARTED and entry.is_executed and not entry.is_refused:
            self._find(FalseOutcome(state.session_id, request))
        if code == BAD_REQUEST:
            self._find(NeedlessRefusal(state.session_id, request, code))
        elif code == NOT_LOGGED_IN:
            if state.login is not None and entry.number > state.login:
                self._find(NeedlessRefusal(state.session_id, request, code))
            elif state.login is None:
                state.refused.append((entry.number, request))

    def forgot(self, client: str) -> None:
        """The client's process ended: its open requests no longer matter."""
        state = self._client(client)
        for request in state.requests:
            self._requests.pop(request, None)
        state.requests.clear()

    def session_lost(self, client: str, session_id: str, reason: str = "") -> None:
        """The application learned that its session is gone."""
        state = self._client(client)
        if self._knows_ends and not self._session(session_id).is_ended:
            self._find(NeedlessLoss(session_id, client, reason))
        state.session_id = ""
        state.login = None
        state.refused.clear()

    def delivered(
        self,
        session_id: str,
        seq: int,
        *,
        push: str = "",
        client_seq: int = 0,
        code: int = 0,
        order: str = "",
    ) -> None:
        """The application received a sequenced message.

        Args:
            session_id: The session.
            seq: Its server seq.
            push: The notify's name, if it is a notify.
            client_seq: The number of the request it answers, if it is an answer.
            code: The code of an ERROR, else 0.
            order: Answers with the same order must come in the order of their requests.
        """
        session = self._session(session_id)
        if seq <= session.position:
            self._find(Repeated(session_id, seq, push))
            return
        if seq != session.position + 1:
            self._find(Gap(session_id, session.position, seq))
        session.position = seq
        if client_seq:
            self.delivered_answers += 1
            self._check_answer(session_id, session, seq, client_seq, code, order)
            return
        self.delivered_pushes += 1
        bound_to = session.bundle_of.pop(push, 0)
        if bound_to:
            self._check_bound(session_id, session, seq, push, bound_to)
        else:
            self._check_closed_bundle(session_id, session, seq)
            self._check_plain(session_id, session, seq, push)

    def lost(self, session_id: str, from_seq: int, to_seq: int, reason: str) -> None:
        """The application learned that messages are lost.

        Args:
            session_id: The session.
            from_seq: The first of them.
            to_seq: The last of them.
            reason: The name of the LostReason.
        """
        session = self._session(session_id)
        if to_seq <= session.position:
            self._find(Repeated(session_id, to_seq))
            return
        if from_seq != session.position + 1:
            self._find(Gap(session_id, session.position, from_seq))
        if reason not in LOSS_REASONS:
            self._find(Unexplained(session_id, from_seq, to_seq, reason))
        self._check_closed_bundle(session_id, session, from_seq)
        session.position = to_seq
        session.lost += to_seq - from_seq + 1
        self.announced_losses += to_seq - from_seq + 1
        for seq in range(from_seq, to_seq + 1) if session.by_seq else ():
            push = session.by_seq.pop(seq, "")
            if push:
                del session.pushes[push]

    def broken(self, session_id: str, why: str) -> None:
        """A peer broke the wire protocol, or failed internally."""
        self._find(Broken(session_id, why))

    # Reports of the gateway and the upstreams.

    def logged_in(self, session_id: str, openid: str, *, is_automatic: bool = False) -> None:
        """An upstream answered this session's hello with 200.

        Args:
            session_id: The session.
            openid: The user.
            is_automatic: Whether a failed resume made the session; then it replaces no other
                (PROTOCOL 3.3).
        """
        self._logins += 1
        session = self._session(session_id)
        session.login = session.login or self._logins
        if not is_automatic:
            self._last_login[openid] = (self._logins, session_id)

    def ended(self, session_id: str, *, replaced_in: str = "") -> None:
        """A session ended on the gateway, and its promises with it.

        Args:
            session_id: The session.
            replaced_in: The openid, if it ended because a newer session of that openid logged in.
        """
        session = self._session(session_id)
        session.is_ended = True
        session.pushes.clear()
        session.by_seq.clear()
        session.bundles.clear()
        if replaced_in:
            login, other = self._last_login.get(replaced_in, (0, ""))
            if other in ("", session_id) or login < session.login:
                self._find(Replaced(session_id))

    def resumed(self, session_id: str, connection: int) -> None:
        """The gateway let a connection take over a session.

        Args:
            session_id: The session.
            connection: The client's own count of its connections.
        """
        session = self._session(session_id)
        if connection < session.connection:
            self._find(StaleResume(session_id, connection, session.connection))
        session.connection = max(session.connection, connection)

    def pushed(
        self, session_id: str, push: str, *, seq: int = 0, stream: str = "", is_sure: bool = True
    ) -> None:
        """The gateway accepted a plain notify for a session. May come after its delivery.

        Args:
            session_id: The session.
            push: The notify's name.
            seq: Its server seq, 0 if unknown.
            stream: Pushes with the same stream must arrive in the order of these calls; empty for
                no order.
            is_sure: False if the pusher does not know whether the gateway accepted it.
        """
        session = self._session(session_id)
        if session.is_ended:
            return
        number = session.next_number
        session.next_number += 1
        if push in session.early:
            del session.early[push]
            return
        session.pushes[push] = PushEntry(number, seq, stream, is_sure)
        if seq:
            session.by_seq[seq] = push

    def bound(self, session_id: str, client_seq: int, push: str, *, before: bool) -> None:
        """The gateway accepted a notify that goes with the answer to a request.

        If the answer was already delivered, only the notify's arrival is checked, not its place.
        """
        session = self._session(session_id)
        if push in session.early or client_seq in session.answered:
            self.pushed(session_id, push)
            return
        bundle = session.bundles.setdefault(client_seq, BundleEntry())
        (bundle.pushed_before if before else bundle.pushed_after).append(push)
        session.bundle_of[push] = client_seq

    def carried(
        self, session_id: str, client_seq: int, before: Sequence[str], after: Sequence[str]
    ) -> None:
        """An upstream put notifies into its answer to a request."""
        if not before and not after:
            return
        session = self._session(session_id)
        bundle = session.bundles.setdefault(client_seq, BundleEntry())
        bundle.carried_before.extend(before)
        bundle.carried_after.extend(after)
        for push in (*before, *after):
            session.bundle_of[push] = client_seq

    def executed(
        self, session_id: str, client_seq: int, request: str, lane: str | None = ""
    ) -> None:
        """A request was handed to an upstream, which may have REFUSED it.

        Args:
            session_id: The session.
            client_seq: The request's number.
            request: The request's name.
            lane: Requests with the same lane must come in the order of asking; None for no order.
        """
        self.executions += 1
        session = self._session(session_id)
        entry = self._requests.get(request)
        if entry is not None:
            entry.is_executed = True
        if not session.executed.add(client_seq):
            if client_seq not in session.refused:
                self._find(ExecutedTwice(session_id, client_seq, request))
            session.refused.discard(client_seq)
            return
        if lane is None:
            return
        last = session.lanes.get(lane, 0)
        if client_seq < last:
            self._find(Reordered(session_id, "execution", client_seq, last))
        session.lanes[lane] = max(last, client_seq)

    def refused(self, session_id: str, client_seq: int, request: str) -> None:
        """An upstream REFUSED a request, so another one may run it."""
        self._session(session_id).refused.add(client_seq)
        entry = self._requests.get(request)
        if entry is not None:
            entry.is_refused = True

    # The end.

    def settled(self, session_id: str, *, last_seq: int = 0, dropped: int | None = None) -> None:
        """The session is alive and connected, and nothing more will arrive.

        Args:
            session_id: The session.
            last_seq: The highest server seq given out, 0 if unknown.
            dropped: Messages that its queue dropped or let expire, None if unknown.
        """
        session = self._session(session_id)
        if last_seq and session.position != last_seq:
            self._find(Gap(session_id, session.position, last_seq))
        if dropped is not None and session.lost > dropped:
            self._find(Unexplained(session_id, 0, session.position, f"{session.lost} > {dropped}"))
        missing = [push for push, entry in session.pushes.items() if entry.is_sure]
        # If its seq is known, a loss that covered it has already removed it.
        if len(missing) > session.lost or any(session.pushes[push].seq for push in missing):
            self.findings.extend(Lost(session_id, push) for push in missing)
        for client_seq, bundle in session.bundles.items():
            self._find(Lost(session_id, "/".join(bundle.pushed_before + bundle.pushed_after)))
            self._find(Unanswered(session_id, f"client seq {client_seq}"))
        for push, seq in session.early.items():
            self._find(Unasked(session_id, seq, push))
        self._check_closed_bundle(session_id, session, session.position + 1)

    def client_settled(self, client: str) -> None:
        """The client's session is alive: its requests should all have ended."""
        state = self._client(client)
        for request in state.requests:
            self._find(Unanswered(state.session_id or client, request))

    # Inside.

    def _find(self, finding: Finding) -> None:
        self.findings.append(finding)

    def _session(self, session_id: str) -> SessionEntry:
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = SessionEntry()
        return session

    def _client(self, client: str) -> ClientEntry:
        state = self._clients.get(client)
        if state is None:
            state = self._clients[client] = ClientEntry()
        return state

    def _resolve(self, state: ClientEntry, request: str) -> RequestEntry | None:
        self._requests.pop(request, None)
        return state.requests.pop(request, None)

    def _check_plain(self, session_id: str, session: SessionEntry, seq: int, push: str) -> None:
        entry = session.pushes.pop(push, None)
        if entry is None:
            if session.is_ended:
                return  # messages on their way at its end may still arrive
            if push in session.early or not self._is_new(session, push):
                self._find(Repeated(session_id, seq, push))
            session.early[push] = seq
            return
        session.by_seq.pop(entry.seq, None)
        if entry.seq and entry.seq != seq:
            self._find(Reordered(session_id, "push", seq, entry.seq))
        if entry.stream:
            last = session.last_numbers.get(entry.stream, -1)
            if entry.number < last:
                self._find(Reordered(session_id, f"push {push}", entry.number, last))
            session.last_numbers[entry.stream] = max(last, entry.number)

    def _is_new(self, session: SessionEntry, push: str) -> bool:
        return push not in session.bundle_of

    def _check_bound(
        self, session_id: str, session: SessionEntry, seq: int, push: str, client_seq: int
    ) -> None:
        """Check a notify of a bundle: before its answer, or right behind it in its order."""
        if session.open_bundle != client_seq:
            self._check_closed_bundle(session_id, session, seq)
            if client_seq in session.answered:
                if session.is_ended:
                    return
                self._find(Torn(session_id, client_seq, seq, f"{push} came late"))
                return
            session.open_bundle = client_seq
        if session.open_after:
            if session.open_after[0] != push:
                self._find(Torn(session_id, client_seq, seq, f"{push} is not next"))
            if push in session.open_after:
                session.open_after.remove(push)
            if not session.open_after:
                session.open_bundle = 0
            return
        session.open_before.append(push)

    def _check_answer(
        self,
        session_id: str,
        session: SessionEntry,
        seq: int,
        client_seq: int,
        code: int,
        order: str,
    ) -> None:
        if session.open_bundle != client_seq:
            self._check_closed_bundle(session_id, session, seq)
        if not session.answered.add(client_seq):
            self._find(AnsweredTwice(session_id, client_seq, seq))
        bundle = session.bundles.pop(client_seq, None)
        before, after = bundle.around(code) if bundle is not None else ([], [])
        if bundle is not None and code:
            for push in (*bundle.around(0)[0], *bundle.around(0)[1]):
                if push not in before and push not in after:
                    session.bundle_of.pop(push, None)  # it came with the answer
        if session.open_before != before and not session.is_ended:
            why = f"{session.open_before} before the answer instead of {before}"
            self._find(Torn(session_id, client_seq, seq, why))
        session.open_before = []
        session.open_after = list(after)
        session.open_bundle = client_seq if after else 0
        if order:
            last = session.orders.get(order, 0)
            if client_seq < last:
                self._find(Reordered(session_id, "answer", client_seq, last))
            session.orders[order] = max(last, client_seq)

    def _check_closed_bundle(self, session_id: str, session: SessionEntry, seq: int) -> None:
        """A message outside the open bundle arrived, so the bundle must be complete."""
        if not session.open_bundle:
            return
        if (session.open_before or session.open_after) and not session.is_ended:
            rest = session.open_after or ["the answer"]
            self._find(Torn(session_id, session.open_bundle, seq, f"without {rest}"))
        session.open_bundle = 0
        session.open_before = []
        session.open_after = []
