"""The commit of the code tells changes that were not committed apart."""

from __future__ import annotations

import subprocess
from pathlib import Path

from piwsl_ocp.experiments.origins import short_commit, versions_of
from piwsl_ocp.ocp.provenance import commit_of


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", *who, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_changes_that_are_not_committed_are_told_apart(tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    assert commit_of(code) == "unknown"
    git(tmp_path, "init", "--quiet")
    (code / "file.py").write_text("a = 1\n")
    (tmp_path / "notes.txt").write_text("first\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("second\n")
    assert commit_of(code) == head
    found = []
    for text in ("a = 2\n", "a = 3\n", "a = 2\n", "a = 1\n"):
        (code / "file.py").write_text(text)
        found.append(commit_of(code))
    assert found[0] == found[2] != found[1]
    assert all(name.startswith(f"{head}+") for name in found[:3])
    assert found[3] == head


def test_a_training_that_was_resumed_has_all_its_versions_in_their_order() -> None:
    first, second = ({"commit": digit * 40, "torch": "2.6"} for digit in "ab")
    assert versions_of({"code": first}) == first
    assert versions_of({}) == {}
    earlier = [{"code": first, "until_step": 10}, {"code": second, "until_step": 20}]
    found = versions_of({"code": {**second, "torch": "2.7"}, "earlier": earlier})
    assert found == {"commit": f"{'a' * 40}, then {'b' * 40}", "torch": "2.6, then 2.7"}
    assert short_commit(found["commit"]) == "aaaaaaaaa, then bbbbbbbbb"
    assert short_commit(f"{'a' * 40}+{'c' * 40}") == "aaaaaaaaa+cccc"
