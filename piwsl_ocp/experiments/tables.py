"""A comparison as a table: for the terminal, in Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from rich.table import Table

from piwsl_ocp.experiments.compare import QUANTITIES, Comparison, Row, Statistic
from piwsl_ocp.units import energy_factor

_TITLES = {
    "energy_rmse": "energy RMSE",
    "energy_mae": "energy MAE",
    "force_rmse": "force RMSE",
    "force_mae": "force MAE",
    "consistency_error": "consistency error",
    "seconds_per_step": "time per step",
}

FOOTNOTE = (
    "Mean ± sample standard deviation over seeds, change of the mean against supervised in "
    "brackets; checkpoint with the best validation metric. Forces per Cartesian component."
)


def unit_of(quantity: str, unit: str) -> str:
    """Return the unit in which a quantity is shown."""
    if quantity == "seconds_per_step":
        return "ms"
    return f"{unit}/Å" if quantity.startswith("force") else unit


def title_of(quantity: str) -> str:
    """Return the heading of a quantity, without its unit."""
    return _TITLES[quantity]


def format_statistic(quantity: str, statistic: Statistic) -> str:
    """Return `mean ± std` with three digits of the mean; the mean alone for a single run."""
    factor = 1000 if quantity == "seconds_per_step" else 1
    mean, std = factor * statistic.mean, factor * statistic.std
    if not math.isfinite(mean):
        return "–"
    decimals = max(0, 2 - math.floor(math.log10(mean))) if mean > 0 else 2
    text = f"{mean:.{decimals}f}"
    return text if math.isnan(std) else f"{text} ± {std:.{decimals}f}"


def format_change(change: float | None) -> str:
    """Return a relative change in per cent, or as a factor where it is more than double."""
    if change is None or not math.isfinite(change):
        return ""
    if abs(change) < 0.005:
        return "±0 %"
    return f"× {1 + change:.2f}" if change > 1 else f"{100 * change:+.0f} %"


def cell(row: Row, quantity: str) -> tuple[str, str]:
    """Return the value and the change of one cell, the latter possibly empty."""
    value = format_statistic(quantity, row.statistics[quantity])
    return value, format_change(row.change.get(quantity))


def terminal_table(comparison: Comparison, width: int) -> Table:
    """Return the table for a terminal: a row for each method, or a column where that is too wide.

    Args:
        comparison: what to show.
        width: characters in a line of the terminal.
    """
    heading = ["method\n(seeds)"]
    for quantity in QUANTITIES:
        title, unit = title_of(quantity), unit_of(quantity, comparison.unit)
        heading.append(f"{title}\n{unit}")
    lines = [heading]
    for row in comparison.rows:
        cells = [cell(row, quantity) for quantity in QUANTITIES]
        name = f"{row.label}\n({', '.join(map(str, row.seeds))})"
        lines.append(
            [name, *(f"{value}\n({change})" if change else value for value, change in cells)]
        )
    if bordered_width(zip(*lines, strict=True)) > width:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(title=comparison.caption, caption=FOOTNOTE, caption_justify="left")
    for number, text in enumerate(lines[0]):
        table.add_column(text, justify="right" if number else "left")
    for line in lines[1:]:
        table.add_row(*line, end_section=True)
    return table


def bordered_width(columns: Iterable[Iterable[str]]) -> int:
    """Return the characters that a table with borders takes in a line of the terminal."""
    widest = [max(len(line) for text in column for line in text.split("\n")) for column in columns]
    return sum(widest) + 3 * len(widest) + 1


def markdown_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (headings, *rows)]
    return [lines[0], "|" + "---|" * len(headings), *lines[1:]]


def markdown(comparison: Comparison) -> str:
    """Return the table in Markdown, with caption and notes."""
    titles = [f"{title_of(q)} ({unit_of(q, comparison.unit)})" for q in QUANTITIES]
    rows = []
    for row in comparison.rows:
        cells = [" ".join(_bracketed(*cell(row, quantity))) for quantity in QUANTITIES]
        rows.append([row.label, ", ".join(map(str, row.seeds)), *cells])
    lines = [f"{comparison.caption}.", "", *markdown_rows(["method", "seeds", *titles], rows)]
    lines += ["", FOOTNOTE]
    lines += [f"Note: {note}." for note in comparison.notes]
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Return one line a method: means, standard deviations, changes, and errors in eV too."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header = ["method", "detail", "runs", "seeds", "unit"]
    for quantity in QUANTITIES:
        header += [f"{quantity}_mean", f"{quantity}_std", f"{quantity}_change"]
        if quantity != "seconds_per_step":
            header.append(f"{quantity}_mean_eV")
    writer.writerow(header)
    to_ev = energy_factor(comparison.unit, "eV")
    for row in comparison.rows:
        seeds = " ".join(map(str, row.seeds))
        line = [row.label, row.method.detail, len(row.runs), seeds, comparison.unit]
        for quantity in QUANTITIES:
            found = row.statistics[quantity]
            line += [found.mean, found.std, row.change.get(quantity, "")]
            if quantity != "seconds_per_step":
                line.append(found.mean * to_ev)
        writer.writerow(line)
    return buffer.getvalue()


def _bracketed(value: str, change: str) -> list[str]:
    return [value, f"({change})"] if change else [value]
