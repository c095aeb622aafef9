"""Which values the options of SpinConv may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from piwsl_ocp.errors import UserError
from piwsl_ocp.models.spinconv import frames, graph
from piwsl_ocp.models.spinconv.layers import CHANNELS_PER_GROUP

#: Filters that this model has.
FILTERS = ("fullconv",)
#: "random": forces from a head in random frames; "grad": minus the gradient of the energy.
FORCE_ESTIMATORS = ("random", "grad")

_CHOICES = {
    "sphere_message": FILTERS,
    "output_message": FILTERS,
    "force_estimator": FORCE_ESTIMATORS,
    "edge_selection": graph.EDGE_SELECTIONS,
    "frame_rule": frames.FRAME_RULES,
}
_AT_LEAST = {
    "hidden_channels": CHANNELS_PER_GROUP,
    "mid_hidden_channels": 1,
    "num_interactions": 1,
    "num_basis_functions": 2,
    "sphere_size_lat": 2,
    "sphere_size_long": 1,
    "max_num_neighbors": 1,
    "max_num_elements": 1,
    "embedding_size": 1,
    "num_rand_rotations": 1,
    "num_rand_rotations_eval": 1,
}


def check_options(options: Mapping[str, Any]) -> None:
    """Stop at the first option that has no meaning.

    Args:
        options: by the names of the arguments of `SpinConv`.

    Raises:
        UserError: names the option, its value and what is expected.
    """
    for name, allowed in _CHOICES.items():
        if options[name] not in allowed:
            raise UserError(
                f"model.{name}: found {options[name]!r}, expected {' or '.join(allowed)}"
            )
    for name, least in _AT_LEAST.items():
        value = options[name]
        if value is None and name == "num_rand_rotations_eval":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(
                f"model.{name}: found {value!r}, expected a whole number of at least {least}"
            )
    for name in ("cutoff", "basis_width_scalar", "distance_block_scalar_max"):
        if not options[name] > 0:
            raise UserError(f"model.{name}: found {options[name]!r}, expected a number above 0")
    groups = options["hidden_channels"] // CHANNELS_PER_GROUP
    for name in ("hidden_channels", "mid_hidden_channels"):
        if options[name] % groups:
            raise UserError(
                f"model.{name}: found {options[name]}, expected a multiple of the {groups} groups "
                f"of the spin filter (hidden_channels // {CHANNELS_PER_GROUP})"
            )
