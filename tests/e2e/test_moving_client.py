"""A client whose address changes again and again, behind the bad network."""

from __future__ import annotations

import sys

import pytest

from gatesvr import Client

from ..fakes import until
from .bad_network import bad_network
from .harness import counter, running_gateway
from .plain_client import host_port
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


@pytest.mark.parametrize("batch_io", [True, False], ids=["batch", "plain"])
@pytest.mark.skipif(sys.platform != "linux", reason="the host has one IPv4 loopback")
async def test_answers_come_from_the_address_that_was_asked_after_a_move(
    backend: str, batch_io: bool
) -> None:
    sets = ("transport.bind=0.0.0.0:0", f"transport.batch_io={str(batch_io).lower()}")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, *sets) as gateway,
        bad_network(("127.0.0.2", host_port(gateway.address)[1]), seed=1) as network,
        Client(
            "{}:{}".format(*network.address), openid="ann", insecure=True, transport=backend
        ) as client,
    ):
        for number in range(2):
            assert (await client.request("echo", b"%d" % number)).data == b"%d" % number
            network.change_source_ports()
        assert (await client.request("echo", b"moved")).data == b"moved"
        await until(lambda: counter(gateway, "transport.address_changes") > 0)
        assert counter(gateway, "session.resumes") == 0
