"""The command `piwsl demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, markup=False)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    steps: Annotated[
        int, typer.Option(min=1, help="Training steps of each run, the same for every method.")
    ] = 1000,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 2,
    parallel: Annotated[
        int | None, typer.Option(min=1, help="Runs side by side. Default: one for each core.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train again what is in the folder.")
    ] = False,
) -> None:
    """Train supervised, PIWSL and trapezoid models on aspirin and compare them.

    What is finished is kept: the same command again goes on where the last one stopped.
    """
    from piwsl_ocp.atomic_file import require_folder_or_nothing
    from piwsl_ocp.experiments.demo import Demo, DemoOptions

    require_folder_or_nothing(out)
    try:
        Demo(DemoOptions(out, steps, seeds, parallel, overwrite), console).run()
    except KeyboardInterrupt:
        console.print("interrupted: what was done is saved, the same command goes on")
        raise
