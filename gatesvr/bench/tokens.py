"""TokenSigner: gives each client of a load a token of its own."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TokenSigner"]


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """Makes JSON Web Tokens that last for the whole run.

    Attributes:
        key: The private key (PEM) or the HMAC secret.
        algorithm: That fits it.
        audience: Claim aud.
        issuer: Claim iss.
        expires_at: Claim exp, seconds since the epoch.
    """

    key: bytes
    algorithm: str
    audience: str
    issuer: str
    expires_at: int

    def sign(self, openid: str) -> str:
        """Return a token for an openid."""
        import jwt

        claims = {
            "sub": openid,
            "aud": self.audience,
            "iss": self.issuer,
            "exp": self.expires_at,
        }
        return jwt.encode(claims, self.key, algorithm=self.algorithm)
