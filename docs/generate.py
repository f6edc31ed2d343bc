"""Write what the documentation takes from the code: settings, example bytes, file names.

``make docs`` runs it; a test fails when the result is not what is committed. reference.py and
diagrams.py beside it write the other pages and drawings.
"""

from __future__ import annotations

import ast
import re
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gatesvr import config
from gatesvr._core import codec
from gatesvr._pb import message_pb2 as pb
from gatesvr.admin.counters import AdminCounters
from gatesvr.admin.measures import GROUPS, Measure, measures
from gatesvr.config.describe import descriptions
from gatesvr.config.kinds import number_kind
from gatesvr.figures import REFUSALS
from gatesvr.workers.fleet import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DOCS = Path(__file__).parent
BYTES_A_LINE = 16

_EXAMPLE = re.compile(r"<!-- example: (\S+) -->\n```text\n.*?```\n", re.DOTALL)


# Settings ----------------------------------------------------------------------------------------

CONFIGURATION_HEAD = """\
# Configuration

<!-- Written by docs/generate.py from the docstrings of the settings in gatesvr/config/. -->

Without any configuration a gateway listens on UDP port 8453, takes pushes on 127.0.0.1:8092 and
looks for its services on ports 8081 to 8083. Settings come from these sources; later ones win:

1. a TOML file: `gatesvr serve --config gate.toml`, with a table for each section;
2. the environment: `GATESVR_DISPATCH__WORKERS=8`, with two underscores between section and key;
3. `--set dispatch.workers=8`, any number of times; write lists and tables as in TOML;
4. the flags of `gatesvr serve`: `--bind`, `--grpc-bind`, `--transport`, `--upstream`, `--cert`,
   `--key`, `--log-level`, `--log-format`.

A *duration* is a number of seconds or text such as `500ms`, `1s`, `2m`, `1h`. A *size* is a number
of bytes or text such as `64KiB`, `4MiB`. An unknown key, a variable `GATESVR_...__...` that names
no setting, or a value out of range stops the start with exit code 2 and one line that names
source (with the line of a file), field and value. `gatesvr config check` says so beforehand, `print
--origin` shows what is in force, `default` prints a file to begin with. A `gatesvr.Config` built in
Python takes and refuses the same values.

SIGHUP makes a running `gatesvr serve` read its sources again: what has changed is printed and
logged, secrets hidden, and is in force at once, all of it or nothing. Where a value is wrong, or a
file cannot be used, everything stays as it was, and the complaint is logged. Connections and
sessions go on, with the limits that they began with; a lane to an endpoint that goes away still
ends its open calls. Settings marked *Needs a restart* stay, and are named. So do these changes of
the push port: with or without a certificate (`push.cert`), with or without `push.client_ca`, with
or without any callers that prove something (`push.token`, `push.caller`). Certificates need no
SIGHUP: within 2 s of a change of their files, or of a symbolic link to them, new handshakes get the
new one, if its key fits, its chain is in order and it is valid now.

```toml
[transport]
bind = "0.0.0.0:8453"
cert = "/etc/gatesvr/cert.pem"
key = "/etc/gatesvr/key.pem"

[dispatch]
task_timeout = "10s"

[[upstream.services.chat]]
address = "10.0.0.5:9000"

[[upstream.services.chat]]
address = "10.0.0.6:9000"
weight = 2

[[route]]
action = "hello"
service = "chat"

[[route]]
action = "chat_*"
service = "chat"
serial = true
```
"""

ROUTES_TEXT = """
The gateway tries routes in the order of the file; the first whose action matches wins, so `*` comes
last. Three mistakes stop the start: a route to a service that `upstream.services` does not name, a
route that an earlier one always hides, and routes without one for `hello`, the login. Name a
service that registers itself without an address: `upstream.services.chat = []`.

Without a `[[route]]` of your own, these routes apply as far as their services exist:

"""

PARTS = {
    "services": ("Endpoint", "`[[upstream.services.NAME]]`: one address of a service"),
    "caller": ("PushCaller", "`[[push.caller]]`: who may call the push port, and do what"),
    "route": ("RouteRule", "`[[route]]`: which service answers an action"),
}


