"""TiO2 of Artrith & Urban 2016: 7815 periodic structures in XSF."""

from __future__ import annotations

from piwsl_ocp.datasets.sources import xsf
from piwsl_ocp.datasets.sources.source import Source, SplitSizes

SOURCE = Source(
    name="tio2",
    description="TiO2 of Artrith & Urban (XSF, also straight from the .tar.xz)",
    read=xsf.read,
    level_of_theory="DFT PBE, plane waves 40 Ry, GBRV ultrasoft pseudopotentials",
    energy_unit=None,
    atomic_energies={"Ti": -1604.604515075, "O": -432.503149303},
    sizes=SplitSizes(train=100, test=1_000),
)
