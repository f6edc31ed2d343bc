"""The commands for a running gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatesvr import Client
from gatesvr.admin.text import byte_text
from gatesvr.cli import main
from gatesvr.cli.remote import table
from gatesvr.errors import SessionLost
from tests.admin.rig import Rig, running_admin

if TYPE_CHECKING:
    from collections.abc import Callable

Ran = tuple[int, str, str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """Return a function that runs a command against a rig; it returns its exit code and output."""

    async def run(rig: Rig | None, *args: str) -> Ran:
        more = ["--server", rig.admin.url] if rig is not None else []

        def call() -> int:
            with pytest.raises(SystemExit) as caught:
                main([*args, *more])
            assert isinstance(caught.value.code, int)
            return caught.value.code

        code = await asyncio.to_thread(call)
        out, err = capsys.readouterr()
        return code, out, err

    return run


async def test_commands_show_and_change(command: Callable[..., object]) -> None:
    async with (
        running_admin("drain.ready_wait=0") as rig,
        Client(rig.gateway.address, openid="ann") as client,
    ):

        async def ran(*args: str) -> str:
            code, out, err = await command(rig, *args)  # type: ignore[misc]
            assert (code, err) == (0, ""), err
            return str(out)

        session_id = client.session_id
        listed = await ran("sessions", "ANN")
        assert session_id in listed
        assert json.loads(await ran("sessions", "--json"))["total"] == 1
        assert await ran("sessions", "nobody") == "no session matches\n"
        assert "acknowledged" in await ran("session", session_id)
        view = json.loads(await ran("session", session_id, "--json"))
        assert view["session"] == session_id
        assert await rig.admin._sampler.next(60)
        assert "ready" in await ran("stats")
        assert json.loads(await ran("stats", "--json"))["sessions"]["normal"] == 1
        assert "business" in await ran("upstreams")
        assert await ran("push", session_id, "hello", "--type", "news") == "pushed\n"
        notify = await anext(client)
        assert (notify.msg_type, notify.data) == ("news", b"hello")
        assert "warning" in await ran("log", "level", "warning")
        assert await ran("kick", session_id, "--code", "4601", "--reason", "bye") == "closed 1\n"
        with pytest.raises(SessionLost) as caught:
            await anext(client)
        assert caught.value.code == 4601
        assert (await command(rig, "drain", "--rate", "500/s"))[0] == 0  # type: ignore[misc]
        assert rig.gateway.drain_status().phase == "stopped"


REFUSED = [
    (["session", "none"], "no such session"),
    (["session", "../drain"], "Not Found"),
    (["kick", "none"], "no such session"),
    (["kick", "--openid", "none"], "no such session"),
    (["push", "none", "x"], "no such session"),
    (["reload"], "cannot be read again"),
    (["sessions", "--page", "x"], "page: not one of ours"),
    (["log", "level", "loud"], "'loud' is no level"),
    (["log", "level", "sesion=1", "debug"], "'sesion=1' is not session=ID"),
    (["drain", "--rate", "fast"], "--rate: 'fast' is no rate"),
]


async def test_refusals_are_one_line(command: Callable[..., object]) -> None:
    async with running_admin() as rig:
        for args, words in REFUSED:
            code, out, err = await command(rig, *args)  # type: ignore[misc]
            assert code in (1, 2), args
            assert out == ""
            assert words in err
            assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("http://127.0.0.1:1", "cannot reach http://127.0.0.1:1"),
        ("unix:/nowhere/at/all", "cannot reach unix:/nowhere/at/all"),
        ("gopher://x", "neither http:, https: nor unix:"),
    ],
)
async def test_no_gateway(command: Callable[..., object], server: str, words: str) -> None:
    code, out, err = await command(None, "stats", "--server", server)  # type: ignore[misc]
    assert code in (1, 2)
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


async def test_token_and_unix_socket(
    command: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tokens = tmp_path / "admin.sock", tmp_path / "tokens"
    tokens.write_text("a-token-of-the-file-1234\n")
    async with running_admin(f"admin.socket={path}", f"admin.token={tokens}"):
        monkeypatch.setenv("GATESVR_ADMIN", f"unix:{path}")
        code, _, err = await command(None, "stats")  # type: ignore[misc]
        assert (code, "needs a token" in err) == (1, True)
        monkeypatch.setenv("GATESVR_TOKEN", "a-token-of-the-file-1234")
        code, out, _ = await command(None, "stats")  # type: ignore[misc]
        assert (code, "GateSvr" in out) == (0, True)


async def test_without_the_extra_it_says_what_to_install(
    command: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    code, _, err = await command(None, "stats")  # type: ignore[misc]
    assert code == 2
    assert "gatesvr[admin]" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_completion(command: Callable[..., object], shell: str) -> None:
    code, out, _ = await command(None, "completion", shell)  # type: ignore[misc]
    assert code == 0
    assert "_GATESVR_COMPLETE" in out


def test_tables_are_aligned() -> None:
    text = table(("NAME", "N"), [("a\x1b", 5), ("longer", 123)])
    assert [line.rstrip() for line in text.splitlines()][1:] == ["a\\x1b     5", "longer  123"]
    text = table(("BYTES",), [(byte_text(1),), (byte_text(412e6),)])
    assert text.splitlines()[1:] == ["   1 B", "412 MB"]


async def test_config_check_reads_the_files_of_the_admin_server(
    command: Callable[..., object], tmp_path: Path
) -> None:
    sets = ("--set", "admin.enabled=true", "--set", f"admin.token={tmp_path}/none")
    code, _, err = await command(None, "config", "check", *sets)  # type: ignore[misc]
    assert code == 2
    assert "admin.token" in err
    assert (await command(None, "config", "check", *sets[:2]))[0] == 0  # type: ignore[misc]
