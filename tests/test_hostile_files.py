"""Files that settings name and that are none, or endless: they are refused, and nothing waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gatesvr.auth.keys import load_keys
from gatesvr.config import load
from gatesvr.config.changes import changes
from gatesvr.credentials import TokenFile, read_file
from gatesvr.errors import ConfigError
from gatesvr.transport.tls import load_server_tls

KINDS = ("pipe", "endless", "folder", "loop", "huge", "gone")


def hostile(folder: Path, kind: str) -> str:
    """Return the path of something that nobody should read."""
    path = folder / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "huge":
        path.touch()
        os.truncate(path, 1 << 30)
    return str(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_is_waited_for(tmp_path: Path, kind: str) -> None:
    path = hostile(tmp_path, kind)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError):
        read_file(path, "push.cert")
    with pytest.raises(ConfigError):
        load_server_tls(path, path)
    with pytest.raises(ConfigError):
        TokenFile(path, "push.token")
    with pytest.raises(ConfigError):
        load_keys(path, "", ["HS256"])
    if kind != "pipe":  # the start of a gateway may read one
        with pytest.raises(ConfigError):
            load(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_changes_tell_no_login_of_a_url() -> None:
    sets = ("auth.mode=jwt", "auth.algorithms=['RS256']", "auth.audience=a", "auth.issuer=i")
    one, other = (
        load(sets=(*sets, f"auth.jwks=https://ann:{word}@keys.example/set?key={word}"))
        for word in ("secret1", "secret2")
    )
    (change,) = changes(one, other)
    assert change.name == "auth.jwks"
    assert "keys.example" in change.new
    assert "secret" not in f"{change.old} {change.new}"
