"""``gatesvr call ACTION``."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError
from .loop import run
from .options import PAIR, TEXT, Target, target_options
from .terminal import echo, escape_control, show_data, style, to_json

if TYPE_CHECKING:
    from ..client import Answer

__all__ = ["command"]


_ACTIONS = {
    "echo": "the data, back",
    "time": "the time",
    "calculate op=add a=1 b=2": "op: add, sub, mul, div",
    "notify_demo before=1 after=1": "the answer with notifies around it",
    "push_demo": "the same, with notifies from the push API",
    "broadcast": "the data, to every logged-in session",
    "zone_broadcast": "the same, from the zone service",
    "zone, zone_info": "the caller's details at the zone service",
    "chat_join, chat_leave": "into the room of `gatesvr demo chat`, and out of it",
    "chat_say, chat_who": "the data, as a line to everybody there; who is there",
    "chat_people": "who is there, and how",
    "slow ms=1000": "the data, after a delay",
    "status": "the hello service's state",
    "heartbeat": "the hello service's time",
    "data_sync": "the number of bytes received",
    "hello zone=1, logout": "log in again (deny=1: get refused), log out",
}
"""Actions of the demo services, with params, and their answers."""
# A line with \b alone keeps click from rewrapping the next paragraph.
_EPILOG = "\b\nActions of the demo services (serve --demo):\n" + "\n".join(
    f"  {action:<28}  {answer}" for action, answer in _ACTIONS.items()
)


@click.command(epilog=_EPILOG)
@click.argument("action", type=TEXT)
@click.option(
    "--data",
    default="",
    metavar="TEXT|@FILE|-",
    help="The request's data: TEXT, @FILE, or - for standard input.",
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

    Prints the answer's data, or the whole answer with --json. Exits with 1 unless an answer with
    code 200 arrives.
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
    """Return the bytes that --data names.

    Raises:
        ConfigError: The file cannot be read.
    """
    if data != "-" and not data.startswith("@"):
        return data.encode("utf-8", "surrogateescape")
    try:
        # Descriptor 0 instead of sys.stdin, to get the raw bytes.
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
    """Return the answer, and how long the login and the request took, in ms."""
    client = target.client()
    began = time.perf_counter()
    async with client:
        logged_in = time.perf_counter()
        try:
            answer = await client.request(action, data, params, headers)
        except ValueError as error:  # the protocol cannot carry it
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
