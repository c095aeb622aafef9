"""A file that appears only when it is complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from piwsl_ocp.atomic_file import complete_or_absent, write_atomically


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
    assert seen == [(tmp_path / ".partial.file", "before"), (tmp_path, "after")]


def test_a_block_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), complete_or_absent(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"
