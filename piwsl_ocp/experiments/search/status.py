"""How far a search is: its trials as a table for the terminal."""

from __future__ import annotations

import math

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.table import Table
from rich.text import Text

from piwsl_ocp.experiments.search.plan import SearchPlan
from piwsl_ocp.experiments.search.result import STATES, as_text, counts, short_names
from piwsl_ocp.experiments.search.study import REASON, trials_of

#: States in the order of the table.
_ORDER = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL)
_STYLES = {"finished": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}


def best_first(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials: finished ones from the best on, then the others by state and number."""
    return sorted(
        trials_of(study),
        key=lambda trial: (
            _ORDER.index(trial.state),
            trial.value if trial.state is TrialState.COMPLETE else 0.0,
            trial.number,
        ),
    )


def value_of(trial: FrozenTrial) -> float:
    """Return the value of a trial, the best so far where it is not finished."""
    if trial.value is not None:
        return trial.value
    return min(trial.intermediate_values.values(), default=math.nan)


def table(plan: SearchPlan, study: optuna.Study, is_open: bool) -> Group:
    """Return the trials as a table, with the reasons of failures below.

    Args:
        plan: the search.
        study: its trials.
        is_open: whether a process works on it.
    """
    shown = Table(title=f"{plan.search.name}: {plan.metric} on validation")
    for name in ("trial", "state", "step", "value", *short_names(plan.search.space).values()):
        left = name == "state"
        shown.add_column(name, justify="left" if left else "right", overflow="fold")
    for trial in best_first(study):
        state = STATES[trial.state]
        if trial.state is TrialState.RUNNING and not is_open:
            state = "interrupted"
        value = value_of(trial)
        shown.add_row(
            str(trial.number),
            f"[{_STYLES.get(state, 'dim')}]{state}",
            str(max(trial.intermediate_values, default=0)),
            "" if math.isnan(value) else f"{value:.4g}",
            *(as_text(trial.params.get(key, "")) for key in plan.search.space),
        )
    shown.caption = f"{counts(study)}, of {plan.search.trials} wanted"
    return Group(shown, *(Text(line) for line in reasons(study)))


def reasons(study: optuna.Study) -> list[str]:
    """Return why each failed trial failed, one line each."""
    return [
        f"trial {trial.number}: {trial.user_attrs.get(REASON, 'for an unknown reason')}"
        for trial in trials_of(study, TrialState.FAIL)
    ]
