"""The attacker's process, and the tools that the cases are written with."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import TYPE_CHECKING

import grpc.aio
from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair

from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.config import parse_address

from ..e2e.plain_client import PlainClient
from ..soak.child import Commands
from .case import ATTACK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from multiprocessing.connection import Connection as Pipe

    from .case import Case

__all__ = ["Attacker", "crypto_frame", "initial", "padded", "serve_attacker"]

NICE = 10
"""The attacker's machine is another one: its CPU should cost the gateway's nothing."""
QUIC_V1 = bytes.fromhex("00000001")
MIN_INITIAL_BYTES = 1200
CONNECTING = 16
RESERVE_S = 0.5
"""Left of the attack's time when it stops waiting for closes."""
LISTEN_S = 0.3
BATCH = 25


async def serve_attacker(pipe: Pipe) -> None:
    """Attack: takes ``(case, backend, *addresses)``, says what it saw.

    Says (seen, what went wrong or ``""``), and a name's calls of the service are the runner's.
    """
    from .cases import ALL

    commands = Commands(pipe)
    os.nice(NICE)
    # What the gateway does to our connections is counted, not told.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    cases = {case.name: case for case in ALL}
    with suppress(EOFError):
        while True:
            name, *where = await commands.next()
            pipe.send(await _attack(cases[name], Attacker(*where)))


async def _attack(case: Case, attacker: Attacker) -> tuple[Counter[str], str]:
    wrong = ""
    try:
        async with asyncio.timeout(ATTACK_S):
            await case.attack(attacker)
    except TimeoutError:
        wrong = f"the attack did not end in {ATTACK_S:.0f} s"
    except Exception as error:
        wrong = f"the attack broke: {error!r}"
    await attacker.stop()
    return attacker.seen, wrong


class Attacker:
    """What an attack has to work with.

    Args:
        backend: The gateway's QUIC library.
        address: Its address for clients, HOST:PORT.
        push_address: Its address for pushes.
        admin_url: Where its admin server is, empty for none.
        web_address: Its address for WebSocket, empty for none.

    Attributes:
        server: The address for clients, (host, port).
        seen: Counts what was sent and seen: ``datagrams``, ``bytes``, ``answers``,
            ``answer bytes``, ``closed CODE``, ``left open``, and whatever a case adds.
    """

    def __init__(
        self, backend: str, address: str, push_address: str, admin_url: str, web_address: str
    ) -> None:
        self.backend = backend
        self.server = parse_address(address)
        self.push_address = push_address
        self.admin_url = admin_url
        self.web_address = web_address
        self.seen: Counter[str] = Counter()
        self._stack = AsyncExitStack()
        self._hosts = count(2)
        self._deadline = asyncio.get_running_loop().time() + ATTACK_S - RESERVE_S

    async def stop(self) -> None:
        """Let go of every socket."""
        await self._stack.aclose()

    # Datagrams.

    def sockets(self, number: int, *, hosts: int = 1) -> list[socket.socket]:
        """Return sockets of their own ports, on so many addresses of 127.0.0.0/8 in turn."""
        made = []
        names = [f"127.0.0.{next(self._hosts)}" for _ in range(hosts)]
        for i in range(number):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._stack.callback(sock.close)
            sock.setblocking(False)
            sock.bind((names[i % hosts], 0))
            sock.connect(self.server)
            made.append(sock)
        return made

    async def flood(
        self,
        datagrams: Iterable[bytes],
        *,
        rate: float = 10_000,
        sockets: Sequence[socket.socket] | None = None,
        listen_s: float = LISTEN_S,
    ) -> None:
        """Send datagrams, spread over sockets, at a rate; count them and what comes back."""
        loop = asyncio.get_running_loop()
        sockets = sockets or self.sockets(16)
        seen = self.seen
        due = loop.time()
        for i, data in enumerate(datagrams):
            with suppress(BlockingIOError, ConnectionError):
                sockets[i % len(sockets)].send(data)
                seen["datagrams"] += 1
                seen["bytes"] += len(data)
            if i % BATCH == BATCH - 1:
                due += BATCH / rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                self._listen(sockets)
        until = loop.time() + listen_s
        while loop.time() < until:
            await asyncio.sleep(0.02)
            self._listen(sockets)

    def _listen(self, sockets: Sequence[socket.socket]) -> None:
        for sock in sockets:
            with suppress(BlockingIOError, ConnectionError):
                while data := sock.recv(2048):
                    self.seen["answers"] += 1
                    self.seen["answer bytes"] += len(data)
                    self.seen["longest answer"] = max(self.seen["longest answer"], len(data))

    # Clients that complete their handshake.

    async def connect(
        self,
        *,
        host: str = "127.0.0.1",
        configure: Callable[[QuicConfiguration], None] | None = None,
    ) -> PlainClient:
        """Complete a handshake; ConnectionError where the gateway refuses it."""
        loop = asyncio.get_running_loop()
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["gatesvr"], verify_mode=ssl.CERT_NONE
        )
        if configure is not None:
            configure(configuration)
        transport, client = await loop.create_datagram_endpoint(
            lambda: PlainClient(QuicConnection(configuration=configuration)),
            local_addr=(host, 0),
        )
        self._stack.callback(transport.close)
        client.connect(self.server)
        await client.wait_connected()
        return client

    async def connect_all(self, number: int) -> list[PlainClient]:
        """Complete so many handshakes; those that the gateway refuses are counted."""
        turns = asyncio.Semaphore(CONNECTING)

        async def one() -> PlainClient | None:
            async with turns:
                try:
                    return await self.connect()
                except ConnectionError:
                    self.seen["refused"] += 1
                    return None

        made = await asyncio.gather(*(one() for _ in range(number)))
        return [client for client in made if client is not None]

    async def each(
        self,
        number: int,
        attack: Callable[[PlainClient, int], Coroutine[None, None, None]],
    ) -> list[PlainClient]:
        """Connect so many clients and let each do something."""
        clients = await self.connect_all(number)
        await asyncio.gather(*(attack(client, i) for i, client in enumerate(clients)))
        return clients

    async def note_closes(
        self, clients: Iterable[PlainClient], wait_s: float | None = None
    ) -> None:
        """Wait for the gateway to close each; count the codes, and those that it leaves open.

        Args:
            clients: Of the attack.
            wait_s: How long; by default nearly until the attack has to end.
        """
        clients = list(clients)
        until = self._deadline if wait_s is None else asyncio.get_running_loop().time() + wait_s
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                for client in clients:
                    await client.closed()
        for client in clients:
            if client.terminated is None:
                self.seen["left open"] += 1
            else:
                self.seen[f"closed {client.terminated.error_code}"] += 1

    def note_pushes(self, client: PlainClient) -> None:
        """Count what a client was sent so far, by type."""
        for push in client.pushes:
            self.seen[f"pushes of type {push.type}"] += 1

    # The push port.

    def stub(self, credentials: grpc.ChannelCredentials | None = None) -> rpc.GatewayServiceStub:
        """Return a stub of the gateway's push API, in plain text without credentials."""
        if credentials is None:
            channel = grpc.aio.insecure_channel(self.push_address)
        else:
            channel = grpc.aio.secure_channel(self.push_address, credentials)
        self._stack.push_async_callback(channel.close)
        return rpc.GatewayServiceStub(channel)


