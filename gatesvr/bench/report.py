"""The report of a run: an object for ``--json``, a table for people, an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .process import CLOCK_S, Sample, verdict

if TYPE_CHECKING:
    from .findings import Finding
    from .meter import Point
    from .run import Result
    from .threshold import Threshold

__all__ = ["EXIT_BROKEN", "EXIT_MISSED", "Report"]

_UNTOLD = (
    *("token", "signer", "ca", "insecure", "run", "scenario", "server"),
    *("push_ca", "push_cert", "push_key", "push_token_file"),
)
EXIT_BROKEN = 1
EXIT_MISSED = 99
MAX_FINDINGS = 20
"""Most findings written out; all are counted."""
MAX_FAILURES = 8
VERSION = 1
BEHIND_MS = 10.0
"""Lateness above which an open load gets a note."""


class Report:
    """The report of one run.

    Args:
        result: The run's result.
        backend: The clients' QUIC library, by its own name.
        thresholds: The limits to check.

    Attributes:
        values: For each threshold metric: its value, None if unknown.
        missed: The thresholds that were missed.
        timeline: A point for each tick.
        verdict: Which side was saturated.
        notes: Caveats about the figures.
    """

    def __init__(self, result: Result, backend: str, thresholds: Sequence[Threshold] = ()) -> None:
        self.result = result
        self._backend = backend
        self._thresholds = thresholds
        self._latency = result.meter.total.summary()
        self.timeline = result.meter.timeline(result.seconds)
        _add_gateway(self.timeline, result.samples)
        self.verdict = verdict(
            result.usage, result.load_names, is_closed=result.plan.model == "closed"
        )
        self.values = self._values()
        self.missed = [each for each in thresholds if not each.is_kept(self.values)]
        self.notes = self._notes()

    @property
    def done(self) -> int:
        """Operations completed during the measurement."""
        return self.result.meter.total.count

    @property
    def failed(self) -> int:
        """Failures of the whole run."""
        return self.result.failures.total()

    @property
    def exit_code(self) -> int:
        """0, EXIT_BROKEN or EXIT_MISSED.

        Failures give EXIT_BROKEN unless a threshold allows them.
        """
        tolerates = any(each.metric == "errors" for each in self._thresholds)
        is_done = self.done > 0 or not self.result.plan.kind.is_timed
        if self.result.found or (self.failed and not tolerates) or not is_done:
            return EXIT_BROKEN
        return EXIT_MISSED if self.missed else 0

    def as_object(self) -> dict[str, Any]:
        """Return the report for JSON; docs/bench.md describes every field."""
        result = self.result
        plan = result.plan
        usage = result.usage
        settings = asdict(plan)
        for name in _UNTOLD:
            del settings[name]
        series = result.meter.series
        return {
            "version": VERSION,
            "scenario": plan.scenario,
            "model": plan.model,
            "operation": plan.kind.operation,
            "settings": {
                **settings,
                "backend": self._backend,
                "server": str(plan.server),
            },
            "interrupted": result.is_interrupted,
            "seconds": round(result.seconds, 3),
            "clients": {"connected": result.connected, "alive": result.alive},
            "done": self.done,
            "per_s": round(self.done / result.seconds, 1),
            "latency_us": self._latency,
            "series_us": (
                {name: series[name].summary() for name in sorted(series)} if len(series) > 1 else {}
            ),
            "cpu": {
                name: {
                    "share": round(usage.share(name), 4),
                    "us_per_operation": _rounded(self._cpu_us(name)),
                }
                for name in usage.cpu
            },
            "machine": {"cores": usage.cores, "busy_share": round(usage.machine_share, 4)},
            "rss_bytes": dict(result.rss),
            "session_bytes": result.session_bytes,
            "idle_us_per_session_s": _rounded(self._idle_us()),
            "figures": result.figures,
            "full": self.verdict,
            "notes": self.notes,
            "findings": {
                "count": result.found,
                "first": [_describe(finding) for finding in result.findings[:MAX_FINDINGS]],
            },
            "failures": {"count": self.failed, "reasons": dict(result.failures.most_common())},
            "thresholds": [
                {
                    "threshold": each.text,
                    "value": self.values[each.metric],
                    "kept": each not in self.missed,
                }
                for each in self._thresholds
            ],
            "timeline": [asdict(point) for point in self.timeline],
            "exit_code": self.exit_code,
        }

    def as_text(self) -> str:
        """Return the report as a table."""
        result = self.result
        plan = result.plan
        usage = result.usage
        rows: list[tuple[str, str]] = [("load", self._load_text())]
        operation = plan.kind.operation
        if plan.kind.is_timed:
            rate = f"{self.done / result.seconds:,.0f} a second"
            rows.append((plan.kind.operations, f"{self.done:,} in {result.seconds:.1f} s = {rate}"))
            rows.append(("latency", _latency_text(self._latency)))
            series = result.meter.series
            if len(series) > 1:
                rows += [
                    (f"  {name}", _latency_text(series[name].summary())) for name in sorted(series)
                ]
        for name in sorted(usage.cpu):
            text = f"{usage.share(name):.0%} of a core"
            cpu = self._cpu_us(name)
            if cpu is not None:
                text += f", {cpu:,.1f} µs a {operation}"
            rss = result.rss.get(name)
            if rss is not None:
                text += f", {_size(rss)}"
            rows.append((name, text))
        if result.session_bytes is not None:
            rows.append(("a session", f"{_size(result.session_bytes)} in the gateway"))
        idle = self._idle_us()
        if idle is not None:
            least = CLOCK_S / result.connected / result.seconds * 1e6
            words = f"{idle:,.1f}" if idle >= least else f"less than {least:,.1f}"
            rows.append(("idling", f"{words} µs of CPU a session and second"))
        if result.figures:
            words = ", ".join(
                f"{name.replace('_', ' ')} {value:,g}" for name, value in result.figures.items()
            )
            rows.append(("besides", words))
        rows.append(("full", self.verdict))
        rows += [("note", note) for note in self.notes]
        rows.append(("checker", self._findings_text()))
        rows += [("", _describe(finding)) for finding in result.findings[:MAX_FINDINGS]]
        if result.failures:
            rows.append(("failures", f"{self.failed:,}"))
            for reason, count in result.failures.most_common(MAX_FAILURES):
                rows.append(("", f"{count:,} times: {reason}"))
        for each in self._thresholds:
            kept = "missed" if each in self.missed else "kept"
            rows.append(("threshold", f"{each.text}: {kept} ({self._value_text(each.metric)})"))
        width = max(len(name) for name, _ in rows)
        head = f"{plan.scenario}: {plan.kind.summary}"
        return "\n".join([head, *(f"  {name:<{width}}  {text}" for name, text in rows)])

    # Inside.

    def _values(self) -> dict[str, float | None]:
        result = self.result
        names = ("p50", "p90", "p99", "p99.9", "max", "mean")
        rss = result.rss.get("gateway")
        return {
            **{name: self._latency.get(name) for name in names},
            "rps": self.done / result.seconds,
            "errors": float(self.failed + result.found),
            "cpu_us": self._cpu_us("gateway"),
            "rss": None if rss is None else float(rss),
        }

    def _cpu_us(self, name: str) -> float | None:
        """Return a process's CPU time for each operation, µs; None if unknown."""
        cpu = self.result.usage.cpu.get(name)
        return cpu / self.done * 1e6 if cpu is not None and self.done else None

    def _idle_us(self) -> float | None:
        result = self.result
        cpu = result.usage.cpu.get("gateway")
        if result.plan.scenario != "idle" or cpu is None or not result.connected:
            return None
        return cpu / result.connected / result.seconds * 1e6

    def _notes(self) -> list[str]:
        result = self.result
        notes = []
        if result.is_interrupted:
            notes.append("interrupted: figures are of the time until then")
        lag = result.figures.get("max_lag_ms", 0.0)
        unsent = result.figures.get("unsent", 0)
        if lag >= BEHIND_MS or unsent > 1:
            notes.append(
                f"the load fell behind its rate: up to {lag:,.1f} ms late, {unsent:,g} never sent;"
                " latencies count from the intended times"
            )
        if result.alive < result.connected:
            notes.append(f"{result.connected - result.alive} clients were gone at the end")
        return notes

    def _load_text(self) -> str:
        plan = self.result.plan
        clients = f"{self.result.connected:,} clients by {self._backend}"
        if plan.model == "open":
            pace = f"{plan.rate:,g} a second (open)"
        elif plan.model == "closed":
            pace = (
                f"{plan.in_flight} in flight {'in all' if plan.scenario == 'connect' else 'each'}"
            )
        else:
            pace = ""
        size = f"{plan.payload} bytes" if plan.scenario not in ("connect", "idle") else ""
        return ", ".join(filter(None, (clients, pace, size)))

    def _findings_text(self) -> str:
        if not self.result.found:
            return "nothing lost, repeated, reordered or answered wrongly"
        kinds = Counter(type(finding).__name__ for finding in self.result.findings)
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return f"{self.result.found:,} broken promises: {words}"

    def _value_text(self, metric: str) -> str:
        value = self.values[metric]
        if value is None:
            return "not known"
        if metric == "rss":
            return _size(int(value))
        if metric in ("rps", "errors", "cpu_us"):
            return f"{value:,.1f}"
        return _time(value)


def _add_gateway(timeline: Sequence[Point], samples: Sequence[Sample]) -> None:
    """Add the gateway's CPU and memory to the points of the time series."""
    for point, first, last in zip(timeline, samples, samples[1:], strict=False):
        if "gateway" in first.cpu and "gateway" in last.cpu:
            cpu = last.cpu["gateway"] - first.cpu["gateway"]
            point.gateway_cpu = round(cpu / max(last.at - first.at, 1e-9), 4)
            point.gateway_rss = last.rss["gateway"]


def _describe(finding: Finding) -> str:
    fields = " ".join(f"{name}={value!r}" for name, value in asdict(finding).items())
    return f"{type(finding).__name__} {fields}"


def _latency_text(summary: Mapping[str, float]) -> str:
    if not summary["count"]:
        return "none"
    names = ("p50", "p90", "p99", "p99.9", "max")
    return "  ".join(f"{name} {_time(summary[name])}" for name in names)


def _time(us: float) -> str:
    if us < 1e3:
        return f"{us:.0f} µs"
    if us < 1e6:
        return f"{us / 1e3:.3g} ms" if us < 1e5 else f"{us / 1e3:.0f} ms"
    return f"{us / 1e6:.3g} s"


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 1024:,.1f} KiB"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
