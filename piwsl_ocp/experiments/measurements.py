"""What can be measured of a finished training, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.aspirin import RESULT as BOND_SCAN
from piwsl_ocp.experiments.aspirin import scan_run
from piwsl_ocp.experiments.run_folder import RunFolder


@dataclass(frozen=True)
class Measurement:
    """One measurement of the best checkpoint of a run.

    Attributes:
        result: the file that it leaves in the run folder.
        measure: does it, given the run and the folder of its data set.
    """

    result: str
    measure: Callable[[RunFolder, Path], object]


def measure(name: str, run: RunFolder, dataset_folder: Path) -> None:
    """Do a measurement and leave its result in the run folder.

    Args:
        name: a key of `MEASUREMENTS`.
        run: a finished training.
        dataset_folder: its data set.

    Raises:
        UserError: if the best checkpoint is not there any more, something cannot be read, or the
            data are not those of the training.
    """
    if not run.best_checkpoint.is_file():
        raise UserError(
            f"'{run.best_checkpoint}' is not there, and {name} cannot be measured without it: "
            f"remove the run's folder '{run.path}' and the same command makes it again"
        )
    MEASUREMENTS[name].measure(run, dataset_folder)
    if not (run.path / MEASUREMENTS[name].result).is_file():
        raise UserError(
            f"'{dataset_folder}' was made anew since the training in '{run.path}': convert the "
            f"data as before, and the same command measures {name}"
        )


def _errors(run: RunFolder, dataset_folder: Path) -> None:
    from piwsl_ocp.evaluation.evaluate import evaluate

    evaluate(run.path, dataset_folder)


def _curl(run: RunFolder, dataset_folder: Path) -> None:
    from piwsl_ocp.evaluation.curl import measure_curl

    measure_curl(run.path, dataset_folder)


def _bond_scan(run: RunFolder, dataset_folder: Path) -> None:
    scan_run(run)


MEASUREMENTS: Mapping[str, Measurement] = {
    "errors": Measurement("results/test.json", _errors),
    "curl": Measurement("results/curl.json", _curl),
    "bond_scan": Measurement(BOND_SCAN, _bond_scan),
}
