"""Train one configuration: python scripts/train.py CONFIG [options], the same as `piwsl train`."""

import sys

from piwsl_ocp.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    sys.exit(main())
