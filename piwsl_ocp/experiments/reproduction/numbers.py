"""The numbers that the paper prints, from comma-separated tables into the files of the project."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction.published import (
    Cell,
    PaperTable,
    load,
    names,
    with_numbers,
)

#: Columns that name one number of a table.
KEYS = ("dataset", "molecule", "model", "n_train", "case", "method", "quantity")


def key_of(cell: Cell, quantity: str) -> tuple[str, ...]:
    """Return what a cell's number is filed under, in the order of `KEYS`."""
    settings = cell.settings
    return (
        settings.dataset or "",
        settings.molecule or "",
        settings.model or "",
        str(settings.train),
        settings.printed_case or "",
        settings.printed_method or settings.method or "",
        quantity,
    )


def read_numbers(path: Path) -> dict[tuple[str, ...], str]:
    """Return the numbers of one file as "mean ± std" by their key.

    Raises:
        UserError: if the file is missing or lacks a column.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {tuple(row[key] for key in KEYS): _text(row) for row in rows}
    except OSError as error:
        raise UserError(f"no numbers at '{path}': {error.strerror}") from error
    except KeyError as error:
        raise UserError(f"'{path}' has no column {error}") from None


def published(table: PaperTable, folder: Path) -> Mapping[str, Mapping[str, list[str]]]:
    """Return row -> column -> numbers of a table, from the folder of the numbers.

    Raises:
        UserError: if a cell has no number.
    """
    path = folder / f"{table.name}.csv"
    numbers = read_numbers(path)
    found: dict[str, dict[str, list[str]]] = {}
    for cell in table.cells:
        if cell.ours:
            continue
        for quantity in table.content.quantities:
            key = key_of(cell, quantity)
            if key not in numbers:
                raise UserError(f"'{path}' has no number for {cell.label}: {', '.join(key)}")
            found.setdefault(cell.row, {}).setdefault(cell.column, []).append(numbers[key])
    return found


def write_tables(folder: Path) -> int:
    """Write the numbers into the files of all tables and return how many files there are.

    Args:
        folder: holds `table_<number>.csv`.
    """
    tables = [load(name) for name in names()]
    written = [table for table in tables if table.cells]
    for table in written:
        text = with_numbers(table.path, published(table, folder))
        write_atomically(table.path, lambda file, text=text: file.write(text.encode()))
    return len(written)


def _text(row: Mapping[str, str]) -> str:
    if not row["mean"]:
        return "n/a"
    return f"{row['mean']} ± {row['std']}" if row["std"] else row["mean"]
