"""The kinds of value a setting has, their ranges, and how a value is read and checked."""

from __future__ import annotations

import difflib
import functools
import math
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec

from ..errors import ConfigError

__all__ = [
    "UNIX",
    "Bytes",
    "Duration",
    "FieldError",
    "Range",
    "Seconds",
    "Section",
    "Size",
    "check_numbers",
    "hint",
    "join_address",
    "kinds_of",
    "normalize_zone",
    "number_kind",
    "parse_address",
    "shown",
]

UNIX = "unix:"
"""Begins the address of a Unix socket; its path follows."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", re.ASCII)
_DURATION_UNITS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|KiB|MiB|GiB|KB|MB|GB)?", re.ASCII)
_SIZE_UNITS = {
    None: 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}

_SHOWN = 64


def shown(value: object) -> str:
    """Return value as a message has it: its repr, cut to 64 characters."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes out
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class Duration:
    """How seconds are written: a number, or ``500ms``, ``1s``, ``2m``, ``1h``; 0 or more."""

    @staticmethod
    def parse(value: object) -> float:
        """Return the seconds that value stands for.

        Raises:
            ValueError: It stands for none.
        """
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value) if abs(value) < 1e300 else math.inf
        elif isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
            seconds = float(match[1]) * _DURATION_UNITS[match[2]]
        else:
            raise ValueError(f"{shown(value)} is no duration (write 500ms, 1s, 2m or 1h)")
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"{shown(value)} is no duration: it must be finite and not negative")
        return seconds

    @staticmethod
    def spell(seconds: float) -> str:
        """Return seconds as a file has them."""
        for unit, length in (("h", 3600.0), ("m", 60.0)):
            if seconds >= length and seconds % length == 0:
                return f"{seconds / length:.15g}{unit}"
        return f"{seconds * 1000:.15g}ms" if 0 < seconds < 1 else f"{seconds:.15g}s"


class Size:
    """How bytes are written: a number, or ``64KiB``, ``4MiB``; 0 or more."""

    @staticmethod
    def parse(value: object) -> int:
        """Return the bytes that value stands for.

        Raises:
            ValueError: It stands for none.
        """
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
            size = float(match[1]) * _SIZE_UNITS[match[2]]
            if math.isfinite(size) and size == int(size):
                return int(size)
        raise ValueError(f"{shown(value)} is no size (write 1024, 64KiB or 4MiB)")

    @staticmethod
    def spell(size: float) -> str:
        """Return bytes as a file has them."""
        whole = int(size)
        if whole >= 1 << 60:
            return shown(whole)
        for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if whole and whole % length == 0:
                return f"{whole // length}{unit}"
        return f"{whole}"


Seconds = Annotated[float, Duration]
Bytes = Annotated[int, Size]


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest value of a number.

    Attributes:
        low: The smallest.
        high: The largest.
        zero: What 0 means where it is allowed below low, empty where it is refused.
    """

    low: float
    high: float
    zero: str = ""

    def spell(self, kind: type[Any] = int) -> str:
        """Return the range as people read it, in the units of kind."""
        low, high = _spell(self.low, kind), _spell(self.high, kind)
        text = f"{low} or more" if math.isinf(self.high) else f"{low} to {high}"
        return f"{text}, or 0: {self.zero}" if self.zero else text

    def check(self, value: float, kind: type[Any] = int) -> None:
        """Refuse a value outside of the range.

        Raises:
            ValueError: It is.
        """
        if not (self.low <= value <= self.high or (self.zero and value == 0)):
            raise ValueError(f"{_spell(value, kind)} is out of range ({self.spell(kind)})")


def check_numbers(**values: tuple[Any, Range]) -> None:
    """Refuse parameters that are no numbers or outside of their range.

    Raises:
        ConfigError: One is; it names the parameter.
    """
    for name, (value, limits) in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{shown(value)} is no number", field=name)
        try:
            limits.check(value, float)
            float(value)
        except OverflowError:
            raise ConfigError(f"{shown(value)} is out of range", field=name) from None
        except ValueError as error:
            raise ConfigError(str(error), field=name) from None


class FieldError(ConfigError, ValueError):
    """A ConfigError that still knows its field apart, for the loader to say where it came from."""

    def __init__(self, message: str, field: str, section: str) -> None:
        super().__init__(message, field=f"{section}.{field}" if section else field)
        self.message = message
        self.name = field


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the sections: frozen, keyword only; every value is converted and checked when made.

    Raises:
        ConfigError: A value is of another kind, outside its range, or does not fit the others.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds_of(type(self)).items():
            value = getattr(self, name)
            try:
                read = _read(kind, value)
            except ValueError as error:
                raise self.refusal(name, str(error)) from None
            if read is not value:
                msgspec.structs.force_setattr(self, name, read)
        self.check()

    restart: ClassVar[frozenset[str]] = frozenset()
    """Fields that only a restart can change: sockets, limits of gRPC or a
    library's set-up depend on them."""
    hidden: ClassVar[frozenset[str]] = frozenset()
    """Fields whose values are shown to nobody, in case somebody puts a secret in a path's place."""

    def needs_restart(self, new: Self) -> frozenset[str]:
        """Return the fields that only a restart can change to another section's values."""
        return frozenset(name for name in self.restart if getattr(self, name) != getattr(new, name))

    def check(self) -> None:
        """Refuse values that are each well-formed and do not fit together."""

    def refusal(self, field: str, message: str) -> FieldError:
        """Return the error that refuses a field's value."""
        cls = type(self).__name__
        section = cls.removesuffix("Config").lower() if cls.endswith("Config") else cls
        return FieldError(message, field, section)


