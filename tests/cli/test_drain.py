"""``serve`` drains on SIGTERM and Ctrl-C, shows how far it is, and ends on a second signal."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from gatesvr.cli.draining import bar
from gatesvr.drain import DrainStatus

from .process import DEADLINE_S, FREE_PORTS, environment, serving, start
from .test_terminal import CONTROL, terminal

if TYPE_CHECKING:
    from pathlib import Path


async def begin_slow_request(state: Path, *servers: str) -> asyncio.subprocess.Process:
    """Run a client that has asked for an answer that takes 2 s."""
    targets = [word for server in servers for word in ("--server", server)]
    client = await start(state, "client", *targets)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(b"echo -- in\nslow ms=2000 -- done\n")
    assert await client.stdout.readline() == b"200\n"
    return client


@pytest.mark.long  # three processes
async def test_a_client_goes_elsewhere_when_its_gateway_drains(tmp_path: Path) -> None:
    flags = ("--set", "drain.ready_wait=10ms", "--stats", "20ms")
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(tmp_path, "serve", "--demo", *FREE_PORTS) as other,
        serving(tmp_path, "serve", "--demo", *flags, *FREE_PORTS) as server,
    ):
        # However late the first one answers on a busy machine, it is taken.
        other.process.send_signal(signal.SIGSTOP)
        client = await begin_slow_request(
            tmp_path, server.address("clients"), other.address("clients")
        )
        await server.read_until("upstream.calls=3")  # hello, echo and the slow one
        other.process.send_signal(signal.SIGCONT)
        server.process.send_signal(signal.SIGTERM)
        assert client.stdin is not None
        client.stdin.write(b"echo -- after\n")
        client.stdin.close()
        result = await server.stop(0)
        assert result.code == 0
        out, err = await client.communicate()
        said = out.decode().splitlines()
        assert said[:3] == ["in", "200", "done"], err
        assert said[-2:] == ["200", "after"], err
    lines = result.err.splitlines()
    waiting = "draining: 1 of 1 clients and 1 requests left"
    assert any(line.startswith(waiting) for line in lines)
    assert any(" drain_ended " in line and "connections_cut=0" in line for line in lines)


async def test_a_terminal_shows_a_bar_below_the_log(tmp_path: Path) -> None:
    # Who presses Ctrl-C does not wait for load balancers.
    drain = ("--set", "drain.ready_wait=30m", "--set", "drain.timeout=1h")
    async with terminal(
        tmp_path, "serve", "--demo", "--stats", "20ms", *drain, *FREE_PORTS
    ) as screen:
        await screen.see(b"gatesvr call echo")
        shown = screen.all.decode()
        address = shown.partition("--server ")[2].split()[0]
        client = await begin_slow_request(tmp_path, address)
        try:
            await screen.see(b"upstream.calls=3")  # hello, echo and the slow one
            screen.process.send_signal(signal.SIGINT)
            await screen.see(b"draining [........................] 1 of 1 clients and 1 requests")
            await screen.see(b"drain_ended")
            assert await screen.process.wait() == 0
            # Whatever came below, each line of the log begins at the left.
            for line in screen.all.split(b"\n"):
                assert b"draining [" not in CONTROL.sub(b"", line.rpartition(b"\x1b[K")[2])[1:]
        finally:
            client.kill()
            await client.communicate()


@pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.long)])
async def test_sigterm_ends_it_as_process_1(tmp_path: Path, loop: str) -> None:
    """As in a container: the kernel delivers to process 1 only the signals that it handles."""
    flags = ("--loop", loop, "--log-format", "json", "--set", "drain.ready_wait=300ms")
    serve = [sys.executable, "-m", "gatesvr", "serve", "--demo", *flags, *FREE_PORTS]
    own = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if is_first := await _works([*own, "true"]):
        serve = [*own, *serve]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *serve, stdout=pipe, stderr=pipe, env=environment(tmp_path)
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout is not None
            while b" call echo " not in (line := await process.stdout.readline()):
                assert line
            number = process.pid
            if is_first:
                (number,) = _children(process.pid)
                assert _inner_number(number) == 1
            os.kill(number, signal.SIGTERM)
            _, err = await process.communicate()
            assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    events = [json.loads(line) for line in err.splitlines()]
    phases = [event["phase"] for event in events if event["event"] == "draining"]
    assert phases[0] == "unready"
    (ended,) = [event for event in events if event["event"] == "drain_ended"]
    assert (ended["clients"], ended["connections_cut"], ended["requests_cut"]) == (0, 0, 0)


async def _works(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    return await process.wait() == 0


def _children(number: int) -> list[int]:
    with open(f"/proc/{number}/task/{number}/children") as file:
        return [int(child) for child in file.read().split()]


def _inner_number(number: int) -> int:
    with open(f"/proc/{number}/status") as file:
        return int(next(line for line in file if line.startswith("NSpid:")).split()[-1])


def test_bar_fits_the_terminal() -> None:
    status = DrainStatus(
        phase="goaway",
        connections_at_start=8,
        connections_told=6,
        connections_left=4,
        requests_left=3,
        elapsed_s=1.2,
        remaining_s=23.8,
        rate=200,
    )
    assert bar(status, 200) == (
        "draining [############............] 4 of 8 clients and 3 requests left, 1 s of 25 s: "
        "asking clients to leave"
    )
    assert len(bar(status, 40)) == 39
    assert bar(DrainStatus(phase="finishing"), 200).startswith(f"draining [{'#' * 24}] 0 of 0")
