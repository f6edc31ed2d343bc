"""JwtAuthenticator: a client is who its JSON Web Token says it is (RFC 7519)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jwt
from jwt.exceptions import InvalidJTIError, InvalidSubjectError

from ..protocol.identity import MAX_CLAIMS_BYTES, MAX_EXPIRES_AT, Identity
from ..protocol.messages import MAX_OPENID_BYTES, is_valid_text
from .applicant import MAX_TOKEN_BYTES, Applicant
from .keys import Key, KeysMissing, KeySource, StaticKeys, UrlKeys, load_keys
from .reasons import AuthFailed, AuthUnavailable, Reason

if TYPE_CHECKING:
    from ..config import AuthConfig
    from .reasons import AuthCounters

__all__ = ["JwtAuthenticator"]

# PyJWT's errors, the special ones before those that they derive from.
_REASONS: tuple[tuple[type[jwt.PyJWTError], Reason], ...] = (
    (jwt.ExpiredSignatureError, Reason.EXPIRED),
    (jwt.ImmatureSignatureError, Reason.NOT_YET),
    (jwt.InvalidAudienceError, Reason.AUDIENCE),
    (jwt.InvalidIssuerError, Reason.ISSUER),
    (jwt.MissingRequiredClaimError, Reason.CLAIM),
    (jwt.InvalidIssuedAtError, Reason.CLAIM),
    (InvalidSubjectError, Reason.CLAIM),
    (InvalidJTIError, Reason.CLAIM),
    (jwt.InvalidAlgorithmError, Reason.ALGORITHM),
    (jwt.InvalidKeyError, Reason.ALGORITHM),
    (jwt.InvalidSignatureError, Reason.SIGNATURE),
)


class JwtAuthenticator:
    """Verifies tokens.

    Args:
        config: Where the keys are, and what a token has to say.
        counters: Where to count.

    Raises:
        ConfigError: The keys cannot be read.
    """

    def __init__(
        self, config: AuthConfig, counters: AuthCounters, keys: KeySource | None = None
    ) -> None:
        self._config = config
        self._algorithms = tuple(config.algorithms)
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
        """Return who the token's bearer is.

        Raises:
            AuthFailed: The token is not good, or names another openid.
            AuthUnavailable: There are no keys to verify it with.
        """
        token, openid = applicant.token, applicant.openid
        algorithm, kid = _read_header(token)
        if algorithm not in self._algorithms:
            raise AuthFailed(Reason.ALGORITHM, algorithm[:16])
        key = await self._find_key(kid)
        claims = self._verify(token, algorithm, key)
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
            subject=_encodable("sub", subject) if isinstance(subject, str) else "",
            claims=_chosen(claims, self._config.claims),
            expires_at=float(min(int(claims["exp"]), MAX_EXPIRES_AT)),
        )

    async def _find_key(self, kid: str) -> Key:
        try:
            key = self._keys.find(kid) or await self._keys.look_again(kid)
        except KeysMissing as error:
            raise AuthUnavailable(str(error)) from None
        if key is None:
            raise AuthFailed(Reason.UNKNOWN_KEY, kid[:64])
        return key

    def _verify(self, token: str, algorithm: str, key: Key) -> dict[str, Any]:
        if algorithm not in key.algorithms:
            raise AuthFailed(Reason.ALGORITHM, algorithm)
        config = self._config
        try:
            return jwt.decode(
                token,
                key.value,
                algorithms=[algorithm],
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway,
                options={"require": ["exp", "aud", "iss"]},
            )
        except jwt.PyJWTError as error:
            reason = next(
                (reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.MALFORMED
            )
            raise AuthFailed(reason, str(error)[:200]) from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise AuthFailed(Reason.MALFORMED) from None


def _read_header(token: str) -> tuple[str, str]:
    """Return the algorithm and the key's name, which nothing vouches for yet."""
    if not token:
        raise AuthFailed(Reason.MISSING)
    if len(token) > MAX_TOKEN_BYTES:
        raise AuthFailed(Reason.TOO_LARGE, f"{len(token)} bytes")
    if not token.isascii():
        raise AuthFailed(Reason.MALFORMED)
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise AuthFailed(Reason.MALFORMED) from None
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or not isinstance(kid, str):
        raise AuthFailed(Reason.MALFORMED)
    return algorithm, kid


def _chosen(claims: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    size = 0
    for name in names:
        if name not in claims:
            continue
        value = claims[name]
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        size += len(name.encode()) + len(_encodable(name, text).encode())
        if size > MAX_CLAIMS_BYTES:
            raise AuthFailed(Reason.TOO_LARGE, "claims")
        chosen[name] = text
    return chosen


def _encodable(name: str, text: str) -> str:
    """Return a claim's text unless it has a lone surrogate, as JSON may and protobuf may not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AuthFailed(Reason.CLAIM, name) from None
    return text
