"""Why a client is not let in, and the counters of both."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ..observe.metrics import Counter, Counters, Gauge

__all__ = ["AuthCounters", "AuthFailed", "AuthUnavailable", "Reason"]


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
    """The service behind ``auth.mode = "upstream"`` said no."""
    LIMITED = "limited"
    """Too many failures of this address or openid lately."""


@dataclass(slots=True)
class AuthCounters(Counters):
    """What became of authentications."""

    authenticated: Counter = 0
    """Clients let in at START."""
    refused_missing: Counter = 0
    """Clients refused: START carried no token."""
    refused_too_large: Counter = 0
    """Clients refused: the token, or its claims for upstreams, were too large."""
    refused_malformed: Counter = 0
    """Clients refused: it was no token."""
    refused_algorithm: Counter = 0
    """Clients refused: its algorithm is not allowed."""
    refused_unknown_key: Counter = 0
    """Clients refused: no key has its kid."""
    refused_signature: Counter = 0
    """Clients refused: its signature is not by the key."""
    refused_expired: Counter = 0
    """Clients refused: it had expired."""
    refused_not_yet: Counter = 0
    """Clients refused: it is not valid yet."""
    refused_audience: Counter = 0
    """Clients refused: it is for another audience."""
    refused_issuer: Counter = 0
    """Clients refused: another issuer made it."""
    refused_claim: Counter = 0
    """Clients refused: a claim is missing or of the wrong type."""
    refused_openid: Counter = 0
    """Clients refused: it names another openid."""
    refused_denied: Counter = 0
    """Clients refused: the service said no."""
    refused_limited: Counter = 0
    """Clients refused: their address failed too often, or somebody guessed at their openid."""
    unavailable: Counter = 0
    """Clients turned away because nothing could be said: no keys, or no answer of use in time."""
    unusable_answers: Counter = 0
    """Answers of the service that could not be used; each also counts as unavailable."""
    renewed: Counter = 0
    """Credentials renewed by AUTH."""
    keys: Gauge = 0
    """Keys known now."""
    key_refreshes: Counter = 0
    """JWKS documents taken."""
    key_failures: Counter = 0
    """JWKS documents that could not be had or used."""

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
