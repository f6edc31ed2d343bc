"""Without the compiled core: one clear line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's source, never built."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "gatesvr", folder / "gatesvr", ignore=ignore)
    return folder


def run(checkout: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=checkout,
        env={"PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "command", ["serve --demo", "call echo", "client", "bench echo --self --duration 1s"]
)
def test_commands_say_so_in_one_line(checkout: Path, command: str) -> None:
    done = run(checkout, "-m", "gatesvr", *command.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gatesvr: the compiled core of GateSvr is missing")
    assert done.stderr.count("\n") == 1


def test_import_says_so(checkout: Path) -> None:
    done = run(checkout, "-c", "from gatesvr import Gateway")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "ImportError: the compiled core of GateSvr is missing (queue, codec, udp, limits, http2)"
    )


def test_version_and_help_work_all_the_same(checkout: Path) -> None:
    done = run(checkout, "-m", "gatesvr", "version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("core     missing\n")
    assert run(checkout, "-m", "gatesvr", "--help").returncode == 0
    assert run(checkout, "-m", "gatesvr", "serve", "--help").returncode == 0
