"""``gatesvr version``."""

from __future__ import annotations

import platform
from importlib import metadata

import click

from .terminal import echo

__all__ = ["command", "core", "version_of"]


def version_of(package: str) -> str:
    """Return the version of an installed package, or words saying that it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" if package != "gatesvr" else "(from a source tree)"


def core() -> str:
    """Return the state of the compiled core."""
    try:
        from .. import _core  # noqa: F401
    except ImportError:
        return "missing"
    return "compiled (queue, codec, histogram, limits, udp, http2)"


@click.command()
def command() -> None:
    """Print the versions of GateSvr, Python, the QUIC backends and the core."""
    lines = {
        "gatesvr": version_of("gatesvr"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "aioquic": version_of("aioquic"),
        "qh3": version_of("qh3"),
        "grpcio": version_of("grpcio"),
        "uvloop": version_of("uvloop"),
        "core": core(),
    }
    width = max(map(len, lines))
    for name, value in lines.items():
        echo(f"{name:<{width}}  {value}")
