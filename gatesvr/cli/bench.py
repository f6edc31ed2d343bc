"""``gatesvr bench SCENARIO``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bench.scenario import MIN_PAYLOAD_BYTES, SCENARIOS, Plan
from ..bench.threshold import METRICS, Threshold
from ..config import Size
from ..errors import ConfigError
from .options import ADDRESS, DURATION, SERVER, push_options, transport_option
from .terminal import echo, escape_control, to_json

if TYPE_CHECKING:
    from ..bench.report import Report
    from ..bench.run import Progress, Result
    from ..bench.tokens import TokenSigner

    _ThresholdBase = click.ParamType[Threshold]
    _SizeBase = click.ParamType[int]
else:
    _ThresholdBase = _SizeBase = click.ParamType

__all__ = ["command", "make_signer"]

MAX_DURATION_S = 3600.0
MAX_RUN_S = 4 * MAX_DURATION_S
"""How long the clients' tokens last: more than any run, whose parts have limits of their own."""
MAX_CLIENTS = 1_000_000
MAX_PROCESSES = 256
_DEFAULT_SERVER = "localhost:8453"


class _Threshold(_ThresholdBase):
    name = "EXPR"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Threshold:
        try:
            return value if isinstance(value, Threshold) else Threshold.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Payload(_SizeBase):
    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            size = Size.parse(int(value) if str(value).isdigit() else value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if size < MIN_PAYLOAD_BYTES:
            self.fail(
                f"{size} is below {MIN_PAYLOAD_BYTES}: the checker's marks need that much",
                param,
                ctx,
            )
        return size


def _print_list(ctx: click.Context, param: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        width = max(map(len, SCENARIOS))
        for name, scenario in SCENARIOS.items():
            echo(f"{name:<{width}}  {scenario.summary}")
        ctx.exit()


# A line with \b alone keeps click from rewrapping the next paragraph.
_EPILOG = "\b\nScenarios:\n" + "\n".join(
    f"  {scenario.name:<9}  {scenario.summary}" for scenario in SCENARIOS.values()
)


@click.command(epilog=_EPILOG)
@click.argument("scenario", type=click.Choice(list(SCENARIOS)))
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_list,
    help="Print each scenario's summary, and exit.",
)
@click.option("--self", "own", is_flag=True, help="Start a gateway and demo services for the run.")
@click.option(
    "--server",
    type=SERVER,
    help="The gateway to load, by QUIC, or with wss://HOST:PORT/gatesvr by WebSocket; its `echo`"
    f" must return the data. [{_DEFAULT_SERVER}]",
)
@click.option("--push-server", type=ADDRESS, help="Its gRPC address, for scenarios that push.")
@push_options
@click.option("--pid", type=click.IntRange(1), help="Its process id, to report CPU and memory.")
@click.option(
    "--clients", type=click.IntRange(1, MAX_CLIENTS), help="Number of clients. [64 or 200]"
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 10_000),
    help="Closed model: requests or pushes that each client keeps under way;"
    " connect: clients connecting at the same time. [1; connect: 16]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.0, min_open=True),
    help="Open model: operations a second over all clients, however the gateway responds;"
    " latencies count from the intended times.",
)
@click.option(
    "--duration", type=DURATION, default="10s", show_default=True, help="Length of the measurement."
)
@click.option(
    "--warmup", type=DURATION, default="2s", show_default=True, help="Load before the measurement."
)
@click.option(
    "--payload", type=_Payload(), default="128", show_default=True, help="Data of each message."
)
@click.option(
    "--upstream-delay",
    type=DURATION,
    default="0",
    help="echo and mix: how long the upstream should take for a (slow) request.",
)
@click.option(
    "--slow", type=click.IntRange(1), help="slow: clients that read nothing. [a quarter of them]"
)
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_PROCESSES),
    default=1,
    show_default=True,
    help="Number of load processes.",
)
@transport_option
@click.option(
    "--gateway-transport",
    type=click.Choice(["auto", "aioquic", "qh3"]),
    help="With --self: the gateway's QUIC backend. [the clients' backend]",
)
@click.option(
    "--upstream",
    type=click.Choice(["stream", "unary"]),
    help="With --self: whether its services take many requests a message (ProcessStream), as those"
    " of the SDK do, or one call a request. [stream]",
)
@click.option(
    "--set",
    "sets",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="With --self: a setting of the gateway; repeatable.",
)
@click.option("--token", default="", help="Sent as auth_token by every client.")
@click.option(
    "--token-key",
    type=click.Path(dir_okay=False),
    help="File with a private key (PEM) or an HMAC secret: each client gets a token of its own.",
)
@click.option("--token-audience", default="gatesvr", show_default=True, help="Their claim aud.")
@click.option("--token-issuer", default="test", show_default=True, help="Their claim iss.")
@click.option("--ca", type=click.Path(dir_okay=False), help="PEM file with certificates to trust.")
@click.option("--insecure", is_flag=True, help="Accept any certificate.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of random choices.")
@click.option(
    "--timeout",
    type=DURATION,
    default="10s",
    show_default=True,
    help="Longest wait for a login, and for progress of open operations at the end.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=_Threshold(),
    multiple=True,
    help=f"A limit such as 'p99<20ms', on {', '.join(METRICS)}; missed: exit code 99. Repeatable.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the report as JSON to FILE; -: to standard output, instead of the table.",
)
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False), help="Plot to FILE.svg or .png."
)
@click.option("--quiet", is_flag=True, help="No progress and no table.")
def command(
    scenario: str,
    own: bool,
    server: str | None,
    push_server: str | None,
    pid: int | None,
    thresholds: tuple[Threshold, ...],
    json_file: str | None,
    plot_file: str | None,
    quiet: bool,
    gateway_transport: str | None,
    upstream: str | None,
    sets: tuple[str, ...],
    **options: Any,
) -> int:
    """Load a gateway, check every delivery, and report.

    With --self it starts a gateway and services for the run; otherwise it loads the gateway at
    --server. Exits with 1 if the checker found a broken promise or something failed, with 99 if a
    threshold was missed. Ctrl-C ends the run early and still reports.
    """
    if own and (server or push_server or pid):
        raise click.UsageError(
            "--self starts its own gateway; leave out --server, --push-server and --pid"
        )
    if not own and (gateway_transport or upstream or sets):
        raise click.UsageError("--gateway-transport, --upstream and --set need --self")
    plan = _plan(scenario, **options)
    if own and plan.has_push_access:
        raise click.UsageError("--self starts its own gateway; leave out --push-ca and its like")
    plan.push_access()  # unusable files are told at once
    _check(plan, thresholds, has_gateway=own or pid is not None, has_push=own or bool(push_server))
    from ..bench.meter import Histogram
    from ..bench.plot import check_plot
    from ..bench.process import Sampler

    # Report at once what cannot work: a missing library, a missing process.
    Histogram()
    Sampler({} if pid is None else {"gateway": pid})
    if plot_file:
        check_plot(plot_file)
        _check_writable(plot_file, "--plot")
    if json_file and json_file != "-":
        _check_writable(json_file, "--json")
    with _progress(is_shown=not quiet and sys.stderr.isatty()) as progress:
        if own:
            result = _run_own(plan, gateway_transport, sets, progress, is_unary=upstream == "unary")
        else:
            from ..transport.addresses import parse_place

            place = parse_place(server or _DEFAULT_SERVER)
            plan = replace(plan, server=place, push_server=push_server or "")
            result = _run(plan, {} if pid is None else {"gateway": pid}, progress)
    from ..bench.report import Report
    from ..transport.quic.choose import pick_backend

    way = "websocket" if result.plan.server.path else pick_backend(plan.backend).name
    report = Report(result, way, thresholds)
    _write(report, json_file, plot_file, is_quiet=quiet)
    return report.exit_code


