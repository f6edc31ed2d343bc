"""Reloader: reads the configuration again, and puts it in force in a running gateway.

A configuration that cannot be used changes nothing: the one before stays in force.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from .config.changes import Change, changes
from .errors import ConfigError
from .observe.log import keys, restyle, set_level

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .config import Config, LogConfig
    from .gateway import Gateway

__all__ = ["ReloadReport", "Reloader", "follow_log", "log_changes"]

logger = logging.getLogger("gatesvr.reload")


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a reload.

    Attributes:
        changed: What the new configuration has otherwise than the one in force had, secrets hidden.
        needs_restart: Names of those of them that stay as they are until a restart.
        error: Why the configuration before is still in force; empty where the new one is.
    """

    changed: list[Change] = []
    needs_restart: list[str] = []
    error: str = ""

    def as_text(self) -> str:
        """Return it as lines for people."""
        if self.error:
            return f"not reloaded, the settings stay as they were: {self.error}"
        if not self.changed:
            return "reloaded: no setting has changed"
        lines = ["reloaded:"]
        for change in self.changed:
            note = "  (needs a restart)" if change.name in self.needs_restart else ""
            lines.append(f"  {change.name}: {change.old or 'none'} -> {change.new or 'none'}{note}")
        return "\n".join(lines)


class Reloader:
    """Reloads a gateway's configuration.

    Args:
        gateway: A gateway that runs.
        load: Reads the configuration from its sources, as at the start.
    """

    def __init__(self, gateway: Gateway, load: Callable[[], Config]) -> None:
        self._gateway = gateway
        self._load = load

    def reload(self) -> ReloadReport:
        """Read the configuration, put it in force, and log what has changed.

        Call it in the gateway's loop. It reads a few small files, and waits for nothing else.
        """
        gateway = self._gateway
        before = gateway.config
        try:
            config = self._load()
            changed = changes(before, config)
            left = gateway.apply(config)
        except (ConfigError, RuntimeError) as error:
            logger.error("configuration_kept", extra=keys(why=error))
            return ReloadReport(error=str(error))
        except Exception as error:
            logger.exception("reload_failed")
            return ReloadReport(error=f"internal error: {error!r}")
        log_changes(changed, left)
        follow_log(before.log, config.log)
        return ReloadReport(changed=changed, needs_restart=left)


def log_changes(changed: Sequence[Change], needs_restart: Sequence[str]) -> None:
    """Log what a reload has changed.

    Args:
        changed: What the new configuration has otherwise.
        needs_restart: Names of those of them that stay as they are until a restart.
    """
    for change in changed:
        logger.info(
            "setting_changed",
            extra=keys(
                setting=change.name,
                old=change.old,
                new=change.new,
                needs_restart=change.name in needs_restart,
            ),
        )
    logger.info(
        "configuration_reloaded",
        extra=keys(changed=len(changed), needs_restart=" ".join(needs_restart)),
    )


def follow_log(before: LogConfig, now: LogConfig) -> None:
    """Log as a new configuration says. Call it behind log_changes(), whose lines the level before
    lets through."""
    if now.level != before.level:
        set_level(now.level)
    if now.format != before.format:
        restyle(now.format)
