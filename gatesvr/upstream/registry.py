"""UpstreamRegistry: the table of endpoints, configured and registered.

RegisterUpstream adds an endpoint. It goes by DeregisterUpstream, at the end of its lease, or when
another endpoint replaces it (PROTOCOL 7.8).
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._core.limits import TokenBuckets
from ..config import (
    ZONED_NAME,
    Endpoint,
    PushConfig,
    join_address,
    normalize_zone,
    parse_address,
)
from ..observe.limiter import LogLimiter
from ..observe.log import keys
from ..service.results import RegistryResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .call import UpstreamCounters

__all__ = ["ANY_SERVICE", "Registration", "UpstreamRegistry"]

logger = logging.getLogger("gatesvr.upstream")

ANY_SERVICE = "*"
"""The service of an endpoint that serves every service of its zone."""

MAX_REGISTERED = 1_024
MAX_A_SERVICE = 256
MAX_A_CALLER = 256
"""Registered endpoints: in all, of a service in one zone, and by a caller (a name, else an ip)."""
NEW_RATE, NEW_BURST = 10.0, 512.0
"""New endpoints of one caller: a second, and at once."""
MAX_WEIGHT = 1_000
MAX_NAME = 128

_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,32}")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(slots=True, eq=False)
class Registration:
    """One endpoint of one service.

    Attributes:
        service: The service it serves, or ANY_SERVICE.
        address: HOST:PORT or unix:PATH.
        zone: The zone it serves, empty for all.
        weight: Its share of the calls.
        lease_id: The key for keep_alive() and deregister(); empty for a configured endpoint.
        expires: Loop time at which its lease ends, None without a lease.
        lease: Length of its lease, seconds.
        caller_ip: Address of the registering process.
        owner: Name of the caller that registered it, empty where callers prove nothing.
        authority: The ``:authority`` of its calls, empty for the address's.
        renewals: How often it has registered again.
    """

    service: str
    address: str
    zone: str = ""
    weight: int = 1
    lease_id: str = ""
    expires: float | None = None
    lease: float = 0.0
    caller_ip: str = ""
    owner: str = ""
    authority: str = ""
    renewals: int = 0

    @classmethod
    def configured(cls, service: str, endpoint: Endpoint) -> Registration:
        """Return a configured endpoint of a service."""
        return cls(
            service,
            endpoint.address,
            endpoint.zone,
            endpoint.weight,
            authority=endpoint.authority,
        )


class UpstreamRegistry:
    """The table of endpoints, its rules and its leases.

    Args:
        services: The configured endpoints.
        push: The rules for registering: ``register`` and ``register_cidrs``.
        known: Services that routes name, besides the configured ones.
        counters: The layer's counters.
        clock: Returns loop time.
        on_added: Called with each new or renewed endpoint.
        on_removed: Called with each removed endpoint.
        is_down: Tells whether an endpoint is unreachable now.
        reserved: A service that nobody may register for, empty for none.

    Attributes:
        endpoints: All of them.
        version: Rises with every change of the registered ones.
    """

    def __init__(
        self,
        services: Mapping[str, Sequence[Endpoint]],
        push: PushConfig,
        known: Iterable[str],
        counters: UpstreamCounters,
        clock: Callable[[], float],
        *,
        on_added: Callable[[Registration], None],
        on_removed: Callable[[Registration], None],
        is_down: Callable[[Registration], bool],
        reserved: str = "",
    ) -> None:
        self.endpoints: list[Registration] = [
            Registration.configured(service, endpoint)
            for service, endpoints in services.items()
            for endpoint in endpoints
        ]
        self._set_rules(services, push, known, reserved)
        self._counters = counters
        self._clock = clock
        self._on_added = on_added
        self._on_removed = on_removed
        self._is_down = is_down
        self._leases: dict[str, Registration] = {}
        self.version = 0
        seed = int.from_bytes(os.urandom(8))
        self._new = TokenBuckets(NEW_RATE, NEW_BURST, MAX_REGISTERED, seed)  # by caller
        self._lines = LogLimiter(logger)

    def _set_rules(
        self,
        services: Mapping[str, Sequence[Endpoint]],
        push: PushConfig,
        known: Iterable[str],
        reserved: str,
    ) -> None:
        self._configured = frozenset(services)
        self._known = self._configured.union(known)
        # A service configured without endpoints waits for some to register.
        self._closed = frozenset(name for name, endpoints in services.items() if endpoints)
        self._reserved = reserved
        self._mode = push.register
        self._networks = [ipaddress.ip_network(cidr, strict=False) for cidr in push.register_cidrs]

    def apply(
        self,
        services: Mapping[str, Sequence[Endpoint]],
        push: PushConfig,
        known: Iterable[str],
        reserved: str,
    ) -> None:
        """Take other endpoints and rules.

        Endpoints that stay keep their lanes. Those that registered themselves stay by the old
        rules until their leases end, except for a reserved service, which would trust them.
        """
        self._set_rules(services, push, known, reserved)
        before = {
            (endpoint.service, endpoint.address, endpoint.zone, endpoint.authority): endpoint
            for endpoint in self.endpoints
            if not endpoint.lease_id
        }
        for service, endpoints in services.items():
            for endpoint in endpoints:
                key = service, endpoint.address, endpoint.zone, endpoint.authority
                there = before.pop(key, None)
                if there is not None:
                    there.weight = endpoint.weight
                    continue
                there = Registration.configured(service, endpoint)
                self.endpoints.append(there)
                self._on_added(there)
        for gone in before.values():
            self._forget(gone, "configured no more")
        for lease in [lease for lease in self._leases.values() if lease.service == reserved]:
            self._remove(lease, "authenticates clients")

    def register(
        self,
        address: str,
        zone_id: str,
        service_name: str,
        lease_seconds: int,
        weight: int,
        caller_ip: str,
        owner: str = "",
    ) -> RegistryResult:
        """Add an endpoint, or renew one that is there. Does not connect to it.

        Args:
            address: HOST:PORT, or ``:PORT`` for the caller's ip.
            zone_id: The zone it serves, empty for all.
            service_name: A service; a name that no rule knows means every service of its zone.
            lease_seconds: How long it stays without KeepUpstreamAlive; 0 for no lease.
            weight: Its share of the calls; 0 counts as 1.
            caller_ip: Address of the caller.
            owner: Name of the caller; one caller's endpoint is no other's to renew or replace.
        """
        try:
            service, zone = self._place(service_name, normalize_zone(zone_id))
            address = self._resolve(address, caller_ip)
        except ValueError as error:
            return self._refuse(str(error), "INVALID", service_name, address, caller_ip)
        weight = min(max(weight, 1), MAX_WEIGHT)
        same = next(
            (
                endpoint
                for endpoint in self._leases.values()
                if (endpoint.service, endpoint.zone, endpoint.address) == (service, zone, address)
            ),
            None,
        )
        if same is not None and same.owner != owner:
            # Its lease would be the other's to end.
            why = "another caller has registered it"
            return self._refuse(why, "INVALID", service_name, address, caller_ip)
        replaced = [
            other
            for other in self._leases.values()
            if other is not same
            and (other.service, other.zone, other.owner) == (service, zone, owner)
            and (other.caller_ip == caller_ip or self._is_down(other))
        ]
        if same is None and (why := self._full(service, zone, caller_ip, owner, len(replaced))):
            return self._refuse(why, "BUSY", service_name, address, caller_ip)
        for other in replaced:
            self._remove(other, "replaced")
        endpoint = same or Registration(
            service, address, zone, weight, secrets.token_hex(16), caller_ip=caller_ip, owner=owner
        )
        endpoint.caller_ip = caller_ip
        endpoint.weight = weight
        endpoint.lease = float(lease_seconds)
        endpoint.expires = self._clock() + lease_seconds if lease_seconds else None
        self._counters.registered += 1
        self.version += 1
        if same is None:
            self._enter(endpoint)
        else:
            endpoint.renewals += 1
        # A renewal too: it asks because it is back, so its lane retries at once.
        self._on_added(endpoint)
        return RegistryResult(True, "registered", lease_id=endpoint.lease_id)

    def keep_alive(self, lease_id: str) -> RegistryResult:
        """Renew an endpoint's lease."""
        endpoint = self._leases.get(lease_id)
        if endpoint is None:
            return self._no_lease()
        self._counters.leases_kept += 1
        if endpoint.expires is not None:
            endpoint.expires = self._clock() + endpoint.lease
        return RegistryResult(True, "kept", lease_id=lease_id)

    def deregister(self, lease_id: str) -> RegistryResult:
        """Remove an endpoint."""
        endpoint = self._leases.get(lease_id)
        if endpoint is None:
            return self._no_lease()
        self._counters.deregistered += 1
        self._remove(endpoint, "deregistered")
        return RegistryResult(True, "deregistered", lease_id=lease_id)

    # The copies of the table at other processes of the gateway.

    def registered(self) -> list[Registration]:
        """Return the registered endpoints."""
        return list(self._leases.values())

    def mirror(self, endpoints: Iterable[Registration], version: int) -> None:
        """Hold these registered endpoints and no others: another process decides on them.

        None of them expires here; that process takes it out.

        Args:
            endpoints: All of them.
            version: Of that process's table.
        """
        given = {endpoint.lease_id: endpoint for endpoint in endpoints}
        for endpoint in [e for e in self._leases.values() if e.lease_id not in given]:
            self._remove(endpoint, "gone")
        for endpoint in given.values():
            there = self._leases.get(endpoint.lease_id)
            endpoint.expires = None
            if there is None:
                self._enter(endpoint)
                self._on_added(endpoint)
                continue
            is_back = there.renewals != endpoint.renewals
            there.weight, there.lease = endpoint.weight, endpoint.lease
            there.caller_ip, there.renewals = endpoint.caller_ip, endpoint.renewals
            there.expires = None
            if is_back:
                self._on_added(there)
        self.version = version

    def take_over(self) -> None:
        """Decide on the mirrored endpoints from now on; each lease begins anew."""
        now = self._clock()
        self.version += 1
        for endpoint in self._leases.values():
            if endpoint.lease:
                endpoint.expires = now + endpoint.lease
                self._on_added(endpoint)

    def get_timer(self) -> float | None:
        """Return the loop time at which the next lease ends, or None."""
        return min(
            (e.expires for e in self._leases.values() if e.expires is not None), default=None
        )

    def handle_timer(self, now: float) -> None:
        """Remove endpoints whose lease has ended. Safe to call early."""
        for endpoint in list(self._leases.values()):
            if endpoint.expires is not None and endpoint.expires <= now:
                self._counters.leases_expired += 1
                self._remove(endpoint, "expired")

    def sweep(self, now: float) -> None:
        """Log what was suppressed and no later refusal brings out. Call it once a second."""
        self._lines.tick(now)

    def close(self) -> None:
        """Log what was suppressed."""
        self._lines.close()

    def has_service(self, service: str) -> bool:
        """Return whether a service is configured or has an endpoint now."""
        return service in self._configured or any(
            endpoint.service in (service, ANY_SERVICE) for endpoint in self.endpoints
        )

    def _full(self, service: str, zone: str, caller_ip: str, owner: str, leaving: int) -> str:
        """Return why there is no room for another endpoint, empty if there is.

        Args:
            service: Its service.
            zone: Its zone.
            caller_ip: Its caller's address.
            owner: Its caller's name.
            leaving: Endpoints of the same service and caller that it would replace.
        """
        leases = self._leases.values()
        if len(leases) - leaving >= MAX_REGISTERED:
            return f"{MAX_REGISTERED} endpoints are registered"
        place = (service, zone)
        if sum((e.service, e.zone) == place for e in leases) - leaving >= MAX_A_SERVICE:
            return f"{MAX_A_SERVICE} endpoints of it are registered"
        if owner:
            same = sum(e.owner == owner for e in leases)
        else:
            same = sum(e.caller_ip == caller_ip for e in leases)
        if same - leaving >= MAX_A_CALLER:
            return f"this caller has registered {MAX_A_CALLER} endpoints"
        # Each makes a lane, and a line of the log.
        if self._new.take(owner or caller_ip, self._clock()):
            return f"this caller registers more than {NEW_RATE:g} endpoints a second"
        return ""

    def _refuse(
        self, why: str, code: str, service: str, address: str, caller_ip: str
    ) -> RegistryResult:
        self._counters.register_refused += 1
        self._lines.log(
            logging.WARNING,
            "register_refused",
            self._clock(),
            service=service,
            address=address,
            caller=caller_ip,
            why=why,
        )
        return RegistryResult(False, why, code)

    def _no_lease(self) -> RegistryResult:
        self._counters.leases_unknown += 1
        return RegistryResult(False, "no such lease", "NOT_FOUND")

    def _enter(self, endpoint: Registration) -> None:
        self._leases[endpoint.lease_id] = endpoint
        self.endpoints.append(endpoint)
        logger.info(
            "upstream_registered",
            extra=keys(
                service=endpoint.service,
                zone=endpoint.zone,
                address=endpoint.address,
                lease_s=endpoint.lease,
            ),
        )

    def _remove(self, endpoint: Registration, why: str) -> None:
        self.version += 1
        del self._leases[endpoint.lease_id]
        self._forget(endpoint, why)

    def _forget(self, endpoint: Registration, why: str) -> None:
        self.endpoints.remove(endpoint)
        logger.info(
            "upstream_removed",
            extra=keys(
                service=endpoint.service, zone=endpoint.zone, address=endpoint.address, why=why
            ),
        )
        self._on_removed(endpoint)

    def _place(self, service: str, zone: str) -> tuple[str, str]:
        """Return the service and the zone that an endpoint will serve."""
        if self._mode == "off":
            raise ValueError("registration is off (push.register)")
        if len(service) > MAX_NAME:
            raise ValueError("service_name is too long")
        if zone and not _ZONE.fullmatch(zone):
            raise ValueError(f"{zone[:MAX_NAME]!r} is not a zone")
        if service and service == self._reserved:
            raise ValueError(f"{service} authenticates clients: it is configured, never registered")
        if service in self._known:
            if self._mode == "new" and service in self._closed:
                raise ValueError(
                    f"{service} is configured; push.register = 'add' lets endpoints join it"
                )
            return service, zone
        if match := ZONED_NAME.fullmatch(service):
            named = normalize_zone(match[1])
            if zone and zone != named:
                # Who may register the name may not take another zone by it.
                raise ValueError(f"{service!r} is not a name of zone {zone!r}")
            zone = named
        if not zone:
            # Without a zone it would take calls of every service and session.
            raise ValueError(f"no route names the service {service!r}, and it has no zone")
        return ANY_SERVICE, zone

    def _resolve(self, address: str, caller_ip: str) -> str:
        """Return HOST:PORT of a registered address that the rules allow."""
        host, port = parse_address(address)
        if not port:
            raise ValueError(f"{address[:MAX_NAME]!r} has no port")
        caller = _ip(caller_ip)
        if not host:
            ip = caller
        elif host == "localhost":
            ip = ipaddress.IPv4Address("127.0.0.1")
        else:
            try:
                ip = _ip(host)
            except ValueError:
                # A name can point anywhere later, and the rules would not hold.
                raise ValueError(f"{host[:MAX_NAME]!r} is not an ip address") from None
        if ip.is_link_local or ip.is_multicast or ip.is_unspecified or int(ip) == 0xFFFFFFFF:
            raise ValueError(f"{ip} cannot be registered")
        if not (ip == caller or ip.is_loopback or any(ip in net for net in self._networks)):
            raise ValueError(f"{ip} is outside push.register_cidrs")
        return join_address(str(ip), port)


def _ip(text: str) -> _Address:
    ip = ipaddress.ip_address(text)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip.scope_id is not None:
            raise ValueError(f"{text!r} has a scope")
    return ip
