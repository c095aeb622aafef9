"""Figures of the report: gains against N, bond profiles, curl, displacement, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from piwsl_ocp.experiments.grid import MODELS
from piwsl_ocp.experiments.plots import COLOURS, INK, STYLE, as_svg, plain_log_axis
from piwsl_ocp.experiments.reproduction.comparison import FilledCell, FilledTable
from piwsl_ocp.experiments.reproduction.published import BASELINE, QUANTITIES
from piwsl_ocp.experiments.reproduction.results import RunResult

_ERRORS = ("energy_rmse", "force_rmse")

#: What the learning curves show.
_CURVES = (*_ERRORS, "consistency_error")

#: The row of Table A11 whose profile the others are compared with.
_BOND_REFERENCE = "reference_n1000"


def figures(tables: Mapping[str, FilledTable]) -> dict[str, str]:
    """Return caption -> SVG of every figure that there are results for.

    Args:
        tables: filled tables by name.
    """
    found = {caption: draw(tables) for caption, draw in _FIGURES.items()}
    return {caption: svg for caption, svg in found.items() if svg}


def gain_against_n(tables: Mapping[str, FilledTable]) -> str | None:
    """Return Figure 2 a, b: the gain of PIWSL over N, ours and the paper's, by model."""
    cells = [c for c in _cells(tables, "table_1", "table_A4") if c.cell.column == "piwsl"]
    if not any(cell.runs for cell in cells):
        return None
    with _panels(2, "gain") as (figure, panels):
        for panel, quantity in zip(panels, _ERRORS, strict=True):
            for model, colour in zip(MODELS, COLOURS[1:], strict=False):
                _gains(
                    panel, [c for c in cells if c.cell.settings.model == model], quantity, colour
                )
            panel.axhline(0, color=INK, linewidth=1)
            panel.set_xscale("log")
            plain_log_axis(panel.xaxis)
            panel.set_xlabel("N")
            panel.set_title(f"{QUANTITIES[quantity][0]}: change by PIWSL (%)")
        _legend(figure, panels)
        return as_svg(figure, "gain")


def bond_profile(tables: Mapping[str, FilledTable]) -> str | None:
    """Return Figure 2 c, d: the energy along a stretched C-H bond of aspirin at two N."""
    cells = [c for c in _cells(tables, "table_A11") if _profiles(c)]
    rows = [row for row in ("n100", "n200") if any(c.cell.row == row for c in cells)]
    if not rows:
        return None
    reference = [c for c in cells if c.cell.row == _BOND_REFERENCE]
    with _panels(len(rows), "bond") as (figure, panels):
        for panel, row in zip(panels, rows, strict=True):
            for cell in reference:
                _profile(panel, cell, INK, "PaiNN, gradient forces, N = 1000")
            members = [c for c in cells if c.cell.row == row]
            for cell, colour in zip(members, COLOURS, strict=False):
                _profile(panel, cell, colour, cell.cell.column)
            panel.set_xlabel("C–H bond length (Å)")
            panel.set_title(f"N = {row[1:]}: energy above the minimum (kcal/mol)")
        _legend(figure, panels)
        return as_svg(figure, "bond")


def curl(tables: Mapping[str, FilledTable]) -> str | None:
    """Return the curl of the forces by model and method, relative to supervised."""
    cells = [c for c in _cells(tables, "table_A18") if c.comparisons["curl"].our_gain is not None]
    if not cells:
        return None
    with _panels(1, "curl") as (figure, panels):
        names = [f"{c.cell.row.replace('_', ' ')}\n{c.cell.column}" for c in cells]
        for offset, (source, colour) in enumerate((("ours", COLOURS[2]), ("paper", COLOURS[0]))):
            gains = [
                c.comparisons["curl"].our_gain
                if source == "ours"
                else c.comparisons["curl"].printed_gain
                for c in cells
            ]
            heights = [np.nan if gain is None else 100 * gain for gain in gains]
            across = np.arange(len(cells)) + 0.4 * offset
            panels[0].bar(across, heights, width=0.38, color=colour, label=source)
        panels[0].set_xticks(np.arange(len(cells)) + 0.2, names)
        panels[0].axhline(0, color=INK, linewidth=1)
        panels[0].set_title("curl of the forces: change against supervised (%)")
        _legend(figure, panels)
        return as_svg(figure, "curl")