def _plan(scenario: str, **options: Any) -> Plan:
    kind = SCENARIOS[scenario]
    clients = options["clients"] or kind.clients
    slow = options["slow"]
    if slow is not None and scenario != "slow":
        raise click.UsageError("--slow needs the scenario slow")
    if options["rate"] and "open" not in kind.models:
        raise click.UsageError(f"--rate: {scenario} sets its own pace")
    if options["in_flight"] and "closed" not in kind.models:
        raise click.UsageError(f"--in-flight: {scenario} sets its own pace")
    if options["rate"] and options["in_flight"]:
        raise click.UsageError("--rate and --in-flight exclude each other: open or closed load")
    if options["upstream_delay"] and scenario not in ("echo", "mix"):
        raise click.UsageError("--upstream-delay needs the scenario echo or mix")
    if not 0 < options["duration"] <= MAX_DURATION_S:
        raise click.UsageError(f"--duration must be above 0 and at most {MAX_DURATION_S:g} s")
    if options["warmup"] > MAX_DURATION_S:
        raise click.UsageError(f"--warmup must be at most {MAX_DURATION_S:g} s")
    processes = options["processes"]
    if processes > clients:
        raise click.UsageError(f"--processes: {processes} is more than {clients} clients")
    if scenario == "slow":
        slow = slow or max(1, clients // 4)
        if slow >= clients:
            raise click.UsageError(f"--slow: {slow} of {clients} clients leaves none to measure")
    return Plan(
        scenario=scenario,
        clients=clients,
        in_flight=options["in_flight"] or kind.in_flight,
        rate=options["rate"] or kind.rate,
        duration=options["duration"],
        warmup=options["warmup"],
        payload=options["payload"],
        backend=options["transport"],
        **{name: options[name] for name in options if name.startswith("push_")},
        ca=options["ca"] or "",
        insecure=options["insecure"],
        token=options["token"],
        signer=make_signer(**options),
        upstream_delay_ms=round(options["upstream_delay"] * 1000),
        slow_clients=slow or 0,
        processes=processes,
        seed=options["seed"],
        run=int.from_bytes(os.urandom(4), "big"),
        timeout=options["timeout"],
    )


def make_signer(**options: Any) -> TokenSigner | None:
    """Return what makes the clients' tokens, None without --token-key."""
    path = options["token_key"]
    if path is None:
        return None
    if options["token"]:
        raise click.UsageError("--token and --token-key exclude each other")
    from ..auth.keys import read_private_key
    from ..bench.tokens import TokenSigner

    try:
        data = Path(path).read_bytes()
        key = read_private_key(data)
    except OSError as error:
        raise ConfigError(error.strerror or str(error), source=path) from None
    except ValueError as error:
        raise ConfigError(str(error), source=path) from None
    return TokenSigner(
        key.value if isinstance(key.value, bytes) else data,
        key.algorithms[0],
        options["token_audience"],
        options["token_issuer"],
        int(time.time() + MAX_RUN_S),
    )


def _check(
    plan: Plan, thresholds: tuple[Threshold, ...], *, has_gateway: bool, has_push: bool
) -> None:
    """Refuse a plan that cannot work, before anything starts."""
    from ..bench.run import raise_file_limit

    if plan.kind.needs_push and not has_push:
        raise click.UsageError(f"{plan.scenario} pushes: it needs --push-server or --self")
    for threshold in thresholds:
        if threshold.metric in ("cpu_us", "rss") and not has_gateway:
            raise click.UsageError(f"--threshold {threshold.text}: needs --pid or --self")
        if not plan.kind.is_timed and threshold.metric not in ("errors", "rss"):
            raise click.UsageError(f"--threshold {threshold.text}: not a metric of {plan.scenario}")
    raise_file_limit(-(-plan.clients // plan.processes))


def _check_writable(file: str, option: str) -> None:
    """Check that the report can be written to file, without changing the file.

    Raises:
        ConfigError: It cannot be created or written.
    """
    folder = os.path.dirname(file) or "."
    if os.path.exists(file):
        is_writable = not os.path.isdir(file) and os.access(file, os.W_OK)
    else:
        if not os.path.isdir(folder):
            raise ConfigError(f"cannot write {file}: there is no folder {folder}", source=option)
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    if not is_writable:
        raise ConfigError(f"cannot write {file}", source=option)


def _run_own(
    plan: Plan,
    gateway_transport: str | None,
    sets: tuple[str, ...],
    progress: Progress,
    *,
    is_unary: bool,
) -> Result:
    from ..bench.run import Crew
    from ..bench.servers import OwnServers

    command = [sys.executable, "-m", "gatesvr.cli.leash"]
    backend = gateway_transport or plan.backend
    own = OwnServers(command, backend, plan.clients, sets, is_unary=is_unary)
    # The load processes start while the servers do.
    with Crew(plan.processes) as crew, own as servers:
        plan = replace(plan, server=servers.server, push_server=servers.push_server)
        return crew.run(plan, servers.pids, progress, servers.check)


def _run(plan: Plan, pids: dict[str, int], progress: Progress) -> Result:
    from ..bench.run import Crew

    with Crew(plan.processes) as crew:
        return crew.run(plan, pids, progress)


@contextlib.contextmanager
def _progress(*, is_shown: bool) -> Iterator[Progress]:
    """Show the progress of each phase on a terminal."""
    if not is_shown:
        yield lambda phase, part: None
        return
    with click.progressbar(length=1000, file=sys.stderr, show_eta=False) as bar:

        def show(phase: str, part: float) -> None:
            bar.label = f"{phase:<10}"
            bar.pos = round(part * 1000)  # not update(): each phase restarts at 0
            bar.render_progress()

        yield show


def _write(report: Report, json_file: str | None, plot_file: str | None, *, is_quiet: bool) -> None:
    plan = report.result.plan
    if not is_quiet and json_file != "-":
        echo("\n".join(map(escape_control, report.as_text().splitlines())))
    if json_file:
        if json_file == "-":
            echo(to_json(report.as_object(), indent=2))
        else:
            text = json.dumps(report.as_object(), indent=2, ensure_ascii=False)
            try:
                with open(json_file, "w", encoding="utf-8") as file:
                    file.write(text + "\n")
            except OSError as error:
                raise ConfigError(error.strerror or str(error), source=json_file) from None
    if plot_file:
        from ..bench.plot import plot

        plot(plot_file, f"gatesvr bench {plan.scenario}", plan.kind.operations, report.timeline)
