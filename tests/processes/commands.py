"""Every command of the push API at every process: ``python -m tests.processes.commands``.

Each connection for pushes reaches a process that the kernel picks, and the clients are spread in
the same way, so that with enough of both each command is carried out at, and for, each of them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gatesvr._pb import upstream_pb2 as pb
from gatesvr.errors import SessionLost

from .running import PATIENCE_S, running

if TYPE_CHECKING:
    from gatesvr import Client

    from .running import Running

__all__ = ["command_all"]


async def command_all(gateway: Running, clients: int, connections: int) -> Counter[str]:
    """Give each command over each connection for each client; return how many were right.

    Raises:
        AssertionError: One was not.
    """
    counts: Counter[str] = Counter()
    users = [gateway.client(f"user{number}", reconnect_timeout=0) for number in range(clients)]
    await asyncio.gather(*(user.connect() for user in users))
    expected: dict[str, list[bytes]] = {user.session_id: [] for user in users}
    stubs = [gateway.stub() for _ in range(connections)]
    streams = [stub.SubscribeEvents(pb.SubscribeRequest(kinds=["kicked"])) for stub in stubs]
    await asyncio.gather(*(stream.initial_metadata() for stream in streams))
    for number, stub in enumerate(stubs):
        await _push_to_all(number, stub, gateway, users, expected, counts)
    got = await asyncio.gather(*(_take(user, len(expected[user.session_id])) for user in users))
    for user, found in zip(users, got, strict=True):
        assert found == expected[user.session_id], user.session_id
    await _kick_all(stubs, users, set(expected), streams, counts)
    return counts


async def _push_to_all(
    number: int,
    stub: Any,
    gateway: Running,
    users: list[Client],
    expected: dict[str, list[bytes]],
    counts: Counter[str],
) -> None:
    for index, user in enumerate(users):
        mine = expected[user.session_id]
        for kind, target in (("openid", f"user{index}"), ("session", user.session_id)):
            data = f"{kind} by {number}".encode()
            answer = await stub.PushToClient(
                pb.UnicastPushRequest(
                    target_type=kind, target_id=target, msg_type="push", data=data
                )
            )
            assert answer.success, answer
            mine.append(data)
            counts[f"pushes by {kind}"] += 1
            info = await stub.GetSession(pb.GetSessionRequest(target_type=kind, target_id=target))
            assert info.session_id == user.session_id, info
            counts[f"GetSession by {kind}"] += 1
        gateway.pusher = stub
        name = f"{index}/{number}".encode()
        assert (await user.request("bound", name)).data == name
        mine.append(b"bound to " + name)
        counts["bound notifies"] += 1
    data = f"to all by {number}".encode()
    sent = await stub.BroadcastToClients(pb.BroadcastRequest(msg_type="push", data=data))
    assert sent.sent_count == len(users), sent
    for mine in expected.values():
        mine.append(data)
    counts["broadcasts"] += 1
    data = f"to some by {number}".encode()
    some = users[number % 2 :: 2]
    sent = await stub.MulticastToClients(
        pb.MulticastRequest(
            push=pb.BroadcastRequest(msg_type="push", data=data),
            targets=[
                pb.UnicastTarget(target_type="session", target_id=user.session_id) for user in some
            ],
        )
    )
    assert sent.sent_count == len(some), sent
    for user in some:
        expected[user.session_id].append(data)
    counts["multicasts"] += 1
    found, token = set(), ""
    while True:
        page = await stub.ListSessions(pb.ListSessionsRequest(page_size=3, page_token=token))
        ids = [session.session_id for session in page.sessions]
        assert found.isdisjoint(ids), ids
        found.update(ids)
        token = page.next_page_token
        if not token:
            break
    assert found == expected.keys()
    counts["lists"] += 1


async def _take(user: Client, count: int) -> list[bytes]:
    async with asyncio.timeout(PATIENCE_S):
        return [(await anext(user)).data for _ in range(count)]


async def _kick_all(
    stubs: list[Any],
    users: list[Client],
    ids: set[str],
    streams: list[Any],
    counts: Counter[str],
) -> None:
    for index, user in enumerate(users):
        kick = pb.KickRequest(target_type="openid", target_id=f"user{index}", reason="enough")
        answer = await stubs[index % len(stubs)].KickClient(kick)
        assert answer.success, answer
        assert answer.sessions == 1, answer
        with pytest.raises(SessionLost):
            async with asyncio.timeout(PATIENCE_S):
                await anext(user)
        counts["kicks"] += 1
    for stream in streams:
        kicked = set()
        async with asyncio.timeout(PATIENCE_S):
            while len(kicked) < len(users):
                event = await stream.read()
                assert event.session_id not in kicked, event
                kicked.add(event.session_id)
        assert kicked == ids
        counts["event streams"] += 1
        stream.cancel()
    for user in users:
        await user.close()


async def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.processes.commands")
    parser.add_argument("--backend", default="qh3", choices=("aioquic", "qh3"))
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--connections", type=int, default=24)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        async with running(Path(folder), options.backend, workers=options.workers) as gateway:
            counts = await command_all(gateway, options.clients, options.connections)
    for name, count in sorted(counts.items()):
        print(f"  {name:<36} {count:>8}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
