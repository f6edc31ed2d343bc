"""Our Python client behind the kit's JSON lines: ``python -m gatesvr.conformance.python_client``.

It reads commands from standard input and prints events; docs/conformance.md describes both.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from ..client.client import Client
from ..client.connector import Connector
from ..client.messages import Lost
from ..errors import GatesvrError, NotifyOverflow, Outcome, RequestFailed, SessionLost

__all__ = ["READY", "PythonClient"]

READY: dict[str, Any] = {
    "event": "ready",
    "client": "gatesvr (Python)",
    "transports": ["quic", "websocket"],
    "features": ["state", "renew"],
}
MAX_LINE_BYTES = 16 << 20
_FIRST_PAUSE_MS = 500

Say = Callable[[dict[str, Any]], None]
Command = dict[str, Any]


class PythonClient:
    """Does what the kit commands, with one client at a time.

    Args:
        say: Prints an event.
        backend: The QUIC library: auto, aioquic or qh3.
    """

    def __init__(self, say: Say, backend: str = "auto") -> None:
        self._say = say
        self._backend = backend
        self._client: Client | None = None
        self._connect: Command = {}
        self._state = b""
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, command: Command) -> None:
        """Do what a command says; what takes time goes on in a task."""
        do = command["do"]
        if do == "connect":
            self._connect = command
            self._begin(b"")
        elif do == "request":
            self._run(self._request(command))
        elif do == "stop":
            assert self._client is not None
            self._run(self._client.close())
        elif do == "restart":
            # What a new process would find: the state as it was stored last.
            state = self._state
            await self._drop()
            self._begin(state)
        elif do == "end":
            await self._drop()
            self._say({"event": "ended"})

    def _begin(self, state: bytes) -> None:
        command = self._connect
        Connector.jitter = staticmethod(_short(command.get("backoff_ms", _FIRST_PAUSE_MS)))
        tokens = list(command.get("tokens", ()))

        async def next_token() -> str:
            return str(tokens.pop(0) if len(tokens) > 1 else tokens[0])

        url = command["url"]
        self._client = Client(
            url.removeprefix("quic://"),
            openid=command["openid"],
            client_id=command.get("client_id", ""),
            auth_token=next_token if tokens else "",
            ca=command["ca"],
            transport=self._backend,
            on_lost=self._lost,
            on_state=self._store if command.get("stored") else None,
            resume=state,
        )
        self._run(self._live(self._client))

    def _store(self, state: bytes) -> None:
        self._state = state

    def _lost(self, lost: Lost) -> None:
        self._say({"event": "lost", "from": lost.first_seq, "to": lost.last_seq})

    async def _live(self, client: Client) -> None:
        """Connect, and tell of everything until the client is closed."""
        try:
            await client.connect()
        except GatesvrError as error:
            code = getattr(error, "code", 0)
            self._say({"event": "failed", "code": int(code), "message": str(error)})
            return
        self._say({"event": "connected"})
        code = 0
        while True:
            try:
                notify = await anext(client)
            except StopAsyncIteration:
                break
            except NotifyOverflow as error:
                self._say({"event": "lost", "from": error.first_seq, "to": error.last_seq})
            except SessionLost as error:
                if error.is_final:
                    code = error.code
                    break
                self._say({"event": "session_lost"})
            else:
                text = notify.data.decode(errors="replace")
                self._say({"event": "notify", "seq": notify.server_seq, "data": text})
        self._say({"event": "closed", "code": int(code)})

    async def _request(self, command: Command) -> None:
        client, number = self._client, command["id"]
        assert client is not None
        try:
            answer = await client.request(command["action"], command["data"].encode())
        except (RequestFailed, SessionLost) as error:
            wait = error.retry_after_ms if isinstance(error, RequestFailed) else 0
            self._fail(number, int(error.code), error.outcome, str(error), wait)
        except ValueError as error:  # the gateway would not take it
            self._fail(number, 0, Outcome.NOT_STARTED, str(error))
        else:
            data = answer.data.decode(errors="replace")
            self._say({"event": "answer", "id": number, "code": answer.code, "data": data})

    def _fail(self, number: int, code: int, outcome: Outcome, text: str, wait: int = 0) -> None:
        self._say(
            {
                "event": "error",
                "id": number,
                "code": code,
                "outcome": outcome.name.lower(),
                "retry_after_ms": wait,
                "message": text,
            }
        )

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drop(self) -> None:
        """Let go of the client, without a word to the gateway about the session."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.suspend()


def _short(first_ms: float) -> Callable[[], float]:
    """Return the chance that makes the first pause at most first_ms."""
    return lambda: random.random() * first_ms / _FIRST_PAUSE_MS  # noqa: S311  # jitter


def _print(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def _main() -> None:
    client = PythonClient(_print, os.environ.get("GATESVR_BACKEND", "auto"))
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    _print(READY)
    while line := await reader.readline():
        await client.handle(json.loads(line))


if __name__ == "__main__":
    asyncio.run(_main())
