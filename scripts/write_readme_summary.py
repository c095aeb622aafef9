"""Renew the summary of the reproduction in README.md from results/cpu."""

import sys
from pathlib import Path

from piwsl_ocp.errors import UserError
from piwsl_ocp.experiments.reproduction.write import write_summary

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    try:
        write_summary(root / "README.md", "cpu", root / "results")
    except UserError as error:
        sys.exit(f"error: {error}")
