"""Write the reference pages that come from the code: commands, refusals, cases of the kit.

docs/generate.py runs it; tests/test_docs_site.py fails when a page is not what the code says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from gatesvr import errors
from gatesvr.admin.counters import AdminCounters
from gatesvr.cli.main import commands
from gatesvr.conformance.case import all_cases
from gatesvr.figures import CLUSTER_COUNTERS, COUNTERS, REFUSALS
from gatesvr.observe.metrics import Counters, member_texts

DOCS = Path(__file__).parent

LAYERS: dict[str, type[Counters]] = {**COUNTERS, **CLUSTER_COUNTERS, "admin": AdminCounters}
"""The counters of each layer, in the order that a message meets them."""


def refusals() -> dict[str, list[str]]:
    """Return the names of the refusals by layer, as their struct has them."""
    return {
        layer: [field.name for field in fields(struct) if field.name in REFUSALS[layer]]
        for layer, struct in LAYERS.items()
    }


# Texts in the code -------------------------------------------------------------------------------


def texts(struct: type) -> dict[str, str]:
    """Return the docstring under each field or member of a class, those of its bases included."""
    return {name: text.replace("``", "`") for name, text in member_texts(struct).items()}


def cell(text: str) -> str:
    """Return text for a table's cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# Commands ----------------------------------------------------------------------------------------

CLI_HEAD = """\
# Commands

<!-- Written by docs/reference.py from the commands themselves. -->

Everything that the `gatesvr` command can do, as the command itself says it. Exit codes: 0 for
success, 1 when the command failed, 2 for a wrong argument or setting; `bench` also has 99 for a
missed threshold. Ctrl-C and SIGTERM stop in order; a second one ends at once.

A *DURATION* is a number of seconds or text such as `500ms`, `1s`, `2m`, `1h`; an address is
`HOST:PORT`. Every setting of [the configuration](configuration.md) is also one of `gatesvr serve`:
`--set section.key=value`.

"""


def cli() -> str:
    """Return docs/cli.md."""
    parts = [CLI_HEAD]
    pages = list(walk(commands, ("gatesvr",)))
    parts.append("| command | does |\n| --- | --- |\n")
    for path, command in pages:
        if not isinstance(command, click.Group):
            name = " ".join(path)
            anchor = name.replace(" ", "-")
            parts.append(f"| [`{name}`](#{anchor}) | {cell(first_sentence(command))} |\n")
    for path, command in pages:
        if len(path) == 1:
            continue
        parts.extend(section(path, command))
    return "".join(parts)


