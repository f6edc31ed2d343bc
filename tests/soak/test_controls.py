"""The controls on small histories: each finds something to spoil, or says that there is nothing."""

from __future__ import annotations

import random

import pytest

from .controls import CONTROLS, NothingToSpoil
from .history import Call, judge

SESSION, CLIENT = "session", "ann"


class Run:
    """A good run of one client, told as a soak's processes tell it."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.seq = 0
        self.client_seq = 0
        self._tell("started", CLIENT, SESSION, is_resumed=False)

    def _tell(self, method: str, *args: object, **options: object) -> None:
        self.calls.append(Call(float(len(self.calls)), method, args, options))

    def ask(self, *, is_refused: bool = False, after: tuple[str, ...] = ()) -> None:
        """Ask, and be answered; the first endpoint may refuse."""
        self.client_seq += 1
        name, key = f"request{self.client_seq}", (SESSION, self.client_seq)
        self._tell("asked", CLIENT, name)
        self._tell("executed", *key, name, "lane")
        if is_refused:
            self._tell("refused", *key, name)
            self._tell("executed", *key, name, "lane")
        if after:
            self._tell("carried", *key, [], list(after))
        self._deliver(client_seq=self.client_seq)
        for push in after:
            self._deliver(push=push)
        self._tell("answered", CLIENT, name, name, 200)

    def push(self, *names: str, stream: str = "") -> None:
        """Push a batch."""
        at = float(len(self.calls))
        for name in names:
            self.calls.append(Call(at, "pushed", (SESSION, name), {"stream": stream}))
        for name in names:
            self._deliver(push=name)

    def broadcast(self, name: str) -> None:
        """Push to all, not sure that the gateway took it for this one."""
        self._tell("pushed", SESSION, name, is_sure=False)
        self._deliver(push=name)

    def _deliver(self, **options: object) -> None:
        self.seq += 1
        self._tell("delivered", SESSION, self.seq, **options)

    def findings(self, calls: list[Call]) -> list[object]:
        return list(judge(calls, [CLIENT], {SESSION: self.seq}).findings)


def small_run(seed: int) -> Run:
    """Return one of everything, in any order."""
    run = Run()
    steps = [
        run.ask,
        lambda: run.ask(is_refused=True),
        lambda: run.ask(after=("after",)),
        lambda: run.push("one", "two", stream="stream"),
        lambda: run.push("three"),
        lambda: run.broadcast("all"),
    ]
    random.Random(seed).shuffle(steps)
    for step in steps:
        step()
    return run


@pytest.mark.parametrize("spoil", CONTROLS, ids=lambda spoil: spoil.__name__)
def test_a_control_finds_what_it_spoils_wherever_that_is(spoil: object) -> None:
    for seed in range(50):
        run = small_run(seed)
        assert run.findings(run.calls) == []
        found = run.findings(spoil(run.calls))  # type: ignore[operator]
        assert any(isinstance(each, CONTROLS[spoil]) for each in found), seed  # type: ignore[index]


@pytest.mark.parametrize("spoil", CONTROLS, ids=lambda spoil: spoil.__name__)
def test_a_control_says_that_there_is_nothing_to_spoil(spoil: object) -> None:
    with pytest.raises(NothingToSpoil):
        spoil(Run().calls)  # type: ignore[operator]
