"""Sessions over WebTransport: the same life as over QUIC, and from one way to the other."""

from __future__ import annotations

from gatesvr._pb import message_pb2 as pb

from ..fakes import until
from .harness import counter, pusher, running_gateway
from .plain_client import answer, business, heartbeat, stop
from .plain_upstream import plain_upstream
from .wt_client import wt_client

WEB = "transport.web.bind=127.0.0.1:0"


async def test_a_whole_session(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, WEB) as gateway,
        pusher(gateway) as services,
        wt_client(gateway.web_address) as client,
    ):
        started = await client.login("ann")
        await client.send(*(business(seq, "echo", b"%d" % seq, ack=1) for seq in range(2, 12)))
        got = [await client.receive() for _ in range(10)]
        assert sorted(answer(push).data for push in got) == sorted(b"%d" % n for n in range(2, 12))
        await services.push_all(started.session_id, b"news")
        push = await client.receive()
        assert (answer(push).data, push.seq_id) == (b"news", 12)
        info = await services.info(started.session_id)
        assert info.transport == "webtransport"
        assert upstream.requests[-1].peer.transport == "webtransport"
        await client.send(heartbeat(7))
        assert (await client.receive()).type == pb.PUSH_HEARTBEAT_RESP
        large = b"x" * 900_000
        await client.send(business(12, "echo", large, ack=12))
        assert answer(await client.receive()).data == large
        await client.send(stop())
        assert await client.closed() == 0
        await until(lambda: not counter(gateway, "web.webtransport_sessions"))
        assert counter(gateway, "web.webtransport_accepted") == 1
        assert gateway.figures().closes["local"]["0"] == 1
