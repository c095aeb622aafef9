"""Every configuration that comes with the project loads, is valid, and builds its model."""

from __future__ import annotations

import csv
import json
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from fairchem.core.common.registry import registry

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments import grid
from piwsl_ocp.ocp.config import (
    check_config,
    configs_folder,
    find_config,
    load_config,
    set_value,
)

#: Trainings; the folder `paper` holds tables of trainings, see tests/unit/test_published_tables.py,
#: and `search` searches, see tests/unit/test_search.py.
EXPERIMENTS = [
    path
    for path in sorted((configs_folder() / "experiments").rglob("*.yml"))
    if path.parent.name not in ("paper", "search")
]
SHORT = [str(path.relative_to(configs_folder())) for path in EXPERIMENTS]


@cache
def parameters(model: str) -> int:
    """Build a model from its JSON section and count its parameters."""
    options = json.loads(model)
    built = registry.get_model_class(options.pop("name"))(**options)
    return sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize("path", SHORT)
def test_a_configuration_is_valid_and_builds_its_model(path: str, tmp_path: Path) -> None:
    config = load_config(path)
    data = tmp_path / "data.lmdb"
    data.touch()
    present = deepcopy(config)
    for split in ("train", "val", "test"):
        assert config["dataset"][split]["src"].endswith(f"{split}/data.lmdb")
        present["dataset"][split]["src"] = str(data)
    check_config(present)
    assert parameters(json.dumps(config["model"], sort_keys=True)) > 1000
    assert config["trainer"] == "piwsl_ocp.ocp.trainer.PIWSLTrainer"
    losses = [item for loss in config["loss_functions"] for item in loss.items()]
    coefficients = {target: options["coefficient"] for target, options in losses}
    assert coefficients == {"energy": 1, "forces": 100}


def test_experiment_files_are_those_of_the_grid() -> None:
    expected = {str(path): text for path, text in grid.experiments()}
    assert set(SHORT) == set(expected), "run scripts/write_experiments.py"
    for path, text in expected.items():
        assert (configs_folder() / path).read_text() == text, path


def without_method(config: dict) -> dict:
    rest = deepcopy(config)
    for key in ("terms", "displacement", "metric", "noisy_nodes"):
        rest["optim"]["piwsl"].pop(key, None)
    return rest


def test_methods_differ_in_their_weak_part_alone() -> None:
    for path in (path for path in SHORT if path.endswith("_supervised.yml")):
        base = load_config(path)
        assert base["optim"]["piwsl"]["terms"] == {}
        model = Path(path).stem.removesuffix("_supervised")
        methods = grid.METHODS if model in grid.MODELS else grid.FORCE_VARIANT_METHODS
        for method in set(methods) - {"supervised"}:
            other = load_config(path.replace("supervised", method))
            assert other["optim"]["piwsl"]["terms"] or method == "noisy_nodes"
            assert without_method(other) == without_method(base), path


def test_the_published_cases_are_those_of_the_configurations(shared_data: Path) -> None:
    table = shared_data.parent / "paper" / "tables" / "case_assignment.csv"
    rows = [r for r in csv.DictReader(table.open()) if r["model"] in grid.MODELS]
    assert len(rows) == 14 * len(grid.MODELS)
    for row in rows:
        name = "_".join(filter(None, (row["dataset"], row["molecule"], f"n{row['n_train']}")))
        options = load_config(f"experiments/{name}/{row['model']}_piwsl.yml")["optim"]["piwsl"]
        assert options["terms"]["pitc"] == float(row["c_pitc"]), name
        assert options["terms"]["pisc"] == float(row["c_pisc"]), name
        assert options["displacement"]["epsilon_max_angstrom"] == float(row["eps_max"]), name


def valid(tmp_path: Path) -> dict:
    config = load_config("experiments/embedded_aspirin/painn_piwsl.yml")
    data = tmp_path / "data.lmdb"
    data.touch()
    for split in ("train", "val", "test"):
        config["dataset"][split]["src"] = str(data)
    return config


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optm", {}, "optm: unknown key, did you mean 'optim'?"),
        ("optim.max_step", 5, "optim.max_step: unknown key, did you mean 'max_steps'?"),
        ("optim.batch_size", 0, "optim.batch_size: found 0"),
        ("optim.lr_initial", "fast", "optim.lr_initial: found 'fast'"),
        ("optim.scheduler", "Cosine", "has no 'Cosine'"),
        ("optim.optimizer", "Adm", "has no 'Adm'"),
        ("model.name", "pain", "did you mean 'painn'?"),
        ("model.hiden_channels", 8, "did you mean 'hidden_channels'?"),
        ("model.cutoff", 0, "model.cutoff: found 0, expected a number above 0"),
        ("model.cutoff", -1.0, "model.cutoff: found -1.0"),
        ("model.regress_forces", False, "predicts forces"),
        ("dataset.train.src", "nowhere/data.lmdb", "no file 'nowhere/data.lmdb'"),
        ("dataset.val", {}, "dataset.val.src is not set"),
        ("dataset", {}, "has no 'dataset'"),
        ("optim.piwsl.terms", {"pict": 1}, "did you mean 'pitc'"),
        ("outputs", {"energy": {"level": "system"}}, "needs predicted forces"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_line(
    tmp_path: Path, key: str, value: object, said: str
) -> None:
    config = valid(tmp_path)
    check_config(config)
    set_value(config, key, value)
    with pytest.raises(UserError) as caught:
        check_config(config)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"nearest is 'configs/experiments/embedded_aspirin/painn_"):
        find_config("configs/experiments/embeded_aspirin/pain_piwsl.yml")


def test_a_broken_yaml_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yml"
    path.write_text("optim: {a: [}\n")
    with pytest.raises(UserError, match=r"broken\.yml' cannot be read"):
        load_config(path)


def test_two_includes_that_set_the_same_key_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yml").write_text("optim: {batch_size: 4}\n")
    path = tmp_path / "both.yml"
    path.write_text("includes: [a.yml, b.yml]\n")
    with pytest.raises(UserError, match=r"both set optim\.batch_size"):
        load_config(path)
