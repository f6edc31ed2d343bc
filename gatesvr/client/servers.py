"""Servers: which of the gateways that a client knows it tries next.

A session lives at one gateway, its *home*. So a client whose connection is lost tries that one by
itself first, and the others only where it does not answer, or has said that it goes (GOAWAY, or a
refusal). All that are tried at once race for the first handshake.

A QUIC address and a WebSocket URL of one host are two *ways* to one gateway: they are tried
together, in their order, and go away together.

Where a GOAWAY names an address, the client goes there first, and to those that it knows where that
fails. The address says where to, not whom to trust: a host that is none of the client's own must
show a certificate for the name of the gateway that has sent the client there.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..config import parse_address
from ..errors import ConfigError
from ..protocol.messages import is_valid_text
from ..transport.addresses import Place, host_name, parse_place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.client import Server

__all__ = ["HOME_S", "Servers", "parse_servers"]

MAX_HOST_BYTES = 253
"""Longest name of a host."""
HOME_S = 3.0
"""How long a session's home is tried by itself where others are known, seconds."""


class Servers:
    """The gateways that a client knows.

    Args:
        servers: At least one, in the order of preference.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self._servers = list(servers)
        self._home: Server | None = None
        self._named: Server | None = None  # by a GOAWAY
        self._last: set[Server] = set()  # those that go, or have failed, in this round of tries

    @property
    def first(self) -> Server:
        """The preferred one."""
        return self._servers[0]

    @property
    def is_home_next(self) -> bool:
        """Whether a session's home is tried next, by itself although others are known."""
        home = self._home
        return self._named is None and home not in self._last and self._has_others()

    @property
    def goes_elsewhere(self) -> bool:
        """Whether the home goes away, and another gateway is tried next."""
        return self._named is not None or self._home in self._last

    def next(self) -> list[Server]:
        """Return those to try now, the preferred ones first."""
        if self._named is not None:
            return [self._named]
        if self._home is not None and self.is_home_next:
            return self._ways(self._home)
        good = [server for server in self._servers if server not in self._last]
        if self._last:
            # Else all clients of a gateway that goes would crowd the next one in the order.
            random.shuffle(good)
        return good + [server for server in self._servers if server in self._last]

    def started(self, server: Server) -> None:
        """A session began, or was resumed, at server: its home from now on."""
        self._home = server
        self._named = None
        self._last.clear()

    def leave(self, named: Server | None = None) -> bool:
        """The home asks its clients to go; return whether there is another one to go to.

        Args:
            named: Where it sends them, None for anywhere.
        """
        self._named = named
        if self._home is None or not self._has_others():
            return named is not None
        self._last.update(self._ways(self._home))
        return True

    def named(self, address: str, here: Server) -> Server | None:
        """Return the gateway that another one has named, to be reached in the same way.

        Args:
            address: HOST:PORT.
            here: The gateway that says so.

        Returns:
            None for nonsense.
        """
        try:
            host, port = parse_address(address)
            host_name(host)
        except ValueError:
            return None
        if not (host and port and is_valid_text(host, MAX_HOST_BYTES)):
            return None
        for own in (here, *self._servers):
            if own.host == host and not own.name:
                return here._replace(host=host, port=port, tls=own.tls, name="")
        return here._replace(host=host, port=port, name=here.name or here.host)

    def failed(self, server: Server | None = None) -> bool:
        """A try failed; return whether others can be tried at once.

        Args:
            server: The one that was connected to and refused START; None where there was none.
        """
        if self._named is not None:
            self._named = None
            return False
        if self._home is not None and self.is_home_next:
            server = self._home
        if server is not None:
            self._last.update(self._ways(server))
            if any(other not in self._last for other in self._servers):
                return True
        self._last.clear()
        return False

    def _ways(self, gateway: Server) -> list[Server]:
        """Return every way to a gateway, the preferred one first."""
        ways = [server for server in self._servers if _is_same_gateway(server, gateway)]
        return ways if gateway in ways else [gateway, *ways]  # one that a GOAWAY named

    def _has_others(self) -> bool:
        home = self._home
        return home is not None and not all(_is_same_gateway(each, home) for each in self._servers)


def _is_same_gateway(one: Server, other: Server) -> bool:
    return one == other or (one.host == other.host and bool(one.path) != bool(other.path))


def parse_servers(servers: object) -> list[Place]:
    """Return where each gateway is, of whichever form.

    Raises:
        ConfigError: One is of none, there is none, or one is there twice.
    """
    every: list[object] = [servers]
    if isinstance(servers, tuple | list) and not _is_pair(servers):
        every = list(servers)
    if not every:
        raise ConfigError("names no gateway", field="server")
    found = [_server(server) for server in every]
    if len(set(found)) != len(found):
        raise ConfigError("names a gateway twice", field="server")
    return found


def _is_pair(servers: tuple[object, ...] | list[object]) -> bool:
    """Return whether two things are a host and a port, and not two gateways."""
    if len(servers) != 2:
        return False
    second = servers[1]
    return not (isinstance(second, tuple | list) or (isinstance(second, str) and ":" in second))


def _server(server: object) -> Place:
    """Return where a gateway is, of whichever form.

    Raises:
        ConfigError: It is of none.
    """
    if not isinstance(server, str | tuple | list):
        raise ConfigError(
            f"must be 'HOST:PORT', a wss:// URL or (host, port), not {type(server).__name__}",
            field="server",
        )
    try:
        if isinstance(server, str):
            place = parse_place(server)
        else:
            host, port = server[:2]
            place = Place(host, port)
        host_name(place.host)
        if not isinstance(place.port, int) or not 0 <= place.port <= 65535:
            raise ValueError(f"{place.port!r:.40} is no port")
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(str(error), field="server") from None
    return place if place.host else place._replace(host="localhost")
