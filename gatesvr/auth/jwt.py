"""JwtAuthenticator: a client is who its JSON Web Token says it is (RFC 7519).

PyJWT reads keys and headers and verifies signatures. A token is taken apart here, once, and its
claims are checked here: PyJWT's decode() does both at six times the cost of an HMAC token's
signature check and all else together.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jwt
import msgspec

from ..protocol.identity import MAX_CLAIMS_BYTES, MAX_EXPIRES_AT, Identity
from ..protocol.messages import MAX_OPENID_BYTES, is_valid_text
from .applicant import MAX_TOKEN_BYTES, Applicant
from .keys import Key, KeysMissing, KeySource, StaticKeys, UrlKeys, load_keys
from .reasons import AuthFailed, AuthUnavailable, Reason

if TYPE_CHECKING:
    from ..config import AuthConfig
    from .reasons import AuthCounters

__all__ = ["JwtAuthenticator"]

KEYS_TIMEOUT_S = 15.0
"""Longest wait for keys; then nothing can be said."""
MAX_HEADERS = 256
"""Headers remembered, of tokens that were good. An issuer makes one for each of its keys."""
_FROM_URL = bytes.maketrans(b"-_+/", b"+/!!")  # "!" is in neither alphabet


class JwtAuthenticator:
    """Verifies tokens.

    Args:
        config: Where the keys are, and what a token has to say.
        counters: Where to count.
        keys: The keys, by default those that the configuration names.
        wall_clock: Seconds since the epoch.

    Raises:
        ConfigError: The keys cannot be read.
    """

    def __init__(
        self,
        config: AuthConfig,
        counters: AuthCounters,
        keys: KeySource | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._wall_clock = wall_clock
        self._algorithms = frozenset(config.algorithms)
        self._headers: dict[bytes, tuple[str, str]] = {}  # segment: algorithm and kid
        if keys is not None:
            self._keys = keys
        elif config.jwks.startswith(("https://", "http://")):
            self._keys = UrlKeys(config.jwks, config.jwks_refresh, config.jwks_max_stale, counters)
        else:
            self._keys = StaticKeys(load_keys(config.key, config.jwks, config.algorithms))
        self._counters = counters

    @property
    def is_fresh(self) -> bool:
        """Whether the keys are kept fresh; files are read once."""
        return isinstance(self._keys, UrlKeys)

    def start(self) -> None:
        """Keep the keys fresh."""
        if isinstance(self._keys, StaticKeys):
            self._counters.keys = len(self._keys)
        self._keys.start()

    async def stop(self) -> None:
        """Stop that."""
        await self._keys.stop()

    async def authenticate(self, applicant: Applicant) -> Identity:
        """Return who the token's bearer is, after a look for new keys.

        Raises:
            AuthFailed: The token is not good, or names another openid.
            AuthUnavailable: There are no keys to verify it with.
        """
        identity = self.authenticate_now(applicant)
        if identity is None:
            _, kid = _read_header(applicant.token.encode())
            identity = self.authenticate_now(applicant, await self._look_again(kid))
            assert identity is not None
        return identity

    def authenticate_now(self, applicant: Applicant, key: Key | None = None) -> Identity | None:
        """Return who the token's bearer is, None where its key is not known.

        Args:
            applicant: The bearer.
            key: The token's key, None for the one that is known.

        Raises:
            AuthFailed: The token is not good, or names another openid.
        """
        openid = applicant.openid
        token = _checked_text(applicant.token)
        signed, _, signature = token.rpartition(b".")
        header, _, payload = signed.partition(b".")
        algorithm, kid = self._headers.get(header) or _read_header(token)
        if algorithm not in self._algorithms:
            raise AuthFailed(Reason.ALGORITHM, algorithm[:16])
        key = key or self._keys.find(kid)
        if key is None:
            return None
        if algorithm not in key.algorithms:
            raise AuthFailed(Reason.ALGORITHM, algorithm)
        try:
            is_good = key.verify(algorithm, signed, _from_base64url(signature))
        except jwt.InvalidKeyError as error:
            raise AuthFailed(Reason.ALGORITHM, str(error)[:200]) from None
        if not is_good:
            raise AuthFailed(Reason.SIGNATURE)
        if header not in self._headers and len(self._headers) < MAX_HEADERS:
            self._headers[header] = algorithm, kid
        claims = _read_claims(payload)
        expires_at = self._check_claims(claims)
        name = claims.get(self._config.openid_claim)
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not name or not is_valid_text(name, MAX_OPENID_BYTES):
            raise AuthFailed(Reason.CLAIM, self._config.openid_claim)
        if openid and openid != name:
            raise AuthFailed(Reason.OPENID)
        subject = claims.get("sub", "")
        return Identity(
            openid=name,
            subject=subject if isinstance(subject, str) else "",
            claims=_chosen(claims, self._config.claims),
            expires_at=float(min(expires_at, MAX_EXPIRES_AT)),
        )

    async def _look_again(self, kid: str) -> Key:
        try:
            async with asyncio.timeout(KEYS_TIMEOUT_S):
                key = await self._keys.look_again(kid)
        except KeysMissing as error:
            raise AuthUnavailable(str(error)) from None
        except TimeoutError:
            raise AuthUnavailable("the keys do not come") from None
        if key is None:
            raise AuthFailed(Reason.UNKNOWN_KEY, kid[:64])
        return key

    def _check_claims(self, claims: Mapping[str, Any]) -> int:
        """Check the claims that RFC 7519 4.1 defines; return ``exp``.

        Raises:
            AuthFailed: One of them says no, or is missing.
        """
        config = self._config
        now = self._wall_clock()
        for name in ("exp", "aud", "iss"):
            if claims.get(name) is None:
                raise AuthFailed(Reason.CLAIM, name)
        if "iat" in claims and _seconds(claims, "iat", Reason.CLAIM) > now + config.leeway:
            raise AuthFailed(Reason.NOT_YET, "iat")
        if "nbf" in claims and _seconds(claims, "nbf") > now + config.leeway:
            raise AuthFailed(Reason.NOT_YET, "nbf")
        expires_at = _seconds(claims, "exp")
        if expires_at <= now - config.leeway:
            raise AuthFailed(Reason.EXPIRED)
        if claims["iss"] != config.issuer:
            raise AuthFailed(Reason.ISSUER)
        audience = claims["aud"]
        if audience != config.audience and not (
            isinstance(audience, list) and config.audience in audience
        ):
            raise AuthFailed(Reason.AUDIENCE)
        for name in ("sub", "jti"):
            if name in claims and not isinstance(claims[name], str):
                raise AuthFailed(Reason.CLAIM, name)
        return expires_at


def _checked_text(token: str) -> bytes:
    """Return a token's text, if it can be one."""
    if not token:
        raise AuthFailed(Reason.MISSING)
    if len(token) > MAX_TOKEN_BYTES:
        raise AuthFailed(Reason.TOO_LARGE, f"{len(token)} bytes")
    if not token.isascii():
        raise AuthFailed(Reason.MALFORMED)
    return token.encode()


