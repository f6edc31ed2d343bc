"""The choice of a QUIC library."""

from __future__ import annotations

import importlib.util

from ...errors import ConfigError
from .interface import QuicBackend

__all__ = ["backends", "pick_backend"]


def backends() -> list[str]:
    """Return the names of the backends that are installed, the preferred one first."""
    names = ["qh3"] if importlib.util.find_spec("qh3") is not None else []
    return [*names, "aioquic"]


def pick_backend(name: str = "auto") -> QuicBackend:
    """Return a backend by name; ``auto`` takes qh3 where it is installed.

    Raises:
        ConfigError: There is no such backend, or it is not installed.
    """
    if name == "auto":
        name = backends()[0]
    # Imported here: each backend loads a library that the other does not need.
    if name == "aioquic":
        from .aioquic import AioquicBackend

        return AioquicBackend()
    if name == "qh3" and "qh3" in backends():
        from .qh3 import Qh3Backend

        return Qh3Backend()
    if name == "qh3":
        message = "qh3 is not installed (pip install 'gatesvr[fast]')"
    else:
        message = f"{name!r} is no backend (auto, aioquic, qh3)"
    raise ConfigError(message, field="transport.backend")
