"""``serve --demo`` and the address of its page, in a process of its own."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from typing import TYPE_CHECKING

import pytest

from gatesvr.cli.page import page_settings
from gatesvr.config import load

from .process import FREE_PORTS, serving

if TYPE_CHECKING:
    from pathlib import Path


async def test_the_banner_of_the_demo_has_the_page(tmp_path: Path) -> None:
    web = ("--web-bind", "127.0.0.1:0")
    async with serving(tmp_path, "serve", "--demo", *web, *FREE_PORTS) as server:
        port = server.address("web clients").rpartition(":")[2]
        line = next(line for line in server.banner.splitlines() if line.startswith("  page "))
        assert f" https://localhost:{port}/, " in line
        found = re.search(r"http://localhost:\d+/", line)
        assert found is not None
        with await asyncio.to_thread(urllib.request.urlopen, found[0]) as answer:
            assert b"<title>GateSvr demo</title>" in answer.read()
    async with serving(tmp_path, "serve", "--demo", *FREE_PORTS) as server:
        assert "page" not in server.banner  # the environment says that there are no web clients


@pytest.mark.parametrize(
    ("bind", "web"), [("0.0.0.0:8453", "127.0.0.1:8443"), ("127.0.0.1:0", "127.0.0.1:0")]
)
def test_where_the_page_is_by_itself(bind: str, web: str) -> None:
    config = load(overrides={"transport.bind": bind})
    assert page_settings(config.transport) == {"transport.web.bind": web}
