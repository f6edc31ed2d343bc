"""The commands' handling of arguments, without a gateway."""

from __future__ import annotations

import getpass
import shlex
import stat
import sys
from pathlib import Path

import pytest
from cryptography import x509

from gatesvr.cli import banner, main, options
from gatesvr.cli.client import parse_line
from gatesvr.cli.terminal import escape_control, style
from gatesvr.config import PushCaller, PushConfig
from gatesvr.demo import services
from gatesvr.transport.tls import ServerTls, generate_certificate, load_server_tls


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and output."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    commands = "serve client call events health upstream demo bench gencert token version"
    for name in commands.split():
        assert f"\n  {name} " in out
        assert run(capsys, name, "--help")[0] == 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "version")
    assert code == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert names == ["gatesvr", "python", "aioquic", "qh3", "grpcio", "uvloop", "core"]
    assert "queue, codec" in out


def test_version_flag(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert (code, out.split()[0], len(out.split())) == (0, "gatesvr", 2)


def test_help_and_readme_list_the_demos_actions(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "call", "--help")
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    for service in services("127.0.0.1:1").values():
        for action in service._handlers:
            assert action in out
            assert f"`{action}`" in readme


def test_bench_refuses_reports_that_it_could_not_write(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "none" / "report")
    for option, file in (("--plot", f"{nowhere}.svg"), ("--json", nowhere)):
        code, out, err = run(capsys, "bench", "echo", option, str(file), "--server", "[::1]:1")
        assert (code, out) == (2, "")
        assert option in err
        assert "cannot write" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nope"], ["nope"]),
        (["serve", "--nope"], ["--nope"]),
        (["serve", "--bind", "here"], ["--bind", "'here'"]),
        (["serve", "--stats", "soon"], ["--stats", "'soon'"]),
        (["serve", "--transport", "tcp"], ["--transport", "'tcp'"]),
        (["serve", "--upstream", "zone"], ["--upstream", "'zone'"]),
        (["serve", "--upstream", "zone=here"], ["upstream.services.zone", "'here'"]),
        (["serve", "--set", "dispatch.wrkers=1"], ["--set", "dispatch.wrkers", "workers"]),
        (["serve", "--set", "dispatch.workers=x"], ["--set", "dispatch.workers", "'x'"]),
        (["serve", "--config", "/none/g.toml"], ["/none/g.toml", "No such file"]),
        (["serve", "--cert", "/none/c.pem", "--key", "/none/k.pem"], ["/none/c.pem", "No such"]),
        (["serve", "--cert", "/none/c.pem"], ["transport.cert", "key"]),
        (["call", "echo", "--param", "x"], ["--param", "'x'"]),
        (["call", "echo", "--server", "here"], ["--server", "'here'"]),
        (["call", "echo", "--server", "ws://gate.example/x"], ["--server", "without TLS"]),
        (["bench", "echo", "--server", "http://h:1/x"], ["--server", "wss://HOST:PORT"]),
        (["call"], ["ACTION"]),
        (["call", "\udcff"], ["ACTION", "'\\udcff' is not UTF-8"]),
        (["call", "echo", "--openid", "\udcff"], ["--openid", "'\\udcff' is not UTF-8"]),
        (["call", "echo", "--token", "\udcff"], ["--token", "is not UTF-8"]),
        (["call", "echo", "--zone", "\udcff"], ["--zone", "is not UTF-8"]),
        (["call", "echo", "--param", "a=\udcff"], ["--param", "is not UTF-8"]),
        (["call", "echo", "--header", "\udcff=a"], ["--header", "is not UTF-8"]),
        (["call", "echo", "--timeout", "0"], ["--timeout", "0s is out of range"]),
        (["client", "--openid", "\udcff"], ["--openid", "is not UTF-8"]),
        (["call", "echo", "--server", "localhost:1", "--ca", "/none/ca.pem"], ["/none/ca.pem"]),
        (["client", "--state", "/none/s"], ["--state", "/none/s", "No such"]),
        (["client", "--state", __file__], [__file__, "no client state"]),
        (["events", "--server", "here"], ["--server", "'here'"]),
        (["events", "--kind", "missed"], ["--kind", "'missed'"]),
        (["events", "--push-token-file", "/none/t"], ["--push-token-file: No such file"]),
        (["upstream", "zone", "--push-ca", "/none/ca"], ["/none/ca: --push-ca: No such file"]),
        (["upstream", "nope"], ["nope"]),
        (["gencert", "--cert", "/none/c.pem", "--key", "/none/k.pem"], ["/none/k.pem"]),
    ],
)
def test_what_is_asked_for_wrongly_ends_with_2(
    capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]
) -> None:
    code, out, err = run(capsys, *args)
    assert code == 2
    assert out == ""
    last = err.splitlines()[-1]
    for word in words:
        assert word in last
    assert "Traceback" not in err


