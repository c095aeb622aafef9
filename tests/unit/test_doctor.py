"""The doctor reports what works, what does not, and how to mend it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from piwsl_ocp import doctor
from piwsl_ocp.cli.doctor import doctor as command
from piwsl_ocp.doctor import Check, attempt
from piwsl_ocp.ocp.interruption import SIGNALS


def run(*arguments: str):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def full_disk(folder: Path) -> str:
    (folder / "missing" / "file").write_text("")
    return "never reached"


def written(folder: Path) -> str:
    (folder / "file").write_text("x")
    return f"{len(list(folder.iterdir()))} file"


def test_a_check_that_works_says_what_it_found():
    finding = attempt(Check("disk", written, "make room"))
    assert (finding.status, finding.detail, finding.remedy) == ("ok", "1 file", "")


def test_a_check_that_fails_names_the_error_and_the_remedy():
    finding = attempt(Check("disk", full_disk, "make room"))
    assert (finding.status, finding.remedy) == ("failed", "make room")
    assert finding.detail.startswith("FileNotFoundError: ")


def test_what_is_not_required_is_absent():
    assert attempt(Check("SLURM", full_disk, "none", required=False)).status == "absent"


def test_a_failure_sets_the_exit_code_and_shows_the_remedy(monkeypatch):
    checks = (Check("disk", full_disk, "make room"), Check("file", written, "none"))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    result = run()
    assert result.exit_code == 1
    assert "-> make room" in result.output
    assert "1 of 2 failed: disk" in result.output


def test_absent_things_do_not_fail_and_json_is_one_object(monkeypatch):
    checks = (Check("SLURM", full_disk, "none", required=False), Check("file", written, "none"))
    monkeypatch.setattr(doctor, "CHECKS", checks)
    result = run("--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert report["ok"] is True
    assert [check["status"] for check in report["checks"]] == ["absent", "ok"]
    assert torch.__version__.startswith(report["versions"]["torch"])
    assert {"torch_scatter", "torch_sparse"} <= set(report["packages"])


def test_the_denormals_check_leaves_the_setting_as_it_was():
    tiny = torch.tensor([1e-30])
    before = torch.set_flush_denormal(False)
    attempt(next(check for check in doctor.CHECKS if check.name == "denormals"))
    assert before
    assert (tiny * 1e-10 != 0).all()


QUICK = ("neighbour list", "HDF5", "float64", "disk", "embedded data")


@pytest.mark.parametrize("name", QUICK)
def test_quick_checks_pass_here(name):
    finding = attempt(next(check for check in doctor.CHECKS if check.name == name))
    assert finding.status == "ok", finding.detail


@pytest.mark.slow
def test_everything_required_works_here_and_signals_are_handled_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    report = json.loads(run("--json").stdout)
    failed = [check for check in report["checks"] if check["status"] == "failed"]
    assert not failed
    assert len(report["checks"]) == len(doctor.CHECKS)
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.mark.slow
def test_processes_that_cannot_reach_each_other_are_told(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nonsense")
    finding = attempt(next(check for check in doctor.CHECKS if check.name == "two processes"))
    assert finding.status == "failed"
    assert "nonsense" in finding.detail
