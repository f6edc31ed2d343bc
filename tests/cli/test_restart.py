"""A gateway that is killed: what its clients and applications learn, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatesvr.errors import CloseCode, SessionLost
from gatesvr.protocol.link import Disconnect

from .fleet import fleet, kill, until
from .process import FREE_PORTS, serving

if TYPE_CHECKING:
    from pathlib import Path

CLIENTS = 20


async def test_killed_and_restarted(backend: str, tmp_path: Path) -> None:
    flags = ("serve", "--demo", "--transport", backend)
    async with serving(tmp_path, *flags, *FREE_PORTS) as server:
        address = server.address("clients")
        async with fleet(address, CLIENTS, backend, tmp_path) as members:
            for member in members:
                member.ask("slow", ms="60000")  # under way when it dies
            await until(members, lambda member: member.client.in_flight)
            await kill(server)
            for member in members:
                member.ask("echo")  # the gateway is gone
            again = ("--bind", address, "--grpc-bind", "127.0.0.1:0")
            async with serving(tmp_path, *flags, *again):
                await until(members, lambda member: member.told)
                for member in members:
                    assert [end.how for end in member.ends] == [Disconnect("reset")]
                    assert [str(error) for error in member.told] == [
                        "the session is lost: unknown_session"
                    ]
                    answer = await member.client.request("echo", b"again")
                    assert answer.data == b"again"
                    assert member.client.session_id != member.first_session
                await until(members, lambda member: len(member.failures) == 2)
                for member in members:
                    # They may have been done or not.
                    assert [type(error) for error in member.failures] == [SessionLost] * 2
                    assert len(member.told) == 1


async def test_killed_and_gone(backend: str, tmp_path: Path) -> None:
    flags = ("--transport", backend, "--set", "session.heartbeat_interval=1s")
    async with (
        serving(tmp_path, "serve", "--demo", *flags, *FREE_PORTS) as server,
        fleet(server.address("clients"), CLIENTS, backend, tmp_path) as members,
    ):
        await until(members, lambda member: member.client.is_connected)
        for member in members:
            assert member.client._session.heartbeat_interval == 1.0
            member.begin_counting()
        await kill(server)
        await until(members, lambda member: member.ends)
        for member in members:
            (end,) = member.ends
            assert end.how == Disconnect("local", CloseCode.TIMEOUT, "silent")
            assert 1 <= end.heartbeats <= 3
            assert not member.client.is_connected
            assert member.told == []  # the session may be found again
