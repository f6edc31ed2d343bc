"""A gateway of several processes, and the service behind it, which runs in this process."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from gatesvr import Client
from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.service.request import Request
from gatesvr.service.service import UpstreamService

from ..cli.process import FREE_PORTS, Server, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Running", "children", "running"]

PATIENCE_S = 60.0
ROUTES = "".join(
    f'[[route]]\naction = "{action}"\nservice = "{service}"\n'
    for action, service in (("hello", "hello"), ("echo", "zone"), ("bound", "zone"))
)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, the oldest first (Linux)."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Running:
    """The gateway.

    Attributes:
        server: Its process, which starts the others.
        address: For clients.
        executed: How often the service ran each request.
        pusher: The stub by which the service pushes the notify of a ``bound`` request.
    """

    def __init__(self, backend: str) -> None:
        self.server: Server
        self.address = ""
        self.executed: dict[bytes, int] = {}
        self.pusher: Any = None
        self._backend = backend
        self._push_address = ""
        self._channels: list[grpc.aio.Channel] = []
        self._names = itertools.count(1)
        self.service = UpstreamService("zone")
        self.service.action("*")(self._handle)

    async def _handle(self, request: Request) -> bytes:
        self.executed[request.data] = self.executed.get(request.data, 0) + 1
        if request.action == "bound":
            answer = await self.pusher.PushToClient(
                pb.UnicastPushRequest(
                    target_type="session",
                    target_id=request.session_id,
                    msg_type="bound",
                    data=b"bound to " + request.data,
                    sync_hint=pb.NSH_BEFORE_RESPONSE,
                    bind_client_seq_id=request.client_seq_id,
                )
            )
            assert answer.success, answer
        return request.data

    def began(self, server: Server) -> None:
        """The gateway serves."""
        self.server = server
        self.address = server.address("clients")
        self._push_address = server.address("push")

    def stub(self) -> Any:
        """Return a stub on a connection of its own: the kernel picks the process it reaches."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        channel = grpc.aio.insecure_channel(self._push_address, options=options)
        self._channels.append(channel)
        return rpc.GatewayServiceStub(channel)  # type: ignore[no-untyped-call]

    def client(self, openid: str, **settings: Any) -> Client:
        """Return a client, which is not connected yet."""
        return Client(
            self.address, openid=openid, insecure=True, transport=self._backend, **settings
        )

    @property
    def pids(self) -> list[int]:
        """The processes that serve clients."""
        return children(self.server.process.pid)

    async def close(self) -> None:
        """Close the channels, and end the service."""
        for channel in self._channels:
            await channel.close()
        await self.service.stop()


@asynccontextmanager
async def running(
    folder: Path, backend: str, *args: str, workers: int = 4
) -> AsyncIterator[Running]:
    """Run the gateway until the end of the block; 0 workers: one process without supervisor."""
    gateway = Running(backend)
    address = await gateway.service.serve()
    config = folder / "gatesvr.toml"
    config.write_text(ROUTES)
    process = await start(
        folder,
        *("serve", *FREE_PORTS, "--config", str(config), "--transport", backend),
        *(("--workers", str(workers)) if workers else ()),
        *("--upstream", f"hello={address}", "--upstream", f"zone={address}"),
        *("--set", "session.max_inited_per_address=1000", "--set", "log.level=warning"),
        *("--set", "push.max_event_subscribers=200", *args),
    )
    server = Server(process)
    try:
        await server.read_until(" call ")
        gateway.began(server)
        gateway.pusher = gateway.stub()
        yield gateway
        await gateway.close()
        result = await server.stop()
        assert result.code == 0, result
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.wait_for(process.communicate(), PATIENCE_S)
