"""What ``gatesvr upgrade`` says while it waits."""

from __future__ import annotations

import msgspec
import pytest

from gatesvr.admin.answers import UpgradeStatus
from gatesvr.cli.upgrade import _text


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            UpgradeStatus(phase="starting", workers=4, workers_ready=1, remaining_s=28.5),
            "starting   1 of 4 new workers ready, 28.5 s at most",
        ),
        (
            UpgradeStatus(
                phase="leaving",
                workers_left=2,
                connections_left=24,
                sessions_left=25,
                requests_left=3,
                remaining_s=59.0,
            ),
            (
                "leaving    2 old workers with 24 clients, 25 sessions and 3 requests left,"
                " 59.0 s at most"
            ),
        ),
        (
            UpgradeStatus(phase="given_up", why="the new worker 4 cannot serve: no.pem"),
            "given up: the new worker 4 cannot serve: no.pem; nothing has changed",
        ),
        (
            UpgradeStatus(phase="done", workers=2, elapsed_s=2.5),
            "upgraded: 2 new workers in 2.50 s",
        ),
        (
            UpgradeStatus(
                phase="done", workers=2, elapsed_s=2.5, needs_restart=["workers.count", "push.bind"]
            ),
            "upgraded: 2 new workers in 2.50 s\nonly a restart changes: workers.count, push.bind",
        ),
    ],
)
def test_how_far_it_is(status: UpgradeStatus, text: str) -> None:
    assert _text(msgspec.to_builtins(status)) == text
