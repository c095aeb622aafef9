"""The data files that ship with the project: their recipes, their layouts, their provenance."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.collections import g2
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from piwsl_ocp.atomic_file import complete_or_absent, write_atomically
from piwsl_ocp.datasets.xtb_layouts import write_ani1x_hdf5, write_rmd17_npz, write_xsf_archive
from piwsl_ocp.datasets.xtb_sampling import (
    LABEL_ACCURACY,
    Dynamics,
    Walk,
    checkpointed_walker,
    energy_autocorrelation,
    integrated_time,
    xtb_calculator,
)
from piwsl_ocp.datasets.xtb_starts import (
    aspirin,
    bonds,
    ethanol,
    hill_ordered,
    molecule_names,
    strained_quartz,
)
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor

PROVENANCE = "provenance.json"
STRAIN_MAX = 0.03
QUARTZ_CELLS = 30


@dataclass(frozen=True)
class Recipe:
    """One shipped file.

    Attributes:
        name: what the user asks for, also the key in provenance.json's walker seeds.
        file_name: of the file.
        energy_unit: of the stored energies; forces are in this unit per Angstrom.
        layout: sentence on the file's layout.
        start_source: sentence on the start geometries.
        starts: seed -> a name and a start geometry per walker.
        dynamics: shared by all walkers.
        write: writes the file from the walks, the unit and the generator that orders the frames.
    """

    name: str
    file_name: str
    energy_unit: str
    layout: str
    start_source: str
    starts: Callable[[int], list[tuple[str, Atoms]]]
    dynamics: Dynamics
    write: Callable[[Path, list[Walk], str, np.random.Generator], None]


def _copies(name: str, start: Callable[[], Atoms], walkers: int):
    return lambda seed: [(name, start()) for _ in range(walkers)]


def _molecules(seed: int) -> list[tuple[str, Atoms]]:
    return [(name, hill_ordered(g2[name])) for name in molecule_names()]


def _quartz_cells(seed: int) -> list[tuple[str, Atoms]]:
    """Return strained cells, rounded as an XSF file stores them."""
    generator = np.random.default_rng([seed, 4])
    cells = []
    for index in range(QUARTZ_CELLS):
        atoms = strained_quartz(generator, STRAIN_MAX)
        atoms.set_cell(np.round(atoms.cell.array, 8), scale_atoms=True)
        cells.append((f"cell {index}", atoms))
    return cells


RMD17_LAYOUT = "rMD17 release: nuclear_charges (N,), coords, energies, forces"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "ethanol", "ethanol.npz", "kcal/mol", RMD17_LAYOUT,
            "ase.collections.g2['CH3CH2OH'], relaxed with GFN2-xTB",
            _copies("ethanol", ethanol, 20),
            Dynamics("GFN2-xTB", 500.0, 0.5, 0.02, 1000, 200, 50),
            write_rmd17_npz,
        ),
        Recipe(
            "aspirin", "aspirin.npz", "kcal/mol", RMD17_LAYOUT,
            "ideal bond lengths and angles (piwsl_ocp.datasets.xtb_starts), relaxed with GFN2-xTB",
            _copies("aspirin", aspirin, 20),
            Dynamics("GFN2-xTB", 500.0, 0.8, 0.02, 600, 100, 50),
            write_rmd17_npz,
        ),
        Recipe(
            "molecules", "molecules.h5", "Hartree",
            "ANI-1x release: a group per formula with atomic_numbers, coordinates, "
            "gfn2_xtb.energy, gfn2_xtb.forces; isomers share a group",
            "ase.collections.g2, closed-shell molecules of H, C, N, O, relaxed with GFN2-xTB",
            _molecules,
            Dynamics("GFN2-xTB", 500.0, 0.5, 0.02, 1000, 200, 9),
            write_ani1x_hdf5,
        ),
        Recipe(
            "oxide", "oxide_xsf.tar.xz", "eV",
            "TiO2 release: XSF files with an energy line, PRIMVEC, PRIMCOORD with forces",
            "alpha-quartz SiO2, 9 atoms, one random symmetric strain per walker "
            f"(components up to {STRAIN_MAX}), positions relaxed with GFN1-xTB, Gamma point only",
            _quartz_cells,
            Dynamics("GFN1-xTB", 500.0, 2.0, 0.03, 50, 25, 10, position_digits=8),
            write_xsf_archive,
        ),
    )
}  # fmt: skip


def changed_bonds(start: Atoms, walk: Walk) -> int:
    """Return how many frames have other bonds than the start geometry."""
    expected = bonds(start)
    frames = (Atoms(walk.numbers, p, cell=walk.cell, pbc=start.pbc) for p in walk.positions)
    return sum(bonds(frame) != expected for frame in frames)


def provenance_entry(
    recipe: Recipe, seed: int, starts: list[tuple[str, Atoms]], walks: list[Walk]
) -> dict:
    """Return what a reader must know to judge one file or to make it again."""
    step = recipe.dynamics.time_step_fs
    traces = [walk.trace for walk in walks]
    correlation = energy_autocorrelation(traces, lags=min(len(trace) for trace in traces))
    spacing = recipe.dynamics.spacing_steps
    factor = energy_factor("eV", "kcal/mol")
    squares = np.concatenate([walk.forces.ravel() ** 2 for walk in walks])
    return {
        "layout": recipe.layout,
        "units": {
            "energy": recipe.energy_unit,
            "length": "Angstrom",
            "forces": f"{recipe.energy_unit}/Angstrom",
        },
        "level_of_theory": recipe.dynamics.method,
        "program": {name: version(name) for name in ("tblite", "ase", "numpy")},
        "label_accuracy": LABEL_ACCURACY,
        "start_geometries": recipe.start_source,
        "systems": sorted({name for name, _ in starts}, key=[name for name, _ in starts].index),
        "dynamics": {"integrator": "ase.md.langevin.Langevin", **asdict(recipe.dynamics)},
        "seed": seed,
        "walker_seeds": "numpy default_rng([seed, *name of the data set as bytes, walker])",
        "walkers": len(walks),
        "structures": int(sum(len(walk.energies) for walk in walks)),
        "atoms_per_structure": sorted({len(walk.numbers) for walk in walks}),
        "measured": {
            "energy_autocorrelation_time_fs": round(integrated_time(correlation) * step, 1),
            "spacing_fs": spacing * step,
            "energy_correlation_of_neighbouring_frames": round(float(correlation[spacing]), 3),
            "mean_kinetic_temperature_kelvin": round(
                float(np.mean([walk.temperature for walk in walks])), 1
            ),
            "energy_std_within_walkers_kcal_per_mol": round(
                factor * float(np.sqrt(np.mean([walk.energies.var() for walk in walks]))), 3
            ),
            "force_rms_kcal_per_mol_angstrom": round(factor * float(np.sqrt(squares.mean())), 3),
            "frames_with_changed_bonds": sum(
                changed_bonds(start, walk) for (_, start), walk in zip(starts, walks, strict=True)
            ),
        },
        "command": f"python scripts/make_demo_data.py {recipe.name} --seed {seed}",
    }


def add_provenance(path: Path, entry: dict) -> dict:
    """Add what is known of a file to provenance.json beside it; return it with its checksum."""
    content = path.read_bytes()
    entry = {**entry, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    summary = path.parent / PROVENANCE
    known = json.loads(summary.read_text()) if summary.exists() else {}
    known[path.name] = entry
    text = json.dumps(dict(sorted(known.items())), indent=1) + "\n"
    write_atomically(summary, lambda file: file.write(text.encode()))
    return entry


def walker_seed(recipe: Recipe, seed: int, index: int) -> list[int]:
    """Return the seed of one walker: the user's seed, the recipe's name, the walker's number."""
    return [seed, *recipe.name.encode(), index]


