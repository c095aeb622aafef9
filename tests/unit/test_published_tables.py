"""The published tables: read from their files, found by name, equal to the printed numbers."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction import numbers, published
from piwsl_ocp.experiments.reproduction.numbers import KEYS, key_of, read_numbers
from piwsl_ocp.experiments.reproduction.published import Printed

#: Tables A1 to A3 are the set-up, no results.
RESULTS = ["1", "2", "3", "4", "5", "6", *(f"A{number}" for number in range(4, 19))]


def test_every_table_of_results_and_the_figure_are_there() -> None:
    assert list(published.names()) == [*(f"table_{number}" for number in RESULTS), "figure_2"]


@pytest.mark.parametrize("number", RESULTS)
def test_a_table_holds_every_printed_number_and_no_other(number: str, shared_data: Path) -> None:
    path = shared_data.parent / "paper" / "tables" / f"table_{number}.csv"
    if not path.is_file():
        pytest.skip(f"no printed numbers at {path}")
    rows = list(csv.DictReader(path.open(newline="")))
    printed = {tuple(row[key] for key in KEYS): (row["mean"], row["std"]) for row in rows}
    assert len(printed) == len(rows)
    table = published.load(f"table_{number}")
    ours, texts = {}, {}
    for cell in (cell for cell in table.cells if not cell.ours):
        for quantity in table.content.quantities:
            found = table.printed(cell, quantity)
            text = found.text if found else ""
            mean, _, std = text.partition(" ± ")
            ours[key_of(cell, quantity)] = (mean, std)
            texts[key_of(cell, quantity)] = text or "n/a"
    assert ours == printed
    assert read_numbers(path) == texts


def test_remarks_on_the_paper_are_kept_apart_from_ours() -> None:
    contents = [published.load(name).content for name in published.names()]
    remarks = [text for content in contents for text in content.remarks]
    assert remarks and any(content.ours for content in contents)
    mixed = re.compile(r"\b(ours?|our own|CPU scale)\b", re.IGNORECASE)
    assert [text for text in remarks if mixed.search(text)] == []


def test_a_table_that_the_paper_lacks_a_trapezoid_of_has_one_of_ours() -> None:
    for name in published.names():
        columns = published.load(name).content.columns
        weak = [column for column in columns.values() if column.method not in (None, "supervised")]
        if weak:
            ours = [column for column in columns.values() if column.method == "trapezoid"]
            assert ours and all(column.ours for column in ours), name


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("1", "table_1"),
        ("table_1", "table_1"),
        ("Table 1", "table_1"),
        ("table_01", "table_1"),
        ("a4", "table_A4"),
        ("A04", "table_A4"),
        ("table_A18", "table_A18"),
        ("figure_2", "figure_2"),
        ("Figure 2", "figure_2"),
    ],
)
def test_a_table_is_found_by_each_way_of_writing_it(wanted: str, name: str) -> None:
    assert published.find(wanted) == name


def test_an_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no table 'A19': did you mean 'A\d+'\? use one of 1, 2,"):
        published.find("A19")


def test_settings_of_table_row_and_column_are_put_together() -> None:
    cells = {(cell.row, cell.column): cell for cell in published.load("table_5").cells}
    settings = cells["painn_without_forces", "pitc"].settings
    assert (settings.dataset, settings.train, settings.model) == ("ani1x", 1000, "painn")
    assert settings.reference_forces is False
    assert settings.set == {"optim.piwsl.terms": {"pitc": 1.0}}
    assert settings.weights_times == 0.1


def test_a_row_may_fix_a_column_otherwise() -> None:
    cells = {(cell.row, cell.column): cell for cell in published.load("table_1").cells}
    for model, times in {"schnet": 3.6, "painn": 2.6}.items():
        assert cells[f"{model}_n100", "supervised_equal_time"].settings.steps_times == times
    assert cells["schnet_n100", "supervised"].settings.steps_times is None


def test_a_row_may_have_some_of_the_columns() -> None:
    cells = published.load("table_A11").cells
    assert [c.column for c in cells if c.row == "reference_n1000"] == ["supervised"]


def test_printed_numbers_keep_their_digits() -> None:
    assert Printed.parse("13.10 ± 0.06") == Printed("13.10 ± 0.06", 13.1, 0.06)
    assert Printed.parse("13.10") == Printed("13.10", 13.1, None)
    assert Printed.parse("n/a") is None
    with pytest.raises(ValueError, match="is no number"):
        Printed.parse("about 13")
    for cut in ("13.", "13.10 ± 0.", "."):
        with pytest.raises(ValueError, match="is no number"):
            Printed.parse(cut)


NUMBERS = "dataset,molecule,model,n_train,case,method,quantity,mean,std"
LINE = "ani1x,,painn,100,,supervised,energy_rmse"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{NUMBERS}\n{LINE},23.\n".encode(), "line 2: 9 values are needed, is it cut off?"),
        (f"{NUMBERS}\n{LINE},23.,\n".encode(), "line 2: '23.' is no number"),
        (f"{NUMBERS}\n{LINE},23.42,0.\n".encode(), "line 2: '23.42 ± 0.' is no number"),
        (f"{NUMBERS}\n{LINE},1,0\n{LINE},2,0\n".encode(), "line 3: a second number for ani1x, "),
        (NUMBERS.replace(",std", "").encode(), "has no column 'std'"),
        (b"\xff\xfe\x00", "is no comma-separated text"),
    ],
)
def test_damaged_numbers_are_told(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "table_A18.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(said)):
        read_numbers(path)


def test_tables_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tables"
    shutil.copytree(published.tables_folder(), folder)
    monkeypatch.setattr(published, "tables_folder", lambda: folder)
    monkeypatch.setattr(numbers, "load", lambda name: published.read(folder / _file(name)))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    wanted = [published.load(name) for name in published.names() if name != "table_A18"]
    for table in wanted:
        _write_numbers(tmp_path / f"{table.name}.csv", table)
    with pytest.raises(UserError, match="no numbers at '"):
        numbers.write_tables(tmp_path)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    _write_numbers(tmp_path / "table_A18.csv", published.load("table_A18"))
    assert numbers.write_tables(tmp_path) == len(RESULTS)
    changed = [path.name for path in folder.iterdir() if path.read_bytes() != before[path]]
    assert sorted(changed) == sorted(_file(f"table_{number}") for number in RESULTS)


def _file(name: str) -> str:
    return published.load(name).path.name


def _write_numbers(path: Path, table: published.PaperTable) -> None:
    """Write a number for each cell and quantity of the paper, the same for all."""
    keys = {
        key_of(cell, quantity)
        for cell in table.cells
        if not cell.ours
        for quantity in table.content.quantities
    }
    lines = [",".join((*KEYS, "mean", "std")), *(",".join((*key, "7.25", "0.5")) for key in keys)]
    path.write_text("\n".join(lines))


CONTENT = {
    "title": "A table",
    "shows": "Nothing.",
    "quantities": ["energy_rmse"],
    "columns": {"supervised": {"method": "supervised"}},
    "rows": {"one": {"model": "painn"}},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {"one": {"modle": "painn"}}}, "rows.one.modle: extra inputs"),
        ({"quantities": ["energy"]}, "unknown quantity 'energy'"),
        ({"published": {"two": {}}}, "unknown row 'two'"),
        ({"published": {"one": {"piwsl": ["1.0"]}}}, "unknown column 'piwsl'"),
        ({"published": {"one": {"supervised": ["1.0", "2.0"]}}}, "has 2 numbers, expected one"),
        ({"published": {"one": {"supervised": ["low"]}}}, "'low' is no number"),
        ({"title": None}, "title"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, changes: dict, said: str) -> None:
    path = tmp_path / "table_1.yml"
    path.write_text(yaml.safe_dump({**CONTENT, **changes}))
    with pytest.raises(UserError) as caught:
        published.read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
