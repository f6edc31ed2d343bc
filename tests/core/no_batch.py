"""A pytest plugin that runs tests on the build for systems without recvmmsg and sendmmsg.

It compiles gatesvr._core.udp with -DGATESVR_NO_BATCH into the folder named by GATESVR_NO_BATCH and
uses it instead of the installed module.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension
from setuptools.dist import Distribution

ROOT = Path(__file__).parents[2]
NAME = "gatesvr._core.udp"


def build(folder: Path) -> Path:
    """Compile the module; return its file."""
    # Its speed does not matter.
    extension = Extension(
        NAME, ["gatesvr/_core/udp.pyx"], define_macros=[("GATESVR_NO_BATCH", "1")],
        extra_compile_args=["-O0"],
    )  # fmt: skip
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        modules = cythonize([extension], build_dir=str(folder / "c"), language_level=3, quiet=True)
        command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
        command.build_lib = str(folder / "lib")
        command.build_temp = str(folder / "temp")
        command.ensure_finalized()
        command.run()
        return folder / "lib" / command.get_ext_filename(NAME)
    finally:
        os.chdir(before)


def pytest_configure() -> None:
    path = build(Path(os.environ["GATESVR_NO_BATCH"]))
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    import gatesvr._core as core

    core.udp = module  # type: ignore[attr-defined]
    assert not module.HAS_BATCH
