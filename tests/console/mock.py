"""MockGateway: the admin API with figures of its own that move, without a gateway behind it.

It has any number of sessions and shows what a real gateway rarely does: a sick upstream, a deep
queue, a drain. ``python -m tests.console.mock`` serves it for a look at the console.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

CONSOLE = Path(__file__).parents[2] / "gatesvr" / "admin" / "console"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATES = ("normal",) * 17 + ("suspended",) * 2 + ("inited",)
_SORTS = {
    "queue": lambda s: s["queue_messages"],
    "age": lambda s: s["age_s"],
    "rate": lambda s: s["rate"],
    "openid": lambda s: s["openid"],
}
_ACTIONS = ("room.join", "room.say", "bag.list", "zone.move")


class MockGateway:
    """Figures of a gateway under an even load.

    Args:
        sessions: How many it has.
        seed: Of its randomness.
        token: What a client must prove to know; empty for nothing.
        step_s: Seconds between two overviews of the stream.
        workers: Its processes; 0 for a gateway of one.
    """

    def __init__(
        self,
        sessions: int = 10_000,
        seed: int = 1,
        *,
        token: str = "",
        step_s: float = 1.0,
        workers: int = 0,
    ) -> None:
        self.token = token
        self.workers = workers
        self.step_s = step_s
        self.kicked: list[dict[str, Any]] = []
        self.pushed: list[dict[str, Any]] = []
        self.reloads = 0
        self._random = random.Random(seed)
        self._started = time.time() - 93_784
        self._totals = {
            "transport.initials_dropped": 812,
            "dispatch.requests_refused_busy": 96,
            "session.resumes_denied": 31,
            "auth.logins_refused": 14,
            "upstream.answers_too_large": 2,
        }
        self._drain: dict[str, Any] | None = None
        self._traced: set[str] = set()
        self.sessions = [self._session(number) for number in range(sessions)]
        self._history: deque[dict[str, Any]] = deque(maxlen=900)
        for ago in range(900, 0, -1):
            self._history.append(self._overview(time.time() - ago))

    def tick(self) -> dict[str, Any]:
        """Move on by a step and return the overview."""
        overview = self._overview(time.time())
        self._history.append(overview)
        return overview

    def _session(self, number: int) -> dict[str, Any]:
        rand = self._random
        queue = int(rand.paretovariate(1.1)) - 1 if rand.random() < 0.3 else 0
        queue = min(queue, 900)
        age = rand.expovariate(1 / 5400)
        return {
            "session": f"{rand.getrandbits(128):032x}",
            "openid": f"player-{number:05d}",
            "client_id": f"ios-{rand.randrange(4)}.{rand.randrange(20)}",
            "state": rand.choice(_STATES),
            "ip": f"203.0.{rand.randrange(113)}.{rand.randrange(1, 255)}",
            "transport": "quic",
            "zone": f"{rand.randrange(1, 13):03d}",
            "created": time.time() - age,
            "age_s": age,
            "idle_s": rand.expovariate(1 / 4),
            "rtt_s": rand.lognormvariate(-3.4, 0.5),
            "queue_messages": queue,
            "queue_bytes": queue * 164,
            "in_flight": rand.choice((0, 0, 0, 1, 1, 2)),
            "rate": rand.expovariate(1 / 0.12),
            "worker": rand.randrange(self.workers) if self.workers else None,
        }

    def _overview(self, now: float) -> dict[str, Any]:
        rand, since = self._random, now - self._started
        wave = 1 + 0.22 * math.sin(since / 97) + 0.06 * math.sin(since / 13) + rand.gauss(0, 0.012)
        burst = max(0.0, math.sin(since / 61) - 0.93) * 14
        requests = 1180 * wave
        p50 = 0.0014 * (0.9 + 0.1 * wave) * rand.uniform(0.96, 1.04)
        p99 = p50 * (4.2 + burst * 3) * rand.uniform(0.93, 1.1)
        rates = {
            "transport.initials_dropped": max(0.0, burst * 9 + rand.gauss(0.4, 0.2)),
            "dispatch.requests_refused_busy": max(0.0, burst * 4 - 0.5),
        }
        for reason, rate in rates.items():
            self._totals[reason] += int(rate)
        return {
            "time": now,
            "uptime_s": since,
            "version": "0.1.0",
            "backend": "qh3",
            "pid": 41_731,
            "ready": self._drain is None,
            "not_ready": ["draining"] if self._drain else [],
            "draining": self._drain is not None,
            "connections": 9_004,
            "handshakes": rand.randrange(6),
            "sessions": {"inited": 488, "normal": 8_516, "suspended": 996},
            "in_flight": int(requests * p50 * 9) + rand.randrange(5),
            "tasks_queued": int(burst * 6),
            "workers": 8,
            "workers_busy": min(8, int(2 * wave)),
            "queue_messages": int(410 * wave + burst * 260),
            "queue_bytes": int(67_240 * wave + burst * 42_640),
            "oldest_unacked_s": 0.18 + burst / 5,
            "lag_s": 0.0009 * wave * rand.uniform(0.7, 1.5),
            "memory_bytes": int(412e6 + since * 12 + rand.uniform(-4e5, 4e5)),
            "cpu_s": since * 0.31,
            "certificate_expires": now + 52 * 86_400,
            "rates": {
                "requests": requests,
                "answers": requests * rand.uniform(0.995, 1.0),
                "pushes": 760 * wave * rand.uniform(0.98, 1.02),
                "connections": rand.uniform(4, 9),
                "bytes_in": requests * 212,
                "bytes_out": requests * 391,
                "cpu": 0.31 * wave,
            },
            "latency": {
                "request": self._latency(requests * 10, p50, p99),
                "queue_wait": self._latency(requests * 10, p50 * 0.04, p99 * 0.09),
                "send": self._latency(requests * 17, p50 * 0.09, p99 * 0.1),
                "upstream:hello": self._latency(60, p50 * 0.5, p99 * 0.5),
                "upstream:business": self._latency(requests * 8, p50 * 0.8, p99 * 0.85),
                "upstream:zone": self._latency(requests * 2, p50 * 1.3, p99 * 1.2),
            },
            "refusals": sorted(
                (
                    {"reason": reason, "total": total, "rate": rates.get(reason, 0.0)}
                    for reason, total in self._totals.items()
                ),
                key=lambda r: (-float(r["rate"]), -int(r["total"])),
            ),
            "upstreams": self._upstreams(requests, p50, p99, burst),
            "slowest": [
                {
                    **{
                        key: session[key]
                        for key in ("session", "openid", "state", "queue_messages", "queue_bytes")
                    },
                    "oldest_unacked_s": 0.2 + session["queue_messages"] / 90,
                }
                for session in sorted(self.sessions, key=lambda s: -s["queue_messages"])[:10]
            ],
            "drain": self._drain_status(now),
            "fleet": self._fleet(since, wave) if self.workers else None,
        }

    def _fleet(self, since: float, wave: float) -> dict[str, Any]:
        """Return processes: the last but one has just been replaced, and the last is ill."""
        rand, count = self._random, self.workers
        places = [(slot, slot, "ready", since) for slot in range(count)]
        places[-2] = (2 * count - 2, count - 2, "ready", since % 400)
        places.insert(count - 1, (count - 2, count - 2, "leaving", since))
        places[-1] = (count - 1, count - 1, "silent", since)
        workers = []
        for number, slot, state, uptime in places:
            share = 0.06 if state == "leaving" else 1 + 0.1 * math.sin(number + since / 40)
            workers.append(
                {
                    "number": number,
                    "slot": slot,
                    "pid": 41_732 + number,
                    "state": state,
                    "not_ready": [],
                    "version": "0.1.0",
                    "uptime_s": uptime,
                    "answered_s": 4.2 if state == "silent" else 0.3,
                    "restarts": int(slot == count - 2),
                    "connections": int(9_004 * share / count),
                    "sessions": int(10_000 * share / count),
                    "in_flight": int(4 * share * wave),
                    "requests": 1180 * wave * share / count,
                    "cpu": min(1.0, 0.31 * wave * share * rand.uniform(0.95, 1.05)),
                    "memory_bytes": int(96e6 * (0.4 + 0.6 * share)),
                    "lag_s": 0.0009 * wave * rand.uniform(0.7, 1.5),
                    "moves_in": int(since / 900) + number * 7,
                    "moves_out": int(since / 950) + number * 5,
                    "handed_on": int(since / 8) + number * 31,
                }
            )
        return {"slots": count, "restarts": 1, "workers": workers}

    @staticmethod
    def _latency(count: float, p50: float, p99: float) -> dict[str, float]:
        return {
            "count": int(count),
            "p50": p50,
            "p90": p50 + (p99 - p50) * 0.36,
            "p99": p99,
            "p999": p99 * 1.7,
            "max": p99 * 2.3,
        }

    def _upstreams(
        self, requests: float, p50: float, p99: float, burst: float
    ) -> list[dict[str, Any]]:
        rows = []
        for service, port, share in (
            ("hello", 9001, 0.01),
            ("business", 9011, 0.42),
            ("business", 9012, 0.41),
            ("zone", 9021, 0.16),
            ("zone", 9022, 0.0),
        ):
            is_sick = port == 9022
            rows.append(
                {
                    "service": service,
                    "address": f"10.4.0.{port % 100}:{port}",
                    "zone": "",
                    "state": "connecting" if is_sick else "stream",
                    "health": "ejected" if is_sick else "up",
                    "registered": service == "zone",
                    "waiting": int(burst),
                    "lanes": 1,
                    "in_flight": int(requests * share * p50 * 3),
                    "breaker": "open" if is_sick else "closed",
                    "requests": int(self._random.uniform(0.99, 1) * 4.1e7 * share) + 120,
                    "failures": 118 if is_sick else int(burst),
                    "p50": 0.0 if is_sick else p50 * 0.8,
                    "p99": 0.0 if is_sick else p99 * 0.85,
                    "batch_mean": 0.0 if is_sick else 1 + 3.4 * share,
                }
            )
        return rows

    def _drain_status(self, now: float) -> dict[str, Any] | None:
        if self._drain is None:
            return None
        elapsed = now - self._drain["since"]
        left = max(0, int(9_004 - elapsed * self._drain["rate"]))
        return {
            "phase": "goaway" if left else "finishing",
            "connections_at_start": 9_004,
            "connections_left": left,
            "requests_left": left // 300,
            "elapsed_s": elapsed,
            "remaining_s": left / self._drain["rate"],
            "rate": self._drain["rate"],
        }

    def _detail(self, session: dict[str, Any]) -> dict[str, Any]:
        number = int(session["openid"][-5:])
        moved = int((time.time() - self._started) * 7)
        acked = moved + number
        sent = acked + min(24, 3 + session["queue_messages"])
        following = sent + 1 + max(0, session["queue_messages"] - 24)
        slots = following + 40
        open_slots = [
            {
                "slot": slots + place,
                "client_seq": moved // 2 + place,
                "action": _ACTIONS[(number + place) % 4],
                "age_s": 0.21 / (1 + place),
            }
            for place in (0, 3, 5)
        ]
        return {
            **session,
            "connection": None
            if session["state"] == "suspended"
            else {
                "address": f"{session['ip']}:{20_000 + number}",
                "number": number,
                "backend": "qh3",
                "rtt_s": session["rtt_s"],
                "cwnd": 48_000,
                "lost": number % 17,
                "in_flight_bytes": 2_310,
                "unsent_bytes": 0,
                "path_changes": [
                    {
                        "time": session["created"] + 9.5,
                        "from": "198.51.100.7:40112",
                        "to": f"{session['ip']}:2100",
                    }
                ],
            },
            "number": number,
            "user_port": 20_000 + number,
            "protocol": 1,
            "capabilities": 3,
            "max_message_bytes": 1 << 20,
            "auth_subject": session["openid"],
            "logged_in": session["state"] != "inited",
            "hello_pending": session["state"] == "inited",
            "generation": 1 + number % 4,
            "resumes": number % 4,
            "tombstone_s": 211.0 if session["state"] == "suspended" else None,
            "sequence": {
                "acked": acked,
                "sent": sent,
                "next": following,
                "unsent": following - sent - 1,
                "waiting": [slots + 1, slots + 2, slots + 4],
                "waiting_count": 3,
                "open_slots": open_slots,
                "open_count": 6,
                "unacked_bytes": session["queue_bytes"],
                "client_seq": moved // 2,
            },
            "pending": [{**slot, "service": "business"} for slot in open_slots],
            "max_queue_size": 1_024,
            "max_queue_bytes": 4 << 20,
            "stopped": False,
            "before_notifies": 0,
            "after_notifies": 1,
            "held_notifies": 0,
            "oldest_unacked_s": session["queue_messages"] / 90,
            "queue": {"reserved": moved, "released": following, "expired": 0},
            "rates": {"requests": session["rate"], "pushes": 0.4},
            "traced": session["session"] in self._traced,
            "events": [
                {"time": session["created"] + later, "event": event, "detail": detail}
                for later, event, detail in (
                    (0.0, "created", f"ip={session['ip']}"),
                    (0.02, "logged_in", f"openid={session['openid']}"),
                    (9.0, "suspended", 'reason="idle timeout"'),
                    (12.0, "resumed", "generation=2 acked=90"),
                )
            ],
        }

    def _find(self, request: Request) -> dict[str, Any] | None:
        wanted = request.path_params["id"]
        return next((s for s in self.sessions if s["session"] == wanted), None)

    # Endpoints.

    async def _get_overview(self, request: Request) -> Response:
        return JSONResponse(self.tick())

    async def _get_history(self, request: Request) -> Response:
        rows = list(self._history)[-int(request.query_params.get("seconds", 300)) :]
        series = {
            **{k: [r["rates"][k] for r in rows] for k in ("requests", "answers", "pushes", "cpu")},
            **{k: [r["latency"]["request"][k] for r in rows] for k in ("p50", "p99")},
            **{k: [r[k] for r in rows] for k in ("queue_messages", "in_flight", "lag_s")},
            "memory_bytes": [r["memory_bytes"] for r in rows],
            "sessions": [sum(r["sessions"].values()) for r in rows],
            "refusals": [sum(x["rate"] for x in r["refusals"]) for r in rows],
        }
        return JSONResponse({"time": [r["time"] for r in rows], "series": series})

    async def _stream(self, request: Request) -> Response:
        async def events() -> AsyncIterator[str]:
            while True:
                yield f"event: overview\ndata: {json.dumps(self.tick())}\n\n"
                await asyncio.sleep(self.step_s)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _get_sessions(self, request: Request) -> Response:
        query = request.query_params
        found = [
            s
            for s in self.sessions
            if query.get("q", "") in s["openid"] + " " + s["session"]
            and query.get("state", "") in ("", s["state"])
            and query.get("zone", "") in ("", s["zone"])
            and s["ip"].startswith(query.get("ip", ""))
        ]
        found.sort(
            key=_SORTS[query.get("sort", "queue")], reverse=query.get("order", "desc") == "desc"
        )
        start, limit = int(query.get("page") or 0), int(query.get("limit", 50))
        following = str(start + limit) if start + limit < len(found) else None
        rows = found[start : start + limit]
        return JSONResponse({"total": len(found), "sessions": rows, "next": following})

    async def _get_session(self, request: Request) -> Response:
        session = self._find(request)
        return JSONResponse(self._detail(session)) if session else _no_session()

    async def _stream_session(self, request: Request) -> Response:
        session = self._find(request)
        if session is None:
            return _no_session()

        async def events() -> AsyncIterator[str]:
            while session in self.sessions:
                yield f"event: session\ndata: {json.dumps(self._detail(session))}\n\n"
                if session["session"] in self._traced:
                    for _ in range(3):
                        await asyncio.sleep(self.step_s / 4)
                        action = self._random.choice(_ACTIONS)
                        event = {"time": time.time(), "event": "request", "detail": action}
                        yield f"event: trace\ndata: {json.dumps(event)}\n\n"
                await asyncio.sleep(self.step_s / 4)

        return StreamingResponse(events(), media_type="text/event-stream")

    async def _kick(self, request: Request) -> Response:
        session = self._find(request)
        if session is None:
            return _no_session()
        self.sessions.remove(session)
        self.kicked.append(await request.json())
        return JSONResponse({"sessions": 1})

    async def _push(self, request: Request) -> Response:
        self.pushed.append(await request.json())
        return JSONResponse({"sessions": 1})

    async def _trace(self, request: Request) -> Response:
        is_on = (await request.json())["on"]
        (self._traced.add if is_on else self._traced.discard)(request.path_params["id"])
        return JSONResponse({"traced": is_on})

    async def _get_upstreams(self, request: Request) -> Response:
        return JSONResponse(self._history[-1]["upstreams"])

    async def _get_routes(self, request: Request) -> Response:
        return JSONResponse(
            [
                {"action": "hello", "service": "hello", "order": "request", "serial": False},
                {"action": "room.*", "service": "business", "order": "request", "serial": False},
                {"action": "bag.*", "service": "business", "order": "completion", "serial": True},
                {"action": "zone.*", "service": "zone", "order": "request", "serial": False},
            ]
        )

    async def _get_config(self, request: Request) -> Response:
        return JSONResponse(
            {
                "settings": [
                    {"name": name, "value": value, "origin": origin, "restart": "bind" in name}
                    for name, value, origin in (
                        ("transport.bind", "0.0.0.0:8453", "gateway.toml:4"),
                        ("transport.backend", "qh3", "default"),
                        ("session.tombstone", "5m", "default"),
                        ("dispatch.workers", "8", "--workers"),
                        ("dispatch.deadline", "30s", "default"),
                        ("admin.bind", "127.0.0.1:8090", "GATESVR_ADMIN_BIND"),
                        ("admin.token", "(hidden)", "gateway.toml:31"),
                    )
                ]
            }
        )

    async def _reload(self, request: Request) -> Response:
        self.reloads += 1
        return JSONResponse(
            {
                "changed": [{"name": "dispatch.deadline", "old": "30s", "new": "20s"}],
                "needs_restart": ["transport.bind"],
                "error": "",
            }
        )

    async def _start_drain(self, request: Request) -> Response:
        body = await request.json()
        self._drain = {"since": time.time(), "rate": float(body.get("rate") or 200)}
        return JSONResponse(self._drain_status(time.time()))

    async def _login(self, request: Request) -> Response:
        if (await request.json()).get("token") != self.token:
            return _error(401, "unauthorized", "this token is not the server's")
        done = JSONResponse({})
        done.set_cookie("gatesvr", self.token, httponly=True, samesite="strict")
        return done

    def app(self) -> Starlette:
        """Return the ASGI application."""
        session = "/sessions/{id}"
        routes = [
            Route("/overview", self._get_overview),
            Route("/history", self._get_history),
            Route("/stream", self._stream),
            Route("/sessions", self._get_sessions),
            Route(session, self._get_session),
            Route(f"{session}/stream", self._stream_session),
            Route(f"{session}/kick", self._kick, methods=["POST"]),
            Route(f"{session}/push", self._push, methods=["POST"]),
            Route(f"{session}/trace", self._trace, methods=["POST"]),
            Route("/upstreams", self._get_upstreams),
            Route("/routes", self._get_routes),
            Route("/config", self._get_config),
            Route("/reload", self._reload, methods=["POST"]),
            Route("/drain", self._start_drain, methods=["POST"]),
            Route("/login", self._login, methods=["POST"]),
        ]

        async def page(request: Request) -> Response:
            return FileResponse(CONSOLE / "index.html")

        app = Starlette(
            routes=[
                Route("/", page),
                Mount("/api/v1", routes=routes),
                Mount("/static", StaticFiles(directory=CONSOLE)),
            ]
        )

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            request = Request(scope)
            is_api = request.url.path.startswith("/api/") and request.url.path != "/api/v1/login"
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            proofs = (bearer, request.cookies.get("gatesvr"))
            if is_api and self.token and self.token not in proofs:
                await _error(401, "unauthorized", "log in")(scope, receive, send)
                return
            if request.method == "POST" and request.headers.get("x-gatesvr") != "1":
                await _error(403, "forbidden", "the header X-GateSvr is missing")(
                    scope, receive, send
                )
                return

            async def send_guarded(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"].append((b"content-security-policy", CSP.encode()))
                await send(message)

            await app(scope, receive, send_guarded)

        return guarded  # type: ignore[return-value]


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status)


def _no_session() -> Response:
    return _error(404, "no_session", "no such session")


if __name__ == "__main__":
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--token", default="")
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    mock = MockGateway(args.sessions, token=args.token, workers=args.workers)
    uvicorn.run(mock.app(), host="127.0.0.1", port=args.port, log_level="warning")
