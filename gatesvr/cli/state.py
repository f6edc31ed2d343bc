"""StateFile: where ``gatesvr client`` keeps its session between two runs."""

from __future__ import annotations

import contextlib
import os

from ..errors import ConfigError

__all__ = ["StateFile"]


class StateFile:
    """A client's state in a file that only its owner reads.

    Args:
        path: The file; it need not be there yet.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._beside = f"{path}.new"

    def check(self) -> None:
        """See that it can be written, before something depends on it.

        Raises:
            ConfigError: It cannot.
        """
        try:
            os.close(self._open_beside())
            os.unlink(self._beside)
        except OSError as error:
            raise ConfigError(
                f"cannot write {self.path}: {error.strerror}", source="--state"
            ) from None

    def read(self) -> bytes:
        """Return what is in it, b"" where there is none.

        Raises:
            ConfigError: It is there and cannot be read.
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
        """Put state in its place: at every moment the file holds the old one or the new one.

        Raises:
            OSError: It cannot.
        """
        with open(self._open_beside(), "wb") as file:
            file.write(state)
        os.replace(self._beside, self.path)

    def _open_beside(self) -> int:
        # One that was left behind may be readable for others.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)
        return os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
