"""What the inputs of workloads do, as a table in reports and pages, and as a page of its own for ``tuner profile``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.files import replacing
from tuner.format import config_text, microseconds, workload_text
from tuner.results.report import figures


def input_table(workloads: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Names of the figures that are numbers, and a row of texts for each workload; None if there are none."""
    found = (n for w in workloads for n, value in w["figures"].items() if not isinstance(value, list))
    names = list(dict.fromkeys(found))
    if not names:
        return None
    order = list(dict.fromkeys(w["profile"] for w in workloads))
    ranked = sorted(workloads, key=lambda w: (order.index(w["profile"]), tuple(w["axes"].values())))
    return {
        "names": [name.replace("_", " ") for name in names],
        "rows": [
            (w["profile"], workload_text(w["axes"]), [_text(w["figures"].get(name)) for name in names]) for w in ranked
        ],
    }


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"


def write_picture(document: Mapping[str, Any], path: Path) -> None:
    """Write the document of ``tuner profile`` as one HTML page.

    Raises:
        UnusableEnvironmentError: The file cannot be written.
    """
    text = from_template(
        "inputs.html",
        definition=document["definition"],
        table=input_table(document["workloads"]),
        picture=figures.html(figures.inputs(document["workloads"])),
    )
    with replacing(path, "the page") as scratch:
        scratch.write_text(text, encoding="utf-8")


def from_template(name: str, **values: Any) -> str:
    """A page of this folder as HTML text, with Plotly's script in it."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(us=microseconds, config=config_text)
    return environment.get_template(name).render(plotly=get_plotlyjs(), **values)
