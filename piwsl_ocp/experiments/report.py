"""A comparison as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.experiments.compare import QUANTITIES, Comparison, Row, Run
from piwsl_ocp.experiments.origins import short_commit, versions_of
from piwsl_ocp.experiments.plots import COLOURS, BondFigure, bond_profiles, learning_curves
from piwsl_ocp.experiments.tables import FOOTNOTE, cell, format_change, title_of, unit_of
from piwsl_ocp.ocp.run_status import command_to_repeat

#: Structure file in the lines of code where the experiment has none of its own.
EXAMPLE_STRUCTURE = "molecule.xyz"


def snippet(checkpoint: Path | str, structure: Path | str = EXAMPLE_STRUCTURE) -> str:
    """Return three lines of Python that load a checkpoint into ASE."""
    return (
        "import ase.io, piwsl_ocp\n"
        f'atoms = ase.io.read("{Path(structure).as_posix()}")\n'
        f'atoms.calc = piwsl_ocp.PIWSLCalculator("{Path(checkpoint).as_posix()}")'
    )


def write_report(
    comparison: Comparison,
    path: Path | str,
    *,
    title: str = "Methods compared",
    bond: BondFigure | None = None,
    structure: Path | str = EXAMPLE_STRUCTURE,
    command: str | None = None,
) -> Path:
    """Write the page; it appears only when it is complete.

    Args:
        comparison: what to show.
        path: the HTML file; an existing one is replaced.
        title: heading of the page.
        bond: profile of a stretched bond, where there is one.
        structure: file that the lines of code read.
        command: the command that makes this page again.

    Returns:
        The path of the page.
    """
    environment = Environment(
        loader=PackageLoader("piwsl_ocp.experiments", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        **_numbers(comparison),
        title=title,
        curves=Markup(learning_curves(comparison)),
        bond=None if bond is None else _bond(bond, comparison),
        checkpoint=comparison.best.folder.best_checkpoint,
        snippet=snippet(comparison.best.folder.best_checkpoint, structure),
        command=command,
        provenance=_provenance(comparison),
        runs=[_run(run) for run in comparison.runs],
    )
    write_atomically(Path(path), lambda file: file.write(page.encode()))
    return Path(path)


def _numbers(comparison: Comparison) -> dict[str, Any]:
    unit, first = comparison.unit, comparison.first.result
    return {
        "caption": comparison.caption,
        "split": comparison.split,
        "notes": comparison.notes,
        "footnote": FOOTNOTE,
        "summary": [_sentence(row) for row in comparison.rows if row.change],
        "columns": [{"title": title_of(q), "unit": unit_of(q, unit)} for q in QUANTITIES],
        "rows": [
            _table_row(row, COLOURS[number % len(COLOURS)])
            for number, row in enumerate(comparison.rows)
        ],
        "unit": unit,
        "epsilon": first["consistency"]["epsilon_angstrom"],
        "noise": f"{max(run.result['noise_floor'] for run in comparison.runs):.2g}",
        "constant": {
            "energy": f"{first['errors']['energy_rmse_constant']:.3g}",
            "force": f"{first['errors']['force_rmse_constant']:.3g}",
        },
    }


def _sentence(row: Row) -> str:
    """Return what a method changes against supervised, in one sentence."""
    shown = ("energy_rmse", "force_rmse", "consistency_error", "seconds_per_step")
    changes = [
        f"{title_of(quantity)} {format_change(row.change[quantity])}"
        for quantity in shown
        if format_change(row.change.get(quantity))
    ]
    return f"{row.label} ({row.method.detail}) against supervised: {', '.join(changes)}."


def _table_row(row: Row, colour: str) -> dict[str, Any]:
    cells = []
    for quantity in QUANTITIES:
        value, change = cell(row, quantity)
        kind = _kind(row.change.get(quantity, 0.0))
        cells.append({"value": value, "change": change, "kind": kind})
    seeds = ", ".join(str(seed) for seed in row.seeds)
    return {"label": row.label, "seeds": seeds, "colour": colour, "cells": cells}


def _kind(change: float) -> str:
    """Return the style of a change: neutral where it rounds to nothing."""
    if abs(change) < 0.005:
        return "same"
    return "better" if change < 0 else "worse"


def _bond(bond: BondFigure, comparison: Comparison) -> dict[str, Any]:
    low, high = bond.trained_angstrom
    ranges = {f"{low:.2f}–{high:.2f} Å (training data)": (low, high), "whole scan": None}
    rows = []
    for label, profiles in bond.profiles.items():
        values = [
            sum(profile.rmse(bond.reference, within) for profile in profiles) / len(profiles)
            for within in ranges.values()
        ]
        rows.append({"label": label, "numbers": [f"{value:.3g}" for value in values]})
    return {
        "title": bond.title,
        "svg": Markup(bond_profiles(bond, comparison)),
        "unit": bond.reference.unit,
        "columns": list(ranges),
        "rows": rows,
    }


def _provenance(comparison: Comparison) -> list[tuple[str, object]]:
    first = comparison.first
    code = versions_of(first.folder.status)
    versions = ", ".join(f"{key} {value}" for key, value in code.items() if key != "commit")
    return [
        ("data set", f"{first.result['dataset']['folder']} ({first.result['dataset']['name']})"),
        ("training data, SHA-256", first.result["training"]["checksum"]),
        (f"{comparison.split} data, SHA-256", first.result["dataset"]["checksum"]),
        ("versions", versions or "unknown"),
    ]


def _run(run: Run) -> dict[str, Any]:
    status, path = run.folder.status, run.folder.path
    return {
        "path": path,
        "method": run.method.name,
        "detail": run.method.detail,
        "seed": run.folder.seed,
        "best_step": run.folder.best_step,
        "commit": short_commit(versions_of(status).get("commit", "unknown")),
        "started": str(status.get("started", "unknown"))
        .replace("T", " ")
        .replace("+00:00", " UTC"),
        "command": command_to_repeat(path, run.folder.config),
    }
