"""What `run.json` in a run folder says: how far the training is, and where it comes from."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from piwsl_ocp.atomic_file import write_atomically
from piwsl_ocp.errors import UserError

CONFIG_FILE = "config.yml"
STATUS_FILE = "run.json"


def read_status(run_folder: Path | str) -> dict[str, Any]:
    """Return what it says, nothing where there is none.

    Raises:
        UserError: if it is damaged.
    """
    path = Path(run_folder) / STATUS_FILE
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise UserError(
            f"'{path}' is cut off or no JSON: remove it, and the run goes on from its checkpoint"
        ) from error


def write_status(
    run_folder: Path | str, provenance: Mapping[str, Any], word: str, **more: Any
) -> None:
    """Write it anew, with the time of its first writing kept; time stamps are in UTC.

    Args:
        run_folder: the run folder.
        provenance: where the training comes from.
        word: `running`, `interrupted`, `failed` or `finished`.
        more: further facts.

    Raises:
        UserError: if it is damaged or cannot be written.
    """
    before = read_status(run_folder)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    content = {**provenance, "started": before.get("started", now), "changed": now, "status": word}
    text = json.dumps({**content, **more}, indent=2) + "\n"
    write_atomically(Path(run_folder) / STATUS_FILE, lambda file: file.write(text.encode()))


def command_to_repeat(run_folder: Path | str, config: Mapping[str, Any]) -> str:
    """Return the command that makes a training once more, in a folder of its own.

    Args:
        run_folder: its run folder, which holds the whole configuration.
        config: that configuration.
    """
    words = ["piwsl", "train", str(Path(run_folder) / CONFIG_FILE)]
    if config.get("world_size", 1) > 1:
        words += ["--processes", str(config["world_size"])]
    return shlex.join(words)


def earlier_code(
    run_folder: Path | str, code: Mapping[str, str], step: int
) -> list[dict[str, Any]]:
    """Return the other code that the steps of a training so far were done with, oldest first.

    Args:
        run_folder: the run folder.
        code: the versions that it goes on with.
        step: the step it goes on from.

    Returns:
        The `code` and the last step (`until_step`) of each; empty if it was always the same.

    Raises:
        UserError: if `run.json` is damaged.
    """
    before = read_status(run_folder)
    earlier = before.get("earlier", [])
    done = earlier[-1]["until_step"] if earlier else 0
    if step > done and before.get("code", code) != code:
        earlier = [*earlier, {"code": before["code"], "until_step": step}]
    return earlier


def changes_of_code(run_folder: Path | str, code: Mapping[str, str]) -> str:
    """Return what differs from the code that a training was last run with; empty if nothing does.

    Raises:
        UserError: if `run.json` is damaged.
    """
    before = read_status(run_folder).get("code", {})
    different = [name for name in before if before[name] != code.get(name)]
    return ", ".join(f"{name} {before[name]}, now {code.get(name)}" for name in different)


def is_finished(run_folder: Path | str) -> bool:
    """Return whether the training reached its last step.

    Raises:
        UserError: if `run.json` is damaged.
    """
    return read_status(run_folder).get("status") == "finished"
