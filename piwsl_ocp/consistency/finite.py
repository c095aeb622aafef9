"""Stop at the first value that is not a finite number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from piwsl_ocp.errors import UserError


class NonFiniteError(UserError):
    """A value per structure is not a finite number."""


def check_finite(
    values: Mapping[str, Float[Tensor, " structures"]], records: Iterable[int]
) -> None:
    """Raise unless every value of every term is finite.

    Args:
        values: (B,) values of each term by its name, residuals or losses.
        records: (B,) record index of each structure in its data set.

    Raises:
        NonFiniteError: naming the first term with a non-finite value, the value and the record.
    """
    if not values:
        return
    finite = torch.isfinite(torch.stack([value.detach() for value in values.values()]))
    if bool(finite.all()):
        return
    term, structure = (~finite).nonzero()[0].tolist()
    name = list(values)[term]
    record = int(list(records)[structure])
    raise NonFiniteError(
        f"{name} is {values[name][structure].item()} for record {record}: expected a finite "
        "number; look at that structure with `piwsl data check` or lower the learning rate"
    )
