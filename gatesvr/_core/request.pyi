"""Request heads of one HTTP/2 connection, as header blocks; for gatesvr._core.http2."""

from collections.abc import Iterable
from typing import final

@final
class RequestEncoder:
    def __init__(
        self, authority: str, scheme: str, user_agent: str
    ) -> None: ...  # ValueError: not printable ASCII
    def encode(
        self,
        path: str,
        timeout_ms: int = 0,
        metadata: Iterable[tuple[str, str]] | None = None,
    ) -> bytes: ...  # the frames of stream 1; ValueError: what no header may hold
