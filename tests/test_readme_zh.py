"""README.zh-CN.md says what README.md says: the same headings, code, commands and links."""

from __future__ import annotations

import re
from collections import Counter

from .written import ROOT

ENGLISH = (ROOT / "README.md").read_text("utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text("utf-8")
EACH_OTHER = {"README.md", "README.zh-CN.md"}

_BLOCK = re.compile(r"(?:<!-- example: \S+ -->\n)?^```\w*\n.*?^```", re.DOTALL | re.MULTILINE)


def chapters(text: str) -> list[str]:
    """Return the text of each heading's part, without its code blocks."""
    return re.split(r"^#+ .*$", _BLOCK.sub("", text), flags=re.MULTILINE)


def test_code_blocks_are_the_same() -> None:
    assert _BLOCK.findall(CHINESE) == _BLOCK.findall(ENGLISH)


def test_headings_have_the_same_levels() -> None:
    levels = [
        [len(hashes) for hashes in re.findall(r"^(#+) ", _BLOCK.sub("", text), re.MULTILINE)]
        for text in (CHINESE, ENGLISH)
    ]
    assert levels[0] == levels[1]


def test_each_chapter_has_the_same_names_links_and_rows() -> None:
    for chinese, english in zip(chapters(CHINESE), chapters(ENGLISH), strict=True):
        for pattern in (r"(?<!`)`([^`\n]+)`", r"\]\(([^)\s]+)\)", r"^(\||- )"):
            found = [
                Counter(
                    item
                    for item in re.findall(
                        pattern, text.replace("\n", " ") if "`" in pattern else text, re.MULTILINE
                    )
                    if item not in EACH_OTHER
                )
                for text in (chinese, english)
            ]
            assert found[0] == found[1], english.strip().splitlines()[0]


def test_each_leads_to_the_other() -> None:
    assert "](README.md)" in CHINESE
    assert "](README.zh-CN.md)" in ENGLISH


def test_it_is_chinese_with_the_punctuation_of_it() -> None:
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)", "", _BLOCK.sub("", CHINESE))
    wrong = re.findall(r"[\u4e00-\u9fff][,;:?!]", prose)
    assert wrong == []
    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 2000
