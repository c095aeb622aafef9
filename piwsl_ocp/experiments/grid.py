"""The experiment files of the project: every data set, model and method composed from parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.ocp.config import configs_folder

CASES_FILE = "cases.yml"
MODELS = ("schnet", "painn", "spinconv", "escn", "equiformer_v2")

#: The models in the force mode that the paper does not train them in, direct forces (FB) or those
#: that are the gradient of the energy (GF), by the model of the same cases.
FORCE_VARIANTS = {"schnet_fb": "schnet", **{f"{model}_gf": model for model in MODELS[1:]}}
FORCE_VARIANT_METHODS = ("supervised", "piwsl", "trapezoid")

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
EXCEPTIONS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("tio2", "painn"): {"model": {"cutoff": 5.0}},
    ("tio2", "painn_gf"): {"model": {"cutoff": 5.0}},
    ("tio2", "schnet"): {"optim": {"batch_size": 32}},
    ("tio2", "schnet_fb"): {"optim": {"batch_size": 32}},
}


def experiments() -> Iterator[tuple[Path, str]]:
    """Yield the path below configs/ and the text of every experiment file."""
    configs = configs_folder()
    cases = yaml.safe_load((configs / CASES_FILE).read_text())
    for scale in SCALES:
        for dataset in sorted(path.stem for path in (configs / "datasets" / scale).glob("*.yml")):
            for model, method in _trainings():
                path = Path("experiments") / folder(scale, dataset) / f"{model}_{method}.yml"
                case = cases[dataset][FORCE_VARIANTS.get(model, model)]
                yield path, _text(scale, dataset, model, method, case)


def folder(scale: str, dataset: str) -> str:
    """Return the folder of a data set's experiments; the embedded data have one scale alone."""
    published = scale == "paper" or dataset.startswith("embedded_")
    return dataset if published else f"{scale}_{dataset}"


def parts(scale: str, dataset: str, model: str, method_file: str) -> tuple[str, ...]:
    """Return the files below configs/ that make one training.

    Args:
        scale: a key of `SCALES`.
        dataset: a file of configs/datasets at that scale.
        model: a file of configs/models, without the suffix of the scale.
        method_file: a file of configs/methods.
    """
    base, suffix = SCALES[scale]
    return (
        "_base/trainer.yml",
        f"_base/{base}.yml",
        f"datasets/{scale}/{dataset}.yml",
        f"models/{model}{suffix}.yml",
        f"methods/{method_file}.yml",
    )


def exceptions(scale: str, dataset: str, model: str) -> dict[str, dict[str, Any]]:
    """Return the values that a model has on a data set alone, by section."""
    published = EXCEPTIONS.get((dataset.split("_")[0], model), {})
    return published if scale == "paper" else {}


def write_experiments() -> int:
    """Write every experiment file anew and return how many there are."""
    files = list(experiments())
    for path, text in files:
        write_atomically(configs_folder() / path, lambda file, text=text: file.write(text.encode()))
    return len(files)


def _trainings() -> Iterator[tuple[str, str]]:
    yield from product(MODELS, METHODS)
    yield from product(FORCE_VARIANTS, FORCE_VARIANT_METHODS)


def _text(scale: str, dataset: str, model: str, method: str, case: str) -> str:
    included = parts(scale, dataset, model, METHODS[method].format(case=case))
    content = {"includes": [f"../../{part}" for part in included]}
    text = yaml.safe_dump(content, sort_keys=False, indent=2).replace("\n- ", "\n  - ")
    if own := exceptions(scale, dataset, model):
        text += "\n" + yaml.safe_dump(own)
    return text
