"""``gatesvr demo chat``: a chat room in the terminal, with another user in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..errors import NotifyOverflow, RequestFailed, SessionLost
from ..observe.log import configure, format_keys
from .client import prompt_lines, read_lines
from .loop import run, stop_event
from .options import DURATION, Target, target_options
from .terminal import echo, escape_control, style

if TYPE_CHECKING:
    from ..client import Answer, Client, Lost, Notify
    from ..demo.chat import Companion, Line

__all__ = ["chat"]

HELP = "say something; /who is here; /help; /quit"
COMPANION = "robin"
"""The name of the simulated user, or its start where somebody else has it."""
QUIET_S = 45.0
"""The companion says something of its own after this long."""
PATIENCE_S = 2.0
"""A line without an answer for this long is worth a word."""
RECONNECT_TIMEOUT_S = 600.0
MAX_LINES = 64
"""Lines read ahead while one waits for its answer."""
_COLOURS = ("green", "yellow", "magenta", "blue", "bright_red", "bright_green", "bright_blue")

_is_companion: ContextVar[bool] = ContextVar("is_companion", default=False)
"""Whether the task belongs to the simulated user, whose connection is not shown."""


@click.command()
@click.option("--serve", is_flag=True, help="Run a gateway with demo services for it, here.")
@click.option("--alone", is_flag=True, help="Without the simulated user.")
@click.option(
    "--linger",
    type=DURATION,
    default="3s",
    show_default=True,
    help="How long to listen on after piped input ends.",
)
@target_options
def chat(target: Target, linger: float, *, serve: bool, alone: bool) -> int:
    """Chat in the terminal, over a gateway, with a simulated user who answers.

    It needs the demo services: run it beside `gatesvr serve --demo`, or with --serve. Everybody who
    runs it is in the same room; --openid is the name. A connection that is lost is replaced by
    itself, and what was said meanwhile arrives then. Without a terminal, it sends the lines of its
    input and prints what is said, one a line.
    """
    return run(_chat(target, linger, serve=serve, alone=alone))


class _Room:
    """Prints what happens in the room.

    Args:
        me: The name of the one who sits here.
        is_terminal: Whether to print for a person, with colours and times.
    """

    def __init__(self, me: str, *, is_terminal: bool) -> None:
        self.me = me
        self.heard_at = time.monotonic()
        """When somebody said something last."""
        self._is_terminal = is_terminal
        self._away_since = 0.0

    def said(self, who: str, text: str) -> None:
        """Print a line that somebody said."""
        self.heard_at = time.monotonic()
        name = escape_control(who)
        shown = escape_control(text).replace("\n", " ")
        if not self._is_terminal:
            echo(f"{name}: {shown}")
            return
        colour = "cyan" if who == self.me else _COLOURS[sum(who.encode()) % len(_COLOURS)]
        clock = style(time.strftime("%H:%M"), dim=True)
        echo(f"{clock} {style(f'{name:>12}', fg=colour, bold=who == self.me)}  {shown}")

    def note(self, text: str) -> None:
        """Print what happened."""
        text = escape_control(text)
        echo(style(f"{'':>18} {text}", dim=True) if self._is_terminal else f"* {text}")

    def went_away(self, why: str) -> None:
        """Say, once, that the connection is lost."""
        if not self._away_since:
            self._away_since = time.monotonic()
            self.note(f"the connection is lost: {why}. It comes back by itself")

    def came_back(self, *, is_resumed: bool) -> None:
        """Say that it is back."""
        away_s = time.monotonic() - self._away_since
        self._away_since = 0.0
        if is_resumed:
            self.note(f"back after {away_s:.1f} s, in the same session: nothing is lost")
        else:
            self.note(f"back after {away_s:.1f} s, in a new session: the gateway began anew")


class _Notes(logging.Handler):
    """Tells the room what the client logs."""

    def __init__(self, room: _Room) -> None:
        super().__init__(logging.INFO)
        self._room = room

    def emit(self, record: logging.LogRecord) -> None:
        if _is_companion.get():
            return
        values = getattr(record, "keys", {})
        if record.msg == "reconnecting":
            self._room.went_away(str(values.get("why", "")))
        elif record.msg == "reconnected":
            self._room.came_back(is_resumed=bool(values.get("is_resumed")))
        elif record.msg == "leaving":
            self._room.note("the gateway asks to come back later")
        elif record.levelno >= logging.WARNING:
            self._room.note(f"{record.msg} {format_keys(values)}")


async def _chat(target: Target, linger: float, *, serve: bool, alone: bool) -> int:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    configure("warning")
    stop = stop_event()
    async with contextlib.AsyncExitStack() as stack:
        if serve:
            target = await stack.enter_async_context(_gateway(target))
        room = _Room(target.openid or "", is_terminal=is_terminal)

        def lost(gone: Lost) -> None:
            count = gone.last_seq - gone.first_seq + 1
            room.note(f"{count} messages were dropped: {gone.reason.name.lower()}")

        client = target.client(reconnect_timeout=RECONNECT_TIMEOUT_S, on_lost=lost)
        stopped = asyncio.create_task(stop.wait())
        stack.callback(stopped.cancel)
        if not await _until(client.connect(), stopped):
            return 1
        stack.push_async_callback(client.close)
        logger = logging.getLogger("gatesvr.client")
        notes = _Notes(room)
        logger.addHandler(notes)
        stack.callback(logger.removeHandler, notes)
        level, logger.propagate = logger.level, False
        logger.setLevel(logging.INFO)
        stack.callback(logger.setLevel, level)
        room.note(f"you are {client.openid}, at {', '.join(target.server)}. {HELP}")
        listening = asyncio.create_task(_listen(client, room))
        stack.push_async_callback(_end, listening)
        answer = await client.request("chat_join")
        if not answer.is_ok:
            raise RequestFailed(f"no chat room here: {answer.message}", answer.code)
        if not alone:
            other = asyncio.create_task(_accompany(target, room, await _names(client)))
            stack.push_async_callback(_end, other)
        lines: asyncio.Queue[str | None] = asyncio.Queue(MAX_LINES)
        if is_terminal:
            prompting = asyncio.create_task(prompt_lines(lines, stop))
            stack.push_async_callback(_end, prompting)
        else:
            read_lines(lines)
        failed = await _say_lines(client, room, lines, stopped, listening)
        if not is_terminal and not stop.is_set():
            await asyncio.wait({stopped, listening}, timeout=linger)
        if client.is_connected:
            with contextlib.suppress(RequestFailed, SessionLost):
                await client.request("chat_leave", timeout=1.0)
        return 1 if failed and not is_terminal else 0


async def _say_lines(
    client: Client,
    room: _Room,
    lines: asyncio.Queue[str | None],
    stopped: asyncio.Task[bool],
    listening: asyncio.Task[None],
) -> int:
    """Say the lines of the input until it ends; return how many were not taken."""
    failed = 0
    while True:
        line = asyncio.create_task(lines.get())
        done, _ = await asyncio.wait(
            {line, stopped, listening}, return_when=asyncio.FIRST_COMPLETED
        )
        if line not in done:
            line.cancel()
            if listening in done:
                await listening  # the session is over: raises the reason
            return failed
        text = line.result()
        if text is None or text.strip() in ("/quit", "/exit"):
            return failed
        text = text.strip()
        if text in ("/help", "/?"):
            room.note(HELP)
        elif text:
            if not client.is_connected:
                room.note("you are not connected: this goes out when you are back")
            failed += not await _until(_send(client, room, text), stopped)
            if stopped.done():
                return failed


async def _send(client: Client, room: _Room, text: str) -> bool:
    """Say a line, or ask who is there; return whether it worked."""
    try:
        if text == "/who":
            room.note(f"here: {', '.join(await _names(client))}")
            return True
        answer = await _say(client, room, text)
    except (RequestFailed, SessionLost) as error:
        room.note(f"not said: {error}")
        return False
    if not answer.is_ok:
        room.note(f"not said: {answer.message}")
    return answer.is_ok


async def _say(client: Client, room: _Room, text: str) -> Answer:
    """Say a line; tell the room when its answer is late."""
    saying = asyncio.ensure_future(client.request("chat_say", text.encode()))
    try:
        await asyncio.wait({saying}, timeout=PATIENCE_S)
        if not saying.done() and client.is_connected:
            room.note("no answer yet: the network is slow, or away")
        return await saying
    finally:
        saying.cancel()


async def _listen(client: Client, room: _Room) -> None:
    """Print what the session brings until it is over."""
    from ..demo.chat import JOINED, LEFT, SAID

    while True:
        try:
            async for notify in client:
                if notify.msg_type == SAID:
                    room.said(notify.title, notify.content)
                elif notify.msg_type in (JOINED, LEFT) and notify.title != room.me:
                    did = "comes in" if notify.msg_type == JOINED else "leaves"
                    room.note(f"{notify.title} {did}")
            return
        except (NotifyOverflow, SessionLost) as error:
            if isinstance(error, SessionLost):
                if error.is_final:
                    raise
                continue  # came_back() says so
            room.note(str(error))


async def _names(client: Client) -> list[str]:
    answer = await client.request("chat_who")
    return list(json.loads(answer.data)) if answer.is_ok else []


async def _accompany(target: Target, room: _Room, names: list[str]) -> None:
    """Be the other user, unless there is one already."""
    from ..demo.chat import Companion

    if any(name.split("-")[0] == COMPANION for name in names):
        return
    name = COMPANION if target.openid != COMPANION else f"{COMPANION}-{os.urandom(2).hex()}"
    companion = Companion(name)
    _is_companion.set(True)
    client = replace(target, openid=name).client(reconnect_timeout=RECONNECT_TIMEOUT_S)
    async with client:
        await client.request("chat_join")
        talking = asyncio.create_task(_talk(client, companion, room))
        try:
            await _say_all(client, companion.greet(room.me))
            await talking
        finally:
            await _end(talking)


async def _talk(client: Client, companion: Companion, room: _Room) -> None:
    """Answer what is said, and break a long silence."""
    while True:
        hearing = asyncio.ensure_future(anext(client))
        try:
            while not hearing.done():
                await asyncio.wait({hearing}, timeout=QUIET_S)
                if not hearing.done() and time.monotonic() - room.heard_at >= QUIET_S:
                    await _say_all(client, [companion.small_talk()])
            await _say_all(client, _replies(companion, hearing.result()))
        except (StopAsyncIteration, NotifyOverflow, SessionLost, RequestFailed) as error:
            if isinstance(error, StopAsyncIteration) or getattr(error, "is_final", False):
                return
        finally:
            await _end(hearing)


def _replies(companion: Companion, notify: Notify) -> list[Line]:
    from ..demo.chat import JOINED, SAID

    if notify.msg_type == SAID:
        return companion.answer(notify.title, notify.content)
    return companion.greet(notify.title) if notify.msg_type == JOINED else []


async def _say_all(client: Client, lines: Sequence[Line]) -> None:
    for delay, text in lines:
        await asyncio.sleep(delay)
        await client.request("chat_say", text.encode())


async def _until(doing: Awaitable[object], stopped: asyncio.Task[bool]) -> bool:
    """Await doing, or the stop; return whether it came to a good end."""
    task = asyncio.ensure_future(doing)
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result() is not False
    await _end(task)
    return False


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def _gateway(target: Target) -> AsyncIterator[Target]:
    """Run a gateway with demo services on free ports; yields the target that it is."""
    from ..config import load
    from ..gateway import Gateway
    from ..service.gateway_client import GatewayClient
    from .upstream import serving

    pushes_to: list[str] = []
    async with serving(lambda: GatewayClient(lambda: pushes_to[0])) as services:
        config = load(
            overrides={
                "transport.bind": "127.0.0.1:0",
                "push.bind": "127.0.0.1:0",
                "upstream.services": {
                    name: [{"address": address}] for name, address in services.items()
                },
            }
        )
        async with Gateway(config) as gateway:
            pushes_to.append(gateway.grpc_address)
            is_known = bool(gateway.listener.tls.path)
            yield replace(
                target, server=(gateway.address,), insecure=target.insecure or not is_known
            )
