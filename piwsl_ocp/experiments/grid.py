"""The experiment files of the project: every data set, model and method composed from parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import yaml

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.ocp.config import configs_folder

CASES_FILE = "cases.yml"
MODELS = ("schnet", "painn", "spinconv", "escn", "equiformer_v2")

#: Models whose forces are the gradient of their energy, by the model of the same cases.
GRADIENT_MODELS = {f"{model}_gf": model for model in MODELS[1:]}
GRADIENT_METHODS = ("supervised", "piwsl", "trapezoid")

#: Name of a method -> its file in configs/methods; {case} is that of Table A3.
METHODS = {
    "supervised": "supervised",
    "piwsl": "piwsl_{case}",
    "pitc": "pitc",
    "pisc": "pisc",
    "trapezoid": "trapezoid",
    "noisy_nodes": "noisy_nodes",
    "weak_label": "weak_label",
}

#: Folder in configs/datasets -> the base of its scale, the suffix of its models.
SCALES = {"paper": ("paper_scale", ""), "cpu": ("cpu_scale", "_cpu")}

#: What a model changes on a data set at the published scale (Tables 2 and A1).
EXCEPTIONS = {
    ("tio2", "painn"): {"model": {"cutoff": 5.0}},
    ("tio2", "painn_gf"): {"model": {"cutoff": 5.0}},
    ("tio2", "schnet"): {"optim": {"batch_size": 32}},
}


def experiments() -> Iterator[tuple[Path, str]]:
    """Yield the path below configs/ and the text of every experiment file."""
    configs = configs_folder()
    cases = yaml.safe_load((configs / CASES_FILE).read_text())
    for scale in SCALES:
        for dataset in sorted(path.stem for path in (configs / "datasets" / scale).glob("*.yml")):
            for model, method in _trainings():
                path = Path("experiments") / folder(scale, dataset) / f"{model}_{method}.yml"
                case = cases[dataset][GRADIENT_MODELS.get(model, model)]
                yield path, _text(scale, dataset, model, method, case)


def folder(scale: str, dataset: str) -> str:
    """Return the folder of a data set's experiments; the embedded data have one scale alone."""
    published = scale == "paper" or dataset.startswith("embedded_")
    return dataset if published else f"{scale}_{dataset}"


def write_experiments() -> int:
    """Write every experiment file anew and return how many there are."""
    files = list(experiments())
    for path, text in files:
        write_atomically(configs_folder() / path, lambda file, text=text: file.write(text.encode()))
    return len(files)


def _trainings() -> Iterator[tuple[str, str]]:
    yield from product(MODELS, METHODS)
    yield from product(GRADIENT_MODELS, GRADIENT_METHODS)


def _text(scale: str, dataset: str, model: str, method: str, case: str) -> str:
    base, suffix = SCALES[scale]
    parts = (
        "_base/trainer.yml",
        f"_base/{base}.yml",
        f"datasets/{scale}/{dataset}.yml",
        f"models/{model}{suffix}.yml",
        f"methods/{METHODS[method].format(case=case)}.yml",
    )
    content = {"includes": [f"../../{part}" for part in parts]}
    text = yaml.safe_dump(content, sort_keys=False, indent=2).replace("\n- ", "\n  - ")
    if scale == "paper" and (own := EXCEPTIONS.get((dataset.split("_")[0], model))):
        text += "\n" + yaml.safe_dump(own)
    return text
