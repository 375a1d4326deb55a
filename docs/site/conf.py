"""Sphinx's settings for the site."""

import re
from typing import Any

from sphinx.application import Sphinx

project = "imagen"
copyright = "the authors of imagen, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "index"
html_theme = "furo"
html_title = "imagen"
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
highlight_language = "none"  # of a block that names no language: commands and messages
smartquotes = False  # options keep their two hyphens
myst_heading_anchors = 3
napoleon_use_ivar = True  # "Attributes:" in a docstring does not describe an attribute a second time
default_role = "code"  # docstrings mark code by single backticks
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
add_module_names = False
autodoc_default_options = {"exclude-members": "model_config, model_post_init"}
python_use_unqualified_type_names = True
suppress_warnings = ["ref.python"]

DRAWN = re.compile(r"[├└│┌─]")  # lines of a drawing, such as a tree of errors


def prepare(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keep the line breaks of drawings, and leave out what a dataclass or a named tuple makes up for itself."""
    made_up = (f"{name.rpartition('.')[2]}(", "Alias for field number")
    if lines and lines[0].startswith(made_up):
        lines.clear()
    paragraphs = [paragraph.split("\n") for paragraph in "\n".join(lines).split("\n\n")]
    shown = [
        ["::", "", *(f"    {line}" for line in paragraph)] if any(map(DRAWN.search, paragraph)) else paragraph
        for paragraph in paragraphs
    ]
    lines[:] = "\n\n".join("\n".join(paragraph) for paragraph in shown).split("\n")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", prepare)
