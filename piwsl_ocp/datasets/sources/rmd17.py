"""rMD17: npz files of one molecule's recomputed trajectory frames."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

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

#: The recomputed labels. The keys `old_*` of the files are MD17's labels and are never read.
KEYS = ("nuclear_charges", "coords", "energies", "forces")

_POOL = re.compile(r"(?:^|[_.-])(train|test)(?:[_.-]|$)")


def read(files: Sequence[Path], options: ReadOptions = AS_PUBLISHED) -> Iterator[Atoms]:
    """Yield every frame; a file name with "train" or "test" in it tells the published split.

    Raises:
        UserError: if a file is damaged or lacks one of `KEYS`.
    """
    unit = options.energy_unit or "kcal/mol"
    for path in files:
        arrays = _load(path)
        numbers, positions, energies, forces = (arrays[key] for key in KEYS)
        if not len(positions) == len(energies) == len(forces):
            raise UserError(
                f"'{path}': {len(positions)} coords, {len(energies)} energies, {len(forces)} "
                "forces: expected one of each per frame; fetch the file again"
            )
        pool = _POOL.search(path.name)
        for frame, energy in enumerate(energies.reshape(-1)):
            yield labelled(
                numbers,
                positions[frame],
                energy,
                forces[frame],
                energy_unit=unit,
                origin=f"{path.name}[{frame}]",
                pool=pool.group(1) if pool else None,
            )


def count(files: Sequence[Path]) -> int:
    """Return the number of frames."""
    return sum(len(_load(path, ("energies",))["energies"]) for path in files)


def _load(path: Path, keys: Sequence[str] = KEYS) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise UserError(
                    f"'{path}' has no {', '.join(missing)}: expected the keys {', '.join(KEYS)} "
                    "of an rMD17 file"
                )
            return {key: archive[key] for key in keys}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise _damaged(path, error) from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"'{path}' cannot be read as npz ({error}): it is damaged, cut short or another format; "
        "fetch it again"
    )


SOURCE = Source(
    name="rmd17",
    description="rMD17 (npz): one molecule, its train and test file or the full release",
    read=read,
    level_of_theory="DFT PBE/def2-SVP",
    energy_unit="kcal/mol",
    references="least_squares",
    sizes=SplitSizes(train=100, validation=9_000, test=10_000),
    split="published",
    count=count,
)
