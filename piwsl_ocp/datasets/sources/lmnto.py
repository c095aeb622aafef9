"""Li8Mo2Ni7Ti7O32 of Cooper et al. 2020: periodic structures of one composition in XSF."""

from __future__ import annotations

from piwsl_ocp.datasets.sources import xsf
from piwsl_ocp.datasets.sources.source import Source, SplitSizes

SOURCE = Source(
    name="lmnto",
    description="Li8Mo2Ni7Ti7O32 of Cooper et al. (XSF, also straight from the .tar.xz)",
    read=xsf.read,
    level_of_theory="DFT as published by Cooper et al. 2020",
    energy_unit=None,
    references="least_squares",
    # A minimum-norm fit at the one composition: it removes a constant and holds nowhere else.
    atomic_energies={
        "Li": -4.239586962951858,
        "Mo": -1.0598967407379654,
        "Ni": -3.709638592582873,
        "Ti": -3.709638592582873,
        "O": -16.958347851807446,
    },
    # Of about 2600 structures: the same for N = 100 and for N = 1000 with its validation.
    sizes=SplitSizes(train=100, test=800),
)
