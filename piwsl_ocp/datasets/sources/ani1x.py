"""ANI-1x: the HDF5 release, one group of conformations per formula."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from ase import Atoms

from piwsl_ocp.datasets.sources.source import (
    AS_PUBLISHED,
    ReadOptions,
    Source,
    SplitSizes,
    labelled,
)
from piwsl_ocp.errors import UserError

#: Label of the release with forces for every conformation: wB97X/6-31G(d).
DEFAULT_PROPERTY = "wb97x_dz"

#: Conformations read at once: one formula of the full release has many thousands.
CONFORMATIONS_PER_READ = 1024


def read(files: Sequence[Path], options: ReadOptions = AS_PUBLISHED) -> Iterator[Atoms]:
    """Yield every conformation; missing labels come as NaN.

    Args:
        files: HDF5 files.
        options: `property` names the label: `<property>.energy` and `<property>.forces`.

    Raises:
        UserError: if a file is damaged, or lacks the property.
    """
    label = options.property or DEFAULT_PROPERTY
    unit = options.energy_unit or "Hartree"
    for path in files:
        with _opened(path) as file:
            _check_property(file, path, label)
            for name, group in _groups(file, path):
                yield from _conformations(group, f"{path.name}:{name}", label, unit)


def count(files: Sequence[Path]) -> int:
    """Return the number of conformations, without reading them."""
    total = 0
    for path in files:
        with _opened(path) as file:
            total += sum(len(group["coordinates"]) for _, group in _groups(file, path))
    return total


def _groups(file: h5py.File, path: Path) -> Iterator[tuple[str, h5py.Group]]:
    for name, item in file.items():
        if not isinstance(item, h5py.Group):
            raise UserError(
                f"'{path}' holds the array '{name}' beside its groups: expected the ANI-1x release "
                "layout, a group per formula and nothing else; take it out"
            )
        yield name, item


def _conformations(group: h5py.Group, origin: str, label: str, unit: str) -> Iterator[Atoms]:
    keys = ("coordinates", f"{label}.energy", f"{label}.forces")
    for key in ("atomic_numbers", *keys):
        if key not in group:
            raise UserError(
                f"{origin}: no '{key}': expected in every group of the ANI-1x layout; "
                "choose another --property or leave the group out"
            )
    numbers = group["atomic_numbers"][()]
    sizes = {key: len(group[key]) for key in keys}
    if len(set(sizes.values())) != 1:
        raise UserError(
            f"{origin}: different numbers of conformations {sizes}: the file is damaged"
        )
    for start in range(0, sizes["coordinates"], CONFORMATIONS_PER_READ):
        block = slice(start, start + CONFORMATIONS_PER_READ)
        positions, energies, forces = (group[key][block] for key in keys)
        for offset, energy in enumerate(np.asarray(energies, dtype=np.float64).reshape(-1)):
            yield labelled(
                numbers,
                positions[offset],
                energy,
                forces[offset],
                energy_unit=unit,
                origin=f"{origin}[{start + offset}]",
            )


def _check_property(file: h5py.File, path: Path, label: str) -> None:
    first = next((group for _, group in _groups(file, path)), None)
    if first is None or "coordinates" not in first:
        raise UserError(
            f"'{path}' holds no group with 'coordinates': expected the ANI-1x release layout, "
            "a group per formula"
        )
    if f"{label}.energy" in first and f"{label}.forces" in first:
        return
    complete = [
        key.removesuffix(".forces")
        for key in first
        if key.endswith(".forces") and f"{key.removesuffix('.forces')}.energy" in first
    ]
    raise UserError(
        f"'{path}' has no energy and forces of property '{label}': "
        f"use --property with one of {', '.join(complete) or '(none: it has no forces at all)'}"
    )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; a damaged one ends in one line, at opening or at reading."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"'{path}' cannot be read as HDF5 ({error}): it is damaged, cut short or another "
            "format; fetch it again"
        ) from error


SOURCE = Source(
    name="ani1x",
    description="ANI-1x release (HDF5): organic molecules of H, C, N, O",
    read=read,
    level_of_theory="DFT wB97X/6-31G(d)",
    energy_unit="Hartree",
    property=DEFAULT_PROPERTY,
    has_properties=True,
    references="atomic",
    # From the release paper's public data: isolated atoms at wB97X/6-31G(d).
    atomic_energies={
        "H": -0.500607632585,
        "C": -37.8302333826,
        "N": -54.5680045287,
        "O": -75.0362229210,
    },
    atomic_energy_unit="Hartree",
    sizes=SplitSizes(train=100, test=10_000),
    skips_missing=True,
    count=count,
)
