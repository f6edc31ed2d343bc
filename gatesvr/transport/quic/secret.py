"""The secret that the keys of Retry tokens and stateless resets derive from."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ...errors import ConfigError

__all__ = ["MIN_SECRET_BYTES", "derive_key", "read_secret"]

MIN_SECRET_BYTES = 32


def read_secret(path: str) -> bytes:
    """Return the secret of a file, without the end of its line.

    Raises:
        ConfigError: It cannot be read, or is too short to be one.
    """
    field = "transport.secret"
    try:
        secret = Path(path).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise ConfigError(error.strerror or str(error), source=path, field=field) from None
    except ValueError as error:  # a path that no file can have
        raise ConfigError(str(error), source=repr(path), field=field) from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ConfigError(f"it has fewer than {MIN_SECRET_BYTES} bytes", source=path, field=field)
    return secret


def derive_key(secret: bytes, purpose: bytes, size: int) -> bytes:
    """Return the key of one purpose; without a secret, one that nobody else has."""
    if not secret:
        return os.urandom(size)
    return HKDF(hashes.SHA256(), length=size, salt=None, info=purpose).derive(secret)
