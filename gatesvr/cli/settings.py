"""Settings: the configuration that a ``gatesvr serve`` is told, read as often as it is needed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..config import Config
    from ..config.load import Origins

__all__ = ["Settings", "overrides"]


@dataclass
class Settings:
    """The sources of a configuration.

    Attributes:
        file: TOML file, None for none.
        sets: What --set says.
        overrides: What the flags say, by dotted name.
        upstreams: What --upstream says: services and addresses.
        is_demo: Whether demo services run, and their page.
        demos: Where the demo services are.
        is_any_web_port: Whether the port for web clients is the demo's own choice, so that any free
            one does; known after read().
        origins: What set each setting, as of the last read().
    """

    file: str | None
    sets: Sequence[str]
    overrides: Mapping[str, Any]
    upstreams: Iterable[tuple[str, str]]
    is_demo: bool = False
    demos: Mapping[str, str] = field(default_factory=dict)
    is_any_web_port: bool = False
    origins: Origins = field(init=False, repr=False)

    def read(self) -> Config:
        """Return the configuration.

        Raises:
            ConfigError: See load().
        """
        from ..config.load import load_with_origins
        from .page import page_settings

        named: dict[str, list[dict[str, str]]] = {}
        for name, address in self.upstreams:
            named.setdefault(name, []).append({"address": address})
        for name, address in self.demos.items():
            named.setdefault(name, [{"address": address}])
        values = {
            **self.overrides,
            **{f"upstream.services.{name}": ends for name, ends in named.items()},
        }

        def load() -> Config:
            found, self.origins = load_with_origins(
                self.file, sets=self.sets, environ=os.environ, overrides=values
            )
            return found

        config = load()
        if self.is_demo and not self.origins.of("transport.web.bind"):
            self.is_any_web_port = True
            values |= page_settings(config.transport)
            config = load()
        return config

    def read_again(self) -> Config:
        """Return the configuration as its sources are now.

        Raises:
            ConfigError: See load(); or its file can be read only once.
        """
        if self.file is not None and os.path.exists(self.file) and not os.path.isfile(self.file):
            # A pipe has been read, or has to be waited for.
            raise ConfigError("no file that can be read again", source=self.file)
        return self.read()


def overrides(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flags of ``gatesvr serve`` say, by dotted name."""
    names = {
        "bind": "transport.bind",
        "grpc_bind": "push.bind",
        "web_bind": "transport.web.bind",
        "transport": "transport.backend",
        "cert": "transport.cert",
        "key": "transport.key",
        "log_level": "log.level",
        "log_format": "log.format",
        "workers": "workers.count",
    }
    values = {name: flags[flag] for flag, name in names.items() if flags[flag] is not None}
    admin: str | None = flags["admin"]
    if admin is not None:
        values["admin.enabled"] = admin != "off"
        if admin.startswith("unix:"):
            values |= {"admin.bind": "", "admin.socket": admin.removeprefix("unix:")}
        elif admin != "off":
            values["admin.bind"] = admin
    return values
