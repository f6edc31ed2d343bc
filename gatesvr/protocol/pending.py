"""PendingRequest: a request that has no answer yet."""

from __future__ import annotations

from collections.abc import Mapping

from .._core.codec import encode_business, encode_request
from .messages import LOGIN_ACTION, RequestType

__all__ = ["PendingRequest"]

MAX_ENVELOPE_BYTES = 64
"""What a ClientRequest takes at most beside its payload and headers."""
MAX_ENTRY_BYTES = 16
"""What a header takes at most beside its two texts."""

_BUSINESS = int(RequestType.BUSINESS)


class PendingRequest:
    """A request without an answer; it may have to be sent again.

    Attributes:
        is_login: Whether it is a hello.
        is_sent: Whether it has ever been sent.
        msg_id: The same each time it is sent.
        sent_at: Loop time when it was sent last.
    """

    __slots__ = ("_headers", "_payload", "is_login", "is_sent", "msg_id", "sent_at")

    def __init__(
        self,
        msg_id: int,
        action: str,
        data: bytes,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self.msg_id = msg_id
        self.is_sent = False
        self.sent_at = 0.0
        try:
            self.is_login = action.lower() == LOGIN_ACTION
            self._payload = encode_business(action, params, data)
        except (TypeError, AttributeError):
            _check("action", action, str)
            _check("data", data, bytes)
            _check_texts("params", params)
            raise
        if headers:
            _check_texts("headers", headers)
        self._headers = dict(headers) if headers else None

    @property
    def max_size(self) -> int:
        """Bytes that its frame takes at most, the length's 4 left out."""
        size = len(self._payload) + MAX_ENVELOPE_BYTES
        for name, value in (self._headers or {}).items():
            size += len(name.encode()) + len(value.encode()) + MAX_ENTRY_BYTES
        return size

    def frame(self, seq: int, ack_seq_id: int) -> bytes:
        """Return its frame, with an ack on the way where ack_seq_id is not 0."""
        self.is_sent = True
        return encode_request(self.msg_id, seq, _BUSINESS, self._payload, self._headers, ack_seq_id)


def _check(name: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {kind.__name__}, not {type(value).__name__}")


def _check_texts(name: str, texts: Mapping[str, str] | None) -> None:
    if texts is None:
        return
    _check(name, texts, Mapping)
    for key, value in texts.items():
        _check(f"a key of {name}", key, str)
        _check(f"{name}[{key!r:.64}]", value, str)