@functools.cache
def kinds_of(section: type[Section]) -> dict[str, Any]:
    """Return the kind of every field of a section."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section.__struct_fields__}


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT`` or ``[IPV6]:PORT``.

    Raises:
        ValueError: It is neither.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{shown(text)} is not HOST:PORT (write an IPv6 address as [::1]:8453)")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise ValueError(f"{shown(text)} is not HOST:PORT")
    if int(port) > 65535:
        raise ValueError(f"{shown(text)} is not HOST:PORT (a port is 0 to 65535)")
    if not host.isprintable() or " " in host:
        raise ValueError(f"{shown(text)} is not HOST:PORT")
    return host, int(port)


def join_address(host: str, port: int) -> str:
    """Return ``HOST:PORT``, an IPv6 host in brackets: what parse_address() takes apart."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def normalize_zone(zone: str) -> str:
    """Return a zone as three digits if it is a number: "1" and "001" are the same."""
    return zone.zfill(3) if zone.isascii() and zone.isdigit() else zone


def hint(name: str, known: Iterable[str]) -> str:
    """Return "(did you mean …?)" where one of the known names is near."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _spell(value: float, kind: type[Any]) -> str:
    if kind in (Duration, Size):
        text: str = kind.spell(value)
        return text
    # A float cannot hold every int.
    return shown(value) if isinstance(value, int) else f"{value:.15g}"


def _read(kind: Any, value: Any) -> Any:
    """Return value as kind; ValueError where it is none."""
    if typing.get_origin(kind) is Annotated:
        return _read_number(kind, value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return _read_choice(arguments, value)
    if origin is list:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{shown(value)} is not a list")
        return [_read(arguments[0], item) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{shown(value)} is no table")
        return {_read(arguments[0], k): _read(arguments[1], v) for k, v in value.items()}
    if not isinstance(value, kind):
        names = {bool: "neither true nor false", str: "no text"}
        raise ValueError(f"{shown(value)} is {names.get(kind, f'no {kind.__name__}')}")
    return value


def number_kind(kind: Any) -> tuple[type[Any], Range]:
    """Return int, Duration or Size, and the range, of a field that is a number."""
    base, *marks = typing.get_args(kind)
    return (base, marks[0]) if len(marks) == 1 else (marks[0], marks[1])


def _read_number(kind: Any, value: Any) -> float:
    spelling, limits = number_kind(kind)
    if spelling is not int:
        value = spelling.parse(value)
    elif not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is no whole number")
    limits.check(value, spelling)
    number: float = value
    return number


def _read_choice(choices: tuple[str, ...], value: Any) -> str:
    if isinstance(value, str):
        for choice in choices:
            if choice.lower() == value.lower():
                return choice
    raise ValueError(f"{shown(value)} is not one of {', '.join(filter(None, choices))}")
