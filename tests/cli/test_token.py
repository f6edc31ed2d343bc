"""``gatesvr token``: what it makes, the gateway's own check takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatesvr.auth.jwt import JwtAuthenticator
from gatesvr.auth.reasons import AuthCounters
from gatesvr.config import AuthConfig

from .test_commands import run


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


async def test_what_it_makes_is_good(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "token", "key")[0] == 0
    assert (tmp_path / "token.key").stat().st_mode & 0o077 == 0
    code, token, _ = run(capsys, "token", "make", "ann", "--claim", "role=admin", "--claim", "n=3")
    assert code == 0
    config = AuthConfig(
        mode="jwt",
        algorithms=["ES256"],
        key="token.pub",
        audience="gatesvr",
        issuer="test",
        claims=["role", "n"],
    )
    identity = await JwtAuthenticator(config, AuthCounters()).authenticate(token.strip(), "")
    assert (identity.openid, identity.claims) == ("ann", {"role": "admin", "n": "3"})


def test_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    _, token, _ = run(capsys, "token", "make", "ann", "--key", "secret", "--expires", "0")
    code, out, _ = run(capsys, "token", "show", token.strip())
    assert code == 0
    assert "HS256" in out
    assert "expired)" in out
    code, out, _ = run(capsys, "token", "show", "--json", token.strip())
    assert json.loads(out)["claims"]["sub"] == "ann"


def test_a_terminal_obeys_nothing_that_a_token_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    claim = "name=\x1b]0;owned\x07\nclaims  sub      root"
    _, token, _ = run(capsys, "token", "make", "ann", "--key", "secret", "--claim", claim)
    _, out, _ = run(capsys, "token", "show", token.strip())
    assert "\\x1b]0;owned\\x07\\nclaims  sub      root\n" in out
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("make", "ann"), "token.key: No such file"),
        (("make", "ann", "--key", "short"), "32 bytes"),
        (("make", "ann", "--key", "secret", "--alg", "RS256"), "does not fit the key"),
        (("show", "rubbish"), "no token"),
        (("key", "--private", "secret"), "is there already"),
    ],
)
def test_refusals_are_one_line(
    args: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * 32)
    (tmp_path / "short").write_bytes(b"s")
    code, out, err = run(capsys, "token", *args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert problem in err
