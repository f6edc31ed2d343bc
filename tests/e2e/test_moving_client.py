"""A client whose address changes again and again, behind the bad network."""

from __future__ import annotations

from gatesvr import Client

from .bad_network import bad_network
from .harness import counter, running_gateway
from .plain_upstream import plain_upstream

MOVES = 8


async def test_a_client_moves_on_and_on(backend: str) -> None:
    """qh3 follows a client to three more addresses: then the client comes back, unasked.

    Were it left to find out by silence, it would take two heartbeat intervals, 30 s.
    """
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        bad_network(gateway.address, seed=1) as network,
        Client(
            "{}:{}".format(*network.address),
            openid="ann",
            insecure=True,
            transport=backend,
            request_timeout=20.0,
        ) as client,
    ):
        session_id = client.session_id
        for number in range(MOVES):
            network.change_source_ports()
            answer = await client.request("echo", b"%d" % number)
            assert answer.data == b"%d" % number
        assert client.session_id == session_id
        assert counter(gateway, "transport.address_changes") >= MOVES - 2
        limits = counter(gateway, "transport.path_limits")
        assert (limits > 0) == (backend == "qh3")
        assert counter(gateway, "session.resumes") == limits
