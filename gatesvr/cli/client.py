"""``gatesvr client``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ..errors import ConfigError, NotifyOverflow, RequestFailed, SessionLost
from ..observe.log import configure, format_keys
from .loop import run, stop_event
from .options import DURATION, Target, target_options
from .prompt import typed_lines
from .state import StateFile
from .terminal import echo, escape_control, style

if TYPE_CHECKING:
    from ..client import Client, Lost

__all__ = ["command", "prompt_lines", "read_lines"]

HELP = """\
ACTION [KEY=VALUE ...] [-- DATA]   send a request, for example: calculate op=add a=1 b=2
                                   or: echo -- hello
help                               this text
quit                               log out (also the end of the input)\
"""
_LAST = ("quit", "exit")
_WORDS = {
    "reconnecting": "the connection is lost ({why}), trying again in {pause_s:.1f} s",
    "reconnected": "connected again",
    "leaving": "the gateway asks to come back later ({why})",
}
"""Texts shown to people for log events."""
_RECONNECT_TIMEOUT_S = 600.0
_MAX_LINES = 64
"""Lines read ahead while one waits for its answer."""


@click.command()
@click.option(
    "--linger",
    type=DURATION,
    default="200ms",
    show_default=True,
    help="How long to wait for pushes after piped input ends.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False),
    help="Keep the session in this file and resume it next time; the file holds a secret.",
)
@target_options
def command(target: Target, linger: float, state: str | None) -> int:
    """Talk to a gateway line by line and see its pushes as they arrive.

    A line is ACTION [KEY=VALUE ...] [-- DATA]; `help` says more. Exits with 1 if a piped request
    got no answer with code 200.

    With --state, the session survives Ctrl-C and crashes of this process; `quit` and the end of
    input log out. Only one process at a time may use the file.
    """
    if state is None:
        return run(_talk(target, linger))
    file = StateFile(state)
    file.check()
    resume = file.read()
    source = click.get_current_context().get_parameter_source("openid")
    if resume and source is ParameterSource.DEFAULT:
        target = replace(target, openid=None)  # the state holds the openid
    try:
        return run(_talk(target, linger, resume, file.write))
    except ConfigError as error:
        if error.field != "resume":
            raise
        raise ConfigError(str(error), source=state) from None


def parse_line(line: str) -> tuple[str, dict[str, str], bytes]:
    """Parse a line ``action key=value ... [-- data]`` into (action, params, data).

    Raises:
        ValueError: The line is malformed.
    """
    head, dashes, data = f" {line} ".partition(" -- ")
    words = shlex.split(head)
    if not words:
        raise ValueError("the line must begin with an action")
    params = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"{word!r} is not KEY=VALUE (data comes after --)")
        params[key] = value
    return words[0], params, data[:-1].encode() if dashes else b""


class _Screen:
    """Prints answers and notifies in the session's order.

    One datagram may wake both the task that waits for the answer and the one that waits for
    notifies, in any order. So a line is printed one loop turn later, sorted by its server seq.
    """

    def __init__(self) -> None:
        self._lines: list[tuple[int, str]] = []
        self._is_due = False

    def show(self, server_seq: int, text: str) -> None:
        """Print text at its place in the order."""
        self._lines.append((server_seq, text))
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Print the waiting lines."""
        self._is_due = False
        lines, self._lines = self._lines, []
        for _, text in sorted(lines, key=lambda line: line[0]):
            echo(text)


class _Notes(logging.Handler):
    """Shows the client's log events on a terminal, in words."""

    def emit(self, record: logging.LogRecord) -> None:
        values = getattr(record, "keys", {})
        words = _WORDS.get(record.msg)
        if words is not None:
            text = words.format_map(values)
        elif record.levelno >= logging.WARNING:
            text = f"{record.msg} {format_keys(values)}"
        else:
            return
        echo(style(escape_control(text), dim=True))


