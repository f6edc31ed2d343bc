"""Streams beside the one: however many, they cost a bounded amount and disturb nobody."""

from __future__ import annotations

from ..e2e.harness import counter, running_gateway
from ..e2e.plain_client import answer, business, plain_client
from ..e2e.plain_upstream import plain_upstream

MAX_OPEN = 128
WAVE = 64
WAVES = 16
STOP_SENDING = 0x05


async def test_streams_that_never_end_are_bounded(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as healthy,
        plain_client(gateway.address) as bad,
    ):
        await healthy.login("healthy")
        await bad.login("bad")
        # It does not end the streams that it is asked to end.
        handlers = bad._quic._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        handlers[STOP_SENDING] = (_ignore_stop, handlers[STOP_SENDING][1])
        for wave in range(WAVES):
            for stream in range(wave * WAVE + 1, (wave + 1) * WAVE + 1):
                bad._quic.send_stream_data(4 * stream, b"x")
            bad.transmit()
            await bad.ping()
        assert 0 < counter(gateway, "transport.streams_refused") <= MAX_OPEN
        for client in (bad, healthy):
            client.send(business(2, "echo", b"fine"))
            assert answer(await client.receive()).data == b"fine"


def _ignore_stop(context: object, frame_type: int, buf: object) -> None:
    buf.pull_uint_var()  # type: ignore[attr-defined]
    buf.pull_uint_var()  # type: ignore[attr-defined]
