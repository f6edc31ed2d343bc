"""``gatesvr token``: what it makes, the gateway's own check takes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from gatesvr.auth.applicant import Applicant
from gatesvr.auth.jwt import JwtAuthenticator
from gatesvr.auth.reasons import AuthCounters
from gatesvr.bench.scenario import Plan
from gatesvr.cli.bench import make_signer
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
    identity = await JwtAuthenticator(config, AuthCounters()).authenticate(Applicant(token.strip()))
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


@pytest.mark.parametrize("is_secret", [False, True])
async def test_bench_gives_each_client_a_token_of_its_own(
    is_secret: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if is_secret:
        (tmp_path / "token.key").write_bytes(b"s" * 32 + b"\n")
    else:
        assert run(capsys, "token", "key")[0] == 0
    config = AuthConfig(
        mode="jwt",
        algorithms=["HS256" if is_secret else "ES256"],
        key="token.key" if is_secret else "token.pub",
        audience="a",
        issuer="i",
    )
    signer = make_signer(token="", token_key="token.key", token_audience="a", token_issuer="i")
    plan = Plan(scenario="echo", clients=2, signer=pickle.loads(pickle.dumps(signer)))
    checks = JwtAuthenticator(config, AuthCounters())
    for openid in ("one", "two"):
        token = plan.token_for(openid)
        assert (await checks.authenticate(Applicant(token))).openid == openid


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--token-key", "none"], "none: No such file or directory"),
        (["--token-key", "short"], "short: an HMAC secret has at least 32 bytes"),
        (["--token-key", "short", "--token", "t"], "--token and --token-key exclude each other"),
    ],
)
def test_bench_says_which_key_is_no_good(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "short").write_bytes(b"short")
    code, _, err = run(capsys, "bench", "echo", "--server", "[::1]:1", *args)
    assert code == 2
    assert said in err
