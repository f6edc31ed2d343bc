"""PeerLinks on real sockets: what arrives, and what becomes of calls that nobody answers."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from gatesvr._pb import cluster_pb2 as pb
from gatesvr.cluster import frames, peer_link
from gatesvr.cluster.calls import KICK, LIFE, TAKE, TAKEN, Call
from gatesvr.cluster.directory import DirectoryUnreachableError, MemoryDirectory
from gatesvr.cluster.frames import FrameError
from gatesvr.cluster.peer_link import PeerLinks, PeerSocketError
from gatesvr.cluster.peers import PeerUnreachableError
from gatesvr.grpcio import make_channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gatesvr.cluster.peers import Peers

LONG = 30.0


class Node:
    """A process: it answers LIFE at once, TAKE when it is let go on, and keeps hints."""

    def __init__(self, name: str, path: Path, **limits: int) -> None:
        self.name = name
        self.path = path / name
        self.links = PeerLinks(name, **limits)
        self.counters = self.links.counters
        self.asked: list[str] = []
        self.hints: asyncio.Queue[str] = asyncio.Queue()
        self.goes_on = asyncio.Event()
        self.started = asyncio.Semaphore(0)
        self.deadlines: list[float] = []

    async def serve(self) -> Node:
        await self.links.serve(
            self.path, {LIFE: self.life, TAKE: self.take, TAKEN: self.taken, KICK: self.kick}
        )
        return self

    def life(self, request: pb.LifeRequest, deadline: float) -> pb.LifeAnswer:
        self.asked.append(request.session_id)
        self.deadlines.append(deadline)
        return pb.LifeAnswer(has_copy=True, shows_life=request.session_id == "s")

    async def take(self, request: pb.TakeRequest, _: float) -> pb.TakeAnswer:
        self.asked.append(request.session_id)
        self.started.release()
        await self.goes_on.wait()
        return pb.TakeAnswer(state=request.start)

    def taken(self, request: pb.TakenRequest, _: float) -> pb.Nothing:
        self.hints.put_nowait(request.session_id)
        return pb.Nothing()

    async def kick(self, _request: pb.OwnedKickRequest, _: float) -> pb.OwnedKickAnswer:
        raise ValueError("for the test")


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gs-") as path:
        yield Path(path)


@pytest.fixture
async def pair(path: Path) -> AsyncIterator[tuple[Node, Node]]:
    a, b = await Node("a", path).serve(), await Node("b", path).serve()
    a.links.add("b", b.path)
    b.links.add("a", b.path)
    yield a, b
    await a.links.close()
    await b.links.close()


async def life(links: Peers, node: str, session: str = "s", within: float = LONG) -> bool:
    return (await links.call(node, LIFE, pb.LifeRequest(session_id=session), within)).shows_life


async def take(links: Peers, node: str, body: bytes = b"", within: float = LONG) -> bytes:
    return (await links.call(node, TAKE, pb.TakeRequest(start=body), within)).state


async def test_calls_are_answered(pair: tuple[Node, Node]) -> None:
    a, b = pair
    assert await life(a.links, "b") is True
    assert await life(a.links, "b", "other") is False
    now = asyncio.get_running_loop().time()
    assert all(now < deadline < now + LONG + 1 for deadline in b.deadlines)
    b.goes_on.set()
    assert await take(a.links, "b", b"state") == b"state"
    assert (a.counters.peers_reached, a.counters.links, a.counters.peer_calls) == (1, 1, 3)
    assert b.counters.peer_requests == 3


async def test_calls_of_one_turn_share_a_message(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    await life(a.links, "b")
    batches = []
    receive = frames.FrameReader.receive

    def counted(reader: frames.FrameReader, data: bytes, now_ms: int):  # type: ignore[no-untyped-def]
        batches.append(len(data))
        return receive(reader, data, now_ms)

    monkeypatch.setattr(frames.FrameReader, "receive", counted)
    names = [f"s{i}" for i in range(100)]
    await asyncio.gather(*(life(a.links, "b", name) for name in names))
    assert b.asked[1:] == names
    assert len(batches) == 2  # 100 calls, 100 answers


async def test_own_calls_need_no_stream(path: Path) -> None:
    a = await Node("a", path).serve()
    assert await life(a.links, "a") is True
    a.links.tell("a", TAKEN, pb.TakenRequest(session_id="s"))
    assert await asyncio.wait_for(a.hints.get(), LONG) == "s"
    with pytest.raises(PeerUnreachableError, match="in time"):
        await take(a.links, "a", within=0.01)
    a.goes_on.set()
    assert await take(a.links, "a", b"x") == b"x"
    with pytest.raises(PeerUnreachableError, match="failed"):
        await a.links.call("a", KICK, pb.OwnedKickRequest(), LONG)
    with pytest.raises(PeerUnreachableError, match="no such call"):
        await a.links.call("a", Call("None", pb.Nothing, pb.Nothing), pb.Nothing(), LONG)
    assert a.counters.peers_reached == 0
    await a.links.close()


async def test_large_bodies_go_both_ways_beside_small_ones(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.goes_on.set()
    large = os.urandom(3 * frames.PART_BYTES + 17)
    state, *alive = await asyncio.gather(
        take(a.links, "b", large), *(life(a.links, "b") for _ in range(10))
    )
    assert state == large
    assert all(alive)


async def test_hint_arrives(pair: tuple[Node, Node]) -> None:
    a, b = pair
    a.links.tell("b", TAKEN, pb.TakenRequest(session_id="s"))
    assert await asyncio.wait_for(b.hints.get(), LONG) == "s"
    assert b.counters.peer_requests == 1


async def test_failures_are_told_to_the_caller(
    pair: tuple[Node, Node], caplog: pytest.LogCaptureFixture
) -> None:
    a, b = pair
    for _ in range(2):
        with pytest.raises(PeerUnreachableError, match="it failed"):
            await a.links.call("b", KICK, pb.OwnedKickRequest(), LONG)
    assert [r.getMessage() for r in caplog.records] == ["peer_call_failed"]
    with pytest.raises(PeerUnreachableError, match="no such call"):
        await a.links.call("b", Call("None", pb.Nothing, pb.Nothing), pb.Nothing(), LONG)
    b.goes_on.set()
    no_text = b"\xff"  # where a string should be
    for call, request in (
        (Call("Life", pb.MovedAnswer, pb.LifeAnswer), pb.MovedAnswer(body=no_text)),
        (Call("Take", pb.TakeRequest, pb.TakenRequest), pb.TakeRequest(start=no_text)),
    ):
        with pytest.raises(PeerUnreachableError, match="nonsense"):
            await a.links.call("b", call, request, LONG)
    assert b.counters.peer_requests_failed == 4
    assert a.counters.peer_calls_failed == 5


async def test_call_that_takes_too_long_expires(pair: tuple[Node, Node]) -> None:
    a, b = pair
    with pytest.raises(PeerUnreachableError, match="in time"):
        await take(a.links, "b", within=0.2)
    assert a.counters.peer_calls_expired == 1
    # The handler goes on; its answer goes nowhere.
    b.goes_on.set()
    await asyncio.wait_for(b.started.acquire(), LONG)
    assert await life(a.links, "b")
    assert b.counters.peer_answers_dropped + a.counters.peer_answers_late == 1


async def test_call_that_is_read_too_late_is_not_served(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waited for a process that was stopped."""
    a, b = pair
    await life(a.links, "b")
    clock = peer_link._now_ms
    monkeypatch.setattr(peer_link, "_now_ms", lambda: clock() - 60_000)
    calling = asyncio.create_task(life(a.links, "b", "late", within=50))
    await asyncio.sleep(0)  # it is queued; the writer stamps it in its own turn
    await asyncio.sleep(0)
    monkeypatch.setattr(peer_link, "_now_ms", clock)
    assert await life(a.links, "b")
    assert b.asked == ["s", "s"]
    assert b.counters.peer_requests_expired == 1
    calling.cancel()


