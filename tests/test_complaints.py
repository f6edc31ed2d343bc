"""Every wrong value of every setting gets its message, with the file, the line and the name."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest

from gatesvr.config import (
    Duration,
    Endpoint,
    PushCaller,
    RouteRule,
    Size,
    checks,
    load,
    ports,
    sections,
    upstream,
    workers,
)
from gatesvr.config.kinds import Section, kinds_of, number_kind
from gatesvr.errors import ConfigError

from .test_config import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTS = {
    "upstream.services.chat[0]": (Endpoint, "[[upstream.services.chat]]", "address = 'h:1'"),
    "route[0]": (RouteRule, "[[route]]", "action = '*'\nservice = 'hello'"),
    "push.caller[0]": (PushCaller, "[[push.caller]]", "name = 'ops'\ntoken = 'ops.token'"),
}
"""Where the tables stand that are parts of a setting, their header, and what they must have."""

ALL = {
    **{name: ("", name.rpartition(".")[2], kind) for name, kind in FIELDS.items()},
    **{
        f"{place}.{field}": (place, field, kind)
        for place, (part, _, _) in PARTS.items()
        for field, kind in kinds_of(part).items()
    },
}
"""Every setting, and every field of its parts: its place in PARTS, its key, its kind."""


def wrong(kind: Any) -> Iterator[tuple[str, str]]:
    """Yield values that a kind refuses, as TOML has them, with the messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        yield from wrong_number(kind)
    elif origin is Literal:
        choices = ", ".join(filter(None, arguments))
        yield "'no-such'", f"'no-such' is not one of {choices}"
        yield "7", f"7 is not one of {choices}"
    elif kind is bool:
        yield "1", "1 is neither true nor false"
        yield "'yes'", "'yes' is neither true nor false"
    elif kind is str:
        yield "7", "7 is no text"
        yield "['a']", "['a'] is no text"
    elif origin is list:
        yield "'x'", "'x' is not a list"
        if is_section(arguments[0]):
            yield "[7]", "7 is no table"
        else:
            value, message = next(wrong(arguments[0]))
            yield f"[{value}]", message
    else:
        assert origin is dict
        yield "7", "7 is no table"
        yield "{x = 7}", "7 is not a list"
        yield "{x = [7]}", "7 is no table"


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def wrong_number(kind: Any) -> Iterator[tuple[str, str]]:
    number, limits = number_kind(kind)
    nothing = {
        int: "is no whole number",
        Duration: "is no duration (write 500ms, 1s, 2m or 1h)",
        Size: "is no size (write 1024, 64KiB or 4MiB)",
    }[number]
    for text, shown in (("'soon'", "'soon'"), ("true", "True"), ("[1]", "[1]")):
        yield text, f"{shown} {nothing}"
    if number is not Duration:
        yield "1.5", f"1.5 {nothing}"
    spell = str if number is int else number.spell
    low, high = spell(limits.low), spell(limits.high)
    allowed = f"({low} to {high}{f', or 0: {limits.zero}' if limits.zero else ''})"
    step = 1 if number is not Duration else limits.low / 2
    above = limits.high * 2
    yield str(above), f"{spell(above)} is out of range {allowed}"
    below = limits.low - step
    if below > 0 or not limits.zero:
        yield str(below), f"{spell(below)} is out of range {allowed}"
    if not limits.zero:
        yield "0", f"{spell(0)} is out of range {allowed}"
    if number is Duration:
        yield "-1", "-1 is no duration: it must be finite and not negative"
        yield "inf", "inf is no duration: it must be finite and not negative"
    elif number is int:
        yield "-1", f"-1 is out of range {allowed}"
    else:
        yield "-1", f"-1 {nothing}"


def text_with(place: str, key: str, value: str, name: str) -> str:
    """Return a file that sets a field to a value on its last line."""
    if not place:
        *section, _ = name.split(".")
        header = f"[{'.'.join(section)}]\n" if section else ""
        return f"# A gateway.\n\n{header}# {key} is\n{key} = {value}\n"
    _, header, needed = PARTS[place]
    lines = [line for line in needed.splitlines() if not line.startswith(f"{key} =")]
    return "\n".join(["# A gateway.", "", header, *lines, f"{key} = {value}\n"])


@pytest.mark.parametrize("name", ALL)
def test_wrong_value_gets_its_message(name: str, tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    place, key, kind = ALL[name]
    count = 0
    for value, message in wrong(kind):
        count += 1
        text = text_with(place, key, value, name)
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError) as refused:
            load(file)
        line = str(refused.value)
        assert line.startswith(f"{file}:{text.count(chr(10))}: {name}"), value
        assert line.endswith(f": {message}"), value
    assert count >= 2


