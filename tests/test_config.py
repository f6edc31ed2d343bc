"""Settings: every field from every source, and refusals that say where, what and why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gatesvr.config import Config, Duration, Endpoint, RouteRule, Size, fields, load, parse_address
from gatesvr.errors import ConfigError

FIELDS = dict(fields())
OTHER = {
    "transport.bind": ("127.0.0.1:9", "127.0.0.1:9"),
    "transport.backend": ("qh3", "qh3"),
    "transport.cert": ("a.pem", "a.pem"),
    "transport.key": ("b.pem", "b.pem"),
    "transport.low_water": ("1KiB", 1024),
    "session.max_message_bytes": ("512KiB", 512 << 10),
    "session.max_queue_bytes": ("8MiB", 8 << 20),
    "session.on_duplicate": ("allow", "allow"),
    "session.when_full": ("refuse", "refuse"),
    "upstream.services": (
        '{hello=[{address="10.0.0.1:1", zone="002", weight=3}], zone=[], business=[]}',
        {
            "hello": [Endpoint(address="10.0.0.1:1", zone="002", weight=3)],
            "zone": [],
            "business": [],
        },
    ),
    "upstream.balance": ("consistent_hash", "consistent_hash"),
    "upstream.order": ("request", "request"),
    "push.bind": ("127.0.0.1:9", "127.0.0.1:9"),
    "push.register": ("add", "add"),
    "push.register_cidrs": ('["10.0.0.0/8"]', ["10.0.0.0/8"]),
    "log.level": ("debug", "debug"),
    "log.format": ("json", "json"),
    "route": ('[{action="h*", service="zone"}]', [RouteRule(action="h*", service="zone")]),
}
"""A text that each field may have besides its default, and the value that it stands for."""

COMPANIONS = {"transport.cert": "transport.key=k", "transport.key": "transport.cert=c"}


def other_value(name: str) -> tuple[str, Any]:
    """Return a text for the field that is not its default, and its value."""
    default = value_of(Config(), name)
    if name in OTHER:
        return OTHER[name]
    if isinstance(default, bool):
        return str(not default).lower(), not default
    if isinstance(default, Duration):
        return "1234ms", 1.234
    if isinstance(default, Size):
        return "3MiB", 3 << 20
    assert isinstance(default, int), f"{name}: say in OTHER what else it may be"
    return str(default + 1), default + 1


def value_of(config: Config, name: str) -> Any:
    value: Any = config
    for key in name.split("."):
        value = getattr(value, key)
    return value


def variable(name: str) -> str:
    return f"GATESVR_{name.replace('.', '__').upper()}"


def toml(name: str, text: str) -> str:
    quoted = text if text[0] in "[{" or re.fullmatch(r"\d+|true|false", text) else f'"{text}"'
    return f"{name} = {quoted}\n"


@pytest.mark.parametrize("name", FIELDS)
def test_field_from_every_source(name: str, tmp_path: Path) -> None:
    text, value = other_value(name)
    assert value_of(Config(), name) != value
    extra = [COMPANIONS[name]] if name in COMPANIONS else []
    file = tmp_path / "gate.toml"
    file.write_text(toml(name, text), "utf-8")
    loaded = {
        "--set": load(sets=[f"{name}={text}", *extra]),
        "environment": load(environ={variable(name): text}, sets=extra),
        "file": load(file, sets=extra),
        "flag": load(overrides={name: msgspec.to_builtins(value)}, sets=extra),
    }
    for source, config in loaded.items():
        assert value_of(config, name) == value, source
        others = {n for n in FIELDS if n != name and not any(e.startswith(f"{n}=") for e in extra)}
        assert all(value_of(config, n) == value_of(Config(), n) for n in others), source


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_value_is_named(name: str, tmp_path: Path) -> None:
    """One line: the file, the field and the value."""
    file = tmp_path / "gate.toml"
    file.write_text(f"{name} = [[77]]\n", "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    line = str(caught.value)
    assert str(file) in line
    assert name.split(".")[-1] in line
    assert "77" in line
    assert "\n" not in line


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[dispatch]\nmax_workers = 11\nworkers = 1\ntask_timeout = '7s'\n", "utf-8")
    environ = {"GATESVR_DISPATCH__MAX_WORKERS": "12", "GATESVR_DISPATCH__WORKERS": "2"}
    config = load(
        file,
        environ=environ,
        sets=["dispatch.max_workers=13"],
        overrides={"push.bind": "127.0.0.1:0"},
    )
    assert config.dispatch.max_workers == 13
    assert config.dispatch.workers == 2
    assert config.dispatch.task_timeout == 7.0
    assert config.push.bind == "127.0.0.1:0"


def test_environment_is_read_only_when_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATESVR_DISPATCH__WORKERS", "7")
    assert load().dispatch.workers == 0


@pytest.mark.parametrize(
    ("sets", "parts"),
    [
        ("dispatch.wrkers=8", ["--set", "dispatch.wrkers", "dispatch.workers"]),
        ("nowhere.at_all=8", ["--set", "nowhere.at_all", "unknown"]),
        ("dispatch.workers", ["--set", "dispatch.workers", "section.key=value"]),
        ("dispatch.workers=-1", ["--set", "dispatch.workers", "-1"]),
        ("dispatch.workers=4.5", ["--set", "dispatch.workers", "4.5"]),
        ("dispatch.workers=2000", ["--set", "dispatch.workers", "2000", "max_workers"]),
        ("dispatch.task_timeout=soon", ["--set", "dispatch.task_timeout", "soon"]),
        ("dispatch.task_timeout=-1", ["--set", "dispatch.task_timeout", "-1"]),
        ("dispatch.task_timeout=inf", ["--set", "dispatch.task_timeout", "inf"]),
        ("session.max_message_bytes=1.5B", ["--set", "session.max_message_bytes", "1.5B"]),
        ("session.max_queue_bytes=1MiB", ["--set", "session.max_queue_bytes", "1MiB"]),
        ("session.on_duplicate=maybe", ["--set", "session.on_duplicate", "maybe"]),
        ("transport.bind=8453", ["--set", "transport.bind", "8453"]),
        ("transport.bind=::1:8453", ["--set", "transport.bind", "[::1]:8453"]),
        ("transport.cert=x.pem", ["--set", "transport.cert", "key"]),
        ("transport.low_water=1MiB", ["--set", "transport.low_water", "1MiB"]),
        ('route=[{action="a*b", service="x"}]', ["--set", "route[0].action", "a*b"]),
        ('upstream.services.zone=[{address="here"}]', ["--set", "upstream.services.zone", "here"]),
        (
            'upstream.services.zone=[{address="h:1"}, {address="h:2", weight=0}]',
            ["--set", "upstream.services.zone[1].weight", "0 is out of range (1 to 1000000)"],
        ),
    ],
)
def test_refusal_is_one_clear_line(sets: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(sets=[sets])
    line = str(caught.value)
    assert [part for part in parts if part not in line] == []
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[dispatch]\nwrkers = 8", ["dispatch.wrkers", "workers"]),
        ("[dispach]\nworkers = 8", ["dispach", "dispatch"]),
        ("dispatch = 5", ["dispatch", "5"]),
        ("[dispatch]\nworkers = = 8", ["line 2"]),
        ("[[route]]\naction = 'x'", ["route[0]", "service"]),
        ("[[route]]\naction = 'x'\nservice = 'y'\nserail = true", ["route[0]", "serail"]),
        (
            "[[upstream.services.zone]]\naddress = 'h:1'\nweight = 0",
            ["services.zone[0].weight", "0"],
        ),
    ],
)
def test_bad_file_is_named(text: str, parts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file)
    line = str(caught.value)
    assert [part for part in [str(file), *parts] if part not in line] == []
    assert "\n" not in line


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_unreadable_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"gate\.toml"):
        load(file)


def test_file_routes_replace_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[[route]]\naction = 'h*'\nservice = 'zone'\nserial = true\n", "utf-8")
    assert load(file).route == [RouteRule(action="h*", service="zone", serial=True)]


def test_named_services_replace_the_defaults_and_their_routes() -> None:
    """Of the default routes those stay that lead somewhere."""
    config = load(sets=[f'upstream.services.{n}=[{{address="h:1"}}]' for n in ("hello", "zone")])
    assert set(config.upstream.services) == {"hello", "zone"}
    assert [rule.action for rule in config.route] == ["hello", "logout", "zone", "zone_*"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1s", 1.0), ("1.5", 1.5), ("2m", 120.0), ("1h", 3600.0), (3, 3.0), (0, 0.0)],
)
def test_durations(text: object, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1d", "-1s", "1 s", "1s2", "nan", True, None, [1]])
def test_no_durations(text: object) -> None:
    with pytest.raises(ValueError, match="no duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("4MiB", 4 << 20), ("1GiB", 1 << 30), ("2KB", 2000), ("7", 7), (9, 9)],
)
def test_sizes(text: object, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "0.3B", "-1", -1, "1kb", "1 KiB", 1.5, True, None])
def test_no_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="no size"):
        Size.parse(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8453", ("0.0.0.0", 8453)),
        ("[::1]:0", ("::1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        (":8081", ("", 8081)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:65536", "::1:5", "host:٣"])
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


def test_configuration_is_frozen() -> None:
    config = Config()
    with pytest.raises(AttributeError):
        config.dispatch.workers = 3  # type: ignore[misc]
