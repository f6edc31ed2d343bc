"""Makes pages of the files that the documentation links to: ``[x](../gatesvr/x.py)``.

On the site a link out of docs/ leads to the file's text, highlighted; the Markdown files of the
repository's root have pages of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
"""Files of the root that have a page here."""

_LINK = re.compile(r"\]\((?P<up>(?:\.\./)*)(?P<path>[\w./-]+)(?P<anchor>#[\w-]*)?\)")


def _linked(app: Sphinx) -> set[str]:
    """Return the set, kept from build to build, of the files that pages link to."""
    linked: set[str] = app.env.__dict__.setdefault("linked_files", set())
    return linked


def rewrite(app: Sphinx, docname: str, content: list[str]) -> None:
    """Point a page's links out of docs/ to pages of the site."""
    # The pages that include a file of the root see its links as that file does.
    included = f"{docname}.md" in PAGES.values() and docname != "index"
    if included:
        name = next(file for file, page in PAGES.items() if page == f"{docname}.md")
        content[0] = (ROOT / name).read_text("utf-8")
    linked = _linked(app)

    def target(match: re.Match[str]) -> str:
        up, path, anchor = match["up"], match["path"], match["anchor"] or ""
        base = ROOT if included else ROOT / "docs"
        file = (base / up / path).resolve()
        if not file.exists() or not file.is_relative_to(ROOT):
            return match[0]
        name = file.relative_to(ROOT).as_posix()
        if name in PAGES:
            page = PAGES[name]
            return f"]({page}{anchor})" if page != "index.md" else f"]({page})"
        if name.startswith("docs/"):
            return f"]({name.removeprefix('docs/')}{anchor})"
        linked.add(name)
        return f"](repo:{name})"

    content[0] = _LINK.sub(target, content[0])


class RepositoryLinks(SphinxPostTransform):
    """Gives links to files of the repository their page's address."""

    default_priority = 5
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Rewrite them."""
        for reference in self.document.findall(nodes.reference):
            uri = reference.get("refuri", "")
            if uri.startswith("repo:"):
                name = uri.removeprefix("repo:")
                reference["refuri"] = f"{'../' * self.env.docname.count('/')}_files/{name}.html"


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each linked file or folder."""
    linked = set(_linked(app))
    for name in sorted(linked):
        if (ROOT / name).is_dir():
            linked |= {
                path.relative_to(ROOT).as_posix()
                for path in (ROOT / name).iterdir()
                if path.is_file()
                and path.suffix not in {".so", ".c", ".pyc", ".html"}
                and not path.name.startswith(".")
            }
    for name in sorted(linked):
        path = ROOT / name
        if path.is_dir():
            files = sorted(other for other in linked if Path(other).parent == Path(name))
            rows = "".join(
                f'<li><a href="{Path(file).name}.html"><code>{Path(file).name}</code></a></li>'
                for file in files
            )
            # The page of folder x is x.html, beside the folder.
            rows = rows.replace('href="', f'href="{Path(name).name}/')
            body = f"<ul>{rows}</ul>"
        else:
            body = _highlighted(path)
        title = f"<h1><code>{name}</code></h1>"
        yield f"_files/{name}", {"title": name, "body": f"{title}{body}"}, "page.html"


def _highlighted(path: Path) -> str:
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    text = path.read_text("utf-8")
    shown = highlight(text, lexer, HtmlFormatter(nowrap=True))
    return f'<div class="highlight"><pre>{shown}</pre></div>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_post_transform(RepositoryLinks)
    app.connect("source-read", rewrite)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
