"""Describes the settings: their texts, a file of the defaults, a JSON Schema."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from . import sections
from .kinds import Duration, Section, kinds_of, number_kind
from .load import Origins
from .sections import Config

__all__ = ["as_toml", "descriptions", "schema"]

_WIDTH = 98
_DURATION_PATTERN = r"^\s*\d+(\.\d+)?(ms|s|m|h)?\s*$"
_SIZE_PATTERN = r"^\s*\d+(\.\d+)?(B|KiB|MiB|GiB|KB|MB|GB)?\s*$"


@functools.cache
def descriptions() -> dict[tuple[str, str], str]:
    """Return the docstring under every field, by (struct, field), and of every struct, field "".

    Source: the module of the sections.
    """
    texts = {}
    for node in ast.parse(inspect.getsource(sections)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts[node.name, ""] = ast.get_docstring(node) or ""
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
                    raise TypeError(f"{node.name}.{field.target.id} has no docstring")
                words = str(text.value.value).replace("``", "`").split()
                texts[node.name, field.target.id] = " ".join(words)
    return texts


def as_toml(config: Config, *, is_commented: bool = False, origins: Origins | None = None) -> str:
    """Return a configuration as a TOML file that load() reads back to an equal one.

    Args:
        config: The configuration.
        is_commented: Write above each setting what it means, and the setting as a comment.
        origins: Write behind each setting what set it.
    """
    texts = descriptions()
    out: list[str] = []

    def explain(struct: str, field: str) -> None:
        if is_commented:
            out.extend(_comment(texts[struct, field]))

    def add(
        header: str, field: str, part: Section | None = None, *, is_first: bool = False
    ) -> None:
        note = "" if origins is None else f"  # {origins.of(field) or 'default'}"
        lines = [] if part is None else [*_settings(part, "", is_commented and is_first), ""]
        mark = "# " if is_commented else ""
        out.append(f"{mark}{header}{note}")
        out.extend(line if line[:1] in ("", "#") else mark + line for line in lines)

    for name in config.__struct_fields__:
        section = getattr(config, name)
        if isinstance(section, Section):
            explain("Config", name)
            out += [f"[{name}]", *_settings(section, f"{name}.", is_commented, origins), ""]
    services = config.upstream.services
    explain("UpstreamConfig", "services")
    if not all(services.values()):
        add("[upstream.services]", "upstream.services")
        for service, endpoints in services.items():
            if not endpoints:
                add(f"{_key(service)} = []", f"upstream.services.{service}")
        out.append("")
    is_first = True
    for service, endpoints in services.items():
        for i, endpoint in enumerate(endpoints):
            header, field = f"[[upstream.services.{_key(service)}]]", f"{service}[{i}]"
            add(header, f"upstream.services.{field}", endpoint, is_first=is_first)
            is_first = False
    explain("Config", "route")
    for i, rule in enumerate(config.route):
        add("[[route]]", f"route[{i}]", rule, is_first=not i)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out))


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _settings(
    section: Section, prefix: str, is_commented: bool = False, origins: Origins | None = None
) -> Iterator[str]:
    """Yield the lines of a section's settings, besides those that are tables themselves."""
    for name, kind in kinds_of(type(section)).items():
        value = getattr(section, name)
        if isinstance(value, dict):
            continue
        line = f"{name} = {_spell(value, kind)}"
        if is_commented:
            text = descriptions()[type(section).__name__, name]
            if typing.get_origin(kind) is Annotated:
                number, limits = number_kind(kind)
                text += f" ({limits.spell(number)})"
            elif typing.get_origin(kind) is Literal:
                text += f" ({', '.join(filter(None, typing.get_args(kind)))})"
            yield from _comment(text)
            if part := _part_of(kind):
                for field in kinds_of(part):
                    yield from _comment(f"{field}: {descriptions()[part.__name__, field]}")
            line = f"# {line}\n"
        elif origins is not None:
            line = f"{line}  # {origins.of(prefix + name) or 'default'}"
        yield line


def _part_of(kind: Any) -> type[Section] | None:
    """Return the section that a list is of; None for every other kind."""
    arguments = typing.get_args(kind) if typing.get_origin(kind) is list else ()
    is_part = bool(arguments) and isinstance(arguments[0], type)
    return arguments[0] if is_part and issubclass(arguments[0], Section) else None


def _spell(value: Any, kind: Any) -> str:
    """Return a value as TOML has it."""
    if _part_of(kind) is not None:
        tables = (", ".join(_settings(part, "")) for part in value)
        return f"[{', '.join(f'{{{table}}}' for table in tables)}]"
    if typing.get_origin(kind) is Annotated:
        number, _ = number_kind(kind)
        return str(value) if number is int else f'"{number.spell(value)}"'
    # JSON's texts, truth values and lists of texts are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if is_bare else _spell(name, str)


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a configuration file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "GateSvr",
        **_table(Config),
    }


def _table(section: type[Section]) -> dict[str, Any]:
    fields = msgspec.structs.fields(section)
    kinds = kinds_of(section)
    texts = descriptions()
    properties = {}
    for field in fields:
        properties[field.name] = {
            **_kind_schema(kinds[field.name]),
            "description": texts[section.__name__, field.name],
        }
    return {
        "type": "object",
        "description": texts[section.__name__, ""],
        "properties": properties,
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _kind_schema(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, Section):
        return _table(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _number_schema(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _kind_schema(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _kind_schema(arguments[1])}
    return {"type": {str: "string", bool: "boolean"}[kind]}


def _number_schema(kind: Any) -> dict[str, Any]:
    number, limits = number_kind(kind)
    in_range: dict[str, Any] = {"minimum": limits.low, "maximum": limits.high}
    if number is Duration:
        in_range = {"type": "number", **in_range}
    else:
        in_range = {"type": "integer", **in_range}
    choices = [in_range]
    if limits.zero:
        choices.append({"const": 0})
    if number is not int:
        pattern = _DURATION_PATTERN if number is Duration else _SIZE_PATTERN
        choices.append({"type": "string", "pattern": pattern})
    text = {"$comment": limits.spell(number)}
    return {**choices[0], **text} if len(choices) == 1 else {"anyOf": choices, **text}
