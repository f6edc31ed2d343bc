"""Siblings: the other processes of this gateway, which datagrams and new clients are handed on to.

Each process reads a unix datagram socket of its own, ``NUMBER.udp`` in a directory that only the
gateway's user can enter. The listener decides what is handed on; what one turn of the loop hands on
to a sibling is one message (handed.py).

Each handing-on is a hop, and the listener hands on what was handed on only while a client looks
for a place, once round at most. So there are no loops. A sibling that does not read loses what its
socket and MAX_PENDING_BYTES do not hold: to QUIC it is lost on the way.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import stat
from math import inf
from typing import TYPE_CHECKING, Protocol

from .._core.limits import TokenBucket, TokenBuckets
from ..errors import ConfigError
from ..protocol.network import network_of
from .handed import CLAIM, Handed, Messages
from .prefixes import MAX_NARROW
from .quic.interface import CONNECTION_ID_LENGTH
from .quic.reset import reset_key
from .quic.secret import derive_key, read_secret
from .steering import KEY_BYTES, ConnectionIds
from .tls import load_server_tls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ..config import TransportConfig
    from .addresses import Address
    from .counters import TransportCounters
    from .udp.driver import Driver

__all__ = [
    "Loads",
    "Siblings",
    "shared_secret",
    "steering_key",
]

BUFFER_BYTES = 1 << 20
"""Socket buffers asked of the system: macOS bounds a message by them."""
MAX_PENDING_BYTES = 256 << 10
"""Bytes kept for a sibling whose socket is full; what comes later is dropped."""
MAX_READS = 4
"""Messages read in one turn."""
READ_BYTES = 128 << 10
"""Bytes of the buffer that messages are read into; none is as long."""
DEAD_S = 0.1
"""A sibling that could not be reached is tried again after this long, seconds."""
MARGIN = 8
"""Connections, and MARGIN_SHARE of its own, that a process has more than the sibling that it hands
a new client on to. The figures are a moment old."""
MARGIN_SHARE = 1 / 16
TRIES = 2
"""Siblings looked at for one that takes new clients: during an upgrade the old ones do not."""
MAX_ASKS_PER_S = 1_000
"""Ids a second that all siblings are asked for, and at once."""
MAX_UNCLAIMED_PER_S = 100
"""Those of one network that nobody claims, and at once: a flood leaves room for other networks."""
_MAX_PATH_BYTES = 100  # the shortest limit of a system is 104, with a zero


def shared_secret(config: TransportConfig, address: Address) -> bytes:
    """Return the secret of all processes of a gateway; it is the same after a restart.

    It is that of ``transport.secret``; without one, it follows from the certificate's private key,
    the machine and the address. Whoever starts the processes calls this once: a certificate may be
    renewed while they run. It makes the development certificate where there is none.

    Args:
        config: The secret, or the certificate.
        address: The address listened on, with the real port.

    Raises:
        ConfigError: The secret or the certificate cannot be used.
    """
    if config.secret:
        return read_secret(config.secret)
    tls = load_server_tls(config.cert, config.key)
    return reset_key(tls.key_pem, socket.gethostname(), address)


def steering_key(secret: bytes) -> bytes:
    """Return the key of the numbers in connection ids."""
    return derive_key(secret, b"gatesvr steering", KEY_BYTES)


class Loads(Protocol):
    """How much the processes of the gateway have to do. Both methods are cheap."""

    def numbers(self) -> Collection[int]:
        """Return the numbers of the processes that live, this one's or not."""

    def load(self, number: int) -> int | None:
        """Return the connections of a process; None where it takes no new clients."""


class _Sibling:
    """One sibling: its socket, and what waits for it."""

    __slots__ = ("bytes", "dead_until", "is_full", "number", "pending", "sock")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sock: socket.socket | None = None
        self.dead_until = -inf
        self.pending: list[Handed] = []
        self.bytes = 0  # of the pending datagrams
        self.is_full = False  # the loop watches for room


