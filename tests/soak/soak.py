"""One soak: starts the processes, lets them run, settles, and judges what they saw."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .child import Child
from .clients import serve_clients
from .controls import CONTROLS, NothingToSpoil
from .gateway import running_gateway
from .history import judge, merge
from .js import NodeClients
from .network import serve_network
from .upstream import serve_upstream

if TYPE_CHECKING:
    from .gateway import GatewayProcess
    from .history import Call
    from .plan import Plan

__all__ = ["Verdict", "soak"]

WEATHER = ("lost", "duplicated", "reordered", "rebinds", "cuts", "blackouts")
"""What the network must have done, each at least once."""
TCP_WEATHER = ("tcp_stalls", "tcp_resets", "tcp_holes", "tcp_blackouts")
"""The same, where there are clients over WebSocket."""


@dataclass
class Verdict:
    """What a soak saw and found.

    Attributes:
        backend: The gateway's QUIC library.
        seconds: How long the load lasted.
        requests: Requests that clients asked.
        answers: Of these, answered by the upstream.
        failed: Of these, failed, by code and outcome.
        pushes: Notifies handed to applications.
        announced_losses: Notifies that clients were told are lost, all of them expired.
        executions: Requests handed to upstreams, those REFUSED included.
        resumes: Sessions taken up again by clients whose connection the network had ended.
        moves: Sessions that went from one process of the gateway to another.
        upgrades: Upgrades of the gateway.
        longest_silence_s: The longest time that a client with requests under way heard nothing.
        network: What the network did.
        clients: What the clients counted.
        kinds: For each kind of client: how many there are, and what they counted.
        upstreams: What the upstreams and the pusher counted.
        gateway: What the gateway counted.
        controls: Ways in which the history was spoilt, and what was found in it: it must be found.
        findings: What is wrong. Empty for a good run.
    """

    backend: str
    seconds: float
    requests: int = 0
    answers: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    pushes: int = 0
    announced_losses: int = 0
    executions: int = 0
    resumes: int = 0
    moves: int = 0
    upgrades: int = 0
    longest_silence_s: float = 0.0
    network: dict[str, int] = field(default_factory=dict)
    clients: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    upstreams: dict[str, int] = field(default_factory=dict)
    gateway: dict[str, float] = field(default_factory=dict)
    controls: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Return everything, for JSON."""
        return asdict(self)


async def soak(plan: Plan) -> Verdict:
    """Run a soak to its end."""
    verdict = Verdict(plan.backend, plan.seconds)
    async with AsyncExitStack() as children:
        folder = children.enter_context(tempfile.TemporaryDirectory())

        def child(*args: object) -> Child:
            started = Child(*args)  # type: ignore[arg-type]
            children.callback(started.kill)
            return started

        upstream = child(serve_upstream, plan)
        services = await upstream.receive()
        async with running_gateway(plan, Path(folder), services) as gateway:
            upstream.send(gateway.push_address)
            network = child(serve_network, plan, gateway.address, gateway.web_address)
            addresses = await network.receive()
            python = plan.clients - plan.js
            fleets: list[Child | NodeClients] = [child(serve_clients, plan, addresses[:python])]
            if plan.js:
                node = NodeClients(plan, addresses[python:])
                children.push_async_callback(node.kill)
                await node.start()
                fleets.append(node)
            for fleet in fleets:
                assert await fleet.receive() == "ready"
            for each in (upstream, network, *fleets):
                each.send("begin")
            began = time.monotonic()
            upgrades: asyncio.Task[None] | None = None
            if plan.upgrade_s:
                upgrades = asyncio.ensure_future(gateway.upgrade_on_and_on(plan.upgrade_s))
            await asyncio.sleep(plan.seconds)
            while missing := await _missing(plan, network, fleets, gateway):
                if time.monotonic() >= began + plan.longest_s:
                    verdict.findings += missing
                    break
                await asyncio.sleep(1.0)
            verdict.seconds = round(time.monotonic() - began, 1)
            if upgrades is not None:
                upgrades.cancel()
                await asyncio.wait([upgrades])
                if not upgrades.cancelled() and (error := upgrades.exception()) is not None:
                    verdict.findings.append(f"the gateway was not upgraded: {error!r}")
                verdict.upgrades = gateway.upgrades
            # The weather first, or the last ones asked might wait for it.
            assert await network.ask("calm") == "calm"
            assert await upstream.ask("calm") == "calm"
            assert await _ask_all(fleets, "calm") == ["calm"] * len(fleets)
            last_seqs = await upstream.ask("sessions")
            assert await _ask_all(fleets, last_seqs) == ["settled"] * len(fleets)
            assert await network.ask("clear") == "clear"
            seen, counts = [], {}
            for fleet in fleets:
                if isinstance(fleet, NodeClients):
                    calls, counted = await fleet.stop()
                else:
                    calls, counted, verdict.longest_silence_s = await fleet.ask("stop")
                seen.append(calls)
                counts.update(counted)
            verdict.clients = dict(_total(counts))
            verdict.kinds = {
                kind: {"clients": number, **counts[kind]} for kind, number in plan.kinds.items()
            }
            verdict.gateway = await gateway.last_stats()
            code = await gateway.stop()
            done, verdict.upstreams = await upstream.ask("stop")
            verdict.network = await network.ask("stop")
    calls = merge((*seen, done))
    names = [f"client{number}" for number in range(1, plan.clients + 1)]
    _judge(verdict, calls, names, last_seqs)
    _look_at_gateway(plan, verdict, code, gateway.log)
    return verdict