async def _talk(
    target: Target,
    linger: float,
    resume: bytes = b"",
    on_state: Callable[[bytes], None] | None = None,
) -> int:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    stop = stop_event()
    failed = 0
    screen = _Screen()

    def show_lost(lost: Lost) -> None:
        screen.show(lost.last_seq, style(_lost_text(lost), fg="yellow"))

    # The client's logger reports lost connections.
    if is_terminal:
        logger = logging.getLogger("gatesvr")
        logger.handlers[:] = [_Notes(logging.INFO)]
        logger.setLevel(logging.INFO)
        logger.propagate = False
    else:
        configure()
    client = target.client(
        reconnect_timeout=_RECONNECT_TIMEOUT_S, resume=resume, on_state=on_state, on_lost=show_lost
    )
    stopped = asyncio.create_task(stop.wait())
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(stopped.cancel)
        before = client.session_id
        connecting = asyncio.create_task(client.connect())
        await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            # It may retry for as long as the gateway keeps the session.
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            return 1
        await connecting
        stack.push_async_callback(client.close)
        if is_terminal:
            how = "back in the session" if client.session_id == before else "logged in"
            name = escape_control(client.openid) or "the token's user"
            echo(f"{how} at {', '.join(target.server)} as {name}; `help` for help")
        lines: asyncio.Queue[str | None] = asyncio.Queue(_MAX_LINES)
        if is_terminal:
            prompting = asyncio.create_task(prompt_lines(lines, stop))
            stack.push_async_callback(_end, prompting)
        else:
            read_lines(lines)
        pushes = asyncio.create_task(_show_pushes(client, screen))
        try:
            while True:
                line = asyncio.create_task(lines.get())
                done, _ = await asyncio.wait(
                    {line, stopped, pushes}, return_when=asyncio.FIRST_COMPLETED
                )
                if line not in done:
                    line.cancel()
                    if pushes in done:
                        await pushes  # the session is over: raises the reason
                    break
                text = line.result()
                if text is None or text.strip() in _LAST:
                    break
                doing = asyncio.create_task(_do(client, text.strip(), screen))
                await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if not doing.done():
                    doing.cancel()
                    break
                failed += not doing.result()
            if not is_terminal and not stop.is_set():
                await asyncio.wait({stopped, pushes}, timeout=linger)
        finally:
            for task in (pushes, stopped):
                task.cancel()
            await asyncio.gather(pushes, stopped, return_exceptions=True)
            screen.flush()
        if stop.is_set() and on_state is not None:
            await client.suspend()
    return 1 if failed and not is_terminal else 0


async def _do(client: Client, line: str, screen: _Screen) -> bool:
    """Run one line; return whether it worked."""
    if not line or line.startswith("#"):
        return True
    if line in ("help", "?"):
        echo(HELP)
        return True
    try:
        action, params, data = parse_line(line)
        answer = await client.request(action, data, params)
    except (ValueError, RequestFailed, SessionLost) as error:
        echo(style(escape_control(str(error)), fg="red"))
        return False
    color = "green" if answer.code == 200 else "red"
    text = f"{style(str(answer.code), fg=color)} {escape_control(answer.message)}".rstrip()
    if answer.data:
        text += f"\n{_readable(answer.data)}"
    screen.show(answer.server_seq, text)
    return answer.code == 200


async def _show_pushes(client: Client, screen: _Screen) -> None:
    while True:
        try:
            async for notify in client:
                head = style(f"[{escape_control(notify.msg_type or 'push')}]", fg="cyan")
                text = f"{head} {escape_control(notify.title)} {_readable(notify.data)}"
                screen.show(notify.server_seq, text.rstrip())
            return
        except (NotifyOverflow, SessionLost) as error:
            if isinstance(error, SessionLost) and error.is_final:
                raise
            echo(style(escape_control(str(error)), fg="yellow"))


def _lost_text(lost: Lost) -> str:
    count = lost.last_seq - lost.first_seq + 1
    what = "1 message was" if count == 1 else f"{count} messages were"
    return f"{what} dropped by the gateway: {lost.reason.name.lower()}"


def _readable(data: bytes) -> str:
    return escape_control(data.decode("utf-8", "backslashreplace"))


async def prompt_lines(lines: asyncio.Queue[str | None], stop: asyncio.Event) -> None:
    """Put the lines that a person types into a queue, then None; Ctrl-C sets stop."""
    try:
        async with contextlib.aclosing(typed_lines()) as typed:
            async for line in typed:
                await lines.put(line)
                if line.strip() in _LAST:
                    return
    except EOFError:
        await lines.put(None)
    except KeyboardInterrupt:
        stop.set()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def read_lines(lines: asyncio.Queue[str | None]) -> None:
    """Put the lines of standard input into a queue, then None.

    A thread reads them, because an event loop cannot wait for a regular file, and would make the
    terminal non-blocking for standard output too.
    """
    loop = asyncio.get_running_loop()

    def put(line: str | None) -> None:
        asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()

    def read() -> None:
        # Not sys.stdin: the interpreter cannot exit while a thread waits inside its buffer.
        rest = b""
        try:
            while data := os.read(0, 65536):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    put(line.decode("utf-8", "replace"))
            if rest:
                put(rest.decode("utf-8", "replace"))
            put(None)
        except (RuntimeError, CancelledError):
            return  # the loop is closed and no longer needs lines

    threading.Thread(target=read, name="stdin", daemon=True).start()
