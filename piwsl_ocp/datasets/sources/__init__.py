"""The table of sources: one generator of `ase.Atoms` and one line each."""

from __future__ import annotations

from piwsl_ocp.datasets.sources import ani1x, ase, embedded, lmnto, rmd17, tio2
from piwsl_ocp.datasets.sources.source import (
    ReadOptions,
    Source,
    SplitSizes,
    existing_files,
    labelled,
)

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        ani1x.SOURCE,
        tio2.SOURCE,
        rmd17.SOURCE,
        lmnto.SOURCE,
        ase.SOURCE,
        embedded.SOURCE,
    )
}

__all__ = ["SOURCES", "ReadOptions", "Source", "SplitSizes", "existing_files", "labelled"]
