"""``gatesvr call ACTION``."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import click

from .loop import run
from .options import PAIR, Target, target_options
from .terminal import echo, escape_control, show_data, style, to_json

if TYPE_CHECKING:
    from ..client import Answer

__all__ = ["command"]


@click.command()
@click.argument("action")
@click.option("--data", default="", help="The request's data, text.")
@click.option(
    "--param", "params", type=PAIR, multiple=True, help="A parameter of the request; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as a JSON object.")
@target_options
def command(
    target: Target, action: str, data: str, params: tuple[tuple[str, str], ...], as_json: bool
) -> int:
    """Log in, send one request, print its answer.

    Prints the answer's data, or with --json all of it. Ends with 1 where there is no answer, or
    none of code 200.
    """
    answer, timing = run(_call(target, action, data.encode("utf-8", "surrogateescape"), params))
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


async def _call(
    target: Target, action: str, data: bytes, params: tuple[tuple[str, str], ...]
) -> tuple[Answer, dict[str, float]]:
    """Return the answer and how long, in ms, the login and the request took."""
    client = target.client()
    began = time.perf_counter()
    async with client:
        logged_in = time.perf_counter()
        answer = await client.request(action, data, dict(params))
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
