"""qh3's connection with events of ours, reset tokens of ours, and a certificate check that helps.

qh3 is a core in Rust and a facade in Python, with the TLS half between them. Core events become
ours where they arise.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from aioquic import tls as aiotls
from cryptography import x509
from OpenSSL import crypto
from qh3 import tls as qh3tls
from qh3.quic import events
from qh3.quic.connection import QuicConnection
from qh3.quic.tls_bridge import QuicTlsBridgeError

from ...protocol.link import Disconnect
from ..addresses import Address
from ..tls import check_purpose
from .initial import client_keys, parse_ids, server_keys
from .interface import (
    MAX_CRYPTO_BYTES,
    NO_CRYPTO,
    Closed,
    ConnectionIdIssued,
    ConnectionIdRetired,
    HandshakeCompleted,
    MakeId,
    QuicEvent,
    StopSending,
    StreamData,
    StreamReset,
    TokenOf,
    random_id,
)

__all__ = ["Qh3Core"]

CRYPTO_BUFFER_EXCEEDED = 0x0D
_DECODE_ERROR = 0x100 + 50  # TLS alert decode_error (RFC 9001 4.8, RFC 8446 6.2)
_NO_CRYPTO_REASON = "packet contains no CRYPTO frame"  # as qh3 words it


class Qh3Core(QuicConnection):
    """qh3's connection, which appends our events to ``found``.

    Args:
        token_of: Gives the stateless reset token of a server's first connection id. qh3's core
            gives random tokens to later ids, and leaves no choice.
        make_id: Makes a server's first connection id; later ones are random for the same reason.
        arguments: qh3's own.

    Attributes:
        found: Our events.
        is_closing: Whether close() was called.
        closed: How it ended; None before.
        delivered: Stream bytes delivered since the adapter last set it to 0.
    """

    # None until the first datagram, as qh3's own hint says; code that may meet that asks.
    _core: Any
    _tls: Any

    def __init__(
        self, token_of: TokenOf | None = None, make_id: MakeId = random_id, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._token_of = token_of
        self.found: deque[QuicEvent] = deque()
        self.is_closing = False
        self.closed: Disconnect | None = None
        self.delivered = 0
        self._is_nameless = False  # the client's connection id has no bytes
        if self._retry_source_connection_id is not None:
            self.host_cid = self._retry_source_connection_id
        elif token_of is not None:
            self.host_cid = make_id()

    def receive_datagram(self, data: bytes, addr: Address, now: float) -> None:
        """Take a datagram in; see of a client's first one whether its connection id has bytes."""
        if self._core is None and not self._is_client:
            ids = parse_ids(data)
            self._is_nameless = ids is not None and not ids[1]
        super().receive_datagram(data, addr, now)

    def _create_core(self, remote_addr: Address, initial_dcid: bytes, now: float) -> None:
        """Make the core.

        It learns of no client's id that has no bytes, as browsers have them, and would send to
        initial_dcid for ever. So it gets the right one from the start, with the keys that follow
        from the other. Then it reads only what is sent to an id of its own; so admission sends such
        a client a Retry, and the id that the Retry gives is the connection's first one.
        """
        if not self._is_nameless:
            super()._create_core(remote_addr, initial_dcid, now)
            return
        super()._create_core(remote_addr, b"", now)
        for direction, keys in (
            ("receive", client_keys(initial_dcid)),
            ("send", server_keys(initial_dcid)),
        ):
            self._core.install_packet_key(
                direction, int(qh3tls.Epoch.INITIAL), ("aes-128-gcm", "aes-128-ecb"), *keys, 0
            )

    def _create_tls(self, remote_source_cid: bytes | None) -> Any:
        """Make the TLS half; in qh3's own method it sends a random token."""
        tls = super()._create_tls(remote_source_cid)
        if self._is_client:
            context: Any = tls.tls
            context._client_handle_certificate_verify = partial(
                _check_certificate, context, context._client_handle_certificate_verify
            )
        else:
            # Browsers have ids of no bytes. qh3 learns only others, from the packet's header.
            tls.remote_initial_source_connection_id = b""
        if self._token_of is not None:
            tls.stateless_reset_token = self._token_of(self.host_cid)
            tls.tls.handshake_extensions = [
                (
                    qh3tls.ExtensionType.QUIC_TRANSPORT_PARAMETERS,
                    tls.serialize_transport_parameters(),
                )
            ]
        return tls

    def _drain_core(self) -> None:
        """Turn the core's events into ours.

        Overrides qh3's method, which reports a close only after draining, and all kinds alike.
        """
        core = self._core
        found = self.found
        while (native := core.next_event()) is not None:
            kind = native[0]
            if kind == "stream_data":
                self.delivered += len(native[2])
                found.append(StreamData(native[1], native[2], native[3]))
            elif kind == "crypto_data":
                self._receive_crypto(native)
            elif kind == "stream_reset":
                found.append(StreamReset(native[1], native[2]))
            elif kind == "stop_sending":
                found.append(StopSending(native[1], native[2]))
            elif kind == "connection_id_issued":
                found.append(ConnectionIdIssued(native[1]))
            elif kind == "connection_id_retired":
                found.append(ConnectionIdRetired(native[1]))
            elif kind == "stream_finished":
                self._created_local_stream_ids.discard(native[1])
            elif kind == "handshake_done":
                self._handshake_confirmed = True
                core.handshake_confirmed()
            elif kind == "new_token":
                self._peer_token = native[1]
            elif kind == "peer_closed":
                reason = native[4].decode("utf8", "replace")
                self._end(Disconnect("peer" if native[1] else "peer_transport", native[2], reason))
            elif kind == "protocol_error":
                reason = str(native[3])
                if reason == _NO_CRYPTO_REASON:
                    self._end(NO_CRYPTO)
                else:
                    self._end(Disconnect("local", native[1], reason))
            elif kind == "connection_terminated":
                if native[3] == b"Idle timeout":
                    self._end(Disconnect("idle"))
                else:
                    # Without a close before it, this is a stateless reset.
                    self._end(Disconnect("reset", native[1]))

    def _receive_crypto(self, native: tuple[Any, ...]) -> None:
        if not self._is_client and native[2] + len(native[3]) > MAX_CRYPTO_BYTES:
            self.refuse(CRYPTO_BUFFER_EXCEEDED, "too long a TLS message")
            return
        try:
            self._tls.receive_crypto(
                qh3tls.Epoch(native[1]), native[3], native[2], version=self._core.version
            )
            self._drain_tls()
        except QuicTlsBridgeError as error:
            self.refuse(error.error_code, error.reason_phrase)
        except Exception as error:
            # qh3 lets out whatever its parsers raise on a broken message.
            self.refuse(_DECODE_ERROR, type(error).__name__)

    def refuse(self, code: int, reason: str) -> None:
        """Close because the peer has broken a rule, or passed a bound."""
        self._core.close(code, 0, reason.encode())
        self._end(Disconnect("local", code, reason))

    def _end(self, how: Disconnect) -> None:
        if self.closed is None and not self.is_closing:
            self.closed = how
            self.found.append(Closed(how))

    def drain_facade(self) -> None:
        """Turn the events of qh3's TLS half, which have a queue of their own, into ours."""
        while (event := self.next_event()) is not None:
            if type(event) is events.HandshakeCompleted:
                self.found.append(HandshakeCompleted())
            elif type(event) is events.ConnectionTerminated:
                # Version negotiation found no version in common (client).
                self._end(Disconnect("local", event.error_code, event.reason_phrase))


