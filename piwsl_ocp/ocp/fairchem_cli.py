"""fairchem's own command line behind the stand-ins, with this package's runner."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from fairchem.core import _cli
from fairchem.core.common.flags import flags
from torch.distributed.launcher.api import LaunchConfig

from piwsl_ocp.errors import UserError
from piwsl_ocp.ocp.config import find_config, load_config
from piwsl_ocp.ocp.interruption import TrainingInterrupted
from piwsl_ocp.ocp.processes import run_ranks
from piwsl_ocp.ocp.run import Runner, run_configuration


def main(arguments: Sequence[str], default_mode: str | None = None) -> None:
    """Run fairchem's command line: the same flags, `--submit` included.

    fairchem pickles its runner by reference for SLURM jobs and for several processes. The names it
    looks up are set to this package's, so that such a process imports the stand-ins first.

    Args:
        arguments: what follows the program's name.
        default_mode: the mode where `--mode` is not given.

    Raises:
        UserError: for a flag that fairchem would stop at without a word on it.
        TrainingInterrupted: after Ctrl-C or SIGTERM, when the state is saved.
    """
    parsed, overrides = flags.get_parser().parse_known_args(list(arguments))
    parsed.mode = parsed.mode or default_mode
    if parsed.mode is None:
        flags.get_parser().error("the following arguments are required: --mode")
    _check_flags(parsed)
    parsed.config_yml = find_config(parsed.config_yml)
    load_config(parsed.config_yml)  # fairchem, which reads it again, ends in a traceback
    _cli.Runner, _cli.runner_wrapper = Runner, run_configuration
    _cli.elastic_launch = _launch
    try:
        _cli.main(parsed, overrides)
    except TrainingInterrupted as interruption:
        raise TrainingInterrupted(
            f"interrupted after step {interruption.args[0]}, everything is saved; go on with the "
            "same command and --checkpoint <run-dir>/checkpoints/<identifier>/checkpoint.pt"
        ) from None


def _check_flags(parsed: Namespace) -> None:
    if parsed.num_gpus < 1:
        raise UserError(
            f"--num-gpus: found {parsed.num_gpus}, expected a number above 0: it counts processes, "
            "without a GPU too (--cpu)"
        )
    if parsed.mode != "train" and not parsed.checkpoint:
        raise UserError(
            f"--checkpoint is missing: --mode {parsed.mode} needs the checkpoint of a training, "
            "such as <run-dir>/checkpoints/<identifier>/best_checkpoint.pt"
        )


def _launch(settings: LaunchConfig, run: Callable[[Any], None]) -> Callable[[Any], None]:
    """Stand for torch's `elastic_launch`, which ends its processes when a signal comes."""
    return partial(run_ranks, run, count=settings.nproc_per_node)
