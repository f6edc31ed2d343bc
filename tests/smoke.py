"""Check an installed GateSvr: every compiled module imports, ``serve --demo`` answers one call.

Wheels are tested with it, outside of a checkout: ``python tests/smoke.py``. It needs nothing but
the package and ends with 0, or with a traceback that says what is missing.
"""

from __future__ import annotations

import importlib
import pkgutil
import shlex
import subprocess
import sys
from pathlib import Path

DEADLINE_S = 120.0
GATESVR = (sys.executable, "-m", "gatesvr")


def import_extensions() -> list[str]:
    """Import every module of the compiled core; return their names."""
    core = importlib.import_module("gatesvr._core")
    names = [module.name for module in pkgutil.iter_modules(core.__path__, "gatesvr._core.")]
    for name in names:
        source = Path(importlib.import_module(name).__file__ or "")
        assert source.suffix in {".so", ".pyd"}, f"{name} is not compiled: {source}"
    assert names, "the package has no compiled modules"
    return names


def call_once() -> str:
    """Run ``serve --demo``, make the call its banner shows, and return the answer."""
    with subprocess.Popen(
        [*GATESVR, "serve", "--demo", "--bind", "127.0.0.1:0", "--grpc-bind", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            line = next((line for line in server.stdout if " call echo " in line), None)
            assert line is not None, "serve ended without a banner"
            words = shlex.split(line)
            call = [*GATESVR, *words[words.index("call") :]]
            answer = subprocess.run(
                call, stdout=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=True
            )
            return answer.stdout
        finally:
            server.terminate()
            server.communicate(timeout=DEADLINE_S)


def main() -> None:
    """Run both checks."""
    for name in import_extensions():
        print(f"{name}: compiled")
    answer = call_once()
    assert answer == "hello\n", f"the demo answered {answer!r}"
    print("serve --demo: answers")


if __name__ == "__main__":
    main()
