"""Run one target under atheris: ``python -m tests.fuzz.run TARGET [libFuzzer's arguments]``.

__main__.py starts this for each target, in a process of its own.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import sys
from pathlib import Path

__all__ = ["main"]

INSTRUMENTED = ["gatesvr", "aioquic", "jwt", "tomllib"]
"""Packages whose Python code guides the fuzzer; coverage.c does it for the compiled core."""
_COVERAGE = Path(__file__).with_name("coverage.so")
_COMPARISONS = [f"trace_{kind}cmp{size}" for kind in ("", "const_") for size in (1, 2, 4, 8)]


def main() -> None:
    name, *arguments = sys.argv[1:]
    # Before the core, which finds the functions that its coverage calls among the global symbols.
    coverage = ctypes.CDLL(str(_COVERAGE), ctypes.RTLD_GLOBAL) if _COVERAGE.exists() else None
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"tests.fuzz.{name}")
    logging.getLogger().addHandler(logging.NullHandler())  # or warnings go to standard error
    atheris.Setup([sys.argv[0], *arguments], target.check)
    if coverage is not None:
        _connect(coverage)
    atheris.Fuzz()


def _connect(coverage: ctypes.CDLL) -> None:
    """Let the core's coverage report to the libFuzzer that atheris has loaded."""
    from atheris import core_with_libfuzzer

    fuzzer = ctypes.CDLL(core_with_libfuzzer.__file__)
    for name in [*_COMPARISONS, "trace_switch"]:
        function = ctypes.cast(getattr(fuzzer, f"__sanitizer_cov_{name}"), ctypes.c_void_p)
        ctypes.c_void_p.in_dll(coverage, name).value = function.value
    coverage.register_counters(
        fuzzer.__sanitizer_cov_8bit_counters_init, fuzzer.__sanitizer_cov_pcs_init
    )


if __name__ == "__main__":
    main()