def _read_header(token: bytes) -> tuple[str, str]:
    """Return the algorithm and the key's name, which nothing vouches for yet."""
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise AuthFailed(Reason.MALFORMED) from None
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(kid, str):
        raise AuthFailed(Reason.MALFORMED)
    if header.get("b64", True) is not True:  # the payload would stand elsewhere (RFC 7797)
        raise AuthFailed(Reason.MALFORMED)
    return algorithm, kid


def _read_claims(payload: bytes) -> dict[str, Any]:
    """Return the claims of a token whose signature is good."""
    try:
        claims = msgspec.json.decode(_from_base64url(payload))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise AuthFailed(Reason.MALFORMED) from None
    if not isinstance(claims, dict):
        raise AuthFailed(Reason.MALFORMED)
    return claims


def _from_base64url(segment: bytes) -> bytes:
    """Return the bytes of a segment; it is their only form but for the padding (RFC 7515 2)."""
    text = segment.translate(_FROM_URL)
    text += b"=" * (-len(text) % 4)
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise AuthFailed(Reason.MALFORMED) from None
    if binascii.b2a_base64(data, newline=False) != text:
        raise AuthFailed(Reason.MALFORMED)
    return data


def _seconds(claims: Mapping[str, Any], name: str, reason: Reason = Reason.MALFORMED) -> int:
    """Return a claim that is a time, as whole seconds since the epoch."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AuthFailed(reason, name)
    try:
        return int(value)
    except (ValueError, OverflowError):  # NaN, infinity
        raise AuthFailed(reason, name) from None


def _chosen(claims: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    size = 0
    for name in names:
        if name not in claims:
            continue
        value = claims[name]
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        size += len(name.encode()) + len(text.encode())
        if size > MAX_CLAIMS_BYTES:
            raise AuthFailed(Reason.TOO_LARGE, "claims")
        chosen[name] = text
    return chosen
