"""A gateway serves with every setting at its smallest and at its largest."""

from __future__ import annotations

from typing import Any

import pytest

from gatesvr.config import Duration
from tests.test_config import RANGES, ROOM

from .harness import running_gateway
from .plain_client import ack, answer, business, plain_client
from .plain_upstream import plain_upstream


def extremes(name: str) -> list[tuple[str, bool]]:
    """Return --set texts, and whether a call must be answered with each.

    A deadline of 10 ms may well pass on a busy machine: such a gateway only has to start and stop.
    """
    kind, bounds = RANGES[name]
    values: list[tuple[Any, bool]] = [(bounds.low, kind is not Duration), (bounds.high, True)]
    if bounds.zero:
        values.append((0, True))
    return [(f"{name}={value}", is_served) for value, is_served in values]


@pytest.mark.long
@pytest.mark.parametrize("name", RANGES)
async def test_every_extreme_serves(backend: str, name: str) -> None:
    async with plain_upstream() as upstream:
        for text, is_served in extremes(name):
            async with running_gateway(backend, upstream.address, *ROOM.get(name, []), text) as gw:
                if not is_served:
                    continue
                async with plain_client(gw.address) as client:
                    await client.login("alice")
                    client.send(ack(1), business(2, "echo", b"x"))
                    assert answer(await client.receive()).data == b"x"
