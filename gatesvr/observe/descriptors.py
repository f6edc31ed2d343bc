"""The descriptors of standard input, output and error."""

from __future__ import annotations

import os

__all__ = ["open_descriptors"]


def open_descriptors() -> None:
    """Open those of 0, 1 and 2 that are closed on the null device.

    Otherwise the next socket would get one of them: text for a terminal would go to a peer, and
    uvloop aborts the process.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