def configuration() -> str:
    """Return docs/configuration.md."""
    comments = {name: text.replace("|", "\\|") for name, text in descriptions().items()}
    out = [CONFIGURATION_HEAD]
    for name in config.Config.__struct_fields__:
        section = getattr(config.Config(), name)
        if isinstance(section, msgspec.Struct):
            struct = type(section)
            out.append(f"\n## [{name}]\n\n{comments['Config', name]}\n\n")
            out.extend(table(struct, section, f"{name}.", comments))
        for part in (name, *getattr(section, "__struct_fields__", ())):
            if part in PARTS:
                struct_name, title = PARTS[part]
                out.append(f"\n## {title}\n\n")
                out.extend(table(getattr(config, struct_name), None, "", comments))
    out.append(ROUTES_TEXT)
    out.append("| action | service |\n| --- | --- |\n")
    out.extend(f"| `{rule.action}` | {rule.service} |\n" for rule in config.Config().route)
    return "".join(out)


def table(
    struct: type[msgspec.Struct],
    values: msgspec.Struct | None,
    prefix: str,
    comments: dict[tuple[str, str], str],
) -> Iterator[str]:
    """Yield the rows of one struct's fields."""
    yield "| field | type | default | |\n| --- | --- | --- | --- |\n"
    yield from rows(struct, values, prefix, comments)


def rows(
    struct: type[msgspec.Struct],
    values: msgspec.Struct | None,
    prefix: str,
    comments: dict[tuple[str, str], str],
) -> Iterator[str]:
    """Yield a row for each field of a struct, and of the structs in it."""
    hints = typing.get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from rows(hint, getattr(values, field.name), f"{prefix}{field.name}.", comments)
            continue
        if values is not None:
            default = spell(getattr(values, field.name), hint)
        elif field.required:
            default = ""
        elif field.default_factory is not msgspec.NODEFAULT:
            default = spell(field.default_factory(), hint)
        else:
            default = spell(field.default, hint)
        kind = spell_type(hint, field.name)
        comment = comments[struct.__name__, field.name]
        if field.name in getattr(struct, "restart", ()):
            comment += " *Needs a restart.*"
        yield f"| `{prefix}{field.name}` | {kind} | {default} | {comment} |\n"


def spell_type(kind: Any, name: str) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " or ".join(f"`{choice}`" if choice else "empty" for choice in args)
    if origin is typing.Annotated:
        number, bounds = number_kind(kind)
        word = {int: "number", config.Duration: "duration", config.Size: "size"}[number]
        return f"{word}, {bounds.spell(number)}"
    if origin in (dict, list):
        if typing.get_origin(args[-1]) is typing.Literal:
            return f"list of {spell_type(args[-1], name)}"
        return "list of texts" if args[-1] is str else "see below"
    return {bool: "`true` or `false`", str: "text"}[kind]


def spell(value: Any, kind: Any) -> str:
    """Return a default as one writes it in a file."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return ", ".join(f"{name}: `{ends[0].address}`" for name, ends in value.items())
    if value in ("", []):
        return "empty"
    if typing.get_origin(kind) is typing.Annotated:
        number, _ = number_kind(kind)
        value = value if number is int else number.spell(value)
    return f"`{value}`"


# Metrics -----------------------------------------------------------------------------------------

METRICS_HEAD = """\
# Metrics

<!-- Written by docs/generate.py from gatesvr/admin/measures.py and the texts of the counters. -->

The admin server has all of these at `/metrics`, for Prometheus and whatever reads its format.
Everything is counted all the time and put together when it is asked for: a scrape costs some
milliseconds, written in turns of one, and the path of requests nothing.

Names begin with `gatesvr_`. Units are seconds and bytes. What only rises ends in `_total`. Labels
have few values and none that comes from outside: states, codes, refusals, and the services that
the configuration names.

A gateway of several processes (`serve --workers`) has the same names: what counts is the sum over
all its processes, those that have ended included, so no counter falls when one is replaced; lag and
age are the most of all. What is told of each is below, with the label `worker`: a number from 0
to 255 that no other process has at the time.

**Durations** are histograms with four buckets for each doubling from 32 µs to 67 s, so a percentile
is at most 25 % off. The gateway itself keeps 32, which the console and `gatesvr stats` read. With
`metrics.fine` they are here, too: 673 buckets each. Then let Prometheus keep them as one series, by
`convert_classic_histograms_to_nhcb: true` in the scrape configuration (Prometheus 3). The stages of
a request add up: `queue_wait`, `upstream_duration` and `send_duration` make `request_duration`.
`metrics.stages = false` leaves these four out.

