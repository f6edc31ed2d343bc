"""SavedState: what a client keeps on disk to go on after a restart (PROTOCOL 4.6)."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass

__all__ = ["SavedState"]

VERSION = 1
MAX_BYTES = 4096
"""Longest state that is read; a real one has a few hundred bytes."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """A client's session between two of its lives; it holds a secret.

    Attributes:
        openid: The user.
        client_id: The client's own name.
        session_id: The session, empty for none.
        resume_token: Of that session.
        attempt: Tries with that token.
        position: The highest server seq that the application has.
    """

    openid: str
    client_id: str
    session_id: str
    resume_token: bytes
    attempt: int
    position: int

    def encode(self) -> bytes:
        """Return it as bytes, for decode()."""
        return json.dumps(
            {
                "version": VERSION,
                "openid": self.openid,
                "client_id": self.client_id,
                "session_id": self.session_id,
                "resume_token": base64.b64encode(self.resume_token).decode(),
                "attempt": self.attempt,
                "position": self.position,
            }
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> SavedState:
        """Return what encode() made data of.

        Raises:
            ValueError: It did not.
        """
        if len(data) > MAX_BYTES:
            raise ValueError(f"no client state: {len(data)} bytes")
        try:
            fields = json.loads(data)
            if fields["version"] != VERSION:
                raise ValueError("its version is unknown")
            return cls(
                _text(fields["openid"]),
                _text(fields["client_id"]),
                _text(fields["session_id"]),
                base64.b64decode(fields["resume_token"], validate=True),
                _number(fields["attempt"], 32),
                _number(fields["position"], 64),
            )
        except (ValueError, TypeError, KeyError, binascii.Error) as error:
            raise ValueError(f"no client state: {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is no text")
    return value


def _number(value: object, bits: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise ValueError(f"{value!r:.40} is no number of at most {bits} bits")
    return value
