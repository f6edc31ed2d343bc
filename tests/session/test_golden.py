"""Sessions move between processes of different versions: bytes and fields of each released minor.

``golden/1.M-NAME.bin`` are sessions as minor M wrote them, ``golden/1.M.json`` the fields that it
knew. They never change. A new minor adds its own: ``python -m tests.session.test_golden``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.message import Message

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.session import moved as module

from .arrivals import moved_calls, opened, sealed
from .rig import Sessions
from .test_moved import not_logged_in, turned

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatesvr.session.session import Session

GOLDEN = Path(__file__).with_name("golden")
SESSIONS = {"turned": (turned, True), "not_logged_in": (not_logged_in, False)}
MINORS = sorted(int(path.stem.partition(".")[2]) for path in GOLDEN.glob("1.*.json"))


def written(make: Callable[[Sessions], Session], has_calls: bool) -> bytes:
    """Return a session as this version writes it."""
    sessions = Sessions(max_requests_per_second=2)
    session = make(sessions)
    calls = moved_calls() if has_calls else []
    return sessions.manager.moves.export(session, calls, sessions.now)


def fields() -> dict[str, dict[str, str]]:
    """Return each message of an export: its fields' names and types by their numbers."""
    return {
        name: {
            str(field.number): f"{field.name} {field.type} {'many' if field.is_repeated else 'one'}"
            for field in kind.fields
        }
        for name, kind in pb.DESCRIPTOR.message_types_by_name.items()
        if name.startswith(("Moved", "SessionExport"))
    }


def read(data: bytes) -> pb.MovedSession:
    """Install a session, and return what of it is exported again."""
    there = Sessions(max_requests_per_second=2)
    there.now += 500
    session = there.manager.moves.install(data, there.now)
    assert there.manager.moves.own(session, session.epoch, there.now)
    return opened(there.manager.moves.export(session, (), there.now))


def forget(message: Message, known: dict[str, dict[str, str]]) -> None:
    """Take out of a message, and of its parts, the fields that an older minor does not know."""
    for field, value in message.ListFields():
        if str(field.number) not in known[message.DESCRIPTOR.name]:
            message.ClearField(field.name)
        elif field.message_type is not None and field.message_type.name in known:
            for part in value if field.is_repeated else [value]:
                forget(part, known)


def test_this_minor_has_golden_bytes() -> None:
    assert list(range(module.MINOR + 1)) == MINORS
    assert fields() == json.loads((GOLDEN / f"1.{module.MINOR}.json").read_text())


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("minor", MINORS)
def test_what_an_older_version_wrote_is_read(minor: int, name: str) -> None:
    data = (GOLDEN / f"1.{minor}-{name}.bin").read_bytes()
    assert pb.SessionExport.FromString(data).minor == minor
    known = json.loads((GOLDEN / f"1.{minor}.json").read_text())
    again = read(data)
    forget(again, known)
    assert again == opened(data)


@pytest.mark.parametrize("name", SESSIONS)
@pytest.mark.parametrize("minor", MINORS)
def test_what_this_version_writes_is_read_without_what_is_new_in_it(minor: int, name: str) -> None:
    """An older process drops the fields that it does not know, and has its own in their places."""
    known = json.loads((GOLDEN / f"1.{minor}.json").read_text())
    for message, numbers in known.items():
        assert numbers.items() <= fields()[message].items()  # a number never gets a second meaning
    moved = opened(written(*SESSIONS[name]))
    forget(moved, known)
    assert read(sealed(moved)) == moved
    assert moved == opened((GOLDEN / f"1.{minor}-{name}.bin").read_bytes())


def main() -> None:
    """Write the golden files of this minor; those of a released one must stay as they are."""
    GOLDEN.mkdir(exist_ok=True)
    minor = module.MINOR
    text = json.dumps(fields(), indent=1, sort_keys=True)
    (GOLDEN / f"1.{minor}.json").write_text(f"{text}\n")
    for name, how in SESSIONS.items():
        (GOLDEN / f"1.{minor}-{name}.bin").write_bytes(written(*how))


if __name__ == "__main__":
    main()
