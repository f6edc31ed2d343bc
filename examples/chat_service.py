"""A chat room: what one says, all hear.

python examples/chat_service.py
gatesvr serve --config examples/gate.toml
python examples/chat_client.py ann     (and, in another terminal, bob)
"""

from gatesvr import Reply, Request, UpstreamService

MAX_TEXT = 500

service = UpstreamService("chat", gateway="127.0.0.1:8092")


@service.action("hello")
def hello(request: Request) -> Reply:
    return Reply(message=f"welcome, {request.openid}")


@service.action("chat_say")
async def say(request: Request) -> Reply:
    text = request.data.decode(errors="replace").strip()
    if not 0 < len(text) <= MAX_TEXT:
        return Reply(400, f"a line has 1 to {MAX_TEXT} characters")
    pushed = await service.gateway.broadcast(msg_type="chat", title=request.openid, content=text)
    return Reply(message=f"heard by {pushed.sessions}")


if __name__ == "__main__":
    service.run("127.0.0.1:9000")
