"""Curl of a force field: the antisymmetric part of the Jacobian of the forces.

With J = dF/dr (3n, 3n) of one structure of n atoms and A = (J - J^T) / 2, the curl here is the
Frobenius norm |A|; it is 0 for forces that are the gradient of an energy. arXiv 2408.05215
(Table A18) prints no definition. Derivatives are central differences in the precision of the
positions, so that one definition serves every model; in float64 and with the default step they are
good to about 1e-6 of the Jacobian.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from ase import Atoms
from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.consistency.randomness import generators
from piwsl_ocp.evaluation.evaluate import atoms_of_split, data_to_evaluate, results_folder
from piwsl_ocp.ocp.predictor import Predictor

#: Step of the central differences, Angstrom.
STEP_ANGSTROM = 1e-3

#: Structures up to this size get the whole Jacobian, larger ones an estimate.
EXACT_ATOMS = 40
#: Random directions of an estimate.
PROBES = 24
#: Structures of a split that are looked at.
STRUCTURES = 32
#: Displaced copies in one pass of the model.
BATCH = 64

#: (copies, n, 3) positions of one structure -> forces of the same shape.
Forces = Callable[[Float[Tensor, "copies atoms 3"]], Float[Tensor, "copies atoms 3"]]


@dataclass(frozen=True)
class Curl:
    """The curl of the forces of a model on a set of structures.

    Attributes:
        unit: of the curl, energy unit per square Angstrom.
        curl: mean over structures of |A|.
        standard_error: of that mean, from its spread over structures.
        jacobian: mean over structures of |J|, where the whole Jacobian was built; or None.
        structures: number of structures.
        estimated: how many of them were too large for the whole Jacobian.
    """

    unit: str
    curl: float
    standard_error: float
    jacobian: float | None
    structures: int
    estimated: int


def jacobian(
    forces: Forces, positions: Float[Tensor, "atoms 3"], step_angstrom: float = STEP_ANGSTROM
) -> Float[Tensor, "coordinates coordinates"]:
    """Return J with J_ij = dF_i / dr_j by central differences, (3n, 3n).

    Args:
        forces: of one structure.
        positions: (n, 3) Angstrom.
        step_angstrom: h in [F(r + h e_j) - F(r - h e_j)] / 2h.
    """
    size = positions.numel()
    directions = torch.eye(size, dtype=positions.dtype, device=positions.device)
    return _derivatives(forces, positions, directions, step_angstrom).T


def curl_norm(jacobian: Float[Tensor, "coordinates coordinates"]) -> float:
    """Return |A| = |(J - J^T) / 2| (Frobenius norm)."""
    return float((jacobian - jacobian.T).norm() / 2)


def estimated_curl(
    forces: Forces,
    positions: Float[Tensor, "atoms 3"],
    generator: torch.Generator,
    probes: int = PROBES,
    step_angstrom: float = STEP_ANGSTROM,
) -> tuple[float, float]:
    """Estimate |A|^2 from derivatives along random directions.

    For independent v, w of mean 0 and covariance 1, the mean of (v.Jw - w.Jv)^2 / 4 is |A|^2. All
    pairs of `probes` normal directions are used.

    Args:
        forces: of one structure.
        positions: (n, 3) Angstrom.
        generator: of the directions.
        probes: number of directions, at least 3.
        step_angstrom: of the central differences along a direction of unit length per coordinate.

    Returns:
        The estimate, which has no bias, and its standard error (jackknife over directions).
    """
    shape = (probes, positions.numel())
    directions = torch.randn(shape, dtype=torch.float64, generator=generator).to(positions)
    slopes = _derivatives(forces, positions, directions, step_angstrom)
    products = directions @ slopes.T
    squares = (products - products.T).square() / 4
    pairs = probes * (probes - 1)
    total = squares.sum()
    without_one = (total - 2 * squares.sum(dim=1)) / ((probes - 1) * (probes - 2))
    spread = (without_one - without_one.mean()).square().sum()
    return float(total / pairs), float(((probes - 1) / probes * spread).sqrt())


def measure_curl(
    source: Path | str,
    dataset_folder: Path | str | None = None,
    split: str = "test",
    *,
    structures: int = STRUCTURES,
    device: str | None = None,
    progress: bool = False,
) -> Curl:
    """Measure the curl of a checkpoint on the first structures of a split, in float64.

    `curl.json` is written into the `results_folder`.

    Args:
        source: a run folder (then its best checkpoint) or a checkpoint file.
        dataset_folder: a converted data set; that of the training by default.
        split: train, val or test.
        structures: how many structures to look at.
        device: where the model runs, see `find_device`.
        progress: whether to show a progress bar.

    Raises:
        UserError: if the checkpoint does not fit the data set, or something cannot be read.
    """
    predictor = Predictor.load(source, device).double()
    folder, info = data_to_evaluate(predictor, dataset_folder, split)
    chosen = list(zip(range(structures), atoms_of_split(folder, split), strict=False))
    norms, jacobians = [], []
    for record, atoms in track(chosen, "curl", disable=not progress):
        forces = _forces(predictor, atoms)
        positions = torch.as_tensor(atoms.positions, dtype=torch.float64, device=predictor.device)
        if len(atoms) <= EXACT_ATOMS:
            matrix = jacobian(forces, positions)
            norms.append(curl_norm(matrix))
            jacobians.append(float(matrix.norm()))
        else:
            (generator,) = generators(0, 0, [record], 0)
            norms.append(math.sqrt(estimated_curl(forces, positions, generator)[0]))
    values = torch.tensor(norms, dtype=torch.float64)
    found = Curl(
        unit=f"{predictor.unit}/Angstrom^2",
        curl=float(values.mean()),
        standard_error=float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan,
        jacobian=sum(jacobians) / len(jacobians) if jacobians else None,
        structures=len(norms),
        estimated=len(norms) - len(jacobians),
    )
    text = json.dumps({"split": split, **asdict(found)}, indent=2) + "\n"
    path = results_folder(source, predictor, info, split) / "curl.json"
    write_atomically(path, lambda file: file.write(text.encode()))
    return found


def _derivatives(
    forces: Forces, positions: Tensor, directions: Tensor, step_angstrom: float
) -> Float[Tensor, "directions coordinates"]:
    """Return the derivative of the forces along each direction (m, 3n), one row a direction."""
    steps = step_angstrom * directions.reshape(-1, *positions.shape)
    ahead, behind = forces(positions + steps), forces(positions - steps)
    return (ahead - behind).reshape(len(directions), -1) / (2 * step_angstrom)


def _forces(predictor: Predictor, atoms: Atoms) -> Forces:
    """Return the forces of a model on copies of one structure, whose edges stay."""

    def forces(positions: Tensor) -> Tensor:
        parts = []
        for part in positions.split(BATCH):
            potential, _ = predictor.potential([atoms] * len(part))
            prediction = potential(part.reshape(-1, 3))
            parts.append(prediction.forces.detach().reshape(part.shape))
        return torch.cat(parts)

    return forces