def test_misspelt_name_gets_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    for name, (place, key, _) in ALL.items():
        text = text_with(place, f"{key}_", "1", f"{name}_")
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError) as refused:
            load(file)
        assert str(refused.value) == (
            f"{file}:{text.count(chr(10))}: {name}_: unknown setting (did you mean {key}?)"
        )


TWO = (
    '[upstream.services]\nhello = [{address = "h:1"}]\n'
    'chat = [{address = "h:2"}, {address = "h:3"}]\n'
)
JWT = "[auth]\nmode = 'jwt'\nalgorithms = ['ES256']\nissuer = 'i'\naudience = 'a'\nkey = 'k'\n"
TOGETHER = {
    "transport.bind = 'here'": "1: transport.bind: 'here' is not HOST:PORT",
    "transport.web.path = 'gate'": "1: transport.web.path: 'gate' is no path: it begins with /",
    "transport.web.origins = ['example.com']": (
        "1: transport.web.origins[0]: 'example.com' is no origin: write https://HOST or *"
    ),
    "[transport.web]\nbind = 'h:1'\nwebsocket = false\nwebtransport = false": (
        "2: transport.web.bind: there is no way in: websocket and webtransport are off"
    ),
    "push.bind = 'a..b:1'": "1: push.bind: 'a..b' is no host name: a label has 1 to 63 characters",
    "push.bind = '0.0.0.0:1'": f"1: push.bind: 0.0.0.0:1: {ports.OPEN_PUSH_PORT}",
    "push.register_cidrs = ['10.0.0.0/33']": (
        "1: push.register_cidrs[0]: '10.0.0.0/33' does not appear to be an IPv4 or IPv6 network"
    ),
    "\ntransport.key = 'k'": "2: transport.key: cert and key go together, cert is missing",
    "\ntransport.cert = 'c'": "2: transport.cert: cert and key go together, key is missing",
    "push.cert = 'c'": "1: push.cert: cert and key go together, key is missing",
    "push.client_ca = 'c'": "1: push.client_ca: it needs cert and key",
    JWT.replace("issuer", "leeway").replace("'i'", "3"): (
        '1: auth.issuer: mode = "jwt" needs it, it is empty'
    ),
    f"{JWT}jwks = 'j'": '6: auth.key: mode = "jwt" needs either key or jwks',
    JWT.replace("key = 'k'", "jwks = 'http://id.test/keys'"): (
        "6: auth.jwks: http is for loopback only: use https"
    ),
    f"{JWT}claims = {['c'] * 17}": "7: auth.claims: 17 are more than 16",
    "auth.mode = 'upstream'": "1: auth.service: 'auth' has no endpoint in upstream.services",
    "session.max_queue_bytes = '1MiB'": (
        "1: session.max_queue_bytes: 1MiB is below 2 x max_message_bytes (1MiB)"
    ),
    "dispatch.workers = 9\ndispatch.max_workers = 8": (
        "1: dispatch.workers: 9 is above max_workers (8)"
    ),
    "[upstream.services]\nhello = [{address = ':1'}]": (
        "2: upstream.services.hello[0].address: ':1' names no host"
    ),
    "[[upstream.services.hello]]\naddress = 'h:1'\nzone = '1234'": (
        "3: upstream.services.hello[0].zone: '1234' is no zone (three digits or a name)"
    ),
    "[upstream.services]\n'*' = []": "1: upstream.services: '*' is no name of a service",
    f"{TWO}[[upstream.services.zone]]\naddress = 'h:1'\n[[upstream.services.zone]]\n"
    "address = 'h:1'": "7: upstream.services.zone[1].address: 'h:1' is there twice",
    f"{TWO}[upstream]\nrequired = ['hello', 'chap']": "5: upstream.required[1]: 'chap' is not in"
    " upstream.services (did you mean chat?)",
    "admin.bind = '0.0.0.0:1'": f"1: admin.bind: 0.0.0.0:1: {ports.OPEN_ADMIN_PORT}",
    "admin.enabled = true\nadmin.bind = ''": (
        "2: admin.bind: neither bind nor socket: there is nothing to listen on"
    ),
    "admin.key = 'k'": "1: admin.key: cert and key go together, cert is missing",
    "admin.client_ca = 'c'": "1: admin.client_ca: it needs cert and key",
    "workers.restart_min = 11": "1: workers.restart_min: 11s is above restart_max (10s)",
    "upstream.reconnect_min = 9": ("1: upstream.reconnect_min: 9s is above reconnect_max (5s)"),
    "[[push.caller]]\nname = ''\ntoken = 't'": "2: push.caller[0].name: '' is no name",
    "[[push.caller]]\nname = 'a'": (
        "1: push.caller[0].token: neither token nor certificates: it could prove nothing"
    ),
    "[[push.caller]]\nname = 'a'\ntoken = 't'\nservices = ['']": (
        "4: push.caller[0].services[0]: it is empty"
    ),
    "[[push.caller]]\nname = 'a'\ncertificates = ['c']": (
        "3: push.caller[0].certificates: they need push.client_ca"
    ),
    "[[push.caller]]\nname = 'a'\ntoken = 't'\n[[push.caller]]\nname = 'a'\ntoken = 't'": (
        "5: push.caller[1].name: 'a' is there twice"
    ),
    f"{TWO}[[push.caller]]\nname = 'a'\ntoken = 't'\nservices = ['chap']": (
        "7: push.caller[0].services[0]: 'chap' is not in upstream.services (did you mean chat?);"
        " its endpoints would serve every service of any zone"
    ),
    "[[upstream.services.hello]]\naddress = 'unix:'": (
        "2: upstream.services.hello[0].address: 'unix:' names no socket"
    ),
    f"[[upstream.services.hello]]\naddress = 'unix:/{'a' * 107}'": (
        f"2: upstream.services.hello[0].address: 'unix:/{'a' * 57}…: a socket's path has at most"
        " 107 bytes"
    ),
    "[[upstream.services.hello]]\naddress = 'h:1'\nauthority = 'a b'": (
        "3: upstream.services.hello[0].authority: 'a b' is no HOST or HOST:PORT"
    ),
    "[upstream.tls]\nenabled = true\ncert = 'c.pem'": (
        "3: upstream.tls.cert: cert and key go together, key is missing"
    ),
    "[upstream.tls]\nenabled = true\nserver_name = 'a b'": (
        "3: upstream.tls.server_name: 'a b' is no name of a host"
    ),
    "[upstream.tls]\nca = 'c.pem'": "2: upstream.tls.ca: it is for TLS: set enabled = true",
    "[[route]]\naction = ''\nservice = 'hello'": "2: route[0].action: it is empty",
    "[[route]]\naction = 'a*b'\nservice = 'hello'": (
        "2: route[0].action: 'a*b': * may only stand at the end"
    ),
    "[[route]]\naction = \"a\\nb\"\nservice = 'hello'": (
        "2: route[0].action: 'a\\nb' has a character no action can have"
    ),
    f"[[route]]\naction = '{'x' * 65}'\nservice = 'hello'": (
        f"2: route[0].action: '{'x' * 63}… is longer than an action: 64 bytes"
    ),
    f"{TWO}[[route]]\naction = '*'\nservice = 'chap'": (
        "6: route[0].service: 'chap' is not in upstream.services (did you mean chat?); a service"
        " that registers itself is named there without endpoints: chap = []"
    ),
    "[[route]]\naction = '*'\nservice = 'hello'\n[[route]]\naction = 'a'\nservice = 'zone'": (
        "5: route[1].action: 'a' is never reached, route[0] takes '*' before it"
    ),
    "[[route]]\naction = 'a'\nservice = 'hello'": (
        "1: route: no route for 'hello', nobody could log in"
    ),
    "[upstream.services]\nchat = []": (
        "1: upstream.services: no route for 'hello', nobody could log in"
    ),
}
"""Files whose values are each well-formed and refused all the same, and the complaints."""


