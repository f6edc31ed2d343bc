"""Builds the configuration from its sources, and says which of them a refused value came from."""

from __future__ import annotations

import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ConfigError
from .kinds import FieldError, Section, hint, kinds_of, shown
from .sections import Config

__all__ = ["fields", "load", "needs_restart"]

_PREFIX = "GATESVR_"
_LONG_NUMBER = re.compile(r"\d[\d_]{4000,}", re.ASCII)
_KEPT_DIGITS = 400


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
    tree = _read_file(path) if path is not None else {}
    sources: dict[str, str] = {}
    names = dict(fields())

    def put(name: str, value: Any, source: str) -> None:
        _put(tree, name, value, source)
        for part in [part for part in sources if part.startswith(f"{name}.")]:
            del sources[part]
        sources[name] = source

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
    return typing.cast("Config", _Builder(sources, str(path or "")).build(Config, tree, ""))


def _read_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return _parse_toml(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(error.strerror or str(error), source=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"no UTF-8 text, at byte {error.start}", source=str(path)) from None
    except RecursionError:
        raise ConfigError("nested too deeply", source=str(path)) from None
    except ValueError as error:  # TOMLDecodeError, or a path that no file can have
        raise ConfigError(str(error), source=repr(path)[1:-1]) from None


def _parse_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:
        # An integer has more digits than Python reads (4,300). Cut to fewer it is still above every
        # range, and the refusal names its field.
        return tomllib.loads(_LONG_NUMBER.sub(_cut_number, text))


def _cut_number(match: re.Match[str]) -> str:
    return match[0][:_KEPT_DIGITS].rstrip("_")


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
        sources: Dotted name to what set it, besides the file.
        path: The file.
    """

    def __init__(self, sources: Mapping[str, str], path: str) -> None:
        self._sources = sources
        self._path = path

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
            raise self._error(name, f"{shown(value)} is no list")
        if origin is dict and isinstance(value, dict):
            return {k: self._part(arguments[1], v, f"{name}.{k}") for k, v in value.items()}
        return value

    @staticmethod
    def _holds_sections(kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, Section)

    def _error(self, field: str, message: str) -> ConfigError:
        # What set the field, or the smallest whole that it is a part of; otherwise, a part of it.
        sources = self._sources
        wholes = [name for name in sources if f"{field}.".startswith((f"{name}.", f"{name}["))]
        parts = (source for name, source in sources.items() if name.startswith(f"{field}."))
        source = sources[max(wholes, key=len)] if wholes else next(parts, self._path)
        return ConfigError(message, source=source, field=field)


def _parse_text(kind: Any, text: str) -> Any:
    """Return the TOML value that text spells, or text itself."""
    if kind is str:
        text = text.strip()
        if not text.startswith(("'", '"')):
            return text
    try:
        values = _parse_toml(f"value = {text}")
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
