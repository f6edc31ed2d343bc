"""Text from outside forges no key and no line of the log."""

from __future__ import annotations

import io
import json
import logging
from typing import Literal

import pytest

from gatesvr.observe.log import configure, keys

FORGERIES = ('x" peer="10.0.0.1', 'x"', "x=1 y=2", "a\nb", "\\n", "\u2028", "\x1b[31m", '"', "")


LONG = {
    "ascii": "x" * 1_000,
    "three bytes each": "\u4e2d" * 200,
    "four bytes each": "\U0001f600" * 100,
    "escapes": "\x1b" * 200,
    "surrogates": "\ud800" * 100,
    "just fits": "x" * 128,
}


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("what", LONG)
def test_text_is_cut_at_128_bytes(what: str, style: Literal["text", "json"]) -> None:
    text = LONG[what]
    stream = io.StringIO()
    configure(style=style, stream=stream)
    logging.getLogger("gatesvr.session").info("event", extra=keys(zone=text))
    line = stream.getvalue()
    value = line.partition(" zone=")[2].strip() if style == "text" else json.loads(line)["zone"]
    assert 125 <= len(value.encode()) <= 128
    assert value.endswith("\u2026") is (len(text) != 128)


@pytest.mark.parametrize("text", FORGERIES)
def test_text_stays_in_its_key(text: str) -> None:
    stream = io.StringIO()
    configure(stream=stream)
    logging.getLogger("gatesvr.session").info("event", extra=keys(zone=text, last=1))
    line = stream.getvalue()
    assert line.count("\n") == 1
    assert line.isascii()
    value = line.partition(" zone=")[2].removesuffix(" last=1\n")
    if value.startswith('"'):
        assert value.endswith('"')
        assert '"' not in value[1:-1].replace("\\\\", "").replace('\\"', "")
    else:
        assert not {'"', " "} & set(value)
