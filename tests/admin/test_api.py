"""The API: every route is in the OpenAPI document and answers what that says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import msgspec
import pytest

from gatesvr import Client
from gatesvr.admin.api import ROUTES
from gatesvr.admin.openapi import document
from gatesvr.admin.server import AdminServer
from gatesvr.config import Config
from gatesvr.config.load import Origins, load_with_origins
from gatesvr.errors import ConfigError, SessionLost
from gatesvr.reload import Reloader
from tests.admin.rig import CHANGE, Rig, running_admin
from tests.fakes import until


def check(answer: Any, kind: dict[str, Any], api: dict[str, Any]) -> None:
    """Check an answer against a schema of the document."""
    jsonschema.validate(answer, {**kind, "components": api["components"]})


async def test_every_route_answers_as_the_document_says() -> None:
    async with running_admin() as rig, Client(rig.gateway.address, openid="ann") as client:
        await client.request("echo", b"x")
        api = await rig.get("openapi.json")
        bodies = {
            "kick": {"openid": "nobody"},
            "kick_session": {"code": 4601},
            "trace": {"on": True},
            "log": {"level": "warning"},
            "login": {"token": "any"},
            "push": {"content": "hello", "data": base64.b64encode(b"x").decode()},
        }
        # What ends the session and the gateway comes last.
        routes = sorted(ROUTES, key=lambda route: route.name in ("kick_session", "drain"))
        for route in routes:
            path = f"/api/v1/{route.path}"
            operation = api["paths"][path][route.method.lower()]
            url = path.replace("{id}", client.session_id)
            if route.media == "text/event-stream":
                async with rig.http.stream("GET", url) as stream:
                    assert stream.headers["content-type"] == route.media
                continue
            query = {"seconds": "0.05"} if route.name == "profile" else {}
            answer = await rig.http.request(
                route.method,
                url,
                params=query,
                headers=CHANGE if route.method == "POST" else {},
                json=bodies.get(route.name, {}) if route.method == "POST" else None,
            )
            media = answer.headers["content-type"].partition(";")[0]
            kind = "200" if answer.status_code == 200 else "default"
            content = operation["responses"][kind]["content"]
            if media == "application/json":
                check(answer.json(), content[media]["schema"], api)
            else:
                assert media in content
            name = f"{route.method} {route.name}"
            expected = {"POST kick": 404, "POST reload": 501, "POST upgrade": 501}.get(name, 200)
            assert answer.status_code == expected, (route, answer.text)


def test_document_has_every_route() -> None:
    paths = document(ROUTES, "1")["paths"]
    named = {(method, path) for path, methods in paths.items() for method in methods}
    assert named == {(route.method.lower(), f"/api/v1/{route.path}") for route in ROUTES}


async def test_questions_that_make_no_sense_are_refused_by_name() -> None:
    async with running_admin() as rig:
        for path, word in (
            ("sessions?limit=0", "limit"),
            ("sessions?state=dead", "state"),
            ("sessions?sort=name", "sort"),
            ("sessions?page=nonsense", "page"),
            ("sessions?pages=1", "pages"),
            ("history?seconds=x", "seconds"),
        ):
            error = (await rig.get(path, 400))["error"]
            assert error["code"] == "INVALID"
            assert word in error["message"]
        for body in ({"level": "loud"}, {"levle": "info"}, [], "x", 1):
            assert (await rig.post("log", body, 400))["error"]["code"] == "INVALID"
        big = await rig.http.post(
            "api/v1/log",
            content=b" " * (2 << 20),
            headers={**CHANGE, "Content-Type": "application/json"},
        )
        assert big.status_code == 413
        assert rig.admin.counters.refused_bodies == 6
        assert (await rig.get("nothing", 404))["error"]["code"] == "NOT_FOUND"
        assert (await rig.get("kick", 405))["error"]["code"] == "METHOD"
        assert (await rig.get("sessions/none", 404))["error"]["code"] == "NOT_FOUND"


async def test_kick_closes_the_client_with_the_code() -> None:
    async with running_admin() as rig, Client(rig.gateway.address, openid="ann") as client:
        body = {"openid": "ann", "code": 4601, "reason": "maintenance"}
        assert await rig.post("kick", body) == {"sessions": 1}
        with pytest.raises(SessionLost) as caught:
            await anext(client)
        assert caught.value.code == 4601
        assert rig.gateway.stats()["push"]["kicks"] == 1


async def test_overview_has_the_numbers_of_the_gateway() -> None:
    async with running_admin() as rig, Client(rig.gateway.address, openid="ann") as client:
        for _ in range(3):
            await client.request("echo", b"x")
        events = rig.events("stream")
        async for name, now in events:
            assert name == "overview"
            if now["latency"]["request"]["count"] == 4:
                break
        await events.aclose()
        stats = rig.gateway.stats()
        assert now["sessions"] == {"inited": 0, "normal": 1, "suspended": 0}
        assert now["connections"] == stats["transport"]["connections"] == 1
        business = now["upstreams"][0]
        assert sum(upstream["requests"] for upstream in now["upstreams"]) == 4
        assert business["health"] == "up"
        assert stats["admin"]["sse_streams"] == 0 or await gone(rig)
        past = await rig.get("history?seconds=900")
        assert {len(series) for series in past["series"].values()} == {len(past["time"])}
        assert past["series"]["sessions"][-1] == 1


async def gone(rig: Rig) -> bool:
    """Wait until the server has noticed that all streams are left."""
    await until(lambda: rig.admin.counters.sse_streams == 0)
    return True


async def test_refusals_are_listed() -> None:
    async with running_admin() as rig:
        assert (await rig.http.get("api/v1/overview", headers={"Host": "evil"})).status_code == 421
        async for _, now in rig.events("stream"):
            found = {refusal["reason"]: refusal["total"] for refusal in now["refusals"]}
            if "admin.refused_hosts" in found:
                break
        assert found["admin.refused_hosts"] == 1


async def test_streams_are_bounded_and_say_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.streams.MAX_STREAMS", 1)
    async with running_admin() as rig:
        events = rig.events("stream")
        assert (await anext(events))[0] == "overview"
        assert (await rig.get("stream", 503))["error"]["code"] == "BUSY"
        assert rig.admin.counters.sse_refused == 1
        stopping = asyncio.create_task(rig.admin.stop())
        assert [name async for name, _ in events][-1] == "goodbye"
        await stopping


async def test_stream_that_nobody_reads_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.streams.SEND_S", 0.05)
    async with running_admin() as rig:
        rig.admin._sampler.encoded = json.dumps("x" * (8 << 20)).encode()
        host, _, port = rig.admin.address.rpartition(":")
        with socket.create_connection((host, int(port))) as deaf:
            deaf.sendall(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: rig.admin.counters.sse_stuck)
            await until(lambda: not rig.admin.counters.sse_streams)


async def test_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.http.REQUEST_S", 0.05)
    async with running_admin() as rig:
        host, _, port = rig.admin.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        assert await reader.read() == b""
        writer.close()
        assert rig.admin.counters.silent_closed == 1


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"G", id="half-a-head"),
        pytest.param(b"", id="silence"),
        pytest.param(b"GET /livez HTTP/1.1\r\n\x00\r\n\r\n", id="garbage"),
    ],
)
async def test_who_has_asked_once_holds_no_connection(
    monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    monkeypatch.setattr("gatesvr.admin.http.KEEP_ALIVE_S", 0.1)
    async with running_admin() as rig:
        host, _, port = rig.admin.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(5):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
            writer.write(more)
            await reader.read()
        writer.close()


async def test_unread_answers_hold_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.http.KEEP_ALIVE_S", 0.1)
    monkeypatch.setattr("gatesvr.admin.app.SEND_S", 0.1)
    async with running_admin() as rig:
        host, _, port = rig.admin.address.rpartition(":")
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with deaf:
            deaf.connect((host, int(port)))
            connections = rig.admin._connections._state.connections
            await until(lambda: connections)
            ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
            deaf.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(400):
                    deaf.send(ask)
            await until(lambda: not connections)


async def test_who_leaves_before_the_end_of_a_body_is_no_failure() -> None:
    async with running_admin() as rig:
        host, _, port = rig.admin.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = "\r\n".join(
            f"{name}: {value}"
            for name, value in {
                "Host": "localhost",
                "Content-Type": "application/json",
                "Content-Length": "99",
                **CHANGE,
            }.items()
        )
        writer.write(f"POST /api/v1/login HTTP/1.1\r\n{head}\r\n\r\n{{".encode())
        await until(lambda: rig.admin.counters.requests)
        writer.close()
        await until(lambda: rig.admin.counters.refused_bodies)
        assert rig.admin.counters.internal_errors == 0


async def test_crowd_reads_the_gateway_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_admin() as rig:
        now = most = 0
        page = rig.admin._source.directory.page

        async def counted(query: Any) -> Any:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.005)
            now -= 1
            return await page(query)

        monkeypatch.setattr(rig.admin._source.directory, "page", counted)
        await asyncio.gather(*(rig.get("sessions") for _ in range(20)))
        assert most == 2


async def test_crowd_leaves_room_for_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatesvr.admin.http.MAX_CONNECTIONS", 8)
    async with running_admin() as rig:
        stream = rig.events("stream")
        await anext(stream)
        host, _, port = rig.admin.address.rpartition(":")
        crowd = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        for _, writer in crowd:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nG")
        assert (await rig.http.get("livez")).status_code == 200
        assert (await anext(stream))[0] == "overview"  # one that is busy stays
        assert rig.admin.counters.crowded_out >= 30
        for _, writer in crowd:
            writer.close()
        await stream.aclose()


async def test_drain_that_cannot_be_is_refused_and_the_next_one_begins() -> None:
    async with running_admin() as rig:
        refusal = await rig.post("drain", {"rate": 0.0001}, 400)
        assert "rate" in refusal["error"]["message"]
        assert (await rig.post("drain", {"rate": 1000}))["phase"] != "serving"


async def test_failure_in_our_own_code_is_500(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_admin() as rig:
        monkeypatch.setattr(rig.admin._sampler, "history", lambda seconds: 1 / 0)
        assert (await rig.get("history", 500))["error"]["code"] == "INTERNAL"
        assert rig.admin.counters.internal_errors == 1


async def test_every_answer_has_the_policy() -> None:
    async with running_admin() as rig:
        for path in ("", "api/v1/overview", "nothing", "livez", "api/v1/sessions/x"):
            headers = (await rig.http.get(path)).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in (await rig.http.get("api/v1/overview")).headers


async def test_health() -> None:
    async with running_admin("drain.ready_wait=50ms") as rig:
        # A probe knows neither names nor tokens.
        for path in ("livez", "readyz"):
            assert (await rig.http.get(path, headers={"Host": "probe"})).status_code == 200
        await rig.post("drain", {"rate": 1000, "timeout": 5})
        ready = await rig.http.get("readyz")
        assert (ready.status_code, ready.text) == (503, "draining\n")
        assert (await rig.http.get("livez")).status_code == 200
        await until(lambda: rig.gateway.drain_status().phase == "stopped")
        assert (await rig.get("drain"))["phase"] == "stopped"


async def test_a_drain_that_cannot_be_is_refused_and_leaves_the_next_one() -> None:
    async with running_admin() as rig:
        await rig.post("drain", {"rate": 0.0005}, 400)
        assert (await rig.get("drain"))["phase"] == "serving"
        await rig.post("drain", {"rate": 1000, "timeout": 5})
        await until(lambda: rig.gateway.drain_status().phase == "stopped")


async def test_rates_do_not_follow_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_admin() as rig:
        sampler, figures = rig.admin._sampler, rig.gateway.figures
        now = figures()
        set_back = msgspec.structs.replace(now, time=now.time - 3_600, cpu_s=now.cpu_s + 100)
        monkeypatch.setattr(rig.gateway, "figures", lambda: set_back)
        await sampler.take()
        assert sampler.overview is not None
        assert sampler.overview.rates.cpu > 0


async def test_login_sets_a_cookie(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-the-file-1234\n")
    async with running_admin(f"admin.token={tokens}") as rig:
        assert (await rig.get("overview", 401))["error"]["code"] == "UNAUTHENTICATED"
        await rig.post("login", {"token": "not-a-token-of-the-file"}, 401)
        answer = await rig.http.post(
            "api/v1/login", json={"token": "a-token-of-the-file-1234"}, headers=CHANGE
        )
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        await rig.get("overview")  # the client keeps the cookie
        shown = {row["name"]: row["value"] for row in (await rig.get("config"))["settings"]}
        assert shown["admin.token"] == "(hidden)"
        assert str(tokens) not in json.dumps(shown)


async def test_guesses_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gatesvr.auth.guesses.RATE", 0.001)
    tokens = tmp_path / "tokens"
    tokens.write_text("a-token-of-the-file-1234\n")
    async with running_admin(f"admin.token={tokens}") as rig:
        for status in [401] * 10 + [429]:
            await rig.post("login", {"token": "not-a-token-of-the-file"}, status)
        bearer = {"Authorization": "Bearer a-token-of-the-file-1234"}
        answer = await rig.http.get("api/v1/overview", headers=bearer)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 1000
        assert (await rig.get("overview", 401))["error"]["code"] == "UNAUTHENTICATED"
        assert rig.admin.counters.guesses_limited == 2
    lines = [record.keys for record in caplog.records if record.msg == "guesses_limited"]  # type: ignore[attr-defined]
    assert {line["peer"] for line in lines} == {"127.0.0.1"}
    assert len(lines) + sum(line["suppressed"] for line in lines) == 2


async def test_unix_socket_is_this_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with running_admin(f"admin.socket={path}", "admin.bind=127.0.0.1:0") as rig:
        assert os.stat(path).st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/api/v1/overview")).status_code == 200
        other = AdminServer(rig.gateway, rig.gateway.config.admin)
        with pytest.raises(ConfigError, match="socket"):
            await other.start()
        await other.stop()
    assert not path.exists()


async def test_port_that_is_taken() -> None:
    async with running_admin() as rig:
        config = rig.gateway.config.admin
        taken = type(config)(bind=rig.admin.address)
        with pytest.raises(ConfigError, match=r"admin\.bind"):
            await AdminServer(rig.gateway, taken).start()
        second = AdminServer(rig.gateway, taken, any_port=True)
        await second.start()
        assert second.address != rig.admin.address
        assert "is taken" in second.where
        await second.stop()


async def test_half_a_head_and_nonsense_harm_nothing() -> None:
    async with running_admin() as rig:
        host, _, port = rig.admin.address.rpartition(":")
        for junk in (
            b"\x16\x03\x01" * 50,
            b"GET /" + b"a" * 70_000,
            b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            with socket.create_connection((host, int(port))) as rude:
                rude.sendall(junk)
        assert (await rig.http.get("livez")).status_code == 200


async def test_reload_and_log_level(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("")
    async with running_admin() as rig:
        sets = [*rig.sets, "admin.bind=127.0.0.1:0"]
        origins: list[Origins] = []

        def read() -> Config:
            config, found = load_with_origins(file, sets=sets)
            origins[:] = [found]
            return config

        read()
        reloader = Reloader(rig.gateway, read)
        config = rig.gateway.config.admin
        admin = AdminServer(rig.gateway, config, origins=lambda: origins[0], reload=reloader.reload)
        await admin.start()
        try:
            async with httpx.AsyncClient(base_url=admin.url, headers=CHANGE) as client:
                file.write_text("[session]\nmax_in_flight = 7\n")
                report = (await client.post("api/v1/reload", json={})).json()
                assert [change["name"] for change in report["changed"]] == ["session.max_in_flight"]
                rows = (await client.get("api/v1/config")).json()["settings"]
                row = next(row for row in rows if row["name"] == "session.max_in_flight")
                assert (row["value"], row["origin"]) == ("7", f"{file}:2")
                file.write_text("[session]\nmax_in_flight = 0\n")
                report = (await client.post("api/v1/reload", json={})).json()
                assert "max_in_flight" in report["error"]
                assert rig.gateway.config.session.max_in_flight == 7
        finally:
            await admin.stop()
        body = {"level": "debug", "session": "some-session"}
        assert await rig.post("log", body) == body
        assert await rig.post("log", {**body, "level": ""}) == {**body, "level": ""}
        assert (await rig.post("log", {"level": ""}, 400))["error"]["code"] == "INVALID"
