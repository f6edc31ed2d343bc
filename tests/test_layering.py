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

LEAVES = frozenset({"errors", "config", "_pb", "observe", "grpcio"})
BOTTOM = frozenset({"_core", "protocol"}) | LEAVES
MIDDLE = BOTTOM | {"transport", "session", "upstream"}
BELOW_GATEWAY = MIDDLE | {"dispatch", "control", "grpc_api", "service"}

ALLOWED: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "config": frozenset({"errors"}),
    "_pb": frozenset(),
    "grpcio": frozenset({"config"}),
    "observe": frozenset(),
    "_core": frozenset({"errors"}),
    "protocol": frozenset({"_core"}) | LEAVES,
    "transport": BOTTOM,
    "session": BOTTOM,
    "upstream": BOTTOM | {"service.results"},
    "service": LEAVES,
    "service.results": frozenset({"_pb", "errors"}),
    "dispatch": MIDDLE,
    "control": MIDDLE | {"service.push_api", "service.results"},
    "grpc_api": MIDDLE | {"control", "service.results"},
    "client": frozenset({"transport", "protocol"}) | LEAVES,
    "gateway": BELOW_GATEWAY,
    "admin": BELOW_GATEWAY | {"gateway", ""},
    "demo": frozenset({"service", ""}) | LEAVES,
    "bench": frozenset({"client", "transport", "protocol", ""}) | LEAVES,
    "bench.checker": frozenset({"bench.findings", "bench.ledger"}),
    "bench.findings": frozenset(),
    "bench.ledger": frozenset(),
    "cli": BELOW_GATEWAY | {"gateway", "admin", "client", "demo", "bench", "service", ""},
    "pb": frozenset({"_pb"}),
    "__main__": frozenset({"cli"}),
}
"""What each layer, or single module of one, may import; "" is the package's own public names."""

FOREIGN: dict[str, frozenset[str]] = {
    "_core": frozenset({"asyncio", "logging", "random", "socket", "time"}),
    "protocol": frozenset({"asyncio", "socket", "time"}),
    "session": frozenset({"asyncio", "socket", "time"}),
}
"""What sans-IO layers must not import from outside."""

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


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("session/session.py", "from ..transport.listener import ConnectionListener"),
        ("session/session.py", "from .. import transport"),
        ("session/session.py", "def f():\n    import asyncio"),
        ("session/state.py", "import gatesvr.upstream.manager"),
        ("protocol/server.py", "from gatesvr.session import Session"),
        (
            "transport/quic/interface.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import gatesvr.control",
        ),
        ("service/service.py", "from ..upstream.lane import Lane"),
        ("service/service.py", "from ..protocol import link"),
        ("upstream/lane.py", "from gatesvr import Gateway"),
        ("demo/zone.py", "from ..upstream.manager import UpstreamManager"),
        ("client/client.py", "from ..session import session"),
        ("gateway.py", "from .client.client import Client"),
        ("gateway.py", "from . import cli"),
        ("dispatch/task.py", "from ..grpc_api.service import PushService"),
        ("observe/log.py", "from ..errors import GatesvrError"),
        ("_core/queue.pyx", "from ..protocol.messages import PushType"),
        ("_core/queue.pyx", "from gatesvr.config cimport thing"),
        ("_core/queue.pxd", "cimport cython, gatesvr.session"),
        ("_core/udp.pyx", "    import time"),
        ("helpers/misc.py", "from ..errors import GatesvrError"),
    ],
)
def test_planted_edge_is_found(tmp_path: Path, path: str, text: str) -> None:
    for layer in ("transport", "session", "cli", "client", "upstream", "protocol", "control"):
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
