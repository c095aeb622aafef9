"""The device of a trained model."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence

import pytest
import torch

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.processes import Worker
from piwsl_ocp.experiments.sweep import local
from piwsl_ocp.ocp.devices import find_device, visible_gpus


def test_the_gpu_is_taken_where_there_is_one() -> None:
    assert find_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", "", "cuda:x"])
def test_an_unknown_device_is_told(name: str) -> None:
    with pytest.raises(UserError, match="is not known: expected cpu, cuda or cuda:NUMBER"):
        find_device(name)


def test_a_device_that_is_not_there_is_told() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"device 'cuda:{count}': {count} CUDA devices are visible"):
        find_device(f"cuda:{count}")


@pytest.mark.parametrize(
    ("environment", "count", "expected"),
    [(None, 2, ["0", "1"]), ("3, 5", 2, ["3", "5"]), ("GPU-a,GPU-b,7", 2, ["GPU-a", "GPU-b"])],
)
def test_gpus_are_named_as_the_environment_names_them(
    environment: str | None, count: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    assert visible_gpus() == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert visible_gpus() == []


def test_runs_side_by_side_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def start(jobs: Sequence[Job], gpu: str | None) -> Worker:
        seen.append((jobs[0].run_folder, gpu))
        waits = [sys.executable, "-c", "input()"]
        process = subprocess.Popen(waits, stdin=subprocess.PIPE)
        return Worker(process, tempfile.TemporaryFile(), gpu)

    monkeypatch.setattr(local, "visible_gpus", lambda: ["3", "5"])
    monkeypatch.setattr(local, "start", start)
    with local.LocalLauncher() as launcher:
        assert launcher.slots == 2
        launcher.submit([Job({}, name, "data") for name in ("a", "b", "c")])
        assert seen == [("a", "3"), ("b", "5")]
        worker = launcher._working["a"]
        worker.process.communicate(b"\n")
        assert set(launcher.ended()) == {"a"}
        assert seen[2:] == [("c", "3")]
