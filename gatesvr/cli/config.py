"""``gatesvr config``."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .terminal import echo

if TYPE_CHECKING:
    from ..config import Config
    from ..config.load import Origins

__all__ = ["command"]

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Check, print and describe the settings.

    \b
    gatesvr config default > gate.toml     # every setting, explained
    gatesvr config check --config gate.toml
    gatesvr config print --origin          # what is in force, and what set it
    gatesvr config schema > gate.schema.json
    """


def _sources(function: F) -> F:
    """Add the options that name where settings come from."""
    file = click.option(
        "--config", "file", type=click.Path(dir_okay=False), help="Configuration file, TOML."
    )
    sets = click.option(
        "--set", "sets", metavar="SECTION.KEY=VALUE", multiple=True, help="A setting; repeatable."
    )
    return file(sets(function))


def _load(file: str | None, sets: tuple[str, ...]) -> tuple[Config, Origins]:
    from ..config.load import load_with_origins

    if stray := click.get_current_context().args:
        raise click.UsageError(f"a file is named by --config: --config {stray[0]}")
    return load_with_origins(file, sets=sets, environ=os.environ)


@command.command("check", context_settings={"allow_extra_args": True})
@_sources
def check(file: str | None, sets: tuple[str, ...]) -> None:
    """Load the settings as serve does, and say what is wrong.

    The files that settings name are read as well: certificates and keys. Exit code 0 if all is
    well, 2 if not.
    """
    from ..admin.server import AdminServer
    from ..gateway import Gateway

    config, _ = _load(file, sets)

    async def build() -> None:
        # They read certificates, keys and tokens; only start() would open sockets.
        gateway = Gateway(config)
        if config.admin.enabled:
            AdminServer(gateway, config.admin)

    asyncio.run(build())
    echo("the settings are right")


@command.command("print", context_settings={"allow_extra_args": True})
@_sources
@click.option("--origin", is_flag=True, help="Say behind each setting what set it.")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, durations in seconds.")
def print_settings(file: str | None, sets: tuple[str, ...], origin: bool, is_json: bool) -> None:
    """Print every setting in force, as a file that sets them all."""
    from ..config.describe import as_toml

    if origin and is_json:
        raise click.UsageError("--origin and --json do not go together")
    config, origins = _load(file, sets)
    if is_json:
        import msgspec

        echo(json.dumps(msgspec.to_builtins(config), indent=2, ensure_ascii=False))
    else:
        echo(as_toml(config, origins=origins if origin else None), nl=False)


@command.command("default")
def print_defaults() -> None:
    """Print a file of all settings with their meaning, defaults and ranges, as comments."""
    from ..config import Config
    from ..config.describe import as_toml

    echo(as_toml(Config(), is_commented=True), nl=False)


@command.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the configuration file, for editors that check TOML."""
    from ..config.describe import schema

    echo(json.dumps(schema(), indent=2, ensure_ascii=False))
