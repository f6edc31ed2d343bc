"""The rig of tests/cluster/rig.py with the commands over all its processes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gatesvr._pb import message_pb2 as message_pb
from gatesvr._pb import upstream_pb2 as pb
from gatesvr.cluster.commands import ClusterCommands
from gatesvr.config import PushConfig
from gatesvr.control.local import LocalPushApi
from gatesvr.control.registration import RegistrationCommands
from gatesvr.upstream.call import UpstreamCounters
from gatesvr.upstream.registry import UpstreamRegistry

from .rig import Cluster, Process

if TYPE_CHECKING:
    from gatesvr._core.codec import ServerPush
    from gatesvr.service.push_api import PushApi

    from ..dispatch.rig import Client

__all__ = ["Member", "RoutedCluster", "texts"]


class Member:
    """A process with the commands over all."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.down: set[str] = set()
        self.added: list[str] = []
        self.registry = UpstreamRegistry(
            {},
            PushConfig(),
            ["chat"],
            UpstreamCounters(),
            process.clock,
            on_added=lambda endpoint: self.added.append(endpoint.address),
            on_removed=lambda endpoint: None,
            is_down=lambda endpoint: endpoint.address in self.down,
        )
        process.engine.commands.registration = RegistrationCommands(self.registry)
        node: Any = process.node
        self.commands = ClusterCommands(
            process.engine.commands,
            process.sessions,
            self.registry,
            node,
            node._directory,
            node._context.peers,
        )
        own = node.handlers()
        node.handlers = lambda: {**own, **self.commands.handlers()}
        self.api: PushApi = LocalPushApi(self.commands)

    async def push(self, **fields: Any) -> pb.UnicastPushResponse:
        answer: Any = self.commands.pushes.push(pb.UnicastPushRequest(**fields))
        response: pb.UnicastPushResponse = await answer if asyncio.iscoroutine(answer) else answer
        return response

    async def user(self, openid: str, data: str, **fields: Any) -> str:
        """Push to a user; return the error_code."""
        fields = {"target_type": "openid", "target_id": openid, "data": data.encode(), **fields}
        return (await self.push(**fields)).error_code


class RoutedCluster(Cluster):
    """Processes ``a``, ``b``, …, each with its commands in ``members``."""

    def __init__(self, nodes: str = "ab", **session: Any) -> None:
        super().__init__(nodes, **session)
        self.members: dict[str, Member] = {}

    async def boot(self, node_id: str) -> Process:
        process = self.processes[node_id] = Process(self, node_id, self.config)
        member = self.members[node_id] = Member(process)
        await process.start()
        await member.commands.start()
        return process

    def __getitem__(self, node_id: str) -> Member:
        return self.members[node_id]

    async def __aexit__(self, *exc: object) -> None:
        for member in self.members.values():
            await member.commands.stop()
        await super().__aexit__(*exc)


async def texts(client: Client) -> list[str]:
    """Take what came for a client: the data of notifies, "answer" for answers."""
    return [_text(push) for push in await client.run()]


def _text(push: ServerPush) -> str:
    if push.client_seq_id:
        return "answer"
    if push.type != message_pb.PUSH_BUSINESS_DATA:
        return str(push.type)
    return message_pb.BusinessResponse.FromString(push.payload).data.decode()
