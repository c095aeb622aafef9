"""The check of a data set: any LMDB of fairchem's layout, read to its last record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from piwsl_ocp.datasets.agreement import SAMPLE, agreement_findings
from piwsl_ocp.datasets.findings import ERROR, INFO, WARNING, Finding, Findings
from piwsl_ocp.datasets.info import INFO_FILE, DatasetInfo, SplitInfo
from piwsl_ocp.datasets.lmdb import METADATA_FILE
from piwsl_ocp.datasets.population_checks import Place, Population, population_findings
from piwsl_ocp.datasets.progress import track
from piwsl_ocp.datasets.record_checks import record_findings
from piwsl_ocp.datasets.records import SplitSummary
from piwsl_ocp.datasets.splits import SPLITS
from piwsl_ocp.datasets.structures import SplitFiles, Structure
from piwsl_ocp.errors import UserError


def check(path: str | Path, unit: str | None = None, progress: bool = True) -> list[Finding]:
    """Return everything worth knowing about a data set, errors first.

    Args:
        path: a converted data set, a folder of `*.lmdb` files, or one file.
        unit: energy unit, where no `dataset.json` tells it.
        progress: show a bar.

    Raises:
        UserError: if there is nothing to check.
    """
    path = Path(path)
    findings = Findings()
    info = DatasetInfo.read(path) if (path / INFO_FILE).is_file() else None
    with ExitStack() as stack:
        splits: dict[str, SplitFiles] = {}
        for name, files in _files(path, info).items():
            try:
                splits[name] = SplitFiles(files)
                stack.callback(splits[name].close)
            except UserError as error:
                findings.add("unreadable", ERROR, name, None, str(error))
        population = Population()
        for name, records in splits.items():
            watched = track(records.numbered(), f"checking {name}", len(records), progress)
            told = info.splits.get(name) if info else None
            natoms = _check_records(name, watched, len(records), told, population, findings)
            _check_counts(name, records, natoms, findings)

        def read(place: Place) -> Structure:
            return splits[place[0]][place[1]]

        if len(population):
            population_findings(population, findings, read)
            agreement_findings(_sample(population, read), info.unit if info else unit, findings)
    return findings.all()


def _files(path: Path, info: DatasetInfo | None) -> dict[str, list[Path]]:
    """Return the LMDB files of each split."""
    if path.is_file():
        return {path.stem: [path]}
    if not path.exists():
        raise UserError(f"no data set at '{path}': make one with `piwsl data convert`")
    splits = {name: sorted((path / name).glob("*.lmdb")) for name in SPLITS}
    if info is not None:
        return {name: files or [path / name] for name, files in splits.items()}
    found = {name: files for name, files in splits.items() if files}
    own = sorted(path.glob("*.lmdb"))
    if {file.stem for file in own} >= {"train"}:
        found.update({file.stem: [file] for file in own})
    elif own:
        found[path.name] = own
    if not found:
        raise UserError(f"no *.lmdb file in '{path}': give a data set, a folder or a file")
    return found


def _check_records(
    name: str,
    numbered: Iterable[tuple[int, Any, Structure | UserError]],
    count: int,
    told: SplitInfo | None,
    population: Population,
    findings: Findings,
) -> np.ndarray:
    """Look at every record; return the numbers of atoms, -1 where it cannot be read."""
    natoms = np.full(count, -1, dtype=np.int64)
    summary = SplitSummary()
    if count == 0:
        findings.add("empty", ERROR, name, None, "no records")
    for number, stored, found in numbered:
        if isinstance(found, UserError):
            findings.add("unreadable", ERROR, name, number, str(found))
            continue
        natoms[number] = len(found.numbers)
        sound = True
        for kind, level, text in record_findings(found):
            findings.add(kind, level, name, number, text)
            sound = sound and level != ERROR
        if sound:
            population.add(name, number, found)
        if told is not None:
            summary.add(number, stored)
    if told is not None:
        _compare_summary(name, summary, told, findings)
    return natoms


def _compare_summary(name: str, summary: SplitSummary, told: SplitInfo, findings: Findings) -> None:
    """Compare the records of a converted split with what was written down about them."""
    if summary.count != told.count:
        text = f"{summary.count} readable records, but {INFO_FILE} says {told.count}"
        findings.add("count", ERROR, name, None, text)
    elif summary.checksum != told.checksum:
        text = f"the checksum of the records differs from {INFO_FILE}: they were changed since"
        findings.add("checksum", ERROR, name, None, text)


def _check_counts(name: str, records: SplitFiles, natoms: np.ndarray, findings: Findings) -> None:
    for reader in records.readers:
        extra = reader.entries - len(reader)
        if reader.has_length and extra != 0:
            text = f"'{reader.path.name}' says {len(reader)} records, but holds {reader.entries}"
            findings.add("length", ERROR if extra < 0 else WARNING, name, None, text)
    path = records.readers[0].path.parent / METADATA_FILE
    if not path.is_file():
        text = f"no {METADATA_FILE} beside the file: fairchem cannot balance batches by atoms"
        findings.add("metadata", WARNING, name, None, text)
        return
    try:
        with np.load(path) as stored:
            told = np.asarray(stored["natoms"])
    except (OSError, ValueError, KeyError, EOFError) as error:
        findings.add("metadata", ERROR, name, None, f"{METADATA_FILE} cannot be read ({error})")
        return
    if told.shape != natoms.shape:
        text = f"{METADATA_FILE} has {len(told)} entries for {len(natoms)} records"
        findings.add("metadata", ERROR, name, None, text)
        return
    for number in np.flatnonzero((told != natoms) & (natoms >= 0)):
        text = f"{natoms[number]} atoms, but {METADATA_FILE} says {told[number]}"
        findings.add("metadata", ERROR, name, int(number), text)


def _sample(population: Population, read: Callable[[Place], Structure]) -> Iterator[Structure]:
    """Yield structures of the most frequent compositions first, for near pairs to be among them."""
    compositions = population.composition_numbers
    frequency = np.bincount(compositions)
    order = np.lexsort((np.arange(len(compositions)), compositions, -frequency[compositions]))
    for place in order[: 4 * SAMPLE]:
        yield read(population.place(int(place)))


__all__ = ["ERROR", "INFO", "WARNING", "Finding", "check"]
