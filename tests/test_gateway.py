"""The whole gateway in one process: it starts, serves, tells what it does, and stops in order."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from gatesvr import Client, ConfigError, Gateway
from gatesvr._pb import message_pb2 as pb
from gatesvr.config import Config, SessionConfig, load
from gatesvr.demo.fleet import start_demo

from .e2e.harness import counter, running_gateway
from .e2e.plain_client import answer, business, error, plain_client
from .e2e.plain_upstream import plain_upstream
from .fakes import until


def free_ports(*sets: str) -> Config:
    return load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0", *sets])


@pytest.mark.parametrize("backend", ["aioquic", "qh3"])
async def test_request_goes_through(backend: str) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        assert (gateway.backend, gateway.core) == (backend, "compiled")
        await client.login("alice", client_id="phone")
        client.send(*(business(seq, "echo", b"%d" % seq) for seq in range(2, 102)))
        pushes = [await client.receive() for _ in range(100)]
        assert [push.seq_id for push in pushes] == [*range(2, 102)]
        assert {push.client_seq_id: answer(push).data for push in pushes} == {
            seq: b"%d" % seq for seq in range(2, 102)
        }
        assert set(gateway.stats()) == {
            "transport",
            "web",
            "auth",
            "session",
            "dispatch",
            "upstream",
            "push",
            "overload",
            "drain",
        }
        assert counter(gateway, "dispatch.answers") == 101
        assert counter(gateway, "dispatch.running") == 0
        assert counter(gateway, "session.sessions") == 1


@pytest.mark.parametrize("backend", ["aioquic", "qh3"])
async def test_own_client_and_services_work_together(backend: str) -> None:
    async with start_demo() as services:
        config = free_ports(
            f"transport.backend={backend}",
            *(
                f'upstream.services.{name}=[{{address="{address}"}}]'
                for name, address in services.items()
            ),
        )
        async with (
            Gateway(config) as gateway,
            Client(gateway.address, openid="alice", insecure=True, transport=backend) as client,
        ):
            # Until its stream has settled, a service gets a call for each request.
            await until(lambda: {found.state for found in gateway.upstreams()} == {"stream"})
            answers = await asyncio.gather(
                *(client.request("echo", b"%d" % number) for number in range(200))
            )
            assert [answer.data for answer in answers] == [b"%d" % n for n in range(200)]
            stats = gateway.stats()["upstream"]
            assert stats["batches"] < stats["batched_requests"]


async def test_stop_says_goaway_and_lets_running_requests_finish() -> None:
    async with plain_upstream() as upstream:
        gateway = Gateway(
            free_ports(
                "transport.backend=aioquic",
                *(
                    f'upstream.services.{name}=[{{address="{upstream.address}"}}]'
                    for name in ("hello", "business", "zone")
                ),
            )
        )
        await gateway.start()
        async with plain_client(gateway.address) as client:
            await client.login("alice")
            client.send(business(2, "gate", b"x"))
            await upstream.until_asked("gate")
            stopping = asyncio.create_task(gateway.stop())
            push = await client.receive()
            assert push.type == pb.PUSH_GOAWAY
            assert pb.GoAway.FromString(push.payload).reconnect_after_ms > 0
            client.send(business(3, "gate"))
            push = await client.receive()
            assert (error(push).error_code, push.client_seq_id) == (503, 3)
            upstream.gate.set()
            push = await client.receive()
            assert (answer(push).data, push.client_seq_id) == (b"x", 2)
            assert await client.closed() == 4503
            assert client.terminated is not None
            assert client.terminated.reason_phrase == "retry_after_ms=1000"
            await stopping
        await gateway.stop()


async def test_a_gateway_shows_its_upstreams_and_its_workers() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, "dispatch.workers=2") as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        endpoints = gateway.upstreams()
        assert {endpoint.service for endpoint in endpoints} == {"hello", "business", "zone"}
        assert {(e.address, e.is_up, e.is_registered) for e in endpoints} == {
            (upstream.address, True, False)
        }
        assert [(w.worker_id, w.task_id) for w in gateway.workers()] == [
            ("worker-1", 0),
            ("worker-2", 0),
        ]
        request = business(2, "gate", b"x")
        client.send(request)
        await upstream.until_asked("gate")
        (busy,) = [worker for worker in gateway.workers() if worker.task_id]
        session = await anext(aiter(gateway.sessions()))
        assert (busy.session_id, busy.is_login) == (session.session_id, False)
        assert busy.service_type in {"business", "zone"}
        assert busy.request_bytes == len(request.payload)
        upstream.gate.set()
        assert answer(await client.receive()).data == b"x"
        assert not any(worker.task_id for worker in gateway.workers())


async def test_stop_ends_what_does_not_finish() -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address, "dispatch.drain_timeout=50ms") as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        client.send(business(2, "silent"))
        await upstream.until_asked("silent")
        await gateway.stop()
        assert (await client.receive()).type == pb.PUSH_GOAWAY
        push = await client.receive()
        assert (error(push).error_code, error(push).outcome) == (503, pb.OUTCOME_UNKNOWN)
        assert await client.closed() == 4503


@pytest.mark.parametrize("config", ["x", "", {}, SessionConfig(), Config])
def test_what_is_no_configuration_is_refused_by_name(config: Any) -> None:
    with pytest.raises(TypeError, match=r"config must be a gatesvr\.Config, not "):
        Gateway(config)


async def test_start_twice_raises() -> None:
    async with Gateway(free_ports()) as gateway:
        with pytest.raises(RuntimeError):
            await gateway.start()


async def test_busy_port_is_a_config_error_that_names_the_field() -> None:
    async with Gateway(free_ports()) as gateway:
        with pytest.raises(ConfigError) as caught:
            await Gateway(free_ports(f"transport.bind={gateway.address}")).start()
        assert caught.value.field == "transport.bind"
        with pytest.raises(ConfigError) as caught:
            await Gateway(free_ports(f"push.bind={gateway.grpc_address}")).start()
        assert caught.value.field == "push.bind"


async def test_a_layer_that_fails_to_stop_keeps_no_other_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = Gateway(load(sets=["transport.bind=127.0.0.1:0", "push.bind=127.0.0.1:0"]))
    await gateway.start()
    udp, tcp = gateway.address, gateway.grpc_address
    stop_upstream = gateway.upstream.stop

    async def fail(grace: float) -> None:
        await stop_upstream(grace)
        raise OSError("broken on purpose")

    monkeypatch.setattr(gateway.upstream, "stop", fail)
    with pytest.raises(OSError, match="on purpose"):
        await gateway.stop()
    async with Gateway(load(sets=[f"transport.bind={udp}", f"push.bind={tcp}"])) as again:
        assert again.grpc_address == tcp  # so both ports are free


async def test_nothing_is_left_after_stop() -> None:
    before = asyncio.all_tasks()
    async with (
        plain_upstream() as upstream,
        running_gateway("aioquic", upstream.address) as gateway,
    ):
        async with plain_client(gateway.address) as client:
            await client.login("alice")
        await until(lambda: counter(gateway, "transport.connections") == 0)
        assert len(gateway.dispatcher) == 0
        await gateway.stop()
        gc.collect()
        names = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not [name for name in names if name.startswith("gatesvr-")]


@pytest.mark.parametrize(
    ("part", "name", "error"),
    [
        ("dispatcher", "go_away", KeyError),
        ("processor", "stop", asyncio.CancelledError),
    ],
)
async def test_a_step_of_the_stop_that_fails_leaves_the_others(
    part: str,
    name: str,
    error: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gateway = Gateway(free_ports())
    await gateway.start()

    def fails(*args: object) -> None:
        raise error(name)

    with monkeypatch.context() as patch:
        patch.setattr(getattr(gateway, part), name, fails)
        with pytest.raises(error, match=name):
            await gateway._stop()
    assert gateway.grpc_address == ""
    assert len(gateway.listener.connections) == 0
    assert gateway._sweeper is not None
    await asyncio.wait({gateway._sweeper})
    own = [r for r in caplog.records if r.name.startswith("gatesvr") and r.levelname == "ERROR"]
    assert [r.message for r in own] == ["stop_failed"]
