"""The kit itself: its cases, clients that do not work, its WebSocket, its command."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import sys
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from websockets.asyncio.client import ClientConnection, connect

from gatesvr._core.codec import encode_request
from gatesvr._pb import message_pb2 as pb
from gatesvr.cli.conformance import command
from gatesvr.cli.main import main
from gatesvr.conformance.broken import Broken, DriverError
from gatesvr.conformance.driver import CommandSource, ListenSource
from gatesvr.conformance.gateway import Doors, open_door
from gatesvr.conformance.kit import Kit
from gatesvr.conformance.peer import Peer, Table
from gatesvr.conformance.python_client import READY, PythonClient
from gatesvr.protocol.messages import MAX_CLIENT_SEQ, RequestType
from gatesvr.protocol.pacing import AckPacer
from gatesvr.transport.tls import generate_certificate

from ..e2e.web_client import client_context
from .in_process import CASES, InProcess, InProcesses, play

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
PYTHON = shlex.quote(sys.executable)


def test_every_case_has_a_rule_of_the_protocol() -> None:
    text = PROTOCOL.read_text("utf-8")
    sections = set(re.findall(r"^#+ (\d[\d.]*?)\.? ", text, re.M))
    assert len(CASES) >= 40
    assert {case.rule for case in CASES.values()} <= sections
    assert all(case.title[-1] not in ".!" for case in CASES.values())


# Clients that do not work.


def printing(code: str) -> str:
    return f"{PYTHON} -c {shlex.quote(code)}"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "the command is empty"),
        ("a 'b", "cannot read the command"),
        ("/no/such/client --x", "cannot start /no/such/client: No such file"),
        (printing("print('hello')"), "printed 'hello', not"),
        (printing("print([1])"), "printed '\\[1\\]', not"),
        (printing("""print('{"event": "connected"}')"""), "printed 'connected' before \"ready\""),
        (printing("import sys; sys.exit('no key')"), "exit code 1: no key"),
    ],
)
async def test_client_that_does_not_start(line: str, says: str) -> None:
    with pytest.raises(DriverError, match=says):
        await CommandSource(line).next()


async def test_client_that_ends_in_a_case_breaks_it_and_the_next_case_has_another() -> None:
    started: list[InProcess] = []

    class Mortal(InProcess):
        is_dead = False

        async def receive(self) -> dict[str, Any]:
            event = {} if self.is_dead else await super().receive()
            self.is_dead = self is started[0] and event.get("event") != "answer"
            if self.is_dead:
                raise DriverError("the client ended with exit code 3")
            return event

    class Mortals(InProcesses):
        async def next(self) -> InProcess:
            started.append(Mortal("auto"))
            return started[-1]

    kit = Kit(Mortals(), jobs=1)
    first, second = await kit.run([CASES["answer-code"], CASES["kick"]])
    assert (first.outcome, first.did) == ("broken", "the client ended with exit code 3")
    assert second.outcome == "kept"
    assert len(started) == 2


async def test_what_was_waited_for_and_what_happened_are_told() -> None:
    class Idle(InProcess):
        def send(self, command: dict[str, Any]) -> None:
            if command["do"] != "request":
                super().send(command)

    class AllIdle(InProcesses):
        async def next(self) -> InProcess:
            return Idle("auto")

    case = replace(CASES["numbers-client-seq"], deadline=0.5)
    (verdict,) = await Kit(AllIdle()).run([case])
    assert verdict.expected == f"a request with seq {MAX_CLIENT_SEQ - 2}"
    assert verdict.transcript[-1].endswith("client is told to request echo (id 1)")


async def test_client_that_does_not_come_by_the_transport() -> None:
    class OfQuic(InProcess):
        transports = ("quic",)

    class AllOfQuic(InProcesses):
        async def next(self) -> InProcess:
            return OfQuic("auto")

    with pytest.raises(DriverError, match="does not come by websocket; it says: quic"):
        await Kit(AllOfQuic(), transport="websocket").run([CASES["kick"]])


async def test_case_that_needs_what_the_client_does_not_offer_is_left_out() -> None:
    class Least(InProcess):
        features = frozenset()

    class Leasts(InProcesses):
        async def next(self) -> InProcess:
            return Least("auto")

    (verdict,) = await Kit(Leasts()).run([CASES["restart"]])
    assert (verdict.outcome, verdict.did) == ("left out", "the client does not offer 'state'")


async def test_client_that_is_started_by_hand() -> None:
    at: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    source = ListenSource("127.0.0.1:0", at.set_result)
    await source.start()
    try:
        host, port = (await at).rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))

        def say(event: dict[str, Any]) -> None:
            writer.write(json.dumps(event).encode() + b"\n")

        async def work() -> None:
            client = PythonClient(say)
            say(READY)
            while line := await reader.readline():
                await client.handle(json.loads(line))

        working = asyncio.create_task(work())
        # With more cases at a time than clients, the one plays them all.
        verdicts = await Kit(source, jobs=4).run([CASES["kick"], CASES["answer-code"]])
        await working
        assert [verdict.outcome for verdict in verdicts] == ["kept", "kept"]
        writer.close()
        await writer.wait_closed()
    finally:
        await source.close()


# The WebSocket of the scripted gateway.


@asynccontextmanager
async def websocket(folder: Path) -> AsyncIterator[tuple[ClientConnection, Peer]]:
    """A client's WebSocket, and the script's end of it."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    pems = generate_certificate()
    cert.write_bytes(pems[0])
    key.write_bytes(pems[1])
    peers: asyncio.Queue[Peer] = asyncio.Queue()
    doors = Doors("websocket", "127.0.0.1", str(cert), "", str(key))
    async with (
        open_door(doors, peers.put_nowait, lambda text: None) as (url, _),
        connect(url, ssl=client_context(), subprotocols=["gatesvr"], compression=None) as client,  # type: ignore[list-item]
    ):
        peer = await peers.get()
        peer.table = Table("t")
        yield client, peer


