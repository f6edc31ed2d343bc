"""The layers: every import and cimport of the package is an edge that is drawn below."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

# _core ← protocol ← transport, session, upstream ← dispatch, control ← engine ← gateway ← reload
#                                                   dispatch ← drain ← gateway
#                                                       gateway, reload ← admin ← cli
#                                                        control ← grpc_api ← gateway
#         protocol ← transport ← client ← bench, conformance ← cli     service ← demo ← cli
LEAVES = frozenset({"errors", "config", "_pb", "observe", "grpcio", "credentials", "threads"})
BOTTOM = frozenset({"_core", "protocol"}) | LEAVES
WITHOUT_IO = BOTTOM | {"session", "upstream", "auth"}
"""Below the engine, which the simulator runs: no transport, no gRPC server."""

ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "config": frozenset({"errors"}),
    "_pb": frozenset(),
    "overload": frozenset({"_core", "config", "observe"}),
    "drain": LEAVES | {"dispatch"},
    "figures": WITHOUT_IO
    | {"transport", "dispatch", "control", "overload", "drain"}
    | {"cluster.counters"},
    "grpcio": frozenset({"config"}),
    "credentials": frozenset({"errors", "observe"}),
    "threads": frozenset(),
    "observe": frozenset(),
    "observe.stages": frozenset({"_core"}),
    "observe.event_pb": frozenset({"_pb", "observe.events"}),
    "_core": frozenset({"errors"}),
    "protocol": frozenset({"_core"}) | LEAVES,
    "transport": BOTTOM,
    "session": BOTTOM,
    "cluster.counters": frozenset({"observe"}),
    "cluster": WITHOUT_IO | {"dispatch", "control", "engine", "service.results"},
    "workers": BOTTOM
    | {"cluster", "figures", "gateway", "drain", "reload", "admin", "transport"}
    | {"overload", "upstream"},
    "auth": BOTTOM,
    "upstream": BOTTOM | {"service.results"},
    "service": LEAVES,
    "service.results": frozenset({"_pb", "errors"}),
    "dispatch": WITHOUT_IO,
    "control": WITHOUT_IO | {"service.push_api", "service.results"},
    "engine": WITHOUT_IO | {"dispatch", "control", "overload"},
    "grpc_api": LEAVES | {"_core", "auth.guesses", "control"},
    "reload": frozenset({"gateway"}) | LEAVES,
    "gateway": WITHOUT_IO
    | {"transport", "dispatch", "control", "engine", "grpc_api", "overload", "drain", "figures"}
    | {"cluster"},
    "admin": WITHOUT_IO
    | {"dispatch", "control", "gateway", "drain", "figures", "reload", "service.results"},
    "client": frozenset({"transport", "protocol"}) | LEAVES,
    "demo": frozenset({"service", ""}) | LEAVES,
    "bench": frozenset({"client", "transport", "protocol", ""}) | LEAVES,
    "conformance": frozenset({"client", "transport", "protocol", "_core"}) | LEAVES,
    "bench.checker": frozenset({"bench.findings", "bench.ledger"}),
    "bench.findings": frozenset(),
    "bench.ledger": frozenset(),
    "cli": BOTTOM
    | {"admin", "auth", "transport", "gateway", "drain", "reload", "client", "demo", "bench"}
    | {"conformance", "workers", "cluster"}
    | {"service", ""},
    "pb": frozenset({"_pb"}),
    "__main__": frozenset({"cli"}),
}
"""What each layer, or single module of one, may import; "" is the package's own public names."""

FOREIGN: dict[str, frozenset[str]] = {
    "_core": frozenset({"asyncio", "logging", "random", "socket", "time"}),
    "protocol": frozenset({"asyncio", "socket", "time"}),
    "session": frozenset({"asyncio", "socket", "time"}),
    "dispatch": frozenset({"socket", "grpc"}),
    "control": frozenset({"socket", "grpc"}),
    "engine": frozenset({"asyncio", "socket", "grpc"}),
}
"""What layers without I/O must not import from outside."""

_CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+(?P<source>[.\w]+)\s+c?import\s+(?P<names>[^#]+)"
    r"|c?import\s+(?P<modules>[\w., ]+))"
)


@dataclass(frozen=True)
class Edge:
    """One import: the importing module, what it names, and where."""

    module: str
    target: str
    where: str


def edges(root: Path) -> Iterator[Edge]:
    """Yield every import of the package under root, its targets as absolute dotted names."""
    for path in sorted((root / "gatesvr").rglob("*")):
        if path.suffix not in {".py", ".pyi", ".pyx", ".pxd"}:
            continue
        parts = list(path.relative_to(root).with_suffix("").parts)
        package = parts[:-1]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text("utf-8")
        found = _python_imports(text) if path.suffix in {".py", ".pyi"} else _cython_imports(text)
        for line, level, source, name in found:
            base = package[: len(package) - level + 1] if level else []
            target = ".".join([*base, *filter(None, source.split("."))])
            if name and _is_module(root, f"{target}.{name}"):
                target = f"{target}.{name}"
            yield Edge(module, target, f"{path.relative_to(root)}:{line}")


def violations(root: Path) -> list[str]:
    """Return one line for every edge that the drawing does not have."""
    bad = []
    for edge in edges(root):
        module = edge.module.removeprefix("gatesvr").removeprefix(".")
        layer = module.split(".")[0]
        if edge.target != "gatesvr" and not edge.target.startswith("gatesvr."):
            if edge.target.split(".")[0] in FOREIGN.get(layer, ()):
                bad.append(f"{edge.where}: {layer} must not import {edge.target}")
            continue
        if not module:
            continue  # the public names are lazy, which has a test of its own
        target = edge.target.removeprefix("gatesvr").removeprefix(".")
        if layer not in ALLOWED:
            bad.append(f"{edge.where}: {layer} is no layer")
        elif not _is_allowed(module, layer, target):
            bad.append(f"{edge.where}: {module} must not import {target or 'gatesvr'}")
    return bad


def _is_allowed(module: str, layer: str, target: str) -> bool:
    own = ALLOWED.get(module) if module != layer else None
    if own is None and (target == layer or target.startswith(f"{layer}.")):
        return True
    rules = ALLOWED[layer] if own is None else own
    return any(target == rule or (rule and target.startswith(f"{rule}.")) for rule in rules)


def _is_module(root: Path, name: str) -> bool:
    path = root.joinpath(*name.split("."))
    return path.is_dir() or any(path.with_suffix(s).exists() for s in (".py", ".pyx", ".pxd"))


def _python_imports(text: str) -> Iterator[tuple[int, int, str, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, 0, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, node.level, node.module or "", alias.name


def _cython_imports(text: str) -> Iterator[tuple[int, int, str, str]]:
    for line, content in enumerate(text.splitlines(), 1):
        match = _CYTHON_IMPORT.match(content)
        if match is None:
            continue
        if match["modules"]:
            for name in match["modules"].split(","):
                yield line, 0, name.split()[0], ""
        else:
            source = match["source"].lstrip(".")
            level = len(match["source"]) - len(source)
            for name in re.findall(r"\w+", match["names"]):
                yield line, level, source, name


def test_no_import_crosses_the_layers() -> None:
    assert violations(ROOT) == []


def test_reader_sees_the_package() -> None:
    seen = list(edges(ROOT))
    assert any(e.module == "gatesvr.config.kinds" and e.target == "gatesvr.errors" for e in seen)
    assert any(e.where.split(":")[0].endswith(".pyx") for e in seen)


def test_every_layer_that_is_drawn_is_there() -> None:
    package = ROOT / "gatesvr"
    drawn = {name for name in ALLOWED if "." not in name}
    found = {path.stem for path in package.glob("*.py")} - {"__init__"}
    found |= {path.parent.name for path in package.glob("*/__init__.py")}
    found |= {path.parent.name for path in package.glob("*/*.py") if path.parent.name == "_pb"}
    assert drawn <= found


@pytest.mark.parametrize("layer", [name for name in ALLOWED if "." not in name])
def test_every_edge_that_is_not_drawn_is_found(tmp_path: Path, layer: str) -> None:
    layers = [name for name in ALLOWED if "." not in name]
    for name in layers:
        (tmp_path / "gatesvr" / name).mkdir(parents=True)
    wrong = [name for name in layers if name != layer and name not in ALLOWED[layer]]
    wrong_foreign = sorted(FOREIGN.get(layer, ()))
    lines = [
        *(f"from ..{name} import thing" for name in wrong),
        *(f"import {name}" for name in wrong_foreign),
    ]
    if "" not in ALLOWED[layer]:
        lines.append("from gatesvr import Gateway")
    (tmp_path / "gatesvr" / layer / "planted.py").write_text("\n".join(lines), "utf-8")
    assert len(violations(tmp_path)) == len(lines) > 0


@pytest.mark.parametrize(
    ("path", "text"),
    [
        # Upward.
        ("session/session.py", "from ..dispatch.task import AsyncTask"),
        ("dispatch/task.py", "from ..engine import Engine"),
        ("control/commands.py", "from ..grpc_api.service import PushService"),
        ("engine.py", "from .gateway import Gateway"),
        ("_core/queue.pyx", "from ..protocol.messages import PushType"),
        # Sideways.
        ("session/session.py", "from ..transport.listener import ConnectionListener"),
        ("session/state.py", "import gatesvr.upstream.manager"),
        ("dispatch/login.py", "from ..control.commands import Commands"),
        ("control/pushes.py", "from ..dispatch.task import AsyncTask"),
        ("service/service.py", "from ..upstream.lane import Lane"),
        ("bench/run.py", "from ..cli import main"),
        # Past a layer that should stand between.
        ("grpc_api/servicer.py", "from ..session.manager import SessionManager"),
        ("service/service.py", "from ..protocol import link"),
        ("demo/zone.py", "from ..upstream.manager import UpstreamManager"),
        ("client/client.py", "from ..session import session"),
        ("gateway.py", "from .client.client import Client"),
        ("cli/serve.py", "from ..session.manager import SessionManager"),
        ("gateway.py", "from .admin.metrics import MetricsPage"),
        # I/O below the engine.
        ("engine.py", "from .transport.listener import ConnectionListener"),
        ("engine.py", "import asyncio"),
        ("dispatch/processor.py", "from ..transport.connection import Connection"),
        ("control/events.py", "import grpc.aio"),
        ("_core/udp.pyx", "    import time"),
        # A leaf that imports.
        ("grpcio.py", "from .observe.log import keys"),
        ("observe/log.py", "from ..errors import GatesvrError"),
        ("observe/events.py", "from .._pb import upstream_pb2"),
        ("observe/event_pb.py", "from .log import keys"),
        # A single module with rules of its own.
        ("upstream/registry.py", "from ..service.push_api import PushApi"),
        ("service/results.py", "from .push_api import PushApi"),
        ("bench/checker.py", "from .run import run"),
        # The public names, from below.
        ("upstream/lane.py", "from gatesvr import Gateway"),
        # A folder that the drawing does not have.
        ("helpers/misc.py", "from ..errors import GatesvrError"),
        # However it is written.
        ("session/session.py", "from .. import transport"),
        ("session/session.py", "def f():\n    import asyncio"),
        ("protocol/server.py", "from gatesvr.session import Session"),
        (
            "transport/quic/interface.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gatesvr.control",
        ),
        ("gateway.py", "from . import cli"),
        ("_core/queue.pyx", "from gatesvr.config cimport thing"),
        ("_core/queue.pxd", "cimport cython, gatesvr.session"),
    ],
)
def test_planted_edge_is_found(tmp_path: Path, path: str, text: str) -> None:
    layers = "transport session cli client upstream protocol control admin"
    for layer in layers.split():
        (tmp_path / "gatesvr" / layer).mkdir(parents=True, exist_ok=True)
    planted = tmp_path / "gatesvr" / path
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(text, "utf-8")
    assert len(violations(tmp_path)) == 1


def test_good_edges_pass(tmp_path: Path) -> None:
    for path, text in {
        "errors.py": "import enum",
        "_core/queue.pyx": "from libc.stdint cimport uint64_t\nfrom .wire cimport put_head",
        "session/manager.py": "from .state import TABLE\nfrom .._core.queue import OrderedQueue",
        "demo/zone.py": "from ..service.service import UpstreamService",
        "engine.py": "from .control.commands import Commands\nfrom .upstream import router",
        "gateway.py": "from .engine import Engine\nfrom .grpc_api.service import PushService",
        "grpc_api/servicer.py": "import grpc\nfrom ..control.commands import Commands",
        "cli/__init__.py": "from gatesvr import Gateway\nfrom ..demo import zone",
        "__main__.py": "from .cli import main",
    }.items():
        planted = tmp_path / "gatesvr" / path
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_text(text, "utf-8")
    assert violations(tmp_path) == []


def test_public_names_are_lazy() -> None:
    """``import gatesvr`` alone loads no layer and no third-party library."""
    code = (
        "import sys; import gatesvr; "
        "print([m for m in sys.modules if m.startswith(('gatesvr.', 'grpc', 'aioquic', 'qh3'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
