"""Commands on the models: the page that compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from piwsl_ocp.errors import UserError

console = Console(highlight=False, soft_wrap=True, markup=False)


def models(
    out: Annotated[Path, typer.Option(help="Folder of models.md and models.svg.")],
    only: Annotated[
        str | None, typer.Option(help="File names in configs/models, by comma. Default: all.")
    ] = None,
    trained: Annotated[
        list[Path] | None, typer.Option(help="Run folder of a trained model. Repeatable.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page.")] = False,
) -> None:
    """Measure all models at CPU scale and write the page that compares them."""
    from piwsl_ocp.atomic_file import require_absent, require_folder_or_nothing
    from piwsl_ocp.experiments.model_page import (
        PAGES,
        VARIANTS,
        measure,
        measure_trained,
        write_page,
    )

    require_folder_or_nothing(out)
    if not overwrite:
        require_absent(*(out / name for name in PAGES))
    known = [variant.file for variant in VARIANTS]
    chosen = only.split(",") if only else known
    for name in set(chosen) - set(known):
        raise UserError(f"no model '{name}': expected some of {', '.join(known)}")
    of_runs = [measure_trained(run) for run in trained or []]  # first: a wrong path is told at once
    facts = []
    for variant in (variant for variant in VARIANTS if variant.file in chosen):
        with console.status(variant.label) as status:
            facts.append(
                measure(variant, lambda what, v=variant: status.update(f"{v.label}: {what}"))
            )
        console.print(f"measured: {variant.label}")
    console.print(f"page: {write_page(facts, out, of_runs)}")
