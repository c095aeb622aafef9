"""A published table read from its file: rows and columns of trainings, and the printed numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.config import configs_folder

#: The column that others are compared with, row by row.
BASELINE = "supervised"

#: Energy unit of our results.
UNIT = "kcal/mol"

#: Quantity -> (heading, unit of ours).
QUANTITIES: Mapping[str, tuple[str, str]] = {
    "energy_rmse": ("energy RMSE", UNIT),
    "force_rmse": ("force RMSE", f"{UNIT}/Å"),
    "seconds_per_epoch": ("seconds per epoch", "s"),
    "curl": ("curl of the forces", f"{UNIT}/Å²"),
    "consistency_error": ("consistency error", UNIT),
}

_DIGITS = r"\d+(?:\.\d+)?"
_NUMBER = re.compile(rf"(-?{_DIGITS})(?: ± ({_DIGITS}))?")


@dataclass(frozen=True)
class Printed:
    """A number as the paper prints it.

    Attributes:
        text: with its digits, such as "65.09 ± 2.42".
        mean: its mean.
        std: its standard deviation, None where none is printed.
    """

    text: str
    mean: float
    std: float | None

    @classmethod
    def parse(cls, text: str) -> Printed | None:
        """Read "mean ± std" or "mean"; None for "n/a".

        Raises:
            ValueError: if it is neither.
        """
        if text == "n/a":
            return None
        found = _NUMBER.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is no number such as 65.09 ± 2.42")
        mean, std = found.groups()
        return cls(text, float(mean), None if std is None else float(std))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(_Section):
    """What a table, a row or a column fixes of a training; None leaves it to the others.

    Args:
        dataset: ani1x, tio2, rmd17 or lmnto.
        molecule: of rMD17.
        train: training structures, N.
        sample: `second` draws the data with another seed.
        model: name of a model.
        forces: `direct`, or the `gradient` of the energy.
        method: a method of `grid.METHODS`.
        without: weak losses of the method that are left out.
        set: values of the configuration by dotted key.
        reference_forces: whether the loss has the forces.
        weights_times: factor of the weights of all weak losses.
        steps_times: factor of the number of steps.
        printed_method: what the paper calls the method.
        printed_case: what tells the cell from others of that method in the published numbers.
    """

    dataset: str | None = None
    molecule: str | None = None
    train: int | None = None
    sample: Literal["first", "second"] | None = None
    model: str | None = None
    forces: Literal["direct", "gradient"] | None = None
    method: str | None = None
    without: tuple[str, ...] | None = None
    set: dict[str, Any] | None = None
    reference_forces: bool | None = None
    weights_times: float | None = None
    steps_times: float | None = None
    printed_method: str | None = None
    printed_case: str | None = None

    def fixed(self) -> dict[str, Any]:
        """Return what is fixed, by name."""
        names = Settings.model_fields
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Column(Settings):
    """A column: one way of training.

    Args:
        ours: not in the paper.
    """

    ours: bool = False


class Row(Settings):
    """A row: one model on one data set.

    Args:
        only: the columns that it has, if not all.
        columns: what single columns of it fix otherwise.
    """

    only: tuple[str, ...] | None = None
    columns: dict[str, Settings] = {}


class Doubt(_Section):
    """What is odd about a published cell."""

    row: str
    column: str
    says: str


class SmallScale(_Section):
    """What differs at CPU scale.

    Args:
        train: N in place of the published one.
        models: the models that are trained, whatever N.
        rows: rows that are trained though others of their N are not.
        in_turn: whether nothing is trained, but the steps of a row's methods are timed in turn.
    """

    train: int | None = None
    models: tuple[str, ...] | None = None
    rows: tuple[str, ...] = ()
    in_turn: bool = False


class TableFile(_Section):
    """The content of a file of `configs/experiments/paper`.

    Args:
        title: of the table.
        shows: what the paper finds in it.
        quantities: that it prints.
        measurements: what is measured besides.
        settings: shared by all trainings.
        columns: ways of training.
        rows: models and data.
        remarks: what the paper prints, says or leaves out.
        ours: what was chosen, found or concluded here.
        doubts: on single published cells.
        cpu: what differs at CPU scale.
        tables: that a figure is drawn from.
        published: row -> column -> "mean ± std" of each quantity.
    """

    title: str
    shows: str
    quantities: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    settings: Settings = Settings()
    columns: dict[str, Column] = {}
    rows: dict[str, Row] = {}
    remarks: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    cpu: SmallScale = SmallScale()
    tables: tuple[str, ...] = ()
    published: dict[str, dict[str, list[str]]] = {}


@dataclass(frozen=True)
class Cell:
    """One training of a table, before a scale is chosen.

    Attributes:
        table: name of the table.
        row: name of the row.
        column: name of the column.
        ours: whether the paper has no such column.
        settings: those of table, row and column together.
    """

    table: str
    row: str
    column: str
    ours: bool
    settings: Settings

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return f"{self.table} {self.row} {self.column}"


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of the paper.

    Attributes:
        name: such as "table_1", "table_A4", "figure_2".
        path: its file.
        content: what the file says.
    """

    name: str
    path: Path
    content: TableFile

    @property
    def heading(self) -> str:
        """Number and title."""
        kind, number = self.name.split("_", 1)
        return f"{kind.capitalize()} {number}: {self.content.title}"

    @property
    def short_heading(self) -> str:
        """Number and title, without the word "Table"."""
        return self.heading.removeprefix("Table ")

    @property
    def number(self) -> str:
        """Such as "1", "A4", "Figure 2"."""
        return self.short_heading.split(":")[0]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row; none for a figure, which is drawn from those of tables."""
        return tuple(self._cells())

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is shown: what the paper prints and, beside energies, our consistency error."""
        printed = self.content.quantities
        return (*printed, "consistency_error") if "energy_rmse" in printed else printed

    def in_turn(self, scale: str) -> bool:
        """Return whether steps are timed in turn at a scale, and nothing is trained."""
        return scale == "cpu" and self.content.cpu.in_turn

    def _cells(self) -> Iterator[Cell]:
        shared = self.content.settings.fixed()
        for row_name, row in self.content.rows.items():
            for name, column in self.content.columns.items():
                if row.only is not None and name not in row.only:
                    continue
                single = row.columns.get(name, Settings()).fixed()
                parts = (shared, row.fixed(), column.fixed(), single)
                merged = {key: value for part in parts for key, value in part.items()}
                merged["set"] = {k: v for part in parts for k, v in part.get("set", {}).items()}
                yield Cell(self.name, row_name, name, column.ours, Settings(**merged))

    def printed(self, cell: Cell, quantity: str) -> Printed | None:
        """Return the published number of a cell, None where there is none."""
        values = self.content.published.get(cell.row, {}).get(cell.column)
        if values is None or quantity not in self.content.quantities:
            return None
        return Printed.parse(values[self.content.quantities.index(quantity)])

    def doubts(self, cell: Cell) -> tuple[str, ...]:
        """Return what is odd about the published numbers of a cell."""
        found = self.content.doubts
        return tuple(d.says for d in found if (d.row, d.column) == (cell.row, cell.column))


