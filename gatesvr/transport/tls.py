"""Certificates: the one that the gateway shows, and those that a client accepts.

Without ``--cert`` the gateway shows a self-signed *development certificate* that it keeps in the
user's state folder, and clients of a loopback server verify against the same file. A user without
a home has no such folder: the gateway makes a certificate in memory, and clients can connect only
with ``--insecure``.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import ipaddress
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..config import TransportConfig
from ..credentials import FileWatch, check_certificates, read_file
from ..errors import ConfigError
from ..observe.log import keys
from .addresses import is_loopback

__all__ = [
    "CertificateFiles",
    "ClientTls",
    "ServerTls",
    "check_purpose",
    "client_tls",
    "development_path",
    "generate_certificate",
    "load_server_tls",
]

logger = logging.getLogger("gatesvr.transport")

DEVELOPMENT_NAMES = ("localhost", "127.0.0.1", "::1")
VALID_DAYS = 365
DEVELOPMENT_DAYS = 13
"""Browsers accept a certificate by its hash (WebTransport) if it is good for 14 days at most."""
MAX_WEB_HASH = datetime.timedelta(days=14)
SETTLE_S = 0.5
"""A certificate is read this long after the last change of its files: chain and key are two."""
RENEW_DAYS = 4
"""A development certificate with fewer days left is replaced, at a start or while it is shown."""


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The certificate and key that a server shows.

    Attributes:
        cert_pem: The chain, leaf first, PEM.
        key_pem: Its private key, PEM, not encrypted.
        path: The file with the chain, for a client to trust; empty where there is none.
        is_development: Whether it is the development certificate.
    """

    cert_pem: bytes
    key_pem: bytes
    path: str
    is_development: bool = False

    def __repr__(self) -> str:
        return f"ServerTls({self.path!r})"

    def expires(self) -> float:
        """Return when the certificate ends, seconds since the epoch."""
        return x509.load_pem_x509_certificate(self.cert_pem).not_valid_after_utc.timestamp()

    def web_hash(self) -> bytes:
        """Return the hash by which a browser's WebTransport accepts it, empty where none does.

        That is the SHA-256 of the leaf in DER, of an elliptic curve P-256 and good for at most 14
        days (W3C WebTransport, custom certificate requirements).
        """
        leaf = x509.load_pem_x509_certificate(self.cert_pem)
        key = leaf.public_key()
        is_p256 = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
        if not is_p256 or leaf.not_valid_after_utc - leaf.not_valid_before_utc > MAX_WEB_HASH:
            return b""
        return leaf.fingerprint(hashes.SHA256())


class CertificateFiles:
    """Tells when the gateway's certificate has to be read again.

    Args:
        config: It names the files; without any it is about the development certificate.
    """

    def __init__(self, config: TransportConfig) -> None:
        paths = tuple(filter(None, (config.cert, config.key)))
        if not paths and (path := development_path()) is not None:
            paths = (str(path),)  # another gateway may renew it
        self._watch = FileWatch(*paths, settle=SETTLE_S) if paths else None
        self._renew_at: float | None = None

    def have_changed(self, shown: ServerTls) -> bool:
        """Return True once after each change, when the files are at rest again.

        The development certificate has changed, too, when its time is nearly over: it is made anew
        when it is read.

        Args:
            shown: The certificate that clients see.
        """
        if shown.is_development:
            if self._renew_at is None:
                self._renew_at = shown.expires() - RENEW_DAYS * 86400
            if time.time() > self._renew_at:
                self._renew_at = None
                return True
            if not shown.path:
                return False
        if self._watch is None or not self._watch.has_changed():
            return False
        self._renew_at = None
        return True


@dataclass(frozen=True, slots=True)
class ClientTls:
    """The certificates that a client accepts from the server.

    Attributes:
        ca_pem: Certificates to trust, PEM: roots, or one self-signed leaf; empty for the system's.
        is_insecure: Accept any certificate.
        source: Origin of ca_pem, for messages.
    """

    ca_pem: bytes = b""
    is_insecure: bool = False
    source: str = ""


def load_server_tls(cert: str = "", key: str = "") -> ServerTls:
    """Load a certificate chain and its key, or the development certificate without either.

    Args:
        cert: PEM file with the chain, leaf first; it may hold the key too.
        key: PEM file with the private key; empty if cert holds it.

    Raises:
        ConfigError: A file cannot be read or used; it names the file and says why.
    """
    if not cert:
        return _development_tls()
    cert_pem = read_file(cert, "transport.cert")
    key_pem = read_file(key, "transport.key") if key else cert_pem
    return _check_pair(cert_pem, key_pem, cert, key or cert)


