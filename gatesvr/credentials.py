"""Credentials of gRPC servers and of their callers: TLS, and bearer tokens, all from files.

The settings have the same names everywhere. A server shows ``cert`` with ``key`` and asks callers
for a certificate of ``client_ca``. A caller trusts ``ca``, shows ``cert`` with ``key``, and sends
the first token of ``token_file``. Files are read again when they change, the caller's certificate
excepted. One that cannot be used then is left alone, and what was read before stays in force.

Who has no certificate does not load the library that reads them: it takes 10 MB.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import hmac
import logging
import math
import os
import re
import stat
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import grpc

from .errors import ConfigError
from .observe.log import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography import x509

    Metadata = tuple[tuple[str, str], ...]

__all__ = [
    "SYSTEM_CAS",
    "Access",
    "FileWatch",
    "ServerCertificate",
    "TokenFile",
    "check_certificates",
    "check_key",
    "read_certificates",
    "read_file",
    "token_digest",
]

logger = logging.getLogger("gatesvr.credentials")

SYSTEM_CAS = "system"
"""Stands for the system's CAs in the place of a file of them."""
SETTLE_S = 1.0
"""A file is read this long after its last change: it may be half-written before."""
LOOK_S = 1.0
"""How often a token file is looked at."""
GONE_S = 5.0
"""A file that has been away this long is not just being replaced."""
MAX_FILE_BYTES = 1 << 20
MAX_TOKENS = 64
"""Tokens in one file."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,4096}")
"""What RFC 6750 2.1 lets a bearer token be, long enough not to be guessed."""


class FileWatch:
    """Tells when files have changed and are at rest again.

    Args:
        paths: The files.
        settle: Seconds that they have to be at rest; SETTLE_S by default.
    """

    def __init__(self, *paths: str, settle: float | None = None) -> None:
        self._paths = paths
        self._settle = SETTLE_S if settle is None else settle
        self._gone_at: float | None = None
        self._seen = self._look()

    def has_changed(self) -> bool:
        """Return True once after each change, when the files are at rest again or gone for good."""
        found = self._look()
        if found is None:
            return self._has_gone()
        self._gone_at = None
        if found == self._seen:
            return False
        # The time of the inode's change cannot be set back, as that of the content can.
        if abs(time.time() - max(changed_ns for *_, changed_ns in found) / 1e9) < self._settle:
            return False
        self._seen = found
        return True

    def _has_gone(self) -> bool:
        """Return True once a file has been away for GONE_S."""
        now = time.monotonic()
        if self._gone_at is None:
            self._gone_at = now
        if now - self._gone_at < GONE_S:
            return False
        self._gone_at = math.inf  # so much for this time
        return True

    def _look(self) -> list[tuple[int, int, int, int]] | None:
        try:
            stats = [os.stat(path) for path in self._paths]
        except OSError:
            return None  # it is being replaced
        return [(s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats]


class TokenFile:
    """The bearer tokens in a file, one a line; empty lines and ``#`` lines count for nothing.

    Args:
        path: The file.
        field: The setting that names it.
        clock: Seconds.
        may_wait: Whether it may be a pipe, the first time.

    Raises:
        ConfigError: It cannot be read, or holds no token or something else. The message names
            neither the path, which may be a token put in its place, nor what is in the file.
    """

    def __init__(
        self,
        path: str,
        field: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        may_wait: bool = False,
    ) -> None:
        self._path = path
        self._field = field
        self._clock = clock
        self._watch = FileWatch(path)
        self._look_at = clock() + LOOK_S
        self._tokens = self._read(may_wait=may_wait)
        self._digests = [token_digest(token) for token in self._tokens]

    @property
    def first(self) -> str:
        """The token to send."""
        self._follow()
        return self._tokens[0]

    def holds(self, digest: bytes) -> bool:
        """Return whether a token with this digest is in the file, in the same time for each."""
        self._follow()
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    def digests(self) -> list[bytes]:
        """Return the digests of all tokens in the file."""
        self._follow()
        return self._digests

    def _follow(self) -> None:
        """Read the file again if it has changed."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        if not self._watch.has_changed():
            return
        try:
            self._tokens = self._read()
        except ConfigError as error:
            logger.warning("tokens_kept", extra=keys(why=error))
        else:
            self._digests = [token_digest(token) for token in self._tokens]
            logger.info("tokens_read", extra=keys(field=self._field, tokens=len(self._tokens)))

    def _read(self, *, may_wait: bool = False) -> list[str]:
        data = read_file(self._path, self._field, name_it=False, may_wait=may_wait)
        lines = data.decode("utf-8", "replace").split("\n")
        tokens = [line.strip() for line in lines]
        tokens = [token for token in tokens if token and not token.startswith("#")]
        if not tokens:
            raise ConfigError("there is no token in the file", field=self._field)
        if len(tokens) > MAX_TOKENS:
            raise ConfigError(f"there are more than {MAX_TOKENS} tokens", field=self._field)
        for number, token in enumerate(tokens, 1):
            if not _TOKEN.fullmatch(token):
                raise ConfigError(
                    f"token {number} of the file is not a token: 16 to 4096 letters, digits or "
                    "-._~+/=",
                    field=self._field,
                )
        return tokens


