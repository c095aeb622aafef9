"""The bond scan of the embedded aspirin as a result of a run and as a figure of a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.aspirin_scan import METHOD, read_scan
from piwsl_ocp.evaluation.bond_scan import DISTANCES_ANGSTROM, BondProfile, bonds
from piwsl_ocp.experiments.compare import Comparison, Run
from piwsl_ocp.experiments.plots import BondFigure
from piwsl_ocp.experiments.run_folder import RunFolder

RESULT = "results/bond_scan.json"


def scan_run(run: RunFolder) -> Path:
    """Stretch the C-H bond with the best checkpoint of a run and keep the profile.

    Args:
        run: a run on the embedded aspirin, or on other data with its elements.

    Returns:
        The file that was written.
    """
    from piwsl_ocp.ocp.predictor import Predictor

    predictor = Predictor.load(run.best_checkpoint)
    profile = read_scan(predictor.unit).of_model(predictor)
    content = {
        "unit": profile.unit,
        "distances_angstrom": profile.distances_angstrom,
        "energies": profile.energies,
    }
    path = run.path / RESULT
    write_atomically(path, lambda file: file.write(json.dumps(content).encode()))
    return path


def bond_figure(
    comparison: Comparison, on_omission: Callable[[str], object] = lambda reason: None
) -> BondFigure | None:
    """Return the profiles of all compared runs beside the reference, or None.

    It is None if a run has no profile, or if there is no fair reference: the training data are not
    there any more, their labels are of another level of theory, or no bond is as long as those of
    the scan.

    Args:
        comparison: of runs on the embedded aspirin.
        on_omission: is told in one line why profiles are left out.

    Raises:
        UserError: if a profile cannot be read.
    """
    paths = [run.folder.path / RESULT for run in comparison.runs]
    if not all(path.is_file() for path in paths):
        return None
    try:
        trained = _trained_angstrom(comparison.first)
    except UserError as reason:
        on_omission(str(reason))
        return None
    return BondFigure(
        title="Stretching one C–H bond of aspirin",
        reference=read_scan(comparison.unit).reference,
        reference_name=METHOD,
        profiles={
            row.label: [_read(run.folder.path / RESULT) for run in row.runs]
            for row in comparison.rows
        },
        trained_angstrom=trained,
    )


def _trained_angstrom(run: Run) -> tuple[float, float]:
    """Return the length of the shortest and of the longest C-H bond of the training data.

    Raises:
        UserError: if these data are not there, or the scan is no reference for them.
    """
    from piwsl_ocp.evaluation.evaluate import atoms_of_split

    folder = Path(run.folder.config["dataset"]["train"]["src"]).parent.parent
    info = DatasetInfo.read(folder)
    if info.splits["train"].checksum != run.read("training", "checksum"):
        raise UserError(f"'{folder}' was made anew since the training in '{run.folder.path}'")
    if info.level_of_theory != METHOD:
        raise UserError(
            f"the reference is {METHOD}, the labels of '{folder}' are {info.level_of_theory}"
        )
    structures = atoms_of_split(folder, "train")
    lengths = [atoms.get_distance(*pair) for atoms in structures for pair in bonds(atoms)]
    shortest, longest = min(lengths, default=math.inf), max(lengths, default=-math.inf)
    if not any(shortest <= distance <= longest for distance in DISTANCES_ANGSTROM):
        raise UserError(f"no C-H bond in '{folder}' is as long as those of the scan")
    return shortest, longest


def _read(path: Path) -> BondProfile:
    try:
        content = json.loads(path.read_text())
        return BondProfile(
            tuple(content["distances_angstrom"]), tuple(content["energies"]), content["unit"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is damaged: remove it and run the demo again") from error
