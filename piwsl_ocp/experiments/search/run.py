"""Make the trials of a search with a launcher: draw values, watch, stop the hopeless, keep all."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas
from optuna.trial import TrialState
from rich.console import Console
from rich.progress import Progress

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.progress import progress_bar
from piwsl_ocp.experiments.run_folder import RunFolder
from piwsl_ocp.experiments.run_record import Failure, RunRecord
from piwsl_ocp.experiments.search.plan import SearchPlan
from piwsl_ocp.experiments.search.result import in_words
from piwsl_ocp.experiments.search.study import (
    REASON,
    best_of,
    new_trial,
    taken_up,
    trials_of,
)
from piwsl_ocp.experiments.sweep.run import LOOK_SECONDS, Launcher, make_runs
from piwsl_ocp.experiments.sweep.status import steps_done


def run(
    plan: SearchPlan,
    study: optuna.Study,
    launcher: Launcher,
    console: Console,
    *,
    parallel: int | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> None:
    """Make trials until there are as many as wanted; those that were under way are taken up.

    A trial whose run was ended from outside, as by a lack of memory or the failure of a node, is
    set aside: it stays under way, and the next call takes it up.

    Args:
        plan: the search.
        study: see `study.open_study`.
        launcher: where to make the runs.
        console: where to show the progress.
        parallel: trials at a time; by default as many as the launcher has room for, but at least
            four rounds of them: trials of one round learn nothing from each other.
        on_end: called after each end of a trial.

    Raises:
        UserError: if the launcher refuses the runs.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    if parallel is None:
        room = max(1, launcher.slots // len(plan.search.seeds))
        parallel = min(room, max(2, plan.search.trials // 4))
    with progress_bar(console) as bar:
        make_runs(
            launcher, _Feed(plan, study, launcher, _Progress(plan, bar, console), parallel, on_end)
        )


@dataclass
class _Trial:
    """A trial under way.

    Attributes:
        trial: Optuna's record of it.
        values: of the settings that are searched for.
        jobs: its runs.
        reported: the last step whose value was reported.
    """

    trial: optuna.Trial
    values: Mapping[str, Any]
    jobs: list[Job]
    reported: int = -1

    @property
    def folders(self) -> set[str]:
        """The folders of its runs."""
        return {job.run_folder for job in self.jobs}


class _Feed:
    """Names the runs to make next, for `make_runs`.

    What becomes of a trial follows from the logs of its runs alone, never from when they are read.
    """

    def __init__(
        self,
        plan: SearchPlan,
        study: optuna.Study,
        launcher: Launcher,
        progress: _Progress,
        parallel: int,
        on_end: Callable[[], None],
    ) -> None:
        self._plan, self._study, self._launcher = plan, study, launcher
        self._progress, self._parallel, self._on_end = progress, parallel, on_end
        self._interrupted = deque(trials_of(study, TrialState.RUNNING))
        self._active: list[_Trial] = []
        self._under_way: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._looked = -math.inf

    def __call__(self, ended: Mapping[str, Failure | None]) -> list[Job]:
        self._under_way -= ended.keys()
        self._failures |= {folder: why for folder, why in ended.items() if why}
        if ended or time.monotonic() - self._looked >= LOOK_SECONDS:
            for trial in list(self._active):
                self._look(trial)
            self._looked = time.monotonic()
        while len(self._active) < self._parallel and (trial := self._next()):
            self._active.append(trial)
            self._look(trial)
        self._progress.show(self._study, self._active)
        return self._to_begin()

    def _next(self) -> _Trial | None:
        """Return a trial that was interrupted, or a new one; None if there are enough."""
        if self._interrupted:
            frozen = self._interrupted.popleft()
            trial, values = taken_up(self._study, self._plan, frozen)
            reported = max(frozen.intermediate_values, default=-1)
            return _Trial(trial, values, self._plan.jobs(values), reported)
        if len(trials_of(self._study)) >= self._plan.search.trials:
            return None
        trial, values = new_trial(self._study, self._plan)
        return _Trial(trial, values, self._plan.jobs(values))

    def _to_begin(self) -> list[Job]:
        """Return the runs of all trials that neither are under way nor finished, each once."""
        jobs = {
            job.run_folder: job
            for trial in self._active
            for job in trial.jobs
            if job.run_folder not in self._under_way and not job.is_done
        }
        for folder in jobs:
            RunRecord(folder).forget_failure()
            self._failures.pop(folder, None)
        self._under_way |= jobs.keys()
        return list(jobs.values())

    def _look(self, trial: _Trial) -> None:
        """Report what the runs of a trial have logged, and end it if it is time to."""
        curves = [_Curve.read(job) for job in trial.jobs]
        for job, curve in zip(trial.jobs, curves, strict=True):
            failure = self._failures.get(job.run_folder)
            if failure and failure.is_passing:
                self._set_aside(trial, f"{failure.reason} (run {job.name})")
                return
            problem = failure.reason if failure else curve.problem(self._plan.metric)
            if problem is not None:
                reason = f"{problem} (run {job.name})"
                trial.trial.set_user_attr(REASON, reason)
                self._end(trial, TrialState.FAIL, reason)
                return
        means = pandas.concat([curve.values.cummin() for curve in curves], axis=1, join="inner")
        for step, value in means.mean(axis=1).items():
            if step < trial.reported:
                continue
            if step > trial.reported:
                trial.trial.report(value, step)
                trial.reported = step
            if step != self._plan.steps and trial.trial.should_prune():
                self._end(trial, TrialState.PRUNED, f"stopped at step {step}, {value:.4g}")
                return
        if all(curve.is_whole for curve in curves):
            value = sum(float(curve.values.min()) for curve in curves) / len(curves)
            self._end(trial, TrialState.COMPLETE, f"{value:.4g}", value)

    def _end(
        self, ended: _Trial, state: TrialState, words: str, value: float | None = None
    ) -> None:
        self._study.tell(ended.trial, value, state)
        self._let_go(ended)
        self._progress.say(ended, state, words, self._study)
        self._on_end()

    def _set_aside(self, trial: _Trial, reason: str) -> None:
        """Leave a trial to the next call of the same command."""
        self._let_go(trial)
        self._progress.say(trial, TrialState.RUNNING, f"set aside: {reason}", self._study)

    def _let_go(self, trial: _Trial) -> None:
        """Stop the runs of a trial, unless another one needs them."""
        self._active.remove(trial)
        needed = {folder for other in self._active for folder in other.folders}
        for folder in (trial.folders & self._under_way) - needed:
            self._launcher.stop(folder)


@dataclass(frozen=True)
class _Curve:
    """What a run has logged of its validations.

    Attributes:
        values: the primary metric by step.
        is_whole: whether the run is finished.
    """

    values: pandas.Series
    is_whole: bool

    @classmethod
    def read(cls, job: Job) -> _Curve:
        """Read the log of a run; it may be written meanwhile, or be missing."""
        is_whole = job.is_done  # before the log, which may become whole in between
        try:
            values = RunFolder(Path(job.run_folder)).validation_curve
        except UserError:  # not begun, or the log is damaged
            return cls(pandas.Series(dtype=float), is_whole)
        if not is_whole and len(values) and math.isnan(values.iloc[-1]):
            values = values.iloc[:-1]  # half written
        return cls(values, is_whole)

    def problem(self, metric: str) -> str | None:
        """Return why the run is of no use, None if it is not so."""
        for step, value in self.values.items():
            if not math.isfinite(value):
                return f"diverged: {metric} is {value} at step {step}"
        if self.is_whole and not len(self.values):
            return f"its log holds no {metric}"
        return None


class _Progress:
    """The bar of a search, and a line for each trial that ends."""

    def __init__(self, plan: SearchPlan, bar: Progress, console: Console) -> None:
        self._plan, self._bar, self._console = plan, bar, console
        self._task = bar.add_task("", total=None)
        self._looked = -math.inf

    def show(self, study: optuna.Study, active: list[_Trial]) -> None:
        """Bring the bar up to date, unless that was done a moment ago."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        search, best = self._plan.search, best_of(study)
        ended = sum(trial.state.is_finished() for trial in trials_of(study))
        each = len(search.seeds) * (self._plan.steps or 1)
        done = ended * each
        if self._plan.steps:
            done += sum(steps_done(job.run_folder) for trial in active for job in trial.jobs)
        words = f"{ended} of {search.trials} trials" + (f", best {best.value:.4g}" if best else "")
        total = max(search.trials, len(trials_of(study))) * each
        self._bar.update(self._task, completed=done, total=total, description=words)

    def say(self, ended: _Trial, state: TrialState, words: str, study: optuna.Study) -> None:
        """Say how a trial ended, or why it is set aside."""
        best = best_of(study)
        if state is TrialState.FAIL:
            words = f"failed: {words}"
        elif best is not None and best.number == ended.trial.number:
            words += ", the best so far"
        line = f"trial {ended.trial.number}: {words}; {in_words(ended.values)}"
        self._console.print(line, markup=False, soft_wrap=True)
