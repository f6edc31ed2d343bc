"""The SDK's side of authentication: what a handler returns, and what the gateway gets."""

from __future__ import annotations

import logging
from typing import Any

import grpc.aio
import pytest

from gatesvr import Admission, UpstreamService
from gatesvr._pb import auth_pb2 as pb
from gatesvr._pb import auth_pb2_grpc as rpc


async def ask(service: UpstreamService, openid: str = "ann") -> pb.AuthenticateResponse:
    """Serve a service and ask it once."""
    address = await service.serve()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = rpc.AuthServiceStub(channel)
            return await stub.Authenticate(
                pb.AuthenticateRequest(openid=openid, auth_token="t"), timeout=20
            )
    finally:
        await service.stop()


@pytest.mark.parametrize("is_coroutine", [False, True])
@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ("ann", pb.AuthenticateResponse(ok=True, openid="ann")),
        (None, pb.AuthenticateResponse()),
        (
            Admission("ann", "a-17", {"role": "x"}, 1_234.5),
            pb.AuthenticateResponse(
                ok=True,
                openid="ann",
                subject="a-17",
                claims={"role": "x"},
                expires_at_ms=1_234_500,
            ),
        ),
    ],
)
async def test_results(result: Any, answer: pb.AuthenticateResponse, is_coroutine: bool) -> None:
    service = UpstreamService("auth")
    asked: list[pb.AuthenticateRequest] = []

    def plain(request: pb.AuthenticateRequest) -> Any:
        asked.append(request)
        return result

    async def coroutine(request: pb.AuthenticateRequest) -> Any:
        return plain(request)

    service.authenticate(coroutine if is_coroutine else plain)
    assert await ask(service) == answer
    assert (asked[0].openid, asked[0].auth_token) == ("ann", "t")
    assert (service.counters.admitted, service.counters.denied) == (answer.ok, not answer.ok)


@pytest.mark.parametrize("result", ["", Admission(""), True, 7, Admission("a", claims={"a": 1})])  # type: ignore[dict-item]
async def test_no_result_lets_somebody_in_by_mistake(
    result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service = UpstreamService("auth")
    service.authenticate(lambda request: result)
    with (
        caplog.at_level(logging.CRITICAL, "gatesvr"),
        pytest.raises(grpc.aio.AioRpcError) as failed,
    ):
        await ask(service)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert service.counters.failed == 1


async def test_without_a_handler_nobody_is_let_in() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(UpstreamService("auth"))
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
