"""``gatesvr config``: what it prints, the loader takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatesvr.config import Config

from .test_commands import run


def test_prints_checks_and_describes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    code, out, _ = run(capsys, "config", "print", "--set", "dispatch.workers=3", "--origin")
    assert code == 0
    assert "workers = 3  # --set\n" in out
    file.write_text(out, "utf-8")
    assert run(capsys, "config", "check", "--config", str(file))[0] == 0
    code, out, _ = run(capsys, "config", "print", "--config", str(file), "--json")
    assert json.loads(out)["dispatch"]["workers"] == 3
    code, out, _ = run(capsys, "config", "default")
    file.write_text(out, "utf-8")
    assert run(capsys, "config", "check", "--config", str(file))[0] == 0
    code, out, _ = run(capsys, "config", "schema")
    assert set(json.loads(out)["properties"]) == set(Config.__struct_fields__)


@pytest.mark.parametrize("name", ["check", "print"])
def test_file_in_the_wrong_place_gets_a_hint(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "config", name, "gate.toml")
    assert (code, out) == (2, "")
    assert "a file is named by --config: --config gate.toml" in err


def test_check_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[dispatch]\nwrkers = 3\n", "utf-8")
    code, _, err = run(capsys, "config", "check", "--config", str(file))
    assert (code, err) == (
        2,
        f"gatesvr: {file}:2: dispatch.wrkers: unknown setting (did you mean workers?)\n",
    )
    missing = tmp_path / "cert.pem"
    pair = [f"--set=transport.{name}={missing}" for name in ("cert", "key")]
    code, _, err = run(capsys, "config", "check", *pair)
    assert code == 2
    assert f"{missing}: transport.cert: No such file" in err
    code, _, err = run(capsys, "config", "check", "--set", "push.bind=0.0.0.0:8092")
    assert (code, err.count("\n")) == (2, 1)
    assert "push.bind: 0.0.0.0:8092: not loopback" in err
