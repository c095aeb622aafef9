"""Twelve runs through SLURM, with a preemption, a node failure and a failing run, and locally."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from piwsl_ocp.experiments.job import Job
from piwsl_ocp.experiments.run_record import RunRecord
from piwsl_ocp.experiments.sweep.local import LocalLauncher
from piwsl_ocp.experiments.sweep.profile import SlurmProfile
from piwsl_ocp.experiments.sweep.slurm import SlurmLauncher
from piwsl_ocp.experiments.sweep.status import status_of_jobs, table
from tests.integration.conftest import converted
from tests.integration.slurm_cluster import Cluster, cluster, restarts
from tests.integration.sweeps import make, methods, once_at_step, plan, result

FORTY = {"optim__max_steps": 40, "model__hidden_channels": 64, "optim__batch_size": 8}
PROFILE = SlurmProfile(partition="preemptable", time_minutes=20, memory_gb=0.2)


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def twelve(root: Path, data: Path) -> list[Job]:
    """Return eleven runs that are made and, before the last, one that fails."""
    all_methods = methods("supervised", "piwsl", "trapezoid")
    grids = (
        {"config": all_methods, "seed": [0, 1, 2]},
        {"config": all_methods[:1], "seed": [3], "model.cutoff": [0, 4.0]},
        {"config": all_methods[1:2], "seed": [3]},
    )
    return [job for grid in grids for job in plan(root, data, grid, **FORTY)]


class Disturbed(SlurmLauncher):
    """Meets one preemption and one failure of its node."""

    def __init__(self, slurm: Cluster, jobs: list[Job]) -> None:
        super().__init__(PROFILE, poll_seconds=0.2)
        self.events = (
            once_at_step(jobs[0], 11, slurm.preempt),
            once_at_step(jobs[6], 11, slurm.fail),
        )

    def ended(self):
        for event in self.events:
            event()
        return super().ended()


@pytest.mark.slow
def test_twelve_disturbed_runs_on_slurm_give_the_local_results(
    slurm: Cluster, tmp_path: Path
) -> None:
    data = converted("aspirin", tmp_path / "aspirin")
    there, here = twelve(tmp_path / "slurm", data), twelve(tmp_path / "local", data)
    assert [job.name for job in there] == [job.name for job in here]
    disturbed = Disturbed(slurm, there)
    outcomes = make(there, disturbed), make(here, LocalLauncher(2))
    assert all(event.done for event in disturbed.events)
    Console(width=120).print(table(status_of_jobs(there)), table(status_of_jobs(here)))
    for jobs, outcome in zip((there, here), outcomes, strict=True):
        (failure,) = outcome.failures.values()
        assert failure.reason == "model.cutoff: found 0, expected a number above 0"
        assert sum(job.is_done for job in jobs) == 11
    assert sum(restarts(RunRecord(job.run_folder).slurm_job.number) for job in there) >= 2
    for one, other in zip(there, here, strict=True):
        assert one.is_done == other.is_done
        if one.is_done:
            assert result(one) == result(other), one.name
