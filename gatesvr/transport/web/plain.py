"""PlainTcp: a WebConnection's TCP connection where there is no TLS."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from .connection import WebConnection

__all__ = ["PlainTcp"]


class PlainTcp(asyncio.Protocol):
    """Passes on what asyncio tells; the connection writes to asyncio's transport."""

    def __init__(self, connection: WebConnection) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        self._connection.connection_made(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._connection.data_received(data)

    def eof_received(self) -> None:
        """Close: a client that says nothing more is gone."""

    def pause_writing(self) -> None:
        """Do nothing: whoever feeds the connection asks for its unsent bytes."""

    def resume_writing(self) -> None:
        """Pass it on."""
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._connection.connection_lost(exc)
