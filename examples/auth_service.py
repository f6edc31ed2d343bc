"""A service that says who clients are, and lets the gateway turn all others away.

python examples/auth_service.py
gatesvr serve --set auth.mode=upstream --upstream auth=127.0.0.1:9002 \\
  --upstream hello=127.0.0.1:9002 --upstream business=127.0.0.1:9002
gatesvr call whoami --openid ann --token ann-s-secret
"""

import hmac
import time

from gatesvr import Admission, Reply, Request, UpstreamService, pb

SECRETS = {"ann": "ann-s-secret", "bob": "bob-s-secret"}

service = UpstreamService("auth")


@service.authenticate
def authenticate(request: pb.AuthenticateRequest) -> Admission | None:
    """Let in who knows the secret, for an hour."""
    secret = SECRETS.get(request.openid, "")
    if not secret or not hmac.compare_digest(request.auth_token.encode(), secret.encode()):
        return None
    return Admission(request.openid, claims={"role": "player"}, expires_at=time.time() + 3600)


@service.action("hello")
def hello(request: Request) -> Reply:
    return Reply(message=f"welcome, {request.openid}")


@service.action("whoami")
def whoami(request: Request) -> str:
    return f"{request.openid}, {request.peer.auth_claims['role']}"


if __name__ == "__main__":
    service.run("127.0.0.1:9002")
