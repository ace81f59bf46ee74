"""Hooks of the documentation site: docstrings name objects in Sphinx's way, which Markdown does not know."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):<code>~?([^<]*)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """Show ``:class:`name``` as the name in code."""
    return ROLE.sub(r"<code>\1</code>", html)
