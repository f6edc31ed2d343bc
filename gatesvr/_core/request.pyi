"""Request heads of one HTTP/2 connection; gatesvr._core.http2 uses them from C."""

from typing import final

@final
class RequestEncoder:
    def __init__(self, authority: str, scheme: str, user_agent: str) -> None: ...  # ValueError
