"""Output that is not read or cannot be written ends the output, never the gateway."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatesvr import Client

from .process import DEADLINE_S, FREE_PORTS, Result, environment, gatesvr, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SERVE = ("serve", "--demo", *FREE_PORTS)


@asynccontextmanager
async def shell(
    state: Path, command: str, **more: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a shell command in which $GATESVR is ours; its standard error can be read."""
    env = {**environment(state), "GATESVR": f"{sys.executable} -m gatesvr", **more}
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        command,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def free_address() -> str:
    """Return a free address to listen on: with all output lost, port 0 could not be learned."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        host, port = sock.getsockname()
    return f"{host}:{port}"


async def test_log_that_nobody_reads_holds_up_nothing(backend: str, tmp_path: Path) -> None:
    async with serving(tmp_path, *SERVE, "--transport", backend) as server:
        stderr = server.process.stderr
        assert stderr is not None
        pipe = stderr._transport.get_extra_info("pipe")  # type: ignore[attr-defined]
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        stderr._transport.pause_reading()  # type: ignore[attr-defined]
        ca = str(tmp_path / "gatesvr" / "development.pem")
        for number in range(100):
            async with Client(
                server.address("clients"), openid=f"ann-{number}", ca=ca, transport=backend
            ) as client:
                assert (await client.request("echo", b"in")).data == b"in"
        stderr._transport.resume_reading()  # type: ignore[attr-defined]
        result = await server.stop()
        assert result.code == 0
        assert result.err.count("session_logged_in") == 100


async def test_stats_that_nobody_reads_hold_up_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, *SERVE, "--stats", "1ms") as server:
        stdout = server.process.stdout
        assert stdout is not None
        pipe = stdout._transport.get_extra_info("pipe")  # type: ignore[attr-defined]
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 4096)
        stdout._transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(2):
            assert (await gatesvr(tmp_path, *server.call)).code == 0
        stdout._transport.resume_reading()  # type: ignore[attr-defined]
        assert (await server.stop()).code == 0


@pytest.mark.parametrize("redirections", ["1>/dev/full", "2>/dev/full", "0<&- 1>&- 2>&-"])
async def test_lost_output_is_nothing_to_the_gateway(tmp_path: Path, redirections: str) -> None:
    address = free_address()
    command = f"serve --demo --bind {address} --grpc-bind 127.0.0.1:0 --stats 20ms"
    command = f"$GATESVR {command} {redirections} & echo $!; wait $!; echo ended $?"
    async with shell(tmp_path, command) as process:
        assert process.stdout is not None
        pid = int(await process.stdout.readline())
        call = ("call", "echo", "--server", address)
        while (await gatesvr(tmp_path, *call)).code:
            pass  # it starts
        assert (await gatesvr(tmp_path, *call)).code == 0
        os.kill(pid, signal.SIGTERM)
        assert (await process.stdout.read()).endswith(b"ended 0\n")


async def test_reader_of_the_stats_may_go(tmp_path: Path) -> None:
    async with serving(tmp_path, *SERVE, "--stats", "20ms") as server:
        call = server.call
        await server.read_until("upstream.lanes")
        assert server.process.stdout is not None
        server.process.stdout._transport.close()  # type: ignore[attr-defined]
        for _ in range(2):
            assert (await gatesvr(tmp_path, *call)).code == 0
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            assert await server.process.wait() == 0
            await server.process.communicate()
        server.result = Result(0, "", "")


@pytest.mark.parametrize(
    ("command", "code", "err"),
    [
        ("version 1>&-", 0, ""),
        ("version 0<&- 1>&- 2>&-", 0, ""),
        ("version >/dev/full", 1, "gatesvr: cannot write to standard output: No space left"),
        ("--help >/dev/full", 1, "gatesvr: cannot write to standard output: No space left"),
        ("version | true", 0, ""),
        ("no-such-command 2>&-", 2, ""),
        ("no-such-command 2>/dev/full", 2, ""),
        ("call echo --server 127.0.0.1:1 --timeout 1s 2>/dev/full", 1, ""),
        ("serve --config /no/such/file 2>/dev/full", 2, ""),
    ],
)
async def test_lost_output_of_other_commands(
    tmp_path: Path, command: str, code: int, err: str
) -> None:
    async with shell(tmp_path, f"$GATESVR {command}") as process:
        _, stderr = await process.communicate()
        assert process.returncode == code
        assert stderr.decode().startswith(err)
        assert stderr.count(b"\n") == bool(err)


async def test_call_answers_on_a_console_that_knows_ascii_only(tmp_path: Path) -> None:
    async with serving(tmp_path, *SERVE) as server:
        for encoding in ("ascii", "latin-1"):
            call = f"$GATESVR call echo --server {server.address('clients')} --data '\U0001f600'"
            for option in ("", "--json"):
                async with shell(
                    tmp_path, f"{call} {option}", PYTHONIOENCODING=encoding, LC_ALL="C.UTF-8"
                ) as process:
                    out, err = await process.communicate()
                    assert (process.returncode, err) == (0, b"")
                    if option:
                        assert json.loads(out)["data"] == "\U0001f600"


async def test_client_and_events_escape_what_cannot_be_shown(tmp_path: Path) -> None:
    """An emoji in another user's name, or in a push, breaks nothing."""
    smile = "\U0001f600"
    async with serving(tmp_path, *SERVE) as server:
        console = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"}
        events = f"exec $GATESVR events --server {server.address('push')} --kind logged_in"
        target = f"--server {server.address('clients')} --openid {smile}"
        async with (
            shell(tmp_path, events, **console) as watching,
            shell(tmp_path, f"exec $GATESVR client {target}", **console) as talking,
        ):
            assert watching.stderr is not None
            assert watching.stdout is not None
            assert b"events of" in await watching.stderr.readline()
            out, err = await talking.communicate(f"notify_demo -- {smile}\n".encode())
            assert (talking.returncode, err) == (0, b"")
            assert out.count(rb"\U0001f600") >= 1
            assert b"[demo]" in out
            assert rb"openid=\U0001f600" in await watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            await watching.communicate()
            assert watching.returncode == 0


