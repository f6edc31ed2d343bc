"""``gatesvr events``: one line an event, from a gateway in another process."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr import grpcio
from gatesvr.cli.events import _as_json, _as_text
from gatesvr.config import PushConfig
from gatesvr.errors import UpstreamError
from gatesvr.observe.events import EventKind, SessionEvent
from gatesvr.observe.log import timestamp
from gatesvr.service import gateway_client
from gatesvr.service.gateway_client import GatewayClient

from ..grpc_api.certificates import make
from ..grpc_api.test_service import running
from .process import DEADLINE_S, FREE_PORTS, Server, gatesvr, serving, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@asynccontextmanager
async def events(state: Path, server: Server, *args: str) -> AsyncIterator[Server]:
    """Run ``events`` against a gateway, subscribed."""
    process = await start(state, "events", "--server", server.address("push"), *args)
    try:
        assert process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            assert (await process.stderr.readline()).startswith(b"events of 127.0.0.1:")
        yield Server(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_events_are_printed_until_ctrl_c(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server,
        events(tmp_path, server) as text,
        events(tmp_path, server, "--json", "--kind", "logged_in", "--kind", "closed") as lines,
    ):
        assert (await gatesvr(tmp_path, *server.call, "--openid", "ann")).code == 0
        closed = await text.read_until(" closed ")
        assert " openid=ann generation=1 reason=app_close sent=2 " in closed
        kinds = [line.split()[1] for line in text.banner.splitlines()]
        assert kinds == ["connected", "logged_in", "closed"]
        await lines.read_until('"closed"')
        first, last = (json.loads(line) for line in lines.banner.splitlines())
        assert (first["kind"], first["openid"], first["max_client_seq"]) == ("logged_in", "ann", 1)
        assert (last["kind"], last["session_id"]) == ("closed", first["session_id"])
        for reader, number in ((text, signal.SIGINT), (lines, signal.SIGTERM)):
            result = await reader.stop(number)
            assert (result.code, result.out, result.err) == (0, "", "")


async def test_stop_of_the_gateway_ends_it(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server,
        events(tmp_path, server) as reader,
    ):
        assert (await server.stop()).code == 0
        async with asyncio.timeout(DEADLINE_S):
            _, err = await reader.process.communicate()
        assert (reader.process.returncode, err) == (0, b"the gateway is stopping\n")


async def test_gateway_that_hangs_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host answers only TCP, so a reader without a time-out would wait for ever."""
    monkeypatch.setattr(gateway_client, "KEEPALIVE_MS", 200)
    monkeypatch.setattr(grpcio, "KEEPALIVE_TIMEOUT_MS", 200)
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server,
        GatewayClient(server.address("push")) as client,
        client.events() as events,
    ):
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(UpstreamError, match="UNAVAILABLE"):
                await anext(events)
        finally:
            server.process.send_signal(signal.SIGCONT)


async def test_credentials_are_read_from_files(tmp_path: Path) -> None:
    ca = make(tmp_path, "ca")
    server = make(tmp_path, "server", ca)
    token = tmp_path / "token"
    token.write_text("f" * 40)
    push = PushConfig(
        bind="127.0.0.1:0", cert=server.cert, key=server.key, client_ca=ca.cert, token=str(token)
    )
    args = ("--push-ca", ca.cert, "--push-cert", server.cert, "--push-key", server.key)
    async with asyncio.timeout(DEADLINE_S), running(push) as rig:
        arguments = ("events", "--server", rig.service.address, *args)
        process = await start(tmp_path, *arguments, "--push-token-file", str(token))
        try:
            assert process.stderr is not None
            assert (await process.stderr.readline()).startswith(b"events of 127.0.0.1:")
            rig.session("ann")
            assert " openid=ann " in await Server(process).read_until(" logged_in ")
        finally:
            process.kill()
            await process.communicate()


async def test_no_gateway_is_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        address = server.address("push")
    result = await gatesvr(tmp_path, "events", "--server", address)
    assert (result.code, result.out) == (1, "")
    lines = result.err.splitlines()
    assert lines[-1].startswith("gatesvr: gateway: UNAVAILABLE: ")
    assert "Traceback" not in result.err


def test_text_from_outside_brings_no_lines_and_no_keys() -> None:
    event = SessionEvent(
        EventKind.KICKED,
        "s1",
        'eve" reason=good\n12:00:00 closed',
        2,
        "\x1b[2J bye",
        1_500,
        missed=3,
        transport="websocket",
    )
    text = _as_text(event)
    assert text.partition(" ")[2] == (
        'kicked session=s1 openid="eve\\" reason=good\\\\n12:00:00 closed" generation=2'
        ' reason="\\\\x1b[2J bye" sent=0 acked=0 client_seq=0 undelivered=0'
        " transport=websocket missed=3"
    )
    line = _as_json(event)
    assert line.isprintable()
    assert json.loads(line)["openid"] == event.openid


def test_gap_is_a_line_of_its_own() -> None:
    text = _as_text(SessionEvent(EventKind.MISSED, at_ms=1_500, missed=7))
    assert text == f"{timestamp(1.5)} missed missed=7"
