"""The trials of a search, kept by Optuna in one file of the search's folder."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from piwsl_ocp.atomic_file import drop_cut_off_line
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.search.plan import SearchPlan

JOURNAL = "study.journal"
LOCK = "study.lock"

#: Attribute of a study that holds `SearchPlan.description`.
_DESCRIPTION = "search"
#: Attribute of a failed trial.
REASON = "reason"


@contextmanager
def open_study(plan: SearchPlan) -> Iterator[optuna.Study]:
    """Begin the study of a search or go on with it, as the only process that does.

    Raises:
        UserError: if another process has it, its file is damaged, or its trials are those of
            another search.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(plan.folder / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process works on the search in '{plan.folder}': wait for it, or stop it first"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write to the search in '{plan.folder}': {reason}") from error
    try:
        _load(plan)  # a damaged file is refused before anything is written to it
        drop_cut_off_line(plan.folder / JOURNAL)
        study = _load(plan) or _create(plan)
        _require_same_search(plan, study)
        yield study
    finally:
        lock.release()


def read_study(plan: SearchPlan) -> optuna.Study:
    """Return the study of a search to look at; another process may work on it.

    Raises:
        UserError: if the search was never begun, or its file is damaged.
    """
    study = _load(plan)
    if study is None:
        raise UserError(
            f"no search '{plan.search.name}' in '{plan.folder.parent}': "
            f"begin it with `piwsl search run {plan.file}`"
        )
    return study


def is_open(plan: SearchPlan) -> bool:
    """Return whether a process works on a search."""
    lock = FileLock(plan.folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # somebody else's search, which may be read alone
        return False
    lock.release()
    return False


def trials_of(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials in some states, or all of them, in the order of their numbers."""
    return study.get_trials(deepcopy=False, states=states or None)


def new_trial(study: optuna.Study, plan: SearchPlan) -> tuple[Trial, dict[str, Any]]:
    """Return a new trial and its values."""
    study.sampler = _sampler(plan, len(trials_of(study)))
    return _with_values(study.ask(), plan)


def taken_up(
    study: optuna.Study, plan: SearchPlan, frozen: FrozenTrial
) -> tuple[Trial, dict[str, Any]]:
    """Return a trial that was under way when its process ended, with the values that it had."""
    study.sampler = _sampler(plan, frozen.number)
    # Optuna has no public way to go on with a trial of another process.
    return _with_values(Trial(study, frozen._trial_id), plan)


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Return the finished trial with the lowest value, the first of equal ones."""
    finished = trials_of(study, TrialState.COMPLETE)
    return min(finished, key=lambda trial: trial.value, default=None)


def _with_values(trial: Trial, plan: SearchPlan) -> tuple[Trial, dict[str, Any]]:
    return trial, {key: values.draw(key, trial) for key, values in plan.search.space.items()}


def _create(plan: SearchPlan) -> optuna.Study:
    return optuna.create_study(
        study_name=plan.search.name, storage=_storage(plan), pruner=_pruner(plan)
    )


def _load(plan: SearchPlan) -> optuna.Study | None:
    """Return the study of a search without writing anything; None if there is none.

    Raises:
        UserError: if its file is damaged.
    """
    path = plan.folder / JOURNAL
    if not path.is_file() or not path.stat().st_size:
        return None
    try:
        _require_records(path)
        storage = _storage(plan)
        if not storage.get_all_studies():
            raise ValueError("it holds no search")
        return optuna.load_study(study_name=plan.search.name, storage=storage, pruner=_pruner(plan))
    except (ValueError, LookupError, TypeError, AssertionError) as error:
        raise UserError(
            f"'{path}' is damaged ({' '.join(str(error).split())}): put a copy of it back, or "
            "rename it to begin anew; finished runs are not repeated"
        ) from None


def _storage(plan: SearchPlan) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return JournalStorage(JournalFileBackend(str(plan.folder / JOURNAL)))


def _require_records(path: Path) -> None:
    """Raise a ValueError for a line that is no record, unless it is a last one that was cut off.

    Optuna tells a whole last line that it cannot read only when there is another one after it.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            is_record = isinstance(json.loads(line), dict)
        except ValueError:
            is_record = False
        if not is_record:
            raise ValueError(f"line {number} is no record of a search")


def _sampler(plan: SearchPlan, number: int) -> BaseSampler:
    """Return what draws the values of one trial: they depend on its number and those before."""
    settings = plan.search.sampler
    seed = int(np.random.SeedSequence((settings.seed, number)).generate_state(1)[0])
    if settings.name == "random":
        return RandomSampler(seed=seed)
    # A trial under way counts as a bad one, so that those beside it look elsewhere.
    return TPESampler(n_startup_trials=settings.startup_trials, seed=seed, constant_liar=True)


def _pruner(plan: SearchPlan) -> optuna.pruners.BasePruner:
    settings = plan.search.pruner
    if settings.keep_percent == 100:
        return optuna.pruners.NopPruner()
    return optuna.pruners.PercentilePruner(
        settings.keep_percent,
        n_startup_trials=settings.startup_trials,
        n_warmup_steps=plan.warmup_steps,
    )


def _require_same_search(plan: SearchPlan, study: optuna.Study) -> None:
    known = study.user_attrs.get(_DESCRIPTION)
    if known is None:
        study.set_user_attr(_DESCRIPTION, plan.description)
        return
    before, now = _flat(known), _flat(plan.description)
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            raise UserError(
                f"search '{plan.file}': {key} is {now.get(key, 'not set')!r}, and was "
                f"{before.get(key, 'not set')!r} in the trials of '{plan.folder}': "
                "give the changed search another name"
            )


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    if not isinstance(content, Mapping) or not content:
        return {prefix: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
