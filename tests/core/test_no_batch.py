"""The fallback I/O, compiled and tested as on a system without recvmmsg and sendmmsg."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/core/test_udp.py",
    "tests/transport/test_endpoint.py",
    "tests/transport/test_sockets.py",
    "tests/transport/test_source_address.py",
)


@pytest.mark.skipif("GATESVR_NO_BATCH" in os.environ, reason="this is that run")
def test_without_batches(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.core.no_batch",
         "-p", "no:cacheprovider", "-p", "no:xdist", *TESTS],
        cwd=ROOT,
        env={**os.environ, "GATESVR_NO_BATCH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
