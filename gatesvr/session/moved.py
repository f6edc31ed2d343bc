"""A session as bytes: what one process exports, another installs, and goes on from (role.py).

The bytes are a SessionExport of protos/cluster.proto, which has the rule of versions. They hold all
that clients, services and pushers can tell a session by, so that none of them can tell that it
moved. A trace stays behind, with the headers that it adds to answers; so do the connection and what
it held: the client resumes.

The bytes hold the current resume token until the client has proved it. They go from process to
process and nowhere else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from google.protobuf.message import DecodeError

from .._core.limits import TokenBucket
from .._core.queue import BULK, KEEP
from .._pb import cluster_pb2 as pb
from ..config import normalize_zone
from ..errors import ExportError, GatesvrError
from ..protocol.identity import MAX_CLAIMS_BYTES, MAX_EXPIRES_AT, Identity
from ..protocol.messages import (
    LATEST_PROTOCOL,
    MAX_CLIENT_ID_BYTES,
    MAX_CLIENT_SEQ,
    MAX_HEAD_BYTES,
    MAX_OPENID_BYTES,
    OK,
    is_valid_text,
)
from ..protocol.network import network_of
from .context import Limits
from .memory import NAME_BYTES
from .notify import NotifyOrderingManager
from .outbox import (
    MAX_BOUND_BYTES,
    MAX_BOUND_NOTIFIES,
    MAX_CONFLATE_KEYS,
    MAX_HELD_BYTES,
    MAX_HELD_NOTIFIES,
    MAX_YOUNG_PUSH_IDS,
)
from .results import Result
from .resume import RESUME_BURST, RESUME_RATE, ResumeToken
from .session import Session
from .state import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .context import SessionContext

__all__ = ["MovedCall", "export_session", "install_session", "max_export_bytes"]

MAJOR = 1
MINOR = 0
"""The version that export_session() writes; see protos/cluster.proto."""
MAX_SESSION_ID_BYTES = 64
MAX_TRANSPORT_BYTES = 16
MAX_LIMIT = 1 << 30
MAX_AGE_MS = 1 << 48
FIELD_BYTES = 24
"""A message's cost in the bytes beside its body, at most: its columns, its tag and length."""
FIXED_BYTES = 16_384
"""All fields of a fixed size, names and addresses; the zone comes from a header (PROTOCOL 1.6)."""


class MovedCall(NamedTuple):
    """A request that was accepted and not answered, and the call to its service.

    Attributes:
        client_seq: The request's number.
        action: As the client wrote it; the route follows from it.
        service: The service that answers, by the routes of the process that accepted it.
        deadline: Loop time at which it is answered by ERROR 504; 0 for none.
        at: The process that made the call; empty where it was not started.
        request: The serialized ClientRequest where it was not started.
    """

    client_seq: int
    action: str
    service: str
    deadline: float
    at: str = ""
    request: bytes = b""


# Times: ms still to go, 0 for never and below 0 for overdue, as columns.pxd has them; and ages.


def _left_ms(deadline: float, now: float) -> int:
    if deadline <= 0 or deadline == math.inf:
        return 0
    left = _whole_ms(deadline - now)
    return left if left > 0 else -1


def _whole_ms(seconds: float) -> int:
    """Return ms, rounded up; a thousandth is the noise of doubles, not time."""
    return math.ceil(seconds * 1000 - 1e-3)


def _deadline(left_ms: int, now: float) -> float:
    return max(1e-9, now + left_ms / 1000) if left_ms else 0.0


def _age_ms(since: float, now: float) -> int:
    return max(0, int((now - since) * 1000 + 1e-3))


# Out.


