"""The gateway and demo services that ``gatesvr bench --self`` starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from types import TracebackType
from typing import IO, Self

from ..errors import GatesvrError
from ..transport.addresses import Place, parse_place

__all__ = ["OwnServers", "ServerFailed"]

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
MAX_ERROR_BYTES = 2_000
_SERVICES = ("hello", "business", "zone")


class ServerFailed(GatesvrError):
    """The gateway or the services did not start, or ended unexpectedly."""


@dataclass(slots=True)
class _Server:
    name: str
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    output: str = ""

    def read_until(self, line: str, end: float) -> None:
        """Read output until a line begins with this word."""
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        while not re.search(rf"^ *{line} ", self.output, re.MULTILINE):
            if not connection.wait([fd], max(0.0, end - time.monotonic())):
                raise ServerFailed(f"the {self.name} did not start within {START_TIMEOUT_S:g} s")
            data = os.read(fd, 65536)
            if not data:
                raise ServerFailed(f"the {self.name} did not start: {self.last_words()}")
            self.output += data.decode("utf-8", "replace")

    def address(self, line: str) -> str:
        """Return the HOST:PORT on the line with this name."""
        match = re.search(rf"^ *{line} +(\S+:\d+)", self.output, re.MULTILINE)
        if match is None:
            raise ServerFailed(f"the {self.name} does not tell its address")
        return match[1]

    def last_words(self) -> str:
        """Return the end of its standard error."""
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - MAX_ERROR_BYTES))
        return self.errors.read().decode("utf-8", "replace").strip() or "no reason given"


class OwnServers:
    """A gateway and demo services in separate processes, on free loopback ports.

    Args:
        command: Runs ``gatesvr`` and stops it when its standard input ends; a command's name and
            arguments are appended.
        backend: The gateway's QUIC library.
        clients: Number of clients; the gateway's limits are raised for them.
        sets: The gateway's settings, ``section.key=value``; they override ours.
        is_unary: Whether the services take one call a request, without ProcessStream.
        upstreams: Addresses of services that run already, by name; empty to start the demo's.

    Attributes:
        server: Where the gateway's UDP port is.
        push_server: Its gRPC address.
        pids: Process ids of ``gateway`` and, where it is started, ``upstream``.
    """

    def __init__(
        self,
        command: Sequence[str],
        backend: str,
        clients: int,
        sets: Sequence[str] = (),
        *,
        is_unary: bool = False,
        upstreams: Mapping[str, str] | None = None,
    ) -> None:
        self.server = Place("", 0)
        self.push_server = ""
        self.pids: dict[str, int] = {}
        self._command = list(command)
        self._backend = backend
        self._sets = [
            "log.level=warning",
            f"transport.max_connections={max(10_000, 2 * clients)}",
            f"transport.max_handshakes={max(1_000, 2 * clients)}",
            f"session.max_inited_per_address={clients + 64}",
            *sets,
        ]
        self._is_unary = is_unary
        self._upstreams = dict(upstreams or {})
        self._servers: list[_Server] = []

    def __enter__(self) -> Self:
        """Start both.

        Raises:
            ServerFailed: One of them did not start; it says why.
        """
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def check(self) -> None:
        """Check that both are still running.

        Raises:
            ServerFailed: One is not.
        """
        for server in self._servers:
            if server.process.poll() is not None:
                raise ServerFailed(
                    f"the {server.name} has ended ({server.process.returncode}):"
                    f" {server.last_words()}"
                )

    def _start(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        upstreams = self._upstreams
        if not upstreams:
            kind = ("--unary",) if self._is_unary else ()
            upstream = self._spawn("upstream", "upstream", "all", "--bind", "127.0.0.1:0", *kind)
            for name in _SERVICES:
                upstream.read_until(name, end)
                upstreams[name] = upstream.address(name)
        args = ["serve", "--bind", "127.0.0.1:0", "--grpc-bind", "127.0.0.1:0"]
        args += ["--transport", self._backend]
        for name, address in upstreams.items():
            args += ["--upstream", f"{name}={address}"]
        for text in self._sets:
            args += ["--set", text]
        gateway = self._spawn("gateway", *args)
        gateway.read_until("push", end)
        self.server = parse_place(gateway.address("clients"))
        self.push_server = gateway.address("push")

    def _spawn(self, name: str, *args: str) -> _Server:
        # A separate session: Ctrl-C reaches only the bench, which then stops them in order.
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _stop()
        process = subprocess.Popen(  # noqa: S603 - our own command
            [*self._command, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        server = _Server(name, process, errors)
        self._servers.append(server)
        self.pids[name] = process.pid
        return server

    def _stop(self) -> None:
        """Stop them, the gateway first; kill what does not stop."""
        for server in reversed(self._servers):
            process = server.process
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                print(f"gatesvr: the {server.name} did not stop, killing it", file=sys.stderr)
                process.kill()
                process.wait()
            process.stdout.close()
            server.errors.close()
        self._servers.clear()
