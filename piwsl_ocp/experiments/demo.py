"""The demo: supervised, PIWSL and trapezoid on the embedded aspirin, compared on one page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
from rich.console import Console
from rich.progress import Progress

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.aspirin_scan import aspirin
from piwsl_ocp.experiments.aspirin import bond_figure
from piwsl_ocp.experiments.compare import Comparison, compare
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.processes import available_cores, run_jobs
from piwsl_ocp.experiments.progress import progress_bar
from piwsl_ocp.experiments.report import snippet, write_report
from piwsl_ocp.experiments.run_folder import CONFIG_FILE, RunFolder
from piwsl_ocp.experiments.tables import csv_text, markdown, terminal_table

TRAINING_STRUCTURES = 100
STEPS = 1000

#: What is measured of each run.
_MEASUREMENTS = ("errors", "bond_scan")

#: Validations of a run.
EVALUATIONS = 10

#: Work of a training step relative to the supervised one, for the remaining time alone.
_METHODS: Mapping[str, float] = {"piwsl": 2.6, "trapezoid": 1.9, "supervised": 1.0}
#: Work of an evaluation in supervised training steps.
_EVALUATION_WORK = 300.0

#: What has to agree for a run in the folder to be gone on with.
_SETTINGS = ("model", "optim", "dataset", "loss_functions", "evaluation_metrics", "seed")


@dataclass(frozen=True)
class DemoOptions:
    """What the demo does.

    Attributes:
        out: folder for everything it makes.
        steps: training steps of each run.
        seeds: runs of each method.
        parallel: runs side by side; one for each core by default.
        overwrite: throw away the runs of an earlier demo in the folder.
    """

    out: Path
    steps: int = STEPS
    seeds: int = 2
    parallel: int | None = None
    overwrite: bool = False


class Demo:
    """The steps of the demo in the order in which they happen.

    Args:
        options: what to do.
        console: where to say it.
    """

    def __init__(self, options: DemoOptions, console: Console) -> None:
        self.options = options
        self.console = console
        self.data = options.out / "data" / "embedded_aspirin" / f"n{TRAINING_STRUCTURES}"
        self.structure = options.out / "aspirin.xyz"
        self.page = options.out / "report.html"

    def run(self) -> Comparison:
        """Convert, train, evaluate, compare and show; go on with what an earlier call left.

        Raises:
            UserError: if the folder holds another demo, or a run fails.
            KeyboardInterrupt: when the runs have stopped.
        """
        if self.options.overwrite:
            self._remove_earlier()
        self._convert()
        self._train()
        return self._show()

    def run_folder(self, method: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.options.out / "runs" / f"painn_{method}_seed{seed}"

    def _runs(self) -> list[tuple[str, int]]:
        """Return method and seed of each run, the longest first."""
        return [(method, seed) for method in _METHODS for seed in range(self.options.seeds)]

    def _convert(self) -> None:
        options = ConversionOptions(
            train=TRAINING_STRUCTURES, name="embedded_aspirin", overwrite=self.options.overwrite
        )
        convert("embedded", ["aspirin"], self.data, options, progress=False)
        write_atomically(
            self.structure,
            lambda file: file.write(_extended_xyz().encode()),
        )

    def _config(self, method: str, seed: int) -> dict[str, Any]:
        from piwsl_ocp.ocp.config import load_config

        overrides: dict[str, Any] = {
            f"dataset.{split}.src": str(self.data / split / "data.lmdb")
            for split in ("train", "val", "test")
        }
        overrides |= {
            "seed": seed,
            "identifier": f"painn_{method}_seed{seed}",
            "cpu": True,
            "logger.wandb": "disabled",
            "logger.tensorboard": False,
            "optim.max_steps": self.options.steps,
            "optim.T_max": self.options.steps,
            "optim.eval_every": max(1, self.options.steps // EVALUATIONS),
        }
        path = f"configs/experiments/embedded_aspirin/painn_{method}.yml"
        return load_config(path, overrides)

    def _train(self) -> None:
        jobs = {}
        for method, seed in self._runs():
            folder, config = self.run_folder(method, seed), self._config(method, seed)
            _check_same_settings(folder, config)
            jobs[method, seed] = Job(config, str(folder), str(self.data), _MEASUREMENTS)
        left = {key: job for key, job in jobs.items() if not job.is_done}
        if not left:
            return
        steps = self.options.steps
        parallel = self.options.parallel or min(len(left), available_cores())
        self.console.print(
            f"{len(left)} runs of {steps} steps, {parallel} at a time, in {self.options.out}; "
            "Ctrl-C saves, the same command goes on"
        )
        with progress_bar(self.console) as bar:
            work = _Work(bar, {key: job.run_folder for key, job in left.items()}, steps)
            run_jobs(list(left.values()), parallel, work.update)

    def _show(self) -> Comparison:
        folders = [self.run_folder(method, seed) for method, seed in self._runs()]
        comparison = compare(folders)
        write_report(
            comparison,
            self.page,
            title="PIWSL demo: aspirin from 100 structures",
            bond=bond_figure(comparison),
            structure=self.structure,
            command=self._command(),
        )
        for name, text in {
            "table.md": markdown(comparison),
            "table.csv": csv_text(comparison),
        }.items():
            write_atomically(
                self.options.out / name, lambda file, text=text: file.write(text.encode())
            )
        checkpoint = comparison.best.folder.best_checkpoint
        self.console.print(terminal_table(comparison, self.console.width))
        self.console.print(f"\npage:            {self.page}", soft_wrap=True)
        self.console.print(f"best checkpoint: {checkpoint}", soft_wrap=True)
        self.console.print("in ASE (eV, eV/Å):")
        for line in snippet(checkpoint, self.structure).splitlines():
            self.console.print(f"    {line}", markup=False, soft_wrap=True)
        return comparison

    def _command(self) -> str:
        options = self.options
        return f"piwsl demo --out {options.out} --steps {options.steps} --seeds {options.seeds}"

    def _remove_earlier(self) -> None:
        """Remove the run folders of an earlier demo, and nothing else."""
        for folder in sorted((self.options.out / "runs").glob("painn_*_seed*")):
            if (folder / CONFIG_FILE).is_file():
                shutil.rmtree(folder)


class _Work:
    """Brings the bar up to date from what the runs have logged."""

    def __init__(self, bar: Progress, folders: Mapping[tuple[str, int], str], steps: int) -> None:
        self._bar, self._folders, self._steps = bar, folders, steps
        total = sum(steps * _METHODS[method] + _EVALUATION_WORK for method, _ in folders)
        self._task = bar.add_task("training", total=total, completed=self._look()[0])

    def update(self) -> None:
        done, busy = self._look()
        self._bar.update(self._task, completed=done, description=", ".join(busy) or "starting")

    def _look(self) -> tuple[float, list[str]]:
        """Return the work that is done and a phrase for each run that is under way."""
        done, busy = 0.0, []
        for (method, seed), folder in self._folders.items():
            step, evaluated = _state(Path(folder))
            done += step * _METHODS[method] + evaluated * _EVALUATION_WORK
            if step and not evaluated:
                busy.append(f"{method} {seed}: {step}/{self._steps}")
        return done, busy


def _state(folder: Path) -> tuple[int, bool]:
    """Return the last logged step of a run and whether its results are there."""
    if not (folder / CONFIG_FILE).is_file():
        return 0, False
    run = RunFolder(folder)
    return run.last_step, run.has_result()


def _check_same_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with a run that was made with other settings."""
    if not (folder / CONFIG_FILE).is_file():
        return
    saved = RunFolder(folder).config
    for section in _SETTINGS:
        key = _first_difference(saved.get(section), config.get(section), section)
        if key:
            raise UserError(
                f"'{folder}' was made with another {key}: give another --out, the same options as "
                "before, or --overwrite to train again"
            )


def _first_difference(saved: Any, wanted: Any, key: str) -> str | None:
    """Return the dotted key of the first difference of two nested values, None if there is none."""
    if isinstance(saved, Mapping) and isinstance(wanted, Mapping):
        below: Sequence[str] = sorted(saved.keys() | wanted.keys())
        found = (_first_difference(saved.get(k), wanted.get(k), f"{key}.{k}") for k in below)
        return next((difference for difference in found if difference), None)
    return None if saved == wanted else key


def _extended_xyz() -> str:
    buffer = io.StringIO()
    ase.io.write(buffer, aspirin(), format="extxyz")
    return buffer.getvalue()
