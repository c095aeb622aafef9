"""What is kept of a run: one small file without checkpoints, readable without the run folder."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.measurements import MEASUREMENTS
from piwsl_ocp.experiments.method import method_of
from piwsl_ocp.experiments.origins import versions_of
from piwsl_ocp.experiments.reproduction.published import UNIT
from piwsl_ocp.experiments.reproduction.result import (
    EXTRA_MEASUREMENTS,
    Provenance,
    RunResult,
)
from piwsl_ocp.experiments.reproduction.step_times import StepRound, StepTimes, times_folder
from piwsl_ocp.experiments.reproduction.trainings import RunName, settings_key
from piwsl_ocp.experiments.run_folder import CONFIG_FILE, RunFolder
from piwsl_ocp.experiments.run_record import RunRecord

#: Columns of the validation log that are kept, with five digits.
CURVE = ("step", "train_seconds", "energy_rmse", "force_rmse", "consistency_error")

#: Errors that are kept, in the unit of the labels.
ERRORS = (
    "energy_rmse",
    "energy_mae",
    "force_rmse",
    "force_mae",
    "force_vector_rmse",
    "energy_rmse_constant",
    "force_rmse_constant",
)

#: Stands for a commit or a time that a run folder does not tell.
UNKNOWN = "unknown"

_Kind = TypeVar("_Kind", RunResult, StepTimes)


@dataclass(frozen=True)
class Results:
    """All results of a scale.

    Attributes:
        runs: by `RunResult.key` and seed; the last one started where there are several.
        problems: one line for each file that could not be read or used.
        timed: rounds of steps that were timed in turn, by `RunResult.key`.
    """

    runs: Mapping[tuple[tuple[str, str, str, str], int], RunResult]
    problems: tuple[str, ...]
    timed: Mapping[tuple[str, str, str, str], tuple[StepRound, ...]] = field(default_factory=dict)

    def of(self, key: tuple[str, str, str, str]) -> list[RunResult]:
        """Return the results of one training, ordered by seed."""
        found = [result for (other, _), result in self.runs.items() if other == key]
        return sorted(found, key=lambda result: result.seed)


def folder_of(results: Path, scale: str) -> Path:
    """Return the folder of the results of a scale."""
    return results / scale / "runs"


def file_of(results: Path, scale: str, run: str) -> Path:
    """Return the file of the result of a run, there or not."""
    return folder_of(results, scale) / f"{run}.json"


def of_run(run: RunFolder) -> RunResult:
    """Return what is kept of a run folder.

    Raises:
        UserError: if it is not finished, not measured, or of another kind.
    """
    name = RunName.parse(str(run.config.get("identifier", "")))
    if name is None:
        raise UserError(f"'{run.path}' is no run of the tables: its identifier names none")
    if not run.is_finished:
        raise UserError(
            f"the training in '{run.path}' is {run.status.get('status')} at step {run.last_step}: "
            "the same `piwsl reproduce` goes on with it"
        )
    result = run.result()
    optim, method = run.config["optim"], method_of(run.config)
    noisy_nodes = bool(optim["piwsl"].get("noisy_nodes"))  # kept under the name of the run
    try:
        return RunResult(
            run=run.config["identifier"],
            scale=name.scale,
            data=name.data,
            model=name.model,
            settings=settings_key(run.config),
            seed=run.seed,
            method=name.method if noisy_nodes else method.name,
            detail="" if noisy_nodes else method.detail,
            steps=run.last_step,
            train=result["training"]["structures"],
            test=result["errors"]["structures"],
            batch_size=optim["batch_size"] * run.config.get("world_size", 1),
            epsilon_angstrom=_epsilon(optim["piwsl"]),
            unit=result["unit"],
            errors={name: _short(result["errors"][name]) for name in ERRORS},
            consistency_error=_short(result["consistency"]["rms"]),
            seconds_per_step=_finite(run.seconds_per_step),
            curl=_measured(run, "curl"),
            bond_scan=_measured(run, "bond_scan"),
            curve=_curve(run),
            provenance=_provenance(run, result),
        )
    except KeyError as error:
        raise UserError(
            f"results of '{run.path}' lack {error}: remove its folder `results` and reproduce again"
        ) from None
    except ValidationError as error:
        raise UserError(
            f"results of '{run.path}' are damaged ({_first(error)}): remove its folder `results` "
            "and reproduce again"
        ) from None


def write(result: RunResult, results: Path) -> Path:
    """Write a result into the folder of all results; an earlier one of the same run is replaced."""
    path = file_of(results, result.scale, result.run)
    text = json.dumps(result.model_dump(exclude_none=True), indent=1) + "\n"
    write_atomically(path, lambda file: file.write(_one_line_lists(text).encode()))
    return path


def collect(runs: Path, results: Path) -> list[str]:
    """Keep the results of every finished run in a folder of run folders.

    A result that is kept of a later training of the same name stays; an equal one is not written
    again.

    Returns:
        One line for each folder that gave none; runs that SLURM has not begun are no mistake.

    Raises:
        UserError: if a result cannot be written.
    """
    problems = []
    seen: dict[str, Path] = {}
    for folder in sorted(path for path in runs.glob("[!.]*") if path.is_dir()):
        try:
            if not (folder / CONFIG_FILE).is_file():
                if RunRecord(folder).slurm_job:
                    continue
                raise UserError(f"'{folder}' is no run folder: it has no {CONFIG_FILE}; remove it")
            result = of_run(RunFolder(folder))
            if result.run in seen:
                raise UserError(
                    f"'{folder}' and '{seen[result.run]}' are the same run: remove one of them"
                )
            seen[result.run] = folder
            kept = _kept(result, results)
            if kept is not None and _is_later(kept, result):
                raise UserError(
                    f"'{folder}' was started {result.provenance.started}, before the run whose "
                    f"result is kept, {kept.provenance.started}: remove the folder, or "
                    f"'{file_of(results, result.scale, result.run)}' to keep the earlier run"
                )
        except UserError as error:
            problems.append(str(error))
            continue
        result = _with_measurements(result, kept)
        if result != kept:
            write(result, results)
    return problems


def require_writable(results: Path, scale: str) -> None:
    """Raise a UserError if no result of a scale can be kept in a folder, which is made."""
    folder = folder_of(results, scale)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"results cannot be kept in '{folder}' ({error.strerror}): give another --results, or "
            "make the folder writable"
        ) from error


def _kept(result: RunResult, results: Path) -> RunResult | None:
    """Return what is kept already of a run of this name, None without a readable file."""
    path = file_of(results, result.scale, result.run)
    try:
        return _read(path) if path.is_file() else None
    except UserError:
        return None


def _is_later(first: RunResult, second: RunResult) -> bool:
    return bool(_start(second)) and _start(first) > _start(second)


def _start(result: RunResult) -> str:
    """Return when a run was started, in order of time; empty, before all others, if unknown."""
    started = result.provenance.started
    return "" if started == UNKNOWN else started


def _with_measurements(result: RunResult, kept: RunResult | None) -> RunResult:
    """Add what was measured of the same training when it still had its checkpoint."""
    if kept is None or kept.provenance != result.provenance:
        return result
    both = {name: getattr(result, name) or getattr(kept, name) for name in EXTRA_MEASUREMENTS}
    return result.model_copy(update=both)


def read_all(results: Path, scale: str) -> Results:
    """Return the results of a scale; a file that cannot be read becomes a line, not an error."""
    runs: dict[tuple[tuple[str, str, str, str], int], RunResult] = {}
    problems = []
    for path in sorted(folder_of(results, scale).glob("[!.]*.json")):
        try:
            result = _read(path)
            if result.unit != UNIT:
                raise UserError(
                    f"'{path}' has errors in {result.unit}, the tables are in {UNIT}: convert the "
                    f"data with --unit {UNIT} and reproduce again"
                )
        except UserError as error:
            problems.append(str(error))
            continue
        here, other = (result.key, result.seed), runs.get((result.key, result.seed))
        if other is not None:
            early, late = sorted((result, other), key=_start)
            problems.append(
                f"'{early.run}' and '{late.run}' are two versions of one run: the later one, "
                f"started {late.provenance.started}, counts; remove the other"
            )
            result = late
        runs[here] = result
    timed = {}
    for path in sorted(times_folder(results, scale).glob("[!.]*.json")):
        try:
            timed |= _read(path, StepTimes).by_key()
        except UserError as error:
            problems.append(str(error))
    return Results(runs, tuple(problems), timed)


def _read(path: Path, kind: type[_Kind] = RunResult) -> _Kind:
    try:
        return kind.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}): remove it") from error
    except ValidationError as error:
        raise UserError(
            f"'{path}' is damaged ({_first(error)}): remove it, and {kind.REMEDY}"
        ) from None


def _first(error: ValidationError) -> str:
    """Return the first mistake of a kept file."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return "it is cut off or no JSON"
    said = first["msg"].removeprefix("Value error, ")
    return f"{key}: {said.lower()}" if key else said


