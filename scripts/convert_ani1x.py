"""Convert ANI-1x files: python scripts/convert_ani1x.py FILES --out DIR (--help for options)."""

from __future__ import annotations

import sys

from piwsl_ocp.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "convert", "ani1x"]
    sys.exit(main())