async def test_json_log_is_json_and_hangup_reloads(tmp_path: Path) -> None:
    flags = ("--set", "log.format=json", "--stats", "20ms")
    async with serving(tmp_path, *SERVE, *flags) as server:
        stats = json.loads(await server.read_until('"stats"'))
        assert stats["upstream"]["calls"] == stats["log"]["dropped"] == 0
        server.process.send_signal(signal.SIGHUP)
        assert (await gatesvr(tmp_path, *server.call)).code == 0
        result = await server.stop()
        assert result.code == 0
    events = [json.loads(line)["event"] for line in result.err.splitlines()]
    assert {"push_listening", "gateway_started", "configuration_reloaded", "stopping"} <= set(
        events
    )
    assert all(json.loads(line) for line in result.out.splitlines())


async def test_failed_start_is_json_too(tmp_path: Path) -> None:
    async with serving(tmp_path, *SERVE) as server:
        flags = ("--bind", server.address("clients"), "--grpc-bind", "127.0.0.1:0")
        result = await gatesvr(tmp_path, "serve", "--demo", "--set", "log.format=json", *flags)
    assert result.code == 2
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert lines[-1]["event"] == "command_failed"
    assert "transport.bind" in lines[-1]["error"]


async def test_hangup_is_ignored_under_nohup(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        command = [sys.executable, "-m", "gatesvr", "client", "--server", server.address("clients")]
        client = await asyncio.create_subprocess_exec(
            *("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(tmp_path),
        )
        assert client.stdin is not None
        assert client.stdout is not None
        for text in (b"one", b"two"):
            client.stdin.write(b"echo -- %s\n" % text)
            async with asyncio.timeout(DEADLINE_S):
                assert await client.stdout.readline() == b"200\n"
                assert await client.stdout.readline() == text + b"\n"
            client.send_signal(signal.SIGHUP)
        client.stdin.close()
        async with asyncio.timeout(DEADLINE_S):
            assert await client.stdout.read() == b""
            assert await client.wait() == 0
