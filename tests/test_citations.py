"""Every citation leads somewhere: PROTOCOL n.n, DESIGN Dn, MOVING Mn, docs/PAGE.md#heading, RFC n.

The numbers are headings: PROTOCOL's of docs/protocol.md, DESIGN's of docs/architecture.md,
MOVING's of docs/moving.md. If
the code quotes the protocol (``PROTOCOL 2.3: "anything else is a gap"``), the section must say so.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]

PLACES = ("gatesvr", "tests", "bench", "docs", "examples", "protos", ".ci", ".github")
SUFFIXES = frozenset({".py", ".pyi", ".pyx", ".pxd", ".proto", ".md", ".toml", ".yml", ""})
PAGES = {
    "PROTOCOL": "docs/protocol.md",
    "DESIGN": "docs/architecture.md",
    "MOVING": "docs/moving.md",
}

_SPAN = r"\d(?:\.\d+)?"
_NUMBERS = {
    "PROTOCOL": re.compile(rf"{_SPAN}(?:-{_SPAN})?(?:, {_SPAN}(?:-{_SPAN})?)*"),
    "DESIGN": re.compile(r"(?:D\d+|\d)(?:, (?:D\d+|\d))*"),
    "MOVING": re.compile(r"M\d+(?:, M\d+)*"),
}
_CITATION = re.compile(
    r"(?<![\w.])(PROTOCOL|DESIGN|MOVING)\b(?!\.md)(?: ([\d.DM][\d.DM, -]*\d|\d))?"
)
_QUOTE = re.compile(r"(?:[^\w]*\n\s*#?\s*|: )\"([^\"]+)\"")
_BARE = re.compile(r"\w (?:\n\s*#?\s*)?\((\d\.\d+(?:, \d\.\d+)*)\)")
_RFC = re.compile(r"\bRFC ?\d\S*")
_GOOD_RFC = re.compile(r"RFC \d{4,5}\b")
_PAGE = re.compile(r"\bdocs/[\w-]+\.md(?:#[\w-]+)?")
_MISSING_DOCUMENT = re.compile(r"\b(?:SEED|STYLE|MOVING)\.md\b")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_NUMBERED = re.compile(r"^#+ ([DM]?\d+(?:\.\d+)?)\b", re.MULTILINE)


def sections(page: str) -> dict[str, str]:
    """Return the text of each numbered section, by its number; a chapter's with all of its own."""
    heads = list(_NUMBERED.finditer(page))
    texts: dict[str, str] = {}
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        text = page[head.end() : after.start() if after is not None else len(page)]
        for number in {head[1], head[1].split(".")[0]}:
            texts[number] = texts.get(number, "") + text
    return texts


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    titles = _HEADING.findall(page)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def problems(root: Path) -> list[str]:
    """Return a line for each citation under root that leads nowhere."""
    known = {name: sections((root / page).read_text("utf-8")) for name, page in PAGES.items()}
    return [
        f"{path.relative_to(root)}:{text.count(chr(10), 0, at) + 1}: {problem}"
        for path in files(root)
        for text in [path.read_text("utf-8")]
        for at, problem in _wrong(path, text, root, known)
    ]


def files(root: Path) -> Iterator[Path]:
    """Yield what may cite: code, tests and pages, but not this test, whose citations are wrong."""
    for path in sorted(root.glob("*")):
        if path.is_file() and path.suffix in SUFFIXES and path.name not in {"LICENSE", ".git"}:
            yield path
    for place in PLACES:
        for path in sorted((root / place).rglob("*")):
            if "_pb" in path.parts or path.name == Path(__file__).name:
                continue
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


