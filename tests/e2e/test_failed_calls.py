"""A service's gRPC status: the code that its client gets, and the line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .harness import running_gateway
from .plain_client import business, error, plain_client
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


def find_line(caplog: pytest.LogCaptureFixture, status: str) -> dict[str, Any]:
    """Return the keys of the only line about a status."""
    found: list[dict[str, Any]] = [
        record.keys  # type: ignore[attr-defined]
        for record in caplog.records
        if record.message == "call_failed"
    ]
    (line,) = [keys for keys in found if keys["status"] == status]
    return line
