"""The memory there is, and the parts of it that are the defaults of settings."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ASSUMED_MEMORY_BYTES", "DEFAULT_MEMORY", "MEMORY_SHARE", "memory_limit"]

MEMORY_SHARE = 4
"""All queues together take at most one part in this many of the memory limit."""
DEFAULT_MEMORY = 0.9
"""Part of the memory limit that a gateway without max_memory may take."""
ASSUMED_MEMORY_BYTES = 4 << 30
"""Memory of a machine whose system does not tell."""


def memory_limit() -> int:
    """Return the bytes of memory that this process may use: its cgroup's, or the machine's."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        text = "max"
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not every system tells
        machine = ASSUMED_MEMORY_BYTES
    return min(int(text), machine) if text.isdigit() else machine
