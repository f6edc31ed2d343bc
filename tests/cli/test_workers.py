"""``gatesvr serve --workers`` as users run it: banner, signals, and what dead processes leave."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from .process import FREE_PORTS, gatesvr, serving

if TYPE_CHECKING:
    from pathlib import Path

    from .process import Server

DEADLINE_S = 60.0


def pids_of(server: Server) -> list[int]:
    """Return the workers' process ids, as the banner has them."""
    line = next(line for line in server.banner.splitlines() if line.startswith("  workers "))
    return [int(pid) for pid in re.findall(r"\d+ \(pid (\d+)\)", line)]


async def ended(pids: list[int]) -> None:
    """Wait for the end of processes that may not be ours."""
    async with asyncio.timeout(DEADLINE_S):
        for pid in pids:
            while True:
                try:
                    os.kill(pid, 0)
                except ProcessLookupError:
                    break
                await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("count", "why"),
    [
        ("65", "gatesvr: flag: workers.count: 65 is out of range (1 to 64, or 0: this process"),
        ("many", "Error: Invalid value for '--workers': 'many' is neither a number nor auto"),
    ],
)
async def test_a_wrong_number_of_workers(count: str, why: str, tmp_path: Path) -> None:
    result = await gatesvr(tmp_path, "serve", "--workers", count)
    assert result.code == 2
    assert why in result.err


async def test_an_admin_port_in_use_is_told_before_a_worker_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        result = await gatesvr(tmp_path, "serve", "--workers", "2", "--admin", bind, *FREE_PORTS)
    assert result.code == 2
    assert result.err == f"gatesvr: admin.bind: {bind}: Address already in use\n"


@pytest.mark.long
async def test_workers_serve_die_reload_and_leave(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[drain]\nready_wait = 0\n", "utf-8")
    args = ("serve", "--demo", "--workers", "2", "--config", str(file), *FREE_PORTS)
    args += ("--stats", "0.2s")
    async with serving(tmp_path, *args) as server:
        pids = pids_of(server)
        assert len(set(pids)) == 2
        assert f"supervisor pid {server.process.pid}" in server.banner
        assert (await gatesvr(tmp_path, *server.call)).out == "hello\n"
        # One line has the counters of all.
        await server.read_until(" upstream.connects=6 ")
        # What signals the whole group means the supervisor.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            os.kill(pids[1], number)
        os.kill(pids[0], signal.SIGKILL)
        await server.read_until(" workers.deaths=1")
        assert (await gatesvr(tmp_path, *server.call)).out == "hello\n"
        file.write_text("[drain]\nready_wait = 0\nrate = 77\n", "utf-8")
        server.process.send_signal(signal.SIGHUP)
        await server.read_until("drain.rate: 200 -> 77")
        file.write_text("[transport]\ncert = 'no.pem'\nkey = 'no.pem'\n", "utf-8")
        server.process.send_signal(signal.SIGHUP)
        line = await server.read_until("not reloaded")
        assert line.endswith("transport.cert: No such file or directory\n")
        # Its end tells of the worker in the dead one's place, if it has come so far.
        result = await server.stop(signal.SIGTERM)
        assert result.code == 0
        assert "worker_died worker=0" in result.err
        assert "worker_died worker=1" not in result.err
        assert 'why="was ended by SIGKILL"' in result.err
        assert result.err.count("stopping (Ctrl-C again: at once)") == 1
        assert "gateway_started worker=1" in result.err
        assert "supervisor_gone" not in result.err
    await ended(pids)


@pytest.mark.long
async def test_workers_of_a_killed_supervisor_drain_and_end(tmp_path: Path) -> None:
    # A socket's path has to be short, and this one is below the test's own folder.
    folders = tempfile.mkdtemp(prefix="gw-", dir="/tmp")
    args = ("serve", "--demo", "--workers", "2", *FREE_PORTS, "--set", "drain.ready_wait=0")
    os.environ["TMPDIR"] = folders
    try:
        async with serving(tmp_path, *args) as server:
            pids = pids_of(server)
            result = await server.stop(signal.SIGKILL)
    finally:
        del os.environ["TMPDIR"]
    await ended(pids)
    assert result.err.count("supervisor_gone") == 2
    assert result.err.count("gateway_stopped") == 2
    os.rmdir(folders)  # it is empty: the last worker has removed what they shared


@pytest.mark.long
async def test_a_second_signal_leaves_no_worker_that_is_stopped(tmp_path: Path) -> None:
    """One that lived on would keep the port: no gateway could be started there again."""
    args = ("serve", "--demo", "--workers", "2", *FREE_PORTS)
    async with serving(tmp_path, *args) as server:
        pids = pids_of(server)
        os.kill(pids[1], signal.SIGSTOP)
        try:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.stderr is not None
            async with asyncio.timeout(DEADLINE_S):
                while b"stopping" not in (line := await server.process.stderr.readline()):
                    assert line
            result = await server.stop(signal.SIGTERM)
            assert result.code == 1
            await ended(pids)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pids[1], signal.SIGKILL)
