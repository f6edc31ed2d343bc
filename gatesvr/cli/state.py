"""StateFile: keeps the session of ``gatesvr client`` between two runs."""

from __future__ import annotations

import contextlib
import os

from ..errors import ConfigError

__all__ = ["StateFile"]


class StateFile:
    """A client's state in a file that only its owner can read.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._beside = f"{path}.new"

    def check(self) -> None:
        """Check that it can be written, before anything depends on it.

        Raises:
            ConfigError: It cannot be written.
        """
        try:
            os.close(self._open_beside())
            os.unlink(self._beside)
        except OSError as error:
            raise ConfigError(
                f"cannot write {self.path}: {error.strerror}", source="--state"
            ) from None

    def read(self) -> bytes:
        """Return its content, b"" if there is no file.

        Raises:
            ConfigError: It exists and cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ConfigError(
                f"cannot read {self.path}: {error.strerror}", source="--state"
            ) from None

    def write(self, state: bytes) -> None:
        """Replace the state; at every moment the file holds either the old one or the new one.

        Raises:
            OSError: It cannot be written.
        """
        with open(self._open_beside(), "wb") as file:
            file.write(state)
        os.replace(self._beside, self.path)

    def _open_beside(self) -> int:
        # A leftover file may be readable by others.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)
        return os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
