"""Access: who may ask the admin server, and from which pages.

A request goes through these gates in order; /livez and /readyz through none of them:

1. Its Host is an address, or a name of this server. Else a page of a site whose name was made to
   lead here (DNS rebinding) could read everything. One with a token comes from no such page.
2. If it asks the API or changes something, no page of another site sends it: its Origin and
   Sec-Fetch-Site, where it has them, say so. A page could not read the answer, but have it made.
3. If it changes something, it carries ``Content-Type: application/json`` and ``X-GateSvr: 1``, and
   a page can send that only to its own server.
4. Where ``admin.token`` is set, the API and /metrics want a token of the file, as a bearer or by
   the cookie that a login with it gave. The console's own files hold no secret and want none.

A network (an IPv4 address, an IPv6 /64) that shows many wrong tokens has to wait before the next
one is looked at, be it a good one. Cookies go on, and so does whoever comes by the Unix socket.

A cookie is no token: it is the time of its end and a MAC of that, keyed by the token's digest. So
it holds as long as its token is in the file, and a restart of the gateway ends no login.
"""

from __future__ import annotations

import hashlib
import hmac
import http.cookies
import ipaddress
import logging
import math
import time
import urllib.parse
from typing import TYPE_CHECKING

from ..auth.guesses import GuessLimit
from ..config import parse_address
from ..credentials import token_digest
from ..observe.limiter import LogLimiter
from .refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..config import AdminConfig
    from ..credentials import TokenFile
    from .counters import AdminCounters

__all__ = ["COOKIE", "LOGIN_S", "Access"]

logger = logging.getLogger("gatesvr.admin")

COOKIE = "gatesvr_admin"
LOGIN_S = 12 * 3600
"""How long a login of the console holds, seconds."""
CHANGING = "X-GateSvr"
"""The header that a request which changes something carries."""
_OPEN_PATHS = ("/api/v1/login", "/api/v1/openapi.json")
_SAFE = ("GET", "HEAD")


class Access:
    """Judges requests.

    Args:
        config: Names of the server.
        tokens: The tokens that let in; None where nothing has to be proved.
        counters: Counts refusals.
        clock: Seconds since the epoch.
        monotonic: Monotonic seconds.

    Attributes:
        is_tls: Whether clients come over TLS.
    """

    def __init__(
        self,
        config: AdminConfig,
        tokens: TokenFile | None,
        counters: AdminCounters,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_tls = bool(config.cert)
        self._tokens = tokens
        self._counters = counters
        self._clock = clock
        self._monotonic = monotonic
        self._guesses = GuessLimit()
        self._lines = LogLimiter(logger)
        self._names = {"localhost", *(name.lower() for name in config.hosts)}
        if config.bind:
            self._names.add(parse_address(config.bind)[0].lower())

    def check(self, method: str, path: str, headers: Mapping[str, str], ip: str = "") -> None:
        """Let a request pass.

        Args:
            method: Of HTTP.
            path: Of the URL.
            headers: By names in small letters.
            ip: The client's address; empty on a Unix socket.

        Raises:
            Refused: It may not.
        """
        host = headers.get("host", "")
        has_token = self._has_token(headers, ip)
        if not (has_token or self._is_own(host)):
            self._counters.refused_hosts += 1
            raise Refused(421, "HOST", "no host of this server; name it in admin.hosts")
        is_change = method not in _SAFE
        if is_change or path.startswith("/api/"):
            self._check_page(headers, host, is_change=is_change)
        is_guarded = path.startswith("/api/") or path == "/metrics"
        if (
            self._tokens is not None
            and is_guarded
            and path not in _OPEN_PATHS
            and not has_token
            and not self._is_cookie_good(self._tokens, headers.get("cookie", ""))
        ):
            self._counters.refused_unproved += 1
            raise Refused(401, "UNAUTHENTICATED", "it needs a token of admin.token")

    def login(self, token: str, ip: str = "") -> tuple[str, float]:
        """Return the cookie for a token, and when it ends; an empty one where none is needed.

        Args:
            token: What the client takes for one.
            ip: The client's address; empty on a Unix socket.

        Raises:
            Refused: The token is not one of the file, or too many before were not.
        """
        ends = int(self._clock()) + LOGIN_S
        if self._tokens is None:
            return "", float(ends)
        if not self._is_good(self._tokens, token, ip):
            self._counters.refused_unproved += 1
            raise Refused(401, "UNAUTHENTICATED", "not a token of admin.token")
        return f"{ends}.{_mac(token_digest(token), ends)}", float(ends)

    def sweep(self) -> None:
        """Log what was suppressed and no later guess brings out. Call it once a second."""
        self._lines.tick(self._monotonic())

    def close(self) -> None:
        """Log what was suppressed."""
        self._lines.close()

    def _is_own(self, host: str) -> bool:
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") <= 1:
            name = name.partition(":")[0]
        if name in self._names:
            return True
        try:
            # A page is never at an address that another site's name can lead to.
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_page(self, headers: Mapping[str, str], host: str, *, is_change: bool) -> None:
        """Refuse what a page of another site sends."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        why = ""
        origin = headers.get("origin")
        is_own = origin is None or _netloc(origin) == host.lower()
        if not is_own or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            why = "it comes from another site"
        elif is_change and (kind != "application/json" or headers.get(CHANGING.lower()) != "1"):
            why = f"what changes something has Content-Type: application/json and {CHANGING}: 1"
        if why:
            self._counters.refused_origins += 1
            raise Refused(403, "FORBIDDEN", why)

    def _has_token(self, headers: Mapping[str, str], ip: str) -> bool:
        """Return whether a request carries a token of the file."""
        if self._tokens is None:
            return False
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._is_good(self._tokens, token.strip(), ip)

    def _is_good(self, tokens: TokenFile, token: str, ip: str) -> bool:
        """Return whether a token is one of the file.

        Raises:
            Refused: Too many of the client's network were not.
        """
        now = self._monotonic()
        if wait := self._guesses.wait(ip, now):
            self._counters.guesses_limited += 1
            self._lines.log(logging.WARNING, "guesses_limited", now, ip, peer=ip)
            raise Refused.limited("too many wrong tokens from this network", math.ceil(wait))
        if tokens.holds(token_digest(token)):
            return True
        self._guesses.guessed(ip, now)
        return False

    def _is_cookie_good(self, tokens: TokenFile, header: str) -> bool:
        try:
            morsel = http.cookies.SimpleCookie(header).get(COOKIE)
        except http.cookies.CookieError:
            return False
        ends, _, mac = (morsel.value if morsel is not None else "").partition(".")
        if not (ends.isascii() and ends.isdigit() and len(ends) < 16):
            return False
        is_good = False
        for digest in tokens.digests():
            # As bytes: compare_digest() takes no text that is not ASCII.
            is_good |= hmac.compare_digest(_mac(digest, int(ends)).encode(), mac.encode())
        return is_good and int(ends) > self._clock()


def _netloc(origin: str) -> str:
    """Return host and port of an Origin, empty where it has none."""
    try:
        return urllib.parse.urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _mac(digest: bytes, ends: int) -> str:
    key = hashlib.sha256(b"gatesvr admin cookie" + digest).digest()
    return hmac.new(key, str(ends).encode(), hashlib.sha256).hexdigest()
