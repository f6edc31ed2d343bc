"""Upstreams that other people's gRPC serves: grpc-js on Node, grpc-go.

Their code stands beside this file; ``make foreign`` installs what they need. What is built of it
goes to build/foreign.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

__all__ = ["KINDS", "foreign"]

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "foreign"
GO_CODE = Path("/usr/share/gocode")
"""Where Debian puts libraries for Go."""
BUILD_S = 300.0
START_S = 60.0


def _node() -> list[str]:
    """Return the command that runs the server on grpc-js."""
    node, npm = _need("node"), _need("npm")
    folder = BUILD / "node"
    with _building(folder, "package.json", "package-lock.json") as is_stale:
        if is_stale:
            options = ["--ignore-scripts", "--no-audit", "--no-fund"]
            _run(npm, "ci", *options, cwd=folder)
    shutil.copy(HERE / "server.js", folder)  # beside its node_modules
    return [node, str(folder / "server.js"), str(ROOT / "protos")]


def _go() -> list[str]:
    """Return the command that runs the server on grpc-go."""
    go = _need("go")
    if not (GO_CODE / "src/google.golang.org/grpc").is_dir():
        _lack("grpc-go")
    folder = BUILD / "go"
    with _building(folder, "server.go") as is_stale:
        if is_stale:
            paths = {"GOPATH": str(GO_CODE), "GOCACHE": str(folder / "cache")}
            options = {"GO111MODULE": "off", "CGO_ENABLED": "0", "GOFLAGS": ""}
            _run(go, "build", "-o", "server", "server.go", cwd=folder, **options, **paths)
    return [str(folder / "server")]


KINDS = {"node": _node, "go": _go}


def _need(command: str) -> str:
    return shutil.which(command) or _lack(command)


def _lack(what: str) -> str:
    """Skip the test, or fail it where the variable GATESVR_FOREIGN says that all has to be here."""
    reason = f"there is no {what}: make foreign installs it"
    if os.environ.get("GATESVR_FOREIGN") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def _building(folder: Path, *sources: str) -> Iterator[bool]:
    """Let one process at a time build in a folder; say whether the sources have changed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = folder / "built"
        text = "".join((HERE / name).read_text() for name in sources)
        is_stale = not built.exists() or built.read_text() != text
        if is_stale:
            for name in sources:
                shutil.copy(HERE / name, folder)
        yield is_stale
        built.write_text(text)


def _run(*command: str, cwd: Path, **variables: str) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout


class Running(str):
    """Where a server listens, HOST:PORT; kill() ends it without a word."""

    process: asyncio.subprocess.Process

    def kill(self) -> None:
        self.process.kill()


@asynccontextmanager
async def foreign(kind: str, *flags: str) -> AsyncIterator[Running]:
    """Run a server of a kind."""
    command = await asyncio.to_thread(KINDS[kind])
    process = await asyncio.create_subprocess_exec(
        *command, *flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            port = int(await process.stdout.readline())
        running = Running(f"127.0.0.1:{port}")
        running.process = process
        yield running
    finally:
        process.stdin.close()  # it leaves when its input ends
        try:
            async with asyncio.timeout(START_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
