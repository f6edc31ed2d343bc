"""Plots the growth of a request's cost, as measured by ``python -m bench.table --json FILE``.

``python -m bench.growth_plot FILE docs/growth.svg``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

PANELS = (
    (
        "connections, 4,000 (aioquic: 1,500) requests a second",
        {"by connections": ("qh3", "aioquic")},
    ),
    ("bytes of payload, 64 connections", {"by payload": ("qh3",)}),
    ("requests in flight of each of 8 connections", {"by in flight": ("qh3",)}),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.growth_plot", description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("plot", type=Path)
    arguments = parser.parse_args()
    rows = json.loads(arguments.table.read_text("utf-8"))
    mpl.rcParams["svg.hashsalt"] = "gatesvr"  # the same table gives the same file
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (label, kinds) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for kind, backends in kinds.items():
            for backend in backends:
                series = rows[f"{backend} {kind}"]
                at = [int(key) for key in series]
                axes.plot(at, [series[str(key)]["cpu_us"] for key in at], "o-", label=backend)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("CPU µs a request")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(arguments.plot, metadata={"Date": None})


if __name__ == "__main__":
    main()
