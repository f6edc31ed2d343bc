"""Assignment: what a worker gets from its supervisor, and the channel it comes by.

The channel is a pair of connected sockets; a worker inherits one end. It has one JSON document a
line: down go the Assignment, then Go, Cover when another worker has died or was replaced, and at
the end Leave or Hurry; up goes Ready, or Failed, and at the end Farewell. Its end says to either
side that the other one is gone, however it died. What has an answer is no document, but a call
(calls.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any, Self

import msgspec

from ..config import Config
from ..errors import ConfigError, GatesvrError

__all__ = [
    "Assignment",
    "Channel",
    "ChannelError",
    "Cover",
    "Failed",
    "Farewell",
    "Go",
    "Hurry",
    "Leave",
    "Ready",
    "board_file",
    "datagram_socket",
    "hub_socket",
    "peer_socket",
    "read_assignment",
]

MAX_LINE_BYTES = 4 << 20
"""Of a document: a configuration file has 256 KiB at most."""


class ChannelError(GatesvrError):
    """The channel has ended, or what came by it is none of its documents."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a worker has to know before it starts.

    Attributes:
        number: Its number, 0 to 255; its slot is ``number % slots``.
        slots: Slots of the gateway.
        node_id: Its name in the directory, never used again.
        config: The configuration, with ports that are free reserved and filled in.
        folder: The private folder of the gateway's Unix sockets.
        key: Makes connection ids, 16 bytes.
        secret: Makes Retry tokens and stateless resets.
        sockets: Inherited sockets by the setting that names their address: descriptors.
        others: The same of each other slot, for the time in which that has no worker.
        loop: Name of the event loop.
        is_demo: Whether this is ``gatesvr serve --demo``.
    """

    number: int
    slots: int
    node_id: str
    config: Config
    folder: str
    key: bytes
    secret: bytes
    sockets: dict[str, list[int]] = {}
    others: dict[int, dict[str, list[int]]] = {}
    loop: str = "uvloop"
    is_demo: bool = False


def hub_socket(folder: str) -> str:
    """Return the path of the supervisor's socket for calls."""
    return os.path.join(folder, "hub")


def board_file(folder: str) -> str:
    """Return the path of the board."""
    return os.path.join(folder, "board")


def peer_socket(assignment: Assignment) -> str:
    """Return the path of a worker's socket for calls."""
    return os.path.join(assignment.folder, f"{assignment.number}.peer")


def datagram_socket(assignment: Assignment) -> str:
    """Return the path of a worker's socket for datagrams that its siblings hand on."""
    return os.path.join(assignment.folder, f"{assignment.number}.udp")


class Go(msgspec.Struct, frozen=True, tag=True):
    """The worker is one of the gateway's now; it may log."""


class Cover(msgspec.Struct, frozen=True, tag=True):
    """The worker is to read the sockets of other slots, which have no worker now, too.

    Attributes:
        slots: These, in the place of those of the order before.
    """

    slots: list[int]


class Leave(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker is to drain and end; None for what its configuration says (Gateway.drain()).

    Attributes:
        rate: GOAWAYs a second.
        timeout: Longest time, seconds.
        ready_wait: Seconds of false readiness first.
        to: Another gateway to send QUIC clients to.
        to_web: The same for web clients.
        nodes: Workers that go on: this one leaves its sockets and its sessions to them.
    """

    rate: float | None = None
    timeout: float | None = None
    ready_wait: float | None = None
    to: str = ""
    to_web: str = ""
    nodes: list[str] = []


class Hurry(msgspec.Struct, frozen=True, tag=True):
    """The worker is to close all connections and end."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker serves.

    Attributes:
        version: Of the package.
        udp: The address of clients.
        web: That of web clients, empty for none.
        grpc: That of upstreams.
        summary: What a banner says of a worker.
    """

    version: str
    udp: str
    web: str
    grpc: str
    summary: dict[str, Any] = {}


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker cannot serve, and ends.

    Attributes:
        why: The reason, one line.
        is_config: Whether the configuration is at fault.
    """

    why: str
    is_config: bool

    @classmethod
    def of(cls, error: GatesvrError) -> Self:
        """Return what a worker says of an error that ends it."""
        why = str(error) or type(error).__name__
        return cls(why=" ".join(why.splitlines()), is_config=isinstance(error, ConfigError))


class Farewell(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker ends.

    Attributes:
        figures: Its last ones; see questions.figures_to_bytes().
    """

    figures: bytes


class Channel:
    """One end of a channel, on an event loop.

    Args:
        sock: The end; the channel closes it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Begin; call it first."""
        self._reader, self._writer = await asyncio.open_connection(
            sock=self._sock, limit=MAX_LINE_BYTES
        )

    def send(self, document: msgspec.Struct) -> None:
        """Send a document; nothing where the other end is gone."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(document) + b"\n")

    async def receive(self, kind: Any) -> Any:
        """Return the next document, one of a kind; None where the other end is gone.

        Raises:
            ChannelError: It is none.
        """
        assert self._reader is not None
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        except ValueError as error:
            raise ChannelError(str(error)) from None
        if not line.endswith(b"\n"):
            return None
        return _decode(line, kind)

    def close(self) -> None:
        """End the channel."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()


def read_assignment(sock: socket.socket) -> Assignment | None:
    """Wait for the assignment; None where the supervisor is gone.

    Raises:
        ChannelError: It is none.
    """
    data = bytearray()
    while not data.endswith(b"\n"):
        part = sock.recv(1 << 16)
        if not part:
            return None
        data += part
        if len(data) > MAX_LINE_BYTES:
            raise ChannelError("the assignment is too long")
    found: Assignment = _decode(bytes(data), Assignment)
    return found


def _decode(line: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, GatesvrError) as error:
        raise ChannelError(f"not understood: {error}") from None
