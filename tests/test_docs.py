"""The documentation says what the code does: settings, names, example bytes, links, code."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatesvr import Config, Gateway
from gatesvr._pb import message_pb2 as pb
from gatesvr._pb import upstream_pb2 as upstream_pb
from gatesvr.admin.counters import AdminCounters
from gatesvr.admin.measures import measures
from gatesvr.observe.events import EventKind
from gatesvr.workers.fleet import LAYERS

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def _load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _load_generator()


def test_settings_are_those_of_the_code() -> None:
    page = (ROOT / "docs/configuration.md").read_text("utf-8")
    assert page == generate.configuration(), "stale: make docs"


def test_metrics_are_those_of_the_code() -> None:
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    assert page == generate.metrics(), "stale: make docs"
    named = re.findall(r"^\| `(gatesvr_\w+)` \|", page, re.MULTILINE)
    assert named == [
        measure.name for measure in measures({**LAYERS, "admin": AdminCounters}, has_workers=True)
    ]


def test_example_bytes_are_those_of_the_codec() -> None:
    page = (ROOT / "docs/protocol.md").read_text("utf-8")
    assert page == generate.protocol(page), "stale: make docs"


def test_names_are_those_of_the_code() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    known = generate.definitions()
    named = generate.named(page)
    assert len(named) > 100
    assert [name for name in named if generate.place_of(name, known) is None] == []
    assert page == generate.architecture(page), "stale: make docs"


def test_folders_are_those_of_the_code() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8")
    chapter = page.partition("## 2. ")[2].partition("## 3. ")[0]
    folders = {path.parent.name for path in ROOT.glob("gatesvr/*/__init__.py")}
    assert set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE)) == folders


def test_what_the_names_table_shows_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each counter, field, log line, event and test of the last column exists."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # where a gateway keeps its certificate
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## 6. ")[2]
    code = "".join(path.read_text("utf-8") for path in ROOT.glob("gatesvr/**/*.py"))
    tests = "".join(path.read_text("utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    there = {
        "counter": {
            f"{layer}.{name}"
            for layer, group in Gateway(Config()).stats().items()
            for name in group
        },
        "GetSession": {field.name for field in upstream_pb.SessionInfo.DESCRIPTOR.fields},
        "log": {*re.findall(r'(?:\.log\([^"]+)?"([a-z_]+)",\s*(?:extra=|now,)', code)},
        "event": {str(kind) for kind in EventKind},
        "test": set(re.findall(r"def (test_\w+)", tests)),
    }
    shown = [
        (kind, name)
        for kind, names in re.findall(rf"\b({'|'.join(there)}) ((?:`[\w.]+`(?:, )?)+)", page)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(shown) > 60
    assert [pair for pair in shown if pair[1] not in there[pair[0]]] == []


def test_every_name_of_the_table_can_be_seen() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## 6. ")[2]
    rows = [row for row in re.findall(r"^\| (.+) \|$", page, re.MULTILINE) if "---" not in row]
    assert len(rows) > 80
    assert [row for row in rows if not all(cell.strip() for cell in row.split(" | "))] == []
    assert {len(row.split(" | ")) for row in rows} == {3}


def _examples() -> dict[str, bytes]:
    """Read the frames back from the page's hex."""
    page = (ROOT / "docs/protocol.md").read_text("utf-8")
    return {
        name: bytes.fromhex("".join(line[:48] for line in block.splitlines()))
        for name, block in re.findall(
            r"<!-- example: (\S+) -->\n```text\n(.*?)```\n", page, re.DOTALL
        )
    }


def test_every_example_is_on_the_page() -> None:
    assert set(_examples()) == set(generate.EXAMPLES)


def test_examples_say_what_the_text_says() -> None:
    """Read by protobuf alone, by somebody who has only the page."""
    frames = _examples()
    for frame in frames.values():
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4

    request = {
        name: pb.ClientRequest.FromString(frames[name][4:])
        for name in ("start-request", "hello-request", "echo-request", "ack", "heartbeat", "stop")
    }
    start = pb.StartRequest.FromString(request["start-request"].payload)
    assert (request["start-request"].type, start.openid) == (pb.REQUEST_START, "alice")
    assert (start.protocol, start.capabilities, start.attempt) == (1, 1, 1)
    hello = pb.BusinessRequest.FromString(request["hello-request"].payload)
    assert (hello.action, request["hello-request"].seq_id) == ("hello", 1)
    echo = request["echo-request"]
    assert (echo.seq_id, echo.ack_seq_id, echo.type) == (2, 1, pb.REQUEST_BUSINESS)
    assert frames["echo-request"].endswith(bytes.fromhex("50 01"))
    assert pb.ClientAck.FromString(request["ack"].payload).acked_seq_id == 3
    assert request["heartbeat"].type == pb.REQUEST_HEARTBEAT
    assert pb.StopRequest.FromString(request["stop"].payload).reason == pb.STOP_USER_LOGOUT

    push = {
        name: pb.ServerPush.FromString(frames[name][4:])
        for name in ("start-response", "hello-answer", "echo-answer", "notify", "error", "skip")
    }
    started = pb.StartResponse.FromString(push["start-response"].payload)
    assert started.success
    assert started.session_id == started.connection_id
    assert (push["start-response"].seq_id, push["start-response"].msg_id) == (0, 1)
    assert push["hello-answer"].headers["zone"] == "001"
    assert (push["hello-answer"].client_seq_id, push["hello-answer"].seq_id) == (1, 1)
    assert pb.BusinessResponse.FromString(push["echo-answer"].payload).data == b"hi"
    notify = pb.BusinessResponse.FromString(push["notify"].payload)
    assert (notify.code, notify.message, notify.data) == (200, "[chat] bob", b"good morning")
    assert dict(push["notify"].headers) == {"msg_type": "chat", "title": "bob"}
    error = pb.ErrorMessage.FromString(push["error"].payload)
    assert (error.error_code, error.retry_after_ms) == (503, 120)
    assert (error.outcome, push["error"].client_seq_id) == (pb.OUTCOME_NOT_STARTED, 3)
    skip = pb.Skip.FromString(push["skip"].payload)
    assert (skip.from_seq, push["skip"].seq_id, skip.reason) == (5, 7, pb.LOST_EXPIRED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            dead.append(target)
    assert dead == []


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        ast.parse(block)