def walk(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below command, itself first, with the words that run it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            if not below.hidden:
                yield from walk(below, (*path, name))


def section(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    """Yield the text of one command."""
    context = click.Context(command, info_name=" ".join(path))
    yield f"\n{'#' * min(len(path), 3)} {' '.join(path)}\n\n"
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    yield f"```text\n{usage}\n```\n\n"
    yield help_text(command)
    options = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if options:
        yield "\n| option | | default |\n| --- | --- | --- |\n"
        for option in options:
            yield row(option, context)


def row(option: click.Option, context: click.Context) -> str:
    """Return the row of one option."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    value = "" if option.is_flag or option.count else f" {option.make_metavar(context)}"
    text, default = re.fullmatch(
        r"(.*?)\s*(?:\[(?:default: )?([^\[\]]+)\])?", " ".join((option.help or "").split())
    ).groups()  # type: ignore[union-attr]  # a help text may end with its default in brackets
    if default is None and option.show_default and isinstance(option.default, str | int | float):
        default = str(option.default)
    repeats = " Repeatable." if option.multiple and "repeatable" not in text else ""
    shown = f"`{cell(default)}`" if default and " " not in default else cell(default or "")
    names = cell(f"{names}{value}").replace("&lt;", "<")
    return f"| `{names}` | {cell(text + repeats)} | {shown} |\n"


def first_sentence(command: click.Command) -> str:
    """Return what a command does, in a sentence."""
    return help_text(command).strip().split("\n\n")[0]


def help_text(command: click.Command) -> str:
    """Return a command's help as Markdown: click's unwrapped paragraphs become blocks."""
    parts = []
    for paragraph in inspect.cleandoc(command.help or "").split("\f")[0].split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append(f"```text\n{paragraph[1:].strip(chr(10))}\n```\n")
        else:
            parts.append(f"{cell(paragraph)}\n".replace("\\|", "|"))
    return "\n".join(parts)


# Codes and refusals ------------------------------------------------------------------------------

CODES_HEAD = """\
# Codes and refusals

<!-- Written by docs/reference.py from gatesvr/errors.py, docs/protocol.md and the counters. -->

Whatever the gateway refuses has a code that the client or the caller sees, and a counter that you
see. This page lists all of them; [Operations](operations.md) says what to do about each.

## Close codes

The application error code that a QUIC connection closes with. It alone tells a client what to do
next. In Python it is a `gatesvr.CloseCode`.

| code | name | meaning | reconnect | resume | session |
| --- | --- | --- | --- | --- | --- |
"""

ERRORS_HEAD = """
Unknown 44xx: do not reconnect. Unknown 45xx: back off and resume. 46xx are the operator's own.

## Error codes

The `error_code` of an ERROR in the place of an answer, or of a refused START. A Python client
raises it as a `gatesvr.RequestFailed`; `retry_after_ms` says when to try again. In Python it is a
`gatesvr.ErrorCode`.

| code | name | meaning |
| --- | --- | --- |
"""

OUTCOMES_HEAD = """
499 is a counter, not a code on the wire: the session was closed before the answer came.

### Outcomes

What the gateway knows of the execution of a request that failed: whether repeating it is safe.

| outcome | name | meaning |
| --- | --- | --- |
"""

LOST_HEAD = """
## Reasons for lost messages

The `reason` of a `gatesvr.Lost` (notifies that were let go) and of a `gatesvr.SessionLost`.

| reason | name | meaning |
| --- | --- | --- |
"""

REFUSALS_HEAD = """
## Refusals

Each counter of something refused, dropped, cut or failed: `gatesvr serve --stats 5s` prints them
by these names, `gateway.stats()` returns them.
"""

RUNBOOKS = {
    "transport": "Datagrams and connections",
    "web": "Web clients",
    "auth": "Who may come in",
    "session": "Sessions, resumes and pushes",
    "dispatch": "Requests",
    "upstream": "Services",
    "push": "The push port",
    "overload": "Overload",
    "drain": "Draining",
    "cluster": "Several processes",
    "admin": "The admin server",
}
"""The title of each layer's refusals, here and in docs/operations.md."""


def codes() -> str:
    """Return docs/codes.md."""
    parts = [CODES_HEAD]
    policies = close_policies()
    meanings = texts(errors.CloseCode)
    for code in errors.CloseCode:
        link = f"[{code.value}](operations.md#close-{code.value})"
        policy = " | ".join(policies[code.value])
        parts.append(f"| {link} | `{code.name}` | {cell(meanings[code.name])} | {policy} |\n")
    parts.append(f"| none | | Idle, reset, or the network. | {' | '.join(policies[None])} |\n")
    for head, enum in (
        (ERRORS_HEAD, errors.ErrorCode),
        (OUTCOMES_HEAD, errors.Outcome),
        (LOST_HEAD, errors.LostReason),
    ):
        parts.append(head)
        parts.extend(members(enum))
    parts.append(REFUSALS_HEAD)
    for layer, names in refusals().items():
        meanings = texts(LAYERS[layer])
        parts.append(f"\n### {RUNBOOKS[layer]}\n\n")
        slug = RUNBOOKS[layer].lower().replace(",", "").replace(" ", "-")
        parts.append(f"What to do: [Operations](operations.md#{slug}).\n\n")
        parts.append("| counter | counts |\n| --- | --- |\n")
        parts.extend(f"| `{layer}.{name}` | {cell(meanings[name])} |\n" for name in names)
    return "".join(parts)


def members(enum: type[IntEnum]) -> Iterator[str]:
    """Yield the rows of an enumeration."""
    meanings = texts(enum)
    for member in enum:
        yield f"| {member.value} | `{member.name}` | {cell(meanings[member.name])} |\n"


def close_policies() -> dict[int | None, list[str]]:
    """Return, for each close code and none: reconnect, resume and session of PROTOCOL 6."""
    chapter = (DOCS / "protocol.md").read_text("utf-8").partition("## 6. Codes")[2]
    found: dict[int | None, list[str]] = {}
    for line in re.findall(r"^\| (?:\d+|none) \|.*$", chapter, re.MULTILINE):
        cells = [part.strip() for part in line.strip("|").split("|")]
        if len(cells) == 5:
            found.setdefault(None if cells[0] == "none" else int(cells[0]), cells[2:])
    return found


# The conformance kit -----------------------------------------------------------------------------

CASES_MARK = "<!-- Cases: written by docs/reference.py from the kit itself. -->\n"


def conformance() -> str:
    """Return docs/conformance.md, with a table of the kit's cases at its end."""
    head = (DOCS / "conformance.md").read_text("utf-8").partition(CASES_MARK)[0]
    rows = ["| section | case | the rule |", "| --- | --- | --- |"]
    rows += [f"| {case.rule} | `{case.name}` | {cell(case.title)} |" for case in all_cases()]
    return head + CASES_MARK + "\n" + "\n".join(rows) + "\n"


PAGES: dict[str, Any] = {"cli.md": cli, "codes.md": codes, "conformance.md": conformance}


def main() -> None:
    """Write the pages."""
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), "utf-8")
