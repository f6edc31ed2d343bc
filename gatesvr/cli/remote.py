"""Remote: asks the admin server of a running gateway, and shows what it says."""

from __future__ import annotations

import functools
import json
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..admin.text import Amount
from ..errors import ConfigError, GatesvrError
from .options import TEXT
from .terminal import echo, escape_control, style, to_json

if TYPE_CHECKING:
    import httpx

__all__ = [
    "Remote",
    "RemoteError",
    "facts",
    "remote_options",
    "session_path",
    "show",
    "table",
]

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT = "http://127.0.0.1:8090"
VARIABLE = "GATESVR_ADMIN"
TOKEN_VARIABLE = "GATESVR_TOKEN"  # noqa: S105  # a name
TIMEOUT_S = 10.0
NEEDS_EXTRA = "the commands for a running gateway need more packages: pip install 'gatesvr[admin]'"


_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


class RemoteError(GatesvrError):
    """The gateway cannot be asked, or it refused.

    Attributes:
        code: The code of the refusal; empty where there was no answer.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Remote:
    """The admin server that a command talks to."""

    server: str
    token: str
    ca: str | None
    cert: str | None
    key: str | None
    as_json: bool

    def get(self, path: str, within: float = TIMEOUT_S, **query: Any) -> Any:
        """Return an answer of the API.

        Args:
            path: Behind /api/v1/.
            within: Longest wait, seconds.
            query: Parameters; None and "" are left out.

        Raises:
            RemoteError: There is no answer, or a refusal.
        """
        values = {name: value for name, value in query.items() if value not in (None, "")}
        return self._ask("GET", path, within, params=values)

    def post(self, path: str, within: float = TIMEOUT_S, **body: Any) -> Any:
        """Change something; as get()."""
        return self._ask("POST", path, within, json=body, headers={"X-GateSvr": "1"})

    def events(self, path: str, silence: float) -> Iterator[tuple[str, Any]]:
        """Yield (name, data) of the events of a stream until it ends.

        Args:
            path: Behind /api/v1/.
            silence: Longest wait for the next event, seconds.

        Raises:
            RemoteError: As for get().
        """
        import httpx

        try:
            with self._client(silence) as client, client.stream("GET", path) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal(answer)
                name = ""
                for line in answer.iter_lines():
                    key, _, value = line.partition(": ")
                    if key == "event":
                        name = value
                    elif key == "data":
                        yield name, json.loads(value)
        except httpx.HTTPError as error:
            raise self._lost(error) from None

    def _ask(self, method: str, path: str, within: float, **more: Any) -> Any:
        client = self._client(within)
        import httpx

        try:
            with client:
                answer = client.request(method, path, **more)
        except httpx.HTTPError as error:
            raise self._lost(error) from None
        if answer.status_code >= 400:
            raise _refusal(answer)
        try:
            return answer.json()
        except ValueError:
            raise RemoteError(f"{self.server} answers something else: no gateway?") from None

    def _client(self, within: float) -> httpx.Client:
        try:
            import httpx
        except ImportError:
            raise ConfigError(NEEDS_EXTRA) from None
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        is_unix = self.server.startswith("unix:")
        if is_unix:
            self._probe(self.server.removeprefix("unix:"))
        base = "http://localhost" if is_unix else self.server.rstrip("/")
        if "://" not in base:
            base = f"http://{base}"
        transport = httpx.HTTPTransport(
            uds=self.server.removeprefix("unix:") if is_unix else None,
            verify=self._tls() if base.startswith("https://") else True,
        )
        try:
            return httpx.Client(
                base_url=f"{base}/api/v1/",
                headers=headers,
                timeout=within,
                transport=transport,
                trust_env=False,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"--server: {error}") from None

    def _probe(self, path: str) -> None:
        """Try to connect to a Unix socket, because httpx leaves one open that it cannot connect.

        Raises:
            RemoteError: Nobody listens on it.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                raise self._unreachable(error.strerror or str(error)) from None

    def _tls(self) -> Any:
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise ConfigError(f"--ca, --cert or --key: {error.strerror or error}") from None
        return context

    def _lost(self, error: httpx.HTTPError) -> RemoteError:
        import httpx

        if isinstance(error, httpx.TimeoutException):
            return RemoteError(f"{self.server} does not answer in time")
        if isinstance(error, httpx.UnsupportedProtocol):
            return RemoteError(f"--server: {self.server} is neither http:, https: nor unix:")
        return self._unreachable(_ERRNO.sub("", str(error)))

    def _unreachable(self, why: str) -> RemoteError:
        hint = "; is it running, with [admin] enabled?" if self.server == DEFAULT else ""
        return RemoteError(f"cannot reach {self.server}: {why}{hint}")


def _refusal(answer: httpx.Response) -> RemoteError:
    try:
        found = answer.json()["error"]
        return RemoteError(str(found["message"]), str(found["code"]))
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"no gateway's answer: HTTP {answer.status_code}")


def remote_options(function: F) -> F:
    """Add the options for the admin server, passed on as one Remote."""

    @functools.wraps(function)
    def wrapper(**values: Any) -> Any:
        remote = Remote(**{name: values.pop(name) for name in Remote.__dataclass_fields__})
        return function(remote=remote, **values)

    path = click.Path(dir_okay=False)
    for option in reversed(
        (
            click.option(
                "--server",
                type=TEXT,
                metavar="URL|unix:PATH",
                default=DEFAULT,
                envvar=VARIABLE,
                show_default=True,
                help=f"The gateway's admin server; also {VARIABLE}.",
            ),
            click.option(
                "--token",
                type=TEXT,
                default="",
                envvar=TOKEN_VARIABLE,
                help=f"A token of admin.token; better in {TOKEN_VARIABLE}.",
            ),
            click.option("--ca", type=path, help="PEM file with the certificates to trust."),
            click.option("--cert", type=path, help="PEM file with the certificate to show."),
            click.option("--key", type=path, help="PEM file with its private key."),
            click.option("--json", "as_json", is_flag=True, help="Print what the server says."),
        )
    ):
        wrapper = option(wrapper)
    return wrapper  # type: ignore[return-value]


def session_path(session_id: str) -> str:
    """Return the path of a session, whatever its id has in it."""
    return f"sessions/{urllib.parse.quote(session_id, safe='')}"


def show(remote: Remote, answer: Any, text: Callable[[Any], str]) -> None:
    """Print an answer: as JSON if that was asked for, else by text."""
    echo(to_json(answer) if remote.as_json else text(answer))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows in columns as wide as they need; numbers stand to the right."""
    cells = [[escape_control(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    columns = zip(*rows, strict=True)
    is_number = [all(isinstance(cell, int | float | Amount) for cell in c) for c in columns]

    def line(row: Sequence[str]) -> str:
        parts = zip(row, widths, is_number, strict=True)
        return "  ".join(f"{c:>{w}}" if n else f"{c:<{w}}" for c, w, n in parts).rstrip()

    return "\n".join([style(line(head), bold=True), *map(line, cells)])


def facts(values: Mapping[str, object], indent: str = "") -> str:
    """Return names and values, one pair a line."""
    width = max(map(len, values))
    return "\n".join(
        f"{indent}{name:<{width}}  {escape_control(str(value))}" for name, value in values.items()
    )
