"""Text from outside forges no key and no line of the log."""

from __future__ import annotations

import io
import logging

import pytest

from gatesvr.observe.log import configure, keys

FORGERIES = ('x" peer="10.0.0.1', 'x"', "x=1 y=2", "a\nb", "\\n", "\u2028", "\x1b[31m", '"', "")


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
