"""Write configs/experiments/ anew after a change of configs/cases.yml or experiments/grid.py."""

from piwsl_ocp.experiments.grid import write_experiments

if __name__ == "__main__":
    print(f"{write_experiments()} experiment files")
