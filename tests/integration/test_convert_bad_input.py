"""Bad input ends in one line, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from piwsl_ocp import cli
from piwsl_ocp.datasets import ConversionOptions, convert
from piwsl_ocp.errors import UserError
from tests.source_files import ethanol, write_ani1x, write_archive, write_rmd17, xsf_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def piwsl(monkeypatch, capsys):
    """Return a function that runs the command and returns exit code, output and error."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["piwsl", *(str(word) for word in words)])
        try:
            code = cli.main()
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def cut(path, part):
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    return path


def archive(path, change):
    return write_archive(path, [xsf_text(0), change(xsf_text(1)), xsf_text(2), xsf_text(3)])


def without_forces(text):
    rows = [line.split() for line in text.splitlines()]
    return "\n".join(" ".join(row[:4] if len(row) == 7 and row[0] != "#" else row) for row in rows)


def with_nan(key):
    def write(folder):
        values = ethanol(40)[key].copy()
        values[11] = np.nan
        return write_rmd17(folder / "a.npz", **{key: values})

    return write


def water(folder, symbol="O", facts=""):
    """Write 40 frames of water of which the fourth has another atom or other facts."""
    head = "3\n{}energy=-1.0 Properties=species:S:1:pos:R:3:forces:R:3\n{} 0 0 0 0 0 0\n"
    rows = "H 0.96 0 0 0 0 0\nH 0 0.96 0 0 0 0\n"
    frames = [head.format("", "O") + rows] * 40
    frames[3] = head.format(facts, symbol) + rows
    (folder / "a.extxyz").write_text("".join(frames))
    return folder / "a.extxyz"


BAD = {
    "cut HDF5": ("ani1x", lambda d: cut(write_ani1x(d / "a.h5"), 0.7), "cut short"),
    "no property": ("ani1x", lambda d: write_ani1x(d / "a.h5", label="tz"), "--property with"),
    "cut npz": ("rmd17", lambda d: cut(write_rmd17(d / "a.npz"), 0.7), "cut short"),
    "cut archive": ("tio2", lambda d: cut(archive(d / "a.tar.xz", str), 0.7), "cut short"),
    "no energy": (
        "tio2",
        lambda d: archive(d / "a.tar.xz", lambda text: text.split("\n", 1)[1]),
        "structure0001.xsf: no energy",
    ),
    "no forces": (
        "tio2",
        lambda d: archive(d / "a.tar.xz", without_forces),
        "structure0001.xsf: an atom without forces",
    ),
    "unknown element": (
        "lmnto",
        lambda d: archive(d / "a.tar.xz", lambda text: text.replace("\nO ", "\nQq ")),
        "structure0001.xsf: unknown element 'Qq'",
    ),
    "no unit": (
        "lmnto",
        lambda d: archive(d / "a.tar.xz", lambda text: text.replace(" eV", "")),
        "structure0001.xsf: no unit after the total energy",
    ),
    "NaN energy": ("rmd17", with_nan("energies"), "a.npz[11]: energy or forces are not finite"),
    "NaN force": ("rmd17", with_nan("forces"), "a.npz[11]: energy or forces are not finite"),
    "nothing left": (
        "ani1x",
        lambda d: write_ani1x(d / "a.h5", 40, missing=40),
        "no structure is left of 40 read (40 missing energy or forces)",
    ),
    "empty archive": ("tio2", lambda d: write_archive(d / "a.tar", [], "w:"), "no structure is"),
    "too few": ("ani1x", lambda d: write_ani1x(d / "a.h5", 21), "larger than the data"),
    "dummy atom": ("ase", lambda d: water(d, "X"), "a.extxyz[3]: atomic number 0"),
    "no cell": (
        "ase",
        lambda d: water(d, facts='Lattice="0 0 0 0 0 0 0 0 9" pbc="T F F" '),
        "a.extxyz[3]: periodic, but its cell has no volume, or no vector",
    ),
    "no file": ("ani1x", lambda d: d / "nowhere.h5", "no file or folder"),
    "unknown source": ("ani1", lambda d: write_ani1x(d / "a.h5"), "did you mean 'ani1x'"),
    "unknown shipped": ("embedded", lambda d: "aspirine", "use one of aspirin"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(piwsl, tmp_path, case):
    source, make, words = BAD[case]
    (tmp_path / "in").mkdir()
    file = make(tmp_path / "in")
    split = ["--split", "paper"] if source == "rmd17" else []
    out = tmp_path / "made" / "data"
    code, _, err = piwsl("data", "convert", source, file, "--out", out, "--n-train", 20, *split)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--unit", "kcal"], "unknown energy unit 'kcal'"),
        (["--energy-unit", "Ry"], "unknown energy unit 'Ry'"),
        (["--property", "old"], "--property old: the layout of"),
        (["--references", "fit"], "atomic, least_squares, none"),
        (["--references", "atomic"], "no table of atomic energies"),
        (["--split", "rondom"], "random, paper, published"),
        (["--split-seed", "-1"], "a seed is 0 or larger"),
        (["--n-train", "999"], "larger than the data"),
        (["--n-val", "0"], "at least one structure"),
        (["--max-force", "nan"], "--max-force nan: expected a finite number above 0"),
        (["--max-force", "-1"], "--max-force -1: expected a finite number above 0"),
    ],
)
def test_bad_options_are_one_line_and_leave_nothing(piwsl, tmp_path, options, words):
    out = tmp_path / "data"
    code, _, err = piwsl("data", "convert", "embedded", "ethanol", "--out", out, *options)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_given_twice_is_refused(piwsl, tmp_path):
    file = write_ani1x(tmp_path / "a.h5")
    twin = tmp_path / "b.h5"
    twin.write_bytes(file.read_bytes())
    for second in (file, twin):
        code, _, err = piwsl("data", "convert", "ani1x", file, second, "--out", tmp_path / "data")
        assert code == 2
        assert f"'{second}' has the content of 'a.h5', given before it" in err
    assert not (tmp_path / "data").exists()


