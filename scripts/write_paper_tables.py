"""Write published numbers into the table files: python scripts/write_paper_tables.py FOLDER."""

import sys
from pathlib import Path

import typer

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction.numbers import write_tables


def main(folder: Path) -> None:
    """Write the numbers of FOLDER/table_*.csv into configs/experiments/paper."""
    try:
        print(f"{write_tables(folder)} files written")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    typer.run(main)
