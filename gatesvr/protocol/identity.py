"""Identity: who a client has proved to be (PROTOCOL 3.10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["MAX_CLAIMS_BYTES", "MAX_EXPIRES_AT", "Identity"]

MAX_CLAIMS_BYTES = 4_096
"""Names and values of the claims that go to upstreams."""
MAX_EXPIRES_AT = 253_402_300_799
"""The end of the year 9999: a later expiry counts as this, which fits into every field."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is.

    Attributes:
        openid: The user.
        subject: The token's ``sub``, or the service's word; for upstreams.
        claims: The claims named in ``auth.claims``, text as it is, all else as JSON; or those of
            the service; for upstreams.
        expires_at: Seconds since the epoch when it ends, 0 for never.
    """

    openid: str
    subject: str = ""
    claims: Mapping[str, str] = field(default_factory=dict)
    expires_at: float = 0.0
