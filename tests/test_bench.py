"""The measuring scripts run, so that they do not rot; what they print is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEADLINE_S = 120


def run(*command: str) -> str:
    """Run a script and return what it printed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "last_line"),
    [
        (["sessions", "--clients", "3", "--rounds", "3"], "growth from round 2 to 3: "),
        (["slow", "--clients", "1", "--pushes", "250"], "afterwards "),
    ],
)
def test_memory(backend: str, options: list[str], last_line: str) -> None:
    printed = run("bench/memory.py", *options, "--transport", backend)
    assert printed.splitlines()[-1].startswith(last_line), printed


@pytest.mark.parametrize("rate", [pytest.param(0, marks=pytest.mark.long), 200])
def test_load(backend: str, rate: int) -> None:
    options = ["--clients", "4", "--yardstick-clients", "4", "--rounds", "1", "--seconds", "0.5"]
    options += ["--warm-up", "0.1", "--rate", str(rate), "--transport", backend]
    options += ["--upstream", "unary" if rate else "stream"]
    printed = json.loads(run("-m", "bench.load", *options, "--json"))
    for side in ("gateway", "echo"):
        assert printed[side]["per_s"] > 0
        assert ("max_lag_ms" in printed[side]) == bool(rate)


@pytest.mark.long
def test_table(tmp_path: Path) -> None:
    options = ["--only", "sizes", "--rounds", "1", "--seconds", "1", "--sessions", "64"]
    run("-m", "bench.table", *options, "--json", str(tmp_path / "table.json"))
    rows = json.loads((tmp_path / "table.json").read_text("utf-8"))
    assert set(rows) == {"qh3 idle session", "aioquic idle session", "broadcast"}
    assert all(row["value"] > 0 for row in rows.values())


@pytest.mark.long
def test_fairness() -> None:
    options = ["--sessions", "10", "--seconds", "1", "--rounds", "1", "--json"]
    printed = json.loads(run("-m", "bench.fairness", *options))
    for kind in ("burn", "flood", "hang"):
        assert printed[kind]["without"]["p99_ms"] > 0
        assert printed[kind]["with"]["answers"] > 0
        assert len(printed[kind]["ratios"]) == 1


@pytest.mark.long
def test_steps() -> None:
    options = ["--clients", "4", "--seconds", "1", "--warm-up", "0.1", "--json"]
    options += ["--rate", "200", "--upstream", "unary", "--set", "dispatch.workers=3"]
    printed = json.loads(run("-m", "bench.steps", *options))
    assert sum(printed["steps"].values()) == pytest.approx(printed["cpu_us"])


@pytest.mark.long
def test_lanes(tmp_path: Path) -> None:
    options = ["--only", "1 x 1", "--rounds", "1", "--seconds", "0.5", "--warm-up", "0.1"]
    run("-m", "bench.lanes", *options, "--json", str(tmp_path / "lanes.json"))
    rows = json.loads((tmp_path / "lanes.json").read_text("utf-8"))
    assert set(rows) == {"unary 1 x 1", "stream 1 x 1"}
    for row in rows.values():
        assert row["direct"]["per_s"] > 0
        assert row["grpcio"]["per_s"] > 0
        assert row["cpu_ratio"]["median"] > 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "figure"),
    [
        (["cpu", "--clients", "4", "--seconds", "0.3", "--warm-up", "0.1"], "cpu_us"),
        (["memory", "--clients", "5", "--way", "websocket", "--way", "quic qh3"], "kb_each"),
    ],
)
def test_ways(tmp_path: Path, options: list[str], figure: str) -> None:
    run("-m", "bench.ways", *options, "--rounds", "1", "--json", str(tmp_path / "ways.json"))
    rows = json.loads((tmp_path / "ways.json").read_text("utf-8"))
    assert set(rows) >= {"quic qh3", "websocket"}
    assert rows["quic qh3"]["ratio"] == 1
    assert all(figure in row for row in rows.values())


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "rows"),
    [(["bench.moves"], 4), (["bench.starts", "--sessions", "5"], 8)],
)
def test_moves(options: list[str], rows: int) -> None:
    lines = run("-m", *options).splitlines()[1:]
    assert len(lines) == rows
    assert all(float(line.split()[-1]) > 0 for line in lines)
