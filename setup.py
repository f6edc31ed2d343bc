"""The compiled core; everything else about the package stands in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

DEBUG = os.environ.get("GATESVR_CYTHON_DEBUG") == "1"
# For the compiler and the linker, after our own: sanitizers, coverage.
FLAGS = os.environ.get("GATESVR_CORE_FLAGS", "").split()

Options.warning_errors = True
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "linetrace": DEBUG,
    "embedsignature": True,
    "warn.undeclared": True,
    "warn.unused_arg": True,
}

EXTENSIONS = [
    Extension(
        f"gatesvr._core.{path.stem}",
        [path.as_posix()],
        extra_compile_args=(["-O1", "-g"] if DEBUG else ["-O3", "-g0"]) + FLAGS,
        extra_link_args=FLAGS,
        define_macros=[("CYTHON_TRACE", "1")] if DEBUG else [],
    )
    for path in sorted(Path("gatesvr/_core").glob("*.pyx"))
]

setup(ext_modules=cythonize(EXTENSIONS, compiler_directives=DIRECTIVES))
