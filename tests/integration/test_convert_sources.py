"""Files become data sets that fairchem reads, with the facts that go with them."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import hashlib
import json
import os
import tracemalloc

import h5py
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from torch_geometric.data import Batch

from piwsl_ocp.datasets import (
    SOURCES,
    ConversionOptions,
    DatasetInfo,
    ReadOptions,
    SplitInfo,
    convert,
)
from piwsl_ocp.datasets.lmdb import LmdbReader
from piwsl_ocp.datasets.validation import check
from piwsl_ocp.errors import UserError
from piwsl_ocp.units import energy_factor
from tests.source_files import ethanol, write_ani1x, write_archive, write_rmd17, xsf_text

FIELDS = [
    "atomic_numbers", "cell", "energy", "fixed", "forces", "natoms", "pbc", "pos", "sid", "tags",
]  # fmt: skip

REAL = {
    "ani1x": ("ani1x", ["ani1x/ani1x_sample_1000.h5"], (100, 100, 700)),
    "tio2": ("tio2", ["tio2/TiO2_artrith2016_7815_xsf.tar.xz"], (100, 100, 1000)),
    "tio2_gz": ("tio2", ["tio2/tio2_subset1000_xsf.tar.gz"], (100, 100, 800)),
    "lmnto": ("lmnto", ["lmnto/LMNTO_cooper2020_824_xsf.tar.xz"], (100, 100, 624)),
    "aspirin": (
        "rmd17",
        ["rmd17/rmd17_aspirin_train_01.npz", "rmd17/rmd17_aspirin_test_01.npz"],
        (100, 900, 1000),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_published_files_convert_and_check_clean(shared_data, tmp_path, name):
    source, files, counts = REAL[name]
    paths = [shared_data / file for file in files]
    options = ConversionOptions(test=700 if name == "ani1x" else None)
    info = convert(source, paths, tmp_path / name, options, progress=False)
    assert tuple(split.count for split in info.splits.values()) == counts
    findings = check(tmp_path / name, progress=False)
    assert [str(finding) for finding in findings if finding.level == "error"] == []
    assert any("agree in sign and unit" in finding.text for finding in findings)


def test_published_aspirin_splits_come_from_their_own_files(shared_data, tmp_path):
    files = [shared_data / "rmd17" / f"rmd17_aspirin_{pool}_01.npz" for pool in ("train", "test")]
    options = ConversionOptions(train=100, validation=50, test=60)
    convert("rmd17", files[::-1], tmp_path / "data", options, progress=False)
    with np.load(tmp_path / "data" / "splits.npz") as indices:
        # The test file was named first: its frames are records 0 to 999.
        assert indices["test"].max() < 1000 <= min(indices["train"].min(), indices["val"].min())


def test_fairchem_reads_records_and_metadata(tmp_path):
    file = write_ani1x(tmp_path / "a.h5")
    options = ConversionOptions(train=20, validation=8, test=5)
    info = convert("ani1x", [file], tmp_path / "data", options)
    for split, count in (("train", 20), ("val", 8), ("test", 5)):
        dataset = LmdbDataset({"src": str(tmp_path / "data" / split / "data.lmdb")})
        assert len(dataset) == info.splits[split].count == count
        assert dataset.get_metadata("natoms", list(range(count))) == [9] * count
        batch = Batch.from_data_list([dataset[number] for number in range(count)])
        assert batch.natoms.tolist() == [9] * count
        assert batch.cell.shape == (count, 3, 3)
        assert not batch.cell.any()
        assert not batch.pbc.any()
        assert batch.energy.shape == (count,)
    record = dataset[0]
    assert sorted(record.keys()) == FIELDS
    types = {"pos": torch.float32, "forces": torch.float32, "cell": torch.float32}
    types.update(dict.fromkeys(("atomic_numbers", "tags", "fixed"), torch.int64), pbc=torch.bool)
    assert {name: record[name].dtype for name in types} == types
    assert isinstance(record.energy, float)
    assert isinstance(record.sid, int)


def test_records_are_the_labels_of_the_file_less_references(tmp_path):
    file = write_ani1x(tmp_path / "a.h5")
    out = tmp_path / "data"
    info = convert("ani1x", [file], out, ConversionOptions(train=20, unit="eV"))
    arrays, factor = ethanol(40), energy_factor("kcal/mol", "eV")
    shift = 6 * info.references[1] + 2 * info.references[6] + info.references[8]
    seen = []
    for split in ("train", "val", "test"):
        with LmdbReader(out / split) as reader, np.load(out / "splits.npz") as indices:
            assert [record.sid for record in reader] == indices[split].tolist()
            for record in reader:
                seen.append(record.sid)
                total = arrays["energies"][record.sid] * factor
                assert record.energy == pytest.approx(total - shift, abs=1e-6)
                expected = arrays["forces"][record.sid] * factor
                np.testing.assert_allclose(record.forces.numpy(), expected, atol=1e-5)
    assert sorted(seen) == list(range(40))


def test_facts_of_a_data_set(tmp_path):
    file = write_ani1x(tmp_path / "a.h5", missing=4)
    notes: list[str] = []
    out = tmp_path / "data"
    info = convert("ani1x", [file], out, ConversionOptions(train=20), report=notes.append)
    assert "4 of 40 structures left out: missing energy or forces" in notes
    assert any("test set shrunk from 10000 to" in note for note in notes)
    stored = json.loads((out / "dataset.json").read_text())
    assert stored["files"] == [
        {
            "name": "a.h5",
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
    ]
    assert stored["units"] == {
        "energy": "kcal/mol", "length": "Angstrom", "forces": "kcal/mol/Angstrom"
    }  # fmt: skip
    assert stored["counts"] == {
        "read": 40, "kept": 36, "dropped": {"missing energy or forces": 4}
    }  # fmt: skip
    assert stored["references"]["kind"] == "atomic"
    assert set(stored["references"]["energies"]) == {"1", "6", "7", "8"}
    assert (stored["elements"], stored["periodic"]) == ([1, 6, 8], False)
    assert stored["level_of_theory"] == "DFT wB97X/6-31G(d)"
    assert stored["split"]["seed"] == 0
    assert DatasetInfo.read(out) == info


def test_summaries_are_those_of_the_records(tmp_path):
    out = tmp_path / "data"
    info = convert("embedded", ["ethanol"], out, ConversionOptions(train=30, test=30))
    with LmdbReader(out / "train") as reader:
        energies = np.array([record.energy for record in reader])
        forces = np.concatenate([record.forces.numpy().ravel() for record in reader])
    told = info.splits["train"]
    assert isinstance(told, SplitInfo)
    assert told.energy_mean == pytest.approx(energies.mean(), abs=1e-8)
    assert told.energy_std == pytest.approx(energies.std(), rel=1e-8)
    assert told.force_rms == pytest.approx(np.sqrt(np.mean(forces.astype(float) ** 2)), rel=1e-8)
    # Fitted on the training split alone, so exactly its mean is removed.
    assert told.energy_mean == pytest.approx(0.0, abs=1e-6)
    assert abs(info.splits["test"].energy_mean) > 1e-3


def test_larger_training_set_begins_with_the_smaller(tmp_path):
    datasets = []
    for train in (10, 25):
        out = tmp_path / str(train)
        convert("embedded", ["ethanol"], out, ConversionOptions(train=train, test=40))
        with np.load(out / "splits.npz") as indices:
            datasets.append({name: indices[name] for name in ("train", "test")})
    np.testing.assert_array_equal(datasets[0]["train"], datasets[1]["train"][:10])
    np.testing.assert_array_equal(datasets[0]["test"], datasets[1]["test"])


def test_periodic_atoms_are_inside_the_cell(tmp_path):
    file = write_archive(tmp_path / "a.tar.xz", [xsf_text(n, cell=4.5) for n in range(5)])
    out = tmp_path / "data"
    info = convert("lmnto", [file], out, ConversionOptions(train=3))
    assert info.periodic
    with LmdbReader(out / "train") as reader:
        for record in reader:
            assert record.pbc.all()
            fractions = record.pos.numpy() @ np.linalg.inv(record.cell[0].numpy())
            assert fractions.min() > -1e-6
            assert fractions.max() < 1 + 1e-6
            original = ethanol(5)["coords"][record.sid]
            shift = (record.pos.numpy() - original) / 4.5
            np.testing.assert_allclose(shift, np.round(shift), atol=1e-5)


def test_second_run_does_nothing_or_refuses(tmp_path):
    file = write_rmd17(tmp_path / "a.npz")
    out = tmp_path / "data"
    options = ConversionOptions(train=20, split="paper")
    first = convert("rmd17", [file], out, options)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    notes: list[str] = []
    assert convert("rmd17", [file], out, options, report=notes.append) == first
    assert notes == [f"'{out}' holds this conversion already: nothing to do"]
    for other in (
        ConversionOptions(train=21, split="paper"),
        ConversionOptions(train=20, split="paper", unit="eV"),
        ConversionOptions(train=20, split="paper", split_seed=1),
        ConversionOptions(train=20, split="paper", level_of_theory="PBE0"),
    ):
        with pytest.raises(UserError, match="holds another data set"):
            convert("rmd17", [file], out, other)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    again = convert(
        "rmd17", [file], out, ConversionOptions(train=21, split="paper", overwrite=True)
    )
    assert again.splits["train"].count == 21
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "data"]


def test_changed_source_file_is_noticed(tmp_path):
    file = write_rmd17(tmp_path / "a.npz", 40)
    options = ConversionOptions(train=20, split="paper")
    convert("rmd17", [file], tmp_path / "data", options)
    write_rmd17(file, 41)
    with pytest.raises(UserError, match="files differ"):
        convert("rmd17", [file], tmp_path / "data", options)


def test_foreign_folder_is_never_touched(tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"thesis.tex"):
            convert("embedded", ["ethanol"], out, ConversionOptions(overwrite=overwrite))
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_conversion_is_reproducible(tmp_path):
    infos = [
        convert("embedded", ["ethanol"], tmp_path / name, ConversionOptions(train=20, test=20))
        for name in ("one", "two")
    ]
    assert infos[0] == infos[1]


@pytest.mark.parametrize(("seed", "in_training"), [(0, True), (1, False)])
def test_compositions_that_training_does_not_determine_are_told(tmp_path, seed, in_training):
    rng = np.random.default_rng(0)
    frames = [Atoms("OH2", rng.normal(size=(3, 3))) for _ in range(60)] + [Atoms("O")]
    for atoms in frames:
        forces = rng.normal(size=(len(atoms), 3))
        atoms.calc = SinglePointCalculator(atoms, energy=rng.normal(), forces=forces)
    write(tmp_path / "a.extxyz", frames)
    notes: list[str] = []
    options = ConversionOptions(train=20, split_seed=seed)
    convert("ase", [tmp_path / "a.extxyz"], tmp_path / "data", options, report=notes.append)
    findings = check(tmp_path / "data", progress=False)
    warned = any("1 compositions, such as O, are no combination" in f.text for f in findings)
    said = any("1 structures of validation and test, such as O, are no" in note for note in notes)
    assert said is warned is not in_training


def test_structures_with_large_forces_are_left_out_when_asked(tmp_path):
    file = write_rmd17(tmp_path / "a.npz")
    factor = energy_factor("kcal/mol", "eV")
    largest = np.abs(ethanol(40)["forces"]).max(axis=(1, 2)) * factor
    limit = float(np.sort(largest)[-4]) + 1e-6
    options = ConversionOptions(train=20, split="paper", max_force_ev_per_angstrom=limit)
    info = convert("rmd17", [file], tmp_path / "data", options)
    assert list(info.counts["dropped"].values()) == [3]
    with np.load(tmp_path / "data" / "splits.npz") as indices:
        kept = np.concatenate([indices[name] for name in indices.files])
    assert not set(np.flatnonzero(largest > limit)) & set(kept.tolist())


def test_other_label_of_ani1x_gets_fitted_references(tmp_path):
    file = write_ani1x(tmp_path / "a.h5", label="wb97x_tz")
    options = ConversionOptions(train=20, read=ReadOptions(property="wb97x_tz"))
    info = convert("ani1x", [file], tmp_path / "data", options)
    assert info.reference_kind == "least_squares"
    assert info.level_of_theory == "label 'wb97x_tz' of the files"


@pytest.mark.parametrize("name", ["aspirin", "ethanol", "molecules", "oxide"])
def test_shipped_data_converts_and_checks_clean(tmp_path, name):
    info = convert("embedded", [name], tmp_path / name)
    assert info.name == name
    assert info.periodic == (name == "oxide")
    levels = [finding.level for finding in check(tmp_path / name, progress=False)]
    assert "error" not in levels


def test_sources_table_names_every_source():
    assert list(SOURCES) == ["ani1x", "tio2", "rmd17", "lmnto", "ase", "embedded"]
    assert all(name == source.name for name, source in SOURCES.items())
    assert os.linesep not in "".join(source.description for source in SOURCES.values())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    options = ConversionOptions(train=100, validation=100, test=100)
    peaks = []
    for copies in (1, 1, 8):  # the first conversion pays for imports
        file = tmp_path / f"{len(peaks)}.h5"
        with h5py.File(file, "w") as opened:
            for copy in range(copies):
                with h5py.File(write_ani1x(tmp_path / "one.h5", 500)) as one:
                    one.copy("C2H6O1", opened, name=f"C2H6O1_{copy}")
        tracemalloc.start()
        info = convert("ani1x", [file], tmp_path / f"data{len(peaks)}", options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert info.counts["kept"] == 500 * copies
    # 3500 structures more, of 9 atoms with 9 numbers of 8 bytes each, would be 2.3 MB.
    assert peaks[2] - peaks[1] < 0.3e6, peaks