def test_bad_file_names_file_and_field(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[dispatch]\nworkers = -1\n")
    code, _, err = run(capsys, "serve", "--config", str(file))
    assert code == 2
    assert err.startswith(f"gatesvr: {file}:2: dispatch.workers: ")
    assert err.count("\n") == 1
    assert "-1" in err


def test_gencert(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ("gencert", "--name", "gate.example", "--name", "10.0.0.1", "--days", "9")
    assert run(capsys, *args)[0] == 0
    assert load_server_tls("cert.pem", "key.pem").is_development is False
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    leaf = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gate.example"]

    _, out, err = run(capsys, "gencert", "--cert", "here.pem", "--key", "here-key.pem")
    assert out.splitlines()[-1].split(maxsplit=1) == ["covers", "localhost, 127.0.0.1, ::1"]
    assert "--name" in err

    before = (tmp_path / "key.pem").read_bytes()
    code, _, err = run(capsys, *args)
    assert (code, err.count("\n")) == (2, 1)
    assert (tmp_path / "key.pem").read_bytes() == before
    assert run(capsys, *args, "--force")[0] == 0
    assert (tmp_path / "key.pem").read_bytes() != before


@pytest.mark.parametrize(
    ("line", "parsed"),
    [
        ("echo", ("echo", {}, b"")),
        ("echo -- hello  there", ("echo", {}, b"hello  there")),
        ("calculate op=add a=1 b=2", ("calculate", {"op": "add", "a": "1", "b": "2"}, b"")),
        ('say text="a b" x= -- y -- z', ("say", {"text": "a b", "x": ""}, b"y -- z")),
        ("echo --", ("echo", {}, b"")),
        ("echo -- ☃", ("echo", {}, "☃".encode())),
    ],
)
def test_line_of_the_client(line: str, parsed: object) -> None:
    assert parse_line(line) == parsed


@pytest.mark.parametrize("line", ["", "-- data", "echo x", "echo =x", 'echo a="b'])
def test_bad_line_of_the_client(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_line(line)


def test_escape_sequences_of_a_peer_do_not_reach_the_terminal() -> None:
    assert escape_control("a\x1b[2Jb\x07\r\n☃\t") == "a\\x1b[2Jb\\x07\\r\n☃\t"


@pytest.mark.parametrize(
    ("program", "found", "words"),
    [
        (".venv/bin/gatesvr", None, ".venv/bin/gatesvr"),
        ("/opt/my tools/gatesvr", None, "'/opt/my tools/gatesvr'"),
        ("/usr/bin/gatesvr", "/usr/bin/gatesvr", "gatesvr"),
        ("/x/gatesvr/__main__.py", None, "/usr/bin/python3 -m gatesvr"),
    ],
)
def test_invocation_is_the_users_own(
    monkeypatch: pytest.MonkeyPatch, program: str, found: str | None, words: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "serve"])
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python3", program, "serve"])
    monkeypatch.setattr(banner.shutil, "which", lambda name: found)
    assert banner.invocation() == words


@pytest.mark.parametrize(
    ("address", "names", "is_development", "expected"),
    [
        (("127.0.0.1", 1), ["127.0.0.1"], True, "--server 127.0.0.1:1 --data hello"),
        (("0.0.0.0", 1), ["127.0.0.1"], True, "--server 127.0.0.1:1 --data hello"),
        (("::", 1), ["::1"], True, "--server '[::1]:1' --data hello"),
        (("127.0.0.1", 1), ["localhost"], False, "--server localhost:1 --data hello --ca c.pem"),
        (("10.1.2.3", 1), ["10.1.2.3"], False, "--server 10.1.2.3:1 --data hello --ca c.pem"),
        (("10.1.2.3", 1), ["127.0.0.1"], True, "--server 10.1.2.3:1 --data hello --insecure"),
        (("127.0.0.1", 1), ["gate.example"], False, "127.0.0.1:1 --data hello --insecure"),
    ],
)
def test_call_line_needs_nothing_added(
    address: tuple[str, int], names: list[str], is_development: bool, expected: str
) -> None:
    tls = ServerTls(generate_certificate(names)[0], b"", "c.pem", is_development)
    assert shlex.join(banner.call_words(address, tls)).endswith(expected)
    hello = expected.replace("--data hello", "--json")
    assert shlex.join(banner.call_words(address, tls, "hello")).endswith(hello)


@pytest.mark.parametrize("error", [OSError, KeyError, ImportError])
def test_user_without_a_name(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_user() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", no_user)
    assert options._default_openid().startswith("nobody-")


def test_no_colours_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert style("x", fg="red") == "x"
    monkeypatch.setenv("TERM", "xterm")
    assert style("x", fg="red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert style("x", fg="red") == "x"


def test_banner_says_what_guards_the_push_port() -> None:
    tls = {"cert": "c.pem", "key": "k.pem"}
    by_name = [PushCaller(name="ops", certificates=["ops"])]
    for push, text in (
        (PushConfig(), "nothing: every process of this machine may push and kick (push.token)"),
        (
            PushConfig(insecure=True, **tls),
            "nothing over TLS: whoever reaches the push port may do everything (push.insecure)",
        ),
        (PushConfig(token="t"), "who they are by a token, in plain text"),
        (PushConfig(caller=[PushCaller(name="a", token="t")], **tls), "who they are by a token"),
        (PushConfig(client_ca="ca.pem", **tls), "who they are by a certificate (ca.pem)"),
        (
            PushConfig(client_ca="ca.pem", token="t", **tls),
            "who they are by a certificate (ca.pem) and a token",
        ),
        (
            PushConfig(client_ca="ca.pem", token="t", caller=by_name, **tls),
            "who they are by a certificate (ca.pem) or a token",
        ),
    ):
        assert banner._proof(push) == text
