"""Convert rMD17 files: python scripts/convert_rmd17.py FILES --out DIR (--help for options)."""

from __future__ import annotations

import sys

from piwsl_ocp.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "convert", "rmd17"]
    sys.exit(main())
