"""Connections to upstreams: TCP or a Unix socket, plain or TLS, and the reason when there is none.

Every failure becomes one short reason, because it is what ``upstream_down`` shows. A server may
refuse a client's certificate when the handshake is over here, and one that speaks TLS takes a plain
connection at first; so a connection that is lost before the server's SETTINGS asks early_end().
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from .target import Place, Target

__all__ = ["DialError", "dial", "early_end", "reason_of"]

CLOSE_S = 0.2
"""Longest wait for the peer's goodbye when a TLS connection is closed; many never say it."""

CLOSED = "TLS: the server closed the connection in the handshake"
NO_HTTP2 = "the server speaks no HTTP/2 (ALPN)"
NO_NAME = "no such name"

_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

# OpenSSL's X509_V_ERR_*, which the ssl module has no names for.
_NOT_YET_VALID, _EXPIRED = 9, 10
_NOT_FOR_NAME, _NOT_FOR_ADDRESS = 62, 64
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}

# Of reasons that it does not know the ssl module passes on OpenSSL's text.
_UNNAMED = re.compile(r"^\[\w+\] (.+) \(")

_TLS_REASONS = {
    # What is at the other end, by what OpenSSL says of the first bytes it read.
    "WRONG_VERSION_NUMBER": "TLS: the server does not speak TLS",
    "HTTP_REQUEST": "TLS: the server does not speak TLS",
    "PACKET_LENGTH_TOO_LONG": "TLS: the server does not speak TLS",
    "RECORD_LAYER_FAILURE": "TLS: the server does not speak TLS",
    "UNEXPECTED_EOF_WHILE_READING": CLOSED,
    # Alerts that the server sent.
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "TLS: the server wants a client certificate",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": NO_HTTP2,
    "TLSV1_ALERT_UNKNOWN_CA": "TLS: the server does not know the CA of upstream.tls.cert",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "TLS: the server says that upstream.tls.cert has expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "TLS: the server refuses upstream.tls.cert",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "TLS: the server refuses upstream.tls.cert",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "TLS: the server says that upstream.tls.cert is revoked",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "TLS: the server refuses upstream.tls.cert",
    "TLSV1_ALERT_ACCESS_DENIED": "TLS: the server refuses upstream.tls.cert",
    "TLSV1_UNRECOGNIZED_NAME": "TLS: the server has no certificate for this name",
    "TLSV1_ALERT_PROTOCOL_VERSION": "TLS: the server wants another version of TLS",
    "UNSUPPORTED_PROTOCOL": "TLS: the server wants another version of TLS",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "TLS: the server ended the handshake (it may want a client certificate)"
    ),
}


P = TypeVar("P", bound=asyncio.Protocol)


class DialError(Exception):
    """There is no connection; its text is the reason."""


async def dial(
    target: Target,
    context: ssl.SSLContext | None,
    make_protocol: Callable[[], P],
    within: float,
) -> tuple[asyncio.Transport, P]:
    """Connect to the first place of a target that can be reached.

    Args:
        target: The upstream.
        context: How to speak TLS; None for plain text.
        make_protocol: Makes the protocol of the connection.
        within: Longest wait in all, seconds.

    Raises:
        DialError: No place can be reached.
    """
    name = target.server_name
    if context is not None and (not name or name.startswith(".")):
        raise DialError(f"TLS: no certificate is for {name!r}: see authority and tls.server_name")
    loop = asyncio.get_running_loop()
    due = loop.time() + within
    reasons: list[str] = []
    for number, place in enumerate(target.places):
        # What is left is shared, so that a place that swallows packets leaves time for the others.
        share = (due - loop.time()) / (len(target.places) - number)
        try:
            async with asyncio.timeout(share):
                transport, protocol = await _connect(place, target, context, make_protocol, share)
        except TimeoutError as error:
            # The system's own says more than ours.
            reason = reason_of(error) if error.errno else f"timed out after {within:g} s"
        except ConnectionResetError as error:
            reason = CLOSED if context is not None else reason_of(error)
        except (OSError, UnicodeError) as error:
            reason = reason_of(error, target.server_name)
        else:
            if context is None or _protocol_of(transport) == "h2":
                return transport, protocol
            transport.abort()
            reason = NO_HTTP2
        if reason not in reasons:
            reasons.append(reason)
    raise DialError("; ".join(reasons))


