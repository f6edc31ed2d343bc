"""Tokens that are good, and every way in which one is not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest

from gatesvr.auth.applicant import Applicant
from gatesvr.auth.jwt import JwtAuthenticator
from gatesvr.auth.keys import (
    Key,
    KeysMissing,
    StaticKeys,
    UrlKeys,
    fetch_url,
    load_keys,
    parse_jwks,
)
from gatesvr.auth.reasons import AuthCounters, AuthFailed, AuthUnavailable, Reason
from gatesvr.config import AuthConfig
from gatesvr.errors import ConfigError
from gatesvr.protocol.identity import MAX_EXPIRES_AT
from gatesvr.protocol.messages import auth_response_frame

from ..fakes import until
from .servers import jwks_server
from .tokens import EC, ED, RSA, SECRET, claims, forged, jwks, pem, token


def config(**changes: Any) -> AuthConfig:
    values = {
        "mode": "jwt",
        "algorithms": ["RS256", "ES256", "EdDSA"],
        "jwks": "keys.json",
        "audience": "gatesvr",
        "issuer": "https://id.test",
        **changes,
    }
    return AuthConfig(**values)


def authenticator(document: bytes | None = None, **changes: Any) -> JwtAuthenticator:
    keys = StaticKeys(parse_jwks(document or jwks(r=RSA, e=EC, d=ED)))
    return JwtAuthenticator(config(**changes), AuthCounters(), keys)


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "d")]
)
async def test_good_token(key: Any, algorithm: str, kid: str) -> None:
    identity = await authenticator(claims=["role", "level", "none"]).authenticate(
        Applicant(token(key, algorithm, kid, role="admin", level=[1, 2]))
    )
    assert (identity.openid, identity.subject) == ("alice", "alice")
    assert identity.claims == {"role": "admin", "level": "[1,2]"}
    assert identity.expires_at > time.time()


async def test_openid_is_the_tokens_or_the_same() -> None:
    checks = authenticator(openid_claim="uid")
    assert (await checks.authenticate(Applicant(token(kid="r", uid=17)))).openid == "17"
    assert (await checks.authenticate(Applicant(token(kid="r", uid=17), "17"))).openid == "17"
    with pytest.raises(AuthFailed) as caught:
        await checks.authenticate(Applicant(token(kid="r", uid=17), "18"))
    assert caught.value.reason is Reason.OPENID


NOW = int(time.time())


def unsigned() -> str:
    return jwt.encode(claims(), None, algorithm="none")


def signed(payload: bytes) -> str:
    return jwt.PyJWS().encode(payload, RSA, "RS256", {"kid": "r"})


def other_form(text: str) -> str:
    """Return a token whose last character has other bits where they do not count."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


