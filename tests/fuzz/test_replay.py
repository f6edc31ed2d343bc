"""Every committed input of every fuzz target: seeds stay sound, findings stay fixed."""

from __future__ import annotations

import pytest

from . import TARGETS
from .corpus import files, load_target


@pytest.fixture(autouse=True, scope="module")
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Let the listener make a development certificate of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.mark.parametrize("name", TARGETS)
def test_replay(name: str) -> None:
    target = load_target(name)
    paths = files(name)
    assert len(paths) >= 10
    for path in paths:
        try:
            target.check(path.read_bytes())
        except BaseException as error:
            error.add_note(f"input: {path}")
            raise
