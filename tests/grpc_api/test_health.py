"""Health and reflection on the push port: what they say, to whom, and how many at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gatesvr._pb import upstream_pb2
from gatesvr.config import PushCaller, PushConfig
from gatesvr.grpc_api import health, reflection

from ..fakes import until
from .test_service import running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PUSH_API = "gatesvr.proto.GatewayService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def questions(
    *asked: reflection_pb2.ServerReflectionRequest,
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    for question in asked:
        yield question


LIST = reflection_pb2.ServerReflectionRequest(list_services="")


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    code: grpc.StatusCode = caught.value.code()
    return code


async def test_the_gateway_serves_while_it_is_ready_and_the_push_api_until_the_end() -> None:
    ready = [True]
    async with running(is_ready=lambda: ready[0]) as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        assert (await stub.Check(asked())).status == SERVING
        ready[0] = False
        assert (await stub.Check(asked())).status == NOT_SERVING
        assert (await stub.Check(asked(PUSH_API))).status == SERVING
        assert await code_of(stub.Check(asked("nonsense"))) == grpc.StatusCode.NOT_FOUND


async def test_watchers_hear_of_each_change_and_of_the_end() -> None:
    ready = [True]
    async with running(is_ready=lambda: ready[0]) as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        watch, other, unknown = (stub.Watch(asked(name)) for name in ("", PUSH_API, "nonsense"))
        assert (await watch.read()).status == (await other.read()).status == SERVING
        assert (await unknown.read()).status == UNKNOWN
        assert rig.counters["health_watches"] == 3
        rig.service.tell_health()
        ready[0] = False
        rig.service.tell_health()
        assert (await watch.read()).status == NOT_SERVING
        ready[0] = True
        rig.service.tell_health()
        assert (await watch.read()).status == SERVING
        reading = [asyncio.create_task(each.read()) for each in (watch, other)]
        await asyncio.sleep(0)
        await rig.service.stop()
        assert [(await read).status for read in reading] == [NOT_SERVING, NOT_SERVING]
        assert await watch.read() is grpc.aio.EOF
    assert rig.counters["health_watches"] == 0


async def test_watches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_WATCHES", 1)
    async with running() as rig:
        stub = health_pb2_grpc.HealthStub(rig.channel)
        watch = stub.Watch(asked())
        assert (await watch.read()).status == SERVING
        full = await code_of(stub.Watch(asked()).read())
        assert full == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rig.counters["watches_refused"] == 1
        watch.cancel()
        await until(lambda: not rig.counters["health_watches"])


async def test_reflection_tells_the_schema() -> None:
    async with running() as rig:
        stub = reflection_pb2_grpc.ServerReflectionStub(rig.channel)
        symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol=PUSH_API)
        names, schema = [a async for a in stub.ServerReflectionInfo(questions(LIST, symbol))]
        assert [service.name for service in names.list_services_response.service] == [
            PUSH_API,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
        files = schema.file_descriptor_response.file_descriptor_proto
        assert upstream_pb2.DESCRIPTOR.serialized_pb in files
        await until(lambda: not rig.counters["reflections"])


async def test_reflection_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflection, "MAX_STREAMS", 1)
    async with running() as rig:
        stub = reflection_pb2_grpc.ServerReflectionStub(rig.channel)
        stream = stub.ServerReflectionInfo()
        await stream.write(LIST)
        assert (await stream.read()).list_services_response.service
        full = await code_of(stub.ServerReflectionInfo(questions(LIST)).read())
        assert full == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert rig.counters["reflections_refused"] == 1
        stream.cancel()


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_nonsense_costs_no_line_of_the_log(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as rig:
        call = rig.channel.unary_unary(f"/grpc.health.v1.Health/{method}")
        assert await code_of(call(b"\xff\xff")) == grpc.StatusCode.INVALID_ARGUMENT
        stream = rig.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )()
        await stream.write(b"\xff\xff")
        assert await code_of(stream.read()) == grpc.StatusCode.INVALID_ARGUMENT
        assert rig.counters["invalid"] == 2
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_reflection_and_watches_are_for_those_with_a_role(tmp_path: Path) -> None:
    file = tmp_path / "push.token"
    token = "t" * 20
    file.write_text(token)
    push = PushConfig(bind="127.0.0.1:0", caller=[PushCaller(name="chat", token=str(file))])
    async with running(push) as rig:
        checks = health_pb2_grpc.HealthStub(rig.channel)
        answers = reflection_pb2_grpc.ServerReflectionStub(rig.channel)
        assert (await checks.Check(asked())).status == SERVING
        for call in (checks.Watch(asked()), answers.ServerReflectionInfo(questions(LIST))):
            assert await code_of(call.read()) == grpc.StatusCode.UNAUTHENTICATED
        proof = (("authorization", f"Bearer {token}"),)
        for call in (
            checks.Watch(asked(), metadata=proof),
            answers.ServerReflectionInfo(questions(LIST), metadata=proof),
        ):
            assert await call.read()
            call.cancel()