def export_session(session: Session, calls: Iterable[MovedCall], now: float) -> bytes:
    """Return a session as bytes.

    Args:
        session: The session; it has no connection.
        calls: Its requests that this process has started, or not yet; in any order. Those that came
            with the session and are the calls of others are known to it.
        now: Loop time.

    Complexity: O(messages and requests); see max_export_bytes().
    """
    outbox = session.outbox
    token = session.token or ResumeToken()
    context = session.context
    moved = pb.MovedSession(
        session_id=session.session_id,
        openid=session.openid,
        epoch=session.epoch,
        client_id=session.client_id,
        zone=session.zone,
        user_ip=session.user_ip,
        user_port=session.user_port,
        transport=session.transport,
        is_logged_in=session.is_logged_in,
        is_after_failed_resume=session.is_after_failed_resume,
        protocol=session.protocol,
        capabilities=session.capabilities,
        max_message_bytes=session.max_message_bytes,
        generation=session.generation,
        create_age_ms=_age_ms(session.create_time, now),
        activity_age_ms=_age_ms(session.last_activity, now),
        detached_age_ms=_age_ms(session.detached_at, now),
        token=token.current,
        previous_token=token.previous,
        dead_token=token.dead,
        token_text=token.text,
        attempt=token.attempt,
        limits=pb.MovedLimits(**context.limits._asdict()),
        max_client_seq=session.max_client_seq,
        hello_seq=session.hello_seq,
        refused_logins=session.refused_logins,
        queue=outbox.queue.export(now),
    )
    if session.request_rate is not None:
        moved.request_rate_left_ms = _whole_ms(session.request_rate.full_in(now))
    if session.resume_rate is not None:
        moved.resume_rate_left_ms = _whole_ms(session.resume_rate.full_in(now))
    identity = session.auth
    if identity is not None:
        moved.identity.openid = identity.openid
        moved.identity.subject = identity.subject
        moved.identity.claims.update(identity.claims)
        moved.identity.expires_at = identity.expires_at
        if session.auth_deadline != math.inf:
            moved.identity.deadline_left_ms = _whole_ms(session.auth_deadline - now)
    if session.pending:
        _export_requests(session, calls, moved, now)
    if session.login_answer is not None:
        moved.login_answer.CopyFrom(session.login_answer.answer())
    if outbox.held:
        held = moved.held
        held.bodies.extend(body for body, _, _ in outbox.held)
        held.flags.extend(flags for _, flags, _ in outbox.held)
        held.left_ms.extend(_left_ms(expires_at, now) for _, _, expires_at in outbox.held)
        held.msg_ids.extend([0] * len(outbox.held))
    if outbox.push_ids:
        moved.push_ids.extend(outbox.push_ids)
        moved.push_id_age_ms.extend(_age_ms(at, now) for at in outbox.push_ids.values())
    if outbox.conflated:
        moved.conflate_keys.extend(outbox.conflated)
        moved.conflate_seqs.extend(seq for seq, _ in outbox.conflated.values())
        moved.conflate_bytes.extend(size for _, size in outbox.conflated.values())
    data = moved.SerializeToString()
    envelope = pb.SessionExport(major=MAJOR, minor=MINOR, crc32=crc32(data), session=data)
    return envelope.SerializeToString()


def _export_requests(
    session: Session, calls: Iterable[MovedCall], moved: pb.MovedSession, now: float
) -> None:
    by_seq = {call.client_seq: call for call in calls}
    notifies = session.outbox.notifies
    nothing: tuple[Sequence[bytes], Sequence[bytes]] = ((), ())
    for client_seq, entry in session.pending.items():
        before, after = notifies.of(client_seq) if notifies is not None else nothing
        request = moved.requests.add(
            client_seq=client_seq,
            msg_id=entry & 0xFFFF_FFFF,
            slot=entry >> 32,
            before=before,
            after=after,
        )
        # None of a hello that was answered: its call has ended, its login has not.
        call = by_seq.get(client_seq) or session.moved_calls.get(client_seq)
        if call is not None:
            request.action = call.action
            request.service = call.service
            request.deadline_left_ms = _left_ms(call.deadline, now)
            request.at = call.at
            request.request = call.request


def max_export_bytes(limits: Limits, max_message_bytes: int, max_names: int = NAME_BYTES) -> int:
    """Return a bound on the length of a session's bytes.

    Args:
        limits: The session's.
        max_message_bytes: The largest frame that its client may send and takes.
        max_names: Bytes of a push_id or a conflation key, at most.
    """
    requests = limits.max_in_flight
    # A bundle may exceed the cap of messages, and the ERROR in place of an answer that of bytes.
    messages = limits.max_queue_size + requests * (MAX_BOUND_NOTIFIES + 1) + MAX_HELD_NOTIFIES
    names = MAX_YOUNG_PUSH_IDS + MAX_CONFLATE_KEYS
    return (
        limits.max_queue_bytes
        + messages * (FIELD_BYTES + MAX_HEAD_BYTES)
        # Of each request its frame; of a hello its answer, too.
        + (requests + 1) * (max_message_bytes + NAME_BYTES)
        + MAX_BOUND_BYTES
        + MAX_HELD_BYTES
        + names * (max_names + FIELD_BYTES)
        + MAX_CLAIMS_BYTES
        + FIXED_BYTES
    )


