"""Filled tables for the terminal, as Markdown, as CSV and as one self-contained HTML page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table

from piwsl_ocp.experiments.compare import Statistic
from piwsl_ocp.experiments.reproduction import by_model
from piwsl_ocp.experiments.reproduction import summary as summaries
from piwsl_ocp.experiments.reproduction.comparison import (
    Comparison,
    FilledCell,
    FilledTable,
    constant_error,
    effect,
)
from piwsl_ocp.experiments.reproduction.published import QUANTITIES
from piwsl_ocp.experiments.tables import (
    bordered_width,
    format_change,
    format_statistic,
    markdown_rows,
)

FOOTNOTE = (
    "Ours: mean ± sample standard deviation over seeds (their number), of the checkpoint with the "
    "best validation metric; forces per Cartesian component. In brackets the change against "
    "supervised, ours and the paper's. Effects below 1 % count as none; within spread: smaller "
    "than the standard deviation of the difference. Constant: predicting the mean training energy "
    "and no force. Consistency error: root mean square of [E(r+δ) − E(r−δ)]/2 + δ·F(r) over the "
    "test structures, each with a random δ. A change is over the seeds that both methods have. An "
    "asterisk marks published numbers with a doubt, told below the table."
)

#: Heading of the column that tells where our numbers come from.
PROVENANCE = "code; data; configuration"

_CSV_HEADER = (
    *("table", "row", "column", "ours", "scale", "quantity", "unit"),
    *("mean", "std", "seeds", "gain", "paper_mean", "paper_std", "paper_gain", "effect"),
    "constant",
    *("note", "missing", "steps", "commit", "train_data", "test_data", "configuration", "runs"),
)

#: Headings of the columns of one quantity, the first alone where the paper prints none.
_PARTS = ("ours", "paper", "effect")

#: Label of the line with the errors of the constant predictor.
CONSTANT = "constant"


def terminal_tables(filled: FilledTable, width: int) -> list[Table]:
    """Return a table for the terminal, or one for each quantity where that is too wide.

    Args:
        filled: what to show.
        width: characters in a line of the terminal.
    """
    quantities = filled.table.quantities
    whole, needed = _terminal_table(filled, quantities)
    parts = [whole]
    if needed > width and len(quantities) > 1:
        parts = [_terminal_table(filled, (quantity,))[0] for quantity in quantities]
    parts[0].title = filled.table.heading
    parts[-1].caption = _caption(filled)
    return parts


def _terminal_table(filled: FilledTable, quantities: Sequence[str]) -> tuple[Table, int]:
    """Return the part of a table with these quantities, and the width below which it is cut."""
    headings = ["row", "method"]
    for quantity in quantities:
        title, unit = QUANTITIES[quantity]
        headings += [f"{title}\nours {unit}".rstrip(), *_parts(filled, quantity)[1:]]
    lines, ends = [], []
    for group in _groups(filled, quantities):
        for number, line in enumerate(group, start=1):
            short = [_short(text) for values in line.values for text in values]
            lines.append([line.name, line.label, *short])
            ends.append(number == len(group))
    table = Table(caption_justify="left")
    uncut = []
    for column in zip(headings, *lines, strict=True):
        is_prose = column[0] in ("row", "method", "effect")
        table.add_column(column[0], justify="left" if is_prose else "right", no_wrap=not is_prose)
        uncut.append([word for text in column for word in text.split()] if is_prose else column)
    for line, is_end in zip(lines, ends, strict=True):
        table.add_row(*line, end_section=is_end)
    return table, bordered_width(uncut)


def markdown(filled: FilledTable) -> str:
    """Return a table in Markdown, with remarks, doubts and what is missing."""
    headings = ["row", "method"]
    for quantity in filled.table.quantities:
        title, unit = QUANTITIES[quantity]
        of = f"{title} ({unit})" if unit else title
        headings += [f"{of}: ours", *_parts(filled, quantity)[1:]]
    headings.append(PROVENANCE)
    rows = [
        [line.name, line.label, *(text for texts in line.values for text in texts), line.provenance]
        for group in _groups(filled, filled.table.quantities)
        for line in group
    ]
    lines = [
        f"### {filled.table.heading}",
        "",
        f"{filled.table.content.shows}",
        "",
        *markdown_rows(headings, rows),
        "",
        *(f"- {text}" for text in notes(filled)),
    ]
    return "\n".join(lines) + "\n"


def csv_text(tables: Sequence[FilledTable]) -> str:
    """Return one line for each cell and quantity of all tables."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_CSV_HEADER)
    for filled in tables:
        for cells in filled.rows().values():
            for cell in cells:
                for comparison in cell.comparisons.values():
                    constant = constant_error(cells, comparison.quantity)
                    writer.writerow(_csv_line(filled, cell, comparison, constant))
    return buffer.getvalue()


