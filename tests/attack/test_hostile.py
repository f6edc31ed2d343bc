"""The hostile client itself: honest, it is served; in memory and on a socket."""

from __future__ import annotations

from gatesvr.transport.quic.interface import StreamData

from ..transport.harness import serving
from .hostile import (
    HALF_OPEN,
    HANDSHAKE,
    PROTOCOL_VIOLATION,
    HostilePair,
    frame,
    hostile_peer,
    new_token,
    ping,
    stream,
)


def test_a_pair_takes_frames(backend: str) -> None:
    pair = HostilePair(backend)
    pair.attack(stream(0, b"hello"), ping())
    pair.attack(stream(0, b" again", offset=5))
    assert b"".join(e.data for e in pair.events if isinstance(e, StreamData)) == b"hello again"
    assert pair.closed is None
    assert pair.attacks == 2
    pair.attack(new_token(b"x"))
    assert pair.closed is not None
    assert pair.closed.code == PROTOCOL_VIOLATION


def test_a_half_open_pair_takes_handshake_packets(backend: str) -> None:
    pair = HostilePair(backend, until=HALF_OPEN)
    pair.attack(ping(), epoch=HANDSHAKE)
    assert pair.closed is None
    pair.attack(frame(0x08, 0), epoch=HANDSHAKE)
    assert pair.closed is not None
    assert pair.closed.code == PROTOCOL_VIOLATION


async def test_a_peer_on_a_socket(backend: str) -> None:
    async with serving(backend) as server, hostile_peer(*server.listener.address) as peer:
        peer.send(stream(0, b"hello"))
        assert await peer.settle()
        handler = await server.handler()
        await handler.until(lambda: handler.data == b"hello")
        peer.send(new_token(b"x"))
        code, _ = await peer.until_closed()
        assert code == PROTOCOL_VIOLATION
