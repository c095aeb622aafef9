"""SpinConv (Shuaibi et al. 2021, arXiv 2106.09575): spin-convolutional graph network.

`graph` finds and selects edges, `frames` gives local frames and random rotations, `sphere` spreads
directions over grids, `layers` holds the learned parts and `network` the model.
"""

from __future__ import annotations

from piwsl_ocp.models.spinconv.network import SpinConv

__all__ = ["SpinConv"]