def _check_certificate(context: Any, qh3_check: Callable[[Any], None], message: Any) -> None:
    """Check the server's signature and certificate; aioquic decides where qh3 refuses the latter.

    qh3 refuses Ed25519 certificates and a certificate that is both its own trust anchor and a CA,
    as ``openssl req -x509`` makes it, and never says why.

    Args:
        context: qh3's TLS half of a client.
        qh3_check: Its own check of the message, after which it waits for Finished.
        message: CertificateVerify.
    """
    try:
        qh3_check(message)
        return
    except qh3tls.AlertBadCertificate:
        # A bad signature has another alert: the server does have the private key.
        pass
    try:
        leaf, *chain = (
            x509.load_der_x509_certificate(certificate.public_bytes())
            for certificate in (context._peer_certificate, *context._peer_certificate_chain)
        )
        check_purpose(leaf)
        paths = ssl.get_default_verify_paths()
        aiotls.verify_certificate(
            leaf,
            chain,
            context._server_name,
            cadata=context._cadata,
            cafile=None if context._cadata else paths.cafile,
            capath=None if context._cadata else paths.capath,
        )
    except (aiotls.Alert, ValueError, crypto.Error) as error:
        raise qh3tls.AlertBadCertificate(str(error)) from None
    # qh3's method ends with these two.
    context.key_schedule.update_hash(message.data)
    context._set_state(qh3tls.State.CLIENT_EXPECT_FINISHED)