def client_tls(host: str, *, ca: str = "", insecure: bool = False) -> ClientTls:
    """Return the certificates to accept from the server at host.

    Args:
        host: Name or address of the server.
        ca: PEM file with certificates to trust; empty for the default: the development
            certificate for a loopback server, the system's CAs for any other.
        insecure: Accept any certificate.

    Raises:
        ConfigError: The file cannot be read or holds no certificate.
    """
    if insecure:
        return ClientTls(is_insecure=True)
    if ca:
        return ClientTls(_certificates_of(read_file(ca, "ca"), ca), source=ca)
    path = development_path()
    if is_loopback(host) and path is not None and os.path.exists(path):
        return ClientTls(_certificates_of(read_file(str(path), "ca"), str(path)), source=str(path))
    return ClientTls(source="the system's CAs")


def check_purpose(leaf: x509.Certificate) -> None:
    """Refuse a certificate whose extended key usage leaves servers out.

    Raises:
        ValueError: The certificate is not for servers.
    """
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return
    purposes = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    if not any(purpose in usage for purpose in purposes):
        raise ValueError("the certificate is not for a server (extended key usage)")


def development_path() -> Path | None:
    """Return the file that holds the development certificate and its key.

    None for a user without a home, for example one that a container's /etc/passwd does not list.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification says to ignore a relative path.
    if os.path.isabs(state):
        folder = Path(state)
    else:
        try:
            folder = Path.home() / ".local" / "state"
        except (RuntimeError, KeyError):
            return None
    return folder / "gatesvr" / "development.pem"


def generate_certificate(
    names: Sequence[str] = DEVELOPMENT_NAMES, *, days: int = VALID_DAYS
) -> tuple[bytes, bytes]:
    """Make a self-signed ECDSA P-256 leaf certificate.

    It is its own trust anchor, so it has neither CA:TRUE nor an extended key usage: qh3 accepts no
    leaf with the first, and no trust anchor with the second.

    Args:
        names: DNS names and IP addresses for its subjectAltName; the first is its common name.
        days: How long it is valid.

    Returns:
        The certificate and its private key, both PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _development_tls() -> ServerTls:
    """Return the development certificate; make or renew it, under a lock, if necessary.

    If the file cannot be written, an old one is used while it is valid, else one in memory.
    """
    path = development_path()
    if path is None:
        return _tls_in_memory("the user has no home")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            pem = path.read_bytes() if path.exists() else b""
            if not _is_fresh(pem):
                pem = b"".join(generate_certificate(days=DEVELOPMENT_DAYS))
                _write_private(path, pem)
    except OSError as error:
        pem = b""
        with contextlib.suppress(OSError):
            pem = path.read_bytes()
        if not _is_fresh(pem):
            return _tls_in_memory(f"{path}: {error.strerror or error}")
    return ServerTls(_certificates_of(pem, str(path)), _key_of(pem), str(path), True)


def _tls_in_memory(why: str) -> ServerTls:
    cert_pem, key_pem = generate_certificate(days=DEVELOPMENT_DAYS)
    logger.warning("certificate_in_memory", extra=keys(why=why))
    return ServerTls(cert_pem, key_pem, "", True)


def _is_fresh(pem: bytes) -> bool:
    """Return whether pem is a development certificate of ours with more than RENEW_DAYS left."""
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        key = serialization.load_pem_private_key(_key_of(pem), None)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return False
    left = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return (
        datetime.timedelta(days=RENEW_DAYS) < left <= datetime.timedelta(days=DEVELOPMENT_DAYS)
        and key.public_key() == leaf.public_key()
        and all(_name(name) in names for name in DEVELOPMENT_NAMES)
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out of the state folder during a look and a write."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_private(path: Path, data: bytes) -> None:
    """Replace path by data atomically, readable by its owner alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _certificates_of(pem: bytes, path: str, field: str = "ca") -> bytes:
    """Return the certificates of pem, one after the other, in the form that both backends read."""
    try:
        certificates = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"no usable certificate: {error}", source=path, field=field) from None
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def _key_of(pem: bytes) -> bytes:
    start = pem.find(b"-----BEGIN", pem.rfind(b"-----END CERTIFICATE-----"))
    return pem[start:] if b"PRIVATE KEY-----" in pem[start:] else pem


def _check_pair(cert_pem: bytes, key_pem: bytes, cert: str, key: str) -> ServerTls:
    chain = _certificates_of(cert_pem, cert, "transport.cert")
    certificates = x509.load_pem_x509_certificates(chain)
    leaf = certificates[0]
    try:
        private = serialization.load_pem_private_key(key_pem, None)
    except TypeError:
        raise ConfigError("the key is encrypted", source=key, field="transport.key") from None
    except ValueError as error:
        raise ConfigError(
            f"no usable private key: {error}", source=key, field="transport.key"
        ) from None
    if private.public_key() != leaf.public_key():
        raise ConfigError(
            f"this is not the key of the certificate in {cert}", source=key, field="transport.key"
        )
    check_certificates(certificates, cert, "transport.cert")
    # PKCS#8 is the one form that both backends read for each kind of key.
    plain = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return ServerTls(chain, plain, cert)
