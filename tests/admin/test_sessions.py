"""A session as the admin API shows it: its positions, its connection, its events, its trace."""

from __future__ import annotations

import asyncio

from gatesvr import Client
from tests.admin.rig import running_admin
from tests.fakes import until


async def test_session_with_open_slots(backend: str) -> None:
    sets = ("upstream.order=request",)
    async with (
        running_admin(*sets, backend=backend) as rig,
        Client(rig.gateway.address, openid="ann", zone="7", transport=backend) as client,
    ):
        # The first answer is held back, so that the second waits for it in its slot.
        first = asyncio.create_task(client.request("gate", b"1"))
        await rig.upstream.until_asked("gate")
        second = asyncio.create_task(client.request("echo", b"2"))
        session = rig.gateway.session_manager.by_id(client.session_id)
        assert session is not None
        await until(lambda: session.queue.waiting_slots)

        (row,) = (await rig.get("sessions?q=ANN"))["sessions"]
        view = await rig.get(f"sessions/{client.session_id}")
        assert row["openid"] == view["openid"] == "ann"
        assert view["state"] == "normal"
        assert view["in_flight"] == 1  # the second is answered, and waits for its turn
        sequence = view["sequence"]
        assert sequence["client_seq"] == 3
        assert sequence["open_count"] == 2
        (slot, waiting) = sequence["open_slots"][0], sequence["waiting"]
        assert waiting == [slot["slot"] + 1]
        assert slot["action"] == "gate"
        assert slot["client_seq"] == 2
        assert slot["age_s"] >= 0
        assert view["connection"]["backend"] == rig.gateway.backend
        assert view["connection"]["rtt_s"] > 0
        assert view["connection"]["cwnd"] > 0
        assert [event["event"] for event in view["events"]] == ["connected", "logged_in"]

        rig.upstream.gate.set()
        assert ((await first).data, (await second).data) == (b"1", b"2")


async def test_trace_shows_each_message_and_ends() -> None:
    async with running_admin() as rig, Client(rig.gateway.address, openid="ann") as client:
        path = f"sessions/{client.session_id}"
        session = rig.gateway.session_manager.by_id(client.session_id)
        assert session is not None
        before = type(session), type(session.outbox), type(session.sender)
        assert (await rig.post(f"{path}/trace", {"on": True})) == {"traced": True}
        seen: list[str] = []
        events = rig.events(f"{path}/stream")
        assert (await anext(events))[0] == "session"
        await client.request("notify", b"hello")
        async for name, data in events:
            if name == "trace":
                seen.append(f"{data['event']} {data['detail']}")
            if any(line.startswith("ack up_to=4") for line in seen):
                break
        await events.aclose()
        assert any(line.startswith("request client_seq=2 accepted bytes=") for line in seen)
        assert any(line.startswith("answer client_seq=2 bytes=") for line in seen)
        assert "sent seq=2-4" in seen
        assert (await rig.post(f"{path}/push", {"content": "x"})) == {"sessions": 1}
        kinds = [event["event"] for event in (await rig.get(path))["events"]]
        assert "push" in kinds
        assert await rig.post(f"{path}/trace", {"on": False}) == {"traced": False}
        assert (type(session), type(session.outbox), type(session.sender)) == before
        assert rig.admin.counters.traced == 1
        assert (await client.request("echo", b"on")).data == b"on"


async def test_requests_that_wait_for_a_place_are_shown() -> None:
    async with (
        running_admin("dispatch.max_workers=1", "dispatch.workers=1") as rig,
        Client(rig.gateway.address, openid="ann") as client,
    ):
        asked = [asyncio.create_task(client.request("gate", b"%d" % i)) for i in range(3)]
        session = rig.gateway.session_manager.by_id(client.session_id)
        assert session is not None
        await until(lambda: len(session.pending) == 3)
        view = await rig.get(f"sessions/{client.session_id}")
        assert [request["action"] for request in view["pending"]] == ["gate"] * 3
        assert all(request["service"] == "business" for request in view["pending"])
        rig.upstream.gate.set()
        await asyncio.gather(*asked)
        assert (await rig.get(f"sessions/{client.session_id}"))["pending"] == []


async def test_suspended_session_shows_how_long_it_stays() -> None:
    async with running_admin("session.resume_window=1h") as rig:
        client = Client(rig.gateway.address, openid="ann")
        await client.connect()
        session_id = client.session_id
        await client.suspend()
        session = rig.gateway.session_manager.by_id(session_id)
        assert session is not None
        await until(lambda: session.link is None)
        view = await rig.get(f"sessions/{session_id}")
        assert (view["state"], view["connection"]) == ("suspended", None)
        assert 0 < view["tombstone_s"] <= 3_600
        assert [event["event"] for event in view["events"]][-1] == "suspended"
        assert (await rig.get("sessions?state=suspended"))["total"] == 1


async def test_stream_of_a_session_ends_with_it() -> None:
    async with running_admin() as rig, Client(rig.gateway.address, openid="ann") as client:
        events = rig.events(f"sessions/{client.session_id}/stream")
        assert (await anext(events))[0] == "session"
        await rig.post(f"sessions/{client.session_id}/kick")
        assert [name async for name, _ in events][-1] == "goodbye"
        assert rig.gateway.session_manager.events.recent is not None
    assert rig.gateway.session_manager.events.recent is None
