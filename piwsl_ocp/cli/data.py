"""Commands on data sets: convert, check, info, sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from ase.data import chemical_symbols
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Convert published or your own files to data sets that fairchem reads, and check them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, soft_wrap=True)

SOURCE_HELP = "Layout: ani1x, tio2, rmd17, lmnto, ase, embedded; `piwsl data sources` tells more."
FILES_HELP = (
    "Files or folders; XSF archives are read without unpacking. With 'embedded': "
    "aspirin, ethanol, molecules or oxide."
)
EXAMPLES = """
Convert files to a data set: train, val and test, with everything that is known about them.

\b
piwsl data convert embedded aspirin --out data/aspirin
piwsl data convert ani1x ani1x-release.h5 --out data/ani1x --n-train 1000
piwsl data convert tio2 TiO2.tar.xz --out data/tio2
piwsl data convert rmd17 rmd17_aspirin_train_01.npz rmd17_aspirin_test_01.npz --out data/rmd17
piwsl data convert ase my.extxyz --out data/mine --n-train 500 --level-of-theory PBE

The test set is drawn first and stays the same for every --n-train; training sets are nested.
A conversion that is interrupted leaves nothing behind.
"""


OVERWRITE_HELP = "Replace a data set that is there."
UNIT_HELP = "Energy unit to store: kcal/mol, eV, kJ/mol, Hartree."

TrainSize = Annotated[int | None, typer.Option(help="Training structures. Default: 100.")]
ValidationSize = Annotated[
    int | None,
    typer.Option(help="Validation structures. Default: max(n_train, 100); rmd17: 9000."),
]
TestSize = Annotated[
    int | None,
    typer.Option(help="Test structures. Default: the paper's number; ase, embedded: the rest."),
]
SplitScheme = Annotated[
    str | None,
    typer.Option(help="random, published (default of rmd17), or paper: random, for rmd17 too."),
]
FileUnit = Annotated[
    str | None,
    typer.Option(help="Energy unit of the files. Default: the source's; ase: eV."),
]
References = Annotated[
    str | None,
    typer.Option(help="Energies taken off: atomic, least_squares (fitted on training), none."),
]
Property = Annotated[
    str | None,
    typer.Option(
        "--property",
        help="Which label. ani1x: wb97x_dz by default; ase: REF takes REF_energy and REF_forces.",
    ),
]
LevelOfTheory = Annotated[
    str | None, typer.Option(help="Method behind the labels, for the record.")
]
LargestForce = Annotated[
    float | None,
    typer.Option(help="Leave out structures with a force component above this, eV/Angstrom."),
]
Gradients = Annotated[
    bool, typer.Option("--gradients", help="The files hold gradients under the name of forces.")
]


@app.command(help=EXAMPLES)
def convert(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    files: Annotated[list[str], typer.Argument(help=FILES_HELP)],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    n_train: TrainSize = None,
    n_val: ValidationSize = None,
    n_test: TestSize = None,
    split: SplitScheme = None,
    split_seed: Annotated[int, typer.Option(help="Seed of the splits.")] = 0,
    unit: Annotated[str, typer.Option(help=UNIT_HELP)] = "kcal/mol",
    energy_unit: FileUnit = None,
    references: References = None,
    property_: Property = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    level_of_theory: LevelOfTheory = None,
    max_force: LargestForce = None,
    gradients: Gradients = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=OVERWRITE_HELP)] = False,
) -> None:
    """Convert files to a data set."""
    from piwsl_ocp.datasets import ConversionOptions, ReadOptions
    from piwsl_ocp.datasets import convert as convert_files

    options = ConversionOptions(
        unit=unit,
        references=references,
        train=n_train,
        validation=n_val,
        test=n_test,
        split=split,
        split_seed=split_seed,
        read=ReadOptions(energy_unit=energy_unit, property=property_),
        name=name,
        level_of_theory=level_of_theory,
        max_force_ev_per_angstrom=max_force,
        forces_are_gradients=gradients,
        overwrite=overwrite,
    )
    convert_files(
        source, files, out, options, report=lambda line: console.print(escape(f"note: {line}"))
    )
    info(out)


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(help="A converted data set, or any LMDB file of fairchem's layout.")
    ],
    unit: Annotated[
        str | None, typer.Option(help="Energy unit of a file without dataset.json.")
    ] = None,
    errors_only: Annotated[bool, typer.Option("--errors-only", help="Print errors only.")] = False,
) -> None:
    """Check a data set: one line per finding; exit code 1 if there is an error."""
    from piwsl_ocp.datasets.validation import check as check_folder

    findings = check_folder(folder, unit=unit)
    for finding in findings:
        if finding.level == "error" or not errors_only:
            console.print(escape(str(finding)))
    errors = sum(finding.level == "error" for finding in findings)
    warnings = sum(finding.level == "warning" for finding in findings)
    console.print(f"{errors} errors, {warnings} warnings: '{folder}'", markup=False)
    if errors:
        raise typer.Exit(1)


@app.command()
def info(
    folder: Annotated[Path, typer.Argument(help="A converted data set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print dataset.json.")] = False,
) -> None:
    """Print what is known about a data set."""
    from piwsl_ocp.datasets import DatasetInfo

    facts = DatasetInfo.read(folder)
    if as_json:
        console.print(json.dumps(facts.as_dict(), indent=1), markup=False)
        return
    elements = " ".join(chemical_symbols[number] for number in facts.elements)
    kind = "periodic" if facts.periodic else "molecules"
    title = escape(f"{facts.name}: {facts.level_of_theory}; {elements}; {kind}")
    table = Table(title=title)
    for heading in ("split", "structures", f"energy mean\n{facts.unit}", "energy std"):
        table.add_column(heading, justify="right")
    table.add_column(f"force RMS\n{facts.unit}/Å", justify="right")
    for split, numbers in facts.splits.items():
        values = (numbers.energy_mean, numbers.energy_std, numbers.force_rms)
        table.add_row(split, str(numbers.count), *(f"{value:.3f}" for value in values))
    console.print(table)
    console.print(
        f"references: {facts.reference_kind}; read {facts.counts['read']}, kept "
        f"{facts.counts['kept']}; split {facts.split['scheme']}, seed {facts.split['seed']}; "
        f"in '{folder}'",
        markup=False,
    )


@app.command()
def sources() -> None:
    """List the sources."""
    from piwsl_ocp.datasets import SOURCES

    for source in SOURCES.values():
        console.print(f"[bold]{source.name}[/]  {escape(source.description)}")
        unit = source.energy_unit or "named in each file"
        console.print(
            f"    labels {source.level_of_theory}; energy unit {unit}; references "
            f"{source.references}; split {source.split}",
            markup=False,
        )
