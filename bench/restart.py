"""Measures how soon clients notice that their gateway was killed, and what they report.

Runs ``gatesvr serve --demo`` and kills it (SIGKILL) under its clients. In one case it starts again
on the same port, in the other it stays down. Run it as::

    python -m bench.restart --transport qh3 --clients 200
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gatesvr.client.reconnect import describe
from tests.cli.fleet import fleet, kill, until
from tests.cli.process import FREE_PORTS, serving

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.cli.fleet import Member


def show(what: str, seconds: Iterable[float]) -> None:
    """Print the median and the maximum of some times."""
    times = sorted(seconds)
    print(f"  {what:46} median {statistics.median(times):6.3f} s   worst {times[-1]:6.3f} s")


def show_told(members: list[Member]) -> None:
    """Print the events of clients and applications, with counts."""
    for title, texts in (
        ("connection", [describe(end.how) for member in members for end in member.ends]),
        ("iteration", [str(error) for member in members for error in member.told]),
        ("requests", [str(error) for member in members for error in member.failures]),
    ):
        counts = collections.Counter(texts)
        for text, count in counts.most_common() or [("nothing", len(members))]:
            print(f"  {title:10} {count:5} x {text}")


def arguments(options: argparse.Namespace, heartbeat: str) -> list[str]:
    """Return the gateway's command line, without its addresses."""
    sets = [f"session.heartbeat_interval={heartbeat}"]
    # All clients come from one address, at the same time.
    sets.append(f"session.max_inited_per_address={2 * options.clients}")
    flags = [word for setting in sets for word in ("--set", setting)]
    return ["serve", "--demo", "--transport", options.transport, *flags]


async def restarted(options: argparse.Namespace, state: Path) -> None:
    """Kill the gateway and start it again."""
    flags = arguments(options, options.restart_heartbeat)
    async with serving(state, *flags, *FREE_PORTS) as server:
        address = server.address("clients")
        async with fleet(address, options.clients, options.client, state) as members:
            for member in members:
                member.ask("slow", ms="60000")
            await until(members, lambda member: member.client.in_flight)
            await kill(server)
            if not options.idle:
                for member in members:
                    member.ask("echo")
            again = ("--bind", address, "--grpc-bind", "127.0.0.1:0")
            killed_at = asyncio.get_running_loop().time()
            async with serving(state, *flags, *again):
                up_at = asyncio.get_running_loop().time()
                await until(members, lambda member: member.told)
                expected = 1 if options.idle else 2
                await until(members, lambda member: len(member.failures) == expected)
                print(
                    f"killed and restarted, its banner {up_at - killed_at:.3f} s after the kill; "
                    f"heartbeat {options.restart_heartbeat}"
                )
                ends = [member.ends[0] for member in members]
                show("until the client knew, from the banner", (end.at - up_at for end in ends))
                show(
                    "until the application had a new session",
                    (member.told_at - up_at for member in members),
                )
                show_told(members)


async def gone(options: argparse.Namespace, state: Path) -> None:
    """Kill the gateway and leave it down."""
    flags = arguments(options, options.heartbeat)
    async with serving(state, *flags, *FREE_PORTS) as server:
        address = server.address("clients")
        async with fleet(address, options.clients, options.client, state) as members:
            await until(members, lambda member: member.client.is_connected)
            for member in members:
                member.begin_counting()
            killed_at = await kill(server)
            await until(members, lambda member: member.ends)
            print(f"killed, and nothing started; heartbeat {options.heartbeat}")
            ends = [member.ends[0] for member in members]
            show("until the client knew, from the kill", (end.at - killed_at for end in ends))
            show("until the client knew, from the last byte heard", (end.silence for end in ends))
            print(f"  heartbeats sent in between: at most {max(end.heartbeats for end in ends)}")
            connected = sum(member.client.is_connected for member in members)
            print(f"  is_connected: {connected} of {len(members)}")
            show_told(members)


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as state:
        os.environ["XDG_STATE_HOME"] = state
        print(f"{options.clients} clients ({options.client}) of a gateway ({options.transport})")
        await restarted(options, Path(state))
        await gone(options, Path(state))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transport", default="qh3", help="the gateway's QUIC library")
    parser.add_argument("--client", help="the clients' QUIC library; the gateway's by default")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--heartbeat", default="1s", help="heartbeat for the gateway left down")
    parser.add_argument(
        "--restart-heartbeat",
        default="15s",
        help="heartbeat for the restarted gateway; after two of them, silence tells first",
    )
    parser.add_argument(
        "--idle", action="store_true", help="send no requests while the gateway is down"
    )
    options = parser.parse_args()
    options.client = options.client or options.transport
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
