"""The gate: how long a refusal takes, what it is when nothing can be said, what the log gets."""

from __future__ import annotations

import asyncio
import logging

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
        self.error = error

    async def authenticate(self, applicant: Applicant) -> Identity:
        self._clock[0] += self._takes
        if self.error is not None:
            raise self.error
        return Identity(applicant.openid)

    def authenticate_now(self, applicant: Applicant) -> None: ...

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


async def test_the_log_has_a_line_a_second_for_each_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [100.0]
    scripted = Scripted(clock, 0.0, AuthFailed(Reason.SIGNATURE))
    config = AuthConfig(min_refusal_time=0, address_failures=0, openid_failures=0)
    counters = AuthCounters()
    gate = Gate(scripted, config, counters, clock=lambda: clock[0])
    with caplog.at_level(logging.INFO, "gatesvr.auth"):
        for i in range(100):
            if i == 50:
                scripted.error = AuthUnavailable("no keys")
            elif i == 99:
                scripted.error = AuthFailed(Reason.SIGNATURE)
                clock[0] += 1.0
            with pytest.raises((AuthFailed, AuthUnavailable)):
                await gate.admit(ALICE)
    lines = [(r.message, r.keys["suppressed"]) for r in caplog.records]  # type: ignore[attr-defined]
    assert lines == [("auth_refused", 0), ("auth_unavailable", 0), ("auth_refused", 49)]
    assert (counters.refused_signature, counters.unavailable) == (51, 49)


async def test_refusals_left_out_of_the_log_are_told_when_no_other_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [100.0]
    scripted = Scripted(clock, 0.0, AuthFailed(Reason.SIGNATURE))
    config = AuthConfig(min_refusal_time=0, address_failures=0, openid_failures=0)
    gate = Gate(scripted, config, AuthCounters(), clock=lambda: clock[0])
    with caplog.at_level(logging.INFO, "gatesvr.auth"):
        for _ in range(3):
            with pytest.raises(AuthFailed):
                await gate.admit(ALICE)
        clock[0] += 1.0
        gate.sweep(clock[0])
    lines = [(r.message, r.keys["suppressed"]) for r in caplog.records]  # type: ignore[attr-defined]
    assert lines == [("auth_refused", 0), ("auth_refused", 1)]


async def test_a_gate_that_stops_ends_what_it_checks_beside() -> None:
    class Hanging(Scripted):
        async def authenticate(self, applicant: Applicant) -> Identity:
            await asyncio.Event().wait()
            raise AssertionError

    gate = Gate(
        Hanging([0.0], 0.0, None), AuthConfig(), AuthCounters(), asyncio.get_running_loop().time
    )
    beside = gate.admit_beside(ALICE)
    await asyncio.sleep(0)
    await gate.stop()
    assert beside.cancelled()
