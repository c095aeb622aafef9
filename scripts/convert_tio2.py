"""Convert TiO2 files: python scripts/convert_tio2.py FILES --out DIR (--help for options)."""

from __future__ import annotations

import sys

from piwsl_ocp.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "convert", "tio2"]
    sys.exit(main())
