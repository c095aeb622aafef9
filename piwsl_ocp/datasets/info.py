"""The facts of a converted data set: `dataset.json`, written once and read by everybody."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from piwsl_ocp.errors import UserError

FORMAT = 1
INFO_FILE = "dataset.json"
INDICES_FILE = "splits.npz"


@dataclass(frozen=True)
class SplitInfo:
    """Moments of one split, in the stored unit.

    Args:
        count: structures.
        energy_mean: of the stored energies.
        energy_std: their standard deviation.
        force_rms: root mean square over force components.
        checksum: of all records.
    """

    count: int
    energy_mean: float
    energy_std: float
    force_rms: float
    checksum: str


@dataclass(frozen=True)
class DatasetInfo:
    """What `dataset.json` says.

    Args:
        name: of the data set.
        source: a key of `sources.SOURCES`.
        files: name, bytes and sha256 of each source file.
        level_of_theory: method behind the labels.
        unit: energy unit; forces are in the same per Angstrom.
        reference_kind: "atomic", "least_squares" or "none".
        references: energy per atomic number in `unit`: E_stored = E_total - sum_i references[Z_i].
        counts: structures read, kept and dropped by reason.
        elements: atomic numbers of all kept structures.
        periodic: whether any structure is periodic.
        split: scheme, seed, requested sizes, file of the record numbers.
        splits: moments of "train", "val" and "test".
        conversion: options that the records depend on.
    """

    name: str
    source: str
    files: tuple[dict[str, Any], ...]
    level_of_theory: str
    unit: str
    reference_kind: str
    references: dict[int, float]
    counts: dict[str, Any]
    elements: tuple[int, ...]
    periodic: bool
    split: dict[str, Any]
    splits: dict[str, SplitInfo]
    conversion: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> DatasetInfo:
        """Return the facts of the data set in a folder.

        Raises:
            UserError: if there is no `dataset.json`, or it is damaged or of another format.
        """
        path = Path(folder) / INFO_FILE
        try:
            stored = json.loads(path.read_text())
        except FileNotFoundError:
            raise UserError(
                f"no data set at '{folder}' ({INFO_FILE} is missing): "
                "make it with `piwsl data convert`"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"'{path}' cannot be read ({error}): convert again") from error
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise UserError(f"'{path}' is not of format {FORMAT}: convert again")
        try:
            return cls(
                name=stored["name"],
                source=stored["source"],
                files=tuple(stored["files"]),
                level_of_theory=stored["level_of_theory"],
                unit=stored["units"]["energy"],
                reference_kind=stored["references"]["kind"],
                references={int(z): float(e) for z, e in stored["references"]["energies"].items()},
                counts=stored["counts"],
                elements=tuple(stored["elements"]),
                periodic=stored["periodic"],
                split=stored["split"],
                splits={name: SplitInfo(**facts) for name, facts in stored["splits"].items()},
                conversion=stored.get("conversion", {}),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"'{path}' is damaged ({error!r}): convert again") from error

    def write(self, folder: Path) -> None:
        """Write `dataset.json` into a folder."""
        (folder / INFO_FILE).write_text(json.dumps(self.as_dict(), indent=1) + "\n")

    def as_dict(self) -> dict[str, Any]:
        """Return what is written to `dataset.json`."""
        return {
            "format": FORMAT,
            "name": self.name,
            "source": self.source,
            "files": list(self.files),
            "level_of_theory": self.level_of_theory,
            "units": {
                "energy": self.unit,
                "length": "Angstrom",
                "forces": f"{self.unit}/Angstrom",
            },
            "references": {
                "kind": self.reference_kind,
                "energies": {str(z): energy for z, energy in self.references.items()},
            },
            "counts": self.counts,
            "elements": list(self.elements),
            "periodic": self.periodic,
            "split": self.split,
            "splits": {name: asdict(facts) for name, facts in self.splits.items()},
            "conversion": self.conversion,
        }