def html(
    tables: Sequence[FilledTable],
    figures: Mapping[str, str],
    *,
    title: str,
    command: str,
    problems: Sequence[str] = (),
) -> str:
    """Return one page with all tables and figures.

    Args:
        tables: in the order in which they are shown.
        figures: caption -> SVG.
        title: heading of the page.
        command: that makes it again.
        problems: lines about results that could not be used.
    """
    environment = Environment(
        loader=PackageLoader("piwsl_ocp.experiments.reproduction", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        command=command,
        problems=problems,
        footnote=FOOTNOTE,
        provenance=PROVENANCE,
        figures=[{"caption": text, "svg": Markup(svg)} for text, svg in figures.items()],
        summary=summaries.for_page(tables),
        by_model=by_model.for_page(tables),
        tables=[_for_page(filled) for filled in tables],
    )


def notes(filled: FilledTable) -> list[str]:
    """Return warnings, stand-ins, what is missing, remarks and doubts, one line each."""
    lines = [f"WARNING: {text}" for text in filled.warnings]
    stand_ins = sorted({cell.note for cell in filled.cells if cell.note})
    lines += [f"Ours: {text}" for text in (*stand_ins, *filled.table.content.ours)]
    reasons: dict[str, list[str]] = {}
    for cell in filled.cells:
        if cell.missing:
            reasons.setdefault(cell.missing, []).append(f"{cell.cell.row} {cell.cell.column}")
    for reason, cells in reasons.items():
        where = f"{len(cells)} cells" if len(cells) > 4 else ", ".join(cells)
        lines.append(f"Missing: {reason} ({where})")
    lines += [f"Paper: {text}" for text in filled.table.content.remarks]
    for cell in filled.cells:
        lines += [f"Paper, {cell.cell.row} {cell.cell.column}: {text}" for text in cell.doubts]
    return lines


def _caption(filled: FilledTable) -> str:
    return "\n".join([FOOTNOTE, *notes(filled)])


@dataclass(frozen=True)
class _Line:
    """One line of a table.

    Attributes:
        name: of the row, in its first line alone.
        label: of the method.
        values: the texts under `_parts` of each quantity.
        kinds: styles of the same.
        provenance: code and data.
    """

    name: str
    label: str
    values: tuple[tuple[str, ...], ...]
    kinds: tuple[tuple[str, ...], ...]
    provenance: str = ""


def _parts(filled: FilledTable, quantity: str) -> tuple[str, ...]:
    """Return the headings of the columns of a quantity."""
    return _PARTS if quantity in filled.table.content.quantities else _PARTS[:1]


def _groups(filled: FilledTable, quantities: Sequence[str]) -> Iterator[list[_Line]]:
    """Yield the lines of each row: the constant predictor where it is known, then the methods."""
    sizes = [len(_parts(filled, quantity)) for quantity in quantities]
    for row, cells in filled.rows().items():
        constants = [constant_error(cells, quantity) for quantity in quantities]
        lines = []
        if any(value is not None for value in constants):
            firsts = ("" if v is None else format_our(Statistic.of([v])) for v in constants)
            values = tuple((f, "", "")[:size] for f, size in zip(firsts, sizes, strict=True))
            blank = tuple(("", "", "")[:size] for size in sizes)
            lines.append(_Line("", CONSTANT, values, blank))
        for cell in cells:
            shown = [cell.comparisons[quantity] for quantity in quantities]
            values = tuple(_values(cell, c, n) for c, n in zip(shown, sizes, strict=True))
            kinds = tuple(_kinds(c)[:n] for c, n in zip(shown, sizes, strict=True))
            lines.append(_Line("", cell.label, values, kinds, cell.provenance))
        lines[0] = replace(lines[0], name=row.replace("_", " "))
        yield lines


def _values(cell: FilledCell, comparison: Comparison, size: int) -> tuple[str, ...]:
    """Return ours, the paper's and the agreement, as text, or ours alone.

    Why a cell is empty is told once, beside the published numbers.
    """
    if size == 1 and comparison.ours is None:
        return ("",)
    return (_ours(cell, comparison), _paper(cell, comparison), comparison.agreement)[:size]


def _short(text: str) -> str:
    """Return a text with a short reason and one line for each part, for narrow columns."""
    return text.split(": ")[0].replace(", ", "\n")


def _ours(cell: FilledCell, comparison: Comparison) -> str:
    if comparison.ours is None:
        if cell.training is None:
            return f"not run: {cell.missing}"
        return "not measured" if cell.runs else cell.missing
    text = f"{format_our(comparison.ours)} ({comparison.seeds})"
    gain = format_change(comparison.our_gain)
    return f"{text}, {gain}" if gain else text


def _paper(cell: FilledCell, comparison: Comparison) -> str:
    if cell.cell.ours:
        return ""
    if comparison.printed is None:
        return "n/a"
    gain = format_change(comparison.printed_gain)
    mark = " *" if cell.doubts else ""
    return f"{comparison.printed.text}{f', {gain}' if gain else ''}{mark}"


def format_our(statistic: Statistic) -> str:
    """Return `mean ± std` with three digits of the mean."""
    return format_statistic("energy_rmse", statistic)


def _csv_line(
    filled: FilledTable, cell: FilledCell, comparison: Comparison, constant: float | None
) -> list[Any]:
    ours, printed = comparison.ours, comparison.printed
    runs = cell.runs
    return [
        filled.table.name,
        cell.cell.row,
        cell.cell.column,
        cell.cell.ours,
        filled.scale.name,
        comparison.quantity,
        QUANTITIES[comparison.quantity][1],
        *((ours.mean, ours.std) if ours else ("", "")),
        " ".join(str(run.seed) for run in runs),
        _number(comparison.our_gain),
        *((printed.mean, _number(printed.std)) if printed else ("", "")),
        _number(comparison.printed_gain),
        comparison.agreement,
        _number(constant),
        cell.note,
        cell.missing,
        cell.training.steps if cell.training else "",
        " ".join(sorted({run.provenance.commit for run in runs})),
        " ".join(sorted({run.provenance.train_data[:12] for run in runs})),
        " ".join(sorted({run.provenance.test_data[:12] for run in runs})),
        cell.configuration,
        " ".join(run.run for run in runs),
    ]


def _number(value: float | None) -> float | str:
    return "" if value is None else round(value, 6)


def _for_page(filled: FilledTable) -> dict[str, Any]:
    quantities = filled.table.quantities
    rows = []
    for group in _groups(filled, quantities):
        for line in group:
            texts = [text for part in line.values for text in part]
            kinds = [kind for part in line.kinds for kind in part]
            rows.append(
                {
                    "name": line.name,
                    "span": len(group),
                    "label": line.label,
                    "cells": [
                        {"text": text, "kind": kind}
                        for text, kind in zip(texts, kinds, strict=True)
                    ],
                    "provenance": line.provenance,
                }
            )
    return {
        "id": filled.table.name,
        "heading": filled.table.heading,
        "shows": filled.table.content.shows,
        "quantities": [
            {"title": QUANTITIES[q][0], "unit": QUANTITIES[q][1], "parts": _parts(filled, q)}
            for q in quantities
        ],
        "rows": rows,
        "notes": notes(filled),
    }


def _kinds(comparison: Comparison) -> tuple[str, str, str]:
    """Return the styles of ours, the paper's and the agreement."""
    return _kind(comparison.our_gain), _kind(comparison.printed_gain), ""


def _kind(gain: float | None) -> str:
    """Return the style of a change."""
    return ("same", "worse", "better")[effect(gain)] if gain is not None else ""
