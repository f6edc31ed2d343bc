"""The measuring scripts run, so that they do not rot; what they print is not judged here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEADLINE_S = 120


@pytest.mark.parametrize(
    ("options", "last_line"),
    [
        (["sessions", "--clients", "3", "--rounds", "3"], "growth from round 2 to 3: "),
        (["slow", "--clients", "1", "--pushes", "250"], "afterwards "),
    ],
)
def test_memory(backend: str, options: list[str], last_line: str) -> None:
    command = [sys.executable, "bench/memory.py", *options, "--transport", backend]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(last_line), done.stdout