def test_good_input_tells_what_was_made(piwsl, tmp_path):
    out = tmp_path / "data"
    file = write_ani1x(tmp_path / "a.h5")
    code, text, _ = piwsl("data", "convert", "ani1x", file, "--out", out, "--n-train", 20)
    assert code == 0
    assert "test set shrunk" in text
    assert "wB97X/6-31G(d)" in text
    code, text, _ = piwsl("data", "info", out, "--json")
    assert code == 0
    assert json.loads(text)["splits"]["train"]["count"] == 20


def test_brackets_in_the_words_of_a_user_are_printed_as_they_are(piwsl, tmp_path):
    names = ("--name", "[/bold]x", "--level-of-theory", "PBE [d3bj]")
    out = tmp_path / "data"
    code, _, _ = piwsl("data", "convert", "embedded", "ethanol", "--out", out, *names)
    assert code == 0
    code, text, err = piwsl("data", "info", out)
    assert (code, err) == (0, "")
    assert "[/bold]x: PBE [d3bj]" in " ".join(text.split())


def test_sources_are_listed(piwsl):
    code, text, _ = piwsl("data", "sources")
    assert code == 0
    assert all(name in text for name in ("ani1x", "tio2", "rmd17", "lmnto", "ase", "embedded"))


def test_check_exits_1_on_errors_and_0_on_warnings(piwsl, tmp_path):
    folder = tmp_path / "data"
    convert("embedded", ["ethanol"], folder, ConversionOptions(train=20, test=20))
    (folder / "val" / "metadata.npz").unlink()
    code, text, _ = piwsl("data", "check", folder)
    assert code == 0
    assert "warning: val: no metadata.npz" in text
    assert "0 errors, 1 warnings" in text
    cut(folder / "test" / "data.lmdb", 0.5)
    code, text, _ = piwsl("data", "check", folder)
    assert code == 1
    assert "error: test: " in text
    code, _, err = piwsl("data", "check", tmp_path / "nowhere")
    assert code == 2
    assert err.count("\n") == 1


def convert_in_a_process(out, *, largest_file=None, user=None, **environment):
    """Convert in a process of its own, maybe with a limit on file sizes or as another user."""
    program = "\n".join(
        [
            "import resource, sys",
            f"limit = {largest_file}",
            "if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))",
            "sys.argv = ['piwsl', 'data', 'convert', 'embedded', 'ethanol', '--n-train', '400',"
            f" '--out', {str(out)!r}]",
            "from piwsl_ocp.cli import main",
            "sys.exit(main())",
        ]
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        user=user,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/tmp", **environment},
    )


def assert_one_line(result, words):
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_file_size_limit_while_writing(tmp_path):
    result = convert_in_a_process(tmp_path / "made" / "data", largest_file=200_000)
    assert_one_line(result, "cannot write")
    assert list(tmp_path.iterdir()) == []


def test_disk_full_while_writing(mounted_disk):
    with mounted_disk("size=600k") as disk:
        result = convert_in_a_process(disk / "data")
        left = list(disk.iterdir())
    assert_one_line(result, " 0.0 MiB are free there")
    assert left == []


def test_read_only_disk(mounted_disk):
    with mounted_disk("ro") as disk:
        result = convert_in_a_process(disk / "data")
    assert_one_line(result, "Read-only file system")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        result = convert_in_a_process(tmp_path / "data")
    finally:
        tmp_path.chmod(0o700)
    assert_one_line(result, "Permission denied")


def test_target_below_a_file(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="cannot make the folder"):
        convert("embedded", ["ethanol"], tmp_path / "file" / "data")


def test_map_full_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("piwsl_ocp.datasets.lmdb.LARGEST_MAP_BYTES", 2**16)
    with pytest.raises(UserError, match="MAP_FULL"):
        convert("embedded", ["ethanol"], tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("piwsl_ocp.datasets.writing.SplitSummary.add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert("embedded", ["ethanol"], tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["ani1x", "tio2", "rmd17", "lmnto"])
def test_scripts_are_short_and_run(source):
    script = ROOT / "scripts" / f"convert_{source}.py"
    assert len(script.read_text().splitlines()) <= 20
    result = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 2
    assert "Missing argument" in result.stderr
