"""``gatesvr bench`` as users run it: every scenario, and its findings in a bad gateway."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import psutil
import pytest

from gatesvr import Reply, Request, UpstreamService
from gatesvr._pb import upstream_pb2 as pb
from gatesvr._pb import upstream_pb2_grpc as rpc
from gatesvr.bench.scenario import SCENARIOS
from gatesvr.bench.servers import OwnServers, ServerFailed
from gatesvr.cli import main
from gatesvr.config import parse_address
from gatesvr.transport.addresses import is_loopback

from ..cli.process import DEADLINE_S, environment, gatesvr, start
from ..e2e.harness import counter, running_gateway
from ..fakes import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from gatesvr import Gateway

LEASH = (sys.executable, "-m", "gatesvr.cli.leash")


def bench(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Run a bench in this process; return its exit code and output."""
    with pytest.raises(SystemExit) as caught:
        main(["bench", *args])
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, OwnServers]]:
    """Run a gateway on each backend, with services, for all scenarios of this module."""
    state = str(tmp_path_factory.mktemp("state"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", state)
        with OwnServers(LEASH, "aioquic", 64) as aioquic, OwnServers(LEASH, "qh3", 64) as qh3:
            yield {"aioquic": aioquic, "qh3": qh3}


# Scenarios with their own rate get one that a slow machine can still serve.
ARGS: dict[str, list[str]] = {
    "connect": ["--clients", "6", "--in-flight", "3", "--duration", "60s"],  # ends once all are up
    "echo": ["--clients", "4", "--in-flight", "4"],
    "mix": ["--clients", "4"],
    "push": ["--clients", "4", "--in-flight", "2"],
    "broadcast": ["--clients", "6", "--rate", "50"],
    "resume": ["--clients", "5"],
    "slow": ["--clients", "4", "--rate", "200"],
    "idle": ["--clients", "4"],
}
RUNS = [
    *(("qh3", name) for name in SCENARIOS),
    ("aioquic", "echo"),
    ("aioquic", "push"),
    ("aioquic", "resume"),
]


@pytest.mark.parametrize(("backend", "scenario"), RUNS)
def test_scenario(
    servers: dict[str, OwnServers],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    backend: str,
    scenario: str,
) -> None:
    own = servers[backend]
    host, port = own.server[:2]
    file = tmp_path / "report.json"
    code, out, err = bench(
        capsys,
        scenario,
        *("--server", f"{host}:{port}", "--push-server", own.push_server),
        *("--pid", str(own.pids["gateway"]), "--transport", backend),
        *("--duration", "1s", "--warmup", "0.1s", "--json", str(file)),
        *ARGS[scenario],
    )
    assert (code, err) == (0, ""), out
    report = json.loads(file.read_text("utf-8"))
    assert report["findings"]["count"] == report["failures"]["count"] == 0
    clients = int(ARGS[scenario][1])
    if scenario == "connect":  # as many as connected in the given time
        clients = report["done"]
    assert report["clients"] == {"connected": clients, "alive": clients}
    assert report["rss_bytes"]["gateway"] > 1 << 20
    assert "nothing lost, repeated" in out
    if scenario == "idle":
        assert report["done"] == 0
        return
    latency = report["latency_us"]
    assert latency["count"] == report["done"] > 0
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"]
    figures = report["figures"]
    if scenario == "mix":
        assert {"echo", "calculate", "notify_demo"} <= set(report["series_us"])
    elif scenario == "broadcast":
        assert figures["broadcasts"] > 0
        assert figures["not_taken"] == 0
    elif scenario == "resume":
        assert report["done"] == figures["rounds"] * clients
        assert figures["pushed_while_away"] == report["done"]
    elif scenario == "slow":
        assert figures["slow_clients"] == 1


def test_own_gateway_two_processes_open_model_all_reports(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))
    plot = tmp_path / "run.svg"
    code, out, err = bench(
        capsys,
        *("echo", "--self", "--processes", "2", "--clients", "4", "--rate", "200"),
        *("--duration", "0.7s", "--warmup", "0.1s", "--json", "-", "--plot", str(plot)),
        *(
            "--upstream",
            "unary",
            "--set",
            "dispatch.workers=3",
            "--threshold",
            "p99<60s",
            "--threshold",
            "max<1us",
        ),
    )
    report = json.loads(out)  # and nothing else
    assert (code, err) == (99, "")
    assert [each["kept"] for each in report["thresholds"]] == [True, False]
    assert {"gateway", "upstream", "load 0", "load 1"} == set(report["cpu"])
    assert report["model"] == "open"
    assert report["cpu"]["upstream"]["us_per_operation"] > 0
    assert "unsent" in report["figures"]
    assert b"<svg" in plot.read_bytes()
    left = [
        child
        for child in set(psutil.Process().children(recursive=True)) - before
        if "resource_tracker" not in " ".join(child.cmdline())
    ]
    assert left == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nope"], ["nope"]),
        (["echo", "--self", "--server", "localhost:1"], ["--self", "--server"]),
        (["echo", "--set", "a.b=1"], ["--set", "--self"]),
        (["echo", "--upstream", "unary"], ["--upstream", "--self"]),
        (["push"], ["--push-server", "--self"]),
        (["echo", "--threshold", "p98<1ms"], ["--threshold", "p98"]),
        (["echo", "--threshold", "cpu_us<10"], ["cpu_us<10", "--pid"]),
        (["idle", "--self", "--threshold", "p99<1ms"], ["p99<1ms", "idle"]),
        (["echo", "--rate", "10", "--in-flight", "2"], ["--rate", "--in-flight"]),
        (["idle", "--rate", "10"], ["--rate", "idle"]),
        (["broadcast", "--in-flight", "2"], ["--in-flight", "broadcast"]),
        (["echo", "--slow", "2"], ["--slow"]),
        (["slow", "--self", "--clients", "2", "--slow", "2"], ["--slow"]),
        (["push", "--self", "--upstream-delay", "1s"], ["--upstream-delay"]),
        (["echo", "--duration", "2h"], ["--duration", "3600"]),
        (["echo", "--duration", "0"], ["--duration"]),
        (["echo", "--warmup", "2h"], ["--warmup"]),
        (["echo", "--payload", "8"], ["--payload", "32"]),
        (["echo", "--payload", "big"], ["--payload", "'big'"]),
        (["echo", "--clients", "2", "--processes", "3"], ["--processes"]),
        (["echo", "--self", "--plot", "run.pdf"], ["--plot", ".svg"]),
        (["echo", "--server", "localhost:1", "--pid", "999999999"], ["--pid", "999999999"]),
    ],
)
def test_what_is_asked_for_wrongly_ends_with_2(
    capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]
) -> None:
    code, out, err = bench(capsys, *args)
    assert (code, out) == (2, "")
    for word in words:
        assert word in err.splitlines()[-1]


