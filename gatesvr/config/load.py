"""Builds the configuration from its sources, and says which of them a refused value came from."""

from __future__ import annotations

import copy
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigError
from . import toml
from .kinds import FieldError, Section, hint, kinds_of, shown
from .sections import Config

__all__ = ["Origins", "fields", "load", "load_with_origins", "needs_restart"]

MAX_FILE_BYTES = 256 << 10
"""Of a configuration file: a larger one is something else, and would hold up a gateway's loop."""

_PREFIX = "GATESVR_"
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


def fields(section: type[Section] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every settable field as (dotted name, type)."""
    for name, kind in kinds_of(section).items():
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


def needs_restart(name: str, section: type[Section] = Config) -> bool:
    """Return whether only a restart can change a field, named by its dotted name."""
    key, _, rest = name.partition(".")
    return needs_restart(rest, kinds_of(section)[key]) if rest else key in section.restart


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Build the configuration from a file, the environment, ``--set`` texts and flags.

    Args:
        path: TOML file, or None.
        sets: ``section.key=value`` texts; the value is TOML, or plain text where it is no TOML.
        environ: Environment to read ``GATESVR_SECTION__KEY`` from, or None for none.
        overrides: Dotted name to value, from named flags.

    Raises:
        ConfigError: A file cannot be read, a key is unknown or a value wrong; it names the source,
            the field and the value.
    """
    return load_with_origins(path, sets=sets, environ=environ, overrides=overrides)[0]


def load_with_origins(
    path: str | os.PathLike[str] | None = None,
    *,
    sets: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Config, Origins]:
    """Build the configuration as load() does; return it with what set each of its fields."""
    origins = Origins(path)
    tree = origins.tree
    names = dict(fields())

    def put(name: str, value: Any, source: str) -> None:
        _put(tree, name, value, source)
        origins.put(name, source)

    for variable, name in _variables(names, environ or {}):
        put(name, _parse_text(names[name], (environ or {})[variable]), variable)
    for text in sets:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{shown(text)} is not section.key=value", source="--set")
        name = name.strip()
        if name not in names and not name.startswith("upstream.services."):
            raise ConfigError(f"unknown setting{hint(name, names)}", source="--set", field=name)
        put(name, _parse_text(names.get(name), value), "--set")
    for name, value in (overrides or {}).items():
        put(name, value, "flag")
    return typing.cast("Config", _Builder(origins).build(Config, tree, "")), origins


class Origins:
    """What set each field: a line of the file, a variable, ``--set`` or a flag.

    Args:
        path: TOML file, or None.

    Attributes:
        tree: The tables of the file; the loader puts the other sources' values in.

    Raises:
        ConfigError: The file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = "" if path is None else repr(os.fspath(path))[1:-1]
        self._text = "" if path is None else self._read(path)
        try:
            self._file = toml.parse(self._text)
            self.tree = copy.deepcopy(self._file)
        except tomllib.TOMLDecodeError as error:
            raise self._broken(str(error)) from None
        except RecursionError:
            raise ConfigError("nested too deeply", source=self._path) from None
        self._sources: dict[str, str] = {}

    def _read(self, path: str | os.PathLike[str]) -> str:
        try:
            with Path(path).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ConfigError(f"more than {MAX_FILE_BYTES} bytes", source=self._path)
            return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except OSError as error:
            raise ConfigError(error.strerror or str(error), source=self._path) from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"no UTF-8 text, at byte {error.start}", source=self._path) from None
        except ValueError as error:  # a path that no file can have
            raise ConfigError(str(error), source=self._path) from None

    def _broken(self, message: str) -> ConfigError:
        match = _AT.search(message)
        if match is None:
            return ConfigError(message, source=self._path)
        line = match[1] or len(self._text.splitlines())
        return ConfigError(message[: match.start()], source=f"{self._path}:{line}")

    def put(self, name: str, source: str) -> None:
        """Note that a source sets a field, and with it all parts of the field."""
        for part in [part for part in self._sources if part.startswith(f"{name}.")]:
            del self._sources[part]
        self._sources[name] = source

    def of(self, field: str) -> str:
        """Return what set a field or the smallest whole that it is a part of; "" for nothing."""
        wholes = [
            name for name in self._sources if f"{field}.".startswith((f"{name}.", f"{name}["))
        ]
        if wholes:
            return self._sources[max(wholes, key=len)]
        return self._line(field) if toml.is_in(self._file, field) else ""

    def told(self, field: str) -> str:
        """Return what set a field: ``default`` where a table that was set leaves it out."""
        return (self.of(field) if toml.is_in(self.tree, field) else "") or "default"

    def blame(self, field: str) -> str:
        """Return what to name in a complaint about a field: its origin, or the nearest to it."""
        parts = (source for name, source in self._sources.items() if name.startswith(f"{field}."))
        return self.of(field) or next(parts, "") or self._line(field)

    def _line(self, field: str) -> str:
        line = toml.line_of(self._text, field)
        return f"{self._path}:{line}" if line else self._path


def _variables(names: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the variables that set something, as (variable, dotted name).

    Only what has two underscores is taken for a setting: Kubernetes sets GATESVR_PORT and the like
    for a service named gatesvr.

    Raises:
        ConfigError: One is misspelt, or has the single underscore of older versions.
    """
    known = {f"{_PREFIX}{name.replace('.', '__').upper()}": name for name in names}
    old = {variable.replace("__", "_"): variable for variable in known}
    for variable in environ:
        if variable in known:
            yield variable, known[variable]
        elif variable in old:
            raise ConfigError(f"it is called {old[variable]} now", source=variable)
        elif variable.startswith(_PREFIX) and "__" in variable:
            raise ConfigError(f"unknown setting{hint(variable.upper(), known)}", source=variable)


class _Builder:
    """Makes sections of a tree of plain values.

    Args:
        origins: What to blame for what is wrong.
    """

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    def build(self, section: type[Section], tree: Any, prefix: str) -> Section:
        """Return a section; prefix is its dotted name, with a dot where it is not empty."""
        if not isinstance(tree, dict):
            raise self._error(prefix.rstrip("."), f"{shown(tree)} is no table")
        kinds = kinds_of(section)
        for key in tree:
            if key not in kinds:
                raise self._error(f"{prefix}{key}", f"unknown setting{hint(key, kinds)}")
        for field in msgspec.structs.fields(section):
            if field.required and field.name not in tree:
                raise self._error(f"{prefix}{field.name}", "it is missing")
        values = {key: self._part(kinds[key], value, prefix + key) for key, value in tree.items()}
        try:
            return section(**values)
        except FieldError as error:
            raise self._error(prefix + error.name, error.message) from None

    def _part(self, kind: Any, value: Any, name: str) -> Any:
        """Return value with the tables in it made to sections; the section checks the rest."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, Section):
            return self.build(kind, value, f"{name}.")
        if origin is list and isinstance(value, list):
            return [self._part(arguments[0], v, f"{name}[{i}]") for i, v in enumerate(value)]
        if origin is list and self._holds_sections(arguments[0]):
            raise self._error(name, f"{shown(value)} is not a list")
        if origin is dict and isinstance(value, dict):
            return {k: self._part(arguments[1], v, f"{name}.{k}") for k, v in value.items()}
        return value

    @staticmethod
    def _holds_sections(kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, Section)

    def _error(self, field: str, message: str) -> ConfigError:
        return ConfigError(message, source=self._origins.blame(field), field=field)


def _parse_text(kind: Any, text: str) -> Any:
    """Return the TOML value that text spells, or text itself."""
    if kind is str:
        text = text.strip()
        if not text.startswith(("'", '"')):
            return text
    try:
        values = toml.parse(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return values["value"] if len(values) == 1 else text


def _put(tree: dict[str, Any], name: str, value: Any, source: str) -> None:
    # A service's name is taken whole, whatever is in it.
    *sections, key = name.split(".", 2)
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{section} is no table", source=source, field=name)
        tree = inner
    tree[key] = value
