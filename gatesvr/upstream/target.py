"""Target: an upstream address taken apart, with the names that go with it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import join_address, parse_address
from ..config.kinds import UNIX

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Place", "Target"]

Place = tuple[str, int] | str
"""What can be dialled: a host and a port, or the path of a Unix socket."""

LOCAL_NAME = "localhost"
"""What a server on a Unix socket is called where nothing else names it, as in gRPC."""


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream as a lane knows it.

    Attributes:
        address: What logs and figures show: ``10.0.0.5:8081``, ``[::1]:80``, ``unix:/run/a.sock``.
        places: What to dial, tried in order. A host is an IP address, or a name that nobody has
            resolved yet.
        authority: The ``:authority`` of its calls.
        server_name: What its certificate has to name: a DNS name or an IP address.
        name: The endpoint's address where it is a name that this one was resolved from; empty
            where the endpoint's address is this one.
    """

    address: str
    places: tuple[Place, ...]
    authority: str
    server_name: str
    name: str = ""

    @classmethod
    def of(cls, address: str, authority: str = "") -> Target:
        """Return the target of an endpoint's address.

        Args:
            address: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; a host that is a name is left
                to the dial.
            authority: The ``:authority`` of its calls; empty for the address itself.

        Raises:
            ValueError: The address is none of these.
        """
        address, authority = str(address), str(authority)  # the core takes no subclass
        if address.startswith(UNIX):
            path = address.removeprefix(UNIX)
            if path.startswith("//"):  # gRPC's other spelling, unix:///run/a.sock
                path = path[2:]
            if not path or "\0" in path:
                raise ValueError(f"{address!r} names no socket")
            authority = authority or LOCAL_NAME
            return cls(address, (path,), authority, _host_of(authority))
        place = parse_address(address)
        authority = authority or _authority_of(address)
        return cls(address, (place,), authority, _host_of(authority))

    def served_as(self, server_name: str) -> Target:
        """Return the target of a server whose certificate names something else; empty for this one.

        As in gRPC, calls without an authority of their own then have that name for one.
        """
        if not server_name:
            return self
        is_local = isinstance(self.places[0], str)
        usual = LOCAL_NAME if is_local else _authority_of(self.name or self.address)
        authority = server_name if self.authority == usual else self.authority
        return replace(self, authority=authority, server_name=server_name)

    def at(self, places: Sequence[tuple[str, int]]) -> Target:
        """Return the target of addresses that this one's name was resolved to.

        Args:
            places: IP addresses and ports. One is shown in the place of the name; of several, which
                are tried in order, the name is.
        """
        if len(places) == 1:
            host, port = places[0]
            address, name = join_address(host, port), self.address
        else:
            address, name = self.address, ""
        return Target(address, tuple(places), self.authority, self.server_name, name)

    @property
    def is_name(self) -> bool:
        """Whether its host is a name that has to be resolved."""
        place = self.places[0]
        if isinstance(place, str):
            return False
        try:
            ipaddress.ip_address(place[0])
        except ValueError:
            return True
        return False

    @property
    def is_named(self) -> bool:
        """Whether the certificate names the authority's host."""
        return _host_of(self.authority) == self.server_name

    @property
    def grpc_address(self) -> str:
        """The address as a gRPC channel takes it."""
        place = self.places[0]
        if isinstance(place, str):
            return UNIX + place
        # A channel takes several addresses of one family only, but resolves a name to both.
        return join_address(*place) if len(self.places) == 1 else self.address


def _authority_of(address: str) -> str:
    """Return HOST:PORT as a request can hold it: in ASCII."""
    if address.isascii():
        return address
    host, port = parse_address(address)
    try:
        return join_address(host.encode("idna").decode(), port)
    except UnicodeError:  # no name; whoever looks it up says so
        return address


def _host_of(authority: str) -> str:
    """Return what a certificate for an authority names."""
    try:
        host = parse_address(authority)[0]
    except ValueError:  # it has no port
        host = authority.removeprefix("[").removesuffix("]")
    return host.partition("%")[0].removesuffix(".")
