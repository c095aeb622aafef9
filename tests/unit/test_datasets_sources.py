"""Every source yields labelled structures in ASE's units, and says what is wrong with a file."""

from __future__ import annotations

import gzip
import tarfile

import h5py
import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io import write

from piwsl_ocp.datasets import SOURCES, ReadOptions
from piwsl_ocp.datasets.sources import xsf
from piwsl_ocp.datasets.sources.source import labelled
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor
from tests.source_files import ethanol, write_ani1x, write_archive, write_rmd17, xsf_text

KCAL = energy_factor("kcal/mol", "eV")


def read(name, files, **options):
    return list(SOURCES[name].read(files, ReadOptions(**options)))


def assert_is_ethanol(structures, count, rtol=1e-6):
    expected = ethanol(count)
    assert len(structures) == count
    for frame, atoms in enumerate(structures):
        results = atoms.calc.results
        np.testing.assert_array_equal(atoms.numbers, expected["nuclear_charges"])
        np.testing.assert_allclose(atoms.positions, expected["coords"][frame], atol=1e-6)
        assert results["energy"] == pytest.approx(expected["energies"][frame] * KCAL, rel=rtol)
        np.testing.assert_allclose(
            results["forces"], expected["forces"][frame] * KCAL, rtol=1e-5, atol=1e-6
        )


