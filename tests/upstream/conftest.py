"""The contract of lanes: what a test of this folder asks of one kind of lane, it asks of each.

A file whose tests concern lanes uses the fixture ``lane_kind``; ``@pytest.mark.only_lane(KIND,
WHY)`` is for a test that makes sense for one kind alone.
"""

from __future__ import annotations

import pytest

from gatesvr.upstream.lanes import LANES

from . import servers

_MARKS = {"grpcio": pytest.mark.long}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "lane_kind" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only_lane")
        if only is None:
            # The half of the lane that is only the reference takes as long again.
            kinds = [pytest.param(kind, marks=_MARKS.get(kind, ())) for kind in LANES]
        else:
            kinds = [only.args[0]]
        metafunc.parametrize("lane_kind", kinds, indirect=True)


@pytest.fixture
def lane_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of the lanes that settings() asks for."""
    kind: str = request.param
    monkeypatch.setattr(servers, "LANE", kind)
    return kind
