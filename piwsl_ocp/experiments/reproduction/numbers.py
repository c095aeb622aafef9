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
    Printed,
    load,
    names,
)

#: Everything below this line of a file is written by `scripts/write_paper_tables.py`.
MARKER = "published:  # mean ± standard deviation of each quantity, digits as printed\n"

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
        UserError: if the file is missing, lacks a column, or has a line that is cut off, no
            number, or the second of its kind.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"no numbers at '{path}': {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"'{path}' is no comma-separated text: {error}") from None
    for name in (*KEYS, "mean", "std"):
        if name not in (reader.fieldnames or ()):
            raise UserError(f"'{path}' has no column '{name}'")
    found: dict[tuple[str, ...], str] = {}
    for line, row in rows:
        where = f"'{path}', line {line}"
        if None in row or None in row.values():
            raise UserError(f"{where}: {len(reader.fieldnames)} values are needed, is it cut off?")
        key = tuple(row[name] for name in KEYS)
        if key in found:
            raise UserError(f"{where}: a second number for {', '.join(key)}")
        found[key] = _text(row)
        try:
            Printed.parse(found[key])
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    return found


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


def _with_numbers(path: Path, numbers: Mapping[str, Mapping[str, list[str]]]) -> str:
    """Return the text of a table's file with other published numbers.

    Args:
        path: the file.
        numbers: row -> column -> "mean ± std" of each quantity.
    """
    head = path.read_text().split(MARKER)[0]
    lines = [head.rstrip("\n"), MARKER.rstrip("\n")]
    for row, columns in numbers.items():
        lines.append(f"  {row}:")
        lines += [f"    {name}: {_flow(texts)}" for name, texts in columns.items()]
    return "\n".join(lines) + "\n"


def write_tables(folder: Path) -> int:
    """Write the numbers into the files of all tables and return how many files there are.

    Args:
        folder: holds `table_<number>.csv`.

    Raises:
        UserError: if a number is missing or wrong; no file is changed then.
    """
    tables = [table for table in map(load, names()) if table.cells]
    texts = {table.path: _with_numbers(table.path, published(table, folder)) for table in tables}
    for path, text in texts.items():
        write_atomically(path, lambda file, text=text: file.write(text.encode()))
    return len(texts)


def _text(row: Mapping[str, str]) -> str:
    if not row["mean"]:
        return "n/a"
    return f"{row['mean']} ± {row['std']}" if row["std"] else row["mean"]


def _flow(texts: list[str]) -> str:
    return "[" + ", ".join(t if "±" in t else f'"{t}"' for t in texts) + "]"