def cut(path, part=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


# ANI-1x


def test_ani1x_yields_ev(tmp_path):
    file = write_ani1x(tmp_path / "a.h5", 7)
    assert_is_ethanol(read("ani1x", [file]), 7)
    assert SOURCES["ani1x"].count([file, file]) == 14


def test_ani1x_marks_missing_labels(tmp_path):
    structures = read("ani1x", [write_ani1x(tmp_path / "a.h5", 5, missing=2)])
    energies = [atoms.calc.results["energy"] for atoms in structures]
    assert np.isnan(energies).tolist() == [True, True, False, False, False]


def test_ani1x_names_the_properties_there_are(tmp_path):
    file = write_ani1x(tmp_path / "a.h5", 3, label="wb97x_tz")
    with pytest.raises(UserError, match=r"'wb97x_dz'.*--property with one of wb97x_tz"):
        read("ani1x", [file])
    with pytest.raises(UserError, match=r"'ccsd\(t\)_cbs'"):
        read("ani1x", [file], property="ccsd(t)_cbs")
    assert len(read("ani1x", [file], property="wb97x_tz")) == 3


def test_ani1x_group_without_the_property(tmp_path):
    file = write_ani1x(tmp_path / "a.h5", 3)
    with h5py.File(file, "a") as opened:
        opened["Z9/atomic_numbers"] = [1]
        opened["Z9/coordinates"] = np.zeros((1, 1, 3))
    with pytest.raises(UserError, match=r"a.h5:Z9: no 'wb97x_dz.energy'"):
        read("ani1x", [file])


def test_ani1x_with_an_array_beside_the_groups(tmp_path):
    file = write_ani1x(tmp_path / "a.h5")
    with h5py.File(file, "a") as handle:
        handle["remarks"] = np.zeros(3)
    for use in (lambda: read("ani1x", [file]), lambda: SOURCES["ani1x"].count([file])):
        with pytest.raises(UserError, match="holds the array 'remarks' beside its groups"):
            use()


def test_ani1x_inconsistent_counts(tmp_path):
    file = write_ani1x(tmp_path / "a.h5", 3)
    with h5py.File(file, "a") as opened:
        del opened["C2H6O1/wb97x_dz.energy"]
        opened["C2H6O1/wb97x_dz.energy"] = np.zeros(2)
    with pytest.raises(UserError, match="different numbers of conformations"):
        read("ani1x", [file])


@pytest.mark.parametrize("part", [0.02, 0.6, 0.95])
def test_ani1x_cut_short(tmp_path, part):
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        read("ani1x", [cut(write_ani1x(tmp_path / "a.h5", 30), part)])


# rMD17


def test_rmd17_yields_the_new_labels_and_the_published_pool(tmp_path):
    structures = read("rmd17", [write_rmd17(tmp_path / "rmd17_ethanol_train_01.npz", 6)])
    assert_is_ethanol(structures, 6)
    assert {atoms.info["pool"] for atoms in structures} == {"train"}
    (plain,) = read("rmd17", [write_rmd17(tmp_path / "constraint_testing.npz", 1)])
    assert "pool" not in plain.info


def test_rmd17_without_a_key(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, **{k: v for k, v in ethanol(3).items() if k != "forces"}, old_forces=1.0)
    with pytest.raises(UserError, match="has no forces"):
        read("rmd17", [file])


def test_rmd17_of_different_lengths(tmp_path):
    file = write_rmd17(tmp_path / "a.npz", 4, energies=np.zeros(3))
    with pytest.raises(UserError, match="4 coords, 3 energies, 4 forces"):
        read("rmd17", [file])


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_rmd17_cut_short(tmp_path, part):
    with pytest.raises(UserError, match="cannot be read as npz"):
        read("rmd17", [cut(write_rmd17(tmp_path / "a.npz"), part)])


# XSF


@pytest.mark.parametrize("ending", ["xz", "gz", "bz2", ""])
def test_xsf_archives_are_read_without_unpacking(tmp_path, ending):
    texts = [xsf_text(frame) for frame in range(4)]
    file = write_archive(tmp_path / "a.tar", texts, f"w:{ending}")
    structures = read("tio2", [file])
    assert_is_ethanol(structures, 4)
    assert all(atoms.pbc.all() and atoms.cell.volume == pytest.approx(729) for atoms in structures)


def test_xsf_folders_and_files_are_read_in_the_order_of_names(tmp_path):
    for frame in (2, 0, 1):
        (tmp_path / f"s{frame}.xsf").write_text(xsf_text(frame))
    assert_is_ethanol(read("lmnto", [tmp_path]), 3)
    assert len(read("lmnto", [tmp_path / "s1.xsf", tmp_path / "s0.xsf"])) == 2


def test_xsf_atoms_style_has_no_cell():
    atoms = xsf.parse(xsf_text(cell=None), "x.xsf")
    assert not atoms.pbc.any()
    assert not atoms.cell.any()
    assert len(atoms) == 9


def test_xsf_units():
    without = "# total energy = -27.2"
    assert xsf.parse(xsf_text(energy_line=without), "x", "eV").calc.results["energy"] == -27.2
    hartree = xsf.parse(xsf_text(energy_line=f"{without} Ha"), "x")
    assert hartree.calc.results["energy"] == pytest.approx(-27.2 * 27.2114, rel=1e-5)
    forces = xsf.parse(xsf_text(), "x").calc.results["forces"]
    np.testing.assert_allclose(hartree.calc.results["forces"], forces * 27.2114, rtol=1e-5)
    with pytest.raises(UserError, match=r"says Hartree, but --energy-unit says eV"):
        xsf.parse(xsf_text(energy_line=f"{without} Hartree"), "x", "eV")
    for word in ("Ry", "eV/atom"):
        with pytest.raises(UserError, match=f"unknown unit '{word}' after the total energy"):
            xsf.parse(xsf_text(energy_line=f"{without} {word}"), "x", "eV")


BAD_XSF = {
    "no energy": (lambda text: text.split("\n", 1)[1], "no energy: expected a comment"),
    "no number": (lambda text: text.replace("= -", "= minus"), "is not a number"),
    "no unit": (lambda text: text.replace(" eV", ""), r"no unit after.*--energy-unit"),
    "unknown unit": (lambda text: text.replace(" eV", " a.u."), r"unknown unit 'a\.u\.'"),
    "unknown element": (lambda text: text.replace("\nC ", "\nXx "), "unknown element 'Xx'"),
    "no atoms": (lambda text: text.replace("PRIMCOORD", "CONVCOORD"), "no atoms"),
    "no cell": (lambda text: text.replace("PRIMVEC", "CONVVEC"), "no PRIMVEC"),
    "damaged number": (lambda text: text.replace("9.0000", "9.0o00", 1), "damaged"),
    "cut short": (lambda text: "\n".join(text.splitlines()[:-2]), "of 9 atoms"),
    "two frames": (lambda text: text + text[text.index("PRIMCOORD") :], "several structures"),
}


@pytest.mark.parametrize("case", BAD_XSF)
def test_bad_xsf_names_the_file_and_the_fault(case):
    spoil, words = BAD_XSF[case]
    spoilt = spoil(xsf_text())
    assert spoilt != xsf_text()
    with pytest.raises(UserError, match=words) as caught:
        xsf.parse(spoilt, "archive.tar:one.xsf")
    assert str(caught.value).startswith("archive.tar:one.xsf")


def test_xsf_without_forces():
    lines = xsf_text().splitlines()
    rows = [" ".join(line.split()[:4]) if len(line.split()) == 7 and line[0] != "#" else line
            for line in lines]  # fmt: skip
    with pytest.raises(UserError, match="an atom without forces"):
        xsf.parse("\n".join(rows), "one.xsf")


@pytest.mark.parametrize("ending", ["xz", "gz", ""])
@pytest.mark.parametrize("part", [0.4, 0.9])
def test_cut_archives_are_noticed(tmp_path, ending, part):
    texts = [xsf_text(frame) for frame in range(30)]
    file = cut(write_archive(tmp_path / "a.tar", texts, f"w:{ending}"), part)
    with pytest.raises(UserError, match="cannot be read to its end"):
        read("tio2", [file])


def test_plain_archive_cut_between_two_members(tmp_path):
    file = write_archive(tmp_path / "a.tar", [xsf_text(frame) for frame in range(5)], "w:")
    with tarfile.open(file) as archive:
        start = archive.getmembers()[3].offset
    file.write_bytes(file.read_bytes()[:start])
    with pytest.raises(UserError, match="cannot be read to its end"):
        read("tio2", [file])


def test_something_else_than_an_archive(tmp_path):
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(b"no archive" * 100))
    with pytest.raises(UserError, match="no tar archive"):
        read("tio2", [file])


# Anything ASE reads


