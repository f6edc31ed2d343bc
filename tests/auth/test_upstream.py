"""What the service is asked, and how often at the same time."""

from __future__ import annotations

import asyncio
import time

import pytest

from gatesvr._pb import auth_pb2 as pb
from gatesvr.auth import upstream
from gatesvr.auth.applicant import Applicant
from gatesvr.auth.reasons import AuthCounters, AuthFailed, AuthUnavailable, Reason
from gatesvr.auth.upstream import METHOD, UpstreamAuthenticator
from gatesvr.config import AuthConfig
from gatesvr.protocol.identity import MAX_EXPIRES_AT

from ..fakes import until


class Service:
    """A service that keeps what it is asked, and answers what it is told."""

    def __init__(self, *answers: pb.AuthenticateResponse, timeout: float = 10.0) -> None:
        self.asked: list[tuple[str, str, pb.AuthenticateRequest, str]] = []
        self.answers = list(answers)
        self.gate = asyncio.Event()
        self.counters = AuthCounters()
        config = AuthConfig(mode="upstream", service="gate", timeout=timeout)
        self.checks = UpstreamAuthenticator(config, self.counters, self.ask)

    async def ask(
        self, service: str, method: str, request: bytes, within: float, openid: str = ""
    ) -> bytes:
        self.asked.append((service, method, pb.AuthenticateRequest.FromString(request), openid))
        if not self.answers:
            await self.gate.wait()
            return OK.SerializeToString()
        return self.answers.pop(0).SerializeToString()


OK = pb.AuthenticateResponse(ok=True, openid="alice")


async def test_it_is_told_what_is_known_of_the_client() -> None:
    expires_at_ms = int(time.time() * 1000) + 60_000
    service = Service(
        pb.AuthenticateResponse(
            ok=True, openid="alice", subject="a", claims={"r": "x"}, expires_at_ms=expires_at_ms
        )
    )
    identity = await service.checks.authenticate(
        Applicant("token", "alice", "192.0.2.1", 5_000, "phone", "s17", is_renewal=True)
    )
    assert (identity.openid, identity.subject, identity.claims) == ("alice", "a", {"r": "x"})
    assert identity.expires_at == expires_at_ms / 1000
    ((name, method, request, openid),) = service.asked
    assert (name, method, openid) == ("gate", METHOD, "alice")
    assert 9_000 < request.timeout_ms <= 10_000
    request.timeout_ms = 0
    assert request == pb.AuthenticateRequest(
        auth_token="token",
        openid="alice",
        client_id="phone",
        ip="192.0.2.1",
        port=5_000,
        session_id="s17",
        is_renewal=True,
    )


@pytest.mark.parametrize(
    ("applicant", "reason"),
    [
        (Applicant(""), Reason.MISSING),
        (Applicant("ü" * 4_097), Reason.TOO_LARGE),
        (Applicant("token", "a\nb"), Reason.OPENID),
        (Applicant("token", "a" * 200), Reason.OPENID),
    ],
)
async def test_it_is_not_asked_about_what_cannot_be_good(
    applicant: Applicant, reason: Reason
) -> None:
    service = Service()
    with pytest.raises(AuthFailed) as caught:
        await service.checks.authenticate(applicant)
    assert caught.value.reason is reason
    assert service.asked == []


async def test_a_client_id_that_is_no_text_stays_here() -> None:
    service = Service(OK)
    await service.checks.authenticate(Applicant("token", client_id="x" * 60_000))
    assert service.asked[0][2].client_id == ""


async def test_leeway_forgives_clocks() -> None:
    late = pb.AuthenticateResponse(
        ok=True, openid="alice", expires_at_ms=int(time.time() * 1000) - 5_000
    )
    assert (await Service(late).checks.authenticate(Applicant("token"))).openid == "alice"


async def test_an_expiry_that_no_field_holds() -> None:
    """It is taken for the end of the year 9999."""
    far = pb.AuthenticateResponse(ok=True, openid="alice", expires_at_ms=(1 << 63) - 1)
    identity = await Service(far).checks.authenticate(Applicant("token"))
    assert identity.expires_at == MAX_EXPIRES_AT


async def test_calls_at_the_same_time_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_UNDER_WAY", 3)
    service = Service()
    applicants = [
        asyncio.create_task(service.checks.authenticate(Applicant("token"))) for _ in range(7)
    ]
    await until(lambda: len(service.asked) == 3)
    service.gate.set()
    assert {(await each).openid for each in applicants} == {"alice"}
    assert len(service.asked) == 7


async def test_one_that_gets_no_turn_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_UNDER_WAY", 1)
    service = Service(timeout=0.05)
    first = asyncio.create_task(service.checks.authenticate(Applicant("token")))
    await until(lambda: service.asked)
    with pytest.raises(AuthUnavailable, match="under way"):
        await service.checks.authenticate(Applicant("token"))
    service.gate.set()
    assert (await first).openid == "alice"
    # The one that gave up holds no place.
    assert (await service.checks.authenticate(Applicant("token"))).openid == "alice"