# In.


def install_session(data: bytes, context: SessionContext, now: float) -> Session:
    """Return the session that bytes describe, without a connection; nothing else changes.

    Args:
        data: What export_session() has returned, in this version or another one of the same major.
        context: This process's, for new sessions; the session keeps the limits that it has.
        now: Loop time.

    Raises:
        ExportError: They are of another major version, were damaged, or make no session.
    """
    try:
        envelope = pb.SessionExport.FromString(data)
    except DecodeError:
        raise ExportError("these bytes are no session") from None
    if envelope.major != MAJOR:
        version = f"{envelope.major}.{envelope.minor}"
        raise ExportError(f"a session of version {version}; this process takes {MAJOR}.x alone")
    if crc32(envelope.session) != envelope.crc32:
        raise ExportError("the bytes of a session are damaged")
    try:
        return _install(pb.MovedSession.FromString(envelope.session), context, now)
    except (DecodeError, GatesvrError, ValueError, TypeError, OverflowError) as error:
        raise ExportError(f"these bytes make no session: {error}") from error


def _check(is_good: bool, message: str) -> None:
    if not is_good:
        raise ValueError(message)


def _install(moved: pb.MovedSession, context: SessionContext, now: float) -> Session:
    _check(
        bool(moved.session_id and moved.openid)
        and is_valid_text(moved.session_id, MAX_SESSION_ID_BYTES)
        and is_valid_text(moved.openid, MAX_OPENID_BYTES)
        and is_valid_text(moved.client_id, MAX_CLIENT_ID_BYTES),
        "its names are no valid text",
    )
    network_of(moved.user_ip)
    limits = Limits(
        moved.limits.max_in_flight,
        moved.limits.max_queue_size,
        moved.limits.max_queue_bytes,
        moved.limits.max_requests_per_second,
    )
    _check(all(0 < limit <= MAX_LIMIT for limit in limits[:3]), "its limits are out of range")
    _check(0 < moved.max_message_bytes <= MAX_LIMIT, "its max_message_bytes is out of range")
    _check(0 < moved.generation <= MAX_LIMIT, "its generation is out of range")
    _check(moved.protocol <= LATEST_PROTOCOL, "this process does not speak its protocol")
    _check(moved.user_port < 1 << 16, "its port is out of range")
    _check(
        moved.zone == normalize_zone(moved.zone)
        and is_valid_text(moved.transport, MAX_TRANSPORT_BYTES),
        "its zone or its transport is no valid text",
    )
    ages = (moved.create_age_ms, moved.activity_age_ms, moved.detached_age_ms)
    _check(all(age_ms <= MAX_AGE_MS for age_ms in ages), "its ages are out of range")
    _check(moved.max_client_seq <= MAX_CLIENT_SEQ, "its max_client_seq is out of range")
    session = Session(
        context.limited(limits),
        moved.session_id,
        moved.openid,
        now - moved.create_age_ms / 1000,
        client_id=moved.client_id,
        protocol=moved.protocol,
        capabilities=moved.capabilities,
        max_message_bytes=moved.max_message_bytes,
    )
    session.epoch = moved.epoch
    session.state = State.SUSPENDED if moved.is_logged_in else State.INITED
    session.is_logged_in = session.outbox.is_open = moved.is_logged_in
    session.is_after_failed_resume = moved.is_after_failed_resume
    session.generation = moved.generation
    session.last_activity = now - moved.activity_age_ms / 1000
    session.detached_at = now - moved.detached_age_ms / 1000
    session.refused_logins = moved.refused_logins
    session.max_client_seq = moved.max_client_seq
    session.token = ResumeToken.restored(
        moved.token, moved.previous_token, moved.dead_token, moved.token_text, moved.attempt
    )
    if session.request_rate is not None:
        session.request_rate.fill_in(moved.request_rate_left_ms / 1000, now)
    if moved.resume_rate_left_ms:
        session.resume_rate = TokenBucket(RESUME_RATE, RESUME_BURST)
        session.resume_rate.fill_in(moved.resume_rate_left_ms / 1000, now)
    session.restore_place(moved.zone, moved.user_ip, moved.user_port, moved.transport)
    if moved.HasField("identity"):
        identity = moved.identity
        _check(0 <= identity.expires_at <= MAX_EXPIRES_AT, "its credentials have no end")
        has_deadline = identity.HasField("deadline_left_ms")
        session.set_auth(
            Identity(identity.openid, identity.subject, dict(identity.claims), identity.expires_at),
            now + identity.deadline_left_ms / 1000 if has_deadline else math.inf,
        )
    session.queue.restore(moved.queue, now)
    _install_requests(session, moved, now)
    _install_notifies(session, moved, now)
    return session


