"""The settings of the ports for the gateway's own side: the push port and the admin server."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec

from .checks import CONTROL, Count, check_bind, check_networks, check_pair, is_open
from .kinds import Range, Section, parse_address, shown

__all__ = ["OPEN_ADMIN_PORT", "OPEN_PUSH_PORT", "AdminConfig", "PushCaller", "PushConfig"]

OPEN_PUSH_PORT = (
    "not loopback: anyone who can reach it can push to every client; set push.token, push.caller "
    "or push.client_ca, or push.insecure = true if only upstreams can reach it"
)
OPEN_ADMIN_PORT = (
    "not loopback: anyone who can reach it can see and end every session; set admin.token or"
    " admin.client_ca"
)


class PushCaller(Section, frozen=True, kw_only=True):
    """Somebody who may call the push port, what proves it, and what it may do there."""

    hidden = frozenset({"token"})

    name: str
    """What the log calls it."""
    role: Literal["push", "admin"] = "push"
    """push: push to sessions. admin: kick, list and watch them, and register services, too."""
    token: str = ""
    """File with its bearer tokens, one a line; it is read again when it changes."""
    certificates: list[str] = msgspec.field(default_factory=list)
    """Names of its certificates, signed by push.client_ca: a DNS name or a URI of the
    subjectAltName, or the common name of one without either."""
    services: list[str] = msgspec.field(default_factory=list)
    """Services whose endpoints it may register with the role push; admin may register any."""

    def check(self) -> None:
        if not self.name or CONTROL.search(self.name):
            raise self.refusal("name", f"{shown(self.name)} is no name")
        if not self.token and not self.certificates:
            raise self.refusal("token", "neither token nor certificates: it could prove nothing")
        for field in ("certificates", "services"):
            for i, name in enumerate(getattr(self, field)):
                if not name:
                    raise self.refusal(f"{field}[{i}]", "it is empty")


class PushConfig(Section, frozen=True, kw_only=True):
    """GatewayService, the gRPC API that upstreams push through."""

    restart = frozenset({"bind", "insecure"})
    hidden = frozenset({"key", "token"})

    bind: str = "127.0.0.1:8092"
    """TCP address to listen on, HOST:PORT, port 0 for any free one."""
    cert: str = ""
    """PEM file with the certificate chain that callers see: TLS. Empty: plain text."""
    key: str = ""
    """PEM file with the certificate's private key. Both files are read again when they change."""
    client_ca: str = ""
    """PEM file with the CAs of the callers' certificates: nobody connects without one (mTLS)."""
    token: str = ""
    """File with bearer tokens, one a line, for callers that may do everything; it is read again
    when it changes. In place of it, or beside it, `push.caller` gives callers a role each."""
    caller: list[PushCaller] = msgspec.field(default_factory=list)
    """Callers by name. With none, and no token, each certificate of client_ca may do everything."""
    register: Literal["off", "new", "add"] = "new"
    """RegisterUpstream: never, for services the configuration does not name, or for all."""
    register_cidrs: list[str] = msgspec.field(default_factory=list)
    """Networks whose hosts may be registered besides the caller's own address and loopback."""
    insecure: bool = False
    """Listen on an address other than loopback although callers have to prove nothing."""
    max_streams: Count = 128
    """PushStreams open at a time, of all callers together."""
    max_broadcasts: Annotated[int, Range(1, 1_000_000, "no limit")] = 100
    """Broadcasts a second, of all callers together; above it BUSY."""
    max_event_subscribers: Count = 16
    """Subscribers of session events, upstreams and those inside together."""

    def check(self) -> None:
        check_bind(self, "bind", self.bind)
        if not (self.insecure or self.is_guarded) and is_open(parse_address(self.bind)[0]):
            raise self.refusal("bind", f"{self.bind}: {OPEN_PUSH_PORT}")
        check_networks(self, "register_cidrs", self.register_cidrs)
        check_pair(self)
        if self.client_ca and not self.cert:
            raise self.refusal("client_ca", "it needs cert and key")
        for i, caller in enumerate(self.caller):
            if caller.certificates and not self.client_ca:
                raise self.refusal(f"caller[{i}].certificates", "they need push.client_ca")
            if caller.name in [other.name for other in self.caller[:i]]:
                raise self.refusal(f"caller[{i}].name", f"{shown(caller.name)} is there twice")

    def needs_restart(self, new: Self) -> frozenset[str]:
        """Return the fields that only a restart can change to another section's values.

        The port is with or without TLS, with or without callers' certificates, and with or without
        a look at each call, from its start on.
        """
        names = set(super().needs_restart(new))
        if bool(self.cert) != bool(new.cert):
            names |= {"cert", "key", "client_ca"}
        elif bool(self.client_ca) != bool(new.client_ca):
            names |= {"client_ca", "token", "caller"}
        if bool(self.token or self.caller) != bool(new.token or new.caller):
            names |= {"token", "caller"}
        return frozenset(name for name in names if getattr(self, name) != getattr(new, name))

    @property
    def is_guarded(self) -> bool:
        """Whether callers have to prove who they are."""
        return bool(self.client_ca or self.token or self.caller)


class AdminConfig(Section, frozen=True, kw_only=True):
    """The admin server: console, metrics, health checks and commands over HTTP."""

    restart = frozenset({"enabled", "bind", "socket", "token", "cert", "key", "client_ca", "hosts"})
    hidden = frozenset({"key", "token"})

    enabled: bool = False
    """Whether to listen; ``serve --demo`` does so by itself. It needs ``gatesvr[admin]``."""
    bind: str = "127.0.0.1:8090"
    """TCP address to listen on, HOST:PORT, port 0 for any free one; empty for none."""
    socket: str = ""
    """Path of a Unix socket to listen on as well, for processes of this user; empty for none."""
    token: str = ""
    """File with bearer tokens, one a line, of which requests carry one; it is read again when it
    changes. Empty: whoever reaches the address may do everything."""
    cert: str = ""
    """PEM file with the certificate chain of the TCP address: TLS. Empty: plain text."""
    key: str = ""
    """PEM file with the certificate's private key. Both are read again when they change."""
    client_ca: str = ""
    """PEM file with the CAs of clients' certificates: nobody connects without one (mTLS)."""
    hosts: list[str] = msgspec.field(default_factory=list)
    """Names under which the server is reached, besides its address and localhost: a request without
    a token for any other is refused, because a page of another site may have made it."""

    def check(self) -> None:
        if self.bind:
            check_bind(self, "bind", self.bind)
            if not self.is_guarded and is_open(parse_address(self.bind)[0]):
                raise self.refusal("bind", f"{self.bind}: {OPEN_ADMIN_PORT}")
        elif self.enabled and not self.socket:
            raise self.refusal("bind", "neither bind nor socket: there is nothing to listen on")
        check_pair(self)
        if self.client_ca and not self.cert:
            raise self.refusal("client_ca", "it needs cert and key")

    @property
    def is_guarded(self) -> bool:
        """Whether clients have to prove who they are."""
        return bool(self.client_ca or self.token)