BAD: dict[str, tuple[Any, Reason]] = {
    "none at all": (lambda: "", Reason.MISSING),
    "expired": (lambda: token(kid="r", exp=NOW - 3_600), Reason.EXPIRED),
    "not yet valid": (lambda: token(kid="r", nbf=NOW + 3_600), Reason.NOT_YET),
    "wrong audience": (lambda: token(kid="r", aud="other"), Reason.AUDIENCE),
    "no audience": (lambda: token(kid="r", aud=None), Reason.CLAIM),
    "wrong issuer": (lambda: token(kid="r", iss="https://evil.test"), Reason.ISSUER),
    "no issuer": (lambda: token(kid="r", iss=None), Reason.CLAIM),
    "no expiry": (lambda: token(kid="r", exp=None), Reason.CLAIM),
    "expiry is text": (lambda: token(kid="r", exp="soon"), Reason.MALFORMED),
    "expiry is true": (lambda: token(kid="r", exp=True), Reason.MALFORMED),
    "expiry is no number": (lambda: token(kid="r", exp=float("nan")), Reason.MALFORMED),
    "issued later": (lambda: token(kid="r", iat=NOW + 3_600), Reason.NOT_YET),
    "audiences without ours": (lambda: token(kid="r", aud=["a", "b"]), Reason.AUDIENCE),
    "jti is a number": (lambda: token(kid="r", jti=7), Reason.CLAIM),
    "payload elsewhere": (
        lambda: forged({"alg": "RS256", "kid": "r", "b64": False, "crit": ["b64"]}),
        Reason.MALFORMED,
    ),
    "critical header that is not known": (
        lambda: forged({"alg": "RS256", "kid": "r", "crit": ["x"], "x": 1}),
        Reason.MALFORMED,
    ),
    "claims that are a list": (lambda: signed(b"[]"), Reason.MALFORMED),
    "claims that are no UTF-8": (lambda: signed(b'{"a":"\xff"}'), Reason.MALFORMED),
    "signature in two forms": (lambda: other_form(token(kid="r")), Reason.MALFORMED),
    "plain base64": (lambda: token(kid="r").replace("_", "/") + "+", Reason.MALFORMED),
    "alg none": (unsigned, Reason.ALGORITHM),
    "HS256 with the public key": (lambda: forged({"alg": "HS256", "kid": "r"}), Reason.ALGORITHM),
    "not in algorithms": (lambda: token(RSA, "PS256", "r"), Reason.ALGORITHM),
    "another kind of key": (lambda: token(EC, "ES256", "r"), Reason.ALGORITHM),
    "another key's kid": (lambda: token(ED, "EdDSA", "d")[:-8] + "AAAAAAAA", Reason.SIGNATURE),
    "unknown kid": (lambda: token(kid="x"), Reason.UNKNOWN_KEY),
    "no kid": (lambda: token(), Reason.UNKNOWN_KEY),
    "huge": (lambda: token(kid="r", pad="x" * 9_000), Reason.TOO_LARGE),
    "bad UTF-8": (lambda: "\udcff" * 20, Reason.MALFORMED),
    "not base64": (lambda: "a.b.c", Reason.MALFORMED),
    "no dots": (lambda: "token", Reason.MALFORMED),
    "kid is a number": (
        lambda: forged({"alg": "RS256", "kid": 7}),
        Reason.MALFORMED,
    ),
    "no openid": (lambda: token(kid="r", sub=None), Reason.CLAIM),
    "openid too long": (lambda: token(kid="r", sub="a" * 129), Reason.CLAIM),
    "openid with a control character": (lambda: token(kid="r", sub="a\nb"), Reason.CLAIM),
    "openid is a list": (lambda: token(kid="r", sub=["a"]), Reason.CLAIM),
    "claims too large": (lambda: token(kid="r", role="x" * 5_000), Reason.TOO_LARGE),
    "a claim that is no Unicode": (lambda: token(kid="r", role="\ud83d"), Reason.MALFORMED),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_token(name: str) -> None:
    make, reason = BAD[name]
    with pytest.raises(AuthFailed) as caught:
        await authenticator(claims=["role"]).authenticate(Applicant(make()))
    assert caught.value.reason is reason


async def test_one_audience_of_several() -> None:
    shown = token(kid="r", aud=["other", "gatesvr"])
    assert (await authenticator().authenticate(Applicant(shown))).openid == "alice"


async def test_headers_of_good_tokens_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's tokens, whose headers may be anything, are not remembered."""
    read: list[object] = []

    def read_header(text: bytes) -> Any:
        read.append(text)
        return unverified(text)

    unverified = jwt.get_unverified_header
    monkeypatch.setattr(jwt, "get_unverified_header", read_header)
    checks = authenticator()
    for _ in range(3):
        assert checks.authenticate_now(Applicant(token(kid="r")))
        with pytest.raises(AuthFailed):
            checks.authenticate_now(Applicant(forged({"alg": "RS256", "kid": "r", "x": 1})))
    assert len(read) == 1 + 3


async def test_leeway_forgives_clocks() -> None:
    late = token(kid="r", exp=int(time.time()) - 5)
    assert (await authenticator().authenticate(Applicant(late))).openid == "alice"
    with pytest.raises(AuthFailed):
        await authenticator(leeway=0).authenticate(Applicant(late))


@pytest.mark.parametrize("expires_at", [10**12, 10**18, 10**400])
async def test_an_expiry_that_no_field_holds(expires_at: int) -> None:
    """It is taken for the end of the year 9999."""
    identity = await authenticator().authenticate(Applicant(token(kid="r", exp=expires_at)))
    assert identity.expires_at == MAX_EXPIRES_AT
    assert auth_response_frame(1, identity.expires_at)


async def test_hmac_secret() -> None:
    secret = StaticKeys([Key("", SECRET, ("HS256",))])
    checks = JwtAuthenticator(config(algorithms=["HS256"]), AuthCounters(), secret)
    assert (await checks.authenticate(Applicant(token(SECRET, "HS256")))).openid == "alice"
    with pytest.raises(AuthFailed) as caught:
        await checks.authenticate(Applicant(token(SECRET + b"x", "HS256")))
    assert caught.value.reason is Reason.SIGNATURE


# Keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "algorithms", "problem"),
    [
        (pem(RSA), ["RS256"], ""),
        (pem(EC), ["ES256"], ""),
        (SECRET, ["HS256"], ""),
        (pem(RSA), ["HS256"], "PS256, .*auth.algorithms has HS256"),
        (b"short", ["HS256"], "32 bytes"),
        (b"-----BEGIN PRIVATE KEY-----", ["RS256"], "private key"),
        (b"-----BEGIN PUBLIC KEY-----\nrubbish", ["RS256"], "key.pem"),
    ],
)
def test_key_file(content: bytes, algorithms: list[str], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    if problem:
        with pytest.raises(ConfigError, match=problem) as caught:
            load_keys(str(path), "", algorithms)
        assert caught.value.field == "auth.key"
    else:
        assert len(load_keys(str(path), "", algorithms)) == 1


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"keys": 7}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "RSA"}]}',
        b'{"keys": [{"kty": "oct", "k": "YWJj", "kid": "short"}]}',
        jwks(a=RSA).replace(b'"sig"', b'"enc"'),
        b'{"keys": [' + b",".join([jwks(a=RSA)[10:-2]] * 2) + b"]}",
        b"[" * 100_000,
    ],
)
def test_documents_without_keys(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"key|JWKS"):
        parse_jwks(document)


