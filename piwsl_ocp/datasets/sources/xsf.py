"""XSF structures with an energy comment and forces, from a file, a folder or an archive."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from piwsl_ocp.datasets.sources.source import AS_PUBLISHED, ReadOptions, labelled
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import ENERGY_IN_EV

#: Unit words met after the energy. Positions of XSF files are in Angstrom always.
UNIT_WORDS: dict[str, str] = {
    "ev": "eV",
    "hartree": "Hartree",
    "ha": "Hartree",
    "kcal/mol": "kcal/mol",
    "kj/mol": "kJ/mol",
}

#: Periodic directions by the first keyword of a file.
PERIODICITY: dict[str, tuple[bool, bool, bool]] = {
    "CRYSTAL": (True, True, True),
    "SLAB": (True, True, False),
    "POLYMER": (True, False, False),
    "MOLECULE": (False, False, False),
}

#: Opening functions by the first bytes of a compressed file.
COMPRESSIONS: dict[bytes, Callable[..., IO[bytes]]] = {
    b"\xfd7zXZ": lzma.open,
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
}

_ENERGY = re.compile(r"total\s+energy\s*=\s*(\S+)[ \t]*([^\s#]*)", re.IGNORECASE)


def read(files: Sequence[Path], options: ReadOptions = AS_PUBLISHED) -> Iterator[Atoms]:
    """Yield one structure per XSF file, in the order of the archive or of the sorted names.

    Args:
        files: `.xsf` files, folders of them, or tar archives (plain, gz, bz2, xz).
        options: `energy_unit` is the unit of files that name none.

    Raises:
        UserError: if a file or an archive is damaged or says too little.
    """
    for path in files:
        for origin, text in _texts(path):
            yield parse(text, origin, options.energy_unit)


def parse(text: str, origin: str, declared_unit: str | None = None) -> Atoms:
    """Return the structure of one XSF text: `CRYSTAL`/`PRIMVEC`/`PRIMCOORD` or `ATOMS` style.

    Args:
        text: content of the file.
        origin: its name, for messages.
        declared_unit: unit of the energy where the text names none; the two must agree.

    Raises:
        UserError: if the energy line, its unit, the forces or the atoms are missing or unreadable.
    """
    energy, unit = _energy(text, origin, declared_unit)
    lines = [line.split() for line in text.splitlines()]
    lines = [words for words in lines if words and not words[0].startswith("#")]
    if sum(words[0].upper() in ("PRIMCOORD", "ATOMS") for words in lines) > 1:
        raise UserError(f"{origin}: several structures: expected one, make a file of each")
    keywords = {words[0].upper(): number for number, words in reversed(list(enumerate(lines)))}
    pbc = next((PERIODICITY[word] for word in keywords if word in PERIODICITY), (False,) * 3)
    cell = None
    if any(pbc):
        if "PRIMVEC" not in keywords:
            raise UserError(f"{origin}: periodic, but no PRIMVEC: three cell vectors are needed")
        start = keywords["PRIMVEC"] + 1
        cell = _numbers(lines[start : start + 3], 3, origin)
    numbers, values = _atoms(lines, keywords, origin)
    return labelled(
        numbers,
        values[:, :3],
        energy,
        values[:, 3:],
        energy_unit=unit,
        origin=origin,
        cell=cell,
        pbc=pbc,
    )


def _energy(text: str, origin: str, declared_unit: str | None) -> tuple[float, str]:
    found = _ENERGY.search(text)
    if found is None:
        raise UserError(
            f"{origin}: no energy: expected a comment such as '# total energy = -123.4 eV'"
        )
    try:
        energy = float(found.group(1))
    except ValueError:
        raise UserError(f"{origin}: energy '{found.group(1)}' is not a number") from None
    word = found.group(2)
    unit = UNIT_WORDS.get(word.lower())
    if word and unit is None:
        raise UserError(
            f"{origin}: unknown unit '{word}' after the total energy: expected one of "
            f"{', '.join(ENERGY_IN_EV)}: convert energies and forces of the files"
        )
    if unit is None and declared_unit is None:
        raise UserError(
            f"{origin}: no unit after the total energy: "
            "find out which it is and pass --energy-unit eV (or Hartree, kcal/mol, kJ/mol)"
        )
    if unit and declared_unit and unit != declared_unit:
        raise UserError(
            f"{origin}: says {unit}, but --energy-unit says {declared_unit}: leave the option out"
        )
    return energy, unit or str(declared_unit)


def _atoms(
    lines: list[list[str]], keywords: dict[str, int], origin: str
) -> tuple[list[int], np.ndarray]:
    if "PRIMCOORD" in keywords:
        start = keywords["PRIMCOORD"] + 2
        try:
            stop = start + int(lines[start - 1][0])
        except (IndexError, ValueError):
            raise UserError(f"{origin}: no number of atoms after PRIMCOORD") from None
    elif "ATOMS" in keywords:
        start = keywords["ATOMS"] + 1
        stop = len(lines)
    else:
        raise UserError(f"{origin}: no atoms: expected a PRIMCOORD or an ATOMS section")
    rows = lines[start:stop]
    if "PRIMCOORD" in keywords and len(rows) < stop - start:
        raise UserError(f"{origin}: {len(rows)} of {stop - start} atoms: the file is cut short")
    numbers = [_atomic_number(row[0], origin) for row in rows]
    if any(len(row) < 7 for row in rows):
        raise UserError(
            f"{origin}: an atom without forces: expected rows 'symbol x y z fx fy fz', "
            f"found '{' '.join(next(row for row in rows if len(row) < 7))}'"
        )
    return numbers, _numbers([row[1:7] for row in rows], 6, origin)


def _atomic_number(word: str, origin: str) -> int:
    number = int(word) if word.isdigit() else atomic_numbers.get(word.capitalize(), 0)
    if not 0 < number < len(atomic_numbers):
        raise UserError(f"{origin}: unknown element '{word}': expected a symbol such as Ti")
    return number


def _numbers(rows: list[list[str]], columns: int, origin: str) -> np.ndarray:
    try:
        return np.array([row[:columns] for row in rows], dtype=np.float64).reshape(-1, columns)
    except ValueError:
        raise UserError(f"{origin}: a row of numbers is damaged: fetch the file again") from None


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, content) of every XSF file in a file, folder or archive."""
    if path.is_dir():
        for file in sorted(path.rglob("*.xsf")):
            yield file.name, file.read_text(errors="replace")
    elif path.suffix == ".xsf":
        yield path.name, path.read_text(errors="replace")
    else:
        yield from _archived(path)


def _archived(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with path.open("rb") as raw:
            start = raw.read(6)
        opened = next((how for magic, how in COMPRESSIONS.items() if start.startswith(magic)), open)
        if opened is open:
            _check_end(path)
        # The stream is decompressed here, not by tarfile, which takes a cut stream for its end.
        with opened(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = Path(member.name).name
                if member.isfile() and name.endswith(".xsf") and not name.startswith("."):
                    content = archive.extractfile(member)
                    if content is not None:
                        yield f"{path.name}:{name}", content.read().decode(errors="replace")
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(
            f"'{path}' cannot be read to its end ({error}): it is damaged, cut short or no tar "
            "archive of XSF files; fetch it again"
        ) from error


def _check_end(path: Path) -> None:
    """A tar archive ends in zeros; without them it was cut, maybe between two members."""
    with path.open("rb") as raw:
        raw.seek(max(path.stat().st_size - 512, 0))
        if raw.read().strip(b"\0"):
            raise EOFError("no end-of-archive mark")
