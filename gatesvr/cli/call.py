"""``gatesvr call ACTION``."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .loop import run
from .options import PAIR, Target, target_options
from .terminal import echo, escape_control, show_data, style, to_json

if TYPE_CHECKING:
    from ..client import Answer

__all__ = ["command"]


_ACTIONS = {
    "echo": "the data, back",
    "time": "the time",
    "calculate op=add a=1 b=2": "op: add, sub, mul, div",
    "notify_demo before=1 after=1": "notifies in one bundle with the answer",
    "push_demo": "the same by the push API",
    "broadcast": "the data, to everybody who is logged in",
    "zone_broadcast": "the same, under the zone's name",
    "zone, zone_info": "who the caller is to the zone service",
    "slow ms=1000": "the data, after a while",
    "status": "how the hello service is",
    "heartbeat": "the hello service's time",
    "data_sync": "how many bytes came",
    "hello zone=1, logout": "log in again (deny=1: be refused), say goodbye",
}
"""Of the demo services: action, with params where it takes some, to what comes back."""
# A line that is \b alone keeps click from filling what follows.
_EPILOG = "\b\nActions of the demo services (serve --demo):\n" + "\n".join(
    f"  {action:<28}  {answer}" for action, answer in _ACTIONS.items()
)


@click.command(epilog=_EPILOG)
@click.argument("action")
@click.option(
    "--data",
    default="",
    metavar="TEXT|@FILE|-",
    help="The request's data: text, what a file holds, or standard input.",
)
@click.option(
    "--header", "headers", type=PAIR, multiple=True, help="A header of the request; repeatable."
)
@click.option(
    "--param", "params", type=PAIR, multiple=True, help="A parameter of the request; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as a JSON object.")
@target_options
def command(
    target: Target,
    action: str,
    data: str,
    headers: tuple[tuple[str, str], ...],
    params: tuple[tuple[str, str], ...],
    as_json: bool,
) -> int:
    """Log in, send one request, print its answer.

    Prints the answer's data, or with --json all of it. Ends with 1 where there is no answer, or
    none of code 200.
    """
    content = _read(data)
    answer, timing = run(_call(target, action, content, dict(params), dict(headers)))
    if as_json:
        echo(to_json(_as_object(answer, timing), indent=2))
    elif answer.data:
        show_data(answer.data)
    if answer.code == 200:
        return 0
    echo(
        style(
            f"gatesvr: {action}: {answer.code} {escape_control(answer.message)}", fg="red", err=True
        ),
        err=True,
    )
    return 1


def _read(data: str) -> bytes:
    """Return what --data says.

    Raises:
        ConfigError: A file that cannot be read.
    """
    if data != "-" and not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        # Descriptor 0, not sys.stdin: the bytes are wanted as they are.
        with open(0 if data == "-" else data[1:], "rb", closefd=data != "-") as file:
            return file.read()
    except OSError as error:
        name = "standard input" if data == "-" else data[1:]
        raise ConfigError(
            f"cannot read {name}: {error.strerror or error}", source="--data"
        ) from None


async def _call(
    target: Target, action: str, data: bytes, params: dict[str, str], headers: dict[str, str]
) -> tuple[Answer, dict[str, float]]:
    """Return the answer and how long, in ms, the login and the request took."""
    client = target.client()
    began = time.perf_counter()
    async with client:
        logged_in = time.perf_counter()
        try:
            answer = await client.request(action, data, params, headers)
        except ValueError as error:  # none that the protocol can carry
            raise click.UsageError(str(error)) from None
        answered = time.perf_counter()
    return answer, {
        "login_ms": round((logged_in - began) * 1e3, 3),
        "request_ms": round((answered - logged_in) * 1e3, 3),
    }


def _as_object(answer: Answer, timing: dict[str, float]) -> dict[str, Any]:
    try:
        data = {"data": answer.data.decode("utf-8")}
    except UnicodeDecodeError:
        data = {"data_base64": base64.b64encode(answer.data).decode("ascii")}
    return {
        "code": answer.code,
        "message": answer.message,
        **data,
        "headers": answer.headers,
        "client_seq": answer.client_seq,
        "server_seq": answer.server_seq,
        **timing,
    }