def _install_requests(session: Session, moved: pb.MovedSession, now: float) -> None:
    pending = session.pending
    first_slot, next_slot, early = session.queue.slots()
    early_slots = set(early)
    slots = set()
    calls: dict[int, MovedCall] = {}
    last = 0
    for request in moved.requests:
        client_seq, slot = request.client_seq, request.slot
        _check(last < client_seq <= moved.max_client_seq, "its requests are out of order")
        if slot:
            _check(
                first_slot <= slot < next_slot and slot not in slots and slot not in early_slots,
                "a request's slot is not open",
            )
            slots.add(slot)
        last = client_seq
        pending[client_seq] = request.msg_id | slot << 32
        if request.before or request.after:
            outbox = session.outbox
            if outbox.notifies is None:
                outbox.notifies = NotifyOrderingManager(MAX_BOUND_NOTIFIES, MAX_BOUND_BYTES)
            outbox.notifies.restore(client_seq, request.before, request.after)
        if request.at or request.request:
            calls[client_seq] = MovedCall(
                client_seq,
                request.action,
                request.service,
                _deadline(request.deadline_left_ms, now),
                request.at,
                request.request,
            )
    if calls:
        session.moved_calls = calls
    _check(len(slots) + len(early_slots) == next_slot - first_slot, "a slot has no request")
    session.queue.reserved = len(pending)
    hello_seq = moved.hello_seq
    _check(not hello_seq or hello_seq in pending, "its hello is not among its requests")
    session.hello_seq = hello_seq
    if moved.HasField("login_answer"):
        _check(hello_seq > 0 and hello_seq not in session.moved_calls, "no hello was answered")
        session.login_answer = Result.of(hello_seq, moved.login_answer, OK)
    for client_seq in pending:
        is_answered = client_seq == hello_seq and session.login_answer is not None
        _check(
            is_answered or client_seq in session.moved_calls, "nobody answers one of its requests"
        )


def _install_notifies(session: Session, moved: pb.MovedSession, now: float) -> None:
    outbox = session.outbox
    held = moved.held
    count = len(held.bodies)
    _check(len(held.flags) == len(held.left_ms) == count, "its held notifies make no messages")
    _check(not count or not moved.is_logged_in, "it has logged in and holds notifies")
    _check(not any(flags & ~(KEEP | BULK) for flags in held.flags), "a held notify has no flags")
    if count:
        outbox.held = [
            (body, flags, _deadline(left_ms, now))
            for body, flags, left_ms in zip(held.bodies, held.flags, held.left_ms, strict=True)
        ]
    _check(len(moved.push_ids) == len(moved.push_id_age_ms), "its push_ids have no ages")
    if moved.push_ids:
        ages = moved.push_id_age_ms
        outbox.push_ids = {
            push_id: now - age_ms / 1000
            for push_id, age_ms in zip(moved.push_ids, ages, strict=True)
        }
    keys = moved.conflate_keys
    _check(
        len(keys) == len(moved.conflate_seqs) == len(moved.conflate_bytes),
        "its conflation keys have no seqs",
    )
    if keys:
        sizes = zip(moved.conflate_seqs, moved.conflate_bytes, strict=True)
        outbox.conflated = dict(zip(keys, sizes, strict=True))