def displacement(tables: Mapping[str, FilledTable]) -> str | None:
    """Return the errors against the length of the displacement (Table A13)."""
    cells = list(_cells(tables, "table_A13"))
    swept = [c for c in cells if c.cell.column != BASELINE and c.runs]
    if not swept:
        return None
    with _panels(2, "displacement") as (figure, panels):
        for panel, quantity in zip(panels, _ERRORS, strict=True):
            for kind, colour in (("pitc", COLOURS[1]), ("trapezoid", COLOURS[3])):
                members = [c for c in swept if c.cell.column.startswith(kind)]
                _points(panel, [(c.runs[0].epsilon_angstrom, c) for c in members], quantity, colour)
                panel.plot([], [], "o-", color=colour, label=f"{kind}, ours")
            for cell in (c for c in cells if c.cell.column == BASELINE and c.runs):
                level = cell.comparisons[quantity].ours.mean
                panel.axhline(level, color=COLOURS[0], label="supervised, ours")
            panel.set_xscale("log")
            plain_log_axis(panel.xaxis)
            panel.set_xlabel("displacement of each atom (Å)")
            panel.set_title(_titled(quantity))
        _legend(figure, panels)
        return as_svg(figure, "displacement")


def learning_curves(tables: Mapping[str, FilledTable]) -> str | None:
    """Return validation errors of PaiNN in Table 1 against steps and, where timed, seconds."""
    members = [c for c in _cells(tables, "table_1") if c.cell.row == "painn_n100" and c.runs]
    if not members:
        return None
    seconds = step_seconds(tables)
    per_step = {cell.cell.column: seconds.get(cost(cell)) for cell in members}
    lines = ["training step"] + ["seconds of training"] * any(per_step.values())
    with _panels(len(_CURVES), "learning", len(lines)) as (figure, panels):
        for panel, (label, quantity) in zip(panels, product(lines, _CURVES), strict=True):
            for cell, colour in zip(members, COLOURS, strict=False):
                panel.plot([], [], color=colour, label=cell.cell.column)
                unit = 1.0 if label == lines[0] else per_step[cell.cell.column]
                for run in cell.runs:
                    if unit and "step" in run.curve and quantity in run.curve:
                        across = np.multiply(unit, run.curve["step"])
                        panel.plot(across, run.curve[quantity], color=colour)
            panel.set_yscale("log")
            plain_log_axis(panel.yaxis)
            panel.set_title(_titled(quantity))
            panel.set_xlabel(label)
        _legend(figure, panels)
        return as_svg(figure, "learning")


def error_against_time(tables: Mapping[str, FilledTable]) -> str | None:
    """Return test errors of Table 1 at N = 100 against the seconds that the training takes."""
    seconds = step_seconds(tables)
    members = [
        cell
        for cell in _cells(tables, "table_1")
        if cell.cell.settings.train == 100 and cell.runs and cost(cell) in seconds
    ]
    if not members:
        return None
    with _panels(2, "time") as (figure, panels):
        for panel, quantity in zip(panels, _ERRORS, strict=True):
            for cell in members:
                across = seconds[cost(cell)] * cell.runs[0].steps
                colour = COLOURS[1 + MODELS.index(str(cell.cell.settings.model))]
                marker = _MARKERS.get(cell.cell.column, "o")
                _points(panel, [(across, cell)], quantity, colour, marker)
            for model in dict.fromkeys(str(c.cell.settings.model) for c in members):
                panel.plot([], [], "-", color=COLOURS[1 + MODELS.index(model)], label=model)
            for column, marker in _MARKERS.items():
                panel.plot([], [], marker, color=INK, label=column)
            panel.set_xscale("log")
            plain_log_axis(panel.xaxis)
            panel.set_xlabel("seconds of training")
            panel.set_title(_titled(quantity))
        _legend(figure, panels)
        return as_svg(figure, "time")


_MARKERS = {
    "supervised": "o",
    "noisy_nodes": "s",
    "piwsl": "^",
    "trapezoid": "D",
    "supervised_equal_time": "v",
}

