"""Energy and force errors over all structures and force components of a test set at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

#: Fields of `Errors` that carry no unit.
_WITHOUT_UNIT = ("unit", "structures", "atoms", "relative_rmse")


@dataclass(frozen=True)
class Errors:
    """Errors of predicted energies and forces against their reference.

    Energies are in `unit`, forces in `unit`/Angstrom. An RMSE is the root of the mean over all
    structures (energy) or all 3N Cartesian components (forces) of the squared differences.

    Attributes:
        unit: energy unit, a key of `piwsl_ocp.units.ENERGY_IN_EV`.
        structures: number of structures.
        atoms: number of atoms of all structures.
        energy_rmse: of the energy of a structure.
        energy_mae: of the energy of a structure.
        energy_per_atom_rmse: of the energy of a structure divided by its number of atoms.
        energy_per_atom_mae: of the energy of a structure divided by its number of atoms.
        force_rmse: per Cartesian component.
        force_mae: per Cartesian component.
        force_vector_rmse: of the force vector of an atom, sqrt(3) times `force_rmse`.
        energy_rmse_constant: energy RMSE of the constant predictor, the mean training energy.
        force_rmse_constant: force RMSE of the constant predictor, zero: the RMS force component.
        relative_rmse: energy_rmse / energy_rmse_constant + force_rmse / force_rmse_constant;
            2 for the constant predictor.
    """

    unit: str
    structures: int
    atoms: int
    energy_rmse: float
    energy_mae: float
    energy_per_atom_rmse: float
    energy_per_atom_mae: float
    force_rmse: float
    force_mae: float
    force_vector_rmse: float
    energy_rmse_constant: float
    force_rmse_constant: float
    relative_rmse: float

    def in_unit(self, unit: str) -> Errors:
        """Return the same errors in another energy unit.

        Raises:
            UserError: if the unit is unknown.
        """
        factor = energy_factor(self.unit, unit)
        names = [field.name for field in fields(self) if field.name not in _WITHOUT_UNIT]
        return replace(self, unit=unit, **{name: factor * getattr(self, name) for name in names})

    def to_dict(self) -> dict[str, str | int | float]:
        """Return the fields as plain values."""
        return asdict(self)


def errors(
    energy: NDArray[np.floating],
    energy_reference: NDArray[np.floating],
    forces: NDArray[np.floating],
    forces_reference: NDArray[np.floating],
    natoms: NDArray[np.integer],
    unit: str,
    energy_mean_training: float,
) -> Errors:
    """Compare predicted energies and forces with their reference.

    Args:
        energy: (S,) predicted energy of each structure, in `unit`.
        energy_reference: (S,) its reference, with the same zero.
        forces: (N, 3) predicted forces on the atoms of all structures, in `unit`/Angstrom.
        forces_reference: (N, 3) their reference.
        natoms: (S,) number of atoms of each structure.
        unit: energy unit.
        energy_mean_training: mean reference energy of the training structures, in `unit`: the
            energy that the constant predictor gives.

    Raises:
        ValueError: if the shapes do not fit each other.
        UserError: if there is no structure, or a value is not finite.
    """
    _check_shapes(energy, energy_reference, forces, forces_reference, natoms)
    _check_finite(energy, "predicted energy")
    _check_finite(energy_reference, "reference energy")
    owner = np.repeat(np.arange(len(natoms)), natoms)
    _check_finite(forces, "predicted force", owner)
    _check_finite(forces_reference, "reference force", owner)

    energy_error = np.asarray(energy, float) - np.asarray(energy_reference, float)
    force_error = np.asarray(forces, float) - np.asarray(forces_reference, float)
    energy_rmse, force_rmse = _rms(energy_error), _rms(force_error)
    energy_constant = _rms(np.asarray(energy_reference, float) - energy_mean_training)
    force_constant = _rms(np.asarray(forces_reference, float))
    return Errors(
        unit=unit,
        structures=len(natoms),
        atoms=int(np.sum(natoms)),
        energy_rmse=energy_rmse,
        energy_mae=_mean_abs(energy_error),
        energy_per_atom_rmse=_rms(energy_error / natoms),
        energy_per_atom_mae=_mean_abs(energy_error / natoms),
        force_rmse=force_rmse,
        force_mae=_mean_abs(force_error),
        force_vector_rmse=float(np.sqrt(3)) * force_rmse,
        energy_rmse_constant=energy_constant,
        force_rmse_constant=force_constant,
        relative_rmse=_ratio(energy_rmse, energy_constant) + _ratio(force_rmse, force_constant),
    )


def _rms(values: NDArray[np.floating]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _mean_abs(values: NDArray[np.floating]) -> float:
    return float(np.mean(np.abs(values)))


def _ratio(error: float, constant: float) -> float:
    """Divide; without any spread in the reference the ratio is 0 for no error, else infinite."""
    if constant > 0:
        return error / constant
    return 0.0 if error == 0 else float("inf")


def _check_shapes(
    energy: NDArray[np.floating],
    energy_reference: NDArray[np.floating],
    forces: NDArray[np.floating],
    forces_reference: NDArray[np.floating],
    natoms: NDArray[np.integer],
) -> None:
    structures, atoms = (len(natoms),), (int(np.sum(natoms)), 3)
    expected = {
        "energy": (energy, structures),
        "energy_reference": (energy_reference, structures),
        "forces": (forces, atoms),
        "forces_reference": (forces_reference, atoms),
    }
    for name, (array, shape) in expected.items():
        if np.shape(array) != shape:
            raise ValueError(f"{name} has shape {np.shape(array)}: expected {shape}")
    if structures == (0,):
        raise UserError("there is no structure to compare: use a split that holds some")


def _check_finite(
    values: NDArray[np.floating], what: str, owner: Sequence[int] | None = None
) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    first = int(np.argwhere(~finite)[0][0])
    structure = first if owner is None else int(owner[first])
    raise UserError(
        f"the {what} of structure {structure} is not finite: check the data with "
        "`piwsl data check`, or the training, which may have diverged"
    )
