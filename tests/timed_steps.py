"""Kept times of training steps, as if they had been measured."""

from __future__ import annotations

from collections.abc import Sequence

from piwsl_ocp.experiments.reproduction import step_times
from piwsl_ocp.experiments.reproduction.result import Provenance
from piwsl_ocp.experiments.reproduction.step_times import MethodTimes, StepTimes
from piwsl_ocp.experiments.reproduction.trainings import Training


def made_times(
    row: Sequence[Training], methods: Sequence[tuple[str, tuple[float, ...]]]
) -> StepTimes:
    """Return times of the trainings of one model, given name and seconds of each method."""
    return StepTimes(
        name=step_times.times_name(row),
        scale="cpu",
        data=row[0].data.name,
        model=row[0].model,
        train=100,
        batch_size=6,
        steps=5,
        threads=1,
        methods=tuple(
            MethodTimes(method=method, settings=training.key[3], seconds_per_step=seconds)
            for training, (method, seconds) in zip(row, methods, strict=True)
        ),
        provenance=Provenance(
            commit="0123456789ab", versions={}, started="", train_data="a" * 64, test_data="b" * 64
        ),
    )
