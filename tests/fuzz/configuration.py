"""The configuration: whatever a file, the environment and --set say, it loads or ConfigError."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gatesvr.config import load
from gatesvr.config.load import fields
from gatesvr.errors import ConfigError

from .reader import Reader, chunk

_FOLDER = tempfile.TemporaryDirectory(prefix="gatesvr-fuzz-")
_NAMES = sorted(name for name, _ in fields())


def check(data: bytes) -> None:
    """Load: by the first byte from a file alone, or with variables and --set texts."""
    reader = Reader(data)
    if reader.number() & 1:
        _load(reader.rest(), {}, [])
        return
    environ: dict[str, str] = {}
    sets: list[str] = []
    for _ in range(reader.number() % 8):
        kind = reader.number()
        name = reader.pick(_NAMES) if kind & 1 else reader.text()
        value = reader.text()
        if kind & 2:
            variable = f"GATESVR_{name.replace('.', '__').upper()}" if kind & 1 else name
            environ[variable] = value
        else:
            sets.append(f"{name}={value}" if kind & 4 else name)
    _load(reader.rest(), environ, sets)


def _load(content: bytes, environ: dict[str, str], sets: list[str]) -> None:
    path = Path(_FOLDER.name, f"{os.getpid()}.toml")
    path.write_bytes(content)
    try:
        config = load(path, environ=environ, sets=sets)
    except ConfigError as error:
        str(error)
        return
    # What a command shows and the layers read.
    assert config.route
    repr(config)


_FILES = (
    '[transport]\nbind = "0.0.0.0:8453"\nidle_timeout = "90s"\nmax_connections = 5000\n',
    "[session]\nmax_message_bytes = \"64KiB\"\nmax_queue_bytes = 4194304\nwhen_full = 'close'\n",
    '[upstream.services]\nhello = [{address = "a:1"}]\nchat = [{address = "b:2", zone = "7"}]\n',
    '[upstream.services]\nchat = []\n[[route]]\naction = "*"\nservice = "chat"\nserial = true\n',
    '[auth]\nmode = "jwt"\nalgorithms = ["ES256"]\nkey = "k"\naudience = "a"\nissuer = "i"\n',
    '[push]\nbind = "[::1]:8092"\nregister_cidrs = ["10.0.0.0/8", "fd00::/8"]\n',
    "[dispatch]\nworkers = 9\nmax_workers = 3\n",
    '[session]\nmax_logged_in = "five"\n',
    "[session]\nmax_in_flight = 99999999999999999999999999\n",
    'log = "debug"\n',
    "[log]\nlevel = 'DEBUG'\nformat = 'json'\n\ufeff",
    "a = " + "[" * 60 + "]" * 60,
    "route = [1, {}]\n[transport.bind]\nx = 1979-05-27T07:32:00Z\n",
)


def seeds() -> Iterator[bytes]:
    """Yield files, good and bad, and variables and --set texts."""
    for text in _FILES:
        yield b"\x01" + text.encode()
    for name, value in (
        ("session.max_in_flight", "12"),
        ("transport.idle_timeout", "1e400"),
        ("auth.algorithms", "['RS256', 'EdDSA']"),
        ("upstream.services", "{chat = []}"),
        ("route", "[{action = 'hello', service = 'hello'}]"),
        ("push.bind", "localhost:99999"),
    ):
        variable = f"GATESVR_{name.replace('.', '__').upper()}"
        yield b"\x00\x01\x02" + chunk(variable.encode()) + chunk(value.encode())
        yield b"\x00\x01\x04" + chunk(name.encode()) + chunk(value.encode())
    yield b"\x00\x01\x04" + chunk(b"upstream.services.chat") + chunk(b'[{address="h:1"}]')
    yield b"\x00\x01\x02" + chunk(b"GATESVR_SESSION_MAX_IN_FLIGHT") + chunk(b"1")
    yield b"\x00\x01\x02" + chunk(b"GATESVR_SESSION__MAX_IN_FLIHGT") + chunk(b"1")
    yield b"\x00\x01\x00" + chunk(b"no equals sign") + chunk(b"")
