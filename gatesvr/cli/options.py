"""Options shared by several commands, and their value types."""

from __future__ import annotations

import functools
import getpass
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
from click.core import ParameterSource

from ..config import Duration, Range, parse_address
from ..config.kinds import shown
from ..config.workers import MAX_WORKERS, usable_cpus
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..client import Client, Lost

    _AddressBase = click.ParamType[str]
    _DurationBase = click.ParamType[float]
    _PairBase = click.ParamType[tuple[str, str]]
    _TextBase = click.ParamType[str]
else:
    # Generic only since click 8.2.
    _AddressBase = _DurationBase = _PairBase = _TextBase = click.ParamType

__all__ = [
    "ADDRESS",
    "DURATION",
    "PAIR",
    "SERVER",
    "TEXT",
    "WORKERS",
    "Target",
    "push_options",
    "push_server_option",
    "target_options",
    "transport_option",
]

F = TypeVar("F", bound=Callable[..., Any])


class _Address(_AddressBase):
    """HOST:PORT; checked, and passed on as text."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class _Server(_AddressBase):
    """HOST:PORT, or the wss:// URL of a gateway's WebSockets; checked, and passed on as text."""

    name = "HOST:PORT|URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ..transport.addresses import parse_place

        try:
            parse_place(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class _Text(_TextBase):
    """Text that UTF-8 can carry: an argument in another encoding is refused."""

    name = "TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{shown(text)} is not UTF-8 text", param, ctx)
        return text


class _Duration(_DurationBase):
    """500ms, 1s, 2m, 1h or a number of seconds; passed on in seconds.

    Args:
        low: The shortest one, seconds.
    """

    name = "DURATION"

    def __init__(self, low: float = 0.0) -> None:
        self._limits = Range(low, math.inf)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            seconds = Duration.parse(value)
            self._limits.check(seconds, Duration)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return seconds


class _Pair(_PairBase):
    """KEY=VALUE; passed on as a tuple."""

    name = "KEY=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, rest = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{shown(value)} is not KEY=VALUE", param, ctx)
        return TEXT.convert(key, param, ctx), TEXT.convert(rest, param, ctx)


class _Workers(_TextBase):
    """A number of worker processes, or auto: one per usable CPU; passed on as a number."""

    name = "N|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value).lower() == "auto":
            return min(usable_cpus(), MAX_WORKERS)
        try:
            return int(str(value))
        except ValueError:
            self.fail(f"{shown(value)} is neither a number nor auto", param, ctx)


ADDRESS = _Address()
SERVER = _Server()
DURATION = _Duration()
TIMEOUT = _Duration(0.001)
PAIR = _Pair()
TEXT = _Text()
WORKERS = _Workers()


@dataclass(frozen=True, slots=True)
class Target:
    """The gateways that a client command may talk to, and the user it logs in as."""

    server: tuple[str, ...]
    openid: str | None
    token: str
    zone: str
    ca: str | None
    insecure: bool
    transport: str
    timeout: float

    def client(
        self,
        *,
        reconnect_timeout: float = 0.0,
        resume: bytes = b"",
        on_state: Callable[[bytes], None] | None = None,
        on_lost: Callable[[Lost], None] | None = None,
    ) -> Client:
        """Return a client of the gateway, not yet connected."""
        from ..client import Client

        return Client(
            self.server,
            openid=self.openid,
            client_id=f"cli-{os.getpid()}",
            auth_token=self.token,
            zone=self.zone,
            ca=self.ca,
            insecure=self.insecure,
            transport=self.transport,
            connect_timeout=min(self.timeout, 10.0),
            request_timeout=self.timeout,
            reconnect_timeout=reconnect_timeout,
            resume=resume,
            on_state=on_state,
            on_lost=on_lost,
        )


def transport_option(function: F) -> F:
    """Add ``--transport``."""
    return click.option(
        "--transport",
        type=click.Choice(["auto", "aioquic", "qh3"]),
        default="auto",
        show_default=True,
        help="QUIC backend; auto takes qh3 if it is installed.",
    )(function)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the gateway and the user, passed on as one Target."""

    @functools.wraps(function)
    def wrapper(**values: Any) -> Any:
        names = Target.__dataclass_fields__
        source = click.get_current_context().get_parameter_source("openid")
        if values["token"] and source is ParameterSource.DEFAULT:
            values["openid"] = None  # the token says it
        target = Target(**{name: values.pop(name) for name in names})
        return function(target=target, **values)

    for option in reversed(
        (
            click.option(
                "--server",
                type=SERVER,
                multiple=True,
                default=["localhost:8453"],
                show_default=True,
                help="The gateway, by QUIC, or with wss://HOST:PORT/gatesvr by WebSocket;"
                " repeatable, for others to go to when it goes away.",
            ),
            click.option(
                "--openid",
                type=TEXT,
                default=_default_openid,
                help="User to log in as.  [default: the token's, or a new name for each call]",
            ),
            click.option("--token", type=TEXT, default="", help="Sent as auth_token."),
            click.option("--zone", type=TEXT, default="", help="Zone to log in to."),
            click.option(
                "--ca",
                type=click.Path(dir_okay=False),
                help="PEM file with the certificates to trust. Without it: the development"
                " certificate for a loopback server, the system's CAs for any other.",
            ),
            click.option("--insecure", is_flag=True, help="Accept any certificate."),
            transport_option,
            click.option(
                "--timeout",
                type=TIMEOUT,
                default="30s",
                show_default=True,
                help="Longest wait for an answer.",
            ),
        )
    ):
        wrapper = option(wrapper)
    return wrapper


push_server_option = click.option(
    "--server",
    type=ADDRESS,
    default="127.0.0.1:8092",
    show_default=True,
    help="The gateway's push address.",
)


def push_options(function: F) -> F:
    """Add the credentials for a gateway's push port: the arguments of Access, after ``push_``.

    What is wrong with one of them is told under the option's name.
    """
    texts = {
        "ca": "PEM file with the certificates to trust the push port by, or `system` for the"
        " system's CAs. Without it: plain text.",
        "cert": "PEM file with the certificate to show to the push port.",
        "key": "PEM file with its private key.",
        "token-file": "File whose first line is the token to send to the push port.",
    }

    @functools.wraps(function)
    def wrapper(*arguments: Any, **values: Any) -> Any:
        try:
            return function(*arguments, **values)
        except ConfigError as error:
            name = error.field.replace("_", "-")
            if name not in texts:
                raise
            why = str(error).removeprefix(f"{error.source}: ").removeprefix(f"{error.field}: ")
            raise ConfigError(why, source=error.source, field=f"--push-{name}") from None

    wrapped = cast("F", wrapper)
    for name, text in reversed(texts.items()):
        path = click.Path(dir_okay=False)
        wrapped = click.option(f"--push-{name}", type=path, default="", help=text)(wrapped)
    return wrapped


def _default_openid() -> str:
    # A new name each time, because a second login of an openid ends its first session.
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # depends on the Python version
        user = "nobody"
    return f"{user}-{os.urandom(3).hex()}"
