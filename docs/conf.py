"""Sphinx configuration."""

import inspect
from importlib.metadata import version as installed_version
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

project = "sb3_ca2e"
author = "The sb3_ca2e authors"
copyright = f"2026, {author}"
release = version = installed_version("sb3-ca2e")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

html_theme = "sphinx_rtd_theme"
html_static_path = ["_static"]
html_css_files = ["page.css"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_maximum_signature_line_length = 100

#: What autodoc shows of a class whose ``__new__`` or metaclass takes anything.
ANYTHING = "(*args, **kwargs)"


def show_constructor(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Show the arguments of the constructor instead of :data:`ANYTHING`; nothing if it takes anything too."""
    if what != "class" or signature != ANYTHING:
        return signature, returns
    real = stringify_signature(inspect.signature(obj), show_annotation=False, show_return_annotation=False)
    return ("" if real == ANYTHING else real), returns


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("autodoc-process-signature", show_constructor)
