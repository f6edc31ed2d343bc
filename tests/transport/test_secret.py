"""Keys that several processes share, and what each makes of the other's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatesvr.config import TransportConfig
from gatesvr.errors import ConfigError
from gatesvr.transport.listener import ConnectionListener
from gatesvr.transport.quic.secret import read_secret

from .harness import Echo

if TYPE_CHECKING:
    from pathlib import Path


async def test_processes_with_one_secret_know_each_others_tokens(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"s" * 32 + b"\n")
    tokens: list[bytes] = []
    for secret in (str(path), str(path), ""):
        config = TransportConfig(bind="127.0.0.1:0", backend="aioquic", secret=secret)
        listener = ConnectionListener(config, Echo)
        await listener.start()
        tokens.append(listener._token_of(b"12345678"))
        tokens.append(listener._admission._retries._aead.encrypt(bytes(12), b"x", None))
        await listener.stop()
    reset, retry = tokens[0::2], tokens[1::2]
    assert reset[0] == reset[1] != reset[2]
    assert retry[0] == retry[1] != retry[2]


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), (b"short", "32 bytes")])
def test_a_secret_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_secret(str(path))
    assert "transport.secret" in str(caught.value)


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transport\.secret"):
        read_secret("a\0b")
