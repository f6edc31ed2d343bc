"""The dashboard and the alerts ask for metrics, labels and values that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatesvr.admin.measures import Measure, measures
from gatesvr.errors import ErrorCode
from gatesvr.figures import REFUSALS

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/gatesvr.json").read_text("utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
COLUMNS = 24

TARGET_LABELS = {"job", "instance"}
"""Labels that Prometheus adds."""
VALUES = {
    "state": {"inited", "normal", "suspended", "busy", "idle", "up", "down", "ejected"},
    "code": {str(int(code)) for code in ErrorCode},
    "reason": {f"{layer}.{name}" for layer, names in REFUSALS.items() for name in names},
}

_WORDS = {
    *("abs", "and", "by", "changes", "clamp_min", "group_left", "histogram_quantile", "ignoring"),
    *("increase", "max", "min", "on", "or", "rate", "sort_desc", "sum", "time", "topk", "unless"),
    *("vector", "without"),
}
"""Of PromQL, not of ours."""
_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*\{([^{}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left)\s*\(([^()]*)\)")
_NAME = re.compile(r"(?<![\w.])[a-zA-Z_][\w:]*")


def samples() -> dict[str, Measure]:
    """Return every metric by the names that its samples have."""
    found = {}
    for measure in measures():
        if measure.kind == "histogram":
            for suffix in ("_bucket", "_sum", "_count"):
                found[f"{measure.name}{suffix}"] = measure
        else:
            found[measure.name] = measure
    return found


SAMPLES = samples()


def faults(query: str) -> list[str]:
    """Return what is wrong with a query: a metric, a label or a value that there is not."""
    wrong = []
    known: set[str] = set(TARGET_LABELS)
    bare = _TEXT.sub('""', query)
    grouped = {label for labels in _GROUPING.findall(bare) for label in re.findall(r"\w+", labels)}
    plain = re.sub(r"\[[^\]]*\]|\{[^{}]*\}|\$\w+", " ", _GROUPING.sub(" ", bare))
    for name in _NAME.findall(plain):
        if name in _WORDS or name == "up":
            continue
        measure = SAMPLES.get(name)
        if measure is None:
            wrong.append(f"no metric {name}")
            continue
        known |= {*measure.labels, *(["le"] if name.endswith("_bucket") else [])}
    wrong += [f"no label {label}" for label in grouped - known]
    for name, matchers in _SELECTOR.findall(query):
        measure = SAMPLES.get(name)
        labels = {*TARGET_LABELS, *(measure.labels if measure is not None else ())}
        for label, operator, value in _MATCHER.findall(matchers):
            if label not in labels:
                wrong.append(f"{name} has no label {label}")
            elif label in VALUES and "$" not in value:
                pattern = value.replace("\\\\", "\\") if "~" in operator else re.escape(value)
                if not any(re.fullmatch(pattern, known) for known in VALUES[label]):
                    wrong.append(f"{name} has no {label} {value}")
    return wrong


def queries(part: Any) -> list[str]:
    """Return every query in a part of the dashboard."""
    if isinstance(part, list):
        return [query for item in part for query in queries(item)]
    if not isinstance(part, dict):
        return []
    found = [part["expr"]] if isinstance(part.get("expr"), str) else []
    return found + [query for item in part.values() for query in queries(item)]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum(rate(gatesvr_nothing_total[5m]))", "no metric gatesvr_nothing_total"),
        ("gatesvr_sessions_bucket", "no metric gatesvr_sessions_bucket"),
        ('gatesvr_connections{state="up"}', "gatesvr_connections has no label state"),
        ('gatesvr_sessions{state="closed"}', "gatesvr_sessions has no state closed"),
        ("sum by (zone) (gatesvr_connections)", "no label zone"),
        ('gatesvr_refusals_total{reason=~"x\\\\..+"}', "gatesvr_refusals_total has no reason"),
    ],
)
def test_a_fault_is_found(query: str, fault: str) -> None:
    (found,) = faults(query)
    assert found.startswith(fault)


def test_queries_of_the_dashboard_name_what_there_is() -> None:
    found = queries(DASHBOARD)
    assert len(found) > 80
    assert {query: wrong for query in found if (wrong := faults(query))} == {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(
                r"label_values\((.+), (\w+)\)", variable["query"]["query"]
            ).groups()  # type: ignore[union-attr]
            assert faults(f"sum by ({label}) ({selector})") == []


def test_panels_are_explained_and_lie_in_a_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
    # No holes: every line is full.
    height = 1 + max(y for _, y in taken)
    assert len(taken) == COLUMNS * height
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Sessions", "Services", "Refusals", "Process"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_names_what_there_is_and_its_runbook(alert: dict[str, Any]) -> None:
    assert faults(alert["expr"]) == []
    assert re.fullmatch(r"Gatesvr([A-Z][a-z]+)+", alert["alert"])
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["labels"]["severity"] in ("critical", "warning")
    notes = alert["annotations"]
    assert set(notes) == {"summary", "description", "runbook"}
    assert notes["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"
    labels = {"instance", *re.findall(r"by \(([^)]*)\)", alert["expr"].replace(", ", ") by ("))}
    for label in re.findall(r"\$labels\.(\w+)", notes["summary"] + notes["description"]):
        assert label in labels, label


def test_the_configuration_reads_the_rules() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text("utf-8"))
    assert config["rule_files"] == ["alerts.yml"]
    (job,) = (scrape["job_name"] for scrape in config["scrape_configs"])
    assert f'up{{job="{job}"}}' in ALERTS[0]["expr"]
