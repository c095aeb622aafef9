"""A search as one self-contained HTML page: history, value against each setting, trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.experiments.plots import COLOURS, INK, STYLE, as_svg
from piwsl_ocp.experiments.search.plan import Range, SearchPlan
from piwsl_ocp.experiments.search.result import RESULT, STATES, as_text, counts, short_names
from piwsl_ocp.experiments.search.status import best_first, reasons, value_of
from piwsl_ocp.experiments.search.study import best_of, trials_of

PAGE = "search.html"

#: Finished trials that the importance of a setting needs at least.
_TRIALS_FOR_IMPORTANCE = 10


def write_page(plan: SearchPlan, study: optuna.Study) -> Path:
    """Write the page of a search in its folder and return its path.

    Raises:
        UserError: if it cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("piwsl_ocp.experiments.search", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    best = best_of(study)
    page = environment.get_template("search.html.j2").render(
        name=plan.search.name,
        metric=plan.metric,
        counts=counts(study),
        wanted=plan.search.trials,
        best=None if best is None else _row(plan, best),
        result=plan.folder / RESULT,
        figure=Markup(figure(plan, study)),
        importances=importances(study),
        settings=short_names(plan.search.space),
        rows=[_row(plan, trial) for trial in best_first(study)],
        reasons=reasons(study),
        config=plan.search.config,
        seeds=", ".join(str(seed) for seed in plan.search.seeds),
        command=f"piwsl search run {plan.file}",
    )
    path = plan.folder / PAGE
    write_atomically(path, lambda file: file.write(page.encode()))
    return path


def figure(plan: SearchPlan, study: optuna.Study) -> str:
    """Return the values against the number of the trial and against each setting as SVG."""
    trials = [trial for trial in trials_of(study) if np.isfinite(value_of(trial))]
    count = 1 + len(plan.search.space)
    columns = 2 if count <= 4 else 3
    rows = -(-count // columns)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "search"}):
        drawn = Figure(figsize=(10.5, 3.1 * rows + 0.3), layout="constrained")
        history, *panels = drawn.subplots(rows, columns, squeeze=False).flat
        _history(history, trials)
        names = short_names(plan.search.space)
        for panel, (key, values) in zip(panels, plan.search.space.items(), strict=False):
            _against(panel, key, values, trials)
            panel.set_xlabel(names[key])
        for panel in panels[len(plan.search.space) :]:
            panel.set_axis_off()
        for panel in (history, *panels[: len(plan.search.space)]):
            panel.set_ylabel(plan.metric)
        handles, labels = history.get_legend_handles_labels()
        if handles:
            drawn.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        return as_svg(drawn, "search")


def importances(study: optuna.Study) -> dict[str, str]:
    """Return the share of each setting in being among the best (PED-ANOVA), largest first.

    Empty where there are too few finished trials, or they cannot be told apart.
    """
    if len(trials_of(study, TrialState.COMPLETE)) < _TRIALS_FOR_IMPORTANCE:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.3)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    if not all(np.isfinite(share) for share in found.values()) or sum(found.values()) == 0:
        return {}
    return {key: f"{share:.0%}" for key, share in found.items()}


def _history(panel: Axes, trials: Sequence[FrozenTrial]) -> None:
    _points(panel, [trial.number for trial in trials], trials)
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if finished:
        best = [*np.minimum.accumulate([trial.value for trial in finished])]
        numbers = [trial.number for trial in finished]
        panel.step(
            [*numbers, trials[-1].number],
            [*best, best[-1]],
            where="post",
            color=INK,
            linewidth=1.2,
            label="best so far",
        )
    panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    panel.set_xlabel("trial")


def _against(panel: Axes, key: str, values: Range, trials: Sequence[FrozenTrial]) -> None:
    trials = [trial for trial in trials if key in trial.params]
    across: list[Any] = [trial.params[key] for trial in trials]
    if values.choices is not None:
        across = [values.choices.index(value) for value in across]
        panel.set_xticks(range(len(values.choices)), [str(value) for value in values.choices])
        panel.set_xlim(-0.5, len(values.choices) - 0.5)
    elif values.log:
        panel.set_xscale("log")
        panel.set_xlim(0.8 * values.low, 1.25 * values.high)
    _points(panel, across, trials)


def _points(panel: Axes, across: Sequence[float], trials: Sequence[FrozenTrial]) -> None:
    """Draw finished trials as filled points, the others as rings, at the upper edge if above it."""
    styles: Mapping[TrialState, dict[str, Any]] = {
        TrialState.COMPLETE: {"color": COLOURS[2]},
        TrialState.PRUNED: {"facecolors": "none", "edgecolors": COLOURS[1]},
        TrialState.RUNNING: {"facecolors": "none", "edgecolors": COLOURS[0]},
    }
    bottom, top = _limits(trials)
    for state, style in styles.items():
        chosen = [
            (x, min(value_of(trial), top))
            for x, trial in zip(across, trials, strict=True)
            if trial.state is state
        ]
        if chosen:
            panel.scatter(
                *zip(*chosen, strict=True), s=28, label=STATES[state], clip_on=False, **style
            )
    panel.set_ylim(bottom, top)


def _limits(trials: Sequence[FrozenTrial]) -> tuple[float, float]:
    """Return the range of finished trials, or of all where none is finished, with a margin."""
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    values = [value_of(trial) for trial in finished or trials]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _row(plan: SearchPlan, trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": STATES[trial.state],
        "step": max(trial.intermediate_values, default=0),
        "value": f"{value_of(trial):.4g}" if np.isfinite(value_of(trial)) else "",
        "values": [as_text(trial.params.get(key, "")) for key in plan.search.space],
    }
