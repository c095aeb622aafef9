"""The page of a comparison: complete, self-contained, valid."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from piwsl_ocp.evaluation.bond_scan import DISTANCES_ANGSTROM, BondProfile
from piwsl_ocp.experiments.compare import Comparison, compare
from piwsl_ocp.experiments.plots import BondFigure, as_svg
from piwsl_ocp.experiments.report import snippet, write_report
from tests.run_folders import STATUS, make_run

#: Elements that have no end tag.
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    scales = {"supervised": 1.0, "piwsl": 0.75, "trapezoid": 0.5}
    return compare(
        make_run(tmp_path / f"{method}<{seed}>", method, seed, scale=scale + 0.1 * seed)
        for method, scale in scales.items()
        for seed in (0, 1)
    )


@pytest.fixture
def bond(comparison: Comparison) -> BondFigure:
    lengths = np.array(DISTANCES_ANGSTROM)
    morse = 100 * (1 - np.exp(-1.9 * (lengths - 1.1))) ** 2
    profiles = {
        row.label: [
            BondProfile(DISTANCES_ANGSTROM, tuple(morse * (1 + 0.05 * seed)), "kcal/mol")
            for seed in row.seeds
        ]
        for row in comparison.rows
    }
    reference = BondProfile(DISTANCES_ANGSTROM, tuple(morse), "kcal/mol")
    return BondFigure("C–H bond of aspirin", reference, "GFN2-xTB", profiles, (1.0, 1.3))


def test_the_page_holds_table_curves_bond_code_and_provenance(
    comparison: Comparison, bond: BondFigure, tmp_path: Path
) -> None:
    path = write_report(
        comparison, tmp_path / "new" / "report.html", bond=bond, command="piwsl demo"
    )
    page = Page(path.read_text())
    assert page.open == []
    for row in comparison.rows:
        assert row.label in page.text
    assert "4.20 ± 0.28" in page.text  # supervised energy RMSE of 4.0 and 4.4
    assert snippet(comparison.best.folder.best_checkpoint) in page.text
    for run in comparison.runs:
        assert f"piwsl train '{run.folder.path}/config.yml'" in page.text
    for expected in ("012345678", "b" * 64, "GFN2-xTB", "piwsl demo", "C–H bond of aspirin"):
        assert expected in page.text
    assert STATUS["command"] not in page.text
    assert path.read_text().count("<svg") == 2


def test_the_page_loads_nothing_from_elsewhere(
    comparison: Comparison, bond: BondFigure, tmp_path: Path
) -> None:
    text = write_report(comparison, tmp_path / "report.html", bond=bond).read_text()
    page = Page(text)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data"):
            assert value.startswith("#"), (name, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_identifiers_are_unique_and_references_lead_somewhere(
    comparison: Comparison, bond: BondFigure, tmp_path: Path
) -> None:
    text = write_report(comparison, tmp_path / "report.html", bond=bond).read_text()
    identifiers = [value for name, value in Page(text).attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers)) > 20
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)
    assert {first or second for first, second in used} <= set(identifiers)


def test_the_same_comparison_gives_the_same_page(
    comparison: Comparison, bond: BondFigure, tmp_path: Path
) -> None:
    first = write_report(comparison, tmp_path / "1.html", bond=bond)
    second = write_report(comparison, tmp_path / "2.html", bond=bond)
    assert first.read_bytes() == second.read_bytes()


def test_a_figure_does_not_depend_on_the_last_bits_of_its_coordinates() -> None:
    def drawn(left: float) -> str:
        figure = Figure()
        figure.add_axes((left, 0.1, 0.8, 0.8)).plot([0, 1], [0, 1], "o-")
        return as_svg(figure, "figure")

    with matplotlib.rc_context({"svg.hashsalt": "figure"}):
        assert drawn(0.1) == drawn(0.1 + 1e-15)


def test_a_page_without_bond_scan_and_with_a_note(comparison: Comparison, tmp_path: Path) -> None:
    tuned = make_run(tmp_path / "tuned", "supervised", 7, changes={"optim.lr_initial": 0.001})
    marked = compare([*(run.folder.path for run in comparison.runs), tuned])
    text = Page(write_report(marked, tmp_path / "report.html").read_text()).text
    assert "Not the same settings: the runs differ in optim.lr_initial" in text
    assert "RMSE of the profile" not in text


def test_the_lines_of_code_are_three_and_valid() -> None:
    lines = snippet("runs/a/checkpoints/best_checkpoint.pt", "aspirin.xyz")
    assert len(lines.splitlines()) == 3
    compile(lines, "snippet", "exec")
    assert 'PIWSLCalculator("runs/a/checkpoints/best_checkpoint.pt")' in lines
