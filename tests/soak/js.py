"""The JavaScript clients' process: Node running fleet.mjs, spoken to as a Child is."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clients import SETTLE_S
from .history import Call
from .plan import ACTIONS, PATIENCE_S

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["NodeClients", "missing_build"]

CLIENT = Path(__file__).parents[2] / "clients" / "js"
SCRIPT = Path(__file__).with_name("fleet.mjs")
MAX_LINE_BYTES = 1 << 30
"""The history of a long run comes as one line."""


def missing_build() -> str:
    """Return what JavaScript clients lack, empty for nothing."""
    if shutil.which("node") is None:
        return "JavaScript clients need Node"
    if not (CLIENT / "dist" / "index.js").exists() or not (CLIENT / "node_modules" / "ws").exists():
        return f"JavaScript clients need their build: npm ci && npm run build, in {CLIENT}"
    return ""


class NodeClients:
    """The process.

    Args:
        plan: Of the soak.
        addresses: The clients' ways into the network.
    """

    def __init__(self, plan: Plan, addresses: list[tuple[str, int]]) -> None:
        self._plan = {
            "seed": plan.seed,
            "workers": plan.workers,
            "pause_s": plan.pause_s,
            "settle_s": SETTLE_S,
            "first": plan.clients - plan.js + 1,
            "addresses": addresses,
            "actions": {
                name: {"weight": action.weight, "order": action.order}
                for name, action in ACTIONS.items()
            },
        }
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start Node; what it writes to standard error goes to ours."""
        self._process = await asyncio.create_subprocess_exec(
            *("node", str(SCRIPT), json.dumps(self._plan)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
        )

    def send(self, message: Any) -> None:
        """Send a command."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Any:
        """Return the next thing that it says.

        Raises:
            TimeoutError: It says nothing for PATIENCE_S.
            EOFError: It has ended.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self._process.stdout.readline()
        if not line:
            raise EOFError("Node has ended")
        return json.loads(line)

    async def ask(self, message: Any) -> Any:
        """Send a command and return the answer."""
        self.send(message)
        return await self.receive()

    async def stop(self) -> tuple[list[Call], dict[str, dict[str, int]]]:
        """End the clients; return their history, and what they counted."""
        calls, counts = await self.ask("stop")
        return [
            Call(at, method, tuple(args), options) for at, method, args, options in calls
        ], counts

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
