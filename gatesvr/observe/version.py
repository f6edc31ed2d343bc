"""The version of the installed package."""

from __future__ import annotations

from functools import cache
from importlib import metadata

__all__ = ["package_version"]


@cache
def package_version() -> str:
    """Return the version of the installed package."""
    try:
        return metadata.version("gatesvr")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0+checkout"
