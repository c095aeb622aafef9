"""Seconds of training steps of several methods, taken in turn in one process, and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.experiments.reproduction.result import (
    Kept,
    Provenance,
    Seconds,
    seconds_per_epoch,
)
from piwsl_ocp.experiments.reproduction.trainings import Training, method_word

#: How often every method is timed, and its steps each time, of which the median counts.
ROUNDS = 5
STEPS = 5


class MethodTimes(Kept):
    """What is kept of one method.

    Args:
        method: as in the name of a run.
        settings: digits of its configuration, see `trainings.settings_key`.
        seconds_per_step: median of each round.
    """

    method: str
    settings: str
    seconds_per_step: Annotated[tuple[Seconds, ...], Field(min_length=1)]


class StepTimes(Kept):
    """What is kept of the steps of a model.

    Args:
        name: of the file.
        scale: name of the scale.
        data: name of the data set.
        model: file in configs/models, without the suffix of the scale.
        train: training structures.
        batch_size: structures in a step.
        steps: in a round.
        threads: that a step is computed with.
        methods: that took turns.
        provenance: code and data.
    """

    #: How a damaged file is made again.
    REMEDY: ClassVar[str] = "`piwsl reproduce` of its table makes it again"

    name: str
    scale: str
    data: str
    model: str
    train: PositiveInt
    batch_size: PositiveInt
    steps: int
    threads: int
    methods: tuple[MethodTimes, ...]
    provenance: Provenance

    def by_key(self) -> dict[tuple[str, str, str, str], tuple[StepRound, ...]]:
        """Return the rounds of each method, by what equals `Training.key`."""
        return {
            (self.scale, self.data, self.model, method.settings): tuple(
                StepRound(self, number, seconds)
                for number, seconds in enumerate(method.seconds_per_step)
            )
            for method in self.methods
        }


@dataclass(frozen=True)
class StepRound:
    """One round of steps of one method, in the place of a run in a table.

    Attributes:
        times: that it is a part of.
        seed: number of the round.
        seconds_per_step: median of the round.
    """

    times: StepTimes
    seed: int
    seconds_per_step: float

    @property
    def run(self) -> str:
        """Name of the kept file."""
        return self.times.name

    @property
    def data(self) -> str:
        """Name of the data set."""
        return self.times.data

    @property
    def steps(self) -> int:
        """Steps of the round."""
        return self.times.steps

    @property
    def batch_size(self) -> int:
        """Structures in a step."""
        return self.times.batch_size

    @property
    def provenance(self) -> Provenance:
        """Code and data."""
        return self.times.provenance

    def value(self, quantity: str) -> float | None:
        """Return a quantity of the tables, None if it has no such."""
        if quantity != "seconds_per_epoch":
            return None
        return seconds_per_epoch(self.seconds_per_step, self.times.train, self.batch_size)


def times_folder(results: Path, scale: str) -> Path:
    """Return the folder of the kept times of a scale."""
    return results / scale / "steps"


def times_name(trainings: Sequence[Training]) -> str:
    """Return how the times of trainings of one model on one data set are called."""
    first = trainings[0]
    return f"{first.scale}-{first.data.name}-{first.model}-steps"


def measure(
    trainings: Sequence[Training], data: Path, rounds: int = ROUNDS, steps: int = STEPS
) -> StepTimes:
    """Time steps of fresh models on the first training structures, with one thread.

    Args:
        trainings: of one model on one data set, each with another method.
        data: folder of all data sets.
        rounds: how often each is timed.
        steps: of each in a round, in turn.

    Raises:
        UserError: if the data set is missing or damaged.
    """
    # Imported here because they load fairchem, which the tables do not need.
    from piwsl_ocp.evaluation.evaluate import atoms_of_split
    from piwsl_ocp.ocp.model_cost import TrainingSteps, step_costs
    from piwsl_ocp.ocp.predictor import Predictor

    first = trainings[0]
    folder = data / first.data.folder
    batch_size = int(first.config["optim"]["batch_size"])
    structures = list(islice(atoms_of_split(folder, "train"), batch_size))
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    seconds: list[list[float]] = [[] for _ in trainings]
    with _one_thread():
        variants = {
            str(number): TrainingSteps(
                Predictor.untrained(each.config["model"]),
                structures,
                each.config["optim"]["piwsl"]["terms"],
            )
            for number, each in enumerate(trainings)
        }
        for _ in range(rounds):
            for number, cost in step_costs(variants, steps).items():
                seconds[int(number)].append(float(f"{cost.seconds:.6g}"))
    methods = tuple(
        MethodTimes(method=method_word(t.config), settings=t.key[3], seconds_per_step=tuple(times))
        for t, times in zip(trainings, seconds, strict=True)
    )
    info = DatasetInfo.read(folder)
    return StepTimes(
        name=times_name(trainings),
        scale=first.scale,
        data=first.data.name,
        model=first.model,
        train=info.splits["train"].count,
        batch_size=batch_size,
        steps=steps,
        threads=1,
        methods=methods,
        provenance=_provenance(info, started),
    )


def write(times: StepTimes, results: Path) -> Path:
    """Write times into the folder of all results; earlier ones of the same name are replaced."""
    path = times_folder(results, times.scale) / f"{times.name}.json"
    text = times.model_dump_json(indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def _provenance(info: DatasetInfo, started: str) -> Provenance:
    from piwsl_ocp.ocp.provenance import code_version

    versions = dict(code_version())
    return Provenance(
        commit=versions.pop("commit"),
        versions=versions,
        started=started,
        train_data=info.splits["train"].checksum,
        test_data=info.splits["test"].checksum,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute as the processes of runs do: with one thread, tiny numbers rounded to zero."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
