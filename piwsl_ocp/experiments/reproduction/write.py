"""The report: all tables at one scale as a page, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction import by_model, summary
from piwsl_ocp.experiments.reproduction.comparison import FilledTable, fill
from piwsl_ocp.experiments.reproduction.figures import figures
from piwsl_ocp.experiments.reproduction.pages import FOOTNOTE, csv_text, html, markdown
from piwsl_ocp.experiments.reproduction.plan import select
from piwsl_ocp.experiments.reproduction.reproduce import Folders, collect_if_there
from piwsl_ocp.experiments.reproduction.results import Results, read_all
from piwsl_ocp.experiments.reproduction.scales import find_scale

#: Files of a report.
PAGES = ("report.html", "report.md", "tables.csv")


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        tables: all tables of the paper with our results.
        lines: for the terminal: what could not be used, and the files.
    """

    tables: tuple[FilledTable, ...]
    lines: tuple[str, ...]


def write_report(scale_name: str, folders: Folders, out: Path) -> Report:
    """Keep the results of finished runs and write report.html, report.md and tables.csv.

    Args:
        scale_name: of the runs.
        folders: where run folders and results are.
        out: folder of the three files, which are replaced.

    Raises:
        UserError: if there is no result at all.
    """
    scale = find_scale(scale_name)
    problems = collect_if_there(folders)
    results = read_all(folders.results, scale.name)
    problems += results.problems
    _require_runs(results, scale.name, folders.results)
    filled = [fill(table, scale, results) for table in select("all")]
    problems += _unused(results, filled)
    command = f"piwsl report --scale {scale.name}"
    title = f"The tables of arXiv 2408.05215 at {scale.name} scale"
    page = html(
        filled,
        figures({table.table.name: table for table in filled}),
        title=title,
        command=command,
        problems=problems,
    )
    texts = (page, _markdown(filled, title, command, problems), csv_text(filled))
    for name, text in zip(PAGES, texts, strict=True):
        write_atomically(out / name, lambda file, text=text: file.write(text.encode()))
    lines = [f"note: {line}" for line in problems] + [f"written: {out / name}" for name in PAGES]
    if not folders.runs.is_dir():
        lines.append(f"note: there is no folder '{folders.runs}': made of the kept results alone")
    return Report(tuple(filled), tuple(lines))


def write_summary(readme: Path, scale_name: str, results: Path) -> None:
    """Renew the summary in a README from kept results.

    Raises:
        UserError: if the README has no marks for it, or a result cannot be read.
    """
    scale = find_scale(scale_name)
    found = read_all(results, scale.name)
    if found.problems:
        raise UserError(found.problems[0])
    _require_runs(found, scale.name, results)
    text = summary.in_readme(
        readme.read_text(), [fill(table, scale, found) for table in select("all")]
    )
    write_atomically(readme, lambda file: file.write(text.encode()))


def _require_runs(found: Results, scale: str, folder: Path) -> None:
    """Raise a UserError if there is no result at all."""
    if not found.runs:
        raise UserError(
            f"no results of scale '{scale}' in '{folder}': make some with "
            f"`piwsl reproduce 1 --scale {scale}`"
        )


def _markdown(
    filled: Sequence[FilledTable], title: str, command: str, problems: Sequence[str]
) -> str:
    """Return the tables that have results; the others are named at the end."""
    lines = [f"# {title}", "", f"Made by `{command}`. {FOOTNOTE}", ""]
    lines += [f"- {line}" for line in problems] + [""] * bool(problems)
    lines += ["## Summary", ""]
    lines += [summary.markdown(filled)]
    if grid := by_model.markdown(filled):
        lines += [f"## {by_model.TITLE}", "", grid]
    lines += [markdown(table) for table in filled if table.has_results]
    empty = [table.table.heading for table in filled if not table.has_results]
    if empty:
        lines += ["### Without results", "", *(f"- {heading}" for heading in empty), ""]
    return "\n".join(lines)


def _unused(results: Results, filled: list[FilledTable]) -> list[str]:
    """Return a line if results belong to no cell, as after a change of the configurations."""
    trained = [table for table in filled if not table.table.in_turn(table.scale.name)]
    cells = (cell for table in trained for cell in table.cells)
    known = {cell.training.key for cell in cells if cell.training}
    unused = sorted(run.run for run in results.runs.values() if run.key not in known)
    if not unused:
        return []
    return [
        f"{len(unused)} results belong to no cell of this version, the first is '{unused[0]}': "
        "their configuration has changed, remove them or reproduce again"
    ]
