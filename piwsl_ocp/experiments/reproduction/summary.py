"""Every table in a few lines: the gain of each method, the paper's and ours, and their signs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction import by_model
from piwsl_ocp.experiments.reproduction.comparison import (
    Comparison,
    FilledCell,
    FilledTable,
    effect,
)
from piwsl_ocp.experiments.reproduction.published import BASELINE
from piwsl_ocp.experiments.tables import format_change, markdown_rows

HEADINGS = ("table", "method", "rows", "paper", "ours", "same sign", "beyond spread")

EXPLANATION = (
    "Change against supervised of energy / force RMSE (A9: seconds per epoch, A18: curl), negative "
    "is less; median over the rows of a table (models, sizes, data sets) that have a result of "
    "ours, the paper's over those of them that it prints. Same sign: rows in which the signs "
    "agree, changes below 1 % being none. Beyond spread: rows in which our change is larger than "
    "the standard deviation of the difference of two runs, which rows with one seed do not have. "
    "Table A6 compares no methods."
)

#: Lines of the README between which the summary stands.
BEGIN, END = "<!-- summary -->\n", "<!-- end of summary -->\n"


@dataclass(frozen=True)
class Line:
    """One method of a table.

    Attributes:
        table: number and content.
        method: a column, marked where the paper has no such column.
        comparisons: of the rows that have a result of ours, by quantity.
        rows: how many rows the table has for this method.
    """

    table: str
    method: str
    comparisons: Mapping[str, tuple[Comparison, ...]]
    rows: int

    @property
    def compared(self) -> int:
        """In how many rows ours is compared with supervised."""
        return max(map(len, self.comparisons.values()))

    def texts(self) -> tuple[str, ...]:
        """Return the entries under `HEADINGS`, those of several quantities side by side."""
        found = list(self.comparisons.values())
        columns = (
            [format_change(_median(c.printed_gain for c in one)) or "–" for one in found],
            [format_change(_median(c.our_gain for c in one)) or "–" for one in found],
            [_count(_same_sign(c) for c in one) for one in found],
            [_count(c.beyond_spread for c in one) for one in found],
        )
        rows = f"{self.compared} of {self.rows}"
        return (self.table, self.method, rows, *(" / ".join(column) for column in columns))


def summarise(tables: Sequence[FilledTable]) -> list[Line]:
    """Return a line for each method other than supervised of all tables."""
    return [line for table in tables for line in _lines(table)]


def texts(tables: Sequence[FilledTable]) -> list[tuple[str, ...]]:
    """Return the entries of methods with a result; a table is named in its first line alone."""
    rows: list[tuple[str, ...]] = []
    before = ""
    for line in summarise(tables):
        if line.compared:
            table, *rest = line.texts()
            rows.append(("" if table == before else table, *rest))
            before = table
    return rows


def without_result(tables: Sequence[FilledTable]) -> str:
    """Return the methods that were not run yet, by table, as one line; empty if all were."""
    missing: dict[str, list[str]] = {}
    for table in tables:
        if table.has_results:
            methods = [line.method for line in _lines(table) if not line.compared]
        else:
            methods = list(dict.fromkeys(cell.label for cell in table.cells))
        if methods:
            missing[table.table.number] = methods
    named = [f"{table} ({', '.join(methods)})" for table, methods in missing.items()]
    return f"Not run yet: {'; '.join(named)}." if named else ""


def markdown(tables: Sequence[FilledTable]) -> str:
    """Return the summary in Markdown, without a heading."""
    lines = markdown_rows(HEADINGS, texts(tables))
    return "\n".join([EXPLANATION, "", *lines, "", without_result(tables)]).strip() + "\n"


def in_readme(readme: str, tables: Sequence[FilledTable]) -> str:
    """Return the text of a README with the summary and the grid between its marks renewed.

    Raises:
        UserError: if it has no marks.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise UserError(f"the README lacks the lines '{BEGIN.strip()}' and '{END.strip()}'")
    parts = filter(None, (markdown(tables), by_model.markdown(tables)))
    return "".join([before, begin, "\n".join(parts), end, after])


def terminal_table(tables: Sequence[FilledTable]) -> Table:
    """Return the summary for the terminal, with the numbers of the tables alone."""
    caption = f"{EXPLANATION} {without_result(tables)}"
    table = Table(title="Summary", caption=caption, caption_justify="left")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number > 1 else "left")
    table.columns[1].min_width = len("supervised")
    for name, *rest in texts(tables):
        table.add_row(name.split(":")[0], *(text.replace(" / ", " /\n") for text in rest))
    return table


def for_page(tables: Sequence[FilledTable]) -> dict[str, Any]:
    """Return the summary for the template of the page."""
    return {
        "explanation": EXPLANATION,
        "headings": HEADINGS,
        "rows": texts(tables),
        "without_result": without_result(tables),
    }


def _lines(filled: FilledTable) -> Iterator[Line]:
    columns: dict[str, list[FilledCell]] = {}
    for cell in filled.cells:
        if cell.cell.column != BASELINE:
            columns.setdefault(cell.label, []).append(cell)
    for method, cells in columns.items():
        comparisons = {
            quantity: tuple(
                cell.comparisons[quantity]
                for cell in cells
                if cell.runs and cell.comparisons[quantity].our_gain is not None
            )
            for quantity in filled.table.content.quantities
        }
        yield Line(filled.table.short_heading, method, comparisons, len(cells))


def _same_sign(comparison: Comparison) -> bool | None:
    """Return whether both have the same sign, or no effect; None where one is missing."""
    if comparison.our_gain is None or comparison.printed_gain is None:
        return None
    return effect(comparison.our_gain) == effect(comparison.printed_gain)


def _count(answers: Iterable[bool | None]) -> str:
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)} of {len(known)}" if known else "–"


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
