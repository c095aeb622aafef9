"""The result of a search: a configuration with the best values, ready to train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from piwsl_ocp.atomic_file import require_absent, write_atomically
from piwsl_ocp.experiments.search.plan import SearchPlan
from piwsl_ocp.experiments.search.study import best_of, trials_of

RESULT = "best.yml"

#: What the states of trials are called here.
STATES: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "finished",
    TrialState.RUNNING: "running",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}


def write_result(plan: SearchPlan, study: optuna.Study, *paths: Path) -> None:
    """Write the configuration of the best trial, if there is one yet.

    Args:
        plan: the search.
        study: its trials.
        paths: the files; existing ones are replaced.

    Raises:
        UserError: if one cannot be written.
    """
    best = best_of(study)
    if best is None:
        return
    text = _header(plan, study, best) + yaml.safe_dump(plan.config(best.params), sort_keys=False)
    for path in paths:
        write_atomically(path, lambda file: file.write(text.encode()))


def require_own_or_new(plan: SearchPlan, path: Path) -> None:
    """Raise a UserError if a file is there that this search did not write."""
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text().startswith(_first_line(plan)):
            return
    require_absent(path)


def counts(study: optuna.Study) -> str:
    """Return how many trials are in each state, in words."""
    found = Counter(STATES[trial.state] for trial in trials_of(study))
    return ", ".join(f"{found[name]} {name}" for name in STATES.values() if found[name])


def in_words(values: Mapping[str, Any]) -> str:
    """Return values with short names as a phrase."""
    names = short_names(values)
    return ", ".join(f"{names[key]} {as_text(value)}" for key, value in values.items())


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return the last part of each dotted key, the whole key where two have the same last part."""
    keys = list(keys)
    last = Counter(key.split(".")[-1] for key in keys)
    return {key: key.split(".")[-1] if last[key.split(".")[-1]] == 1 else key for key in keys}


def as_text(value: Any) -> str:
    """Return a value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _first_line(plan: SearchPlan) -> str:
    return f"# Best of the search '{plan.search.name}'"


def _header(plan: SearchPlan, study: optuna.Study, best: FrozenTrial) -> str:
    seeds = ", ".join(str(seed) for seed in plan.search.seeds)
    values = "".join(f"#   {key}: {value}\n" for key, value in best.params.items())
    return (
        f"{_first_line(plan)}: trial {best.number}, {plan.metric} {best.value:.6g} on validation "
        f"(seed {seeds}).\n"
        f"# Trials: {counts(study)}. Values that were searched for:\n{values}"
        "# The search replaces this file when it finds better values: change a copy of it.\n"
    )
