"""The ``gatesvr`` command: finds the command's module and turns errors into exit codes.

Exit codes: 0 success; 1 failure (no gateway, an answer other than 200); 2 a wrong request (usage,
configuration, a busy port, an unreadable certificate); 99 a bench missed a threshold.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from ..errors import ConfigError, GatesvrError
from ..observe.log import LogHandler, keys
from .terminal import OutputLost, echo, escape_control, open_streams

__all__ = ["commands", "main"]

logger = logging.getLogger("gatesvr.cli")

_COMMANDS = {
    "serve": "Run the gateway.",
    "client": "Talk to a gateway line by line and see its pushes as they arrive.",
    "call": "Log in, send one request, print its answer.",
    "top": "Show what a gateway does, in the terminal, second by second.",
    "events": "Print session events as they happen.",
    "health": "Ask a gateway whether it takes clients.",
    "stats": "Show what a running gateway does now.",
    "sessions": "List the sessions of a running gateway.",
    "session": "Show everything about a session, or its messages as they pass.",
    "kick": "Close a session, or all sessions of a user.",
    "push": "Push a notify to a session.",
    "upstreams": "Show the endpoints of the services behind a running gateway.",
    "drain": "Take a running gateway down so that nobody notices.",
    "upgrade": "Replace a gateway's workers by new ones so that nobody notices.",
    "reload": "Make a running gateway read its configuration again.",
    "log": "Change what a running gateway logs.",
    "upstream": "Run demo upstream services.",
    "demo": "Things to try a gateway with: a chat room.",
    "bench": "Load a gateway, check every delivery, and report.",
    "conformance": "Say which rules of the protocol a client breaks.",
    "config": "Check, print and describe the settings.",
    "gencert": "Write a self-signed certificate and its key.",
    "token": "Make and show tokens to test authentication with.",
    "completion": "Print what makes a shell complete commands and options.",
    "version": "Print the versions of GateSvr, Python, the QUIC backends and the core.",
}
"""Every command and its line in the help; running a command imports its module."""
_HIDDEN = {"worker"}
"""Commands for other processes of ours."""


class _LazyGroup(click.Group):
    """A group whose commands are modules of this package, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS and cmd_name not in _HIDDEN:
            return None
        module = importlib.import_module(f".{cmd_name}", __package__)
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_version(ctx: click.Context, param: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from .version import version_of

        echo(f"gatesvr {version_of('gatesvr')}")
        ctx.exit()


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See `gatesvr COMMAND --help`. Try it: gatesvr serve --demo",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version, and exit.",
)
def commands() -> None:
    """A session gateway: QUIC clients in front, gRPC services behind."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command in args (by default the process's own arguments), and exit."""
    sys.exit(_run(args))


def _run(args: Sequence[str] | None) -> int:
    # Before everything else: a file opened now could take the number of a closed standard stream.
    open_streams()
    # gRPC writes to standard error on its own, for example when a connection ends; we log that.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        code = commands.main(args=args, prog_name="gatesvr", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 1
    except OutputLost as error:
        if not error.is_unread:  # `| head` has read enough
            _say(f"cannot write to standard output: {error.strerror}")
        return 1
    except ConfigError as error:
        _say(str(error) or type(error).__name__)
        return 2
    except GatesvrError as error:
        _say(str(error) or type(error).__name__)
        return 1
    except ImportError as error:
        if error.name != "gatesvr._core":
            raise
        _say(str(error))
        return 1
    return code if isinstance(code, int) else 0


def _say(text: str) -> None:
    for handler in logging.getLogger("gatesvr").handlers:
        if isinstance(handler, LogHandler) and handler.style == "json":
            logger.error("command_failed", extra=keys(error=text))
            return
    echo(f"gatesvr: {escape_control(' '.join(text.splitlines()))}", err=True)
