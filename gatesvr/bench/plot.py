"""The plot: latency, throughput and the gateway's CPU over time, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from .meter import Point

__all__ = ["SUFFIXES", "check_plot", "plot"]

SUFFIXES = (".svg", ".png")


def check_plot(file: str) -> None:
    """Check before the run that a plot can be written to file.

    Raises:
        ConfigError: The suffix is unknown, or the library is not installed.
    """
    if Path(file).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{file!r} must end in {' or '.join(SUFFIXES)}", source="--plot")
    _figure_class()


def plot(file: str, title: str, operations: str, timeline: Sequence[Point]) -> None:
    """Draw the time series.

    Args:
        file: The file; its suffix chooses the format.
        title: The title.
        operations: The counted operations, in the plural.
        timeline: The points.

    Raises:
        ConfigError: The file cannot be written, or the library is not installed.
    """
    figure_class = _figure_class()
    from matplotlib.ticker import LogLocator

    has_cpu = any(point.gateway_cpu is not None for point in timeline)
    rows = 3 if has_cpu else 2
    figure = figure_class(figsize=(9, 2.6 * rows), layout="constrained")
    axes: Any = figure.subplots(rows, 1, sharex=True)
    middles = [point.at_s + point.seconds / 2 for point in timeline]

    latency = axes[0]
    for name, style in (("p50", "-"), ("p99", "-"), ("max", ":")):
        values = [getattr(point, name) for point in timeline]
        known = [
            (at, value / 1e3)
            for at, value in zip(middles, values, strict=True)
            if value is not None
        ]
        if known:
            latency.plot(*zip(*known, strict=True), style, marker=".", label=name)
    if latency.lines:
        latency.set_yscale("log", subs=[])
        latency.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        latency.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        latency.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    latency.set_ylabel("latency, ms")
    latency.set_title(title, loc="left")

    throughput = axes[1]
    per_s = [point.done / point.seconds for point in timeline]
    throughput.plot(middles, per_s, marker=".", color="tab:green", label="done")
    if any(point.failed for point in timeline):
        failed = [point.failed / point.seconds for point in timeline]
        throughput.plot(middles, failed, marker=".", color="tab:red", label="failed")
        throughput.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    throughput.set_ylabel(f"{operations} a second")
    throughput.set_ylim(bottom=0)

    if has_cpu:
        cpu = axes[2]
        known_cpu = [
            (at, point.gateway_cpu * 100)
            for at, point in zip(middles, timeline, strict=True)
            if point.gateway_cpu is not None
        ]
        cpu.plot(*zip(*known_cpu, strict=True), marker=".", color="tab:orange")
        cpu.set_ylabel("gateway, % of a core")
        cpu.set_ylim(bottom=0)
    for axis in axes:
        axis.grid(visible=True, alpha=0.3)
    axes[-1].set_xlabel("seconds")
    try:
        figure.savefig(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}", source="--plot") from None


def _figure_class() -> Any:
    try:
        # Not pyplot, which looks for a display.
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "needs the package matplotlib: pip install 'gatesvr[bench]'", source="--plot"
        ) from None
    return Figure
