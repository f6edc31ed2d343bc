"""Puts drawings into the page itself, so that they follow its light or dark theme.

An SVG file of docs/diagrams brings its own colours, for readers of the Markdown. On the site the
page's style sheet takes their place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

_STYLE = re.compile(r"<style>.*?</style>\s*", re.DOTALL)


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform."""
    app.add_post_transform(InlineDrawings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
