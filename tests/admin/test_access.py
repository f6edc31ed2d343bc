"""Who may ask the admin server: hosts, origins, tokens and cookies."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatesvr.admin.access import Access
from gatesvr.admin.counters import AdminCounters
from gatesvr.admin.refusal import Refused
from gatesvr.config import AdminConfig, load
from gatesvr.credentials import TokenFile
from gatesvr.errors import ConfigError

TOKEN = "a-token-of-the-file-1234"
CHANGE = {"content-type": "application/json", "x-gatesvr": "1"}


class Door:
    """An Access, and what it counts."""

    def __init__(self, token: Path | None = None, **settings: object) -> None:
        self.now = 1_000_000.0
        self.ticks = 0.0
        self.counters = AdminCounters()
        config = AdminConfig(token=str(token or ""), **settings)  # type: ignore[arg-type]
        tokens = TokenFile(str(token), "admin.token") if token is not None else None
        self.access = Access(config, tokens, self.counters, lambda: self.now, lambda: self.ticks)

    def status(
        self,
        method: str = "GET",
        path: str = "/api/v1/overview",
        host: str = "localhost",
        ip: str = "10.0.0.1",
        **more: str,
    ) -> int:
        """Return the status that a request gets at the gates, 200 where it passes."""
        headers = {"host": host, **{name.replace("_", "-"): text for name, text in more.items()}}
        try:
            self.access.check(method, path, headers, ip)
        except Refused as refusal:
            return refusal.status
        return 200

    def change(self, **headers: str) -> int:
        """Return the status of a request that changes something."""
        names = {name.replace("-", "_"): text for name, text in CHANGE.items()}
        return self.status("POST", "/api/v1/kick", **{**names, **headers})


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# of the console\n{TOKEN}\n")
    return path


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8090",
        "127.0.0.1:8090",
        "[::1]:8090",
        "::1",
        "10.1.2.3",
        "gate.example",
    ],
)
def test_own_hosts_pass(host: str) -> None:
    assert Door(hosts=["gate.example"]).status(host=host) == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example:8090", "127.0.0.1.evil"]
)
def test_other_hosts_are_refused(host: str) -> None:
    door = Door()
    assert door.status(host=host) == 421
    assert door.counters.refused_hosts == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"x_gatesvr": ""},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:8091"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_what_a_foreign_page_can_send_changes_nothing(headers: dict[str, str]) -> None:
    door = Door()
    assert door.change(host="localhost:8090", **headers) == 403
    assert door.counters.refused_origins == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors"},
        {"origin": "https://evil.example"},
    ],
)
def test_foreign_pages_do_not_ask_the_api(headers: dict[str, str]) -> None:
    door = Door()
    assert door.status(path="/api/v1/profile", **headers) == 403
    assert door.counters.refused_origins == 1
    # A link to the console is no harm, nor is what our own page or a command asks.
    assert door.status(path="/", **headers) == 200
    assert door.status(path="/api/v1/profile", sec_fetch_site="same-origin") == 200
    assert door.status(path="/api/v1/profile", sec_fetch_site="none") == 200


def test_own_page_and_commands_change_things() -> None:
    door = Door()
    assert door.change() == 200
    assert door.change(content_type="application/json; charset=utf-8") == 200
    own = {"origin": "http://localhost:8090", "sec_fetch_site": "same-origin"}
    assert door.change(host="localhost:8090", **own) == 200


def test_token_guards_the_api_and_the_metrics(tokens: Path) -> None:
    door = Door(tokens)
    assert door.status(path="/") == door.status(path="/static/main.js") == 200
    assert door.status() == door.status(path="/metrics") == 401
    assert door.status(authorization="Bearer wrong-token-0123456789") == 401
    assert door.status(authorization=f"Basic {TOKEN}") == 401
    assert door.status(authorization="Bearer \udcff") == 401
    assert door.counters.refused_unproved == 5
    assert door.status(authorization=f"Bearer {TOKEN}") == 200
    assert door.status(path="/metrics", authorization=f"bearer {TOKEN}") == 200
    # No page of another site has the token, so a scraper may use any name.
    scraper = {"path": "/metrics", "host": "gate-1:8090"}
    assert door.status(**scraper, authorization=f"Bearer {TOKEN}") == 200
    assert door.status(**scraper) == 421


def test_guesses_wait(tokens: Path) -> None:
    door = Door(tokens)
    cookie, _ = door.access.login(TOKEN, "10.0.0.1")
    good, guess = {"authorization": f"Bearer {TOKEN}"}, "Bearer wrong-token-0123456789"
    statuses = [door.status(authorization=guess) for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2
    # A good one must not be told apart, at the gates and at the login alike.
    assert door.status(**good) == door.status(path="/", **good) == 429
    with pytest.raises(Refused) as caught:
        door.access.login(TOKEN, "10.0.0.1")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    assert door.counters.guesses_limited == 5
    # Others go on: cookies, requests without a token, other addresses, the Unix socket.
    assert door.status(cookie=f"gatesvr_admin={cookie}") == 200
    assert door.status() == 401
    assert door.status(ip="10.0.0.2", **good) == door.status(ip="", **good) == 200
    assert door.status(ip="::ffff:10.0.0.1", **good) == 429
    door.ticks += 1.0
    assert door.status(**good) == door.status(**good) == 200
    for _ in range(2):
        with pytest.raises(Refused) as caught:
            door.access.login("wrong-token-0123456789", "10.0.0.1")
    assert caught.value.status == 429


def test_cookie_holds_until_it_ends_or_its_token_goes(tokens: Path) -> None:
    door = Door(tokens)
    with pytest.raises(Refused):
        door.access.login("wrong-token-0123456789")
    cookie, ends = door.access.login(TOKEN)
    assert TOKEN not in cookie
    assert door.status(cookie=f"a=b; gatesvr_admin={cookie}") == 200
    when, _, mac = cookie.partition(".")
    for forged in (f"{int(when) + 1}.{mac}", f"{when}.{mac[:-1]}0g", "", ".", "x.y", f"{when}."):
        assert door.status(cookie=f"gatesvr_admin={forged}") == 401
    # Another process with the same token takes it, too: a restart ends no login.
    assert Door(tokens).status(cookie=f"gatesvr_admin={cookie}") == 200
    door.now = ends
    assert door.status(cookie=f"gatesvr_admin={cookie}") == 401
    tokens.write_text("another-token-of-the-file\n")
    assert Door(tokens).status(cookie=f"gatesvr_admin={cookie}") == 401


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["admin.bind=0.0.0.0:8090"], "admin.bind"),
        (["admin.bind=nonsense"], "admin.bind"),
        (["admin.enabled=true", "admin.bind="], "admin.bind"),
        (["admin.cert=a.pem"], "admin.cert"),
        (["admin.client_ca=a.pem"], "admin.client_ca"),
    ],
)
def test_settings_that_do_not_fit_are_refused(sets: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(sets=sets)


@pytest.mark.parametrize("mac", ["é", "\\303\\251", "0" * 64, ""])
def test_cookie_of_any_text_is_refused(tokens: Path, mac: str) -> None:
    door = Door(tokens)
    assert door.status(cookie=f'gatesvr_admin="{2**40}.{mac}"') == 401


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "null", "", "//", "http://\ufffd"])
def test_origin_of_any_text_is_refused(origin: str) -> None:
    assert Door().change(origin=origin) == 403
