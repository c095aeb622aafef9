"""Make the data files that ship with the project (needs tblite: pip install '.[generate]')."""

import sys
from pathlib import Path

import typer

from piwsl_ocp.datasets.sources.embedded import FOLDER
from piwsl_ocp.datasets.xtb_files import UserError, make_demo_data


def main(names: list[str], out: Path = FOLDER, seed: int = 0, overwrite: bool = False) -> None:
    """Make NAMES (all, ethanol, aspirin, molecules, oxide) in the folder OUT."""
    try:
        make_demo_data(names, out, seed, overwrite)
    except UserError as error:
        typer.secho(f"error: {error}", err=True)
        sys.exit(2)


typer.run(main)
