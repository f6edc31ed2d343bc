"""What is released is all that is there: the sdist holds every source file of the checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("gatesvr", "protos", "tests", "bench", "docs", "examples", "deploy")
BUILT = {".c", ".so", ".html", ".pyc", ".pyd"}
WRITTEN = {
    "tests/fuzz/coverage.c",
    "gatesvr/admin/console/index.html",
    "gatesvr/demo/page/index.html",
}  # not by Cython


def sources() -> set[str]:
    """Return the files below FOLDERS that are no build products."""
    return {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in BUILT and "__pycache__" not in path.parts
    } | WRITTEN


def test_sdist_holds_every_source_file(tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path))
    done = subprocess.run([*build, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    assert sources() - held == set()
    assert {name for name in held if Path(name).suffix in BUILT} == WRITTEN


def test_pages_are_in_the_wheel_with_the_licence_of_what_it_holds() -> None:
    console = ROOT / "gatesvr" / "admin" / "console"
    (patterns,) = (
        line
        for line in (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
        if line.startswith("gatesvr = [") and "py.typed" in line
    )
    assert '"admin/console/**/*"' in patterns
    assert '"demo/page/*"' in patterns
    for library in (console / "vendor").glob("*.js"):
        assert (library.parent / f"{library.name.split('.')[0]}.LICENSE").is_file()
