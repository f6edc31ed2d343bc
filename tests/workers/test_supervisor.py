"""The supervisor and its workers' processes; most pretend to be workers, which is fast."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from gatesvr.cluster.peers import PeerUnreachableError
from gatesvr.config import Config, DrainConfig, PushConfig, TransportConfig, WorkersConfig
from gatesvr.drain import DrainStatus
from gatesvr.errors import ConfigError, GatesvrError
from gatesvr.transport.steering import QUIC, ConnectionIds
from gatesvr.workers import board as board_module
from gatesvr.workers.assignment import Ready, board_file
from gatesvr.workers.board import Board, Row
from gatesvr.workers.calls import Reloaded, ReloadOrder, WorkerStatus
from gatesvr.workers.crew import WorkerCrew
from gatesvr.workers.process import WorkerProcess
from gatesvr.workers.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PRETENDER = Path(__file__).with_name("pretender.py")
DEADLINE_S = 60.0


def config(count: int = 2, **workers: float) -> Config:
    return Config(
        transport=TransportConfig(bind="127.0.0.1:0"),
        push=PushConfig(bind="127.0.0.1:0"),
        workers=WorkersConfig(count=count, restart_min=0.01, **workers),
    )


def supervisor_of(how: str, place: Path, config: Config) -> Supervisor:
    return Supervisor(config, command=[sys.executable, "-S", str(PRETENDER), how, str(place)])


@asynccontextmanager
async def supervising(
    how: str, place: Path, count: int = 2, **workers: float
) -> AsyncIterator[Supervisor]:
    supervisor = supervisor_of(how, place, config(count, **workers))
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids_in(place: Path) -> list[int]:
    return [int(path.read_text("utf-8")) for path in place.glob("*.pid")]


def covers(place: Path, number: int) -> list[object] | None:
    """Return the slots that a worker was last told to cover, and the names of their sockets."""
    path = place / f"{number}.covers"
    return json.loads(path.read_text("utf-8")) if path.exists() else None  # type: ignore[no-any-return]


def slot_for(supervisor: Supervisor, number: int) -> int:
    """Return the slot that a datagram for a worker comes to."""
    socks = [supervisor._ports.sockets(slot)[QUIC][0] for slot in range(supervisor.slots.count)]
    data = b"\x40" + ConnectionIds(number, supervisor._key).make() + bytes(30)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, socks[0].getsockname())
    ((sock, *_), _, _) = select.select(socks, [], [], DEADLINE_S)
    assert sock.recv(100) == data
    return socks.index(sock)


@pytest.mark.parametrize("steps", range(6))
async def test_all_serve_when_it_has_started(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However close their reports come behind each other."""

    async def run(worker: WorkerProcess, *_: object) -> int:
        for _step in range(0 if worker.number else steps):
            await asyncio.sleep(0)
        worker.ready = Ready(version="1", udp="", web="", grpc="", summary={})
        worker.reported.set_result(worker.ready)
        await asyncio.shield(over)
        worker.ended.set_result(0)
        return 0

    over = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(WorkerProcess, "run", run)
    async with supervising("serve", tmp_path) as supervisor:
        serving = [worker.number for worker in supervisor.serving()]
        over.set_result(None)
    assert serving == [0, 1]


async def test_one_that_dies_is_replaced_and_its_sessions_are_gone(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path) as supervisor:
        first, other = supervisor.serving()
        assert [first.number, other.number] == [0, 1]
        entries, now = supervisor.entries, asyncio.get_running_loop().time()
        entries.join(first.node_id, first.socket, now)
        entries.join(other.node_id, other.socket, now)
        entries.create("s1", first.node_id, "ann", now)
        entries.create("s2", other.node_id, "bob", now)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: [w.number for w in supervisor.serving()] == [1, 2])
        assert entries.read("s1", now) is None
        assert entries.read("s2", now) is not None
        counters = supervisor.counters
        assert (counters.starts, counters.deaths, counters.start_failures) == (3, 1, 0)
        assert (counters.sessions_lost, counters.running) == (1, 2)
        second = supervisor.serving()[1]
        assert second.node_id != first.node_id
        assert second.assignment.sockets == first.assignment.sockets
        assert [view.restarts for view in supervisor.view()] == [0, 1]
        if supervisor._steers:
            assert [slot_for(supervisor, number) for number in (0, 1, 2)] == [0, 1, 0]
        await until(lambda: covers(tmp_path, 1) == [[], []])
        pids = [worker.pid for worker in supervisor.serving()]
    assert not any(map(is_alive, pids))
    assert not Path(supervisor.folder).exists()  # noqa: ASYNC240 - nothing else runs
    # Nobody asked these to drain: they saw the end of the channel.
    assert supervisor.counters.deaths == 1