_FIGURES: Mapping[str, Callable[[Mapping[str, FilledTable]], str | None]] = {
    "Figure 2 a, b: gain against N on ANI-1x. Filled: ours; open and dashed: the paper's.": (
        gain_against_n
    ),
    "Figure 2 c, d: a stretched C–H bond of aspirin, mean over seeds, each above its own "
    "minimum.": bond_profile,
    "Table A18: change of the curl of the forces against supervised.": curl,
    "Table A13: errors against the length of the displacement, bars over seeds.": displacement,
    "Table 1, PaiNN, N = 100: validation errors against steps and seconds, one line a seed. "
    "Seconds are steps times those of a step in Table A9.": learning_curves,
    "Table 1, N = 100: test errors against the seconds of training, which are steps times those of "
    "a step in Table A9.": error_against_time,
}


def _cells(tables: Mapping[str, FilledTable], *names: str) -> Iterator[FilledCell]:
    for name in names:
        if name in tables:
            yield from tables[name].cells


def cost(cell: FilledCell) -> tuple[str, int, int] | None:
    """Return what the time of a step depends on: model, displaced copies, structures in a step."""
    if cell.training is None or not cell.runs:
        return None
    return cell.training.model, cell.training.copies, cell.runs[0].batch_size


def step_seconds(tables: Mapping[str, FilledTable]) -> dict[tuple[str, int, int], float]:
    """Return the seconds of a step of Table A9 by what they depend on, the mean of all rounds."""
    found: dict[tuple[str, int, int], list[float]] = {}
    for cell in _cells(tables, "table_A9"):
        depends_on = cost(cell)
        if depends_on is not None:
            seconds = [run.seconds_per_step for run in cell.runs if run.seconds_per_step]
            found.setdefault(depends_on, []).extend(seconds)
    return {key: float(np.mean(seconds)) for key, seconds in found.items() if seconds}


@contextmanager
def _panels(columns: int, salt: str, lines: int = 1) -> Iterator[tuple[Figure, list[Axes]]]:
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(10.5, 3.6 * lines), layout="constrained")
        yield figure, list(np.ravel(figure.subplots(lines, columns, squeeze=False)))


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles, labels = panels[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if unique:
        columns = min(len(unique), 6)
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=columns)


def _gains(panel: Axes, cells: Sequence[FilledCell], quantity: str, colour: str) -> None:
    """Draw the gains of one model over N."""
    if not cells:
        return
    ours, theirs = [], []
    for cell in sorted(cells, key=lambda c: c.cell.settings.train):
        comparison = cell.comparisons[quantity]
        if comparison.our_gain is not None:
            ours.append((cell.runs[0].train, 100 * comparison.our_gain))
        if comparison.printed_gain is not None:
            theirs.append((cell.cell.settings.train, 100 * comparison.printed_gain))
    name = cells[0].cell.settings.model
    if theirs:
        panel.plot(*zip(*theirs, strict=True), "o--", color=colour, mfc="none", alpha=0.6)
    panel.plot(*(zip(*ours, strict=True) if ours else ([], [])), "o-", color=colour, label=name)


def _points(
    panel: Axes,
    points: Sequence[tuple[float | None, FilledCell]],
    quantity: str,
    colour: str,
    marker: str = "o",
) -> None:
    """Draw means with bars of one standard deviation."""
    found = [(across, c.comparisons[quantity].ours) for across, c in points if across]
    found = sorted(((a, s) for a, s in found if s is not None), key=lambda pair: pair[0])
    if found:
        across = [a for a, _ in found]
        spread = [np.nan_to_num(s.std) for _, s in found]
        line = f"{marker}-" if len(found) > 1 else marker
        panel.errorbar(across, [s.mean for _, s in found], yerr=spread, fmt=line, color=colour)


def _profiles(cell: FilledCell) -> list[RunResult]:
    return [run for run in cell.runs if run.bond_scan]


def _profile(panel: Axes, cell: FilledCell, colour: str, label: str) -> None:
    """Draw the mean over seeds of the energy above its minimum."""
    scans = [run.bond_scan for run in _profiles(cell)]
    energies = np.array([scan.energies for scan in scans])
    energies -= energies.min(axis=1, keepdims=True)
    panel.plot(scans[0].distances_angstrom, energies.mean(axis=0), color=colour, label=label)


def _titled(quantity: str) -> str:
    title, unit = QUANTITIES[quantity]
    return f"{title} ({unit})"
