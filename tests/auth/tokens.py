"""Keys and tokens for the tests."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["EC", "ED", "RSA", "SECRET", "claims", "forged", "jwks", "pem", "token"]

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
SECRET = b"a secret of thirty-two bytes, at least"


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims with some changed; None leaves one out."""
    now = int(time.time())
    made = {"sub": "alice", "aud": "gatesvr", "iss": "https://id.test", "exp": now + 600, **changes}
    return {name: value for name, value in made.items() if value is not None}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = None, **changes: Any) -> str:
    """Return a token."""
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def forged(header: dict[str, Any]) -> str:
    """Return a token with any header, signed by HS256 with the public key's text as the secret."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims()).encode())}"
    return f"{signed}.{part(hmac.digest(pem(), signed.encode(), 'sha256'))}"


def pem(key: Any = RSA) -> bytes:
    """Return a private key's public half."""
    public: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def jwks(**named: Any) -> bytes:
    """Return a JWKS document of private keys by their kid."""
    algorithms = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    entries = []
    for kid, key in named.items():
        kind = next(made for base, made in algorithms.items() if isinstance(key, base))
        entries.append({**json.loads(kind.to_jwk(key.public_key())), "kid": kid, "use": "sig"})
    return json.dumps({"keys": entries}).encode()
