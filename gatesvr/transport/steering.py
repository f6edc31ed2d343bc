"""Which process of a gateway reads a datagram: a number hidden in connection ids.

The processes of one gateway have a UDP socket each on the same port (SO_REUSEPORT), in *slots*: a
process with the number n reads the socket of slot ``n % slots``. Each connection id that it issues
is its number and seven random bytes, enciphered by SPECK 64/128 under a key that only the processes
have. So a datagram finds its process from whatever address it comes, and nobody else can tell two
ids of one process from those of two, or make one that leads to a process of his choice.

On Linux the kernel itself deciphers the id: a program of classic BPF, attached to the group of
sockets, returns the slot. Where it cannot (a short datagram, an id that is not of our length) the
kernel's hash of the addresses decides. Elsewhere, or where BPF is switched off, processes hand on
what is not theirs: siblings.py.

A client's first Initial has an id of the client's own, which deciphers to any number: clients are
spread evenly over the slots, and one that repeats its Initial comes to the same process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from .._core.speck import Speck
from ..config import join_address, parse_address
from ..errors import ConfigError
from .addresses import resolve, unscoped
from .quic.interface import CONNECTION_ID_LENGTH
from .udp.sockets import MAX_PORTS, open_sockets
from .web.sockets import open_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..config import TransportConfig

    _Open = Callable[..., list[socket.socket]]

__all__ = [
    "KEY_BYTES",
    "MAX_NUMBER",
    "QUIC",
    "WEB_PLAIN",
    "WEB_QUIC",
    "WEB_TCP",
    "ConnectionIds",
    "attach",
    "close_group",
    "open_group",
    "open_groups",
]

KEY_BYTES = 16
MAX_NUMBER = 255
"""Numbers of processes are 0 to this."""

QUIC = "quic"
"""The sockets of ``transport.bind``, in Siblings.sockets."""
WEB_QUIC = "web.quic"
"""The UDP sockets of ``transport.web.bind``."""
WEB_TCP = "web.tcp"
"""The TCP sockets of ``transport.web.bind``."""
WEB_PLAIN = "web.plain"
"""Those of pages without TLS; all processes have the same ones."""

_SO_ATTACH_REUSEPORT_CBPF = 51
_IS_LINUX = sys.platform == "linux"
IS_BALANCED = _IS_LINUX
"""Whether the sockets of a group (SO_REUSEPORT) share what arrives."""


class ConnectionIds:
    """Makes the connection ids of one process, and reads whose an id is.

    Args:
        number: The process's, 0 to MAX_NUMBER.
        key: KEY_BYTES, the same in all processes of the gateway.

    Raises:
        ValueError: The number or the key is none.
    """

    def __init__(self, number: int, key: bytes) -> None:
        if not 0 <= number <= MAX_NUMBER:
            raise ValueError(f"a process has a number from 0 to {MAX_NUMBER}")
        self._number = bytes([number])
        self._cipher = Speck(key)

    def make(self, number: int | None = None) -> bytes:
        """Return a new connection id with the number in it, or with another process's."""
        first = self._number if number is None else bytes([number])
        return self._cipher.encipher(first + os.urandom(CONNECTION_ID_LENGTH - 1))

    def number(self, connection_id: bytes) -> int:
        """Return the number in an id; of an id that no process made, any number.

        Args:
            connection_id: CONNECTION_ID_LENGTH bytes.
        """
        return self._cipher.first_byte(connection_id)


# The program. An instruction of classic BPF: code, jumps if true and if false, constant.

_LD_WORD, _LD_BYTE, _LD_LENGTH = 0x20, 0x30, 0x80
_LD_MEM, _LDX_MEM, _ST, _TAX, _TXA = 0x60, 0x61, 0x02, 0x07, 0x87
_XOR_X, _XOR, _OR_X, _SUB_X, _LSH, _RSH, _MOD = 0xAC, 0xA4, 0x4C, 0x1C, 0x64, 0x74, 0x94
_JUMP, _JEQ, _JGE, _JSET, _RET, _RET_A = 0x05, 0x15, 0x35, 0x45, 0x06, 0x16
_NO_SLOT = 0xFFFF_FFFF  # out of range: the kernel's hash decides
_MIN_BYTES = 6 + CONNECTION_ID_LENGTH  # that the program reads of a long header

Instruction: TypeAlias = "tuple[int, int, int, int]"