# Packets made by hand.


def client_hello() -> tuple[bytes, bytes]:
    """Return a TLS client hello, and the source connection id that it belongs to."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["gatesvr"], verify_mode=ssl.CERT_NONE
    )
    quic = QuicConnection(configuration=configuration)
    quic.connect(("127.0.0.1", 1), 0.0)
    sender = quic._crypto_streams[tls.Epoch.INITIAL].sender
    return bytes(sender._buffer), quic.host_cid


def crypto_frame(data: bytes, offset: int = 0) -> bytes:
    """Return a CRYPTO frame."""
    return b"\x06" + encode_uint_var(offset) + encode_uint_var(len(data)) + data


def padded(data: bytes, size: int) -> bytes:
    """Return data with PADDING frames up to a size."""
    return data + bytes(max(0, size - len(data)))


def initial(
    payload: bytes,
    *,
    source_id: bytes,
    target_id: bytes | None = None,
    number: int = 0,
    token: bytes = b"",
    size: int = MIN_INITIAL_BYTES,
) -> bytes:
    """Return an Initial of so many bytes, padded inside of its packet.

    Args:
        payload: Its frames.
        source_id: The client's connection id.
        target_id: The id it asks for; by default a random one.
        number: Its packet number.
        token: A Retry token.
        size: Of the datagram; a payload that needs more gets more.
    """
    target_id = target_id if target_id is not None else os.urandom(8)
    head = b"\xc3" + QUIC_V1 + bytes([len(target_id)]) + target_id
    head += bytes([len(source_id)]) + source_id + encode_uint_var(len(token)) + token
    payload = padded(payload, size - len(head) - 2 - 4 - 16)
    head += (0x4000 | (4 + len(payload) + 16)).to_bytes(2, "big") + number.to_bytes(4, "big")
    crypto = CryptoPair()
    crypto.setup_initial(cid=target_id, is_client=True, version=1)
    return crypto.encrypt_packet(head, payload, number)
