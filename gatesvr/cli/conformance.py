"""``gatesvr conformance``."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ..config import parse_address
from ..errors import ConfigError
from .loop import run
from .options import ADDRESS
from .terminal import echo, escape_control, is_dumb, style

if TYPE_CHECKING:
    from ..conformance.case import Case
    from ..conformance.driver import ClientSource
    from ..conformance.kit import Kit, Verdict

__all__ = ["command"]

SHOWN = 3
"""Cases that the progress names, when so few are left."""
_COLOURS = {"kept": "green", "broken": "red", "left out": "yellow"}


@click.command()
@click.option(
    "--command",
    "command_line",
    metavar="COMMAND",
    help="Starts the client under test, which reads commands from its standard input.",
)
@click.option(
    "--listen",
    type=ADDRESS,
    help="Wait here for clients that are started by hand, and connect by TCP for their commands.",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "quic", "websocket"]),
    default="auto",
    show_default=True,
    help="The way to the scripted gateway; auto: the client's own first.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "aioquic", "qh3"]),
    default="auto",
    show_default=True,
    help="QUIC library of the scripted gateway.",
)
@click.option(
    "--case",
    "globs",
    multiple=True,
    metavar="GLOB",
    help="Play only cases with such names; repeatable.",
)
@click.option("--list", "lists", is_flag=True, help="List the cases, and exit.")
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Cases, and clients, at a time.",
)
@click.option(
    "--slow",
    type=click.FloatRange(0.1, 100),
    default=1.0,
    show_default=True,
    help="Factor of all deadlines, for slow machines and debuggers.",
)
@click.option("--json", "file", type=click.Path(dir_okay=False), help="Write the report to a file.")
def command(
    command_line: str | None,
    listen: str | None,
    transport: str,
    backend: str,
    globs: tuple[str, ...],
    lists: bool,
    jobs: int,
    slow: float,
    file: str | None,
) -> int:
    """Play a scripted gateway against a client, and say which rules of the protocol it breaks.

    The client under test does what JSON lines tell it; docs/conformance.md describes them. Exits
    with 1 if a rule is broken, with 2 if there is no client.
    """
    from ..conformance.broken import DriverError
    from ..conformance.case import all_cases
    from ..conformance.report import as_object, lines_of, summary

    cases = [case for case in all_cases() if not globs or _matches(case, globs)]
    if not cases:
        raise click.UsageError(f"no case is called {' or '.join(globs)}; see --list")
    width = max(len(case.name) for case in cases)
    if lists:
        for case in cases:
            echo(f"{case.name:<{width}}  {case.rule:<5} {case.title}")
        return 0
    if (command_line is None) == (listen is None):
        raise click.UsageError("give either --command or --listen")
    host = _host(listen) if listen is not None else "127.0.0.1"
    began = time.monotonic()
    logging.getLogger("gatesvr").addHandler(logging.NullHandler())  # the report says everything
    with _progress(cases) as told:
        try:
            kit, verdicts = run(
                _play(
                    cases, command_line, listen or "", transport, backend, host, jobs, slow, told
                ),
                loop="asyncio",
            )
        except DriverError as error:
            raise ConfigError(
                str(error), field="--command" if listen is None else "--listen"
            ) from None
    seconds = time.monotonic() - began
    for verdict in verdicts:
        first, *others = lines_of(verdict, width)
        echo(style(escape_control(first[:1]), fg=_COLOURS[verdict.outcome]) + first[1:])
        for line in others:
            echo(escape_control(line))
    client = escape_control(kit.client)
    echo(summary(verdicts, client, kit.transport, seconds))
    if file is not None:
        _write(file, json.dumps(as_object(verdicts, kit.client, kit.transport, seconds), indent=2))
    return int(any(verdict.outcome == "broken" for verdict in verdicts))


def _matches(case: Case, globs: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(case.name, glob) for glob in globs)


def _host(address: str) -> str:
    """Return the host that clients find the scripted gateway at."""
    host, _ = parse_address(address)
    if host in ("", "0.0.0.0", "::"):  # noqa: S104
        raise click.UsageError("--listen: name the address that clients connect to, not a wildcard")
    return host


async def _play(
    cases: list[Case],
    command_line: str | None,
    listen: str,
    transport: str,
    backend: str,
    host: str,
    jobs: int,
    slow: float,
    told: _Progress,
) -> tuple[Kit, list[Verdict]]:
    from ..conformance.driver import CommandSource, ListenSource
    from ..conformance.kit import Kit

    source: ClientSource
    if command_line is not None:
        source = CommandSource(command_line)
    else:
        source = ListenSource(listen, lambda at: echo(f"waiting for clients on {at}", err=True))
        await source.start()
    kit = Kit(
        source,
        transport=transport,
        backend=backend,
        host=host,
        jobs=jobs,
        slowness=slow,
        told=told.add,
    )
    try:
        return kit, await kit.run(cases)
    finally:
        await source.close()


class _Progress:
    """Counts verdicts, and shows the count on a terminal's one line."""

    def __init__(self, cases: list[Case], *, is_shown: bool) -> None:
        self._total = len(cases)
        self._left = {case.name for case in cases}
        self._broken = 0
        self._is_shown = is_shown

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        self._left.discard(verdict.case.name)
        self._broken += verdict.outcome == "broken"
        text = f"{self._total - len(self._left)} of {self._total} cases"
        if self._broken:
            text += f", {self._broken} broken"
        if 0 < len(self._left) <= SHOWN:
            text += f"; still at {', '.join(sorted(self._left))}"
        self.show(text)

    def show(self, text: str) -> None:
        """Replace the line by text."""
        if self._is_shown:
            echo(f"\r\x1b[K{text}", err=True, nl=False)


@contextlib.contextmanager
def _progress(cases: list[Case]) -> Iterator[_Progress]:
    progress = _Progress(cases, is_shown=sys.stderr.isatty() and not is_dumb())
    try:
        yield progress
    finally:
        progress.show("")


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as out:
            out.write(text + "\n")
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}", field="--json"
        ) from None
