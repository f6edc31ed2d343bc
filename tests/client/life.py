"""One life of a client that is killed and goes on.

``python -m tests.client.life SERVER BACKEND DIR``.
It asks without pause and reads notifies; ``DIR/log`` gets a line for each thing that it is handed::

    life SESSION        it is connected
    notify SEQ NUMBER   a notify
    answer NUMBER       an answer to a request of this life
    lost FIRST LAST     an announced loss
    gone WHY            a lost session
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gatesvr import Client, Lost, RequestFailed, SessionLost
from gatesvr.cli.state import StateFile


async def main(server: str, backend: str, folder: Path) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(*words: object) -> None:
        # One call a line: a kill leaves whole lines.
        os.write(log, (" ".join(map(str, words)) + "\n").encode())

    def lost(what: Lost) -> None:
        write("lost", what.first_seq, what.last_seq)

    file = StateFile(str(folder / "state"))
    client = Client(
        server,
        openid="ann",
        transport=backend,
        resume=file.read(),
        on_state=file.write,
        on_lost=lost,
    )
    await client.connect()
    write("life", client.session_id)

    async def ask(worker: int) -> None:
        number = worker
        while True:
            try:
                answer = await client.request("echo", str(number).encode())
                assert answer.data == str(number).encode()
                write("answer", number)
            except (RequestFailed, SessionLost) as error:
                write("gone", repr(error))
            number += 3

    asking = [asyncio.create_task(ask(worker)) for worker in range(3)]
    while True:
        try:
            async for notify in client:
                # It has work with each: what comes meanwhile waits, and this one is not done with.
                await asyncio.sleep(0.005)
                write("notify", notify.server_seq, notify.data.decode())
            break
        except SessionLost as error:
            write("gone", repr(error))
    await asyncio.gather(*asking)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
