"""The attack table's own rules: limits that are passed fail it, and defences that are off show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import __main__ as command
from .case import BACKENDS, Case, Latency, Limit, Measured, Off, Sample, answers, memory, moved
from .cases import ALL
from .document import BEGIN, DOCUMENT, END, document, merge
from .processes import patch
from .runner import Finding, Row, Runner, judge
from .table import as_markdown, as_object, as_text, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .attacker import Attacker

MIB = 1 << 20
QUICK = "junk"


async def nothing(attacker: Attacker) -> None: ...


def case(*limits: Limit, **fields: Any) -> Case:
    return Case("planted", "does nothing", nothing, limits, Off("nothing"), **fields)


def measured(
    *, counted: int = 0, grown: int = 0, seen: int = 0, p99: float = 0.004, **during: int
) -> Measured:
    """Return planted figures."""
    return Measured(
        before=Sample({"transport.accepted": 5}, 1.0, 100 * MIB),
        after=Sample({"transport.accepted": 5 + counted}, 1.5, 100 * MIB),
        peak_rss=(100 + grown) * MIB,
        idle_cpu=0.1,
        seconds=1.0,
        idle=Latency(0.002, 0.01, 100),
        during=Latency(0.003, p99, 100, **during),
        seen=Counter({"answers": seen}),
    )


def row(found: Measured, *limits: Limit, is_off: bool = False, **fields: Any) -> Row:
    planted = case(*limits, **fields)
    return Row(planted, "qh3", judge(planted.all_limits, found), is_off=is_off)


def test_figures_inside_of_their_limits_are_held() -> None:
    found = row(
        measured(counted=3, grown=4, seen=2),
        moved("transport.accepted", least=3, most=3),
        memory(4),
        answers(2),
    )
    assert found.verdict == "held"
    assert as_object([found], 1.0)["exit_code"] == 0


@pytest.mark.parametrize(
    ("figures", "what"),
    [
        ({"counted": 4}, "transport.accepted"),
        ({"counted": 2}, "transport.accepted"),
        ({"counted": 3, "grown": 5}, "memory"),
        ({"counted": 3, "seen": 1}, "datagrams answered"),
        ({"counted": 3, "dropped": 1}, "healthy clients dropped"),
        ({"counted": 3, "failed": 1}, "healthy requests failed"),
        ({"counted": 3, "p99": 0.051}, "healthy p99"),
        ({"counted": 3, "p99": float("nan")}, "healthy p99"),
    ],
)
def test_a_passed_limit_fails_the_table(figures: dict[str, Any], what: str) -> None:
    limits = moved("transport.accepted", least=3, most=3), memory(4), answers(0)
    found = row(measured(**figures), *limits)
    assert [finding.limit.startswith(what) for finding in found.passed] == [True]
    assert found.verdict == "PASSED"
    assert as_object([found], 1.0)["exit_code"] == 1
    assert f"PASSED: planted (qh3): {what}" in summary([found], 1.0)
    for text in (as_text([found]), as_markdown(as_object([found], 1.0))):
        assert "← PASSED" in text


def test_a_latency_is_measured_by_that_of_idle() -> None:
    slow = measured(p99=0.3)
    slow.idle = Latency(0.02, 0.11, 100)
    assert row(slow).is_held


def test_a_defence_that_is_off_has_to_show() -> None:
    for figures, verdict in (({"counted": 1}, "shown"), ({"counted": 0}, "NOT SHOWN")):
        found = row(measured(**figures), moved("transport.accepted", most=0), is_off=True)
        assert found.verdict == verdict
        assert as_object([found], 1.0)["exit_code"] == int(verdict != "shown")


def test_a_slow_machine_shows_nothing() -> None:
    assert row(measured(p99=9.0), is_off=True).verdict == "NOT SHOWN"
    slow = Row(
        Case("planted", "", nothing, (), Off("nothing", is_slow=True)),
        "qh3",
        [Finding("healthy p99", "9 s", is_kept=False, is_soft=True)],
        is_off=True,
    )
    assert slow.verdict == "shown"


def test_the_cases_are_enough_and_each_is_complete() -> None:
    assert len({each.name for each in ALL}) == len(ALL) >= 30
    for each in ALL:
        assert each.says
        assert each.off.how
        assert each.off.sets or each.off.patches or not each.off.backends, each.name
        assert set(each.backends) <= set(BACKENDS)


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.name)
def test_what_a_case_patches_is_there(each: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[str] = []
    monkeypatch.setattr(
        "tests.attack.processes.setattr", lambda _, name, __: set_to.append(name), raising=False
    )
    for target, value in {**each.patches, **each.off.patches}.items():
        patch(target, value)
        assert target.endswith(set_to.pop())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--case", "nothing like it"], "no case is named 'nothing like it'"),
        (["--backend", "quiche"], "invalid choice: 'quiche'"),
        (["--json", "/nowhere/at/all/table.json"], "there is no folder"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_bad_option_gets_a_message(
    arguments: Sequence[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_list_names_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(ALL)


def test_the_command_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def planted(self: Runner, case: Case, backend: str, *, is_off: bool = False) -> Row:
        found = measured(dropped=1 if backend == "qh3" else 0)
        return Row(case, backend, judge(case.all_limits[:2], found), is_off=is_off)

    async def enter(self: Runner) -> Runner:
        return self

    monkeypatch.setattr(Runner, "run", planted)
    monkeypatch.setattr(Runner, "__aenter__", enter)
    file = tmp_path / "table.json"
    assert command.main(["--case", QUICK, "--json", str(file)]) == 1
    rows = json.loads(file.read_text())["rows"]
    assert [(each["backend"], each["verdict"]) for each in rows] == [
        ("aioquic", "held"),
        ("qh3", "PASSED"),
    ]
    assert "1 of 2 attacks held" in capsys.readouterr().out


async def test_an_attack_on_a_real_gateway() -> None:
    cases = {each.name: each for each in ALL}
    async with Runner(has_latency=False) as runner:
        for backend in BACKENDS:
            held = await runner.run(cases["Version Negotiation packets"], backend)
            assert held.is_held, held


def run_of(name: str, backend: str = "qh3", *, p99: float = 0.001) -> dict[str, Any]:
    """Return a run of one case as --json writes it."""
    found = row(measured(p99=p99))
    found.case = Case(name, "nothing", nothing, (), Off("nothing"))
    found.backend = backend
    return as_object([found], 1.0)


def test_table_of_several_runs(tmp_path: Path) -> None:
    path = tmp_path / "security.md"
    path.write_text(f"before\n{BEGIN}old\n{END}after\n", "utf-8")
    runs = [run_of("b", p99=9.0), run_of("gone"), run_of("a", "aioquic"), run_of("b", p99=0.002)]
    found = merge(runs, ["a", "b"])
    assert [(r["attack"], r["backend"]) for r in found["rows"]] == [("a", "aioquic"), ("b", "qh3")]
    assert (found["exit_code"], found["again"]) == (0, ["a", "b"])
    for _ in range(2):  # what it has written it can write again
        document(found, path)
    lines = path.read_text("utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "in later runs of their own: *a*, *b*." in lines[3]
    assert [line.count("|") for line in lines if line.startswith("|")] == [5, 5, 5, 5]
    path.write_text("no marks", "utf-8")
    with pytest.raises(ValueError, match="no place"):
        document(found, path)


def test_documentation_is_left_alone_while_a_row_is_missing_or_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DOCUMENT.read_text("utf-8")
    assert BEGIN in text
    assert END in text
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run_of("junk", p99=9.0)), "utf-8")
    assert command.main(["--from", str(file), "--document"]) == 1
    said = capsys.readouterr().err
    assert "junk (qh3): PASSED" in said
    assert "junk (aioquic): not run" in said
    assert DOCUMENT.read_text("utf-8") == text
