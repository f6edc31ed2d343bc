"""Files that commands write."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ConfigError

__all__ = ["refuse_existing", "write_file"]


def refuse_existing(*paths: str) -> None:
    """Refuse to replace files.

    Raises:
        ConfigError: One is there.
    """
    for path in paths:
        if Path(path).exists():
            raise ConfigError("the file is there already (--force replaces it)", source=path)


def write_file(path: str, data: bytes, mode: int) -> None:
    """Write a new file that nobody has open, with these permissions from the start.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        Path(path).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(error.strerror or str(error), source=path) from None
