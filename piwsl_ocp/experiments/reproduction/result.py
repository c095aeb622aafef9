"""What is kept of one run of the tables."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PositiveInt,
    model_validator,
)

#: Measurements that some tables need beside the errors, each a field of `RunResult`.
EXTRA_MEASUREMENTS = ("curl", "bond_scan")

#: Errors that every result has.
REQUIRED_ERRORS = ("energy_rmse", "force_rmse")

#: Of a training step.
Seconds = Annotated[FiniteFloat, Field(gt=0)]


class Kept(BaseModel):
    """A part of a kept file; what it does not know is passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Provenance(Kept):
    """Where a result comes from.

    Args:
        commit: of the code.
        versions: of the package and its libraries.
        started: UTC.
        train_data: checksum of the training split.
        test_data: checksum of the test split.
    """

    commit: str
    versions: dict[str, str]
    started: str
    train_data: str
    test_data: str


class Curl(Kept):
    """The curl of the forces.

    Args:
        curl: root mean square over structures.
        unit: of it.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    unit: str
    curl: FiniteFloat


class BondScan(Kept):
    """The energy along a stretched bond.

    Args:
        unit: of the energies.
        distances_angstrom: lengths of the bond.
        energies: one for each length.
    """

    unit: str
    distances_angstrom: Annotated[list[FiniteFloat], Field(min_length=1)]
    energies: list[FiniteFloat]

    @model_validator(mode="after")
    def _check_lengths(self) -> BondScan:
        if len(self.energies) != len(self.distances_angstrom):
            raise ValueError("as many energies as distances are needed")
        return self


class RunResult(Kept):
    """What is kept of one run.

    Args:
        run: its name.
        scale: name of the scale.
        data: name of the data set.
        model: file in configs/models, without the suffix of the scale.
        settings: digits of its configuration, see `trainings.settings_key`.
        seed: of the training.
        method: short name of the method.
        detail: weak losses, weights and displacements.
        steps: of the training.
        train: training structures.
        test: test structures.
        batch_size: structures in a step, of all data-parallel processes.
        epsilon_angstrom: largest displacement of the training.
        unit: of energies; forces are in the same per Angstrom.
        errors: of the best checkpoint on the test split.
        consistency_error: of the same, in the unit.
        seconds_per_step: median over the training; None where nothing was logged.
        curl: of the forces, None if it was not measured.
        bond_scan: profile of a stretched bond, None if it was not measured.
        curve: validation log by column.
        provenance: code and data.
    """

    #: How a damaged file is made again.
    REMEDY: ClassVar[str] = "`piwsl report` makes it again from the run folder"

    run: str
    scale: str
    data: str
    model: str
    settings: str
    seed: int
    method: str
    detail: str
    steps: int
    train: PositiveInt
    test: PositiveInt
    batch_size: PositiveInt
    epsilon_angstrom: float | None = None
    unit: str
    errors: dict[str, FiniteFloat]
    consistency_error: FiniteFloat
    seconds_per_step: Seconds | None = None
    curl: Curl | None = None
    bond_scan: BondScan | None = None
    curve: dict[str, list[float]]
    provenance: Provenance

    @model_validator(mode="after")
    def _check_parts(self) -> RunResult:
        missing = [name for name in REQUIRED_ERRORS if name not in self.errors]
        if missing:
            raise ValueError(f"there is no {missing[0]}")
        if len({len(column) for column in self.curve.values()}) > 1:
            raise ValueError("the columns of the curve have different lengths")
        for part, unit in ((self.curl, f"{self.unit}/Angstrom^2"), (self.bond_scan, self.unit)):
            if part is not None and part.unit != unit:
                raise ValueError(f"a measurement in {part.unit} beside energies in {self.unit}")
        return self

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal to `Training.key` of the cells that it is a run of."""
        return (self.scale, self.data, self.model, self.settings)

    @property
    def measurements(self) -> frozenset[str]:
        """What was measured of the run."""
        extra = (name for name in EXTRA_MEASUREMENTS if getattr(self, name) is not None)
        return frozenset(("errors", *extra))

    def value(self, quantity: str) -> float | None:
        """Return a quantity of the tables, None if it was not measured."""
        if quantity == "curl":
            return None if self.curl is None else self.curl.curl
        if quantity == "seconds_per_epoch":
            if self.seconds_per_step is None:
                return None
            return seconds_per_epoch(self.seconds_per_step, self.train, self.batch_size)
        if quantity == "consistency_error":
            return self.consistency_error
        return self.errors.get(quantity)


def seconds_per_epoch(seconds_per_step: float, train: int, batch_size: int) -> float:
    """Return the seconds of the steps of one epoch, the last batch counted as a full one."""
    return seconds_per_step * math.ceil(train / batch_size)