def make_file(recipe: Recipe, directory: Path, seed: int, on_steps=lambda steps: None) -> dict:
    """Sample, label and write one file and its entry in provenance.json; return the entry.

    Finished walkers are kept in `directory/<name>.partial` until the file is written, so an
    interrupted call goes on where it was.
    """
    starts = recipe.starts(seed)
    partial = directory / f"{recipe.name}.partial"
    walks = [
        checkpointed_walker(
            partial / f"walker_{index:03d}.npz",
            start,
            recipe.dynamics,
            walker_seed(recipe, seed, index),
            on_steps,
        )
        for index, (_, start) in enumerate(starts)
    ]
    path = directory / recipe.file_name
    order = np.random.default_rng([seed, *recipe.name.encode()])
    with complete_or_absent(path) as target:
        recipe.write(target, walks, recipe.energy_unit, order)
    entry = provenance_entry(recipe, seed, starts, walks)
    entry = add_provenance(path, entry)
    shutil.rmtree(partial, ignore_errors=True)
    return entry


def make_demo_data(names: list[str], directory: Path, seed: int, overwrite: bool = False) -> None:
    """Make the named files (or `all`) in `directory`, with a progress bar.

    Raises:
        UserError: for an unknown name, an existing file without `overwrite`, a missing tblite, or
            an interruption (which says how to go on).
    """
    chosen = list(RECIPES) if "all" in names else names
    for name in chosen:
        if name not in RECIPES:
            raise UserError(f"unknown data set '{name}': use all or one of {', '.join(RECIPES)}")
        path = directory / RECIPES[name].file_name
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists: give another --out or allow it with --overwrite")
    xtb_calculator("GFN2-xTB")
    directory.mkdir(parents=True, exist_ok=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        for name in chosen:
            recipe = RECIPES[name]
            total = recipe.dynamics.steps * len(recipe.starts(seed))
            task = progress.add_task(f"{name}: steps", total=total)
            try:
                make_file(recipe, directory, seed, lambda n, task=task: progress.advance(task, n))
            except KeyboardInterrupt:
                raise UserError(
                    f"interrupted: the finished walkers of {name} are kept in {directory}, "
                    "the same command goes on from there"
                ) from None
