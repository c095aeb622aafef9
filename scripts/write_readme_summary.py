"""Renew the summary of the reproduction in README.md from results/cpu."""

from pathlib import Path

from piwsl_ocp.experiments.reproduction.write import write_summary

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    write_summary(root / "README.md", "cpu", root / "results")
