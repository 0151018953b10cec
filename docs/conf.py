"""Sphinx's settings. `scripts/test.py --only docs` builds the pages, with warnings as errors."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "otel-asyncio"
copyright = "the authors of otel-asyncio"  # noqa: A001 - Sphinx's name
release = version = version_of("otel-asyncio")

# Markdown, as everywhere else here; docstrings as Google writes them; the theme that reads well on a phone, too.
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"otel-asyncio {release}"
templates_path: list[str] = []
exclude_patterns = ["_build", "rendered", "programs"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_rtype = False


def _markdown_in_docstrings(app: object, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Our docstrings quote code with single backticks; reStructuredText wants two."""
    lines[:] = [line.replace("``", "`").replace("`", "``") for line in lines]


def setup(app) -> None:  # noqa: ANN001 - Sphinx's own type needs Sphinx
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _markdown_in_docstrings)
