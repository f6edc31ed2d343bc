"""What differs between two configurations, what of it can be had without a restart, and secrets."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import msgspec

from ..errors import ConfigError
from .describe import spell
from .kinds import Section, kinds_of
from .sections import Config

__all__ = ["HIDDEN", "Change", "changes", "shown_url", "shown_values", "within_reach"]

HIDDEN = "(hidden)"
"""Stands for a value that is shown to nobody."""


class Change(msgspec.Struct, frozen=True):
    """A setting that differs, its values as a file has them, secrets hidden.

    Attributes:
        name: Its dotted name, of a service ``upstream.services.chat``.
        old: The value before; empty where there was none.
        new: The value now; empty where there is none.
    """

    name: str
    old: str
    new: str


def changes(old: Config, new: Config) -> list[Change]:
    """Return the settings that differ, in the order of the sections."""
    return list(_changes(old, new, ""))


def _changes(old: Section, new: Section, prefix: str) -> list[Change]:
    found = []
    for name, kind in kinds_of(type(old)).items():
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            continue
        field = f"{prefix}{name}"
        if isinstance(before, Section):
            found += _changes(before, after, f"{field}.")
        elif name in old.hidden:
            found.append(Change(field, before and HIDDEN, after and HIDDEN))
        elif isinstance(before, dict):
            for key in dict.fromkeys((*before, *after)):
                if before.get(key) != after.get(key):
                    found.append(
                        Change(f"{field}.{key}", *(_text(v, key) for v in (before, after)))
                    )
        elif isinstance(before, list):
            found.append(Change(field, _json(before), _json(after)))
        else:
            old_text, new_text = (_plain(value, kind) for value in (before, after))
            if field == "auth.jwks":
                old_text, new_text = shown_url(old_text), shown_url(new_text)
            found.append(Change(field, old_text, new_text))
    return found


def _text(table: dict[str, Any], key: str) -> str:
    return _json(table[key]) if key in table else ""


def _plain(value: Any, kind: Any) -> str:
    return value if isinstance(value, str) else spell(value, kind).strip('"')


def _json(values: list[Any]) -> str:
    return json.dumps(shown_values(values), ensure_ascii=False)


def shown_url(url: str) -> str:
    """Return a URL without what may be a secret in it: user, password and query."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return HIDDEN
    query = HIDDEN if parts.query else ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query).geturl()


def shown_values(value: Any) -> Any:
    """Return a configuration, or a part of one, as plain values, secrets hidden."""
    if isinstance(value, Section):
        return {
            name: HIDDEN
            if name in value.hidden and getattr(value, name)
            else shown_values(getattr(value, name))
            for name in value.__struct_fields__
        }
    if isinstance(value, list):
        return [shown_values(item) for item in value]
    if isinstance(value, dict):
        return {key: shown_values(item) for key, item in value.items()}
    return value


_SUPERVISORS = frozenset(
    (
        "push.bind",
        "transport.bind",
        "transport.receive_buffer",
        "transport.secret",
        "transport.send_buffer",
        "transport.web.bind",
        "transport.web.websocket",
        "transport.web.webtransport",
        "workers.count",
        "workers.lease",
        "workers.steer",
    )
)
"""Settings that a supervisor has used when it started; and all of [admin]."""


def within_reach(old: Config, new: Config, *, is_upgrade: bool = False) -> tuple[Config, list[str]]:
    """Return what of a new configuration can be had without a restart, the rest as it was.

    Args:
        old: In force.
        new: Wanted.
        is_upgrade: Whether all processes but the supervisor start anew.

    Returns:
        The configuration, and the names of the settings that need a restart.

    Raises:
        ConfigError: The new values do not fit those that need a restart and stay.
    """
    sections: dict[str, Any] = {}
    kept: list[str] = []
    for name in old.__struct_fields__:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, Section):
            after = _section_within_reach(name, before, after, kept, is_upgrade)
        sections[name] = after
    try:
        return Config(**sections), kept
    except ConfigError as error:
        raise _needs_restart(error, kept) from None


def _section_within_reach(
    name: str, old: Section, new: Section, kept: list[str], is_upgrade: bool
) -> Section:
    """Return what of a section can be had, and of those inside it; add the rest to kept."""
    fields = old.needs_restart(new)
    if is_upgrade and name != "admin":
        fields = frozenset(field for field in fields if f"{name}.{field}" in _SUPERVISORS)
    stay: dict[str, Any] = {}
    for field in new.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if field in fields:
            kept.append(f"{name}.{field}")
            stay[field] = before
        elif isinstance(before, Section) and isinstance(after, Section):
            inner = f"{name}.{field}"
            stay[field] = _section_within_reach(inner, before, after, kept, is_upgrade)
    try:
        return msgspec.structs.replace(new, **stay) if stay else new
    except ConfigError as error:
        raise _needs_restart(error, kept) from None


def _needs_restart(error: ConfigError, kept: list[str]) -> ConfigError:
    return ConfigError(f"{error} ({', '.join(kept)} can change by a restart only)")
