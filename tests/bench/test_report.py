"""The report of a run: exit codes, JSON, the table, the saturated side, the plot."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gatesvr.bench.findings import Lost
from gatesvr.bench.meter import Batch, Meter
from gatesvr.bench.plot import check_plot, plot
from gatesvr.bench.process import Sample, Sampler, Usage, verdict
from gatesvr.bench.report import EXIT_BROKEN, EXIT_MISSED, Report
from gatesvr.bench.run import Result
from gatesvr.bench.scenario import SCENARIOS, Plan
from gatesvr.bench.threshold import Threshold
from gatesvr.bench.tokens import TokenSigner
from gatesvr.errors import ConfigError
from gatesvr.transport.addresses import Place

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(
    scenario="echo",
    clients=4,
    server=Place("127.0.0.1", 1),
    token="secret",
    signer=TokenSigner(b"secret", "HS256", "a", "i", 0),
)


def result(latencies: Counter[int] | None = None, plan: Plan = PLAN) -> Result:
    """Return one second of a run with the gateway at half a core."""
    meter = Meter()
    meter.add(
        Batch(0, {"echo": Counter({1_000: 99, 9_000: 1}) if latencies is None else latencies})
    )
    meter.add(Batch(1, {}))
    samples = [
        Sample(at, {"gateway": cpu, "load 0": 2 * cpu}, {"gateway": 1 << 20, "load 0": 2}, 3 * cpu)
        for at, cpu in ((0.0, 1.0), (0.5, 1.25), (1.0, 1.5))
    ]
    return Result(
        plan=plan,
        meter=meter,
        seconds=1.0,
        connected=4,
        alive=4,
        usage=Usage.between(samples[0], samples[-1], 2),
        rss=samples[-1].rss,
        session_bytes=2048,
        figures={},
        findings=[],
        found=0,
        failures=Counter(),
        is_interrupted=False,
        samples=samples,
    )


def limits(*texts: str) -> list[Threshold]:
    return [Threshold.parse(text) for text in texts]


def test_a_good_run_ends_with_0_and_a_missed_threshold_with_99() -> None:
    assert Report(result(), "qh3").exit_code == 0
    kept = Report(result(), "qh3", limits("p50<=1ms", "rps>=100", "cpu_us<=5000", "rss<2MiB"))
    assert (kept.exit_code, kept.missed) == (0, [])
    missed = Report(result(), "qh3", limits("p50<=1ms", "max<9ms"))
    assert missed.exit_code == EXIT_MISSED
    assert [each.text for each in missed.missed] == ["max<9ms"]


def test_findings_and_failures_come_before_thresholds() -> None:
    broken = result()
    broken.findings, broken.found = [Lost("s1", "p1")], 1
    assert Report(broken, "qh3", limits("max<1ms")).exit_code == EXIT_BROKEN
    assert "1 broken promises: 1 Lost" in Report(broken, "qh3").as_text()
    assert "Lost session_id='s1' push='p1'" in Report(broken, "qh3").as_text()
    failed = result()
    failed.failures["error 503 busy"] = 3
    assert Report(failed, "qh3").exit_code == EXIT_BROKEN
    assert "3 times: error 503 busy" in Report(failed, "qh3").as_text()


def test_a_threshold_on_errors_says_how_many_may_be() -> None:
    failed = result()
    failed.failures["error 503 busy"] = 3
    assert Report(failed, "qh3", limits("errors<4")).exit_code == 0
    assert Report(failed, "qh3", limits("errors<3")).exit_code == EXIT_MISSED
    failed.findings, failed.found = [Lost("s1", "p1")], 1
    assert Report(failed, "qh3", limits("errors<100")).exit_code == EXIT_BROKEN


def test_a_run_that_did_nothing_is_no_good_run() -> None:
    assert Report(result(Counter()), "qh3").exit_code == EXIT_BROKEN
    idle = result(Counter(), replace(PLAN, scenario="idle"))
    assert Report(idle, "qh3").exit_code == 0


def test_json_has_every_figure_and_no_secret() -> None:
    report = Report(result(), "qh3", limits("p99<20ms"))
    written = json.loads(json.dumps(report.as_object()))
    assert written["done"] == 100
    assert written["per_s"] == 100.0
    assert written["latency_us"]["p50"] == 1_000
    assert written["latency_us"]["p99.9"] == pytest.approx(9_000, rel=0.002)
    assert written["cpu"]["gateway"] == {"share": 0.5, "us_per_operation": 5_000.0}
    assert written["cpu"]["load 0"] == {"share": 1.0, "us_per_operation": 10_000.0}
    assert written["settings"]["backend"] == "qh3"
    assert written["thresholds"] == [{"threshold": "p99<20ms", "value": 1000, "kept": True}]
    assert [point["gateway_cpu"] for point in written["timeline"]] == [0.5, 0.5]
    assert written["findings"] == {"count": 0, "first": []}
    assert written["exit_code"] == 0
    assert "secret" not in json.dumps(written)


def test_docs_name_every_field_of_the_json() -> None:
    page = (os.path.dirname(__file__), "..", "..", "docs", "bench.md")
    with open(os.path.join(*page), encoding="utf-8") as file:
        text = file.read()
    written = Report(result(), "qh3", limits("p99<20ms")).as_object()
    for name in (*written, *written["timeline"][0], *written["settings"], *SCENARIOS):
        assert f"`{name}`" in text, name


def test_the_table_says_what_matters() -> None:
    text = Report(result(), "qh3", limits("max<9ms")).as_text()
    for words in (
        "100 in 1.0 s = 100 a second",
        "p50 1 ms",
        "50% of a core, 5,000.0 µs a request",
        "the load client was saturated (100% of a core)",
        "nothing lost, repeated, reordered or answered wrongly",
        "max<9ms: missed (9.01 ms)",
        "2.0 KiB in the gateway",
    ):
        assert words in text


def test_it_says_that_the_load_fell_behind() -> None:
    late = result(plan=replace(PLAN, rate=100.0))
    late.figures = {"max_lag_ms": 250.0, "unsent": 7}
    assert (
        "fell behind its rate: up to 250.0 ms late, 7 never sent" in Report(late, "qh3").as_text()
    )
    late.figures = {"max_lag_ms": 0.4, "unsent": 0}
    assert "fell behind" not in Report(late, "qh3").as_text()


def usage(gateway: float, load: float, machine: float = 0.5) -> Usage:
    return Usage(2.0, {"gateway": 2 * gateway, "upstream": 0.1, "load 0": 2 * load}, machine, 4)


def test_verdict() -> None:
    loads = ["load 0"]
    assert "no side was saturated (more" in verdict(usage(0.5, 0.5), loads, is_closed=True)
    assert verdict(usage(0.5, 0.5), loads, is_closed=False) == "no side was saturated"
    assert (
        verdict(usage(0.98, 0.5), loads, is_closed=True)
        == "the gateway was saturated (98% of a core)"
    )
    assert "load client was saturated (95%" in verdict(usage(0.5, 0.95), loads, is_closed=True)
    assert "machine was saturated (99% of its 4" in verdict(
        usage(0.5, 0.5, 0.99), loads, is_closed=True
    )
    unknown = Usage(1.0, {"load 0": 0.5}, 0.5, 4)
    assert "--pid" in verdict(unknown, loads, is_closed=True)


def test_a_sampler_reads_this_process() -> None:
    sampler = Sampler({"gateway": os.getpid()})
    first = sampler.sample()
    while (last := sampler.sample()).cpu["gateway"] == first.cpu["gateway"]:
        sum(range(100_000))
    found = Usage.between(first, last, sampler.cores)
    assert found.cpu["gateway"] > 0
    assert first.rss["gateway"] > 1 << 20
    assert 0 <= found.machine_share <= 1


def test_a_sampler_refuses_a_process_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"--pid.*999999999"):
        Sampler({"gateway": 999_999_999})


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plot(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"run.{suffix}"
    report = Report(result(), "qh3")
    plot(str(file), "a run", "requests", report.timeline)
    start = {"svg": b"<?xml", "png": b"\x89PNG"}[suffix]
    assert file.read_bytes().startswith(start)
    plot(str(file), "nothing", "requests", [])


def test_a_plot_that_cannot_be_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"run\.pdf.*\.svg or \.png"):
        check_plot("run.pdf")
    with pytest.raises(ConfigError, match="No such file"):
        plot("/none/run.svg", "a run", "requests", [])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"matplotlib.*gatesvr\[bench\]"):
        check_plot("run.svg")
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ConfigError, match=r"psutil.*gatesvr\[bench\]"):
        Sampler({})