def test_list_explains_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = bench(capsys, "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(SCENARIOS)
    for line, scenario in zip(out.splitlines(), SCENARIOS.values(), strict=True):
        assert scenario.summary in line


@pytest.mark.parametrize("module", ["hdrh.histogram", "psutil", "matplotlib.figure"])
def test_a_missing_library_is_named_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = bench(capsys, "echo", "--self", "--plot", "run.svg")
    assert (code, out) == (2, "")
    assert "pip install 'gatesvr[bench]'" in err


def test_nobody_there_ends_with_1_and_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    code, out, err = bench(capsys, "echo", "--server", "127.0.0.1:1", "--clients", "2")
    assert (code, out) == (1, "")
    assert "no client could log in" in err


def test_an_own_gateway_that_cannot_start_says_why(tmp_path: Path) -> None:
    servers = OwnServers(LEASH, "qh3", 4, ["dispatch.wrkers=1"])
    with pytest.raises(ServerFailed, match=r"gateway did not start.*dispatch\.wrkers"), servers:
        pytest.fail("it has started")
    assert not any(psutil.pid_exists(pid) for pid in servers.pids.values())


def test_a_command_on_a_leash_stops_with_its_standard_input(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*LEASH, "upstream", "zone", "--bind", "127.0.0.1:0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"zone")
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


# Bad gateways. They run in this process, the bench in another.


@asynccontextmanager
async def lying_service(every: int) -> AsyncIterator[str]:
    """Serve an echo that lies now and then."""
    service = UpstreamService("lies")
    asked = 0

    @service.action("hello")
    def hello(request: Request) -> Reply:
        return Reply()

    @service.action("echo")
    def echo(request: Request) -> bytes:
        nonlocal asked
        asked += 1
        return request.data if asked % every else request.data[::-1]

    address = await service.serve()
    try:
        yield address
    finally:
        await service.stop()


class BadPushes(rpc.GatewayServiceServicer):
    """Accepts every push, and loses, repeats or delays one in ten.

    A delayed push goes out after the next one.
    """

    def __init__(self, gateway: Gateway, fault: str) -> None:
        self._channel = grpc.aio.insecure_channel(gateway.grpc_address)
        self._stub: Any = rpc.GatewayServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._fault = fault
        self._count = 0
        self._delayed: dict[str, pb.UnicastPushRequest] = {}

    async def PushStream(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.UnicastPushBatch], context: object
    ) -> AsyncIterator[pb.UnicastPushBatchResponse]:
        async for batch in request_iterator:
            for request in batch.requests:
                await self._push(request)
            answers = [pb.UnicastPushResponse(success=True, sessions=1) for _ in batch.requests]
            yield pb.UnicastPushBatchResponse(responses=answers)

    async def _push(self, request: pb.UnicastPushRequest) -> None:
        self._count += 1
        is_bad = self._count % 10 == 0
        if is_bad and self._fault == "lose":
            return
        if is_bad and self._fault == "delay" and request.target_id not in self._delayed:
            self._delayed[request.target_id] = request
            return
        await self._stub.PushToClient(request)
        if is_bad and self._fault == "repeat":
            await self._stub.PushToClient(request)
        if request.target_id in self._delayed:
            await self._stub.PushToClient(self._delayed.pop(request.target_id))

    async def close(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def bad_pushes(gateway: Gateway, fault: str) -> AsyncIterator[str]:
    servicer = BadPushes(gateway, fault)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    rpc.add_GatewayServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
        await servicer.close()


async def bench_against(gateway: Gateway, state: Path, *args: str) -> tuple[int, dict[str, Any]]:
    """Run a bench against a gateway of this process; return its exit code and report."""
    assert is_loopback(parse_address(gateway.address)[0])
    done = await gatesvr(
        state,
        *("bench", "--server", gateway.address, "--insecure", "--transport", gateway.backend),
        *("--clients", "2", "--duration", "0.5s", "--warmup", "0.1s", "--timeout", "2s"),
        *("--json", "-", *args),
    )
    assert done.out, done.err
    return done.code, json.loads(done.out)


async def test_a_wrong_answer_is_found(tmp_path: Path) -> None:
    async with lying_service(20) as upstream, running_gateway("qh3", upstream) as gateway:
        code, report = await bench_against(gateway, tmp_path, "echo")
    assert code == 1
    assert report["findings"]["count"] > 0
    assert all(each.startswith("WrongAnswer ") for each in report["findings"]["first"])


async def test_a_gateway_is_loaded_over_websocket(tmp_path: Path) -> None:
    web = "transport.web.bind=127.0.0.1:0"
    async with lying_service(10**9) as upstream, running_gateway("qh3", upstream, web) as gateway:
        url = f"wss://{gateway.web_address}/gatesvr"
        code, report = await bench_against(gateway, tmp_path, "resume", "--server", url)
        assert counter(gateway, "web.accepted") == 2 + report["done"]
    counts = code, report["findings"]["count"], report["failures"]["count"]
    assert counts == (0, 0, 0)
    assert report["done"] > 0
    assert (report["settings"]["server"], report["settings"]["backend"]) == (url, "websocket")


@pytest.mark.parametrize(
    ("fault", "finding"), [("lose", "Lost "), ("repeat", "Repeated "), ("delay", "Reordered ")]
)
async def test_a_bad_push_is_found(tmp_path: Path, fault: str, finding: str) -> None:
    async with (
        lying_service(10**9) as upstream,
        running_gateway("qh3", upstream) as gateway,
        bad_pushes(gateway, fault) as pushes,
    ):
        code, report = await bench_against(
            gateway, tmp_path, "push", "--push-server", pushes, "--rate", "200"
        )
    assert code == 1
    assert any(each.startswith(finding) for each in report["findings"]["first"])


async def test_ctrl_c_reports_what_there_is(tmp_path: Path) -> None:
    async with lying_service(10**9) as upstream, running_gateway("qh3", upstream) as gateway:
        process = await start(
            tmp_path,
            *("bench", "echo", "--server", gateway.address, "--insecure", "--clients", "2"),
            *("--warmup", "0", "--duration", "10m", "--json", "-"),
        )
        try:
            await until(lambda: counter(gateway, "session.logins") >= 2)
            await until(lambda: counter(gateway, "dispatch.answers") > 1_000)
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(DEADLINE_S):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0, err.decode()
    report = json.loads(out)
    assert report["interrupted"]
    assert report["done"] > 0
    assert any("interrupted" in note for note in report["notes"])


def test_addresses_of_own_servers_are_loopback(servers: dict[str, OwnServers]) -> None:
    for own in servers.values():
        assert is_loopback(own.server[0])
        assert is_loopback(parse_address(own.push_server)[0])
        own.check()
