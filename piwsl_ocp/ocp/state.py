"""What a training carries from step to step besides weights: random state, checkpoints."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import pickle
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common import distutils
from torch import Tensor, nn

from piwsl_ocp.errors import UserError

#: Process groups of data-parallel models, see `keep_process_group`.
_KEPT_GROUPS: list[object] = []


class LastStepDone(Exception):
    """Training has reached `optim.max_steps`."""


def global_mean(values: Tensor) -> Tensor:
    """Return the mean over the values of all ranks, as one rank's share of it.

    Data-parallel training averages gradients over ranks, so the local sum is multiplied by the
    number of ranks and divided by the global count, as fairchem does for its own losses.
    """
    count = distutils.all_reduce(values.numel(), device=values.device)
    return values.sum() * distutils.get_world_size() / count


def zero_of(outputs: Mapping[str, Tensor], unless: Iterable[str]) -> Tensor | float:
    """Return a zero that depends on every output but those named.

    Data-parallel training waits for a gradient of each weight in each step. An output that no
    supervised loss reads has one in the steps with weak losses alone.

    Args:
        outputs: of the model, by target name.
        unless: the targets with a supervised loss.
    """
    return sum(0.0 * value.sum() for name, value in outputs.items() if name not in set(unless))


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set on any rank."""
    if distutils.get_world_size() == 1:
        return flag
    return distutils.all_reduce(int(flag), device=device) > 0


def keep_process_group() -> None:
    """Keep the process group of a data-parallel model until this process ends.

    A model that outlives `destroy_process_group` would be the last owner of the group, and would
    free it while it holds Python's global lock, for which the group's own thread may be waiting:
    both would wait for ever (seen with gloo in torch 2.13).
    """
    _KEPT_GROUPS.append(torch.distributed.GroupMember.WORLD)


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's generators, which dropout and random edge frames draw from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: dict[str, Tensor]) -> None:
    """Set torch's generators to a state from `random_state`."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


@contextmanager
def random_state_untouched(device: torch.device) -> Iterator[None]:
    """Leave torch's generators as they were, so that validating does not change the training."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def read_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a checkpoint of tensors and plain values; code in it is refused, not run.

    Raises:
        UserError: if the file is missing, cut off, or no checkpoint of fairchem.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at '{path}': give a checkpoint file or a run folder")
    try:
        checkpoint = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"'{path}' cannot be read as a checkpoint: it is none, is damaged, or holds more than "
            "tensors and plain values; give a run folder or its checkpoints/best_checkpoint.pt"
        ) from error
    except Exception as error:
        reason = _first_line(error)[:120]
        raise UserError(f"'{path}' cannot be read as a checkpoint: {reason}") from error
    if not isinstance(checkpoint, dict) or not {"state_dict", "config"} <= set(checkpoint):
        raise UserError(f"'{path}' is no fairchem checkpoint: it lacks 'state_dict' or 'config'")
    return checkpoint


def cannot_save(path: Path, error: Exception) -> UserError:
    """Return the error of a checkpoint that could not be written; torch tells no file error."""
    reason = _first_line(error)[-120:]
    free = shutil.disk_usage(path.parent).free / 2**20
    return UserError(
        f"cannot write the checkpoint '{path}' ({reason}; {free:.1f} MiB are free there): free "
        "space and go on with `piwsl resume`; the checkpoint before is untouched"
    )


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def check_same_model(checkpoint: dict[str, Any], model: nn.Module, path: str | Path) -> None:
    """Raise a UserError if the weights of a checkpoint do not fit the model."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {
        name.replace("module.", ""): tuple(value.shape)
        for name, value in checkpoint["state_dict"].items()
    }
    different = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if different:
        name = different[0]
        made_for = checkpoint["config"].get("model", {}).get("name", "?")
        raise UserError(
            f"checkpoint '{path}' (model '{made_for}') does not fit {type(model).__name__}: "
            f"'{name}' is {found.get(name, 'missing')} there and {expected.get(name, 'absent')} "
            "here; use the configuration the checkpoint was trained with"
        )


def check_same_unit(found: str | None, expected: str, path: str | Path) -> None:
    """Raise a UserError if a checkpoint says that it was trained on labels in another unit."""
    if found not in (None, expected):
        raise UserError(
            f"checkpoint '{path}' was trained on labels in {found}, the data set holds {expected}: "
            f"convert the data with --unit {found}"
        )


def check_steps_left(step: int, max_steps: int, path: str | Path) -> None:
    """Raise a UserError if a training that begins with a checkpoint has no step to do."""
    if step >= max_steps:
        raise UserError(
            f"checkpoint '{path}' is at step {step} and optim.max_steps is {max_steps}: set it "
            "higher to go on from there, or begin at step 0 with best_checkpoint.pt or last_ema.pt"
        )