def program(key: bytes, slots: int) -> list[Instruction]:
    """Return the program that gives the slot of a UDP payload.

    Args:
        key: See ConnectionIds.
        slots: Sockets of the group.
    """
    x, y, turned = 0, 1, 2  # places of the scratch memory
    code: list[Instruction] = [
        (_LD_LENGTH, 0, 0, 0),
        (_JGE, 1, 0, _MIN_BYTES),
        (_RET, 0, 0, _NO_SLOT),
        (_LD_BYTE, 0, 0, 0),
        (_JSET, 0, 7, 0x80),  # a short header: skip seven
        (_LD_BYTE, 0, 0, 5),
        (_JEQ, 1, 0, CONNECTION_ID_LENGTH),
        (_RET, 0, 0, _NO_SLOT),
        (_LD_WORD, 0, 0, 10),
        (_ST, 0, 0, y),
        (_LD_WORD, 0, 0, 6),
        (_JUMP, 0, 0, 3),
        (_LD_WORD, 0, 0, 5),
        (_ST, 0, 0, y),
        (_LD_WORD, 0, 0, 1),
        (_ST, 0, 0, x),
    ]

    def turn(left: int) -> list[Instruction]:
        """Rotate A to the left."""
        return [
            (_TAX, 0, 0, 0),
            (_LSH, 0, 0, left),
            (_ST, 0, 0, turned),
            (_TXA, 0, 0, 0),
            (_RSH, 0, 0, 32 - left),
            (_LDX_MEM, 0, 0, turned),
            (_OR_X, 0, 0, 0),
        ]

    for round_key in reversed(Speck(key).keys):
        code += [(_LD_MEM, 0, 0, y), (_LDX_MEM, 0, 0, x), (_XOR_X, 0, 0, 0)]
        code += [*turn(29), (_ST, 0, 0, y)]
        code += [(_LD_MEM, 0, 0, x), (_XOR, 0, 0, round_key)]
        code += [(_LDX_MEM, 0, 0, y), (_SUB_X, 0, 0, 0)]
        code += [*turn(8), (_ST, 0, 0, x)]
    return [*code, (_RSH, 0, 0, 24), (_MOD, 0, 0, slots), (_RET_A, 0, 0, 0)]


def attach(sock: socket.socket, key: bytes, slots: int) -> bool:
    """Make the kernel steer the datagrams of a group of sockets; return whether it does.

    Args:
        sock: One of the group, bound. Each address has a group of its own.
        key: See ConnectionIds.
        slots: Sockets of the group, which were bound in the order of their slots.
    """
    if not _IS_LINUX:
        return False
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program(key, slots))
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and where they are.
    head = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, head)
    except OSError:
        return False
    return True


async def open_group(
    bind: str, field: str, slots: int, config: TransportConfig
) -> list[list[socket.socket]]:
    """Return the UDP sockets of each slot: one for each address that the name has.

    Whoever opens them keeps them open: where a socket of a group is closed, the last one takes its
    place. On macOS, where one socket of such a group would get all datagrams, all slots have the
    same sockets, and the process that happens to read a datagram hands it on.

    Args:
        bind: The address, HOST:PORT.
        field: The setting that it comes from.
        slots: Sockets of each address.
        config: The sockets' buffers.

    Raises:
        ConfigError: The address cannot be used.
    """
    return await _open(_udp(config), "UDP", bind, field, slots)


async def open_groups(config: TransportConfig, slots: int) -> dict[str, list[list[socket.socket]]]:
    """Return the sockets of each slot for each way in that a configuration has.

    Args:
        config: The addresses.
        slots: Sockets of each address.

    Returns:
        QUIC, WEB_QUIC, WEB_TCP → the sockets of each slot; the two of the web have one port.

    Raises:
        ConfigError: An address cannot be used.
    """
    groups = {QUIC: await open_group(config.bind, "transport.bind", slots, config)}
    web, field = config.web, "transport.web.bind"
    if not web.bind:
        return groups
    host, port = parse_address(web.bind)
    try:
        for attempt in range(1, MAX_PORTS + 1):
            bind = web.bind
            if web.websocket:
                groups[WEB_TCP] = await _open(open_listening, "TCP", bind, field, slots)
                bind = join_address(host, groups[WEB_TCP][0][0].getsockname()[1])
            if not web.webtransport:
                break
            try:
                groups[WEB_QUIC] = await open_group(bind, field, slots, config)
                break
            except ConfigError:
                # A port that is free for one of TCP and UDP may not be for the other.
                close_group(groups.pop(WEB_TCP, []))
                if port or attempt == MAX_PORTS:
                    raise
    except BaseException:
        for group in groups.values():
            close_group(group)
        raise
    return groups


def close_group(group: Iterable[Iterable[socket.socket]]) -> None:
    """Close the sockets of all slots."""
    for socks in group:
        for sock in socks:
            sock.close()


def _udp(config: TransportConfig) -> _Open:
    return partial(
        open_sockets, receive_buffer=config.receive_buffer, send_buffer=config.send_buffer
    )


async def _open(
    open_all: _Open, kind: str, bind: str, field: str, slots: int
) -> list[list[socket.socket]]:
    """Return the sockets of each slot that open_all opens."""
    host, port = parse_address(bind)
    try:
        # An empty host is every address, as in config.
        found = await resolve(host or "0.0.0.0", port)  # noqa: S104
        for attempt in range(1, MAX_PORTS + 1):
            # Alone at first: a port that others share is taken, too.
            alone = open_all(found, is_shared=False)
            if not IS_BALANCED:
                return [alone] * slots
            addresses = [(sock.family, unscoped(sock.getsockname())) for sock in alone]
            close_group([alone])
            group: list[list[socket.socket]] = []
            try:
                for _ in range(slots):
                    group.append(open_all(addresses, is_shared=True))
            except OSError as error:
                close_group(group)
                if error.errno != errno.EADDRINUSE or port or attempt == MAX_PORTS:
                    raise
            else:
                return group
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {kind} {bind}: {error.strerror or error}", field=field
        ) from None
    raise AssertionError
