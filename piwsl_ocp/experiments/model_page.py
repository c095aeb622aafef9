"""The page on the models: what each costs, how exact its symmetries are, how noisy and smooth."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np
import torch
from ase import Atoms
from matplotlib.figure import Figure

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.datasets import DatasetInfo
from piwsl_ocp.errors import UserError
from piwsl_ocp.evaluation.aspirin_scan import aspirin
from piwsl_ocp.evaluation.evaluate import atoms_of_split, training_data
from piwsl_ocp.evaluation.smoothness import EnergyPath, dimer_path
from piwsl_ocp.evaluation.symmetry import (
    SymmetryError,
    permutation_error,
    rotation_error,
    translation_error,
)
from piwsl_ocp.ocp.config import load_config
from piwsl_ocp.ocp.model_cost import StepCost, TrainingSteps, step_costs
from piwsl_ocp.ocp.model_noise import NoiseOfCopies, noise_of_copies
from piwsl_ocp.ocp.predictor import Predictor

PIWSL = {"pitc": 1.2, "pisc": 0.8}
BATCH = 4
RATTLE_ANGSTROM = 0.05
#: Test structures that trained models are measured on.
TEST_STRUCTURES = 16
TEMPLATE = "models.md.j2"
#: Files of the page.
PAGES = ("models.md", "models.svg")


@dataclass(frozen=True)
class Variant:
    """A model in one force mode.

    Attributes:
        label: as in the table.
        file: name of its files in configs/models, less `_cpu`.
        stock: fairchem's own model of the same weights, if it draws random numbers in a pass.
    """

    label: str
    file: str
    stock: str | None = None


VARIANTS = (
    Variant("SchNet, direct forces", "schnet_fb"),
    Variant("SchNet, gradient forces", "schnet"),
    Variant("PaiNN, direct forces", "painn"),
    Variant("PaiNN, gradient forces", "painn_gf"),
    Variant("SpinConv, direct forces", "spinconv"),
    Variant("SpinConv, gradient forces", "spinconv_gf"),
    Variant("eSCN, direct forces", "escn", stock="escn"),
    Variant("eSCN, gradient forces", "escn_gf"),
    Variant("EquiformerV2, direct forces", "equiformer_v2", stock="equiformer_v2"),
    Variant("EquiformerV2, gradient forces", "equiformer_v2_gf"),
)


@dataclass(frozen=True)
class Facts:
    """What was measured of one variant; energies in units of their spread under rattling."""

    variant: Variant
    cutoff_angstrom: float
    max_neighbors: int
    paper_parameters: int
    parameters: int
    rotation: SymmetryError
    rotation_single: SymmetryError
    translation: SymmetryError
    permutation: SymmetryError
    noise: NoiseOfCopies
    supervised: StepCost
    piwsl: StepCost
    path: EnergyPath


def options(file: str) -> dict[str, Any]:
    """Return the section `model` of a file in configs/models."""
    return load_config(f"models/{file}.yml")["model"]


def structures(count: int = BATCH) -> list[Atoms]:
    """Return rattled copies of the shipped aspirin."""
    copies = []
    for seed in range(count):
        copies.append(aspirin())
        copies[-1].rattle(RATTLE_ANGSTROM, seed=seed)
    return copies


def measure(variant: Variant, on_progress: Callable[[str], None] = lambda what: None) -> Facts:
    """Measure one variant with fresh weights at CPU scale, in float64 but for the costs."""
    paper, small = options(variant.file), options(f"{variant.file}_cpu")
    on_progress("parameters")
    published = Predictor.untrained(paper)
    single = Predictor.untrained(small)
    exact = single.double()
    sample = structures()
    on_progress("symmetries")
    spread = _spread(exact)
    symmetry = {
        "rotation": rotation_error(exact.predict_atoms, sample),
        "rotation_single": rotation_error(single.predict_atoms, sample),
        "translation": translation_error(exact.predict_atoms, sample),
        "permutation": permutation_error(exact.predict_atoms, sample),
    }
    on_progress("noise")
    noise = noise_of_copies(exact, structures(1), variant.stock)
    on_progress("energy along a path")
    path = dimer_path(exact.predict_atoms, exact.model.cutoff)
    on_progress("costs")
    costs = step_costs(
        {
            "supervised": TrainingSteps(single, sample, {}),
            "piwsl": TrainingSteps(Predictor.untrained(small), sample, PIWSL),
        }
    )
    return Facts(
        variant=variant,
        cutoff_angstrom=published.model.cutoff,
        max_neighbors=published.model.max_neighbors,
        paper_parameters=_parameters(published),
        parameters=_parameters(single),
        noise=noise,
        path=path,
        **{name: SymmetryError(e.energy / spread, e.forces) for name, e in symmetry.items()},
        **costs,
    )


@dataclass(frozen=True)
class TrainedFacts:
    """What was measured of a trained model, in the unit of its labels.

    Attributes:
        label: of its variant.
        data: name of its data set.
        unit: of energies.
        noise: between the copies of test structures.
        rotation: errors of energies and forces of turned test structures.
        spread: standard deviation of the predicted energies of these structures.
    """

    label: str
    data: str
    unit: str
    noise: NoiseOfCopies
    rotation: SymmetryError
    spread: float


def measure_trained(run: Path) -> TrainedFacts:
    """Measure noise and rotation error of the best checkpoint of a run on its test structures.

    Raises:
        UserError: if there is no checkpoint, or its model is none of `VARIANTS`.
    """
    predictor = Predictor.load(run).double()
    variant = _variant_of(predictor, run)
    data = training_data(predictor)
    sample = list(islice(atoms_of_split(data, "test"), TEST_STRUCTURES))
    energies = [float(p.energy) for p in predictor.predict_atoms(sample)]
    return TrainedFacts(
        label=variant.label,
        data=DatasetInfo.read(data).name,
        unit=predictor.unit,
        noise=noise_of_copies(predictor, sample, variant.stock),
        rotation=rotation_error(predictor.predict_atoms, sample),
        spread=float(np.std(energies, ddof=1)),
    )


def _variant_of(predictor: Predictor, run: Path) -> Variant:
    model = predictor.config["model"]
    told = [key for key in ("name", "forces", "force_estimator", "direct_forces") if key in model]
    for variant in VARIANTS:
        known = options(f"{variant.file}_cpu")
        if all(known.get(key) == model[key] for key in told):
            return variant
    raise UserError(f"the model of '{run}', {model['name']}, has no files in configs/models")


def write_page(facts: Sequence[Facts], folder: Path, trained: Sequence[TrainedFacts] = ()) -> Path:
    """Write models.md and models.svg into a folder and return the page's path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("piwsl_ocp.experiments", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(TEMPLATE).render(
        facts=facts, trained=trained, threads=torch.get_num_threads()
    )
    page, figure = (folder / name for name in PAGES)
    write_atomically(figure, lambda file: file.write(_figure(facts)))
    write_atomically(page, lambda file: file.write(text.encode()))
    return page


def _parameters(predictor: Predictor) -> int:
    return sum(parameter.numel() for parameter in predictor.model.parameters())


def _spread(predictor: Predictor) -> float:
    """Return the standard deviation of E over eight rattled copies."""
    energies = [float(p.energy) for p in predictor.predict_atoms(structures(8))]
    return float(np.std(energies, ddof=1))


def _figure(facts: Sequence[Facts]) -> bytes:
    with matplotlib.rc_context({"svg.hashsalt": "models", "font.size": 9}):
        rows = max(1, (len(facts) + 2) // 3)
        figure = Figure(figsize=(10, 2.6 * rows), layout="constrained")
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
        for panel, fact in zip(panels, facts, strict=False):
            path = fact.path
            panel.plot(path.distances_angstrom, path.relative(), linewidth=1.2)
            panel.axvline(path.cutoff_angstrom, color="grey", linewidth=0.8, linestyle=":")
            panel.set_title(fact.variant.label, loc="left", fontsize=9)
            panel.set_xlabel("O-O distance (Å)")
            panel.set_ylabel("E − E(far), scaled")
        for panel in panels[len(facts) :]:
            panel.set_axis_off()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
