"""A file that appears only when it is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from piwsl_ocp.atomic_file import (
    LEFTOVER_SECONDS,
    complete_or_absent,
    drop_cut_off_line,
    write_atomically,
)


def test_the_content_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    seen = []

    def fsync(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.read_text()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, lambda file: file.write(b"after"))
    (partial, first), second = seen
    assert partial.parent == tmp_path
    assert partial.name.startswith(".partial.") and partial.name.endswith(".file")
    assert (first, second) == ("before", (tmp_path, "after"))


def test_a_block_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), complete_or_absent(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def test_two_that_write_one_file_do_not_touch_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with complete_or_absent(path) as first, first.open("w") as file:
        file.write("fir")
        file.flush()
        write_atomically(path, lambda other: other.write(b"second"))
        assert path.read_text() == "second"
        file.write("st")
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    now = tmp_path.stat().st_mtime
    for name, age in (("0a.file", 1.1), ("0b.file", 0.5), ("0c.other", 1.1)):
        partial = tmp_path / f".partial.{name}"
        partial.touch()
        os.utime(partial, times=(now - age * LEFTOVER_SECONDS,) * 2)
    write_atomically(tmp_path / "file", lambda file: file.write(b"content"))
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == [".partial.0b.file", ".partial.0c.other", "file"]


def test_a_file_may_be_read_by_whom_the_mask_allows(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", lambda file: file.write(b"content"))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("content", "left"), [("", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("a", ""), ("a\n\n", "a\n\n")]
)
def test_a_last_line_that_was_cut_off_is_dropped(tmp_path: Path, content: str, left: str) -> None:
    path = tmp_path / "lines"
    drop_cut_off_line(path)
    assert not path.exists()
    path.write_text(content)
    drop_cut_off_line(path)
    assert path.read_text() == left