[Prometheus' configuration, alert rules](../deploy/prometheus) and a
[dashboard for Grafana](../deploy/grafana/gatesvr.json) come with the source.
"""

COUNTERS_HEAD = """
## Counters of the layers

Every counter of `gateway.stats()`, under the same name: `transport.bytes_sent` is
`gatesvr_transport_bytes_sent_total`. They count from the start of the gateway.
"""


def metrics() -> str:
    """Return docs/metrics.md."""
    layers = {**LAYERS, "admin": AdminCounters}
    found = measures(layers, has_workers=True)
    out = [METRICS_HEAD]
    for group, title in GROUPS.items():
        out.append(f"\n## {title}\n\n")
        out.extend(metrics_table(m for m in found if m.group == group))
    out.append("\nThe values of `reason`, by layer:\n\n")
    for layer, names in REFUSALS.items():
        listed = ", ".join(f"`{layer}.{name}`" for name in sorted(names))
        out.append(f"- {listed}\n")
    out.append(COUNTERS_HEAD)
    for layer in layers:
        out.append(f"\n### {layer}\n\n")
        out.extend(metrics_table(m for m in found if m.group == layer))
    return "".join(out)


def metrics_table(found: Iterable[Measure]) -> Iterator[str]:
    """Yield the rows of some metrics."""
    yield "| metric | type | labels | |\n| --- | --- | --- | --- |\n"
    for measure in found:
        labels = ", ".join(f"`{label}`" for label in measure.labels)
        text = measure.text.replace("|", "\\|")
        yield f"| `{measure.name}` | {measure.kind} | {labels} | {text} |\n"


# Example bytes -----------------------------------------------------------------------------------

TOKEN = bytes(range(0x10, 0x20))


def start_request() -> bytes:
    message = pb.StartRequest(
        openid="alice", client_id="phone", protocol=1, capabilities=1, attempt=1
    )
    return codec.encode_request(1, 0, pb.REQUEST_START, message.SerializeToString())


def start_response() -> bytes:
    message = pb.StartResponse(
        success=True,
        heartbeat_interval=15,
        connection_id="s-1",
        session_id="s-1",
        resume_token=TOKEN,
        generation=1,
        max_message_bytes=1 << 20,
        max_in_flight=128,
        attempt=1,
        protocol=1,
        capabilities=1,
        state=pb.SESSION_STATE_INITED,
        resume_window_ms=60_000,
        max_unacked_messages=1_024,
        max_unacked_bytes=4 << 20,
    )
    body = codec.push_body(pb.PUSH_START_RESP, message.SerializeToString())
    return codec.push_frame(1, 0, body)


def hello_request() -> bytes:
    return codec.encode_request(2, 1, pb.REQUEST_BUSINESS, codec.encode_business("hello", {}, b""))


def hello_answer() -> bytes:
    answer = pb.BusinessResponse(code=200, message="welcome")
    body = codec.push_body(pb.PUSH_BUSINESS_DATA, answer.SerializeToString(), {"zone": "001"}, 1)
    return codec.push_frame(2, 1, body)


def echo_request() -> bytes:
    business = codec.encode_business("echo", {}, b"hi")
    return codec.encode_request(3, 2, pb.REQUEST_BUSINESS, business, None, 1)


def echo_answer() -> bytes:
    answer = pb.BusinessResponse(code=200, data=b"hi")
    body = codec.push_body(pb.PUSH_BUSINESS_DATA, answer.SerializeToString(), {}, 2)
    return codec.push_frame(3, 2, body)


def notify() -> bytes:
    return codec.push_frame(0, 3, codec.notify_body("chat", "bob", "", b"good morning", []))


def ack() -> bytes:
    return codec.encode_request(
        0, 0, pb.REQUEST_ACK, pb.ClientAck(acked_seq_id=3).SerializeToString()
    )


def heartbeat() -> bytes:
    message = pb.HeartbeatRequest(client_timestamp=1_700_000_000_000)
    return codec.encode_request(4, 0, pb.REQUEST_HEARTBEAT, message.SerializeToString())


def error() -> bytes:
    return codec.push_frame(5, 4, codec.error_body(503, "busy", "", 120, pb.OUTCOME_NOT_STARTED, 3))


def skip() -> bytes:
    message = pb.Skip(from_seq=5, messages=3, reason=pb.LOST_EXPIRED)
    return codec.push_frame(0, 7, codec.push_body(pb.PUSH_SKIP, message.SerializeToString()))


def stop() -> bytes:
    message = pb.StopRequest(reason=pb.STOP_USER_LOGOUT)
    return codec.encode_request(6, 0, pb.REQUEST_STOP, message.SerializeToString())


EXAMPLES: dict[str, Callable[[], bytes]] = {
    example.__name__.replace("_", "-"): example
    for example in (
        start_request,
        start_response,
        hello_request,
        hello_answer,
        echo_request,
        echo_answer,
        notify,
        ack,
        heartbeat,
        error,
        skip,
        stop,
    )
}


def protocol(text: str) -> str:
    """Return docs/protocol.md with the bytes of every example written again."""
    return _EXAMPLE.sub(lambda m: f"<!-- example: {m[1]} -->\n{block(EXAMPLES[m[1]]())}", text)


def block(frame: bytes) -> str:
    """Return a frame as a hex dump, its text beside it."""
    lines = []
    for start in range(0, len(frame), BYTES_A_LINE):
        part = frame[start : start + BYTES_A_LINE]
        text = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in part)
        lines.append(f"{part.hex(' '):<{3 * BYTES_A_LINE}} {text}\n")
    return f"```text\n{''.join(lines)}```\n"


# Names in the code -------------------------------------------------------------------------------

ROOT = DOCS.parent
_NAME = re.compile(r"\[`([A-Za-z_][\w.]*)(\(\))?`\]\([^)]*\)")


class Definition(typing.NamedTuple):
    """A class, a function or a constant of the package.

    Attributes:
        path: The file that defines it, relative to the repository.
        members: Of a class: its methods and attributes, and those of its bases.
    """

    path: str
    members: set[str]
    bases: list[str]


def definitions(root: Path = ROOT) -> dict[str, list[Definition]]:
    """Return what gatesvr defines at the top of its modules, by name."""
    found: dict[str, list[Definition]] = {}
    for path in sorted((root / "gatesvr").rglob("*.py*")):
        if path.suffix not in {".py", ".pyi"} or "_pb" in path.parts:
            continue
        source = path.with_suffix(".pyx") if path.suffix == ".pyi" else path
        where = source.relative_to(root).as_posix()
        for node in ast.parse(path.read_text("utf-8")).body:
            bases: list[str] = []
            members: set[str] = set()
            names = list(_targets(node))
            if isinstance(node, ast.ClassDef):
                names = [node.name]
                bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
                members = set(_members(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [node.name]
            for name in names:
                found.setdefault(name, []).append(Definition(where, members, bases))
    return found


def _targets(node: ast.AST) -> Iterator[str]:
    """Yield the names that an assignment makes, and those in a __slots__."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id
        elif isinstance(target, ast.Attribute):
            yield target.attr
    if "__slots__" in [target.id for target in targets if isinstance(target, ast.Name)]:
        yield from ast.literal_eval(typing.cast("Any", node).value)


def _members(node: ast.ClassDef) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            yield part.name
        elif isinstance(part, ast.Assign | ast.AnnAssign):
            yield from _targets(part)


def place_of(name: str, known: dict[str, list[Definition]]) -> str | None:
    """Return the file that defines ``Name`` or ``Name.member``; None if none or several do."""
    top, _, member = name.partition(".")
    places = {
        definition.path
        for definition in known.get(top, ())
        if not member or _has_member(definition, member, known)
    }
    return places.pop() if len(places) == 1 else None


def _has_member(definition: Definition, member: str, known: dict[str, list[Definition]]) -> bool:
    return member in definition.members or any(
        _has_member(above, member, known)
        for base in definition.bases
        for above in known.get(base, ())
    )


def named(text: str) -> list[str]:
    """Return the names of the code that a page links to."""
    return [match[1] for match in _NAME.finditer(text)]


def architecture(text: str) -> str:
    """Return docs/architecture.md with the file of every name written again."""
    known = definitions()

    def link(match: re.Match[str]) -> str:
        place = place_of(match[1], known)
        return f"[`{match[1]}{match[2] or ''}`](../{place})" if place else match[0]

    return _NAME.sub(link, text)


def main() -> None:
    (DOCS / "configuration.md").write_text(configuration(), "utf-8")
    (DOCS / "metrics.md").write_text(metrics(), "utf-8")
    for name, write in (("protocol.md", protocol), ("architecture.md", architecture)):
        path = DOCS / name
        path.write_text(write(path.read_text("utf-8")), "utf-8")
    # Beside this file, which is no package: on the path where this file is run.
    import diagrams
    import reference

    diagrams.main()
    reference.main()


if __name__ == "__main__":
    sys.exit(main())
