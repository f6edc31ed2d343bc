"""``gatesvr demo chat`` and ``gatesvr health``, as users run them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gatesvr.cli.chat import _is_companion, _Notes, _Room

from .process import FREE_PORTS, Server, gatesvr, serving, start

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_chat_serves_itself_and_is_answered(tmp_path: Path) -> None:
    chat = ("demo", "chat", "--serve", "--openid", "ann", "--linger", "0")
    server = Server(await start(tmp_path, *chat))
    try:
        assert server.process.stdin is not None
        server.process.stdin.write(b"hello robin\n/who\n" + b"x" * 501 + b"\n")
        await server.read_until("robin: ")
        server.process.stdin.close()
        await server.process.wait()
        result = await server.stop()
    finally:
        if server.process.returncode is None:
            server.process.kill()
            await server.process.communicate()
    lines = (server.banner + result.out).splitlines()
    assert result.err == ""
    assert lines[0].startswith("* you are ann, at 127.0.0.1:")
    assert "ann: hello robin" in lines
    assert any(line.startswith("* here: ann") for line in lines)
    assert "* not said: a line has 1 to 500 characters" in lines
    assert result.code == 1  # one line was not taken


async def test_two_meet_at_a_gateway_that_is_healthy(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        chat = ("demo", "chat", "--alone", "--server", server.address("clients"))
        ann, bob, health = await asyncio.gather(
            gatesvr(tmp_path, *chat, "--openid", "ann", "--linger", "0", stdin="quiet here\n"),
            gatesvr(tmp_path, *chat, "--openid", "bob", "--linger", "0"),
            gatesvr(tmp_path, "health", "--server", server.address("push")),
        )
        push = server.address("push")
    assert (ann.code, bob.code) == (0, 0)
    assert "robin" not in ann.out + bob.out
    assert (health.code, health.out) == (0, "serving\n")
    gone = await gatesvr(tmp_path, "health", "--server", push, "--timeout", "1s")
    assert (gone.code, gone.out) == (1, "")
    assert "does not answer" in gone.err


def test_chat_says_when_the_connection_is_lost_and_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    handler = _Notes(_Room("ann", is_terminal=False))

    def log(event: str, **values: object) -> None:
        record = logging.LogRecord("gatesvr.client", logging.INFO, "", 0, event, None, None)
        record.keys = values
        handler.emit(record)

    log("reconnecting", why="idle", pause_s=0.1)
    log("reconnecting", why="no answer", pause_s=0.4)
    log("reconnected", is_resumed=True)
    log("reconnecting", why="reset")
    log("reconnected", is_resumed=False)
    log("leaving", why="draining")
    token = _is_companion.set(True)
    log("reconnecting", why="not mine")
    _is_companion.reset(token)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "* the connection is lost: idle. It comes back by itself"
    assert lines[1].endswith(" s, in the same session: nothing is lost")
    assert lines[2] == "* the connection is lost: reset. It comes back by itself"
    assert lines[3].endswith(" s, in a new session: the gateway began anew")
    assert lines[4:] == ["* the gateway asks to come back later"]


def test_what_others_say_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _Room("ann", is_terminal=False).said("eve\x1b[2J", "a\x07b\nc: d")
    assert capsys.readouterr().out == "eve\\x1b[2J: a\\x07b c: d\n"
