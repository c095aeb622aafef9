"""One run of an experiment: a training in a folder of its own, and what is measured of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.datasets.checksums import file_facts
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.measurements import MEASUREMENTS
from piwsl_ocp.experiments.run_folder import CONFIG_FILE, RunFolder
from piwsl_ocp.ocp.sections.dataset import PLACE_OF_DATA, Split

#: Sections of a configuration that a result depends on; the data set counts by its checksums.
SECTIONS = (
    "amp",
    "evaluation_metrics",
    "loss_functions",
    "model",
    "optim",
    "outputs",
    "seed",
    "task",
    "trainer",
)


@dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        config: a resolved configuration.
        run_folder: where it goes; a run that is there already is gone on with.
        dataset_folder: the data to evaluate on.
        measurements: what to measure of the best checkpoint, by name.
    """

    config: dict[str, Any]
    run_folder: str
    dataset_folder: str
    measurements: tuple[str, ...] = ("errors",)

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return Path(self.run_folder).name

    @property
    def is_done(self) -> bool:
        """Whether the training is finished and every result is there."""
        return self.is_trained and not self.missing_measurements

    @property
    def is_begun(self) -> bool:
        """Whether there is a run in the folder."""
        return (Path(self.run_folder) / CONFIG_FILE).is_file()

    @property
    def is_trained(self) -> bool:
        """Whether the training reached its last step; not where the folder is damaged."""
        try:
            return self.is_begun and RunFolder(Path(self.run_folder)).is_finished
        except UserError:
            return False  # the run says so when it is gone on with

    @property
    def missing_measurements(self) -> tuple[str, ...]:
        """Measurements whose result is not in the run folder yet."""
        folder = Path(self.run_folder)
        return tuple(
            name for name in self.measurements if not (folder / MEASUREMENTS[name].result).is_file()
        )


def fingerprint(config: Mapping[str, Any], dataset_folder: Path | str) -> str:
    """Return twelve digits that two runs share if their results have to be the same.

    They depend on the configuration and on the content of the data, and of a checkpoint that a run
    begins with, not on where anything lies.

    Args:
        config: a resolved configuration.
        dataset_folder: the converted data set that it trains on.

    Raises:
        UserError: if there is no data set in the folder, or the checkpoint cannot be read.
    """
    splits = DatasetInfo.read(dataset_folder).splits
    content = {name: config.get(name) for name in SECTIONS}
    content["data"] = {name: facts.checksum for name, facts in splits.items()}
    if config.get("checkpoint") is not None:
        (facts,) = file_facts([Path(config["checkpoint"])])
        content["begins_with"] = facts["sha256"]
    if parts := _parts_of_data(config.get("dataset")):
        content["parts_of_data"] = parts
    return digest(content)


def _parts_of_data(datasets: Any) -> dict[str, dict[str, Any]]:
    """Return what the sections of the splits say, but for the place of the data and defaults."""
    defaults = Split().model_dump()
    said = {
        split: {
            key: value
            for key, value in section.items()
            if key not in PLACE_OF_DATA and value != defaults.get(key)
        }
        for split, section in (datasets or {}).items()
        if isinstance(section, Mapping)
    }
    return {split: found for split, found in said.items() if found}


def digest(content: Mapping[str, Any]) -> str:
    """Return twelve digits that follow from nested plain values, in whatever order of the keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_json(jobs: Sequence[Job]) -> str:
    """Return jobs as one line."""
    return json.dumps([asdict(job) for job in jobs])


def from_json(line: str) -> list[Job]:
    """Return the jobs that `to_json` wrote."""
    return [
        Job(**{**fields, "measurements": tuple(fields["measurements"])})
        for fields in json.loads(line)
    ]