def _wrong(
    path: Path, text: str, root: Path, known: dict[str, dict[str, str]]
) -> Iterator[tuple[int, str]]:
    """Yield where a citation of a file is wrong, and what is."""
    for match in _CITATION.finditer(text):
        name, numbers = match[1], match[2]
        if numbers is None:
            continue  # the text as a whole
        if not _NUMBERS[name].fullmatch(numbers):
            yield match.start(), f"{match[0]}: not the form of a citation"
            continue
        cited = [number for part in numbers.split(", ") for number in part.split("-")]
        for number in cited:
            if number not in known[name]:
                yield match.start(), f"{PAGES[name]} has no section {number}"
        quote = _QUOTE.match(text, match.end())
        if quote is not None and name == "PROTOCOL" and cited[-1] in known[name]:
            said = " ".join(_words(known[name][cited[-1]]))
            if any(" ".join(_words(part)) not in said for part in quote[1].split("…")):
                yield match.start(), f"section {cited[-1]} does not say {quote[1]!r}"
    if path.suffix in {".py", ".pyi", ".pyx", ".pxd"} and "gatesvr" in path.parts:
        for match in _BARE.finditer(text):
            for number in match[1].split(", "):
                if number not in known["PROTOCOL"]:
                    yield match.start(), f"{PAGES['PROTOCOL']} has no section {number}"
    for match in _RFC.finditer(text):
        if not _GOOD_RFC.match(match[0]):
            yield match.start(), f"{match[0]}: write RFC 9000 10.2"
    for match in _PAGE.finditer(text):
        name, _, anchor = match[0].partition("#")
        page = root / name
        if not page.exists():
            yield match.start(), f"there is no {name}"
        elif anchor and anchor not in anchors(page.read_text("utf-8")):
            yield match.start(), f"{name} has no heading {anchor}"
    for match in _MISSING_DOCUMENT.finditer(text):
        yield match.start(), f"{match[0]}: the repository has no such document"


def _words(text: str) -> list[str]:
    """Return a text's words, without markup, comment signs and case."""
    return re.sub(r"[`*#\".]", "", text).lower().split()


def test_every_citation_leads_somewhere() -> None:
    assert problems(ROOT) == []


def test_citations_are_found() -> None:
    texts = [path.read_text("utf-8") for path in files(ROOT)]
    found = [match for text in texts for match in _CITATION.finditer(text) if match[2]]
    assert {match[1] for match in found} == PAGES.keys()
    assert len(found) > 100


PROTOCOL_PAGE = """\
# The protocol

## 4. Resume

### 4.2 Resume token

A `token` is
16 random bytes.
"""
MOVING_PAGE = "# Sessions that move\n\n## M1 The directory\n"
DESIGN_PAGE = "# How it is built\n\n## 3. Decisions\n\n### D5. Slots\n"


def _plant(root: Path, path: str, text: str) -> None:
    for page, content in (
        ("docs/protocol.md", PROTOCOL_PAGE),
        ("docs/architecture.md", DESIGN_PAGE),
        ("docs/moving.md", MOVING_PAGE),
        (path, text),
    ):
        file = root / page
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, "utf-8")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("gatesvr/session/resume.py", '"""Tokens (PROTOCOL 4.3)."""'),
        ("gatesvr/_core/queue.pyx", "# PROTOCOL 4.2, 5.1: both"),
        ("gatesvr/_core/queue.pxd", "# PROTOCOL 4-5"),
        ("gatesvr/_core/codec.pyi", "def f() -> int: ...  # PROTOCOL 40"),
        ("gatesvr/session/session.py", "# PROTOCOL D5"),
        ("tests/core/test_queue.py", "# DESIGN D6"),
        ("bench/test_queue.py", "TARGET = 10  # DESIGN 4"),
        ("protos/cluster.proto", "// MOVING M2"),
        ("gatesvr/session/resume.py", '# PROTOCOL 4.2: "a token is 15 random bytes"'),
        ("gatesvr/session/resume.py", "# A token is kept for a while (4.9)."),
        ("protos/message.proto", "// see docs/wire.md"),
        ("README.md", "See docs/protocol.md#43-attempts."),
        ("gatesvr/transport/listener.py", "# Again (RFC9000 10.2)."),
        ("docs/performance.md", "Windows grow, see RFC 90 10.2."),
        ("CONTRIBUTING.md", "How we write is in STYLE.md."),
    ],
)
def test_planted_citation_is_found(tmp_path: Path, path: str, text: str) -> None:
    _plant(tmp_path, path, text)
    assert len(problems(tmp_path)) == 1


@pytest.mark.parametrize(
    "text",
    [
        '"""Tokens (PROTOCOL 4, 4.2)."""',
        "# DESIGN D5, 3",
        "# MOVING M1: as it says",
        '# PROTOCOL 4.2: "A token is 16 random\n    # bytes."',
        '# PROTOCOL 4.2: "a token … bytes"',
        "# A token is kept for a while (4.2).",
        "# See docs/protocol.md#42-resume-token and RFC 9000 10.2.",
        "LATEST_PROTOCOL = 1  # the protocol, as PROTOCOL says",
    ],
)
def test_good_citation_passes(tmp_path: Path, text: str) -> None:
    _plant(tmp_path, "gatesvr/session/resume.py", text)
    assert problems(tmp_path) == []