async def _connect(
    place: Place,
    target: Target,
    context: ssl.SSLContext | None,
    make_protocol: Callable[[], P],
    within: float,
) -> tuple[asyncio.Transport, P]:
    loop = asyncio.get_running_loop()
    # The loops refuse times of TLS for a connection without it.
    tls: dict[str, Any] = (
        {}
        if context is None
        else {
            "ssl": context,
            "server_hostname": target.server_name,
            "ssl_handshake_timeout": within + 1.0,  # ours comes first: it says more
            "ssl_shutdown_timeout": CLOSE_S,
        }
    )
    if isinstance(place, str):
        return await loop.create_unix_connection(make_protocol, place, **tls)
    return await loop.create_connection(make_protocol, *place, **tls)


def _protocol_of(transport: asyncio.Transport) -> str | None:
    shaken: ssl.SSLObject = transport.get_extra_info("ssl_object")
    return shaken.selected_alpn_protocol()


def reason_of(error: BaseException, server_name: str = "") -> str:
    """Return why there is no connection, or no more, as people read it.

    Args:
        error: What the dial raised, or what connection_lost() was given.
        server_name: What the certificate should name.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {_doubt(error, server_name)}"
    if isinstance(error, ssl.SSLError):
        name = getattr(error, "reason", None) or ""
        if not name and (match := _UNNAMED.search(str(error))):
            name = match[1].upper().replace(" ", "_")
        return _TLS_REASONS.get(name) or f"TLS: {name.lower().replace('_', ' ') or error}"
    if isinstance(error, socket.gaierror):
        if error.errno in _NO_SUCH_NAME:
            return NO_NAME
        return "the name cannot be resolved now"
    if isinstance(error, UnicodeError):  # a label that IDNA does not take
        return NO_NAME
    if isinstance(error, FileNotFoundError):
        return "no such socket"
    if isinstance(error, OSError):
        if error.errno:
            text = os.strerror(error.errno)
            return text[:1].lower() + text[1:]
        if isinstance(error, ConnectionError):  # how the loops tell of an end they did not expect
            return "the server closed the connection"
    return str(error) or type(error).__name__


def _doubt(error: ssl.SSLCertVerificationError, server_name: str) -> str:
    """Return why a certificate is not to be trusted."""
    code = error.verify_code
    if code in (_NOT_FOR_NAME, _NOT_FOR_ADDRESS):
        return f"the certificate is not for {server_name}"
    if code == _EXPIRED:
        return "the certificate has expired"
    if code == _NOT_YET_VALID:
        return "the certificate is not valid yet"
    if code in _UNKNOWN_ISSUER:
        return "the certificate is not signed by upstream.tls.ca"
    return f"the certificate cannot be trusted: {error.verify_message}"


def early_end(error: Exception | None, opening: bytes, *, is_tls: bool) -> str:
    """Return why a connection ended before the server's SETTINGS.

    Args:
        error: What connection_lost() was given.
        opening: The first bytes that came, of those that are not HTTP/2; empty if none came.
        is_tls: Whether the connection speaks TLS.
    """
    if opening[:1] in (b"\x15", b"\x16") and opening[1:2] == b"\x03":
        return "the server speaks TLS, and upstream.tls is off"
    if opening.startswith(b"HTTP/1"):
        return "the server speaks HTTP/1, not HTTP/2"
    if opening:
        return "the server does not speak HTTP/2"
    if error is not None:
        return reason_of(error)
    hint = "it may want a client certificate, or another one" if is_tls else "it may want TLS"
    return f"the server closed the connection at once ({hint})"
