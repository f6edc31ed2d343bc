"""The gate: how long a refusal takes, and what it is when nothing can be said."""

from __future__ import annotations

import asyncio

import pytest

from gatesvr.auth.applicant import Applicant
from gatesvr.auth.gate import Gate
from gatesvr.auth.reasons import AuthCounters, AuthFailed, AuthUnavailable, Reason
from gatesvr.config import AuthConfig
from gatesvr.protocol.identity import Identity

ALICE = Applicant("token", "alice", "192.0.2.1")


class Scripted:
    """An authenticator that takes a while, and then does what it was told."""

    def __init__(self, clock: list[float], takes: float, error: Exception | None) -> None:
        self._clock = clock
        self._takes = takes
        self._error = error

    async def authenticate(self, applicant: Applicant) -> Identity:
        self._clock[0] += self._takes
        if self._error is not None:
            raise self._error
        return Identity(applicant.openid)

    def start(self) -> None: ...

    async def stop(self) -> None: ...


@pytest.mark.parametrize(
    ("takes", "error", "pause"),
    [
        (0.0, AuthFailed(Reason.MISSING), 0.5),
        (0.2, AuthFailed(Reason.SIGNATURE), 0.3),
        (0.2, AuthUnavailable("no keys"), 0.3),
        (0.7, AuthFailed(Reason.OPENID), 0.0),
        (0.0, None, None),
    ],
)
async def test_every_refusal_takes_the_same_least_time(
    takes: float, error: Exception | None, pause: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    gate = Gate(
        Scripted(clock, takes, error),
        AuthConfig(min_refusal_time=0.5),
        AuthCounters(),
        clock=lambda: clock[0],
    )
    monkeypatch.setattr(asyncio, "sleep", sleep)
    if error is None:
        assert (await gate.admit(ALICE))[0].openid == "alice"
        assert pauses == []
    else:
        with pytest.raises(type(error)):
            await gate.admit(ALICE)
        assert pauses == [pytest.approx(pause)]