async def test_answers_that_come_too_late_are_left_alone(pair: tuple[Node, Node]) -> None:
    a, b = pair
    calling = asyncio.create_task(take(a.links, "b"))
    await asyncio.wait_for(b.started.acquire(), LONG)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    b.goes_on.set()
    while not a.counters.peer_answers_late:
        assert await life(a.links, "b")


async def test_sibling_that_disappears_fails_its_calls_at_once(pair: tuple[Node, Node]) -> None:
    a, b = pair
    calls = [asyncio.create_task(take(a.links, "b", within=3_600)) for _ in range(3)]
    for _ in calls:
        await asyncio.wait_for(b.started.acquire(), LONG)
    await b.links.close()
    for call in calls:
        with pytest.raises(PeerUnreachableError, match="its stream has ended"):
            await asyncio.wait_for(call, LONG)
    assert (a.counters.peer_calls_broken, a.counters.peers_lost, a.counters.links) == (3, 1, 0)
    for why in ("reached", "just now"):
        with pytest.raises(PeerUnreachableError, match=why):
            await life(a.links, "b", within=3_600)
    assert a.counters.peers_unreached == 1


async def test_sibling_that_is_back_is_reached_again(pair: tuple[Node, Node], path: Path) -> None:
    a, b = pair
    assert await life(a.links, "b")
    await b.links.close()
    again = await Node("b", path).serve()
    async with asyncio.timeout(LONG):
        while True:
            try:
                assert await life(a.links, "b")
                break
            except PeerUnreachableError:
                await asyncio.sleep(0.01)
    assert again.asked == ["s"]
    await again.links.close()