def token_digest(token: str) -> bytes:
    """Return the digest of a token that TokenFile.holds() asks for."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class ServerCertificate:
    """The certificate that a gRPC server shows, renewed without a restart.

    Args:
        cert: PEM file with the chain, leaf first.
        key: PEM file with its private key.
        client_ca: PEM file with the CAs of the callers' certificates; empty: none is asked for.
        section: The section of the settings that name them, for messages.
        on_handshake: Called at the beginning of each TLS handshake, in threads of gRPC's, one at a
            time.
        on_look: Called in the same way after a look at changed files: whether they could be used.

    Raises:
        ConfigError: A file cannot be read or used.
    """

    def __init__(
        self,
        cert: str,
        key: str,
        client_ca: str,
        section: str,
        on_handshake: Callable[[], None] = lambda: None,
        on_look: Callable[[bool], None] = lambda is_usable: None,
    ) -> None:
        self._section = section
        self._on_handshake = on_handshake
        self._on_look = on_look
        self._lock = threading.Lock()
        self._renewal: grpc.ServerCertificateConfiguration | None = None
        self._paths = (cert, key, client_ca)
        self._watch = FileWatch(*filter(None, self._paths))
        self._first = self._load(self._paths)

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials to listen with."""
        # None, for no change, is not in grpc-stubs.
        renewed = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._renewed)
        return grpc.dynamic_ssl_server_credentials(
            self._first, renewed, require_client_authentication=bool(self._paths[2])
        )

    def prepare(self, cert: str, key: str, client_ca: str) -> Callable[[], None]:
        """Read other files; return a function that has the next handshakes use them.

        Raises:
            ConfigError: A file cannot be read or used.
        """
        paths = (cert, key, client_ca)
        watch = FileWatch(*filter(None, paths))
        renewal = self._load(paths)

        def commit() -> None:
            with self._lock:
                self._paths, self._watch, self._renewal = paths, watch, renewal

        return commit

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration for the next handshakes if the files have changed."""
        with self._lock:
            self._on_handshake()
            renewal, self._renewal = self._renewal, None
            if not self._watch.has_changed():
                return renewal
            try:
                renewal = self._load(self._paths)
            except Exception as error:  # gRPC would fail the handshake
                self._on_look(False)
                logger.warning("certificate_kept", extra=keys(why=error))
                return renewal
            self._on_look(True)
            logger.info("certificate_renewed", extra=keys(cert=self._paths[0]))
            return renewal

    def _load(self, paths: tuple[str, str, str]) -> grpc.ServerCertificateConfiguration:
        cert_path, key_path, ca_path = paths
        chain = read_file(cert_path, f"{self._section}.cert")
        key = read_file(key_path, f"{self._section}.key")
        field = f"{self._section}.cert"
        certificates = read_certificates(chain, cert_path, field)
        check_key(key, certificates[0], key_path, f"{self._section}.key")
        check_certificates(certificates, cert_path, field)
        roots = None
        if ca_path:
            roots = read_file(ca_path, f"{self._section}.client_ca")
            read_certificates(roots, ca_path, f"{self._section}.client_ca")
        return grpc.ssl_server_certificate_configuration([(key, chain)], roots)


class Access:
    """How a caller reaches a gRPC server: plain text or TLS, with or without a token.

    Args:
        ca: PEM file with the certificates to trust, or ``system`` for the system's: TLS. Empty:
            plain text.
        cert: PEM file with the caller's certificate chain; needs ca and key.
        key: PEM file with its private key.
        token_file: File whose first line is the bearer token; it is read again when it changes.

    Raises:
        ConfigError: A file cannot be read or used, or one is missing.
    """

    def __init__(self, ca: str = "", cert: str = "", key: str = "", token_file: str = "") -> None:
        if bool(cert) != bool(key):
            given, missing = ("cert", "key") if cert else ("key", "cert")
            raise ConfigError(f"cert and key go together, {missing} is missing", field=given)
        if cert and not ca:
            raise ConfigError("a certificate needs TLS: name a ca, too", field="cert")
        self.credentials: grpc.ChannelCredentials | None = None
        """For grpcio.make_channel(); None for plain text."""
        if ca:
            roots = None if ca == SYSTEM_CAS else read_file(ca, "ca", may_wait=True)
            if roots is not None:
                read_certificates(roots, ca, "ca")
            chain = private = None
            if cert:
                chain = read_file(cert, "cert", may_wait=True)
                private = read_file(key, "key", may_wait=True)
                check_key(private, read_certificates(chain, cert, "cert")[0], key, "key")
            self.credentials = grpc.ssl_channel_credentials(roots, private, chain)
        self._tokens = TokenFile(token_file, "token_file", may_wait=True) if token_file else None

    def metadata(self) -> Metadata:
        """Return the metadata of a call."""
        if self._tokens is None:
            return ()
        return (("authorization", f"Bearer {self._tokens.first}"),)


def check_certificates(certificates: Sequence[x509.Certificate], path: str, field: str) -> None:
    """Refuse a chain that is out of order, or whose leaf is not valid now.

    Args:
        certificates: The chain: the leaf, then each one's issuer.
        path: Its file.
        field: The setting that names it.

    Raises:
        ConfigError: It says what is wrong.
    """
    from cryptography.exceptions import InvalidSignature

    leaf, now = certificates[0], datetime.datetime.now(datetime.UTC)
    problem = ""
    if leaf.not_valid_after_utc < now:
        problem = f"the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}"
    elif leaf.not_valid_before_utc > now:
        problem = f"the certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on"
    for number, (below, above) in enumerate(pairwise(certificates), 1):
        try:
            below.verify_directly_issued_by(above)
        except TypeError:
            pass  # a kind of key that cryptography does not verify with
        except (ValueError, InvalidSignature):
            problem = problem or (
                f"the chain is out of order: certificate {number} was not issued by the one"
                " behind it"
            )
    if problem:
        raise ConfigError(problem, source=path, field=field)


def read_file(path: str, field: str, *, name_it: bool = True, may_wait: bool = False) -> bytes:
    """Return what is in a small file.

    Args:
        path: The file.
        field: The setting that names it.
        name_it: Whether a message may name the path.
        may_wait: Whether it may be a pipe, which has to be waited for and may never end.

    Raises:
        ConfigError: It cannot be read, is no file, or has more than MAX_FILE_BYTES.
    """
    source = path if name_it else ""
    how = os.O_RDONLY | os.O_CLOEXEC | (0 if may_wait else os.O_NONBLOCK)
    try:
        descriptor = os.open(path, how)
        try:
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not (stat.S_ISREG(kind) or may_wait):
                raise ConfigError("a pipe or a device, no file", source=source, field=field)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "cannot be read"
        raise ConfigError(why, source=source, field=field) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"more than {MAX_FILE_BYTES} bytes", source=source, field=field)
    return data


def read_certificates(pem: bytes, path: str, field: str) -> list[x509.Certificate]:
    """Return the certificates in a PEM file's content.

    Raises:
        ConfigError: There is none, or one cannot be read; it names the file and the setting.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"no usable certificate: {error}", source=path, field=field) from None


def check_key(pem: bytes, leaf: x509.Certificate, path: str, field: str) -> None:
    """Refuse a PEM private key that is encrypted, unusable or another certificate's.

    Raises:
        ConfigError: It is; it names the file and the setting.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigError("the key is encrypted", source=path, field=field) from None
    except ValueError as error:
        raise ConfigError(f"no usable private key: {error}", source=path, field=field) from None
    if private.public_key() != leaf.public_key():
        raise ConfigError("this is not the key of the certificate", source=path, field=field)