def test_extxyz_keeps_labels_cell_and_fixed_atoms(tmp_path):
    arrays = ethanol(3)
    frames = [
        labelled(
            arrays["nuclear_charges"],
            arrays["coords"][frame],
            arrays["energies"][frame],
            arrays["forces"][frame],
            energy_unit="kcal/mol",
            origin="test",
            cell=9.0 * np.eye(3),
            pbc=(True, True, False),
        )
        for frame in range(3)
    ]
    for atoms in frames:
        atoms.set_constraint(FixAtoms([0, 2]))
        atoms.info.clear()
    write(tmp_path / "a.extxyz", frames, columns=["symbols", "positions", "forces", "move_mask"])
    structures = read("ase", [tmp_path / "a.extxyz"])
    assert_is_ethanol(structures, 3)
    assert structures[0].pbc.tolist() == [True, True, False]
    assert structures[0].constraints[0].index.tolist() == [0, 2]
    in_hartree = read("ase", [tmp_path / "a.extxyz"], energy_unit="Hartree")
    ratio = in_hartree[0].calc.results["energy"] / structures[0].calc.results["energy"]
    assert ratio == pytest.approx(27.2114, rel=1e-5)


def test_ase_without_forces_or_unreadable(tmp_path):
    file = tmp_path / "a.xyz"
    file.write_text("1\nProperties=species:S:1:pos:R:3 energy=-1.0\nH 0.0 0.0 0.0\n")
    with pytest.raises(UserError, match=r"a.xyz\[0\] has no forces"):
        read("ase", [file])
    file.write_text("3\n\nH 0.0 0.0\n")
    with pytest.raises(UserError, match="ASE cannot read"):
        read("ase", [file])


HYDROGEN = "1\nProperties=species:S:1:pos:R:3:forces:R:3{columns} {facts}\nH 0 0 0 0 0 {row}\n"


def hydrogen(path, facts, columns="", row="2"):
    path.write_text(HYDROGEN.format(facts=facts, columns=columns, row=row))
    return path


def test_ase_labels_can_be_named(tmp_path):
    columns = ":REF_forces:R:3"
    file = hydrogen(tmp_path / "a.extxyz", "energy=-1 REF_energy=-3", columns, "2 0 0 5")
    for label, energy, force in ((None, -1.0, 2.0), ("REF", -3.0, 5.0)):
        (atoms,) = read("ase", [file], property=label)
        assert atoms.calc.results["energy"] == energy
        assert atoms.calc.results["forces"].tolist() == [[0.0, 0.0, force]]
    with pytest.raises(UserError, match=r"a.extxyz\[0\] has no DFT_energy"):
        read("ase", [file], property="DFT")


def test_ase_energy_is_the_one_whose_gradient_the_forces_are(tmp_path):
    (atoms,) = read("ase", [hydrogen(tmp_path / "a.extxyz", "energy=-1 free_energy=-1.5")])
    assert atoms.calc.results["energy"] == -1.5
    assert "free_energy" in atoms.info["note"]
    (atoms,) = read("ase", [hydrogen(tmp_path / "b.extxyz", "energy=-1 free_energy=-1")])
    assert atoms.calc.results["energy"] == -1.0
    assert "note" not in atoms.info


@pytest.mark.parametrize(
    ("facts", "columns", "row", "words"),
    [
        ("energy=None", "", "2", r"a.extxyz\[0\]: energy: found 'None', expected numbers"),
        ('energy="-1 -2"', "", "2", r"a.extxyz\[0\]: 2 energies: expected one number"),
        ("energy=-1", ":tags:S:1", "2 top", "tags such as 'top': expected whole numbers"),
    ],
)
def test_ase_labels_that_are_no_numbers(tmp_path, facts, columns, row, words):
    with pytest.raises(UserError, match=words):
        read("ase", [hydrogen(tmp_path / "a.extxyz", facts, columns, row)])


def test_ase_file_names_may_have_an_at_sign(tmp_path):
    assert len(read("ase", [hydrogen(tmp_path / "at@300K.extxyz", "energy=-1")])) == 1


# Shipped


def test_shipped_files_are_read_by_name():
    source, (path,) = SOURCES["embedded"].locate(["ethanol"])
    assert (source.name, source.level_of_theory, source.split) == ("embedded", "GFN2-xTB", "random")
    assert_is_ethanol(list(source.read([path]))[:5], 5)
    with pytest.raises(UserError, match="aspirin, ethanol, molecules, oxide"):
        SOURCES["embedded"].locate(["ethane"])


@pytest.mark.parametrize("name", SOURCES)
def test_sources_refuse_no_files_and_files_that_are_not_there(name):
    with pytest.raises(UserError):
        SOURCES[name].locate([])
    with pytest.raises(UserError, match="nowhere"):
        SOURCES[name].locate(["nowhere.h5"])


def test_shapes_that_do_not_belong_together():
    with pytest.raises(UserError, match="2 atoms, positions"):
        labelled([1, 1], np.zeros((3, 3)), 0.0, np.zeros((3, 3)), energy_unit="eV", origin="x")
