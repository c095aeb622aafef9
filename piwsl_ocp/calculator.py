"""An ASE calculator of a trained checkpoint, in ASE's units."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from rich.progress import track

from piwsl_ocp.atomic_file import complete_or_absent
from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.predictor import Predictor
from piwsl_ocp.units import energy_factor


class PIWSLCalculator(Calculator):
    """Total energies in eV and forces in eV/Angstrom from a checkpoint or run folder.

    The reference energies that were removed from the labels are added back. fairchem's own
    `OCPCalculator` gives the same model's values in the unit of the labels, without references.

    Args:
        checkpoint: a checkpoint file or a run folder (then its best checkpoint).
        device: where the model runs: `cpu`, `cuda`, `cuda:1` ...; None: the GPU where there is one.

    Raises:
        UserError: if the checkpoint cannot be read, or a structure holds an element that the model
            was not trained on.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(
        self, checkpoint: Path | str, device: str | None = None, **keywords: object
    ) -> None:
        super().__init__(**keywords)
        self.predictor = Predictor.load(checkpoint, device)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute energy and forces of one structure."""
        super().calculate(atoms, properties, system_changes)
        self._check_elements(self.atoms)
        (prediction,) = self.predictor.predict_atoms([self.atoms])
        to_ev = energy_factor(self.predictor.unit, "eV")
        energy = (float(prediction.energy) + self._reference_energy(self.atoms)) * to_ev
        forces = prediction.forces.cpu().numpy().astype(np.float64) * to_ev
        self.results = {"energy": energy, "free_energy": energy, "forces": forces}

    def _check_elements(self, atoms: Atoms) -> None:
        trained = self.predictor.info.get("data", {}).get("elements")
        unknown = sorted(set(atoms.numbers.tolist()) - set(trained or atoms.numbers.tolist()))
        if unknown:
            raise UserError(
                f"atomic number {unknown[0]}: the model was trained on {trained} alone, leave such "
                "structures out"
            )

    def _reference_energy(self, atoms: Atoms) -> float:
        references = self.predictor.references
        return float(sum(references.get(number, 0.0) for number in atoms.numbers.tolist()))


def predict_file(
    checkpoint: Path | str, structures: Path | str, out: Path | str, device: str | None = None
) -> int:
    """Predict every structure of a file and write extended XYZ, in eV and eV/Angstrom.

    Args:
        checkpoint: a checkpoint file or a run folder.
        structures: a file that ASE reads.
        out: the file to write; it appears only when it is complete.
        device: the same as of `PIWSLCalculator`.

    Returns:
        The number of structures.

    Raises:
        UserError: if a file cannot be read or holds no structure.
    """
    images = _read_structures(Path(structures))
    calculator = PIWSLCalculator(checkpoint, device)
    for number, atoms in enumerate(track(images, description="predicting")):
        try:
            calculator.calculate(atoms)
        except UserError as error:
            raise UserError(f"structure {number} of '{structures}': {error}") from error
        atoms.calc = SinglePointCalculator(atoms, **calculator.results)
    with complete_or_absent(Path(out)) as partial:
        write(partial, images, format="extxyz")
    return len(images)


def _read_structures(path: Path) -> list[Atoms]:
    if not path.is_file():
        raise UserError(f"no file '{path}'")
    try:
        images = read(path, index=":", do_not_split_by_at_sign=True)
    except Exception as error:
        raise UserError(
            f"'{path}' cannot be read by ASE ({type(error).__name__}): "
            "expected a format such as extxyz, xyz, cif, vasp"
        ) from error
    if not images:
        raise UserError(f"'{path}' holds no structure")
    return images
