"""``gatesvr serve`` and SIGHUP."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from .process import FREE_PORTS, gatesvr, serving

if TYPE_CHECKING:
    from pathlib import Path


async def test_hangup_reloads_and_says_what_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "gate.toml"
    file.write_text("[session]\nresume_window = '90s'\n", "utf-8")
    flags = ("--config", str(file), *FREE_PORTS)
    async with serving(tmp_path, "serve", "--demo", *flags) as server:

        async def hang_up(text: str, until: str) -> str:
            file.write_text(text, "utf-8")
            server.process.send_signal(signal.SIGHUP)
            return await server.read_until(until)

        await hang_up("[session]\nresume_window = '90s'\n", "reloaded: no setting has changed")
        await hang_up("[session]\nresume_window = '2m'\nmax_message_bytes = 512\n", "reloaded:")
        line = await server.read_until("resume_window")
        assert line == "  session.resume_window: 90s -> 2m\n"
        line = await server.read_until("max_message_bytes")
        assert line == "  session.max_message_bytes: 1MiB -> 512  (needs a restart)\n"
        line = await hang_up("[session]\nresume_windw = '2m'\n", "not reloaded")
        assert f"{file}:2: session.resume_windw: unknown setting" in line
        await hang_up("[session\n", f"not reloaded, the settings stay as they were: {file}:1: ")
        # The flags count as before, and the demo services are still behind it.
        await hang_up("[log]\nformat = 'json'\n[session]\nresume_window = '3m'", "reloaded:")
        assert (await gatesvr(tmp_path, *server.call)).out == "hello\n"
        result = await server.stop()
    assert result.code == 0
    lines = result.err.splitlines()
    assert [line.partition(" configuration_kept ")[2] for line in lines if "_kept" in line]
    written = [json.loads(line) for line in lines if line.startswith("{")]
    assert written[-1]["event"] in ("gateway_stopped", "service_stopped")
    (changed,) = [line for line in lines if "resume_window old=2m new=3m" in line]
    assert "setting_changed" in changed


async def test_the_signal_for_an_upgrade_ends_no_gateway_without_workers(tmp_path: Path) -> None:
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        server.process.send_signal(signal.SIGUSR2)
        assert (await gatesvr(tmp_path, *server.call)).out == "hello\n"
        result = await server.stop()
    assert result.code == 0
    assert "upgrade_ignored" in result.err
