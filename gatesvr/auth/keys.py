"""Keys that tokens are verified with: a PEM file, a secret, or a JWKS file or URL."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hmac
import http
import http.client
import json
import logging
import socket
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_pem_x509_certificate
from jwt.algorithms import Algorithm

from ..config.changes import shown_url
from ..credentials import read_file
from ..errors import ConfigError
from ..observe.log import keys as log_keys
from ..threads import in_thread
from .reasons import AuthCounters

__all__ = [
    "Key",
    "KeySource",
    "KeysMissing",
    "StaticKeys",
    "UrlKeys",
    "load_keys",
    "parse_jwks",
    "read_private_key",
]

logger = logging.getLogger("gatesvr.auth")

MAX_JWKS_BYTES = 1 << 20
MAX_KEYS = 256
FETCH_TIMEOUT_S = 5.0
"""Longest fetch, from the look-up of the server's name to the last byte."""
UNKNOWN_PAUSE_S = 30.0
"""An unknown ``kid`` makes the set be fetched at most this often."""
RETRY_S = 10.0
"""Pause after a fetch that failed."""
MIN_SECRET_BYTES = 32
"""Shortest HMAC secret (RFC 7518 3.2, HS256)."""

_HMAC = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}


@dataclass(frozen=True, slots=True)
class Key:
    """A key and what it may verify.

    A public key never verifies an HMAC: its algorithms are those of its kind alone.

    Attributes:
        kid: Its name, empty for a key without one.
        value: As PyJWT takes it.
        algorithms: That it may be used with.
    """

    kid: str
    value: Any
    algorithms: tuple[str, ...]
    _verifiers: dict[str, tuple[Algorithm, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def verify(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Return whether a signature by one of its algorithms is good.

        Raises:
            jwt.InvalidKeyError: The algorithm does not take such a key.
        """
        found = self._verifiers.get(algorithm)
        if found is None:
            # PyJWT looks into the key each time: that costs more than an HMAC.
            library = jwt.get_algorithm_by_name(algorithm)
            found = self._verifiers[algorithm] = library, library.prepare_key(self.value)
        library, value = found
        name = _HMAC.get(algorithm)
        if name is not None:
            return hmac.compare_digest(hmac.digest(value, signed, name), signature)
        return library.verify(signed, value, signature)


class KeysMissing(Exception):
    """There is no key to verify any token with."""


class KeySource(Protocol):
    """Where keys come from."""

    def find(self, kid: str) -> Key | None:
        """Return the key with that name, None where it is not known."""

    async def look_again(self, kid: str) -> Key | None:
        """Return the key with a name that find() does not know, after a look at the source.

        Raises:
            KeysMissing: No keys are known, or they are too old to trust.
        """

    def start(self) -> None:
        """Keep the keys fresh from now on."""

    async def stop(self) -> None:
        """Stop that."""


class StaticKeys:
    """Keys that do not change while the gateway runs.

    Args:
        keys: All of them.
    """

    def __init__(self, keys: list[Key]) -> None:
        self._keys = {key.kid: key for key in keys}
        self._only = keys[0] if len(keys) == 1 else None

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)

    def find(self, kid: str) -> Key | None:
        """Return the key with that name; a single key without a name fits every token."""
        if self._only is not None and (not kid or not self._only.kid):
            return self._only
        return self._keys.get(kid)

    async def look_again(self, kid: str) -> Key | None:
        """Return None: nothing changes."""
        return None

    def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""


class UrlKeys:
    """Keys of a JWKS URL: cached, fetched in the background, kept while the URL fails.

    Args:
        url: ``https://…``, or ``http://…`` on loopback.
        refresh: Seconds between fetches.
        max_stale: Seconds that keys serve after the last good fetch.
        counters: Where to count.
        fetch: Returns the document; by default over HTTP. It runs in a thread.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        url: str,
        refresh: float,
        max_stale: float,
        counters: AuthCounters,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._refresh = refresh
        self._max_stale = max_stale
        self._counters = counters
        self._fetch = fetch or fetch_url
        self._clock = clock
        self._keys: StaticKeys | None = None
        self._fetched_at = 0.0
        self._looked_at = -UNKNOWN_PAUSE_S
        self._fetching: asyncio.Task[None] | None = None
        self._blocking: concurrent.futures.Future[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def find(self, kid: str) -> Key | None:
        """Return the key with that name."""
        if self._keys is None or self._clock() - self._fetched_at > self._max_stale:
            return None
        return self._keys.find(kid)

    async def look_again(self, kid: str) -> Key | None:
        """Fetch the set for a name that is not in it, at most once in UNKNOWN_PAUSE_S."""
        if self._fetching is not None or self._clock() - self._looked_at >= UNKNOWN_PAUSE_S:
            await self._fetch_once()
        if self._keys is None:
            raise KeysMissing("no keys were fetched yet")
        if self._clock() - self._fetched_at > self._max_stale:
            raise KeysMissing("the keys are too old")
        return self._keys.find(kid)

    def start(self) -> None:
        """Fetch now, and then every ``refresh``."""
        self._task = asyncio.create_task(self._run(), name="gatesvr-jwks")

    async def stop(self) -> None:
        """End the background fetches."""
        tasks = [task for task in (self._task, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            before = self._fetched_at
            await self._fetch_once()
            await asyncio.sleep(self._refresh if self._fetched_at != before else RETRY_S)

    async def _fetch_once(self) -> None:
        """Fetch the set; callers at the same time share one fetch."""
        if self._fetching is None:
            self._looked_at = self._clock()
            self._fetching = asyncio.create_task(self._load(), name="gatesvr-jwks-fetch")
            self._fetching.add_done_callback(self._fetched)
        await asyncio.shield(self._fetching)

    def _fetched(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _load(self) -> None:
        counters = self._counters
        try:
            found = parse_jwks(await self._document())
        except Exception as error:
            # Whatever a server says: the next fetch may be better, so the keys' task goes on.
            counters.key_failures += 1
            why = repr(error)[:200]
            logger.warning("jwks_failed", extra=log_keys(url=shown_url(self._url), error=why))
            return
        self._keys = StaticKeys(found)
        self._fetched_at = self._clock()
        counters.key_refreshes += 1
        counters.keys = len(found)

    async def _document(self) -> bytes:
        """Return what a fetch in a thread returns.

        Nothing ends the look-up of a name before its time, so a fetch that is too late is left to
        end by itself.
        """
        if self._blocking is not None and not self._blocking.done():
            raise TimeoutError("the fetch before has not ended")
        self._blocking = in_thread(partial(self._fetch, self._url), "gatesvr-jwks")
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                return await asyncio.wrap_future(self._blocking)
        except TimeoutError:
            raise _too_late() from None


def fetch_url(url: str) -> bytes:
    """Return the document at a URL. It follows no redirect, and no proxy of the environment.

    Raises:
        OSError: It cannot be had in time.
        HTTPException: The server does not speak HTTP.
        ValueError: It is too large.
    """
    deadline = time.monotonic() + FETCH_TIMEOUT_S
    parts = urllib.parse.urlsplit(url)
    is_tls = parts.scheme == "https"
    name = parts.netloc.rpartition("@")[2]
    kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
    connection = kind(name, timeout=FETCH_TIMEOUT_S)  # knows the host and the port
    document = b""
    problem: Exception | None = None
    sock = _connect(connection.host, connection.port, deadline)
    # A time-out is each read's: a server that drips a byte at a time, be it in the TLS handshake,
    # would go on for ever. TLS takes the socket over, so the watch has one of its own.
    watched = sock.dup()
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (watched,))
    watch.daemon = True
    watch.start()
    try:
        connection.sock = sock
        if is_tls:
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(sock, server_hostname=connection.host)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request("GET", target, headers={"Accept": "application/json"})
        with connection.getresponse() as response:
            if response.status != http.HTTPStatus.OK:
                raise OSError(f"status {response.status}")
            document = response.read(MAX_JWKS_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        problem = error
    finally:
        watch.cancel()
        connection.close()
        sock.close()
        watched.close()
    if time.monotonic() >= deadline:
        raise _too_late()
    if problem is not None:
        raise problem
    if len(document) > MAX_JWKS_BYTES:
        raise ValueError(f"more than {MAX_JWKS_BYTES} bytes")
    return document


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Return a connection to the first of a name's addresses that takes one.

    Raises:
        OSError: None does in time.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    problem: OSError = OSError(f"{host} has no address")
    for i, (family, kind, protocol, _, address) in enumerate(found):
        left = deadline - time.monotonic()
        if left <= 0:
            raise _too_late()
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left / (len(found) - i))  # so that one that is silent leaves some
            sock.connect(address)
        except OSError as error:
            sock.close()
            problem = error
        else:
            sock.settimeout(FETCH_TIMEOUT_S)
            return sock
    raise problem


def _too_late() -> TimeoutError:
    return TimeoutError(f"not complete in {FETCH_TIMEOUT_S:g} s")


def _cut(sock: socket.socket) -> None:
    """End a fetch that takes too long, from another thread."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def parse_jwks(document: bytes) -> list[Key]:
    """Return the keys of a JWKS document (RFC 7517); those for other uses are left out.

    Raises:
        ValueError: It is none, has no usable key or too many, or a name twice.
    """
    try:
        entries = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("not a JWKS document") from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise ValueError(f"not a list of at most {MAX_KEYS} keys")
    found: list[Key] = []
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        kid = entry.get("kid", "")
        if not isinstance(kid, str):
            raise ValueError("a kid is no text")
        try:
            value = jwt.PyJWK(entry, _algorithm_of(entry)).key
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue  # a kind of key that we do not know: others may use it
        algorithms = _algorithms(value)
        named = entry.get("alg")
        if named is not None:
            algorithms = tuple(name for name in algorithms if name == named)
        if algorithms:
            found.append(Key(kid, value, algorithms))
    if not found:
        raise ValueError("no key that a token can be verified with")
    names = [key.kid for key in found]
    if len(set(names)) != len(names):
        raise ValueError("two keys have one kid")
    return found


def load_keys(key: str, jwks: str, algorithms: Sequence[str]) -> list[Key]:
    """Return the keys of a file.

    Args:
        key: File with a public key or certificate in PEM, or an HMAC secret; or empty.
        jwks: File with a JWKS document; or empty.
        algorithms: ``auth.algorithms``.

    Raises:
        ConfigError: The file cannot be read, or has no key for the algorithms.
    """
    field, path = ("auth.key", key) if key else ("auth.jwks", jwks)
    try:
        data = read_file(path, field)
        found = [_read_key(data)] if key else parse_jwks(data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", field=field) from None
    if not any(set(each.algorithms) & set(algorithms) for each in found):
        kinds = ", ".join(sorted({name for each in found for name in each.algorithms}))
        raise ConfigError(
            f"{path}: its keys are for {kinds}, auth.algorithms has {', '.join(algorithms)}",
            field=field,
        )
    return found


def _read_key(data: bytes) -> Key:
    if b"-----BEGIN" in data:
        if b"PRIVATE KEY" in data:
            raise ValueError("a private key: the gateway needs the public one alone")
        value: Any
        if b"BEGIN CERTIFICATE" in data:
            value = load_pem_x509_certificate(data).public_key()
        else:
            value = load_pem_public_key(data)
        algorithms = _algorithms(value)
        if not algorithms:
            raise ValueError("a kind of key that no algorithm uses")
        return Key("", value, algorithms)
    return _read_secret(data)


def read_private_key(data: bytes) -> Key:
    """Return the key that signs: of a private key in PEM, or an HMAC secret.

    Raises:
        ValueError: It is neither.
    """
    if b"-----BEGIN" not in data:
        return _read_secret(data)
    value: Any = load_pem_private_key(data, None)
    algorithms = _algorithms(value.public_key())
    if not algorithms:
        raise ValueError("a kind of key that no algorithm uses")
    return Key("", value, algorithms)


def _read_secret(data: bytes) -> Key:
    secret = data.rstrip(b"\r\n")
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"an HMAC secret has at least {MIN_SECRET_BYTES} bytes")
    return Key("", secret, tuple(_HMAC))


def _algorithm_of(entry: dict[str, Any]) -> str | None:
    """Return an algorithm that PyJWT reads the key's kind by, None where it finds one itself."""
    return "HS256" if entry.get("kty") == "oct" and "alg" not in entry else None


def _algorithms(value: Any) -> tuple[str, ...]:
    """Return the algorithms that a key of this kind can verify."""
    if isinstance(value, bytes):
        return tuple(_HMAC) if len(value) >= MIN_SECRET_BYTES else ()
    if isinstance(value, rsa.RSAPublicKey):
        return _RSA if value.key_size >= 2048 else ()
    if isinstance(value, ec.EllipticCurvePublicKey):
        return _CURVES.get(value.curve.name, ())
    if isinstance(value, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return ("EdDSA",)
    return ()
