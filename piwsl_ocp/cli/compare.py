"""The command `piwsl compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, markup=False)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one model on one data set.")],
    split: Annotated[str, typer.Option(help="The split to compare on.")] = "test",
    out: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file to write.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these files.")] = False,
) -> None:
    """Compare finished runs of different methods: table, and if asked for page, CSV, Markdown.

    A run that was not evaluated on the split yet is evaluated first.
    """
    from piwsl_ocp.atomic_file import require_absent, write_atomically
    from piwsl_ocp.experiments import tables
    from piwsl_ocp.experiments.aspirin import bond_figure
    from piwsl_ocp.experiments.compare import compare_evaluated
    from piwsl_ocp.experiments.report import write_report

    for path in (out, csv, markdown):
        if path is not None and not overwrite:
            require_absent(path)
    comparison = compare_evaluated(runs, split)
    console.print(tables.terminal_table(comparison, console.width))
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False)
    texts = {csv: tables.csv_text, markdown: tables.markdown}
    for path, text in texts.items():
        if path is not None:
            content = text(comparison).encode()
            write_atomically(path, lambda file, content=content: file.write(content))
    if out is not None:
        command = shlex.join(["piwsl", *sys.argv[1:]])
        bond = bond_figure(comparison, on_omission=_note_omission)
        write_report(comparison, out, bond=bond, command=command)
        console.print(f"page: {out}")


def _note_omission(reason: str) -> None:
    console.print(f"note: no bond profiles on the page: {reason}", markup=False)
