"""Run folders read back, also those that were left half-written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.run_folder import METRICS_FILE, RunFolder
from piwsl_ocp.ocp.logger import RunLogger
from tests.run_folders import make_run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(make_run(tmp_path / "run", "piwsl", seed=3, seconds_per_step=0.25))


def append(run: RunFolder, text: str) -> None:
    with (run.path / METRICS_FILE).open("a") as file:
        file.write(text)


def test_the_two_lines_of_a_validation_are_one_row(run: RunFolder) -> None:
    validation = run.metrics("val")
    assert list(validation["step"]) == [10, 20, 30, 40]
    assert {"energy_mae", "energy_rmse", "train_seconds"} <= set(validation.columns)
    assert not validation.isna().any().any()
    assert "energy_rmse" not in run.metrics("train")


def test_seed_status_and_steps(run: RunFolder) -> None:
    assert (run.seed, run.is_finished, run.last_step, run.best_step) == (3, True, 40, 40)


def test_the_best_step_is_that_of_the_lowest_metric_and_no_nan(run: RunFolder) -> None:
    append(run, '{"relative_rmse": 0.001, "train_seconds": 12.5, "step": 50, "split": "val"}\n')
    append(run, '{"relative_rmse": NaN, "train_seconds": 15.0, "step": 60, "split": "val"}\n')
    again = RunFolder(run.path)
    assert again.best_step == 50
    assert again.best_validation_metric == 0.001


def test_seconds_per_step_is_a_median_that_one_pause_does_not_move(run: RunFolder) -> None:
    assert run.seconds_per_step == pytest.approx(0.25, rel=1e-12)
    append(run, '{"train_seconds": 500.0, "step": 50, "split": "val"}\n')
    assert RunFolder(run.path).seconds_per_step == pytest.approx(0.25, rel=1e-12)


@pytest.mark.parametrize(
    "line",
    [
        '{"train_seconds": 9.9, "step": 20, "split": "val"}',  # anew, later than the old 30
        '{"train_seconds": 3.0, "step": 0, "split": "val"}',
    ],
)
def test_seconds_per_step_are_never_negative_nor_infinite(run: RunFolder, line: str) -> None:
    path = run.path / METRICS_FILE
    lines = [text for text in path.read_text().splitlines() if '"step": 40' not in text]
    path.write_text("\n".join([*lines, line]) + "\n")
    seconds = RunFolder(run.path).seconds_per_step
    assert 0 < seconds < 1
    path.write_text('{"train_seconds": -2.0, "step": 10, "split": "val"}\n')
    assert math.isnan(RunFolder(run.path).seconds_per_step)


def test_a_step_that_was_repeated_after_a_resume_counts_once(run: RunFolder) -> None:
    append(run, '{"relative_rmse": 7.0, "step": 40, "split": "val"}\n')
    validation = RunFolder(run.path).metrics("val")
    assert list(validation["step"]) == [10, 20, 30, 40]
    assert validation["relative_rmse"].iloc[-1] == 7.0


def test_a_last_line_that_was_cut_off_is_left_out(run: RunFolder) -> None:
    append(run, '{"relative_rmse": 0.0')
    assert len(RunFolder(run.path).metrics("val")) == 4


def test_a_resumed_training_does_not_join_its_log_to_a_line_that_was_cut_off(
    run: RunFolder,
) -> None:
    append(run, '{"relative_rmse": 0.0')
    places = {"logs_dir": run.path / "logs" / "piwsl", "print_every": 1}
    logger = RunLogger({"logger": {"tensorboard": False, "wandb": "disabled"}, "cmd": places})
    logger.log({"relative_rmse": 0.5}, step=50, split="val")
    logger.close()
    assert list(RunFolder(run.path).metrics("val")["step"]) == [10, 20, 30, 40, 50]


def test_a_broken_line_before_the_last_is_an_error(run: RunFolder) -> None:
    append(run, '{"relative\n{"step": 50, "split": "val"}\n')
    with pytest.raises(UserError, match=r"line 13 of .*metrics.jsonl' is no JSON"):
        RunFolder(run.path).metrics("val")


def test_a_training_that_has_not_begun(run: RunFolder) -> None:
    (run.path / METRICS_FILE).write_text("")
    empty = RunFolder(run.path)
    assert empty.last_step == 0
    assert empty.best_step is None
    assert empty.best_validation_metric == float("inf")
    (run.path / METRICS_FILE).unlink()
    missing = RunFolder(run.path)
    assert missing.last_step == 0
    with pytest.raises(UserError, match="the training has not begun"):
        missing.metrics("val")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder at"):
        RunFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is no run folder: it has no config\.yml"):
        RunFolder(tmp_path)


def test_files_that_were_cut_off_are_named(run: RunFolder) -> None:
    (run.path / "run.json").write_text('{"status": "fin')
    (run.path / "config.yml").write_text("")
    (run.path / "results" / "test.json").unlink()
    broken = RunFolder(run.path)
    with pytest.raises(UserError, match=r"run.json' is cut off"):
        _ = broken.status
    with pytest.raises(UserError, match=r"config.yml' is empty"):
        _ = broken.config
    with pytest.raises(UserError, match=r"run `piwsl validate .* --split test`"):
        broken.result("test")
