"""UpstreamCredentials: how connections to upstreams speak TLS, by files that may be renewed."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import grpc

from ..credentials import (
    SYSTEM_CAS,
    FileWatch,
    check_certificates,
    check_key,
    read_certificates,
    read_file,
)
from ..errors import ConfigError
from ..observe.log import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from ..config import UpstreamTls

__all__ = ["UpstreamCredentials"]

logger = logging.getLogger("gatesvr.upstream")

SECTION = "upstream.tls"


class UpstreamCredentials:
    """What connections to upstreams show and trust; the files are read again when they change.

    Args:
        config: The files and the name; TLS is enabled.

    Raises:
        ConfigError: A file cannot be read or used.
    """

    def __init__(self, config: UpstreamTls) -> None:
        self.config = config
        paths = {config.ca, config.cert, config.key} - {"", SYSTEM_CAS}
        self._watch = FileWatch(*sorted(paths))
        self._load()

    @classmethod
    def of(cls, config: UpstreamTls) -> UpstreamCredentials | None:
        """Return the credentials that a configuration names; None for plain text.

        Raises:
            ConfigError: A file cannot be read or used.
        """
        return cls(config) if config.enabled else None

    def follow(self) -> bool:
        """Read the files again if they have changed; return whether they are others now."""
        if not self._watch.has_changed():
            return False
        try:
            self._load()
        except ConfigError as error:
            logger.warning("certificate_kept", extra=keys(why=error))
            return False
        logger.info("certificate_renewed", extra=keys(cert=self.config.cert or self.config.ca))
        return True

    @property
    def context(self) -> ssl.SSLContext:
        """How the next connection speaks TLS."""
        return self._context

    @property
    def channel(self) -> grpc.ChannelCredentials:
        """The same for a gRPC channel, which keeps them as long as it lives."""
        return self._channel

    def _load(self) -> None:
        config = self.config
        roots = chain = key = None
        trusted: list[Certificate] = []
        if config.ca not in ("", SYSTEM_CAS):
            roots = read_file(config.ca, f"{SECTION}.ca")
            trusted = read_certificates(roots, config.ca, f"{SECTION}.ca")
        if config.cert:
            chain = read_file(config.cert, f"{SECTION}.cert")
            key = read_file(config.key, f"{SECTION}.key")
            certificates = read_certificates(chain, config.cert, f"{SECTION}.cert")
            check_key(key, certificates[0], config.key, f"{SECTION}.key")
            check_certificates(certificates, config.cert, f"{SECTION}.cert")
        self._context = _context(config, trusted)
        # Without roots gRPC takes those that it brings along.
        self._channel = grpc.ssl_channel_credentials(roots, key, chain)


def _context(config: UpstreamTls, trusted: Sequence[Certificate]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # As in gRPC: what upstream.tls.ca holds is trusted, be it a root or not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    try:
        if trusted:
            from cryptography.hazmat.primitives.serialization import Encoding

            roots = b"".join(certificate.public_bytes(Encoding.DER) for certificate in trusted)
            context.load_verify_locations(cadata=roots)
        else:
            context.load_default_certs()
        if config.cert:
            context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError, ValueError) as error:
        field = f"{SECTION}.cert" if config.cert else f"{SECTION}.ca"
        raise ConfigError(f"it cannot be used: {error}", field=field) from None
    return context
