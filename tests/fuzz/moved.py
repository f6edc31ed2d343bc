"""Sessions from other processes: bytes make one that works, or are refused and change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from zlib import crc32

from gatesvr._pb import cluster_pb2 as pb
from tests.session.arrivals import away, install_and_use, moved_calls, opened
from tests.session.rig import CUT, Sessions, answer_body, notify

from .reader import Reader


def check(data: bytes) -> None:
    """Install the bytes as they are, or under a checksum that is good; the first one says which."""
    reader = Reader(data)
    is_sealed = reader.number() & 1
    rest = data[1:]
    if is_sealed:
        envelope = pb.SessionExport(major=1, crc32=crc32(rest), session=rest)
        rest = envelope.SerializeToString()
    install_and_use(rest)


def _session(seed: int) -> bytes:
    """Return the bytes of a session with some of everything, by chance."""
    random = Random(seed)
    sessions = Sessions()
    if seed % 3 == 0:
        return sessions.manager.moves.export(away(sessions), moved_calls(), sessions.now)
    session, link, _ = sessions.login() if seed % 3 == 1 else sessions.start()
    for number in range(random.randrange(6)):
        sessions.ask(session, random.choice(("request", "completion")))
        session.push(
            notify(random.randbytes(5)),
            now=sessions.now,
            ttl=random.choice((0.0, 3.0)),
            push_id=random.choice(("", str(number))),
            conflate_key=random.choice(("", "key")),
        )
    for seq in list(session.pending)[1:]:
        session.answer(seq, answer_body(seq), now=sessions.now)
    if seed % 2:
        sessions.feed(session)
    sessions.offer_hello(session, session.max_client_seq + 1)
    sessions.manager.detach(session, link, CUT, sessions.now)
    calls = [call._replace(client_seq=seq) for seq in session.pending for call in moved_calls()[:1]]
    return sessions.manager.moves.export(session, calls, sessions.now)


def seeds() -> Iterator[bytes]:
    """Yield sessions, sealed and not."""
    for seed in range(12):
        data = _session(seed)
        yield b"\0" + data if seed % 4 == 0 else b"\1" + opened(data).SerializeToString()
