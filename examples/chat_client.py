"""A chat client: says what you type, prints what others say. See chat_service.py.

python examples/chat_client.py NAME [HOST:PORT]
"""

import asyncio
import sys

from gatesvr import Client


async def listen(client: Client) -> None:
    async for notify in client:
        if notify.title != client.openid:
            print(f"{notify.title}: {notify.content}")


async def main(name: str, server: str = "localhost:8453") -> None:
    async with Client(server, openid=name) as client:
        listener = asyncio.create_task(listen(client))
        print(f"{name} is in the room; empty line to leave")
        while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
            answer = await client.request("chat_say", line.encode())
            if not answer.is_ok:
                print(f"({answer.code} {answer.message})")
        listener.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
