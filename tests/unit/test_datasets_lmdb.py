"""LMDB files: growing, limits, damage; folders that appear complete or not at all."""

from __future__ import annotations

import fcntl
import os
import pickle

import lmdb
import numpy as np
import pytest

from piwsl_ocp.datasets.lmdb import LmdbReader, LmdbWriter
from piwsl_ocp.datasets.staging import LOCK_FILE, staged_folder
from piwsl_ocp.errors import UserError


def write(path, count=50, size=2000, **options):
    with LmdbWriter(path, **options) as writer:
        for number in reversed(range(count)):
            writer.write(number, {"number": number, "noise": os.urandom(size)})
    return path


def test_records_come_back_under_their_numbers(tmp_path):
    with LmdbReader(write(tmp_path / "a.lmdb")) as reader:
        assert len(reader) == reader.entries == 50
        assert [record["number"] for record in reader] == list(range(50))
    with LmdbReader(tmp_path) as reader:
        assert reader[49]["number"] == 49
        with pytest.raises(IndexError):
            reader[50]


def test_file_grows_beyond_its_first_size(tmp_path, monkeypatch):
    monkeypatch.setattr("piwsl_ocp.datasets.lmdb.FIRST_MAP_BYTES", 2**16)
    monkeypatch.setattr("piwsl_ocp.datasets.lmdb.BATCH_BYTES", 2**14)
    path = write(tmp_path / "a.lmdb", count=100, size=20_000)
    assert path.stat().st_size > 100 * 20_000
    with LmdbReader(path) as reader:
        assert [record["number"] for record in reader] == list(range(100))


def test_full_map_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*MAP_FULL"):
        write(tmp_path / "a.lmdb", count=100, size=20_000, largest_map_bytes=2**20)


def test_records_are_never_added_to_a_file(tmp_path):
    write(tmp_path / "a.lmdb")
    with pytest.raises(UserError, match="never added"):
        write(tmp_path / "a.lmdb")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_cut_file_is_an_error_not_a_crash(tmp_path, part):
    path = write(tmp_path / "a.lmdb", count=200)
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(UserError, match=r"cut short"):
        LmdbReader(path)


def test_something_else_and_nothing(tmp_path):
    (tmp_path / "a.lmdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="cannot be opened as LMDB"):
        LmdbReader(tmp_path / "a.lmdb")
    with pytest.raises(UserError, match="no LMDB at"):
        LmdbReader(tmp_path / "b.lmdb")
    write(tmp_path / "b.lmdb")
    with pytest.raises(UserError, match=r"2 \*.lmdb files"):
        LmdbReader(tmp_path)


def test_missing_and_damaged_records_are_named(tmp_path):
    path = write(tmp_path / "a.lmdb", count=3)
    with (
        lmdb.open(str(path), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.delete(b"1")
        transaction.put(b"2", pickle.dumps(np.zeros(50))[:-20])
    with LmdbReader(path) as reader:
        assert reader.entries == 2
        with pytest.raises(UserError, match=r"record 1 of .* is missing"):
            reader[1]
        with pytest.raises(UserError, match=r"record 2 of .* cannot be read"):
            reader[2]


def test_folder_appears_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "data"
    with staged_folder(target) as stage:
        (stage / "train").mkdir()
        assert not target.exists()
    assert [entry.name for entry in target.iterdir()] == ["train"]
    assert [entry.name for entry in target.parent.iterdir()] == ["data"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError, ZeroDivisionError])
def test_nothing_is_left_after_an_error(tmp_path, error):
    with pytest.raises(error), staged_folder(tmp_path / "new" / "data") as stage:
        (stage / "train").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_rest_of_a_killed_process_is_cleared(tmp_path):
    rest = tmp_path / ".data.partial"
    (rest / "train").mkdir(parents=True)
    (rest / LOCK_FILE).touch()
    with staged_folder(tmp_path / "data") as stage:
        assert [entry.name for entry in stage.iterdir()] == [LOCK_FILE]
    assert (tmp_path / "data").is_dir()
    assert not rest.exists()


def test_folder_that_another_process_writes_is_refused(tmp_path):
    rest = tmp_path / ".data.partial"
    rest.mkdir()
    with (rest / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (
            pytest.raises(UserError, match="another process is writing"),
            staged_folder(tmp_path / "data"),
        ):
            pass
        assert rest.is_dir()


def test_only_named_entries_are_replaced(tmp_path):
    target = tmp_path / "data"
    (target / "train").mkdir(parents=True)
    (target / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes.txt'"), staged_folder(target, ["train"]):
        pass
    (target / "notes.txt").unlink()
    with staged_folder(target, ["train"]) as stage:
        (stage / "val").mkdir()
    assert [entry.name for entry in target.iterdir()] == ["val"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]


def test_failed_replacement_keeps_what_was_there(tmp_path):
    target = tmp_path / "data"
    (target / "train").mkdir(parents=True)
    with pytest.raises(UserError), staged_folder(target, ["train"]):
        raise UserError("no")
    assert [entry.name for entry in target.iterdir()] == ["train"]


def test_file_in_the_way(tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match="is a file"), staged_folder(tmp_path / "data"):
        pass
    with (
        pytest.raises(UserError, match="cannot make the folder"),
        staged_folder(tmp_path / "data" / "below"),
    ):
        pass
