"""fairchem's command line with the PIWSL trainer: python main.py --config-yml configs/..."""

import sys

from piwsl_ocp.cli import run_fairchem

if __name__ == "__main__":
    sys.exit(run_fairchem(sys.argv[1:], default_mode="train"))