def test_values_that_do_not_fit_get_their_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "gate.toml"
    refuse, said = Section.refusal, set()
    modules = {module.__file__: module for module in (checks, ports, sections, upstream, workers)}

    def refusal(self: Section, field: str, message: str) -> Any:
        frame = sys._getframe(1)
        if (name := frame.f_code.co_filename) in modules:
            said.add((name, frame.f_lineno))
        return refuse(self, field, message)

    monkeypatch.setattr(Section, "refusal", refusal)
    for text, complaint in TOGETHER.items():
        file.write_text(f"{text}\n", "utf-8")
        with pytest.raises(ConfigError) as refused:
            load(file)
        assert str(refused.value).startswith(f"{file}:{complaint}")
    calls = {
        (name, node.lineno)
        for name, module in modules.items()
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "refusal"
    }
    assert calls - said == set(), "say in TOGETHER what each of these lines complains of"


def test_a_value_is_blamed_on_what_set_it(tmp_path: Path) -> None:
    """The names are the same in a file, in the environment and in --set."""
    for name in FIELDS:
        variable = f"GATESVR_{name.replace('.', '__').upper()}"
        value, message = next(wrong(FIELDS[name]))
        value = json.loads(value.replace("'", '"')) if value.startswith("'") else value
        for source, given in (
            ("--set", {"sets": [f"{name}={value}"]}),
            (variable, {"environ": {variable: str(value)}}),
        ):
            if FIELDS[name] is str:
                continue  # any text is one
            with pytest.raises(ConfigError) as refused:
                load(**given)  # type: ignore[arg-type]
            assert str(refused.value).startswith(f"{source}: {name}"), (name, source)
            assert str(refused.value).endswith(f": {message}"), (name, source)
