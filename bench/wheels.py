"""Builds revisions of the package as wheels, each unpacked into its own folder.

Their dependencies come from the running environment, the same for all of them. A wheel built before
from the same sources is reused.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "build" / "compare"
TIMEOUT = 600.0
# The sources of a wheel; a revision may lack some.
INPUTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "gatesvr")


def build(revision: str | None) -> Path:
    """Return the folder to import a revision's package from.

    Args:
        revision: A git revision; None for the working tree, with uncommitted changes.

    Raises:
        subprocess.CalledProcessError: The revision does not exist or does not build. The output of
            git or pip is on standard error.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".build-") as folder:
        sources = Path(folder, "sources")
        sources.mkdir()
        if revision is None:
            _copy_working_tree(sources)
        else:
            _export(revision, sources)
        site = CACHE / _digest(sources)
        if not site.exists():
            _install(sources, Path(folder))
            Path(folder, "site").rename(site)
    return site


def _copy_working_tree(target: Path) -> None:
    names = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *INPUTS)
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file():  # git also lists deleted files
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def _export(revision: str, target: Path) -> None:
    archive = target.with_suffix(".tar")
    commit = _git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    _git("archive", f"--output={archive}", commit.decode().strip())
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")


def _digest(sources: Path) -> str:
    """Return a digest of the sources, the interpreter and the compiler's flags."""
    digest = hashlib.sha256(f"{sys.version} {os.environ.get('CFLAGS')}".encode())
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        name = path.relative_to(sources)
        if name.parts[0] in INPUTS:
            content = path.read_bytes()
            digest.update(f"\0{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def _install(sources: Path, folder: Path) -> None:
    """Build a wheel of sources and unpack it into folder/site."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheels = folder / "dist"
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={wheels}", str(sources))
    (wheel,) = wheels.glob("*.whl")
    _run(*pip, "install", "--no-deps", "--no-index", f"--target={folder / 'site'}", str(wheel))


def _run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr, timeout=TIMEOUT)


def _git(*command: str) -> bytes:
    done = subprocess.run(
        ["git", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=TIMEOUT
    )
    return done.stdout
