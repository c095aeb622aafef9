"""What a job asks of SLURM: a small YAML file, checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.settings_file import read_settings
from piwsl_ocp.ocp.config import configs_folder
from piwsl_ocp.ocp.options import nearest


class SlurmProfile(BaseModel):
    """What one job asks of SLURM.

    Args:
        partition: one, or several separated by commas; None: the cluster's default.
        account: to be charged.
        constraint: features of the node, such as a kind of GPU.
        time_minutes: limit of one job; a run that needs more is requeued and goes on.
        nodes: of one job.
        tasks_per_node: data-parallel processes on each node.
        gpus_per_node: 0 for none.
        cpus_per_task: cores of each process, its loader workers included.
        memory_gb: of each node; None: the cluster's default.
        array_parallelism: jobs at a time.
        signal_delay_seconds: how long before the end of a job it is told to save and stop.
        setup: shell lines before the run, such as `module load cuda`.
        more: further options of sbatch by their long names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    time_minutes: int = Field(default=1440, ge=1)
    nodes: int = Field(default=1, ge=1)
    tasks_per_node: int = Field(default=1, ge=1)
    gpus_per_node: int = Field(default=0, ge=0)
    cpus_per_task: int = Field(default=1, ge=1)
    memory_gb: float | None = Field(default=None, gt=0)
    array_parallelism: int = Field(default=16, ge=1)
    signal_delay_seconds: int = Field(default=120, ge=1)
    setup: list[str] = Field(default_factory=list)
    more: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str) -> SlurmProfile:
        """Read a profile: a YAML file, or the bare name of one in the project's `configs/slurm`.

        Raises:
            UserError: if there is no such file, or a key or value is wrong.
        """
        return read_settings(_find(Path(path)), "SLURM profile", cls)

    @property
    def tasks(self) -> int:
        """Data-parallel processes of a job."""
        return self.nodes * self.tasks_per_node

    def parameters(self) -> dict[str, Any]:
        """Return the profile as parameters of `submitit.AutoExecutor`."""
        parameters = {
            "timeout_min": self.time_minutes,
            "nodes": self.nodes,
            "tasks_per_node": self.tasks_per_node,
            "cpus_per_task": self.cpus_per_task,
            "mem_gb": self.memory_gb,
            "gpus_per_node": self.gpus_per_node or None,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_constraint": self.constraint,
            "slurm_array_parallelism": self.array_parallelism,
            "slurm_signal_delay_s": self.signal_delay_seconds,
            "slurm_additional_parameters": {"requeue": True, **self.more},
        }
        return {key: value for key, value in parameters.items() if value is not None}


def _find(path: Path) -> Path:
    folder = configs_folder() / "slurm"
    is_bare = path == Path(path.name)
    of_project = (folder / path.name, folder / f"{path.name}.yml") if is_bare else ()
    for candidate in (path, *of_project):
        if candidate.is_file():
            return candidate
    known = [file.stem for file in sorted(folder.glob("*.yml"))]
    raise UserError(f"no SLURM profile at '{path}'{nearest(path.stem, known)}")
