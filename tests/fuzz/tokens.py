"""Credentials: of any bytes comes an identity that the gateway can use, or the refusal it knows."""

from __future__ import annotations

import base64
import contextlib
import hmac
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import click

from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as up
from gatesvr.auth.applicant import Applicant
from gatesvr.auth.gate import Gate
from gatesvr.auth.jwt import JwtAuthenticator
from gatesvr.auth.keys import StaticKeys, _read_key, parse_jwks, read_private_key
from gatesvr.auth.reasons import AuthCounters, AuthFailed
from gatesvr.cli.token import show_token
from gatesvr.config import load
from gatesvr.errors import ConfigError
from gatesvr.protocol.identity import Identity
from gatesvr.protocol.messages import auth_response_frame
from gatesvr.protocol.saved import SavedState
from gatesvr.session.manager import SessionManager
from gatesvr.session.outcome import StartOutcome
from tests.fakes import FakeLink

from .reader import Reader, chunk

_SECRET = b"a secret of thirty-two bytes, at least"
_NOW = 1_800_000_000.0
_CONFIG = load(
    environ={},
    sets=[
        "auth.mode=jwt",
        "auth.algorithms=['HS256', 'HS384', 'RS256', 'ES256', 'EdDSA']",
        "auth.key=unused",
        "auth.audience=gatesvr",
        "auth.issuer=test",
        "auth.claims=['name', 'roles']",
        "auth.min_refusal_time=0",
    ],
)
_CLAIMS: dict[str, Any] = {"sub": "ann", "aud": "gatesvr", "iss": "test", "exp": 4_000_000_000}


def check(data: bytes) -> None:
    """Use the bytes as a credential or a key of the kind that the first byte says."""
    reader = Reader(data)
    reader.pick(_KINDS)(reader)


def _check_text(reader: Reader) -> None:
    _authenticate(reader.text(), reader.text())


def _check_signed(reader: Reader) -> None:
    """A token with a good signature, whatever its header and its claims are."""
    header, claims = reader.chunk(), reader.chunk()
    signed = _encode(header) + b"." + _encode(claims)
    token = signed + b"." + _encode(hmac.digest(_SECRET, signed, "sha256"))
    _authenticate(token.decode(), reader.text())
    _show(token.decode())


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _authenticate(token: str, openid: str) -> None:
    """Ask the authenticator, then start a session and renew it as the handler does."""
    counters = AuthCounters()
    authenticator = JwtAuthenticator(_CONFIG.auth, counters, _KEYS)
    try:
        identity: Identity | None = authenticator.authenticate_now(Applicant(token, openid))
    except AuthFailed:
        return
    if identity is None:  # nobody knows its key
        return
    assert identity.openid
    assert not openid or openid == identity.openid
    gate = Gate(authenticator, _CONFIG.auth, counters, lambda: 0.0, lambda: _NOW)
    deadline = gate._deadline(identity)
    sessions = SessionManager(_CONFIG.session, _CONFIG.transport, _CONFIG.push, needs_auth=True)
    start = pb.StartRequest(openid=openid, protocol=1)
    outcome: StartOutcome = sessions.start(start, FakeLink(), 0.0, identity, deadline)
    assert outcome.session is not None
    outcome.response.SerializeToString()
    up.PeerInfo.FromString(outcome.session.peer_info)
    auth_response_frame(1, identity.expires_at if deadline != math.inf else 0.0)
    sessions.sweep(1.0)


def _check_shown(reader: Reader) -> None:
    _show(reader.text())


def _show(token: str) -> None:
    callback = show_token.callback
    assert callback is not None
    for as_json in (True, False):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            try:
                callback("." if token == "-" else token, as_json)
            except (ConfigError, click.ClickException):
                return
        text = shown.getvalue()
        # JSON leaves DEL as it is, and terminals ignore it; tabs do no harm.
        assert all(c.isprintable() or c in "\n\t\x7f" for c in text), "a control character"


def _check_key(reader: Reader) -> None:
    data = reader.rest()
    for parse in (parse_jwks, _read_key, read_private_key):
        with contextlib.suppress(ValueError):
            parse(data)


def _check_saved(reader: Reader) -> None:
    """A client's stored resume credentials."""
    try:
        saved = SavedState.decode(reader.rest())
    except ValueError:
        return
    assert SavedState.decode(saved.encode()) == saved


_JWKS = json.dumps(
    {"keys": [{"kty": "oct", "kid": "k1", "k": _encode(_SECRET).decode(), "use": "sig"}]}
).encode()
_KEYS = StaticKeys(parse_jwks(_JWKS))

_KINDS: tuple[Callable[[Reader], None], ...] = (
    _check_text,
    _check_signed,
    _check_shown,
    _check_key,
    _check_saved,
)


def _signed(header: dict[str, Any] | bytes, claims: dict[str, Any] | bytes) -> bytes:
    """Return the data of a signed token."""
    parts = (json.dumps(p).encode() if isinstance(p, dict) else p for p in (header, claims))
    return b"\x01" + b"".join(chunk(part) for part in parts)


def seeds() -> Iterator[bytes]:
    """Yield tokens with sound and odd claims, tokens as text, keys, and stored states."""
    good = {"alg": "HS256", "kid": "k1", "typ": "JWT"}
    yield _signed(good, _CLAIMS)
    for changes in (
        {"exp": 1},
        {"exp": "x"},
        {"nbf": 4_000_000_000},
        {"aud": ["other", "gatesvr"]},
        {"aud": {}},
        {"iss": ["test"]},
        {"sub": 17},
        {"sub": "x" * 200},
        {"sub": "\x00"},
        {"iat": None, "jti": 1},
        {"name": "Ann", "roles": ["a", {"b": 1.5}]},
    ):
        yield _signed(good, {**_CLAIMS, **changes})
    for header in ({"alg": "none"}, {"alg": "ES256"}, {"alg": 1}, {"alg": "HS256", "kid": "k2"}):
        yield _signed(header, _CLAIMS)
    yield _signed({**good, "crit": ["b64"], "b64": False}, _CLAIMS)
    yield _signed(b"{", b"[]")
    signed = _encode(json.dumps(good).encode()) + b"." + _encode(json.dumps(_CLAIMS).encode())
    token = signed + b"." + _encode(hmac.digest(_SECRET, signed, "sha256"))
    for kind in (b"\x00", b"\x02"):
        yield kind + chunk(token) + chunk(b"ann")
        yield kind + chunk(token[:-3])
        yield kind + chunk("a.b.\u00fc".encode())
    yield b"\x03" + _JWKS
    yield b"\x03" + _JWKS.replace(b"oct", b"RSA")
    yield b"\x03" + _SECRET + b"\r\n"
    yield b"\x03-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"
    yield b"\x03-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    saved = SavedState("ann", "phone", "s1", b"0123456789abcdef", 2, 77)
    yield b"\x04" + saved.encode()
    yield b"\x04" + saved.encode().replace(b"77", b"-1")
