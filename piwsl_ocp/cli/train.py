"""Commands that train a model and use it: train, resume, validate, predict, fairchem."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)

RunFolder = Annotated[Path, typer.Argument(help="Run folder of a training.")]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, cuda:1 ... Default: the GPU where there is one."),
]


def train(
    config: Annotated[
        Path, typer.Argument(help="Configuration, such as configs/experiments/.../painn_piwsl.yml.")
    ],
    run_folder: Annotated[
        Path | None,
        typer.Option(help="Folder of this run. Default: runs/<data set>-<configuration>-s<seed>."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of weights, batches and displacements. Default: the configuration's, or 0."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override one value: --set optim.max_steps=500. Repeatable."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Data-parallel processes. Default: the configuration's, or 1."),
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Stay on the CPU, GPU or not.")] = False,
    amp: Annotated[
        bool | None,
        typer.Option("--amp/--no-amp", help="Mixed precision on a GPU. Default: no."),
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(help="Weights & Biases: offline, online or disabled.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show fairchem's log lines.")] = False,
) -> None:
    """Train a model. Ctrl-C saves between two steps; `piwsl resume` goes on."""
    from piwsl_ocp.ocp.config import load_config, parse_override
    from piwsl_ocp.ocp.run import new_run_folder
    from piwsl_ocp.ocp.run import train as run_training

    overrides = dict(parse_override(text) for text in set_ or [])
    if wandb is not None:
        overrides["logger.wandb"] = wandb
    for key, value in (("seed", seed), ("amp", amp), ("cpu", cpu or None)):
        if value is not None:
            overrides[key] = value
    settings = load_config(config, overrides)
    name = f"{config.resolve().parent.name}-{config.stem}-s{settings.get('seed', 0)}"
    settings.setdefault("identifier", name)
    folder = run_folder or new_run_folder("runs", name)
    _run(folder, lambda: run_training(settings, folder, processes=processes, progress=not verbose))


def resume(
    run_folder: RunFolder,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Data-parallel processes: as many as before, the default."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show fairchem's log lines.")] = False,
) -> None:
    """Go on with a training that was interrupted, from its last checkpoint."""
    from piwsl_ocp.ocp.provenance import code_version
    from piwsl_ocp.ocp.run import train as run_training
    from piwsl_ocp.ocp.run_status import changes_of_code

    if changes := changes_of_code(run_folder, code_version()):
        console.print(f"note: other code than before, the result may differ: {changes}")
    _run(
        run_folder,
        lambda: run_training(
            {}, run_folder, resume=True, processes=processes, progress=not verbose
        ),
    )


def _run(folder: Path, training) -> None:
    from piwsl_ocp.ocp.interruption import TrainingInterrupted

    console.print(f"run folder: {folder}")
    try:
        training()
    except TrainingInterrupted as interruption:
        step = interruption.args[0]
        raise TrainingInterrupted(
            f"interrupted after step {step}, everything is saved; "
            f"go on with `piwsl resume {folder}`"
        ) from None
    best = folder / "checkpoints" / "best_checkpoint.pt"
    if not best.is_file():
        console.print(f"no best checkpoint: no validation metric in {folder} was a finite number")
        return
    console.print(f"best checkpoint: {best}")
    console.print(f"errors on the test split: piwsl validate {folder} --split test")


def validate(
    run: Annotated[Path, typer.Argument(help="Run folder, or a checkpoint file.")],
    data: Annotated[
        Path | None, typer.Option(help="Converted data set. Default: that of the training.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    device: Device = None,
) -> None:
    """Print energy and force errors and the consistency error on a split, and keep them.

    Those on other data than the training's are kept apart, and no table of runs shows them.
    """
    from piwsl_ocp.evaluation.evaluate import evaluate

    evaluation = evaluate(run, data, split, device=device, progress=True)
    console.print(evaluation.table())
    console.print(f"results: {evaluation.file}")


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder, or a checkpoint file.")],
    structures: Annotated[
        Path, typer.Argument(help="Structures in any format that ASE reads (extxyz, cif, ...).")
    ],
    out: Annotated[Path, typer.Option(help="Extended XYZ file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    device: Device = None,
) -> None:
    """Predict total energies (eV) and forces (eV/Angstrom) of structures and write extxyz."""
    from piwsl_ocp.atomic_file import require_absent
    from piwsl_ocp.calculator import predict_file

    if not overwrite:
        require_absent(out)
    count = predict_file(run, structures, out, device=device)
    console.print(f"{count} structures predicted: {out}")


def fairchem(context: typer.Context) -> None:
    """Run fairchem's own command line, --submit included, without its compiled packages."""
    from piwsl_ocp.ocp import fairchem_cli

    fairchem_cli.main(context.args)