async def test_the_next_supervisor_has_the_same_secret(tmp_path: Path) -> None:
    """So clients of one that was killed are told by a stateless reset, not by their time-out."""
    secrets = set()
    bind = "127.0.0.1:0"
    for _ in range(2):
        transport = TransportConfig(bind=bind)
        supervisor = supervisor_of("serve", tmp_path, replace(config(1), transport=transport))
        try:
            await supervisor.start()
            assignment = supervisor.serving()[0].assignment
        finally:
            await supervisor.stop()
        secrets.add((assignment.secret, assignment.key))
        bind = assignment.config.transport.bind
    assert len(secrets) == 1


async def test_its_folder_is_locked_against_whoever_clears_old_files_away(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path, 1) as supervisor:
        folder = os.open(supervisor.folder, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(folder)


async def test_a_silent_worker_has_a_cover(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path) as supervisor:
        board = Board(board_file(supervisor.folder))
        board.write(0, Row(1))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(board_module, "STALE_S", -1.0)
            await until(lambda: covers(tmp_path, 1) == [[0], [QUIC]])
        board.write(0, Row(1))
        await until(lambda: covers(tmp_path, 1) == [[], []])
        board.close()


async def test_a_reload_that_fails_is_undone_in_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the worker that has not answered: it may have put it in force."""
    asked: list[tuple[int, float]] = []

    async def ask(worker: WorkerProcess, _: object, order: ReloadOrder, *__: object) -> Reloaded:
        asked.append((worker.number, order.config.drain.rate))
        if worker.number == 1 and order.config.drain.rate == 77:
            raise PeerUnreachableError("late")
        return Reloaded()

    async with supervising("serve", tmp_path) as supervisor:
        monkeypatch.setattr(supervisor, "ask", ask)
        before = supervisor.config
        changed = msgspec.structs.replace(before, drain=DrainConfig(rate=77))
        report = await supervisor.reload(lambda: changed)
        assert report.error == "worker 1: late"
        assert supervisor.config is before
        assert asked == [(0, 77), (1, 77), (0, before.drain.rate), (1, before.drain.rate)]


async def test_one_that_cannot_come_back_is_tried_again(tmp_path: Path) -> None:
    async with supervising("fail-later", tmp_path) as supervisor:
        os.kill(supervisor.serving()[0].pid, signal.SIGKILL)
        await until(lambda: supervisor.counters.start_failures >= 3)
        assert [worker.number for worker in supervisor.serving()] == [1]
        await until(lambda: covers(tmp_path, 1) == [[0], [QUIC]])


async def test_the_slot_of_one_that_leaves_has_a_cover(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path, 3) as supervisor:
        crew = WorkerCrew(supervisor)
        crew.leave(1, [2], 1.0, 1.0)
        assert supervisor._covers == {0: [], 2: [1]}
        crew.leave(2, [0], 1.0, 1.0)
        assert supervisor._covers == {0: [2, 1]}
        await until(lambda: covers(tmp_path, 0) == [[2, 1], [QUIC, QUIC]])


async def test_one_that_has_drained_before_the_others_has_a_cover(tmp_path: Path) -> None:
    """Clients of the others may come to its sockets until they have drained, too."""
    async with supervising("serve", tmp_path) as supervisor:
        supervisor._leave()
        os.kill(supervisor.serving()[0].pid, signal.SIGKILL)
        await until(lambda: covers(tmp_path, 1) == [[0], [QUIC]])
        assert supervisor.counters.deaths == 0


@pytest.mark.parametrize(
    ("how", "kind", "why"),
    [
        ("fail", ConfigError, "transport.cert: it is none"),
        ("crash", GatesvrError, "worker 0: was ended by SIGKILL"),
        ("babble", GatesvrError, "worker 0: not understood"),
    ],
)
async def test_a_first_start_that_fails_ends_everything(
    how: str, kind: type[Exception], why: str, tmp_path: Path
) -> None:
    supervisor = supervisor_of(how, tmp_path, config(1))
    with pytest.raises(kind) as caught:
        await supervisor.start()
    assert str(caught.value).startswith(why)
    assert supervisor.workers == {}
    assert not Path(supervisor.folder).exists()  # noqa: ASYNC240 - nothing else runs


async def test_one_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    supervisor = supervisor_of("hang", tmp_path, config(2, start_timeout=0.5))
    with pytest.raises(GatesvrError, match=r"worker 1: was not ready within 0\.5 s"):
        await supervisor.start()
    assert supervisor.workers == {}


async def test_a_port_in_use_is_one_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        supervisor = supervisor_of(
            "serve",
            tmp_path,
            Config(
                transport=TransportConfig(bind="127.0.0.1:0"),
                push=PushConfig(bind=bind),
                workers=WorkersConfig(count=2),
            ),
        )
        with pytest.raises(ConfigError, match=rf"push.bind: {bind}: Address already in use"):
            await supervisor.start()
    assert supervisor.counters.starts == 0


async def test_workers_of_a_killed_supervisor_end(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.workers.test_supervisor import config, supervisor_of\n"
        "async def main():\n"
        "    await supervisor_of('serve', Path(sys.argv[1]), config()).start()\n"
        "    print('ready', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            assert await process.stdout.readline() == b"ready\n"
        pids = pids_in(tmp_path)
        assert len(pids) == 2
    finally:
        process.kill()
        await process.wait()
    await until(lambda: len(list(tmp_path.glob("*.left"))) == 2)
    await until(lambda: not any(map(is_alive, pids)))


async def test_a_drain_ends_with_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers end between two looks at them, the last ones unseen."""

    async def ask(*_: object) -> WorkerStatus:
        drain = DrainStatus(phase="goaway", connections_at_start=3, connections_left=3)
        return WorkerStatus(drain=drain)

    async with supervising("serve", tmp_path) as supervisor:
        monkeypatch.setattr(supervisor, "ask", ask)
        await supervisor.drain(ready_wait=0)
        assert supervisor.drain_status() == DrainStatus(
            phase="stopped", connections_at_start=6, connections_told=6
        )


async def test_a_drain_that_begins_knows_what_there_is(tmp_path: Path) -> None:
    async with supervising("serve", tmp_path) as supervisor:
        board = Board(board_file(supervisor._folder))
        board.write(0, Row(1, connections=3, requests=2))
        board.write(1, Row(1, connections=4))
        board.close()
        draining = asyncio.create_task(supervisor.drain(rate=5, timeout=7, to="b:1"))
        await asyncio.sleep(0)
        assert supervisor.drain_status() == DrainStatus(
            phase="unready",
            connections_at_start=7,
            connections_left=7,
            requests_left=2,
            remaining_s=7,
            rate=5,
            to="b:1",
        )
        await draining
        # Nobody has answered meanwhile.
        assert supervisor.drain_status() == DrainStatus(
            phase="stopped", connections_at_start=7, connections_told=7, to="b:1"
        )


def test_a_supervisor_loads_nothing_that_serves_clients() -> None:
    """It has to stay small: no QUIC, no gateway, no client."""
    code = "import sys, gatesvr.cli.supervise; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"aioquic", "qh3", "numpy", "websockets", "hypercorn", "wsproto"}
    assert not loaded & {"gatesvr.gateway", "gatesvr.engine", "gatesvr.client", "gatesvr.demo"}
    assert not loaded & {"gatesvr.transport.listener", "gatesvr.session.manager"}
