"""The site's pages say what the code does: commands, codes, refusals, settings, examples."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import click
import pytest

from gatesvr import Client, CloseCode, Config, ErrorCode, LostReason, Outcome, RequestFailed

from .test_counters import GATEWAY, names
from .test_examples import example, running
from .written import ROOT, block, check_command, load, shell_commands

if TYPE_CHECKING:
    from pathlib import Path

reference = load("docs/reference.py")
diagrams = load("docs/diagrams.py")

WRITTEN = sorted(
    [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "SECURITY.md", *ROOT.glob("docs/*.md")]
)
REFUSES = re.compile(
    r"refus|limited|dropped|denied|shed|overflow|malformed|undecryptable|truncated|too_large"
    r"|_busy|timeouts|timed_out|invalid|violations|unavailable|too_late|not_kept|internal_errors"
)
COUNTERS = {f"{layer}.{name}" for layer, group in reference.LAYERS.items() for name in names(group)}


def test_layers_are_those_that_the_gateway_counts_in() -> None:
    assert set(GATEWAY) <= set(reference.LAYERS)


@pytest.mark.parametrize("page", reference.PAGES)
def test_generated_pages_are_those_of_the_code(page: str) -> None:
    assert (ROOT / "docs" / page).read_text("utf-8") == reference.PAGES[page](), "stale: make docs"


def test_every_flag_of_every_command_is_in_the_reference() -> None:
    page = (ROOT / "docs/cli.md").read_text("utf-8")
    checked = 0
    for path, command in reference.walk(reference.commands, ("gatesvr",)):
        if len(path) == 1:
            continue
        chapter = re.search(
            rf"^#+ {' '.join(path)}\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE
        )
        assert chapter is not None, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert re.search(rf"^\| `.*{parameter.opts[0]}\b", chapter[1], re.MULTILINE)
                assert parameter.help, (path, parameter.opts)
                checked += 1
    assert checked > 100


@pytest.mark.parametrize("enum", [CloseCode, ErrorCode, Outcome, LostReason])
def test_every_code_is_in_the_reference(enum: type[CloseCode]) -> None:
    page = (ROOT / "docs/codes.md").read_text("utf-8")
    for member in enum:
        assert re.search(rf"^\| \[?{member.value}\b.*\| `{member.name}` \| \w", page, re.MULTILINE)


def test_every_counter_that_sounds_like_a_refusal_is_one() -> None:
    refusals = {
        f"{layer}.{name}" for layer, group in reference.refusals().items() for name in group
    }
    sounding = {name for name in COUNTERS if REFUSES.search(name)}
    assert sounding - refusals == {"transport.refusals"}  # counted by clients only


def test_every_refusal_and_close_code_has_one_runbook() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    assert re.findall(r"^### Close (\d+)$", page, re.MULTILINE) == [str(c.value) for c in CloseCode]
    chapter = page.partition("\n## Refusals\n")[2]
    for layer, group in reference.refusals().items():
        part = chapter.partition(f"\n### {reference.RUNBOOKS[layer]}\n")[2].partition("\n### ")[0]
        rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", part, re.MULTILINE)
        assert sorted(name for name, _ in rows) == sorted(f"{layer}.{name}" for name in group)
        assert all(len(text) > 10 for _, text in rows)
    errors = re.findall(r"^\| (\d{3}) \| `", page, re.MULTILINE)
    assert errors == [str(code.value) for code in ErrorCode]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_settings_and_counters_that_pages_name_exist(page: Path) -> None:
    sections = set(Config.__struct_fields__)
    settings = {
        f"{section}.{field}"
        for section in sections
        for field in getattr(getattr(Config(), section), "__struct_fields__", ())
    }
    text = page.read_text("utf-8")
    named = set(re.findall(r"`((?:[a-z]+)\.[a-z_]+)`", text))
    unknown = {
        name
        for name in named
        if name.split(".")[0] in sections | set(reference.LAYERS)
        and name not in settings | COUNTERS
        and not name.endswith((".toml", ".token", ".proto", ".md"))
    }
    assert unknown <= {"log.dropped"}, unknown


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_commands_that_pages_show_exist(page: Path) -> None:
    for words in shell_commands(page.read_text("utf-8")):
        check_command(words)


def test_every_alert_has_its_runbook() -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    chapter = page.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)$", rules, re.MULTILINE)
    assert re.findall(r"^### (\w+)$", chapter, re.MULTILINE) == alerts
    runbooks = re.findall(r"runbook: (\S+)$", rules, re.MULTILINE)
    assert runbooks == [f"docs/operations.md#{alert.lower()}" for alert in alerts]


# Drawings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", diagrams.DRAWINGS, ids=lambda draw: draw.__name__)
def test_drawings_are_those_of_their_source(draw: type[diagrams.Drawing]) -> None:
    text = draw().text()
    file = ROOT / f"docs/diagrams/{draw.__name__}.svg"
    assert file.read_text("utf-8") == text, "stale: make docs"
    root = ET.fromstring(text)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width
        assert 0 <= y <= y + h <= height
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    used = set(re.findall(r"var\(--d-([\w-]+)\)", text))
    assert used <= set(diagrams.LIGHT)


def test_colours_of_both_themes_are_the_sites() -> None:
    assert diagrams.LIGHT.keys() == diagrams.DARK.keys()
    page = (ROOT / "docs/_static/drawings.css").read_text("utf-8")
    assert page == diagrams.colours(), "stale: make docs"


# Examples ----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_quick_start_and_readme_show_the_same_programs() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    page = (ROOT / "docs/quickstart.md").read_text("utf-8")
    for name in ("service", "client"):
        pattern = rf"<!-- example: {name} -->\n```python\n(.*?)```"
        shown = [re.findall(pattern, text, re.DOTALL) for text in (readme, page)]
        assert shown[0] == shown[1]
        assert len(shown[0]) == 1


async def test_clients_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from gatesvr.demo.business import business_service
    from gatesvr.demo.hello import hello_service

    service = business_service()
    service._handlers["hello"] = hello_service()._handlers["hello"]
    async with running(service, "hello", "business") as server:
        await block("docs/clients.md", "requests").main(server)
        assert capsys.readouterr().out == "200 3\n['one', 'two', 'three']\n504 True\n"
        await block("docs/clients.md", "notifies").main(server)
        heard = sorted(capsys.readouterr().out.splitlines())
        assert heard == ["2 demo before 1", "4 demo after 1", "answer 3"]
        state = block("docs/clients.md", "state")
        for _ in range(2):
            await state.main(server, tmp_path / "ann.session")
        (first, second) = capsys.readouterr().out.splitlines()
        assert first == second
        assert first.startswith("hi ")


async def test_clients_page_token(capsys: pytest.CaptureFixture[str]) -> None:
    service = example("auth_service").service
    async with running(service, "hello", "business", "auth", mode="upstream") as server:
        await block("docs/clients.md", "token").main(server)
    assert capsys.readouterr().out == "ann, player\n"


async def test_services_page(capsys: pytest.CaptureFixture[str]) -> None:
    service = block("docs/services.md", "actions").service
    async with running(service, "hello", "business") as server:
        with pytest.raises(RequestFailed, match="expired"):
            await Client(server, openid="eve", login_params={"invite": "expired"}).connect()
        following = asyncio.create_task(
            block("docs/services.md", "events").main(str(service.gateway.address))
        )
        async with Client(server, openid="ann") as ann:
            codes = [(await ann.request("buy", params={"item": "apple"})).code for _ in range(4)]
            assert codes == [200, 200, 200, 409]
            assert [(await anext(ann)).content for _ in range(3)] == ["2", "1", "0"]
            await block("docs/services.md", "push").main(str(service.gateway.address))
            assert (await anext(ann)).content == "you have mail"
            last = b""
            while last != b"102":  # those before may have been replaced
                last = (await anext(ann)).data
        out = capsys.readouterr().out
        assert "True 1 \nFalse NOT_FOUND\n" in out
        while "ann closed" not in out:
            async with Client(server, openid="ann"):
                pass
            await asyncio.sleep(0.001)
            out += capsys.readouterr().out
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def test_services_page_asks_the_same_as_the_readme() -> None:
    assert block("docs/services.md", "authenticate").service.name == "auth"
