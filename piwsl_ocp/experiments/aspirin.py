"""The bond scan of the embedded aspirin as a result of a run and as a figure of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.aspirin_scan import METHOD, read_scan
from piwsl_ocp.evaluation.bond_scan import BondProfile, bonds
from piwsl_ocp.experiments.compare import Comparison
from piwsl_ocp.experiments.plots import BondFigure
from piwsl_ocp.experiments.run_folder import RunFolder

RESULT = "results/bond_scan.json"


def scan_run(run: RunFolder, dataset_folder: Path) -> Path:
    """Stretch the C-H bond with the best checkpoint of a run and keep the profile.

    Args:
        run: a run on the embedded aspirin.
        dataset_folder: the data it was trained on; its bond lengths are kept too.

    Returns:
        The file that was written.
    """
    from piwsl_ocp.evaluation.evaluate import atoms_of_split
    from piwsl_ocp.ocp.predictor import Predictor

    predictor = Predictor.load(run.best_checkpoint)
    scan = read_scan(predictor.unit)
    pairs = bonds(scan.atoms)
    lengths = [
        atoms.get_distance(*pair)
        for atoms in atoms_of_split(dataset_folder, "train")
        for pair in pairs
    ]
    profile = scan.of_model(predictor)
    content = {
        "unit": profile.unit,
        "distances_angstrom": profile.distances_angstrom,
        "energies": profile.energies,
        "trained_angstrom": [min(lengths), max(lengths)],
    }
    path = run.path / RESULT
    write_atomically(path, lambda file: file.write(json.dumps(content).encode()))
    return path


def bond_figure(comparison: Comparison) -> BondFigure | None:
    """Return the profiles of all compared runs, or None if a run has none.

    Raises:
        UserError: if a profile cannot be read.
    """
    paths = [run.folder.path / RESULT for run in comparison.runs]
    if not all(path.is_file() for path in paths):
        return None
    profiles = {
        row.label: [_read(run.folder.path / RESULT)[0] for run in row.runs]
        for row in comparison.rows
    }
    scan = read_scan(comparison.unit)
    return BondFigure(
        title="Stretching one C–H bond of aspirin",
        reference=scan.reference,
        reference_name=METHOD,
        profiles=profiles,
        trained_angstrom=_read(paths[0])[1],
    )


def _read(path: Path) -> tuple[BondProfile, tuple[float, float]]:
    try:
        content = json.loads(path.read_text())
        profile = BondProfile(
            tuple(content["distances_angstrom"]), tuple(content["energies"]), content["unit"]
        )
        shortest, longest = content["trained_angstrom"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{path}' is damaged: remove it and run the demo again") from error
    return profile, (shortest, longest)
