"""The configuration in force, as people may see it: secrets hidden, each value with its origin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..config import fields, needs_restart
from ..config.changes import HIDDEN, shown_url, shown_values
from ..config.describe import spell
from .answers import Setting, Settings

if TYPE_CHECKING:
    from ..config import Config
    from ..config.load import Origins

__all__ = ["settings"]


def settings(config: Config, origins: Origins | None) -> Settings:
    """Return every setting.

    Args:
        config: The configuration.
        origins: What set its fields; None where nobody knows.
    """
    found = []
    for name, kind in fields():
        *path, last = name.split(".")
        section: Any = config
        for part in path:
            section = getattr(section, part)
        value = getattr(section, last)
        if last in section.hidden and value:
            text = HIDDEN
        elif isinstance(value, list | dict):
            text = json.dumps(shown_values(value), ensure_ascii=False)
        else:
            text = spell(shown_url(value) if name == "auth.jwks" else value, kind)
        origin = "default" if origins is None else origins.of(name) or "default"
        found.append(Setting(name=name, value=text, origin=origin, restart=needs_restart(name)))
    return Settings(settings=found)
