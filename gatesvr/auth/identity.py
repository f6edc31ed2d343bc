"""What authentication comes to: an identity, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..observe.metrics import Counters

__all__ = ["AuthCounters", "AuthFailed", "AuthUnavailable", "Identity", "Reason"]


class Reason(StrEnum):
    """Why a client is not let in. Each has a counter; clients are not told which it is."""

    MISSING = "missing"
    """START carries no token."""
    TOO_LARGE = "too_large"
    """The token, or its claims for upstreams, are above MAX_TOKEN_BYTES or MAX_CLAIMS_BYTES."""
    MALFORMED = "malformed"
    """It is no token."""
    ALGORITHM = "algorithm"
    """Its algorithm is not one of ``auth.algorithms``, or does not fit the key."""
    UNKNOWN_KEY = "unknown_key"
    """No key has its ``kid``."""
    SIGNATURE = "signature"
    """It was not signed with the key."""
    EXPIRED = "expired"
    """Its ``exp`` has passed."""
    NOT_YET = "not_yet"
    """Its ``nbf`` or ``iat`` lies ahead."""
    AUDIENCE = "audience"
    """It is for another audience."""
    ISSUER = "issuer"
    """Another issuer made it."""
    CLAIM = "claim"
    """A claim is missing or of the wrong type."""
    OPENID = "openid"
    """It names another openid than START, or the session that START resumes."""
    DENIED = "denied"
    """The service of ``auth.mode = "upstream"`` said no."""
    LIMITED = "limited"
    """Too many failures of this address or openid lately."""


@dataclass(slots=True)
class AuthCounters(Counters):
    """What became of authentications."""

    authenticated: int = 0
    refused_missing: int = 0
    refused_too_large: int = 0
    refused_malformed: int = 0
    refused_algorithm: int = 0
    refused_unknown_key: int = 0
    refused_signature: int = 0
    refused_expired: int = 0
    refused_not_yet: int = 0
    refused_audience: int = 0
    refused_issuer: int = 0
    refused_claim: int = 0
    refused_openid: int = 0
    refused_denied: int = 0
    refused_limited: int = 0
    unavailable: int = 0
    renewed: int = 0
    expired_sessions: int = 0
    keys: int = 0  # keys known now (a gauge)
    key_refreshes: int = 0
    key_failures: int = 0

    def refused(self, reason: Reason) -> None:
        """Count a refusal."""
        name = f"refused_{reason}"
        setattr(self, name, getattr(self, name) + 1)


class AuthFailed(Exception):
    """The client is not who it says it is, or cannot prove it.

    Attributes:
        reason: Why, for the counter and the log.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class AuthUnavailable(Exception):
    """Nothing can be said now: no keys, or the service does not answer. Nobody is let in."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        openid: The user.
        subject: The token's ``sub``.
        claims: The claims named in ``auth.claims``, for upstreams; text as it is, all else as JSON.
        expires_at: Seconds since the epoch when it ends, 0 for never.
    """

    openid: str
    subject: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    expires_at: float = 0.0
