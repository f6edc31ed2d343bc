"""Soak the gateway: ``python -m tests.soak --backend qh3 --seconds 60 --seed 1``.

50 clients ask and upstreams push through a network that loses, repeats and reorders datagrams,
changes source ports, goes black and cuts connections, all in processes of their own. With --web and
--js some of the clients come over WebSocket, through TCP that stalls, resets and goes black. With
--processes the gateway is several, and --upgrade-s has new ones take their place while it runs.

Prints what was seen, and a line for each promise that was broken; exit code 1 where there is one.
It goes on until each --min is reached, for --longest-s at most: that one was not reached is a
finding too.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from .js import missing_build
from .plan import Plan
from .soak import soak

if TYPE_CHECKING:
    from .soak import Verdict

MINIMA = (
    *("requests", "pushes", "resumes", "renewals", "moves", "upgrades"),
    *("each_requests", "each_pushes", "each_resumes"),
)
MAX_LINES = 50
GATEWAY = (
    "session.resumes",
    "session.steals",
    "session.duplicates",
    "session.notifies_expired",
    "transport.accepted",
    "web.accepted",
    "transport.address_changes",
    "transport.path_limits",
    "transport.resets_sent",
    "transport.resets_astray",
    "auth.authenticated",
    "auth.renewed",
    "session.auth_expired",
)


def main() -> int:
    options = _parse()
    backends = ("aioquic", "qh3") if options.backend == "both" else (options.backend,)
    verdicts = []
    for backend in backends:
        plan = Plan(
            backend=backend,
            client_backend=options.client or backend,
            seconds=options.seconds,
            seed=options.seed,
            clients=options.clients,
            web=options.web,
            js=options.js,
            workers=options.workers,
            longest_s=options.longest_s,
            pause_s=options.pause_s,
            storm_s=(options.storm_s, 2 * options.storm_s),
            token_s=options.token_s,
            is_calm=options.calm,
            processes=options.processes,
            rebind_s=options.rebind_s,
            upgrade_s=options.upgrade_s,
            **{f"min_{name}": getattr(options, f"min_{name}") for name in MINIMA},
        )
        verdict = asyncio.run(soak(plan))
        verdicts.append(verdict)
        if not options.json:
            _print(plan, verdict)
    if options.json:
        print(json.dumps([verdict.as_dict() for verdict in verdicts]))
    return int(any(verdict.findings for verdict in verdicts))


def _parse() -> argparse.Namespace:
    defaults = {each.name: each.default for each in dataclasses.fields(Plan)}
    text = __doc__ or ""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=text.split("\n")[0])
    parser.add_argument("--backend", default="both", choices=("both", "aioquic", "qh3"))
    parser.add_argument("--client", choices=("aioquic", "qh3"), help="the clients' QUIC library")
    for name in (
        *("seconds", "longest_s", "seed", "clients", "web", "js"),
        *("workers", "pause_s", "token_s"),
        *("processes", "rebind_s", "upgrade_s"),
    ):
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type(defaults[name]), default=defaults[name])
    parser.add_argument(
        "--storm-s", type=float, default=defaults["storm_s"][0], help="the shortest pause of storms"
    )
    for name in MINIMA:
        least = defaults[f"min_{name}"]
        flag, what = f"--min-{name.replace('_', '-')}", name.replace("each_", "of each kind's ")
        parser.add_argument(flag, type=int, default=least, help=f"the least {what}")
    parser.add_argument("--calm", action="store_true", help="have a good network")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.web + options.js >= options.clients:
        parser.error("--web and --js are parts of --clients, and leave some to QUIC")
    if options.js and options.token_s:
        parser.error("--js clients have no tokens: leave out --token-s")
    if options.js and (why := missing_build()):
        parser.error(why)
    return options


def _print(plan: Plan, verdict: Verdict) -> None:
    found = sum(each != "nothing" for each in verdict.controls.values())
    table: dict[str, object] = {
        "requests": verdict.requests,
        "answers": verdict.answers,
        **{f"failed, {name.replace('_', ' ')}": n for name, n in verdict.failed.items()},
        "executions": verdict.executions,
        "pushes delivered": verdict.pushes,
        "announced losses": verdict.announced_losses,
        "resumes": verdict.resumes,
        "moves": verdict.moves,
        "upgrades": verdict.upgrades,
        "longest silence of a client, ms": int(verdict.longest_silence_s * 1000),
        **{
            f"{kind}, {counts['clients']} clients: {name}": counts.get(name, 0)
            for kind, counts in verdict.kinds.items()
            for name in ("requests", "answers", "notifies", "resumes")
            if len(verdict.kinds) > 1
        },
        **{f"clients: {name}": n for name, n in sorted(verdict.clients.items())
           if not name.startswith("failed_") and name not in ("requests", "answers", "resumes")},
        **{f"pusher: {name}": n for name, n in sorted(verdict.upstreams.items())
           if not name.startswith("executed_")},
        **{f"network: {name}": n for name, n in verdict.network.items()},
        **{f"gateway: {name}": int(verdict.gateway.get(name, 0)) for name in GATEWAY},
        "controls found": f"{found} of {len(verdict.controls)}",
        "findings": len(verdict.findings),
    }  # fmt: skip
    print(
        f"{verdict.backend} gateway, {plan.client_backend} clients: "
        f"{plan.clients} clients, {verdict.seconds:.0f} s, seed {plan.seed}"
    )
    for name, value in table.items():
        print(f"  {name:<36} {value:>10}")
    for finding in verdict.findings[:MAX_LINES]:
        print(f"FINDING {finding}")
    if len(verdict.findings) > MAX_LINES:
        print(f"FINDING ... and {len(verdict.findings) - MAX_LINES} more")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
