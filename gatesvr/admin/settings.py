"""The configuration in force, as people may see it: secrets hidden, each value with its origin."""

from __future__ import annotations

import json
import urllib.parse
from typing import TYPE_CHECKING, Any

import msgspec

from ..config import fields, needs_restart
from ..config.describe import spell
from .answers import Setting, Settings

if TYPE_CHECKING:
    from ..config import Config
    from ..config.load import Origins

__all__ = ["HIDDEN", "settings"]

HIDDEN = "(hidden)"
_SECRETS = frozenset({"admin.token", "auth.key", "push.token", "transport.secret"})
"""Settings that name a file of secrets; somebody may have put the secret itself there."""


def settings(config: Config, origins: Origins | None) -> Settings:
    """Return every setting.

    Args:
        config: The configuration.
        origins: What set its fields; None where nobody knows.
    """
    found = []
    for name, kind in fields():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        origin = "default" if origins is None else origins.of(name) or "default"
        found.append(
            Setting(
                name=name,
                value=_shown(name, value, kind),
                origin=origin,
                restart=needs_restart(name),
            )
        )
    return Settings(settings=found)


def _shown(name: str, value: Any, kind: Any) -> str:
    if name in _SECRETS and value:
        return HIDDEN
    if name == "auth.jwks" and value:
        parts = urllib.parse.urlsplit(value)
        if parts.query or "@" in parts.netloc:
            host = parts.netloc.rpartition("@")[2]
            value = parts._replace(netloc=host, query=HIDDEN if parts.query else "").geturl()
    plain = msgspec.to_builtins(value)
    if isinstance(plain, list | dict):
        return json.dumps(_without_tokens(plain), ensure_ascii=False)
    return spell(value, kind)


def _without_tokens(value: Any) -> Any:
    """Return a list or a table with the tokens in it hidden."""
    if isinstance(value, list):
        return [_without_tokens(item) for item in value]
    if isinstance(value, dict):
        return {
            key: HIDDEN if key == "token" and item else _without_tokens(item)
            for key, item in value.items()
        }
    return value