async def test_sibling_that_ends_streams_before_it_answers_is_left_alone_for_a_while(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stops takes connections for a moment, and ends them."""
    a, _ = pair

    def refuse(stream: object, data: bytes) -> None:
        raise FrameError("for the test")

    monkeypatch.setattr(peer_link._Stream, "receive", refuse)
    for _ in range(10):
        with pytest.raises(PeerUnreachableError):
            await life(a.links, "b")
    assert a.counters.peers_reached == 2  # once more at once, as after any stream


async def test_removed_sibling_fails_its_calls_at_once(pair: tuple[Node, Node]) -> None:
    a, b = pair
    call = asyncio.create_task(take(a.links, "b", within=3_600))
    await asyncio.wait_for(b.started.acquire(), LONG)
    a.links.remove("b")
    with pytest.raises(PeerUnreachableError, match="it has ended"):
        await call
    with pytest.raises(PeerUnreachableError, match="no such node"):
        await life(a.links, "b")


async def test_siblings_are_learned_from_the_directory(path: Path) -> None:
    directory = MemoryDirectory()
    a, b = Node("a", path), await Node("b", path).serve()
    a.links.learn_from(directory)
    with pytest.raises(PeerUnreachableError, match="no such node"):
        await life(a.links, "b")
    await directory.join("b", f"unix:{b.path}")
    async with asyncio.timeout(LONG):
        while not b.asked:
            try:
                await life(a.links, "b")
            except PeerUnreachableError:
                await asyncio.sleep(0.01)
    await directory.join("c", f"unix:{path}/none")
    with pytest.raises(PeerUnreachableError, match="not reached"):
        await life(a.links, "c")
    await a.links.close()
    await b.links.close()


async def test_directory_that_is_gone_names_nobody(path: Path) -> None:
    class Gone:
        async def nodes(self) -> None:
            raise DirectoryUnreachableError

    a = Node("a", path)
    a.links.learn_from(Gone())  # type: ignore[arg-type]
    with pytest.raises(PeerUnreachableError, match="no such node"):
        await life(a.links, "b")
    await a.links.close()


async def test_stalled_sibling_holds_up_nobody_else(path: Path) -> None:
    """Its calls and bytes are bounded, and those of others go on."""
    a = Node("a", path, max_calls=3, max_bytes=1_000)
    b, c = await Node("b", path).serve(), await Node("c", path).serve()
    a.links.add("b", b.path)
    a.links.add("c", c.path)
    calls = [asyncio.create_task(take(a.links, "b", bytes(size))) for size in (5_000,)]
    await asyncio.wait_for(b.started.acquire(), LONG)
    with pytest.raises(PeerUnreachableError, match="too much"):
        await take(a.links, "b", b"x")
    a.links.tell("b", TAKEN, pb.TakenRequest(session_id="s" * 100))
    assert (a.counters.peer_calls_refused, a.counters.peer_hints_dropped) == (1, 1)
    a.links.max_bytes = 10_000
    calls += [asyncio.create_task(take(a.links, "b")) for _ in range(2)]
    for _ in range(2):
        await asyncio.wait_for(b.started.acquire(), LONG)
    with pytest.raises(PeerUnreachableError, match="too much"):
        await take(a.links, "b")
    assert a.counters.peer_calls_refused == 2
    assert await life(a.links, "c")
    b.goes_on.set()
    await asyncio.gather(*calls)
    assert await life(a.links, "b")
    for node in (a, b, c):
        await node.links.close()


async def test_server_runs_no_more_calls_of_a_sibling_than_it_may(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair
    monkeypatch.setattr(peer_link, "MAX_RUNNING", 1)
    call = asyncio.create_task(take(a.links, "b"))
    await asyncio.wait_for(b.started.acquire(), LONG)
    with pytest.raises(PeerUnreachableError, match="too many"):
        await take(a.links, "b")
    b.goes_on.set()
    await call
    await take(a.links, "b")


async def test_answer_without_room_is_an_error(pair: tuple[Node, Node]) -> None:
    a, b = pair
    b.links.max_bytes = 1_000
    calls = [asyncio.create_task(take(a.links, "b", bytes(900))) for _ in range(2)]
    for _ in calls:
        await asyncio.wait_for(b.started.acquire(), LONG)
    b.goes_on.set()  # both answers in one turn
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert done[0] == bytes(900)
    assert "no room" in str(done[1])
    assert b.counters.peer_answers_dropped == 1


async def test_sibling_that_breaks_the_rules_is_cut_off(pair: tuple[Node, Node]) -> None:
    _, b = pair
    channel = make_channel(f"unix:{b.path}")
    stream = channel.stream_stream("/gatesvr.proto.Peer/Exchange")()
    await stream.write(b"\xff")
    assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert b.counters.peer_violations == 1
    await channel.close()


async def test_socket_is_private(pair: tuple[Node, Node], path: Path) -> None:
    a, _ = pair
    assert stat.S_IMODE(a.path.stat().st_mode) == 0o600
    c = Node("c", path)
    os.chmod(path, 0o755)
    with pytest.raises(PeerSocketError, match="other users"):
        await c.serve()
    os.chmod(path, 0o700)
    with pytest.raises(PeerSocketError, match="103 bytes"):
        await c.links.serve(path / ("x" * 100), {})
    with pytest.raises(PeerSocketError, match="No such"):
        await c.links.serve(path / "none" / "c", {})
    await c.links.close()


async def test_closed_links_reach_nobody(pair: tuple[Node, Node]) -> None:
    a, b = pair
    call = asyncio.create_task(take(a.links, "b"))
    await asyncio.wait_for(b.started.acquire(), LONG)
    await a.links.close()
    with pytest.raises(PeerUnreachableError, match="this process ends"):
        await call
    with pytest.raises(PeerUnreachableError, match="this process ends"):
        await life(a.links, "b")
    a.links.tell("b", TAKEN, pb.TakenRequest())
    assert a.counters.peer_hints_dropped == 1


async def test_streams_of_a_process_that_closes_have_ended_when_it_has(path: Path) -> None:
    """gRPC logs a traceback where the loop ends before the handler of a stream has."""
    for number in range(20):
        a, b = await Node(f"a{number}", path).serve(), await Node(f"b{number}", path).serve()
        a.links.add(b.name, b.path)
        b.links.add(a.name, a.path)
        if number % 2:
            await asyncio.gather(life(a.links, b.name), life(b.links, a.name))
        else:  # the streams are not up yet
            a.links.tell(b.name, TAKEN, pb.TakenRequest())
            b.links.tell(a.name, TAKEN, pb.TakenRequest())
            await asyncio.sleep(0)
        await asyncio.gather(a.links.close(), b.links.close())
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name == "rpc_task" or "Exchange" in name]


async def test_served_stream_ends_with_ok(pair: tuple[Node, Node]) -> None:
    _, b = pair
    channel = make_channel(f"unix:{b.path}")
    stream = channel.stream_stream("/gatesvr.proto.Peer/Exchange")()
    await stream.initial_metadata()
    await b.links.close()
    assert await stream.code() is grpc.StatusCode.OK
    await channel.close()


async def test_sibling_that_does_not_answer_holds_no_close_up(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_link, "CLOSE_S", 0.05)
    a = await Node("a", path).serve()
    heard = asyncio.Event()
    ended = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.set()
        while await reader.read(1_000):
            pass
        writer.close()
        ended.set()

    server = await asyncio.start_unix_server(deaf, path / "deaf")
    a.links.add("deaf", path / "deaf")
    a.links.tell("deaf", TAKEN, pb.TakenRequest())
    async with asyncio.timeout(LONG):
        await heard.wait()
        await a.links.close()
        await ended.wait()
    server.close()
