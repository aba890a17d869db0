"""The templates of the pages: filled in with every name escaped, in one look, each page one offline file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

__all__ = ["beside_it", "fill", "marked"]

HERE = Path(__file__).resolve().parent


def fill(template: str, /, **values: Any) -> str:
    """Give a page as HTML: what is no `Markup` is escaped, a name that the template lacks is an error."""
    import triptych

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["marked"] = marked
    page = environment.get_template(template)
    return page.render(version=triptych.__version__, css=Markup(beside_it("style.css")), **values)


def beside_it(name: str) -> str:
    """Read a file that lies beside the templates."""
    return (HERE / name).read_text(encoding="utf-8")


def marked(text: str) -> Markup:
    """Escape a text and set what stands between backticks as code."""
    return Markup(re.sub(r"`([^`<>]+)`", r"<code>\1</code>", str(escape(text))))
