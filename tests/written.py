"""Reads what people are told to write: commands in the documentation and in deploy/."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from gatesvr.cli.main import commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SHELL_ENDS = {"|", "&&", "||", ";", "&", ">", ">>", "<", "#"}


def load(path: str) -> ModuleType:
    """Return a file of the repository as a module; the folder of docs/ is on its path."""
    file = ROOT / path
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    name = f"{file.parent.name}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def block(page: str, name: str) -> ModuleType:
    """Return a page's example, ``<!-- example: NAME -->`` and the Python below it, as a module."""
    text = (ROOT / page).read_text("utf-8")
    match = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert match is not None, f"{page} has no example {name}"
    module = ModuleType(f"{Path(page).stem}_{name}")
    exec(compile(match[1], f"{page} ({name})", "exec"), module.__dict__)
    return module


def shell_commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each ``gatesvr`` in a page's shell blocks and in its running text."""
    lines = [line for found in _BLOCK.findall(text) for line in _lines(found)]
    lines += re.findall(r"`((?:\.venv/bin/)?gatesvr [^`]+)`", text)
    for line in lines:
        words = shlex.split(re.sub(r"\$\((.*)\)", r"\1", line.removeprefix("$ ")), comments=True)
        yield from _split(words)


def _lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def _split(words: list[str]) -> Iterator[list[str]]:
    arguments: list[str] | None = None
    for word in [*words, ";"]:
        if word in _SHELL_ENDS or word == "gatesvr" or word.endswith("bin/gatesvr"):
            if arguments is not None:
                yield arguments
            arguments = [] if word.endswith("gatesvr") else None
        elif arguments is not None:
            arguments.append(word)


def check_command(words: Sequence[str]) -> None:
    """Raise unless ``gatesvr`` has the command and the options of words; nothing is run."""
    command: click.Command = commands
    context = click.Context(commands, info_name="gatesvr")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        below = command.get_command(context, rest[0].split("|")[0])
        assert below is not None, f"no command {rest[0]!r}: gatesvr {' '.join(words)}"
        command, rest = below, rest[1:]
    known = {
        name: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    } | dict.fromkeys(("--help", "-h"))
    for word in rest:
        name = word.partition("=")[0]
        if name.startswith("--") and name != "--":
            assert name in known, f"no option {name}: gatesvr {' '.join(words)}"
