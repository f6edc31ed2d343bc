"""``serve --demo`` and the commands that talk to it, each in a separate process."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ..e2e.plain_upstream import plain_upstream
from .process import DEADLINE_S, FREE_PORTS, gatesvr, serving, start


async def test_call_line_of_the_banner_echoes(backend: str, tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", "--transport", backend, *FREE_PORTS) as server:
        for client in ("aioquic", "qh3"):
            result = await gatesvr(tmp_path, *server.call, "--transport", client)
            assert (result.code, result.out, result.err) == (0, "hello\n", "")
        assert f"QUIC by {backend}" in server.banner
        result = await server.stop()
        assert result.code == 0
        assert "Traceback" not in result.err


async def test_demo_takes_further_services(tmp_path: Path) -> None:
    flags = ("--demo", "--upstream", "extra=127.0.0.1:1", *FREE_PORTS)
    async with serving(tmp_path, "serve", *flags) as server:
        result = await gatesvr(tmp_path, *server.call)
        assert (result.code, result.out, result.err) == (0, "hello\n", "")


async def test_call_says_all_and_ends_as_it_went(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        target = ("--server", server.address("clients"))
        result = await gatesvr(tmp_path, "call", "echo", *target, "--data", "☃", "--json")
        assert result.code == 0
        answer = json.loads(result.out)
        assert (answer["code"], answer["data"]) == (200, "☃")
        assert answer["client_seq"] == 2
        assert answer["request_ms"] > 0

        result = await gatesvr(tmp_path, "call", "no-such-action", *target)
        assert result.code == 1
        assert result.out == ""
        assert "404" in result.err
        assert result.err.count("\n") == 1


async def test_call_sends_files_standard_input_and_headers(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"\x00from a file\n")
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        call = ("call", "echo", "--server", server.address("clients"), "--header", "a=b")
        result = await gatesvr(tmp_path, *call, "--header", "c=d", "--data", f"@{file}")
        assert (result.code, result.out) == (0, "\x00from a file\n\n")
        result = await gatesvr(tmp_path, *call, "--data", "-", stdin="piped")
        assert (result.code, result.out) == (0, "piped\n")
        result = await gatesvr(tmp_path, *call, *("--header", "long=" + "x" * 9_000))
        assert (result.code, result.err) == (1, "gatesvr: 400: headers above 8192 bytes\n")


async def test_client_reads_a_pipe(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        target = ("--server", server.address("clients"))
        lines = "echo -- one\n\n# nothing\nhelp\necho -- two"
        result = await gatesvr(tmp_path, "client", *target, stdin=lines)
        assert result.code == 0
        assert result.out.startswith("200\none\n")
        assert result.out.endswith("200\ntwo\n")
        result = await gatesvr(tmp_path, "client", *target, stdin="echo nonsense\necho -- on\n")
        assert result.code == 1
        assert "nonsense" in result.out
        assert result.out.endswith("200\non\n")

        result = await gatesvr(tmp_path, "client", *target, stdin="notify_demo before=2 -- x\n")
        assert result.out.splitlines() == [
            "[demo] before before 1",
            "[demo] before before 2",
            "200",
            "x",
            "[demo] after after 1",
        ]


async def test_busy_ports_are_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        free = "127.0.0.1:0"
        for flags, field in (
            (("--bind", server.address("clients"), "--grpc-bind", free), "transport.bind"),
            (("--bind", free, "--grpc-bind", server.address("push")), "push.bind"),
        ):
            result = await gatesvr(tmp_path, "serve", "--demo", *flags)
            assert result.code == 2
            assert result.err.startswith(f"gatesvr: {field}: ")
            assert result.err.count("\n") == 1
            assert flags[flags.index(free) ^ 2] in result.err


async def test_no_gateway_is_one_line(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        address = server.address("clients")
    result = await gatesvr(tmp_path, "call", "echo", "--server", address, "--timeout", "1s")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("gatesvr: ")
    assert result.err.count("\n") == 1


async def test_own_certificate(tmp_path: Path) -> None:
    cert, key = str(tmp_path / "c.pem"), str(tmp_path / "k.pem")
    assert (await gatesvr(tmp_path, "gencert", "--cert", cert, "--key", key)).code == 0
    flags = ("--cert", cert, "--key", key)
    async with serving(tmp_path, "serve", "--demo", *flags, *FREE_PORTS) as server:
        assert server.call[-2:] == ["--ca", cert]
        for client in ("aioquic", "qh3"):
            result = await gatesvr(tmp_path, *server.call, "--transport", client)
            assert (result.code, result.out) == (0, "hello\n")
            call = [*server.call[:-2], "--transport", client]
            result = await gatesvr(tmp_path, *call, "--insecure")
            assert result.code == 0
            result = await gatesvr(tmp_path, *call)
            assert result.code == 1
            assert "certificate" in result.err


async def test_certificate_that_cannot_be_kept(backend: str) -> None:
    """Without a home folder, as in a container, it serves and prints a working call."""
    nowhere = Path("/dev/null")
    async with serving(nowhere, "serve", "--demo", "--transport", backend, *FREE_PORTS) as server:
        assert "in memory (development)" in server.banner
        assert server.call[-1] == "--insecure"
        for client in ("aioquic", "qh3"):
            result = await gatesvr(nowhere, *server.call, "--transport", client)
            assert (result.code, result.out) == (0, "hello\n")
        result = await server.stop()
        assert result.code == 0
        assert result.err.count("certificate_in_memory") == 1


async def test_services_of_their_own_process(tmp_path: Path) -> None:
    async with serving(
        tmp_path, "upstream", "all", "--bind", "127.0.0.1:0", until="zone"
    ) as upstreams:
        flags = []
        for name in ("hello", "business", "zone"):
            flags += ["--upstream", f"{name}={upstreams.address(name)}"]
        async with serving(tmp_path, "serve", *flags, *FREE_PORTS, until=" call ") as server:
            # The services are unknown here, but every gateway answers hello.
            assert server.call[:2] == ["call", "hello"]
            result = await gatesvr(tmp_path, *server.call)
            assert (result.code, json.loads(result.out)["code"]) == (0, 200)
            result = await gatesvr(tmp_path, "call", "echo", *server.call[2:])
            assert result.code == 0
        assert (await upstreams.stop()).code == 0


async def test_services_on_a_unix_socket(tmp_path: Path) -> None:
    async with plain_upstream(str(tmp_path / "all.sock")) as upstream:
        flags = [*FREE_PORTS]
        for name in ("hello", "business", "zone"):
            flags += ["--upstream", f"{name}={upstream.address}"]
        async with serving(tmp_path, "serve", *flags, until=" call hello ") as server:
            called = await gatesvr(tmp_path, *server.call)
    assert called.code == 0, called.err


async def test_stats_and_sigterm(tmp_path: Path) -> None:
    flags = ("--stats", "50ms", "--loop", "asyncio")
    async with serving(tmp_path, "serve", "--demo", *flags, *FREE_PORTS) as server:
        assert "asyncio loop" in server.banner
        assert (await gatesvr(tmp_path, *server.call)).code == 0
        assert "upstream.calls=2" in await server.read_until("session.logins=1")
        assert (await server.stop(signal.SIGTERM)).code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_second_signal_closes_connections_and_ends(
    backend: str, tmp_path: Path, number: int
) -> None:
    flags = ("--transport", backend, "--stats", "20ms", *FREE_PORTS)
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(tmp_path, "serve", "--demo", *flags) as server,
    ):
        # An orderly stop waits for a running request.
        call = await start(tmp_path, "client", "--server", server.address("clients"))
        try:
            assert call.stdin is not None
            assert call.stdout is not None
            call.stdin.write(b"echo -- in\nslow ms=20000\n")
            await call.stdin.drain()
            assert await call.stdout.readline() == b"200\n"
            await server.read_until("upstream.calls=3")
            server.process.send_signal(number)
            assert server.process.stderr is not None
            while b"stopping" not in (line := await server.process.stderr.readline()):
                assert line
            server.process.send_signal(number)
            # The gateway told it, so it did not have to wait for a time-out.
            assert call.stderr is not None
            while b"4503" not in (line := await call.stderr.readline()):
                assert line
            assert (await server.stop(0)).code == 1
        finally:
            call.kill()
            await call.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_interrupted_call_ends_its_session(tmp_path: Path, number: int) -> None:
    flags = ("--stats", "200ms", *FREE_PORTS)
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(tmp_path, "serve", "--demo", *flags) as server,
    ):
        target = ("--server", server.address("clients"))
        call = await start(tmp_path, "call", "slow", "--param", "ms=20000", *target)
        try:
            await server.read_until("upstream.calls=2")
            call.send_signal(number)
            out, err = await call.communicate()
            assert (call.returncode, out, err.strip()) == (1, b"", b"")
            await server.read_until("session.stopped=1")
            await server.stop(signal.SIGKILL)  # its service would take its 20 s
        finally:
            if call.returncode is None:
                call.kill()
                await call.communicate()


async def test_second_interrupt_of_a_client_ends_it(tmp_path: Path) -> None:
    """The gateway hangs, so after the first signal the client waits for its answer to STOP."""
    async with (
        asyncio.timeout(DEADLINE_S),
        serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server,
    ):
        client = await start(tmp_path, "client", "--server", server.address("clients"))
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"echo\n")
            assert await client.stdout.readline() == b"200\n"
            server.process.send_signal(signal.SIGSTOP)
            client.send_signal(signal.SIGINT)
            client.send_signal(signal.SIGTERM)
            assert await client.wait() == 1
        finally:
            server.process.send_signal(signal.SIGCONT)
            if client.returncode is None:
                client.kill()
            await client.communicate()


async def test_client_goes_on_with_the_session_in_its_file(tmp_path: Path) -> None:
    """Killed, interrupted, and with the gateway started again; quit ends the session."""
    file = tmp_path / "session"

    def session() -> str:
        found: str = json.loads(file.read_bytes())["session_id"]
        return found

    async def ask(client: asyncio.subprocess.Process, text: bytes) -> None:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"echo -- " + text + b"\n")
        await client.stdin.drain()
        lines = [await client.stdout.readline() for _ in range(2)]
        assert lines == [b"200\n", text + b"\n"]

    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, "serve", "--demo", *FREE_PORTS))
        address = server.address("clients")
        args = ("client", "--server", address, "--state", str(file))
        sessions = []
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
            client = await start(tmp_path, *args)
            try:
                await ask(client, b"in")
                client.send_signal(number)
                await client.communicate()
            finally:
                if client.returncode is None:
                    client.kill()
                    await client.wait()
            sessions.append(session())
        assert len(set(sessions)) == 1
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

        client = await start(tmp_path, *args)
        try:
            await ask(client, b"before")
            await server.stop()
            again = ("serve", "--demo", "--bind", address, "--grpc-bind", "127.0.0.1:0")
            await stack.enter_async_context(serving(tmp_path, *again))
            # The session died with the gateway: the client says so and continues in a new one.
            assert client.stdout is not None
            assert b"session is lost" in await client.stdout.readline()
            await ask(client, b"after")
            assert session() not in ("", sessions[0])
            _, err = await client.communicate(b"quit\n")
            assert client.returncode == 0
            assert b"reconnecting" in err
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
        assert session() == ""
        result = await gatesvr(tmp_path, *args, "--openid", "somebody-else", stdin="echo\n")
        assert result.code == 2
        assert "the state is that of" in result.err


async def test_client_can_be_interrupted_while_it_looks_for_its_gateway(tmp_path: Path) -> None:
    file = tmp_path / "session"
    async with asyncio.timeout(DEADLINE_S):
        soon = ("--set", "drain.timeout=10ms")  # the client that is killed does not leave
        async with serving(tmp_path, "serve", "--demo", *soon, *FREE_PORTS) as server:
            args = ("client", "--server", server.address("clients"), "--state", str(file))
            client = await start(tmp_path, *args)
            try:
                assert client.stdin is not None
                assert client.stdout is not None
                client.stdin.write(b"echo\n")
                assert await client.stdout.readline() == b"200\n"
            finally:
                client.kill()
                await client.communicate()
        state = file.read_bytes()
        client = await start(tmp_path, *args)
        try:
            assert client.stderr is not None
            assert b"reconnecting" in await client.stderr.readline()
            client.send_signal(signal.SIGINT)
            await client.communicate()
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()
        assert client.returncode == 1
        # The session is intact.
        kept, found = json.loads(state), json.loads(file.read_bytes())
        assert found["session_id"] == kept["session_id"] != ""
