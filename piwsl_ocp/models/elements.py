"""Which elements a model has parameters for."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from collections.abc import Iterable

from torch import nn

from piwsl_ocp.errors import UserError


def largest_atomic_number(model: nn.Module) -> int | None:
    """Return the largest atomic number a fairchem model has parameters for; None if not known.

    eSCN, EquiformerV2 and SpinConv number their tables from 0, as SchNet does; PaiNN from 1.
    """
    if hasattr(model, "max_num_elements"):
        return model.max_num_elements - 1
    if hasattr(model, "atom_emb"):
        return model.atom_emb.embeddings.num_embeddings
    if isinstance(getattr(model, "embedding", None), nn.Embedding):
        return model.embedding.num_embeddings - 1
    return None


def check_elements(model: nn.Module, atomic_numbers: Iterable[int], where: str) -> None:
    """Refuse elements that a model has no parameters for.

    Args:
        model: a fairchem model.
        atomic_numbers: of the structures.
        where: what holds them, for the message.

    Raises:
        UserError: if an atomic number is larger than the model's tables.
    """
    largest, found = largest_atomic_number(model), max(atomic_numbers, default=0)
    if largest is not None and found > largest:
        raise UserError(
            f"{where}: atomic number {found}, but {type(model).__name__} has parameters up to "
            f"{largest}: raise the model's number of elements, or leave such structures out"
        )