def tables_folder() -> Path:
    """Return the folder of the published tables."""
    return configs_folder() / "experiments" / "paper"


@cache
def names() -> tuple[str, ...]:
    """Return the names of all tables and figures, in the order of the paper."""
    stems = [path.stem for path in tables_folder().glob("*.yml")]
    return tuple(_spelled(stem) for stem in sorted(stems, key=lambda s: (s[0] == "f", s)))


def find(wanted: str) -> str:
    """Return the name of a table written in one of several ways: 1, A4, table_1, figure 2.

    Raises:
        UserError: if there is none; names the nearest.
    """
    plain = wanted.strip().lower().replace(" ", "_").replace("-", "_")
    plain = re.sub(r"^(table|figure)(?=[a\d])", r"\1_", plain)
    plain = re.sub(r"(?<=_)a0?(?=\d)|^a0?(?=\d)", "a", plain)
    plain = re.sub(r"^table_0(?=\d)", "table_", plain)
    for name in names():
        if plain in (name.lower(), name.lower().removeprefix("table_")):
            return name
    short = [name.removeprefix("table_") for name in names()]
    close = difflib.get_close_matches(plain.upper().removeprefix("TABLE_"), short, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise UserError(f"no table '{wanted}': {hint}use one of {', '.join(short)}, or all")


@cache
def load(name: str) -> PaperTable:
    """Return a table by its name, one of `names()`."""
    return read(tables_folder() / f"{_stem(name)}.yml")


def read(path: Path) -> PaperTable:
    """Read a file of a table.

    Raises:
        UserError: if it is missing or says something that cannot be understood.
    """
    try:
        content = TableFile.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"'{path}' cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"'{path}': {key}: {first['msg'].lower()}") from None
    table = PaperTable(_spelled(path.stem), path, content)
    _check(table)
    return table


def _check(table: PaperTable) -> None:
    """Refuse names of quantities, rows and columns that the file does not have."""
    content = table.content
    known = {"quantity": QUANTITIES, "row": content.rows, "column": content.columns}
    used = {
        "quantity": content.quantities,
        "row": [
            *content.published,
            *(doubt.row for doubt in content.doubts),
            *content.cpu.rows,
        ],
        "column": [
            *(name for columns in content.published.values() for name in columns),
            *(doubt.column for doubt in content.doubts),
            *(n for row in content.rows.values() for n in (*(row.only or ()), *row.columns)),
        ],
    }
    for kind, names_used in used.items():
        for name in names_used:
            if name not in known[kind]:
                raise UserError(f"'{table.path}': unknown {kind} '{name}'")
    for row, columns in content.published.items():
        for column, texts in columns.items():
            if len(texts) != len(content.quantities):
                raise UserError(
                    f"'{table.path}': published.{row}.{column} has {len(texts)} numbers, "
                    f"expected one for each of {', '.join(content.quantities)}"
                )
            for text in texts:
                try:
                    Printed.parse(text)
                except ValueError as error:
                    raise UserError(f"'{table.path}': published.{row}.{column}: {error}") from None


def _spelled(stem: str) -> str:
    """Turn table_01 into table_1 and table_a04 into table_A4."""
    kind, number = stem.split("_", 1)
    letter = "A" if number.startswith("a") else ""
    digits = number.removeprefix("a")
    return f"{kind}_{letter}{int(digits)}" if digits.isdigit() else stem


def _stem(name: str) -> str:
    kind, number = name.split("_", 1)
    if kind != "table":
        return name
    return f"table_a{int(number[1:]):02d}" if number[0] == "A" else f"table_{int(number):02d}"
