"""Sessions that leave with something of everything, and what becomes of their bytes elsewhere."""

from __future__ import annotations

from zlib import crc32

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.errors import ExportError
from gatesvr.protocol.identity import Identity
from gatesvr.session.moved import MovedCall
from gatesvr.session.session import Session

from .rig import CUT, Sessions, answer_body, index_sizes, notify


def sealed(moved: pb.MovedSession, major: int = 1, minor: int = 0) -> bytes:
    """Return the bytes of a session as export() makes them."""
    data = moved.SerializeToString()
    return pb.SessionExport(
        major=major, minor=minor, crc32=crc32(data), session=data
    ).SerializeToString()


def opened(data: bytes) -> pb.MovedSession:
    return pb.MovedSession.FromString(pb.SessionExport.FromString(data).session)


def moved_call(seq: int, at: str = "A", request: bytes = b"") -> MovedCall:
    return MovedCall(seq, "echo", "svc", 130.0, at, request)


def away(sessions: Sessions) -> Session:
    """Return a logged-in session without a connection, with something of everything."""
    session, link, _ = sessions.login()
    now = sessions.now
    for seq in (2, 3, 4, 5):
        sessions.ask(session, "request" if seq < 5 else "completion")
    session.answer(3, answer_body(3, b"early"), [notify(b"with it")], now=now)
    assert session.bind(notify(b"bound"), 4, True, now=now, push_id="b").is_ok
    assert session.push(notify(b"plain"), now=now, push_id="p").is_ok
    assert session.push(notify(b"short"), now=now, ttl=5.0, conflate_key="k").is_ok
    assert session.push(notify(b"s"), now=now, ttl=9.0, conflate_key="k").is_ok
    sessions.manager.authenticate(session, Identity("alice", "sub", {"a": "b"}, 9.9e8), now + 60)
    sessions.manager.detach(session, link, CUT, now)
    return session


def moved_calls() -> list[MovedCall]:
    return [moved_call(2), moved_call(4, "", b"frame"), moved_call(5)]


def exported(sessions: Sessions) -> bytes:
    return sessions.manager.moves.export(away(sessions), moved_calls(), sessions.now)


def install_and_use(data: bytes) -> Session | None:
    """Install bytes that may be no session's: either it works as one, or nothing has changed."""
    there = Sessions()
    try:
        session = there.manager.moves.install(data, there.now)
    except ExportError:
        assert not any(index_sizes(there.manager).values())
        assert there.manager.counters.queued_bytes == 0
        return None
    # It works as any other: nothing raises.
    there.manager.moves.own(session, 1, there.now)
    if not session.is_valid:
        return session
    session.queue._check()
    session.info(there.now, 1 << 40)
    session.push(notify(b"new"), now=there.now, conflate_key="k", push_id="new")
    there.manager.moves.attach(session, there.link(), there.now)
    for seq in list(session.pending):
        session.answer(seq, answer_body(seq), now=there.now)
    session.sender.feed(there.now)
    session.ack(session.next_server_seq - 1, there.now)
    session.queue._check()
    there.now += 3_600
    there.manager.sweep(there.now)
    return session
