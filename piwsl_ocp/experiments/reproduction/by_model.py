"""The tables of several models in one grid: the gain of each method for each model and data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from piwsl_ocp.experiments.reproduction.comparison import Comparison, FilledCell, FilledTable
from piwsl_ocp.experiments.reproduction.published import BASELINE
from piwsl_ocp.experiments.tables import format_change, markdown_rows

TITLE = "By model"

EXPLANATION = (
    "Our change against supervised of energy / force RMSE, negative is less; an asterisk marks "
    "what is larger than the standard deviation of the difference of two runs, which one seed does "
    "not have. Tables that have three or more models with a result."
)

#: A table with fewer models has no place in the grid.
MIN_MODELS = 3

QUANTITIES = ("energy_rmse", "force_rmse")


def grid(tables: Sequence[FilledTable]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the grid; no rows if no table has results of several models.

    The columns are table, data set, method and the models in the order of the tables.
    """
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for table in tables:
        cells = [cell for cell in table.cells if _is_compared(cell)]
        if len({_model(cell) for cell in cells}) >= MIN_MODELS:
            for cell in cells:
                row = (table.table.number, cell.runs[0].data, cell.label)
                found.setdefault(row, {})[_model(cell)] = _entry(cell)
    models = list(dict.fromkeys(model for entries in found.values() for model in entries))
    rows = [
        (*row, *(entries.get(model, "–") for model in models)) for row, entries in found.items()
    ]
    return ("table", "data", "method", *models), rows


def markdown(tables: Sequence[FilledTable]) -> str:
    """Return the grid in Markdown without a heading; empty without a grid."""
    headings, rows = grid(tables)
    if not rows:
        return ""
    return "\n".join([EXPLANATION, "", *markdown_rows(headings, rows)]) + "\n"


def for_page(tables: Sequence[FilledTable]) -> dict[str, Any]:
    """Return the grid for the template of the page."""
    headings, rows = grid(tables)
    return {"title": TITLE, "explanation": EXPLANATION, "headings": headings, "rows": rows}


def _is_compared(cell: FilledCell) -> bool:
    """Return whether a cell has a change of the errors against supervised."""
    return (
        cell.cell.column != BASELINE
        and bool(cell.runs)
        and all(quantity in cell.comparisons for quantity in QUANTITIES)
        and cell.comparisons[QUANTITIES[0]].our_gain is not None
    )


def _model(cell: FilledCell) -> str:
    return cell.runs[0].model


def _entry(cell: FilledCell) -> str:
    return " / ".join(_change(cell.comparisons[quantity]) for quantity in QUANTITIES)


def _change(comparison: Comparison) -> str:
    return format_change(comparison.our_gain) + ("*" if comparison.beyond_spread else "")
