"""Data sets: a published raw file, a stream of `ase.Atoms`, LMDB files that fairchem reads."""

from __future__ import annotations

from piwsl_ocp.datasets.conversion import ConversionOptions, convert
from piwsl_ocp.datasets.info import DatasetInfo, SplitInfo
from piwsl_ocp.datasets.sources import SOURCES, ReadOptions, Source

__all__ = [
    "SOURCES",
    "ConversionOptions",
    "DatasetInfo",
    "ReadOptions",
    "Source",
    "SplitInfo",
    "convert",
]
