"""The chat room's actions behind a real gateway, and the user who answers."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gatesvr import Client, Gateway
from gatesvr.config import load
from gatesvr.demo import start_demo
from gatesvr.demo.chat import JOINED, LEFT, MAX_TEXT, SAID, Companion

if TYPE_CHECKING:
    from pathlib import Path

    from gatesvr import Notify

DEADLINE_S = 20.0


async def test_room_tells_everybody_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    pushes: list[str] = []
    async with asyncio.timeout(DEADLINE_S), start_demo(gateway=lambda: pushes[0]) as addresses:
        config = load(
            overrides={
                "transport.bind": "127.0.0.1:0",
                "push.bind": "127.0.0.1:0",
                "upstream.services": {
                    name: [{"address": address}] for name, address in addresses.items()
                },
            }
        )
        async with (
            Gateway(config) as gateway,
            Client(gateway.address, openid="ann") as ann,
            Client(gateway.address, openid="bob") as bob,
        ):
            pushes.append(gateway.grpc_address)
            joined = await ann.request("chat_join")
            assert (joined.code, json.loads(joined.data)["lines"]) == (200, [])
            for number, text in ((1, "one"), (2, "two")):
                said = await ann.request("chat_say", text.encode())
                assert (said.code, json.loads(said.data)["n"]) == (200, number)
            again = await bob.request("chat_join", params={"quiet": "1"})
            assert [
                (line["n"], line["who"], line["text"]) for line in json.loads(again.data)["lines"]
            ] == [
                (1, "ann", "one"),
                (2, "ann", "two"),
            ]
            people = json.loads((await bob.request("chat_people")).data)
            assert [(one["name"], one["state"], one["transport"]) for one in people] == [
                ("ann", "Normal", "quic"),
                ("bob", "Normal", "quic"),
            ]
            names = json.loads((await bob.request("chat_who")).data)
            assert names == ["ann", "bob"]
            for bad in (b"", b"  ", b"x" * (MAX_TEXT + 1)):
                assert (await bob.request("chat_say", bad)).code == 400
            assert (await ann.request("chat_leave")).is_ok
            for client in (ann, bob):
                heard: list[Notify] = [await anext(client) for _ in range(4)]
                assert [(n.msg_type, n.title, n.content) for n in heard] == [
                    (JOINED, "ann", ""),
                    (SAID, "ann", "one"),
                    (SAID, "ann", "two"),
                    (LEFT, "ann", ""),
                ]
                assert [json.loads(n.data)["n"] for n in heard if n.msg_type == SAID] == [1, 2]


def test_companion_answers_others_only() -> None:
    robin = Companion("robin", random.Random(1))
    assert robin.answer("robin", "hello") == []
    assert robin.greet("robin") == []
    (line,) = robin.greet("ann")
    assert "ann" in line.text or "hi" in line.text


@pytest.mark.parametrize(
    "text",
    ["hello!", "你好", "are you a bot?", "what is QUIC", "my wifi is lost", "why?", "hm", "{}"],
)
def test_companion_does_not_repeat_itself_at_once(text: str) -> None:
    robin = Companion("robin", random.Random(2))
    said = [robin.answer("ann", text)[0] for _ in range(30)]
    assert all(first.text != then.text for first, then in pairwise(said))
    assert all(0 < line.delay < 5 for line in said)
    assert all("{" not in line.text for line in said)
    assert robin.small_talk().text
