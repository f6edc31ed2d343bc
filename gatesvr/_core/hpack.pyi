"""Fields of HTTP/2 to bytes and back (HPACK, RFC 7541); the HTTP/2 core uses it from C."""

from collections.abc import Iterable
from typing import final

class HpackError(ValueError):
    is_too_large: bool  # the block is sound, its list above max_list_bytes
    def __init__(self, message: str, is_too_large: bool = False) -> None: ...

@final
class HpackDecoder:
    def __init__(self, max_table_bytes: int = 4096, max_list_bytes: int = 65536) -> None: ...
    def decode(self, block: bytes) -> list[tuple[bytes, bytes]]: ...  # HpackError

@final
class HpackEncoder:
    def __init__(self, max_table_bytes: int = 4096) -> None: ...
    @property
    def inserted(self) -> int: ...  # while it stays, so does what encode() returns
    def encode(self, fields: Iterable[tuple[bytes, bytes]], remember: bool = True) -> bytes: ...
    def set_max_table_bytes(self, size: int) -> None: ...  # the peer's SETTINGS_HEADER_TABLE_SIZE