class Url:
    """A JWKS URL that a test scripts, and the clock of its keys."""

    def __init__(self) -> None:
        self.answers: list[bytes | Exception] = []
        self.now = 1_000.0
        self.asked = 0
        self.counters = AuthCounters()
        self.keys = UrlKeys("https://id.test/keys", 300, 600, self.counters, self._fetch, self._now)

    def _fetch(self, url: str) -> bytes:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _now(self) -> float:
        return self.now


async def test_rotated_key_is_looked_for_once_in_30_s() -> None:
    url = Url()
    url.answers = [jwks(a=RSA), jwks(a=RSA), jwks(a=RSA, b=EC)]
    checks = JwtAuthenticator(config(), url.counters, url.keys)
    assert url.keys.find("a") is None
    assert await url.keys.look_again("a") is not None
    new = token(EC, "ES256", "b")
    for elapsed, asked in ((31, 2), (29, 2), (2, 3)):
        url.now += elapsed
        if asked < 3:
            with pytest.raises(AuthFailed) as caught:
                await checks.authenticate(Applicant(new))
            assert caught.value.reason is Reason.UNKNOWN_KEY
        else:
            assert (await checks.authenticate(Applicant(new))).openid == "alice"
        assert url.asked == asked
    assert url.counters.key_refreshes == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"what is HTTP?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.0 200 OK\r\n" + b"X: y\r\n" * 200,
        b"HTTP/1.0 200 OK\r\n\r\n"
        + json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": 7, "y": 7}]}).encode(),
    ],
    ids=["no status", "no chunk", "headers", "odd key"],
)
async def test_keys_are_fetched_again_whatever_the_server_said(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.auth.keys.RETRY_S", 0.01)
    async with jwks_server(b"") as server:
        server.raw = answer
        keys = UrlKeys(server.url, 300, 600, AuthCounters())
        keys.start()
        await until(lambda: server.asked > 2)
        with pytest.raises(KeysMissing):
            await keys.look_again("a")
        server.raw, server.document = b"", jwks(a=RSA)
        await until(lambda: keys.find("a") is not None)
        await keys.stop()


@pytest.mark.parametrize("begin", [b"HTTP/1.0 200 OK\r\nX: ", b"HTTP/1.0 200 OK\r\n\r\n"])
async def test_a_server_that_drips_is_cut_off(
    begin: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatesvr.auth.keys.FETCH_TIMEOUT_S", 0.3)
    async with jwks_server(b"") as server:
        server.raw, server.drips = begin, True
        began = time.monotonic()
        with pytest.raises(OSError, match="not complete"):
            await asyncio.to_thread(fetch_url, server.url)
        assert time.monotonic() - began < 2.0


async def test_a_server_that_drips_its_tls_handshake_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gatesvr.auth.keys.FETCH_TIMEOUT_S", 0.3)
    async with jwks_server(b"") as server:
        server.raw, server.drips, server.is_prompt = b"\x16\x03\x03\x40\x00", True, True
        with pytest.raises(OSError, match="not complete"):
            await asyncio.to_thread(fetch_url, server.url.replace("http:", "https:"))


async def test_the_look_up_of_a_name_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("gatesvr.auth.keys.time", SimpleNamespace(monotonic=lambda: now))
    look_up = socket.getaddrinfo

    def look_up_slowly(*args: Any, **more: Any) -> Any:
        nonlocal now
        now += 6.0
        return look_up(*args, **more)

    async with jwks_server(jwks(a=RSA)) as server:
        assert parse_jwks(await asyncio.to_thread(fetch_url, server.url))
        monkeypatch.setattr(socket, "getaddrinfo", look_up_slowly)
        with pytest.raises(OSError, match="not complete"):
            await asyncio.to_thread(fetch_url, server.url)
        assert server.asked == 1


async def test_another_address_of_the_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async with jwks_server(jwks(a=RSA)) as server:
        look_up = socket.getaddrinfo

        def look_up_two(host: str, port: int, **more: Any) -> Any:
            found = look_up(host, port, **more)
            return [look_up("127.0.0.1", 1, **more)[0], *found]

        monkeypatch.setattr(socket, "getaddrinfo", look_up_two)
        assert parse_jwks(await asyncio.to_thread(fetch_url, server.url))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **b: look_up("127.0.0.1", 1, **b))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(fetch_url, server.url)


async def test_a_fetch_that_is_too_late_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.auth.keys.FETCH_TIMEOUT_S", 0.05)
    may_end, asked = threading.Event(), 0

    def fetch(url: str) -> bytes:
        nonlocal asked
        asked += 1
        may_end.wait()
        return jwks(a=RSA)

    counters, now = AuthCounters(), 1_000.0
    keys = UrlKeys("https://id.test/keys", 300, 600, counters, fetch, lambda: now)
    try:
        for failures in (1, 2):
            with pytest.raises(KeysMissing):
                await keys.look_again("a")
            assert counters.key_failures == failures
            now += 31
        assert asked == 1  # the second did not wait for another thread
    finally:
        may_end.set()
    monkeypatch.setattr("gatesvr.auth.keys.FETCH_TIMEOUT_S", 60.0)
    while not counters.key_refreshes:
        now += 31
        with contextlib.suppress(KeysMissing):
            await keys.look_again("a")
    assert asked == 2


@pytest.mark.parametrize("failure", [OSError("down"), b"lies", TimeoutError("slow")])
async def test_keys_serve_while_the_url_fails_up_to_max_stale(failure: Any) -> None:
    url = Url()
    url.answers = [jwks(a=RSA), failure, failure]
    checks = JwtAuthenticator(config(), url.counters, url.keys)
    await url.keys.look_again("a")
    url.now += 599
    await url.keys.look_again("unknown")
    assert url.counters.key_failures == 1
    assert (await checks.authenticate(Applicant(token(kid="a")))).openid == "alice"
    url.now += 2
    with pytest.raises(AuthUnavailable):
        await checks.authenticate(Applicant(token(kid="a")))
