"""python -m piwsl_ocp is the same as `piwsl`."""

import sys

from piwsl_ocp.cli import main

if __name__ == "__main__":
    sys.exit(main())