class Siblings:
    """The other processes of this gateway, as one process knows them.

    Args:
        number: This process's, 0 to MAX_NUMBER; no other that lives has it.
        key: Enciphers the numbers in connection ids (steering.KEY_BYTES).
        directory: Where the sockets of all are; it exists, and nobody else may enter it.
        loads: What each has to do.
        sockets: The sockets that this process reads, by steering.QUIC, WEB_QUIC and WEB_TCP. They
            are closed with the listeners.
        others: The sockets of each other slot, by the same names: while its process is dead,
            another one reads them (cover() of the listeners).
        secret: What the keys of Retry tokens and stateless resets derive from where the
            configuration has no ``transport.secret``.

    Attributes:
        number: See above.
        secret: See above.
        sockets: See above.
        others: See above.

    Raises:
        ValueError: The number or the key is none.
    """

    def __init__(
        self,
        number: int,
        key: bytes,
        directory: Path,
        loads: Loads,
        sockets: Mapping[str, Sequence[socket.socket]],
        *,
        secret: bytes,
        others: Mapping[int, Mapping[str, Sequence[socket.socket]]] | None = None,
    ) -> None:
        self.number = number
        self.secret = secret
        self.sockets = sockets
        self.others = others or {}
        self._ids = ConnectionIds(number, key)
        self._directory = directory
        self._loads = loads
        self._asks = TokenBucket(MAX_ASKS_PER_S, MAX_ASKS_PER_S)
        self._unclaimed = TokenBuckets(
            MAX_UNCLAIMED_PER_S, MAX_UNCLAIMED_PER_S, MAX_NARROW, int.from_bytes(os.urandom(8))
        )
        self._siblings: dict[int, _Sibling] = {}
        self._dirty: dict[_Sibling, None] = {}
        self._messages = Messages()
        self._sock: socket.socket | None = None
        self._buffer = bytearray(READ_BYTES)
        self._path = directory / f"{number}.udp"
        self._driver: Driver
        self._counters: TransportCounters
        self._take: Callable[[list[Handed], float], None]
        self._take_back: Callable[[list[Handed], float], None]

    # Ids.

    def make_id(self) -> bytes:
        """Return a connection id of this process."""
        return self._ids.make()

    def make_retry_id(self) -> bytes:
        """Return the id that a Retry gives: the client comes back to the less loaded of two."""
        return self._ids.make(self.less_loaded())

    def owner(self, connection_id: bytes) -> int:
        """Return the number in a connection id, which may be that of no process."""
        return self._ids.number(connection_id)

    # Choices.

    def less_loaded(self) -> int | None:
        """Return a sibling that has clearly less to do, of one chosen at random; None for none."""
        loads = self._loads
        mine = loads.load(self.number)
        if mine is None or mine <= MARGIN:
            return None
        others = self._others()
        for number in random.sample(others, min(TRIES, len(others))):
            load = loads.load(number)
            if load is not None:
                return number if load + MARGIN + mine * MARGIN_SHARE < mine else None
        return None

    def may_accept(self, hops: int) -> bool:
        """Return whether next_accepting() may find one; it is much cheaper."""
        return len(self._others()) >= max(hops, 1)

    def next_accepting(self, hops: int) -> int | None:
        """Return the sibling that a client is handed on to which finds no place here.

        Args:
            hops: How often it was handed on already.

        Returns:
            The next one by number; None where it has been at all of them, or none takes clients.
        """
        loads = self._loads
        numbers = sorted(n for n in self._others() if loads.load(n) is not None)
        # The way ends where it began, or at the last one if that takes no clients.
        if not numbers or hops > len(numbers):
            return None
        return next((number for number in numbers if number > self.number), numbers[0])

    def _others(self) -> list[int]:
        return [number for number in self._loads.numbers() if number != self.number]

    # What goes out.

    def open(
        self,
        driver: Driver,
        counters: TransportCounters,
        take: Callable[[list[Handed], float], None],
        take_back: Callable[[list[Handed], float], None],
    ) -> None:
        """Read what siblings hand on, and be able to hand on.

        Args:
            driver: The loop's.
            counters: Where to count.
            take: Takes what siblings have handed on.
            take_back: Takes what a sibling turned out to be dead for.

        Raises:
            ConfigError: The directory cannot be used.
        """
        self._driver, self._counters = driver, counters
        self._take, self._take_back = take, take_back
        path = os.fspath(self._path)
        try:
            status = os.stat(self._directory)
            if stat.S_IMODE(status.st_mode) & 0o077 or status.st_uid != os.geteuid():
                raise OSError(0, "others can enter it")
            if len(os.fsencode(path)) > _MAX_PATH_BYTES:
                raise OSError(0, "its path is too long for sockets")
            sock = _unix_socket()
            try:
                self._path.unlink(missing_ok=True)
                sock.bind(path)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise ConfigError(
                f"cannot hand datagrams on in {self._directory}: {error.strerror or error}"
            ) from None
        self._sock = sock
        driver.add_reader(self)

    def give(self, number: int, handed: Handed, now: float) -> bool:
        """Hand a datagram on at the end of this turn; return whether the sibling seems to live.

        Where it is True, the datagram is the sibling's, dropped, or comes to take_back().
        """
        try:
            sibling = self._reach(number, now)
        except OSError as error:
            # No descriptor, or no memory: that does not make the sibling a dead one.
            self._drop(number, 1, error)
            return True
        if sibling is None:
            return False
        if sibling.bytes + len(handed.data) > MAX_PENDING_BYTES:
            self._counters.hand_overs_dropped += 1
            return True
        sibling.pending.append(handed)
        sibling.bytes += len(handed.data)
        if not sibling.is_full:
            self._dirty[sibling] = None
            self._driver.mark_sending(self)
        return True

    def ask(self, handed: Handed, now: float) -> bool:
        """Hand a datagram on to all siblings, one of which may know its id.

        Returns:
            Whether they are asked: not too often.
        """
        numbers = self._others()
        assert handed.address is not None
        network = network_of(handed.address[0])
        if not numbers or self._unclaimed.wait(network, now) or self._asks.take(now):
            return False
        self._counters.ids_asked += 1
        for number in numbers:
            self.give(number, handed, now)
        return True

    def unclaimed(self, address: Address, now: float) -> None:
        """Count against its network that nobody has claimed the id of a datagram."""
        self._unclaimed.take(network_of(address[0]), now)

    def claim(self, handed: Handed, now: float) -> None:
        """Tell the sibling that asked for an id that it is ours."""
        data = handed.data[1 : 1 + CONNECTION_ID_LENGTH]
        self.give(handed.sender, Handed(CLAIM, 1, self.number, 0, data, None), now)

    def _reach(self, number: int, now: float) -> _Sibling | None:
        sibling = self._siblings.get(number)
        if sibling is None:
            sibling = self._siblings[number] = _Sibling(number)
        if sibling.sock is not None:
            return sibling
        if now < sibling.dead_until:
            return None
        sock = _unix_socket()
        try:
            sock.connect(os.fspath(self._directory / f"{number}.udp"))
        except (ConnectionError, FileNotFoundError):
            sock.close()
            sibling.dead_until = now + DEAD_S
            return None
        except BaseException:
            sock.close()
            raise
        sibling.sock = sock
        return sibling

    def _drop(self, number: int, count: int, error: OSError) -> None:
        """Count datagrams that the system did not take, and log it once for many."""
        driver = self._driver
        self._counters.hand_overs_dropped += count
        driver.lines.log(
            logging.WARNING,
            "hand_over_failed",
            driver.clock(),
            error.errno,
            to=number,
            why=error,
        )

    def transmit(self) -> None:
        """Send what was gathered in this turn."""
        dirty, self._dirty = self._dirty, {}
        for sibling in dirty:
            self._send(sibling)

    def _send(self, sibling: _Sibling) -> None:
        """Send what waits for a sibling, as long as its socket takes it."""
        sock = sibling.sock
        while sock is not None and sibling.pending:
            count, message = self._messages.pack(sibling.pending)
            try:
                sock.send(message)
            except (BlockingIOError, InterruptedError):
                if not sibling.is_full:
                    sibling.is_full = True
                    self._driver.loop.add_writer(sock.fileno(), self._send, sibling)
                return
            except (ConnectionError, FileNotFoundError):
                self._lose(sibling)
                return
            except OSError as error:
                # No memory, or a message that the system takes for too long.
                self._drop(sibling.number, count, error)
            sibling.bytes -= sum(len(handed.data) for handed in sibling.pending[:count])
            del sibling.pending[:count]
        if sibling.is_full and sock is not None:
            sibling.is_full = False
            self._driver.loop.remove_writer(sock.fileno())

    def _lose(self, sibling: _Sibling) -> None:
        """Take back what a dead sibling was to get."""
        now = self._driver.clock()
        pending, sibling.pending, sibling.bytes = sibling.pending, [], 0
        sibling.dead_until = now + DEAD_S
        self._disconnect(sibling)
        self._take_back(pending, now)

    def _disconnect(self, sibling: _Sibling) -> None:
        sock, sibling.sock = sibling.sock, None
        if sock is not None:
            if sibling.is_full:
                sibling.is_full = False
                self._driver.loop.remove_writer(sock.fileno())
            sock.close()

    def close(self) -> None:
        """Send what waits, and hand on and take no more."""
        if self._sock is None:
            return
        self.transmit()
        self._driver.remove_reader(self)
        self._sock.close()
        self._sock = None
        self._path.unlink(missing_ok=True)
        for sibling in self._siblings.values():
            self._disconnect(sibling)

    # What comes in.

    def fileno(self) -> int:
        """Return the descriptor of the socket that is read."""
        assert self._sock is not None
        return self._sock.fileno()

    def read(self) -> int:
        """Take what siblings have handed on; return how many datagrams there were."""
        found: list[Handed] = []
        for _ in range(MAX_READS):
            if self._sock is None:
                break
            try:
                size = self._sock.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                break
            message = bytes(memoryview(self._buffer)[:size])
            try:
                for handed in self._messages.unpack(message):
                    found.append(handed)
            except ValueError:
                self._counters.hand_overs_dropped += 1
        if found:
            self._take(found, self._driver.clock())
        return len(found)


def _unix_socket() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    except BaseException:
        sock.close()
        raise
    return sock