def _provenance(run: RunFolder, result: Mapping[str, Any]) -> Provenance:
    code = versions_of(run.status)
    return Provenance(
        commit=code.pop("commit", UNKNOWN),
        versions=code,
        started=str(run.status.get("started", UNKNOWN)),
        train_data=result["training"]["checksum"],
        test_data=result["dataset"]["checksum"],
    )


def _curve(run: RunFolder) -> dict[str, list[float]]:
    rows = run.metrics("val")
    return {name: [_short(value) for value in rows[name]] for name in CURVE if name in rows.columns}


def _measured(run: RunFolder, name: str) -> dict[str, Any] | None:
    """Return the result of a measurement, None where there is none."""
    if name not in MEASUREMENTS:
        return None
    path = run.path / MEASUREMENTS[name].result
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"'{path}' is cut off or no JSON: remove it and reproduce again") from None
    return {key: _shortened(value) for key, value in content.items()}


def _shortened(value: Any) -> Any:
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return _short(value, digits=9) if isinstance(value, float) else value


def _epsilon(options: Mapping[str, Any]) -> float | None:
    return (options.get("displacement") or {}).get("epsilon_max_angstrom")


def _short(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _finite(value: float) -> float | None:
    return _short(value) if math.isfinite(value) else None


def _one_line_lists(text: str) -> str:
    """Put lists of numbers, one number a line in indented JSON, on one line."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if inside:
            lines[-1] += line.strip() + (" " if line.rstrip().endswith(",") else "")
            inside = not line.strip().startswith("]")
        else:
            lines.append(line)
            inside = line.rstrip().endswith("[")
    return "\n".join(lines) + "\n"
