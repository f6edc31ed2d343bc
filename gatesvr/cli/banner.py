"""The banner that ``gatesvr serve`` prints once it serves."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import msgspec

from ..config import join_address, parse_address
from .terminal import style
from .version import core, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..admin.server import AdminServer
    from ..config import PushConfig
    from ..gateway import Gateway
    from ..transport.tls import ServerTls

__all__ = ["Summary", "banner", "call_words", "invocation", "summarize"]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a banner says of a gateway that serves; a worker sends it to its supervisor.

    Attributes:
        lines: What it serves, by name.
        proofs: What those who come have to prove.
        page: Where the demo's page is, empty for nowhere.
        call: Arguments that call the gateway.
    """

    lines: dict[str, str]
    proofs: dict[str, str]
    page: str
    call: list[str]


def summarize(gateway: Gateway, *, is_demo: bool, page: str = "") -> Summary:
    """Return what a banner says of a gateway.

    Args:
        gateway: The gateway, started, in the running loop.
        is_demo: Whether the demo services are running, which answer `echo`.
        page: Where the demo's page is, empty for nowhere.
    """
    config, tls = gateway.config, gateway.listener.tls
    certificate = f"{tls.path} (development)" if tls.is_development else tls.path
    if not tls.path:
        certificate = "in memory (development): clients need --insecure"
    backend = f"{gateway.backend} {version_of(gateway.backend)}"
    lines = {"clients": f"{gateway.address} (UDP, QUIC by {backend})"}
    if gateway.web_address:
        web = config.transport.web
        url = f"{gateway.web_address}{web.path}"
        ways = [f"https://{url} (UDP, WebTransport)"] if web.webtransport else []
        ways += [f"wss://{url} (TCP, WebSocket)"] if web.websocket else []
        lines["web clients"] = ", ".join(ways)
    if page:
        lines["page"] = page
    services = {
        name: ", ".join(endpoint.address for endpoint in group)
        for name, group in config.upstream.services.items()
    }
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    lines |= {
        "push": f"{gateway.grpc_address} (TCP, gRPC)",
        "services": ", ".join(f"{name} {address}" for name, address in services.items()),
        "core": f"{core()}, {loop} loop",
        "certificate": certificate,
    }
    proofs = {"callers prove": _proof(config.push)}
    auth = config.auth
    if auth.mode == "jwt":
        proofs["clients prove"] = f"their openid by a token ({auth.jwks or auth.key})"
    elif auth.mode == "upstream":
        proofs["clients prove"] = f"their openid to the service {auth.service}"
    else:
        proofs["clients prove"] = (
            "nothing: whoever reaches the port may claim any openid (auth.mode)"
        )
    call = call_words(parse_address(gateway.address), tls, "echo" if is_demo else "hello")
    if auth.mode != "none":
        call += ["--openid", "OPENID", "--token", "TOKEN"]
    return Summary(lines=lines, proofs=proofs, page=page, call=call)


def banner(
    summary: Summary,
    admin: AdminServer | None = None,
    *,
    is_demo: bool = False,
    workers: Sequence[tuple[int, int]] = (),
) -> str:
    """Return the banner of a running gateway.

    Args:
        summary: The gateway.
        admin: The admin server, None for none.
        is_demo: Whether the demo services are running.
        workers: Number and process id of each worker, where there are any.
    """
    lines = dict(summary.lines)
    if workers:
        each = ", ".join(f"{number} (pid {pid})" for number, pid in workers)
        lines["workers"] = f"{each}, supervisor pid {os.getpid()}"
    if admin is not None:
        lines["console"] = admin.where
        if not admin.is_guarded:
            who = "every process of this machine" if admin.url else "every process of this user"
            lines["console"] += f", open to {who} (admin.token)"
    elif is_demo:
        lines["console"] = "none: it needs gatesvr[admin], or is off"
    lines |= summary.proofs
    width = max(map(len, lines))
    text = [style(f"GateSvr {version_of('gatesvr')}", bold=True)]
    text += [f"  {name:<{width}}  {value}" for name, value in lines.items()]
    text += ["", f"{'Open the page, or try' if summary.page else 'Try'} it from another shell:", ""]
    text += [f"  {style(f'{invocation()} {shlex.join(summary.call)}', fg='green')}", ""]
    return "\n".join(text)


def _proof(push: PushConfig) -> str:
    """Return what guards the push port."""
    has_tokens = bool(push.token) or any(caller.token for caller in push.caller)
    is_by_name = any(caller.certificates for caller in push.caller)
    by_token = "a token" if push.cert else "a token, in plain text"
    if not push.is_guarded:
        over = " over TLS" if push.cert else ""
        if push.insecure:
            return f"nothing{over}: whoever reaches the push port may do everything (push.insecure)"
        return f"nothing{over}: every process of this machine may push and kick (push.token)"
    if not push.client_ca:
        return f"who they are by {by_token}"
    if not has_tokens:
        return f"who they are by a certificate ({push.client_ca})"
    joint = "or" if is_by_name else "and"
    return f"who they are by a certificate ({push.client_ca}) {joint} a token"


def call_words(address: tuple[str, int], tls: ServerTls, action: str = "echo") -> list[str]:
    """Return the arguments of a command that calls the gateway as it is printed.

    Args:
        address: Where the gateway listens.
        tls: Its certificate.
        action: ``echo``, or ``hello``, which every gateway answers.
    """
    host, port = address
    if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not listened on
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    trust: list[str] = []
    name = _certified_name(host, tls.cert_pem) if tls.path else None
    if name is None:
        trust = ["--insecure"]
    else:
        host = name
        if not (tls.is_development and _is_loopback(host)):
            trust = ["--ca", tls.path]
    more = ["--data", "hello"] if action == "echo" else ["--json"]
    return ["call", action, "--server", join_address(host, port), *more, *trust]


def invocation() -> str:
    """Return the words that run this command again from the same folder."""
    program = sys.argv[0]
    if os.path.basename(program) == "__main__.py":
        return shlex.join([sys.orig_argv[0] or sys.executable, "-m", "gatesvr"])
    found = shutil.which("gatesvr")
    if found is not None and os.path.realpath(found) == os.path.realpath(program):
        return "gatesvr"
    return shlex.quote(program)


def _certified_name(host: str, cert_pem: bytes) -> str | None:
    """Return host, or another name of the same machine, that the certificate covers."""
    import ipaddress

    from cryptography import x509

    leaf = x509.load_pem_x509_certificate(cert_pem)
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    dns = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    addresses = set(names.get_values_for_type(x509.IPAddress))
    candidates = [host, "localhost", "127.0.0.1"] if _is_loopback(host) else [host]
    for candidate in candidates:
        try:
            if ipaddress.ip_address(candidate) in addresses:
                return candidate
        except ValueError:
            if candidate.lower() in dns:
                return candidate
    return None


def _is_loopback(host: str) -> bool:
    from ..transport.addresses import is_loopback

    return is_loopback(host)
