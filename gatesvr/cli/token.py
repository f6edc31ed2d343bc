"""``gatesvr token``."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError
from .files import refuse_existing, write_file
from .options import DURATION, PAIR
from .terminal import echo, escape_control

__all__ = ["command"]


@click.group()
def command() -> None:
    """Make and show tokens to test auth.mode = "jwt" with.

    \b
    gatesvr token key
    gatesvr serve --demo --set auth.mode=jwt --set "auth.algorithms=['ES256']" \\
      --set auth.key=token.pub --set auth.audience=gatesvr --set auth.issuer=test
    gatesvr call echo --openid ann --token "$(gatesvr token make ann)"
    """


@command.command("key")
@click.option("--private", default="token.key", show_default=True, help="File for the private key.")
@click.option("--public", default="token.pub", show_default=True, help="File for the public key.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def make_key(private: str, public: str, force: bool) -> None:
    """Write a key pair for ES256."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    if private == public:
        raise click.UsageError("--private and --public must be two files")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    half = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if not force:
        refuse_existing(private, public)
    write_file(private, pem, 0o600)
    write_file(public, half, 0o644)
    echo(f"private  {private}\npublic   {public}")


@command.command("make")
@click.argument("openid")
@click.option(
    "--key",
    "path",
    default="token.key",
    show_default=True,
    help="File with the private key (PEM) or the HMAC secret.",
)
@click.option(
    "--alg", "algorithm", default="", help="Algorithm.  [default: the first that fits the key]"
)
@click.option("--kid", default="", help="Name of the key.")
@click.option("--audience", default="gatesvr", show_default=True, help="Claim aud.")
@click.option("--issuer", default="test", show_default=True, help="Claim iss.")
@click.option("--expires", type=DURATION, default="1h", show_default=True, help="From now.")
@click.option(
    "--claim", "extra", type=PAIR, multiple=True, help="NAME=VALUE, JSON or text; repeatable."
)
def make_token(
    openid: str,
    path: str,
    algorithm: str,
    kid: str,
    audience: str,
    issuer: str,
    expires: float,
    extra: tuple[tuple[str, str], ...],
) -> None:
    """Print a token for OPENID."""
    import jwt

    from ..auth.keys import read_private_key

    try:
        key = read_private_key(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(error.strerror or str(error), source=path) from None
    except ValueError as error:
        raise ConfigError(str(error), source=path) from None
    algorithm = algorithm or key.algorithms[0]
    if algorithm not in key.algorithms:
        raise ConfigError(
            f"{algorithm!r} does not fit the key ({', '.join(key.algorithms)})", field="--alg"
        )
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": openid,
        "aud": audience,
        "iss": issuer,
        "iat": now,
        "exp": now + int(expires),
        **{name: _value(text) for name, text in extra},
    }
    try:
        token = jwt.encode(
            claims, key.value, algorithm=algorithm, headers={"kid": kid} if kid else None
        )
    except (jwt.PyJWTError, TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None
    echo(token)


@command.command("show")
@click.argument("token")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show_token(token: str, as_json: bool) -> None:
    """Print what TOKEN says; nothing is verified. "-" reads it from standard input."""
    import jwt

    if token == "-":  # noqa: S105
        token = sys.stdin.read().strip()
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"no token: {error}") from None
    if as_json:
        echo(json.dumps({"header": header, "claims": claims}))
        return
    for title, values in (("header", header), ("claims", claims)):
        for name, value in values.items():
            text = value if isinstance(value, str) else json.dumps(value)
            line = f"{title:7} {name:8} {text}{_when(name, value)}"
            # A token from elsewhere may hold what a terminal obeys, or lines of its own.
            echo(escape_control(line).replace("\n", "\\n"))


def _when(name: str, value: Any) -> str:
    """Return the time that a claim is, as people read it."""
    if name not in ("exp", "nbf", "iat") or not isinstance(value, int | float):
        return ""
    try:
        at = datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    state = " expired" if name == "exp" and value < time.time() else ""
    return f"  ({at:%Y-%m-%d %H:%M:%S} UTC{state})"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
