"""Describes the settings: their texts, a file of the defaults, a JSON Schema."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import re
import textwrap
import typing
from typing import Annotated, Any, Literal

import msgspec

from . import ports, sections, upstream, workers
from .kinds import Duration, Section, kinds_of, number_kind
from .load import Origins
from .sections import Config

__all__ = ["as_toml", "descriptions", "schema", "spell"]

_WIDTH = 98
_DURATION_PATTERN = r"^\s*\d+(\.\d+)?(ms|s|m|h)?\s*$"
_SIZE_PATTERN = r"^\s*\d+(\.\d+)?(B|KiB|MiB|GiB|KB|MB|GB)?\s*$"


@functools.cache
def descriptions() -> dict[tuple[str, str], str]:
    """Return the docstring under every field, by (struct, field), and of every struct, field "".

    Source: the modules of the sections.
    """
    texts = {}
    modules = (sections, upstream, ports, workers)
    nodes = [node for module in modules for node in ast.parse(inspect.getsource(module)).body]
    for node in nodes:
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
    writer = _Writer(is_commented=is_commented, origins=origins)
    parts = [(name, getattr(config, name)) for name in config.__struct_fields__]
    named = [(name, part) for name, part in parts if isinstance(part, Section)]
    for name, section in named:
        writer.add_section(name, section)
    for name, section in named:
        writer.add_tables_of(section, f"{name}.")
    writer.add_tables_of(config, "")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(writer.lines))


class _Writer:
    """Writes a configuration as TOML; see as_toml().

    A setting that is itself a list of tables, or holds some, follows behind all sections.
    """

    def __init__(self, *, is_commented: bool, origins: Origins | None) -> None:
        self.lines: list[str] = []
        self._is_commented = is_commented
        self._origins = origins
        self._explained: set[type[Section]] = set()

    def add_section(self, name: str, section: Section, whole: type[Section] = Config) -> None:
        """Add a section of a whole and its plain settings, then the sections inside it."""
        self._explain(whole, name.rpartition(".")[2])
        self.lines.append(f"[{name}]")
        self._add_settings(type(section), section, f"{name}.")
        for field in section.__struct_fields__:
            if isinstance(part := getattr(section, field), Section):
                self.add_section(f"{name}.{field}", part, type(section))

    def add_tables_of(self, section: Section, prefix: str) -> None:
        """Add the settings of a section that are tables; prefix is its dotted name."""
        for name, kind in kinds_of(type(section)).items():
            part, value, field = _part_of(kind), getattr(section, name), f"{prefix}{name}"
            if part is None:
                continue
            self._explain(type(section), name)
            if isinstance(value, list):
                self._add_tables(field, field, part, value)
                continue
            if not all(value.values()):
                self._add(f"[{field}]")
                for key in [key for key in value if not value[key]]:
                    self._add(f"{_key(key)} = []", f"{field}.{key}")
                self.lines.append("")
            for key, tables in value.items():
                if tables:
                    self._add_tables(f"{field}.{_key(key)}", f"{field}.{key}", part, tables)

    def _add_tables(
        self, header: str, field: str, part: type[Section], tables: list[Section]
    ) -> None:
        """Add a list of tables; in a file of the defaults an empty one gets one to begin with."""
        begun = [None] if self._is_commented and part not in self._explained else []
        for i, table in enumerate(tables or begun):
            self._add(f"[[{header}]]", f"{field}[{i}]")
            self._add_settings(part, table, f"{field}[{i}].")

    def _add_settings(self, part: type[Section], section: Section | None, prefix: str = "") -> None:
        """Add the plain settings of a part, or its defaults; explain each once."""
        is_explained = part not in self._explained
        self._explained.add(part)
        kinds = kinds_of(part)
        for field in msgspec.structs.fields(part):
            kind = kinds[field.name]
            if _part_of(kind) is not None or _is_section(kind):
                continue
            if is_explained:
                self._explain(part, field.name, kind)
            value = _default(field) if section is None else getattr(section, field.name)
            self._add(f"{field.name} = {spell(value, kind)}", prefix and prefix + field.name)
            if is_explained and self._is_commented:
                self.lines.append("")
        self.lines.append("")

    def _add(self, line: str, field: str = "") -> None:
        """Add a line, and behind it what set a field; in a file of the defaults as a comment."""
        mark = "# " if self._is_commented else ""
        note = "" if self._origins is None or not field else f"  # {self._origins.told(field)}"
        self.lines.append(f"{mark}{line}{note}")

    def _explain(self, part: type[Section], field: str, kind: Any = None) -> None:
        if not self._is_commented:
            return
        text = descriptions()[part.__name__, field]
        if typing.get_origin(kind) is Annotated:
            number, limits = number_kind(kind)
            text += f" ({limits.spell(number)})"
        elif kind is not None and typing.get_origin(kind) is list:
            (kind,) = typing.get_args(kind)
        if typing.get_origin(kind) is Literal:
            text += f" ({', '.join(filter(None, typing.get_args(kind)))})"
        self.lines += textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _part_of(kind: Any) -> type[Section] | None:
    """Return the section that a list, or a table of lists, is made of; None for other kinds."""
    origin = typing.get_origin(kind)
    if origin not in (list, dict):
        return None
    while typing.get_origin(kind) in (list, dict):
        kind = typing.get_args(kind)[-1]
    return kind if _is_section(kind) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return "" if field.required else field.default


def spell(value: Any, kind: Any) -> str:
    """Return a value as TOML has it."""
    if typing.get_origin(kind) is Annotated:
        number, _ = number_kind(kind)
        return str(value) if number is int else f'"{number.spell(value)}"'
    # JSON's texts, truth values and lists of texts are TOML's, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if is_bare else spell(name, str)


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
    if _is_section(kind):
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
