"""Langevin dynamics on a GFN-xTB potential, labelled at the positions as stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.md.langevin import Langevin
from ase.optimize import BFGS

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError

#: tblite's accuracy factor of the labels: 100 times tighter than its default of 1.
LABEL_ACCURACY = 0.01


@dataclass(frozen=True)
class Dynamics:
    """How a walker moves and what it keeps.

    Attributes:
        method: name of the tblite method.
        temperature_kelvin: of the Langevin bath.
        time_step_fs: of the integrator.
        friction_per_fs: of the Langevin bath.
        equilibration_steps: steps that are thrown away first.
        spacing_steps: steps between two kept frames.
        frames: kept frames per walker.
        position_digits: decimals of a stored position in Angstrom, None: float32.
    """

    method: str
    temperature_kelvin: float
    time_step_fs: float
    friction_per_fs: float
    equilibration_steps: int
    spacing_steps: int
    frames: int
    position_digits: int | None = None

    @property
    def steps(self) -> int:
        """Steps of one walker."""
        return self.equilibration_steps + self.spacing_steps * self.frames


@dataclass(frozen=True)
class Walk:
    """The kept frames of one walker; S frames of N atoms.

    Attributes:
        numbers: (N,) atomic numbers.
        cell: (3, 3) lattice vectors in Angstrom, zeros for a molecule.
        positions: (S, N, 3) Angstrom, rounded as stored.
        energies: (S,) eV.
        forces: (S, N, 3) eV/Angstrom.
        trace: energy of every step after equilibration in eV.
        temperature: mean kinetic temperature of the kept frames in kelvin.
    """

    numbers: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray
    trace: np.ndarray
    temperature: float


def xtb_calculator(method: str, accuracy: float = 1.0):
    """Return tblite's ASE calculator (eV, eV/Angstrom); a periodic cell gets the Gamma point.

    Raises:
        UserError: if tblite cannot be loaded.
    """
    try:
        from tblite.ase import TBLite
    except ImportError as error:
        raise UserError(
            f"tblite, which generates data, cannot be loaded ({error}): pip install tblite, with a "
            "current torch"
        ) from error
    return TBLite(method=method, accuracy=accuracy, verbosity=0)


def stored_positions(atoms: Atoms, digits: int | None) -> np.ndarray:
    """Return the positions as a file keeps them: rounded, a molecule about its centre of mass."""
    positions = atoms.get_positions()
    if not atoms.pbc.any():
        positions = positions - atoms.get_center_of_mass()
    if digits is None:
        return positions.astype(np.float32).astype(np.float64)
    return np.round(positions, digits)


def label(atoms: Atoms, method: str) -> tuple[float, np.ndarray]:
    """Return energy (eV) and forces (N, 3) (eV/Angstrom) of a fresh, tight calculation."""
    atoms = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    atoms.calc = xtb_calculator(method, LABEL_ACCURACY)
    return float(atoms.get_potential_energy()), atoms.get_forces()


def relax(atoms: Atoms, method: str) -> Atoms:
    """Return a copy relaxed by BFGS to a largest force of 0.01 eV/Angstrom, in a fixed cell."""
    atoms = atoms.copy()
    atoms.calc = xtb_calculator(method)
    if not BFGS(atoms, logfile=None).run(fmax=0.01, steps=500):
        raise UserError(f"{atoms.symbols} did not relax in 500 steps of {method}")
    atoms.calc = None
    return atoms


def run_walker(
    start: Atoms,
    dynamics: Dynamics,
    seed: list[int],
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Walk:
    """Relax, equilibrate, then keep and label a frame every `spacing_steps` steps.

    Args:
        start: unrelaxed start geometry.
        dynamics: temperature, time step, friction and lengths.
        seed: of the velocities and of the random force.
        on_steps: told how many steps were made.

    Raises:
        UserError: if the self-consistent field did not converge.
    """
    generator = np.random.default_rng(seed)
    atoms = relax(start, dynamics.method)
    atoms.calc = xtb_calculator(dynamics.method)
    thermal = np.sqrt(atoms.get_masses() * units.kB * dynamics.temperature_kelvin)
    atoms.set_momenta(thermal[:, None] * generator.standard_normal((len(atoms), 3)))
    motion = Langevin(
        atoms,
        dynamics.time_step_fs * units.fs,
        temperature_K=dynamics.temperature_kelvin,
        friction=dynamics.friction_per_fs / units.fs,
        fixcm=False,
        rng=generator,
    )
    trace: list[float] = []
    frames: list[tuple[np.ndarray, float, np.ndarray]] = []
    temperatures = []
    try:
        motion.run(dynamics.equilibration_steps)
        on_steps(dynamics.equilibration_steps)
        for _ in range(dynamics.frames):
            for _ in range(dynamics.spacing_steps):
                motion.run(1)
                trace.append(atoms.get_potential_energy())
            kept = atoms.copy()
            kept.positions = stored_positions(atoms, dynamics.position_digits)
            frames.append((kept.get_positions(), *label(kept, dynamics.method)))
            temperatures.append(atoms.get_temperature())
            on_steps(dynamics.spacing_steps)
    except CalculationFailed as error:
        raise UserError(f"walker with seed {seed} of {start.symbols} failed: {error}") from error
    positions, energies, forces = (np.array(column) for column in zip(*frames, strict=True))
    return Walk(
        atoms.numbers, atoms.cell.array, positions, energies, forces,
        np.array(trace), float(np.mean(temperatures)),
    )  # fmt: skip


def energy_autocorrelation(traces: list[np.ndarray], lags: int) -> np.ndarray:
    """Return the autocorrelation of the energy at lags 0..lags-1, (lags,), pooled over walkers.

    C(t) = <dE(s) dE(s + t)> / <dE^2>, dE = deviation from the walker's own mean.
    """
    total, count = np.zeros(lags), np.zeros(lags)
    for trace in traces:
        deviation = trace - trace.mean()
        for lag in range(min(lags, len(trace))):
            total[lag] += deviation[: len(trace) - lag] @ deviation[lag:]
            count[lag] += len(trace) - lag
    correlation = total / np.maximum(count, 1)
    return correlation / correlation[0]


def integrated_time(correlation: np.ndarray, window: float = 5.0) -> float:
    """Return the integrated autocorrelation time in units of the lag.

    tau = 1/2 + sum_{t=1}^{T} C(t) with the smallest T >= window * tau
    (Sokal, in: Functional Integration, 1997, eq. 3.19): frames 2 tau apart count as independent.
    """
    sums = 0.5 + np.cumsum(correlation[1:])
    enough = np.flatnonzero(np.arange(1, len(sums) + 1) >= window * sums)
    return float(sums[enough[0]] if len(enough) else sums[-1])


def fingerprint(start: Atoms, dynamics: Dynamics, seed: list[int]) -> str:
    """Return a digest of all a walk depends on; a checkpoint with another one is not used."""
    positions = np.round(start.get_positions(), 6).tolist()
    cell = np.round(start.cell.array, 6).tolist()
    content = [asdict(dynamics), seed, start.get_chemical_symbols(), positions, cell]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checkpointed_walker(
    path: Path,
    start: Atoms,
    dynamics: Dynamics,
    seed: list[int],
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Walk:
    """Return the walk kept at `path` if it is this one, else run it and keep it there."""
    digest = fingerprint(start, dynamics, seed)
    if path.exists():
        with np.load(path) as saved:
            content = {name: saved[name] for name in saved.files}
        if str(content.pop("fingerprint")) == digest:
            on_steps(dynamics.steps)
            return Walk(**{**content, "temperature": float(content["temperature"])})
    walk = run_walker(start, dynamics, seed, on_steps)
    write_atomically(path, lambda file: np.savez(file, fingerprint=digest, **vars(walk)))
    return walk
