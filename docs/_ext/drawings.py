"""What the site does to a page: drawings that follow its theme, long names that break well.

An SVG file of docs/diagrams brings its own colours, for readers of the Markdown. On the site it
stands in the page itself, and the page's style sheet has the colours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

_STYLE = re.compile(r"<style>.*?</style>\s*", re.DOTALL)

_NAME = re.compile(r'(<span class="pre">)([\w.]{16,})')
_JOINT = re.compile(r"([._])(?=\w)")


class InlineDrawings(SphinxPostTransform):
    """Replaces images of docs/diagrams by their SVG."""

    default_priority = 5
    formats = ("html",)

    def run(self, **_: Any) -> None:
        """Replace them."""
        for image in list(self.document.findall(nodes.image)):
            uri = image["uri"]
            if not uri.startswith("diagrams/"):
                continue
            svg = (Path(self.app.srcdir) / uri).read_text("utf-8")
            drawing = _STYLE.sub("", svg)
            figure = f'<div class="drawing" tabindex="0">{drawing}</div>'
            image.replace_self(nodes.raw("", figure, format="html"))


def break_names(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let a name in a narrow column break behind its dots and underscores."""
    if "body" in context:
        context["body"] = _NAME.sub(_with_joints, context["body"])


def _with_joints(match: re.Match[str]) -> str:
    return match[1] + _JOINT.sub(r"\1<wbr>", match[2])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both."""
    app.add_post_transform(InlineDrawings)
    app.connect("html-page-context", break_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
