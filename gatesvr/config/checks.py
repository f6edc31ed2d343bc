"""What settings of several sections have in common: units, ranges, and checks of their texts."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Protocol

from .kinds import FieldError, Range, Seconds, Section, parse_address, shown

__all__ = [
    "CONTROL",
    "GIB",
    "HOUR",
    "KIB",
    "MIB",
    "MINUTE",
    "MS",
    "Count",
    "Places",
    "Wait",
    "check_address",
    "check_bind",
    "check_networks",
    "check_pair",
    "is_open",
]

MS = 0.001
MINUTE = 60.0
HOUR = 3600.0
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""A character that no name can have."""
_MAX_LABEL = 63

Count = Annotated[int, Range(1, 1_000_000)]
Places = Annotated[int, Range(1, 10_000_000)]
Wait = Annotated[Seconds, Range(10 * MS, HOUR)]
"""A deadline: without one a peer could hold a place for ever, so 0 is refused."""


def check_bind(section: Section, field: str, address: str) -> None:
    """Refuse a field that is no address to listen on."""
    host, _ = check_address(section, field, address)
    labels = [] if ":" in host else host.removesuffix(".").split(".")
    if host and not all(0 < len(label) <= _MAX_LABEL for label in labels):
        raise section.refusal(
            field, f"{shown(host)} is no host name: a label has 1 to {_MAX_LABEL} characters"
        )


def is_open(host: str) -> bool:
    """Return whether a host is an address other than loopback; names are looked up at the start."""
    try:
        return not ipaddress.ip_address(host.partition("%")[0] or "::").is_loopback
    except ValueError:
        return False


def check_networks(section: Section, field: str, networks: list[str]) -> None:
    """Refuse a field in which something is no network."""
    for i, network in enumerate(networks):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError as error:
            raise section.refusal(f"{field}[{i}]", str(error)) from None


def check_address(section: Section, field: str, address: str) -> tuple[str, int]:
    """Return host and port of a field that is an address; refuse another."""
    try:
        return parse_address(address)
    except ValueError as error:
        raise section.refusal(field, str(error)) from None


class _HasPair(Protocol):
    @property
    def cert(self) -> str: ...
    @property
    def key(self) -> str: ...
    def refusal(self, field: str, message: str) -> FieldError: ...


def check_pair(section: _HasPair) -> None:
    """Refuse a certificate without its key, and a key without its certificate."""
    if bool(section.cert) != bool(section.key):
        given, missing = ("cert", "key") if section.cert else ("key", "cert")
        raise section.refusal(given, f"cert and key go together, {missing} is missing")
