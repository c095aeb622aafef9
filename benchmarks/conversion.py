"""Structures per second and peak memory of `piwsl data convert`, for every source.

    python benchmarks/conversion.py                     what ships with the project, and 10^3 and
                                                        10^5 structures in ANI-1x's layout
    python benchmarks/conversion.py --raw-data FOLDER   the published files too

Every conversion runs in a process of its own; its peak resident memory is read when it ends, and
that of a process that has only imported everything is shown beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import h5py
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

ATOMS = 15
PER_GROUP = 500
MEBIBYTE = 2**20

CHILD = """
import json, resource, sys, time
import torch, torch_geometric.data
from piwsl_ocp.datasets import ConversionOptions, convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source, files, out, options = json.loads(sys.argv[1])
start = time.perf_counter()
counts = convert(source, files, __import__("pathlib").Path(out), ConversionOptions(**options),
                 progress=False).counts
seconds = time.perf_counter() - start
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([counts["read"], seconds, before * 1024, after * 1024]))
"""


@dataclass(frozen=True)
class Case:
    """One conversion: source, files, options, and what to call it."""

    name: str
    source: str
    files: tuple[str, ...]
    options: dict[str, object]


@dataclass(frozen=True)
class Measurement:
    """Structures read, seconds, and bytes of memory before and at the peak."""

    structures: int
    seconds: float
    before: int
    peak: int


def write_ani1x(path: Path, structures: int, seed: int = 0) -> Path:
    """Write an HDF5 file in ANI-1x's layout: noise around a line of atoms, group by group."""
    generator = np.random.default_rng(seed)
    line = 1.3 * np.arange(ATOMS)[:, None] * np.array([1.0, 0.0, 0.0])
    with h5py.File(path, "w") as file:
        for start in range(0, structures, PER_GROUP):
            count = min(PER_GROUP, structures - start)
            noise = 0.1 * generator.standard_normal((count, ATOMS, 3))
            group = file.create_group(f"G{start:09d}")
            group["atomic_numbers"] = np.array([6, 1, 7, 1, 8] * (ATOMS // 5), dtype=np.uint8)
            group["coordinates"] = (line + noise).astype(np.float32)
            group["wb97x_dz.energy"] = -500.0 + (noise**2).sum(axis=(1, 2))
            group["wb97x_dz.forces"] = (-2.0 * noise).astype(np.float32)
    return path


def shipped_cases() -> Iterator[Case]:
    """Yield the data that comes with the project."""
    for name in ("ethanol", "aspirin", "molecules", "oxide"):
        yield Case(f"shipped {name}", "embedded", (name,), {"train": 100})


def published_cases(folder: Path) -> Iterator[Case]:
    """Yield the published files that are in a folder."""
    found = {
        "ani1x": sorted(folder.glob("ani1x/ani1x*1000.h5")) or sorted(folder.glob("**/ani1x*.h5")),
        "tio2": sorted(folder.glob("**/*[tT]i[oO]2*.tar.xz")),
        "lmnto": sorted(folder.glob("**/LMNTO*.tar.xz")),
        "rmd17": sorted(folder.glob("**/rmd17_aspirin_*_01.npz")),
    }
    for source, files in found.items():
        if files:
            yield Case(f"{source} file", source, tuple(map(str, files)), {"train": 100})


def measure(case: Case, folder: Path) -> Measurement:
    """Convert in a process of its own."""
    out = str(folder / case.name.replace(" ", "_"))
    job = json.dumps([case.source, list(case.files), out, case.options])
    result = subprocess.run(
        [sys.executable, "-c", CHILD, job], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise SystemExit(f"{case.name}: {result.stderr.strip().splitlines()[-1]}")
    return Measurement(*json.loads(result.stdout.splitlines()[-1]))


def main(
    sizes: Annotated[
        list[int] | None, typer.Option("--size", help="Structures of the made-up file. Repeatable.")
    ] = None,
    raw_data: Annotated[
        Path | None, typer.Option(help="Folder with published files: ani1x/, tio2/, ...")
    ] = None,
) -> None:
    """Measure conversions one after the other and print a table."""
    console = Console()
    table = Table(title="piwsl data convert: both passes, checksums and writing")
    for heading in ("source", "structures", "per second", "peak MiB", "of it by conversion"):
        table.add_column(heading, justify="right")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = [*shipped_cases(), *(published_cases(raw_data) if raw_data else ())]
        for size in sizes or [1_000, 100_000]:
            file = write_ani1x(folder / f"{size}.h5", size)
            name = f"ANI-1x layout, {size}"
            for splits, rest in (
                ("100 + 100 + 500", {"train": 100, "test": 500}),
                ("all of it", {"train": size // 2, "validation": size // 10}),
            ):
                cases.append(Case(f"{name}, {splits}", "ani1x", (str(file),), rest))
        for case in cases:
            found = measure(case, folder)
            table.add_row(
                case.name,
                str(found.structures),
                f"{found.structures / found.seconds:.0f}",
                f"{found.peak / MEBIBYTE:.0f}",
                f"{(found.peak - found.before) / MEBIBYTE:.0f}",
            )
            console.print(f"{case.name}: done after {time.perf_counter() - started:.0f} s")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
