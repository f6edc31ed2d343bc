"""How Sphinx builds the site: ``make docs`` writes it to build/docs."""

from __future__ import annotations

import sys
from pathlib import Path

import gatesvr

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "GateSvr"
author = "The GateSvr maintainers"
project_copyright = author
release = gatesvr.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "drawings",
    "sources",
]
exclude_patterns = ["_ext", "_static"]

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto", "repo"]  # repo: by _ext/sources.py

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "notes"), ("Complexity", "notes")]
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "GateSvr"
html_static_path = ["_static"]
html_css_files = ["drawings.css", "site.css"]
html_favicon = "_static/mark.svg"
html_copy_source = False
html_show_sourcelink = False
pygments_style = "tango"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_logo": "mark.svg",
    "dark_logo": "mark.svg",
    "navigation_with_keys": True,
    "light_css_variables": {
        "color-brand-primary": "#0f766e",
        "color-brand-content": "#0f766e",
        "color-brand-visited": "#0f766e",
        "color-highlight-on-target": "#ccfbf1",
        "color-api-name": "#0f766e",
        "color-api-pre-name": "#0f766e",
        "font-stack": "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
        "font-stack--monospace": "ui-monospace, 'SF Mono', Menlo, Consolas, monospace",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5eead4",
        "color-brand-content": "#5eead4",
        "color-brand-visited": "#5eead4",
        "color-highlight-on-target": "#0d3733",
        "color-api-name": "#5eead4",
        "color-api-pre-name": "#5eead4",
    },
}

copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
