"""Two processes that take turns, played by threads."""

from __future__ import annotations

import threading

import pytest

from bench.turns import VARIABLE, Turns, two_sides

ROUNDS = 20
DEADLINE = 10.0


def test_nobody_else_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    turns = Turns()
    for _ in range(3):
        with turns:
            pass


def test_rounds_alternate_until_one_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = two_sides()
    turns = []
    for side in sides:
        monkeypatch.setenv(VARIABLE, side.environment[VARIABLE])
        turns.append(Turns())
    order: list[str] = []

    def run(number: int, name: str, rounds: int) -> None:
        for _ in range(rounds):
            with turns[number]:
                order.append(name)
        sides[number].close()

    second = threading.Thread(target=run, args=(1, "b", ROUNDS // 2))
    first = threading.Thread(target=run, args=(0, "a", ROUNDS))
    second.start()
    first.start()
    for thread in (first, second):
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert order == ["a", "b"] * (ROUNDS // 2) + ["a"] * (ROUNDS // 2)


def test_failed_round_gives_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_sides()
    monkeypatch.setenv(VARIABLE, first.environment[VARIABLE])
    ours = Turns()
    monkeypatch.setenv(VARIABLE, second.environment[VARIABLE])
    theirs = Turns()
    with pytest.raises(RuntimeError), ours:
        raise RuntimeError
    with theirs:
        pass
    first.close()
    second.close()
