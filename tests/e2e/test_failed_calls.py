"""A service's gRPC status: the code that its client gets, and the line in the log."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from gatesvr.errors import Outcome

from ..fakes import until
from ..upstream.servers import Streaming, serving
from .harness import counter, running_gateway
from .plain_client import answer, business, error, plain_client
from .plain_upstream import plain_upstream

if TYPE_CHECKING:
    from typing import Any


async def test_status_is_told_by_code_and_its_text_only_in_the_log(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gatesvr")
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address) as gateway,
        plain_client(gateway.address) as client,
    ):
        await client.login("alice")
        statuses = {"PERMISSION_DENIED": (403, 2), "NOT_FOUND": (404, 2), "UNAVAILABLE": (502, 0)}
        for seq, (status, told) in enumerate(statuses.items(), 2):
            client.send(business(seq, "fail", status=status))
            push = await client.receive()
            message = error(push)
            assert (message.error_code, message.outcome, push.client_seq_id) == (*told, seq)
            everything = push.SerializeToString()
            assert b"on purpose" not in everything
            assert upstream.address.encode() not in everything
            line = find_line(caplog, status)
            assert (line["service"], line["address"]) == ("business", upstream.address)
            assert str(line["request_id"]) == message.detail
            assert "on purpose" in str(line["reason"])


async def test_request_that_its_service_does_not_take_is_413_and_no_stranger_sees_it(
    backend: str,
) -> None:
    sets = ("session.max_message_bytes=8MiB", "session.max_queue_bytes=16MiB")
    streaming = Streaming()
    async with (
        serving(streaming) as upstream,  # as gRPC makes them: it takes 4 MiB
        running_gateway(backend, upstream, *sets) as gateway,
        plain_client(gateway.address) as stranger,
        plain_client(gateway.address) as client,
    ):
        await stranger.login("bob")
        await client.login("alice")
        await until(lambda: gateway.upstream.endpoints()[0].state == "stream")
        stranger.send(business(2, "gate"))
        await until(lambda: "gate" in streaming.actions)
        client.send(business(2, "echo", b"x" * 5_000_000))
        push = await client.receive()
        message = error(push)
        assert (message.error_code, message.outcome, push.client_seq_id) == (413, 1, 2)
        client.send(business(3, "echo", b"x" * 3_000_000))
        streaming.gate.set()
        assert answer(await stranger.receive()).code == 200
        assert len(answer(await client.receive()).data) == 3_000_000
        assert counter(gateway, "upstream.broken_calls") == 0


async def test_service_whose_only_endpoint_fails_is_503_at_once_and_others_go_on(
    backend: str,
) -> None:
    async with (
        plain_upstream() as upstream,
        running_gateway(backend, upstream.address, "upstream.consecutive_failures=2") as gateway,
        plain_client(gateway.address) as alice,
        plain_client(gateway.address) as bob,
    ):
        await alice.login("alice")
        await bob.login("bob")
        message = None
        for seq in count(2):
            client = (alice, bob)[seq % 2]
            client.send(business(1 + seq // 2, "fail", status="UNAVAILABLE"))
            message = error(await client.receive())
            if message.error_code == 503:
                break
            assert message.error_code == 502
        assert (message.outcome, 0 < message.retry_after_ms <= 5_000) == (Outcome.NOT_STARTED, True)
        assert counter(gateway, "upstream.ejections") == 1
        async with plain_client(gateway.address) as carol:
            await carol.login("carol")  # by a service at the same address


def find_line(caplog: pytest.LogCaptureFixture, status: str) -> dict[str, Any]:
    """Return the keys of the only line about a status."""
    found: list[dict[str, Any]] = [
        record.keys  # type: ignore[attr-defined]
        for record in caplog.records
        if record.message == "call_failed"
    ]
    (line,) = [keys for keys in found if keys["status"] == status]
    return line
