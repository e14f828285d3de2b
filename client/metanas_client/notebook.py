"""Display of a model in a notebook."""

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from metanas_client.errors import MissingExtra
from metanas_client.estimates import estimate_rows
from metanas_client.extras import needs
from metanas_client.onnx.cells import Cell, read_cells, table
from metanas_client.text import printable, size

if TYPE_CHECKING:
    from metanas_client.model import Model


def model_html(model: "Model") -> str:
    """Return the facts and the cells of a model as HTML.

    The cells are a picture with the extra "plot", and tables without it.
    """
    facts = [
        ("checkpoint", model.info.checkpoint),
        ("classes", ", ".join(model.labels)),
        ("file", size(len(model.onnx))),
    ]
    if model.info.report is not None:
        facts += estimate_rows(model.info.report.leave_one_out)
    cells = read_cells(model.info.genotype_json)
    return f"<h3>{_safe(model.name)}</h3>{_rows(facts)}{_cells(cells) if cells else ''}"


def _cells(cells: Sequence[Cell]) -> str:
    try:
        with needs("plot"):
            from metanas_client.figures import cells_svg
    except MissingExtra:
        return "".join(f"<h4>{cell.kind} cell</h4>{_rows(table(cell))}" for cell in cells)
    # as an image of its own, so that the ids of two pictures in a notebook do not collide
    data = base64.b64encode(cells_svg(cells)).decode()
    style = "max-width:100%;background:white"
    return f'<img alt="cells" style="{style}" src="data:image/svg+xml;base64,{data}">'


def _rows(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{_safe(cell)}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _safe(text: str) -> str:
    return escape(printable(text))
