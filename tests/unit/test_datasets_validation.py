"""A check sees what is wrong with a data set, and nothing where all is right."""

from __future__ import annotations

import json
import pickle
import shutil

import lmdb
import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from piwsl_ocp.datasets import ConversionOptions, ReadOptions, convert
from piwsl_ocp.datasets.lmdb import LmdbReader, LmdbWriter
from piwsl_ocp.datasets.validation import check
from piwsl_ocp.errors import UserError
from tests.source_files import ethanol, write_rmd17


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return a sound data set of 260 structures."""
    folder = tmp_path_factory.mktemp("sound") / "ethanol"
    convert("embedded", ["ethanol"], folder, ConversionOptions(train=100, validation=80, test=80))
    return folder


@pytest.fixture
def spoilt(sound, tmp_path):
    """Return a function that changes records of a copy and returns the copy."""

    def spoil(change, split="train"):
        folder = tmp_path / "spoilt"
        shutil.copytree(sound, folder)
        path = folder / split / "data.lmdb"
        with LmdbReader(path) as reader:
            records = dict(enumerate(reader))
        change(records)
        path.unlink()
        with LmdbWriter(path) as writer:
            for number, record in records.items():
                writer.write(number, record)
        return folder

    return spoil


def lines(folder, level="error", **options):
    findings = check(folder, progress=False, **options)
    return [str(finding) for finding in findings if finding.level == level]


def test_sound_data_has_no_errors_and_no_warnings(sound):
    findings = check(sound, progress=False)
    assert {finding.level for finding in findings} == {"info"}
    texts = " ".join(str(finding) for finding in findings)
    assert "agree in sign and unit" in texts
    assert "the unit fits" in texts


def test_one_file_is_checked_too(sound):
    assert lines(sound / "val" / "data.lmdb") == []
    info = lines(sound / "val", "info")
    assert any("the unit is not declared" in line for line in info)
    assert any(
        "labels in kcal/mol that were taken for eV" in line
        for line in lines(sound / "val", unit="eV")
    )


def test_nothing_to_check(tmp_path):
    with pytest.raises(UserError, match="no data set at"):
        check(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no \*.lmdb file"):
        check(tmp_path)


CHANGES = {
    "energy nan": (lambda r: setattr(r[3], "energy", float("nan")), "record 3: energy not finite"),
    "forces inf": (lambda r: r[4].forces.fill_(torch.inf), "record 4: forces not finite"),
    "natoms": (lambda r: setattr(r[5], "natoms", 8), "record 5: 9 atomic numbers, but natoms"),
    "rows": (
        lambda r: setattr(r[6], "forces", r[6].forces[:-1]),
        "record 6: 9 atomic numbers, but forces has 8",
    ),
    "element": (lambda r: r[7].atomic_numbers.fill_(0), "record 7: atomic number 0"),
    "contact": (lambda r: r[8].pos[0].copy_(r[8].pos[1] + 0.2), "record 8: C-C at 0.346"),
    "same point": (lambda r: r[9].pos[0].copy_(r[9].pos[1]), "record 9: C-C at 0.000"),
    "no forces": (lambda r: delattr(r[2], "forces"), "record 2: no forces"),
    "not a record": (lambda r: r.update({1: 7}), "record 1: no pos, atomic_numbers"),
    "missing": (lambda r: r.pop(99), "99 readable records, but dataset.json says 100"),
    "gap": (lambda r: r.pop(50), "record 50 of "),
    "energy changed": (lambda r: setattr(r[3], "energy", 1.0), "the checksum of the records"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_spoilt_records_are_named(spoilt, case):
    change, words = CHANGES[case]
    errors = lines(spoilt(change))
    assert any(line.startswith("error: train") and words in line for line in errors), errors


def test_more_entries_than_told_and_fewer(spoilt):
    folder = spoilt(lambda records: None)
    path = folder / "train" / "data.lmdb"
    with (
        lmdb.open(str(path), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"length", pickle.dumps(120))
    assert any("says 120 records, but holds 100" in line for line in lines(folder))
    with (
        lmdb.open(str(path), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"length", pickle.dumps(90))
    assert any("says 90 records, but holds 100" in line for line in lines(folder, "warning"))


def test_cut_split_is_an_error_and_the_others_are_checked(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "cut")
    path = folder / "test" / "data.lmdb"
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    (error,) = lines(folder)
    assert error.startswith("error: test: ")
    assert "cut short" in error


def test_metadata_is_compared(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "meta")
    natoms = np.full(100, 9)
    natoms[17] = 8
    np.savez(folder / "train" / "metadata.npz", natoms=natoms)
    np.savez(folder / "val" / "metadata.npz", natoms=natoms)
    (folder / "test" / "metadata.npz").unlink()
    errors = lines(folder)
    assert "error: train record 17: 9 atoms, but metadata.npz says 8" in errors
    assert "error: val: metadata.npz has 100 entries for 80 records" in errors
    assert any("cannot balance" in line for line in lines(folder, "warning"))


def test_duplicates_and_contradictions(spoilt):
    def change(records):
        records[11] = records[10].clone()
        records[13] = records[12].clone()
        records[13].energy += 5.0
        # A copy that is moved, turned by 120 degrees and has its atoms renumbered.
        records[15] = records[14].clone()
        records[15].pos = (records[14].pos[:, [1, 2, 0]] + 1.5).flip(0)
        records[15].forces = records[14].forces[:, [1, 2, 0]].flip(0)
        records[15].atomic_numbers = records[14].atomic_numbers.flip(0)

    folder = spoilt(change)
    warnings = lines(folder, "warning")
    assert any("record 11: the same structure as train record 10" in line for line in warnings)
    assert any("record 15: all distances agree" in line for line in warnings)
    assert any("record 13: " in line and "one of the labels" in line for line in lines(folder))


def test_leak_between_splits(sound, spoilt):
    with LmdbReader(sound / "test") as reader:
        leaked = reader[7]
    errors = lines(spoilt(lambda records: records.update({0: leaked})))
    assert any("test record 7: the same structure as train record 0" in line for line in errors)


def test_energy_outlier_and_uncovered_element(spoilt):
    def change(records):
        records[5].energy += 500.0
        records[6].atomic_numbers = torch.where(
            records[6].atomic_numbers == 8, 16, records[6].atomic_numbers
        )

    warnings = lines(spoilt(change, "test"), "warning")
    assert any("test record 5: energy per atom" in line for line in warnings)
    assert any("test: S do not occur in training" in line for line in warnings)


@pytest.mark.parametrize("count", [40, 200])
def test_reversed_forces_are_seen(tmp_path, count):
    file = write_rmd17(tmp_path / "a.npz", count)
    options = ConversionOptions(train=10, split="paper", forces_are_gradients=True)
    convert("rmd17", [file], tmp_path / "data", options)
    errors = lines(tmp_path / "data")
    assert any("the sign of the forces is reversed" in line for line in errors)
    assert any("stretched bonds push outward" in line for line in errors)


@pytest.mark.parametrize(
    ("energy_factor", "words"),
    [
        (1 / 627.5095, "energies in Hartree and forces in kcal/mol/Angstrom"),
        (1 / 23.0605, "energies in eV and forces in kcal/mol/Angstrom"),
        (27.2114, "energies in eV and forces in Hartree/Angstrom"),
        (4.184, "energies in kJ/mol and forces in kcal/mol/Angstrom"),
    ],
)
def test_energies_and_forces_in_different_units(tmp_path, energy_factor, words):
    arrays = ethanol(300)
    file = write_rmd17(tmp_path / "a.npz", 300, energies=arrays["energies"] * energy_factor)
    convert("rmd17", [file], tmp_path / "data", ConversionOptions(train=100, split="paper"))
    assert any(f"probably {words}" in line for line in lines(tmp_path / "data"))


@pytest.mark.parametrize("declared", ["eV", "Hartree", "kJ/mol"])
def test_both_in_another_unit_than_declared(tmp_path, declared):
    file = write_rmd17(tmp_path / "a.npz", 100)
    options = ConversionOptions(train=50, split="paper", read=ReadOptions(energy_unit=declared))
    convert("rmd17", [file], tmp_path / "data", options)
    (error,) = lines(tmp_path / "data")
    assert "stiffness" in error
    assert f"labels in kcal/mol that were taken for {declared}" in error


def test_what_cannot_be_seen_is_said(tmp_path):
    records = {n: oxygen_pair(1.2 + 0.8 * n) for n in range(4)}
    with LmdbWriter(tmp_path / "few.lmdb") as writer:
        for number, record in records.items():
            writer.write(number, record)
    info = lines(tmp_path / "few.lmdb", "info")
    assert any("cannot be seen" in line for line in info)


def test_forces_of_another_method_are_doubted(tmp_path):
    forces = np.random.default_rng(0).normal(0.0, 20.0, ethanol(500)["forces"].shape)
    file = write_rmd17(tmp_path / "a.npz", 500, forces=forces)
    convert("rmd17", [file], tmp_path / "data", ConversionOptions(train=200, split="paper"))
    assert any("do not explain the energies" in x for x in lines(tmp_path / "data", "warning"))


def test_many_findings_of_a_kind_are_cut_short(spoilt):
    def change(records):
        for record in records.values():
            record.forces = torch.zeros_like(record.forces)

    warnings = lines(spoilt(change), "warning")
    assert "warning: train: 90 more records: zero forces" in warnings
    assert sum("all forces are exactly 0" in line for line in warnings) == 10


def test_older_names_of_fields_are_understood(tmp_path, sound):
    with LmdbReader(sound / "val") as reader, LmdbWriter(tmp_path / "old.lmdb") as writer:
        for number, record in enumerate(reader):
            fields = {
                "pos": record.pos,
                "atomic_numbers": record.atomic_numbers.float(),
                "y": record.energy,
                "force": record.forces,
                "natoms": torch.tensor([9]),
            }
            writer.write(number, Data(**fields) if number % 2 else fields)
    findings = check(tmp_path / "old.lmdb", progress=False)
    assert [f.level for f in findings if f.level == "error"] == []
    assert any("agree in sign and unit" in f.text for f in findings)


def test_damaged_facts(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "facts")
    facts = json.loads((folder / "dataset.json").read_text())
    del facts["units"]
    (folder / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="is damaged"):
        check(folder)
    (folder / "dataset.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="not of format 1"):
        check(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        check(folder)


def oxygen_pair(distance: float) -> Data:
    """Return two atoms on a weak spring."""
    pull = 0.1 * (distance - 1.2)
    return Data(
        pos=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]),
        atomic_numbers=torch.tensor([8, 8]),
        natoms=2,
        energy=0.5 * pull * (distance - 1.2),
        forces=torch.tensor([[0.0, 0.0, pull], [0.0, 0.0, -pull]]),
    )
