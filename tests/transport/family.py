"""A gateway of several processes, all of them listeners in one loop."""

from __future__ import annotations

import os
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gatesvr.config import TransportConfig
from gatesvr.transport.client import open_connection
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.siblings import Siblings
from gatesvr.transport.steering import KEY_BYTES, QUIC, attach, close_group, open_group

from .harness import Echo, Recorder, Server

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gatesvr.transport.client import ClientConnection


class Board:
    """Loads that a test sets: of each number, None where it takes no clients."""

    def __init__(self, *numbers: int) -> None:
        self.loads: dict[int, int | None] = dict.fromkeys(numbers, 0)

    def numbers(self) -> list[int]:
        return list(self.loads)

    def load(self, number: int) -> int | None:
        return self.loads.get(number)


class Member(Server):
    """A listener of a family."""

    def __init__(
        self, backend: str, config: TransportConfig, siblings: Siblings, kind: type[Recorder] = Echo
    ) -> None:
        super().__init__(backend, kind)
        self.config = config
        self.siblings = siblings
        self.listener = ConnectionListener(config, self._make, siblings=siblings)

    @property
    def counters(self) -> Any:
        return self.listener.counters


class Family:
    """Listeners on one port, by number.

    Attributes:
        members: Number → listener.
        board: Their loads.
    """

    def __init__(self, backend: str, directory: Path, slots: int, **settings: Any) -> None:
        self.backend = backend
        self.directory = directory
        self.slots = slots
        settings.setdefault("bind", "127.0.0.1:0")
        self.config = TransportConfig(backend=backend, **settings)  # type: ignore[arg-type]
        self.key, self.secret = os.urandom(KEY_BYTES), os.urandom(32)
        self.board = Board()
        self.members: dict[int, Member] = {}
        self.group: list[list[socket.socket]] = []
        self.is_steered = False
        self._inherited: list[socket.socket] = []

    async def open(self, *, is_steered: bool) -> None:
        self.group = await open_group(self.config.bind, "transport.bind", self.slots, self.config)
        if is_steered:
            self.is_steered = all(attach(sock, self.key, self.slots) for sock in self.group[0])

    async def start(self, number: int) -> Member:
        """Start the process with a number in its slot."""
        others = {slot: {QUIC: self._inherit(slot)} for slot in range(self.slots)}
        own = others.pop(number % self.slots)
        siblings = Siblings(
            number, self.key, self.directory, self.board, own, secret=self.secret, others=others
        )
        member = self.members[number] = Member(self.backend, self.config, siblings)
        self.board.loads[number] = 0
        await member.listener.start()
        return member

    def _inherit(self, slot: int) -> list[socket.socket]:
        socks = [sock.dup() for sock in self.group[slot]]
        self._inherited += socks
        return socks

    async def kill(self, number: int) -> None:
        """End a process without a word to its clients."""
        member = self.members.pop(number)
        del self.board.loads[number]
        for connection in list(member.listener.connections):
            connection.discard("killed")
        await member.listener.stop()

    async def connect(self, backend: str, **arguments: Any) -> tuple[Recorder, ClientConnection]:
        """Connect a client to whichever process takes it."""
        made: list[Recorder] = []
        host, port = self.group[0][0].getsockname()[:2]
        connection = await open_connection(
            {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host),
            port,
            lambda link: made.append(Recorder(link)) or made[-1],  # type: ignore[func-returns-value]
            backend=backend,
            config=TransportConfig(),
            **arguments,
        )
        return made[0], connection

    def total(self, counter: str) -> int:
        """Return the sum of a counter."""
        return sum(getattr(member.counters, counter) for member in self.members.values())

    def holder(self) -> int:
        """Return the number of the one process that has connections."""
        (number,) = (n for n, member in self.members.items() if member.listener.connections)
        return number


@asynccontextmanager
async def family(
    backend: str,
    directory: Path,
    numbers: int | tuple[int, ...] = 2,
    *,
    is_steered: bool = False,
    slots: int = 0,
    **settings: Any,
) -> AsyncIterator[Family]:
    """Run a family of listeners; settings are TransportConfig's."""
    directory = directory / f"{random.randrange(1 << 30):x}"
    directory.mkdir(mode=0o700)
    all_numbers = tuple(range(numbers)) if isinstance(numbers, int) else numbers
    found = Family(backend, directory, slots or len(all_numbers), **settings)
    await found.open(is_steered=is_steered)
    try:
        for number in all_numbers:
            await found.start(number)
        yield found
    finally:
        for member in found.members.values():
            await member.listener.stop()
        close_group([*found.group, found._inherited])
