"""The committed inputs of each target: ``python -m tests.fuzz.corpus`` writes the seeds again.

A seed is named by its number and its digest. Findings are added by hand: a file that ``make fuzz``
has reported, under a name that says what was wrong.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Protocol, cast

from . import TARGETS

__all__ = ["CORPUS", "FINDINGS", "Target", "files", "load_target"]

CORPUS = Path(__file__).with_name("corpus")
FINDINGS = Path(__file__).with_name("findings")


class Target(Protocol):
    """A target's module."""

    def check(self, data: bytes) -> None: ...

    def seeds(self) -> list[bytes]: ...


def load_target(name: str) -> Target:
    return cast("Target", importlib.import_module(f"tests.fuzz.{name}"))


def files(name: str) -> list[Path]:
    """Return the seeds and findings of a target."""
    return sorted([*(CORPUS / name).glob("*.bin"), *(FINDINGS / name).glob("*.bin")])


def main() -> None:
    for name in TARGETS:
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("*.bin"):
            path.unlink()
        for number, data in enumerate(load_target(name).seeds()):
            digest = hashlib.sha256(data).hexdigest()[:8]
            (folder / f"{number:02}-{digest}.bin").write_bytes(data)
        print(f"{name:14} {len(list(folder.iterdir())):3} seeds")


if __name__ == "__main__":
    main()
