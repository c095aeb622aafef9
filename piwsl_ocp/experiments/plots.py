"""Figures of a comparison as SVG for a page: learning curves and bond profiles."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from piwsl_ocp.evaluation.bond_scan import BondProfile
from piwsl_ocp.experiments.compare import Comparison, Row
from piwsl_ocp.experiments.tables import unit_of

#: One colour a method, in the order of the table; readable on light and dark ground.
COLOURS = ("#8a8f98", "#e08214", "#3b8ad8", "#2ca25f", "#b05fc4", "#d9534f", "#16a5a5")

#: Drawn in place of the text colour of the page, which is put in afterwards.
INK = "#010203"

#: Quantity on validation by its name in the log.
_CURVES = {
    "energy_rmse": "energy RMSE",
    "force_rmse": "force RMSE",
    "consistency_error": "consistency error",
}

#: Style of every figure of a page.
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class BondFigure:
    """What the figure of a bond scan shows.

    Attributes:
        title: what bond of what molecule.
        reference: profile of the method that made the labels.
        reference_name: name of that method.
        profiles: profiles of the runs by label of their method, in the unit of the reference.
        trained_angstrom: shortest and longest bond of that kind in the training data.
    """

    title: str
    reference: BondProfile
    reference_name: str
    profiles: Mapping[str, Sequence[BondProfile]]
    trained_angstrom: tuple[float, float]


def learning_curves(comparison: Comparison) -> str:
    """Return energy, force and consistency error on validation against steps and seconds."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(10.5, 5.6), layout="constrained")
        axes = figure.subplots(2, len(_CURVES))
        for column, (quantity, title) in enumerate(_CURVES.items()):
            for line, abscissa in enumerate(("step", "train_seconds")):
                panel = axes[line, column]
                for row, colour in zip(comparison.rows, _colours(comparison), strict=True):
                    _curve(panel, row, abscissa, quantity, colour)
                panel.set_yscale("log")
                plain_log_axis(panel.yaxis)
                if line == 0:
                    panel.set_title(f"{title} ({unit_of(quantity, comparison.unit)})")
        for panel in axes[0]:
            panel.set_xlabel("training step")
        for panel in axes[1]:
            panel.set_xlabel("seconds of training")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        return as_svg(figure, "curves")


def bond_profiles(data: BondFigure, comparison: Comparison) -> str:
    """Return the energy along the bond: reference and each method, mean and range over seeds."""
    reference = data.reference
    lengths, zero = np.asarray(reference.distances_angstrom), reference.at_minimum()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "bond"}):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        curve = reference.relative(zero)
        left.plot(lengths, curve, color=INK, linewidth=2.4, label=data.reference_name)
        for row, colour in zip(comparison.rows, _colours(comparison), strict=True):
            energies = np.array([p.relative(zero) for p in data.profiles[row.label]])
            for panel, values in ((left, energies), (right, energies - curve)):
                panel.plot(lengths, values.mean(axis=0), color=colour, label=row.label)
                panel.fill_between(
                    lengths, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0
                )
        right.axhline(0, color=INK, linewidth=1)
        for panel in (left, right):
            panel.axvspan(*data.trained_angstrom, color=INK, alpha=0.08, lw=0)
            panel.set_xlabel("bond length (Å)")
            panel.margins(x=0)
        left.set_title(f"energy above the minimum ({reference.unit})")
        right.set_title(f"difference to {data.reference_name} ({reference.unit})")
        left.legend()
        return as_svg(figure, "bond")


def _colours(comparison: Comparison) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(comparison.rows))]


def _curve(panel: Axes, row: Row, abscissa: str, quantity: str, colour: str) -> None:
    """Draw each seed as a thin line and the mean over seeds as a thick one."""
    tables = [run.folder.metrics("val").set_index("step") for run in row.runs]
    tables = [table for table in tables if quantity in table]
    for table in tables:
        across = table.index if abscissa == "step" else table[abscissa]
        panel.plot(across, table[quantity], color=colour, alpha=0.35, linewidth=0.8)
    if not tables:
        return
    columns = [quantity] if abscissa == "step" else [abscissa, quantity]
    mean = pandas.concat([table[columns] for table in tables]).groupby("step").mean()
    across = mean.index if abscissa == "step" else mean[abscissa]
    panel.plot(across, mean[quantity], color=colour, label=row.label)


#: What is labelled of a power of ten, the first that gives enough labels.
_LABELLED = ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7))


def plain_log_axis(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers, at least three where something is drawn."""
    axis.axes.autoscale_view()
    low, high = axis.get_view_interval()
    for subs in _LABELLED:
        locator = matplotlib.ticker.LogLocator(subs=subs)
        if sum(low <= tick <= high for tick in locator.tick_values(low, high)) >= 3:
            break
    axis.set_major_locator(locator)
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def as_svg(figure: Figure, prefix: str) -> str:
    """Return a figure as an SVG element whose text has the colour of the page around it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # matplotlib makes these of the coordinates' last bits, which differ between machines.
    hashed = dict.fromkeys(re.findall(r'\bid="([a-zA-Z][0-9a-f]{10})"', svg))
    numbers = {name: f"n{number}" for number, name in enumerate(hashed)}
    svg = re.sub(r"\b[a-zA-Z][0-9a-f]{10}\b", lambda found: numbers.get(found[0], found[0]), svg)
    # Identifiers must be unique in the page that holds several figures.
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg, count=1)
