"""``gatesvr serve`` as a container runs it: process 1, which nobody starts a shell around."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .process import DEADLINE_S, FREE_PORTS, Server, environment, gatesvr

NAMESPACES = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")


def _can_be_process_1() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


def _inside(parent: int) -> int:
    """Return the process that unshare started: process 1 of its namespace."""
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii").split()
    status = Path(f"/proc/{child}/status").read_text("ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
    assert line.split()[-1] == "1"
    return int(child)


@pytest.mark.skipif(not _can_be_process_1(), reason="no PID namespaces for this user here")
async def test_sigterm_stops_process_1_in_order(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *NAMESPACES,
        "--kill-child",
        sys.executable,
        *("-m", "gatesvr", "serve", "--demo", *FREE_PORTS),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(tmp_path),
    )
    server = Server(process)
    try:
        await server.read_until(" call echo ")
        assert (await gatesvr(tmp_path, *server.call)).out == "hello\n"
        os.kill(_inside(process.pid), signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_S):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"gateway_stopped" in err
    assert b"Traceback" not in err
