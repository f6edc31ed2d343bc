"""The smallest service: it lets everybody in, and answers each request with its own data.

python examples/echo_service.py
gatesvr serve --upstream hello=127.0.0.1:9001 --upstream business=127.0.0.1:9001
gatesvr call say --data hi
"""

from gatesvr import Reply, Request, UpstreamService

service = UpstreamService("echo")


@service.action("hello")
def hello(request: Request) -> Reply:
    return Reply(message=f"welcome, {request.openid}")


@service.action("*")
def echo(request: Request) -> bytes:
    return request.data


if __name__ == "__main__":
    service.run("127.0.0.1:9001")
