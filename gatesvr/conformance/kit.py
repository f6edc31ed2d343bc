"""The kit: plays the cases with as many clients at a time as it is told, and collects verdicts."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..transport.tls import DEVELOPMENT_NAMES, generate_certificate
from .broken import Broken, DriverError
from .gateway import Doors
from .play import Play

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .case import Case
    from .driver import ClientSource, Driver

__all__ = ["Kit", "Verdict", "pick_transport"]

TRANSPORTS = ("quic", "websocket")
END_S = 5.0
"""Longest time for a client to say that it has come to the end of a case."""


@dataclass
class Verdict:
    """What a case showed.

    Attributes:
        case: The case.
        outcome: ``kept``, ``broken``, or ``left out``: it is for another transport, or needs what
            the client does not offer.
        rule: The section of docs/protocol.md that was broken; else the case's.
        expected: What the rule asks for.
        did: What the client did in its place; why the case was left out.
        seconds: How long it took.
        transcript: What happened, where a rule was broken.
    """

    case: Case
    outcome: str
    rule: str = ""
    expected: str = ""
    did: str = ""
    seconds: float = 0.0
    transcript: list[str] = field(default_factory=list)


def pick_transport(wanted: str, driver: Driver) -> str:
    """Return the transport to play by: the wanted one, or the client's own first.

    Raises:
        DriverError: The client does not come by it.
    """
    offered = [name for name in driver.transports if name in TRANSPORTS]
    if wanted == "auto":
        return offered[0] if offered else "websocket"
    if driver.transports and wanted not in offered:
        raise DriverError(
            f"{driver.name} does not come by {wanted}; it says: {', '.join(driver.transports)}"
        )
    return wanted


class Kit:
    """Plays cases against clients.

    Args:
        source: Where clients come from.
        transport: ``auto``, ``quic`` or ``websocket``.
        backend: The QUIC library of the scripted gateway: auto, aioquic or qh3.
        host: Where the scripted gateway listens.
        jobs: Cases at a time.
        slowness: Factor of all deadlines.
        told: Called with each verdict as it comes.

    Attributes:
        client: What the client calls itself, empty before it was there.
        transport: The transport in use.
    """

    def __init__(
        self,
        source: ClientSource,
        *,
        transport: str = "auto",
        backend: str = "auto",
        host: str = "127.0.0.1",
        jobs: int = 4,
        slowness: float = 1.0,
        told: Callable[[Verdict], None] = lambda verdict: None,
    ) -> None:
        self.client = ""
        self.transport = transport
        self._source = source
        self._backend = backend
        self._host = host
        self._jobs = jobs
        self._slowness = slowness
        self._told = told
        self._doors: Doors | None = None

    async def run(self, cases: Sequence[Case]) -> list[Verdict]:
        """Play cases; return their verdicts in the order of the cases.

        Raises:
            DriverError: There is no client, or it does not come by the transport.
        """
        with tempfile.TemporaryDirectory(prefix="gatesvr-conformance-") as folder:
            names = dict.fromkeys((*DEVELOPMENT_NAMES, self._host))
            files = await asyncio.to_thread(_write_certificate, folder, tuple(names))
            first = await self._source.next()
            try:
                self.client = first.name
                self.transport = pick_transport(self.transport, first)
            except BaseException:
                await first.end()
                raise
            self._doors = Doors(self.transport, self._host, *files, self._backend)
            # The longest first: the others fill the time beside them.
            todo = deque(sorted(cases, key=lambda case: -case.lasts))
            verdicts: dict[str, Verdict] = {}
            count = min(self._jobs, len(cases))
            tasks = {
                asyncio.create_task(self._work(todo, verdicts, None if n else first))
                for n in range(count)
            }
            running = tasks
            try:
                # A worker may still wait for a client when the others have played everything.
                while running and len(verdicts) < len(cases):
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return [verdicts[case.name] for case in cases]

    async def _work(
        self, todo: deque[Case], verdicts: dict[str, Verdict], driver: Driver | None = None
    ) -> None:
        """Play cases until none is left, with one client after the other."""
        try:
            while todo:
                if driver is None:
                    driver = await self._source.next()
                    continue  # others may have played the rest meanwhile
                case = todo.popleft()
                verdict, is_usable = await self._play(case, driver)
                verdicts[case.name] = verdict
                self._told(verdict)
                if not is_usable:
                    await driver.end()
                    driver = None
        finally:
            if driver is not None:
                await driver.end()

    async def _play(self, case: Case, driver: Driver) -> tuple[Verdict, bool]:
        """Play one case; return its verdict, and whether the client can play another one."""
        assert self._doors is not None
        if case.transport and case.transport != self._doors.transport:
            return Verdict(case, "left out", case.rule, did=f"it is for {case.transport}"), True
        if case.needs and case.needs not in driver.features:
            why = f"the client does not offer {case.needs!r}"
            return Verdict(case, "left out", case.rule, did=why), True
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            play = Play(driver, self._doors, stack, self._slowness)
            listening = asyncio.create_task(play.listen())
            try:
                verdict = await self._judge(case, play)
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            verdict.seconds = time.monotonic() - began
            if verdict.outcome == "broken":
                verdict.transcript = list(play.transcript)
            # The client lets go first: it must not see the script's gateway end.
            is_usable = await _come_to_end(driver)
        return verdict, is_usable

    async def _judge(self, case: Case, play: Play) -> Verdict:
        rule = case.rule
        try:
            async with asyncio.timeout(case.deadline * self._slowness):
                await case.script(play)
            play.check()
        except Broken as error:
            return Verdict(case, "broken", error.rule or rule, error.expected, error.did)
        except DriverError as error:
            return Verdict(case, "broken", rule, play.awaited, str(error))
        except TimeoutError:
            did = f"nothing within {case.deadline * self._slowness:.0f} s"
            return Verdict(case, "broken", rule, play.awaited, did)
        return Verdict(case, "kept", rule)


async def _come_to_end(driver: Driver) -> bool:
    """Make the client end the case; return whether it did."""
    try:
        driver.send({"do": "end"})
        async with asyncio.timeout(END_S):
            while (await driver.receive())["event"] != "ended":
                pass
    except (DriverError, TimeoutError, OSError):
        return False
    return True


def _write_certificate(folder: str, names: Sequence[str]) -> tuple[str, str, str]:
    """Make a certificate for names; return its file, its text, and the file of its key."""
    cert_pem, key_pem = generate_certificate(names, days=2)
    cert, key = (os.path.join(folder, name) for name in ("cert.pem", "key.pem"))
    for path, pem in ((cert, cert_pem), (key, key_pem)):
        with open(path, "wb") as file:
            file.write(pem)
    return cert, cert_pem.decode(), key
