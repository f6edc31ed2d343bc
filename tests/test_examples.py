"""The examples, and the README's, run against a real gateway."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from gatesvr import Client, ConnectionFailed, GatesvrError, Gateway, UpstreamService
from gatesvr.config import load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[1]
DEADLINE_S = 20.0


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the development certificate of the one who runs the tests out of it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def readme(name: str) -> ModuleType:
    text = (ROOT / "README.md").read_text("utf-8")
    match = re.search(rf"<!-- example: {name} -->\n```python\n(.*?)```", text, re.DOTALL)
    assert match is not None
    module = ModuleType(f"readme_{name}")
    exec(compile(match[1], f"README.md ({name})", "exec"), module.__dict__)
    return module


@asynccontextmanager
async def running(
    service: UpstreamService, *names: str, config: Path | None = None, mode: str = "none"
) -> AsyncIterator[str]:
    """Run a gateway in front of service; the context is the gateway's address."""
    address = await service.serve("127.0.0.1:0")
    endpoints = {name: [{"address": address}] for name in names}
    overrides = {
        "transport.bind": "127.0.0.1:0",
        "push.bind": "127.0.0.1:0",
        "upstream.services": endpoints,
        "auth.mode": mode,
    }
    try:
        async with (
            asyncio.timeout(DEADLINE_S),
            Gateway(load(config, overrides=overrides)) as gateway,
        ):
            service.gateway.address = gateway.grpc_address
            yield gateway.address
    finally:
        await service.stop()


async def test_readme(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(readme("service").service, "hello", "business") as server:
        await readme("client").main(server)
    assert capsys.readouterr().out == "200 b'GOOD MORNING'\nmood that was loud\n"


async def test_auth_service() -> None:
    service = example("auth_service").service
    async with running(service, "hello", "business", "auth", mode="upstream") as server:
        async with Client(server, openid="ann", auth_token="ann-s-secret") as ann:
            assert (await ann.request("whoami")).data == b"ann, player"
        for openid, secret in (("ann", "bob-s-secret"), ("eve", ""), ("eve", "x"), ("", "x")):
            with pytest.raises(ConnectionFailed, match="not authenticated"):
                await Client(server, openid=openid, auth_token=secret).connect()


async def test_readme_authenticate() -> None:
    service = readme("authenticate").service
    service.action("hello")(lambda request: request.peer.auth_claims["role"].encode())
    async with running(service, "hello", "auth", mode="upstream") as server:
        async with Client(server, openid="ann", auth_token="ann-s-secret"):
            pass
        for openid, secret in (("ann", "x"), ("eve", "ann-s-secret")):
            with pytest.raises(ConnectionFailed, match="not authenticated"):
                await Client(server, openid=openid, auth_token=secret).connect()


async def test_readme_pusher(capsys: pytest.CaptureFixture[str]) -> None:
    service = readme("service").service
    async with (
        running(service, "hello", "business") as server,
        Client(server, openid="ann") as ann,
        Client(server, openid="bob") as bob,
    ):
        await readme("pusher").main(str(service.gateway.address))
        got = [await anext(aiter(ann)) for _ in range(3)]
        assert [(n.msg_type, n.content) for n in got[:2]] == [
            ("mail", "you have mail"),
            ("news", "rain"),
        ]
        while got[-1].data != b"101":  # 100 may have been replaced before it was sent
            got.append(await anext(aiter(ann)))
        with pytest.raises(GatesvrError):
            _ = [notify async for notify in bob]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["True 1 ", "told 2"]
    assert sorted(line.split()[0] for line in lines[2:]) == ["ann", "bob"]


async def test_readme_embedded(capsys: pytest.CaptureFixture[str]) -> None:
    service = readme("service").service
    config = load(
        overrides={
            "transport.bind": "127.0.0.1:0",
            "push.bind": "127.0.0.1:0",
            "upstream.services": {"hello": [{"address": await service.serve("127.0.0.1:0")}]},
        }
    )
    main = asyncio.create_task(readme("embedded").main(config))
    try:
        out = ""
        while "clients" not in out:
            assert not main.done()
            await asyncio.sleep(0.001)
            out += capsys.readouterr().out
        async with asyncio.timeout(DEADLINE_S), Client(out.split()[1], openid="ann") as ann:
            got = [await anext(aiter(ann)) for _ in range(2)]
        assert [(n.msg_type, n.content) for n in got] == [("", "you are in"), ("online", "ann")]
    finally:
        main.cancel()
        await asyncio.gather(main, return_exceptions=True)
        await service.stop()


async def test_readme_events(capsys: pytest.CaptureFixture[str]) -> None:
    service = readme("service").service
    async with running(service, "hello", "business") as server:
        following = asyncio.create_task(readme("events").main(str(service.gateway.address)))
        out = ""
        while not out:  # it says nothing until it has subscribed
            async with Client(server, openid="ann"):
                pass
            await asyncio.sleep(0.001)
            out += capsys.readouterr().out
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert out.startswith("ann closed app_close ")


async def test_echo() -> None:
    async with (
        running(example("echo_service").service, "hello", "business") as server,
        Client(server, openid="ann") as client,
    ):
        assert (await client.request("anything", b"data")).data == b"data"


async def test_readme_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ended in the middle and run again: the second one is handed what came in between."""
    program = readme("resume")
    service = example("echo_service").service
    async with running(service, "hello", "business") as server:
        out = ""
        for text in ("one", "two"):
            running_it = asyncio.create_task(program.main(server, tmp_path / "ann.session"))
            response = None
            while response is None or not response.success:
                await asyncio.sleep(0.01)
                response = await service.gateway.push("ann", content=text)
            while text not in out:
                assert not running_it.done()
                await asyncio.sleep(0.001)
                out += capsys.readouterr().out
            running_it.cancel()
            await asyncio.gather(running_it, return_exceptions=True)
        assert [line.split()[1] for line in out.splitlines()][-1] == "two"
        assert "nothing from" not in out
        assert (tmp_path / "ann.session").stat().st_mode & 0o777 == 0o600


async def test_chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chat clients hear each other; a line that is too long is refused."""
    room = example("chat_service").service
    program = example("chat_client")
    async with (
        running(room, "chat", config=ROOT / "examples/gate.toml") as server,
        Client(server, openid="bob") as bob,
    ):
        lines: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        class Keyboard:
            def readline(self) -> str:
                return asyncio.run_coroutine_threadsafe(lines.get(), loop).result()

        monkeypatch.setattr(program.sys, "stdin", Keyboard())
        ann = asyncio.create_task(program.main("ann", server))
        lines.put_nowait("hello bob\n")
        heard = await anext(aiter(bob))
        assert (heard.title, heard.content) == ("ann", "hello bob")
        lines.put_nowait("x" * 501 + "\n")
        assert (await bob.request("chat_say", b"hello ann")).is_ok
        out = ""
        while "bob: hello ann" not in out or "400" not in out:
            await asyncio.sleep(0.001)
            out += capsys.readouterr().out
        lines.put_nowait("\n")
        await ann