START = encode_request(1, 0, RequestType.START, pb.StartRequest(openid="a").SerializeToString())


async def test_websocket_of_the_script(tmp_path: Path) -> None:
    async with websocket(tmp_path) as (client, peer):
        assert client.subprotocol == "gatesvr"
        await client.send(START)
        assert (await peer.start()).openid == "a"
        peer.respond()
        assert isinstance(await client.recv(), bytes)
        peer.send_pieces([b"ab", b"c", b"d"])  # one message in RFC 6455 pieces
        assert [piece async for piece in client.recv_streaming()] == [b"ab", b"c", b"d", b""]
        peer.kick(4600, 4601)
        assert b"script" in await client.recv()
        await client.wait_closed()
        assert client.close_code == 4601


@pytest.mark.parametrize(
    ("message", "rule", "did"),
    [
        ("text", "1.9", "the client sent text"),
        (START[:-1], "1.9", "a message has parts of one"),
        (b"", "1.9", "a message has parts of one"),
        (b"\0\0\0\2\xff\xff", "1.3", "one does not"),
        (encode_request(5, 0, RequestType.HEARTBEAT, b""), "3.1", "began with HEARTBEAT"),
        (encode_request(0, 0, RequestType.START, b""), "2.1", "msg_id 0"),
        (START + START, "3.1", "there was a second one"),
        (START + encode_request(0, 0, RequestType.ACK, b"\x08\x05"), "2.5", "acked 5"),
    ],
)
async def test_what_breaks_a_rule_in_any_case(
    message: str | bytes, rule: str, did: str, tmp_path: Path
) -> None:
    async with websocket(tmp_path) as (client, peer):
        await client.send(message)
        with pytest.raises(Broken) as caught:
            await peer.closed()
        assert caught.value.rule == rule
        assert did in caught.value.did


async def test_rule_that_is_broken_beside_the_case_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take = AckPacer.take
    monkeypatch.setattr(AckPacer, "take", lambda self, position: take(self, position) + 1)
    (verdict,) = await play(CASES["stop-unanswered"])
    assert (verdict.outcome, verdict.rule) == ("broken", "2.5")
    assert verdict.did.startswith("the client acked ")


async def test_websocket_that_is_cut(tmp_path: Path) -> None:
    async with websocket(tmp_path) as (client, peer):
        peer.cut()
        await client.wait_closed()
        assert client.close_code == 1006
        assert await peer.closed() is None


# The command.


def test_command_plays_and_reports(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    line = f"{PYTHON} -m gatesvr.conformance.python_client"
    options = ["--command", line, "--case", "start-v*", "--case", "kick", "--jobs", "1"]
    done = CliRunner().invoke(command, [*options, "--json", str(report)], standalone_mode=False)
    assert done.exception is None
    assert done.return_value == 0
    lines = done.output.splitlines()
    assert lines[0].startswith("✓ start-version  1.8   START asks for protocol 1")
    assert lines[-1].startswith("2 kept, 0 broken: gatesvr (Python) over quic, ")
    found = json.loads(report.read_text())
    assert (found["kept"], found["broken"], found["left_out"]) == (2, 0, 0)
    assert [case["name"] for case in found["cases"]] == ["start-version", "kick"]


def test_command_says_which_rule_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def next_client(self: CommandSource) -> InProcess:
        return InProcess("auto")

    monkeypatch.setattr(CommandSource, "next", next_client)
    monkeypatch.setattr("gatesvr.client.reconnect._ACTIONS", {})
    options = ["--command", "x", "--case", "close-4413"]
    done = CliRunner().invoke(command, options, standalone_mode=False)
    assert done.return_value == 1
    lines = done.output.splitlines()
    assert lines[0].startswith("✗ close-4413")
    assert lines[1] == "    rule      docs/protocol.md, section 6"
    assert lines[2] == "    expected  a new connection"
    assert lines[3] == "    client    the client says that it is closed for good"
    assert any(line.endswith("gateway closed with 4413") for line in lines)
    assert lines[-1].startswith("0 kept, 1 broken: ")


def test_command_lists_the_cases() -> None:
    done = CliRunner().invoke(command, ["--list", "--case", "close-*"], standalone_mode=False)
    names = Counter(line.split()[0] for line in done.output.splitlines())
    assert names["close-4409"] == 1
    assert all(name.startswith("close-") for name in names)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "give either --command or --listen"),
        (["--command", "x", "--listen", "127.0.0.1:0"], "give either --command or --listen"),
        (["--case", "nothing-*"], "no case is called nothing-*"),
        (["--listen", "0.0.0.0:0"], "not a wildcard"),
        (["--command", "/no/such/client"], "--command: cannot start /no/such/client"),
        (["--command", "true", "--json", "x"], "the client ended with exit code 0"),
    ],
)
def test_wrong_usage_exits_with_2(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["conformance", *options])
    assert caught.value.code == 2
    assert says in capsys.readouterr().err
