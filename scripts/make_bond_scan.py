"""Compute the GFN2-xTB bond profile that the demo compares with (needs the `generate` extra)."""

from piwsl_ocp.evaluation.aspirin_scan import make_scan

if __name__ == "__main__":
    print(make_scan())
