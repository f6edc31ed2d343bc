"""Controls: a run's own history, spoilt in one place, must not pass, or a verdict says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatesvr.bench import findings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .history import Call

__all__ = ["CONTROLS", "NothingToSpoil"]


class NothingToSpoil(Exception):
    """The run has nothing of the kind that a control spoils: it was too short."""


def _index(calls: list[Call], is_wanted: Callable[[Call], object]) -> int:
    """Return where the first wanted call behind the middle of the run is, else the last before."""
    for index in _from_the_middle(calls):
        if is_wanted(calls[index]):
            return index
    raise NothingToSpoil(f"none of {len(calls)} calls can be spoilt")


def _from_the_middle(calls: list[Call]) -> Iterator[int]:
    middle = len(calls) // 2
    yield from range(middle, len(calls))
    yield from reversed(range(middle))


def _is_plain_push(calls: list[Call]) -> Callable[[Call], object]:
    plain = {call.args[1] for call in calls if call.method == "pushed"}
    return lambda call: call.method == "delivered" and call.options.get("push") in plain


def _is_answer(call: Call) -> object:
    return call.method == "delivered" and call.options.get("client_seq")


def _without(calls: list[Call], index: int) -> list[Call]:
    return calls[:index] + calls[index + 1 :]


def _replaced(calls: list[Call], index: int, *others: Call) -> list[Call]:
    return [*calls[:index], *others, *calls[index + 1 :]]


def lose_push(calls: list[Call]) -> list[Call]:
    """Have the application miss a push."""
    return _without(calls, _index(calls, _is_plain_push(calls)))


def lose_answer(calls: list[Call]) -> list[Call]:
    """Have the application miss an answer."""
    return _without(calls, _index(calls, _is_answer))


def repeat_push(calls: list[Call]) -> list[Call]:
    """Hand a push to the application twice, under the next seq."""
    index = _index(calls, _is_plain_push(calls))
    return _replaced(calls, index, calls[index], calls[index])


def accept_push(calls: list[Call]) -> list[Call]:
    """Have the gateway take a push that it never sends."""
    # Of a stream: of others the pusher may not be sure that the gateway took them.
    index = _index(calls, lambda call: call.method == "pushed" and call.options.get("stream"))
    call = calls[index]
    return _replaced(calls, index, call, call._replace(args=(call.args[0], "never sent")))


def swap_pushes(calls: list[Call]) -> list[Call]:
    """Have the pusher send two pushes of a stream in the other order."""
    delivered = {call.options.get("push") for call in calls if call.method == "delivered"}
    # Of one batch, or the first of both might arrive before it is told of.
    last: dict[tuple[str, str, float], int] = {}
    for index in _from_the_middle(calls):
        call = calls[index]
        if call.method != "pushed" or call.args[1] not in delivered:
            continue
        stream = call.options.get("stream")
        if not stream:
            continue
        key = (call.args[0], stream, call.at)
        if key in last:
            first = calls[last[key]]
            spoilt = _replaced(calls, last[key], first._replace(args=call.args))
            return _replaced(spoilt, index, call._replace(args=first.args))
        last[key] = index
    raise NothingToSpoil("no two pushes of a stream's batch went to one session")


def execute_twice(calls: list[Call]) -> list[Call]:
    """Hand a request to the upstream again without a REFUSED."""
    refused = {call.args[:2] for call in calls if call.method == "refused"}
    index = _index(calls, lambda c: c.method == "executed" and c.args[:2] not in refused)
    return _replaced(calls, index, calls[index], calls[index])


def withhold_answer(calls: list[Call]) -> list[Call]:
    """Let the application wait for ever."""
    return _without(calls, _index(calls, lambda call: call.method == "answered"))


def mix_up_answer(calls: list[Call]) -> list[Call]:
    """Give a request another one's answer."""
    index = _index(calls, lambda call: call.method == "answered")
    call = calls[index]
    return _replaced(calls, index, call._replace(args=(*call.args[:2], "another", *call.args[3:])))


def tear_bundle(calls: list[Call]) -> list[Call]:
    """Have a notify of a bundle come somewhere else."""
    answered = {
        (call.args[0], call.options["client_seq"])
        for call in calls
        if _is_answer(call) and not call.options.get("code")
    }
    index = _index(calls, lambda c: c.method == "carried" and c.args[3] and c.args[:2] in answered)
    call = calls[index]
    args = (*call.args[:3], ["elsewhere", *call.args[3]])
    return _replaced(calls, index, call._replace(args=args))


def fail_falsely(calls: list[Call]) -> list[Call]:
    """Tell the application that a request was not started which was."""
    refused = {call.args[2] for call in calls if call.method == "refused"}
    index = _index(calls, lambda c: c.method == "answered" and c.args[1] not in refused)
    call = calls[index]
    return _replaced(calls, index, call._replace(method="failed", args=(*call.args[:2], 503, 1)))


CONTROLS: dict[Callable[[list[Call]], list[Call]], type[findings.Finding]] = {
    lose_push: findings.Gap,
    lose_answer: findings.Gap,
    repeat_push: findings.Repeated,
    accept_push: findings.Lost,
    swap_pushes: findings.Reordered,
    execute_twice: findings.ExecutedTwice,
    withhold_answer: findings.Unanswered,
    mix_up_answer: findings.WrongAnswer,
    tear_bundle: findings.Torn,
    fail_falsely: findings.FalseOutcome,
}
"""Each spoils a history in one place, and what a checker must find in it then."""
