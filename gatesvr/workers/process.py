"""WorkerProcess: a worker as its supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from .assignment import Channel, ChannelError, Failed, Farewell, Ready, peer_socket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .assignment import Assignment, Cover, Go, Hurry, Leave

__all__ = ["WorkerProcess", "spell_end", "worker_command"]

LINGER_S = 5.0
"""Longest life of a process that has closed its channel; then it is killed."""
POLL_S = 0.005


def worker_command() -> list[str]:
    """Return the words that start a worker by this interpreter; its channel's number follows."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-m", "gatesvr", "worker"]


class WorkerProcess:
    """One process of a worker, from its start to its end.

    Args:
        assignment: What it is told.
        now: The time.

    Attributes:
        assignment: As given.
        started_at: When it was started.
        ready: What it said when it was ready; None before.
        reported: Done with Ready or Failed as soon as it has said so, or has ended.
        last_figures: What it said of itself at its end; None before, and where it died.
        ended: Done with the code of its end, negative for a signal; None where it never began.
    """

    def __init__(self, assignment: Assignment, now: float) -> None:
        loop = asyncio.get_running_loop()
        self.assignment = assignment
        self.started_at = now
        self.ready: Ready | None = None
        self.last_figures: bytes | None = None
        self.reported: asyncio.Future[Ready | Failed] = loop.create_future()
        self.ended: asyncio.Future[int | None] = loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    @property
    def number(self) -> int:
        """Its number."""
        return self.assignment.number

    @property
    def node_id(self) -> str:
        """Its name in the directory."""
        return self.assignment.node_id

    @property
    def socket(self) -> str:
        """Where its siblings and its supervisor reach it by calls."""
        return peer_socket(self.assignment)

    @property
    def pid(self) -> int:
        """Its process id; 0 before its start."""
        return 0 if self._process is None else self._process.pid

    async def run(self, command: Sequence[str], descriptors: Iterable[int], within: float) -> int:
        """Start the process, and wait for its end; return its code.

        Cancelled, it kills the process first.

        Args:
            command: What starts it; the number of its channel follows.
            descriptors: What it inherits besides.
            within: Seconds after which it is killed where it is not ready.

        Raises:
            OSError: It cannot be started.
        """
        code: int | None = None
        try:
            ours, its = socket.socketpair()
            self._channel = Channel(ours)
            with its:
                # By vfork, where there is one. The loop would fork: with threads of gRPC's beside
                # it, one child in a hundred dies before it is another program. What blocks here
                # is a few ms.
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603
                    [*command, str(its.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(its.fileno(), *descriptors),
                )
            await self._channel.open()
            self._channel.send(self.assignment)
            await self._follow(within)
            code = await self._wait()
        except BaseException:
            self.kill()
            if self._process is not None:
                code = self._process.wait()
            raise
        finally:
            if self._channel is not None:
                self._channel.close()
            if not self.reported.done():
                self.reported.set_result(Failed(why=spell_end(code), is_config=False))
            self.ended.set_result(code)
        return code

    def tell(self, order: Go | Cover | Leave | Hurry) -> None:
        """Give it an order; nothing where it has ended."""
        if self._channel is not None:
            self._channel.send(order)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _follow(self, within: float) -> None:
        """Wait for its report, and then for the end of its channel."""
        assert self._channel is not None
        report: Ready | Failed | None
        try:
            async with asyncio.timeout(within):
                report = await self._channel.receive(Ready | Failed)
            if report is None:
                return
        except TimeoutError:
            report = Failed(why=f"was not ready within {within:g} s", is_config=False)
            self.kill()
        except ChannelError as error:
            report = Failed(why=str(error), is_config=False)
            self.kill()
        if isinstance(report, Ready):
            self.ready = report
        self.reported.set_result(report)
        with contextlib.suppress(ChannelError):
            while (last := await self._channel.receive(Farewell)) is not None:
                self.last_figures = last.figures

    async def _wait(self) -> int:
        """Wait for the end of a process that has closed its channel."""
        process = self._process
        assert process is not None
        until = asyncio.get_running_loop().time() + LINGER_S
        while process.poll() is None:
            await asyncio.sleep(POLL_S)
            if asyncio.get_running_loop().time() >= until:
                self.kill()
                break
        return process.wait()


def spell_end(code: int | None) -> str:
    """Return the end of a process as people say it."""
    if code is None:
        return "could not be started"
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