async def _ask_all(fleets: list[Child | NodeClients], message: object) -> list[object]:
    """Send a command to all at once, and return the answers."""
    return await asyncio.gather(*(fleet.ask(message) for fleet in fleets))


def _total(counts: dict[str, Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts.values():
        total.update(each)
    return total


async def _missing(
    plan: Plan, network: Child, fleets: list[Child | NodeClients], gateway: GatewayProcess
) -> list[str]:
    """Return what is still less than it should be: how long that takes is the machine's affair."""
    counts: dict[str, Counter[str]] = {}
    for counted in await _ask_all(fleets, "counts"):
        counts.update(counted)  # type: ignore[call-overload]
    done = _total(counts)
    weather = await network.ask("counts")
    least = {
        "requests": (done.get("requests", 0), plan.min_requests),
        "pushes": (done.get("notifies", 0), plan.min_pushes),
        "resumes": (done.get("resumes", 0), plan.min_resumes),
        "renewals": (gateway.stats.get("auth.renewed", 0), plan.min_renewals),
        "moves": (gateway.stats.get("session.moved_in", 0), plan.min_moves),
        "upgrades": (gateway.upgrades, plan.min_upgrades),
        **{
            f"{kind}: {name}": (counts[kind].get(name, 0), wanted)
            for kind in plan.kinds
            for name, wanted in (
                ("requests", plan.min_each_requests),
                ("notifies", plan.min_each_pushes),
                ("resumes", plan.min_each_resumes),
            )
        },
        **{name: (weather[name], 1) for name in WEATHER if not plan.is_calm},
        **{name: (weather[name], 1) for name in TCP_WEATHER if plan.web or plan.js},
        "address changes": (
            gateway.stats.get("transport.address_changes", 0),
            int(plan.rebind_s > 0 or not plan.is_calm),
        ),
    }
    return [
        f"only {found:.0f} {name}, not {wanted}"
        for name, (found, wanted) in least.items()
        if found < wanted
    ]


def _judge(
    verdict: Verdict, calls: list[Call], names: list[str], last_seqs: dict[str, int]
) -> None:
    checker = judge(calls, names, last_seqs)
    verdict.findings += [repr(finding) for finding in checker.findings]
    verdict.pushes = checker.delivered_pushes
    verdict.announced_losses = checker.announced_losses
    verdict.executions = checker.executions
    counts = verdict.clients
    verdict.requests = counts["requests"]
    verdict.answers = counts["answers"]
    verdict.resumes = counts.get("resumes", 0)
    verdict.moves = int(verdict.gateway.get("session.moved_in", 0))
    verdict.failed = {
        name.removeprefix("failed_"): number
        for name, number in sorted(counts.items())
        if name.startswith("failed_")
    }
    # A checker that finds nothing in a bad history would say nothing of a good one.
    for spoil, wanted in CONTROLS.items():
        try:
            found = judge(spoil(calls), names, last_seqs).findings
        except NothingToSpoil as error:
            verdict.controls[spoil.__name__] = "nothing"
            verdict.findings.append(f"control {spoil.__name__}: {error}")
            continue
        is_found = any(isinstance(finding, wanted) for finding in found)
        verdict.controls[spoil.__name__] = wanted.__name__ if is_found else "nothing"
        if not is_found:
            verdict.findings.append(f"control {spoil.__name__}: no {wanted.__name__} was found")


EXPECTED = ("stopping", " call_failed ", " process_stalled ")
"""In log lines that are no finding: the upstream refuses calls on purpose, and a busy machine may
leave the process without a processor for a second."""


def _look_at_gateway(plan: Plan, verdict: Verdict, code: int, log: list[str]) -> None:
    """Find what the gateway itself says went wrong."""
    stats = verdict.gateway
    if code:
        verdict.findings.append(f"the gateway's exit code is {code}")
    verdict.findings += [
        f"gateway: {line}" for line in log if not any(word in line for word in EXPECTED)
    ]
    for name in sorted(stats):
        if name.endswith(("internal_errors", "protocol_errors")):
            verdict.findings.append(f"the gateway counted {name}={stats[name]:.0f}")
        if name.startswith("auth.refused") or name in ("auth.unavailable", "session.auth_expired"):
            verdict.findings.append(f"a good client was kept out: {name}={stats[name]:.0f}")
    # Where no process of it ends, each datagram of a connection finds its own. That one may have
    # closed the connection, and the client has not heard of it: then a reset tells it.
    if plan.processes and not plan.upgrade_s and (astray := stats.get("transport.resets_astray")):
        verdict.findings.append(f"{astray:.0f} misrouted datagrams were answered by a reset")
    gone = stats.get("session.notifies_expired", 0) + stats.get("session.notifies_dropped", 0)
    # What expired while its acknowledgement was under way is no loss.
    if verdict.announced_losses > gone:
        verdict.findings.append(
            f"{verdict.announced_losses} losses were announced, the gateway let {gone:.0f} go"
        )
    if stats.get("session.sessions"):
        verdict.findings.append(f"{stats['session.sessions']:.0f} sessions are left at the end")
