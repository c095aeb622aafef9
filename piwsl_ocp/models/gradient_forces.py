"""Forces that are the negative gradient of the energy, for any energy model over a batch."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

import copy
import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch

from piwsl_ocp.errors import UserError
from piwsl_ocp.models.edges import structure_name
from piwsl_ocp.models.elements import check_elements

Outputs = dict[str, Tensor]


def gradient_forces(
    predict: Callable[[Batch], Mapping[str, Tensor]], data: Batch, training: bool
) -> Outputs:
    """Return energies and the forces F_i = -dE/dr_i, E the sum over all structures.

    The model sees a shallow copy of the batch with positions of its own; the given batch, its
    positions and the gradient mode of the caller stay as they are. Forces can be differentiated
    once more in training; in evaluation both outputs are detached.

    Args:
        predict: the model: a batch -> at least `energy`, (B,) or (B, 1).
        data: B structures with N atoms.
        training: keep the graph of the forces.

    Returns:
        `energy` as the model gives it and `forces` (N, 3), in its energy unit per Angstrom.
    """
    moved = copy.copy(data)
    moved.pos = data.pos.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        energy = predict(moved)["energy"]
        (gradient,) = torch.autograd.grad(
            energy.sum(), moved.pos, create_graph=training, materialize_grads=True
        )
    return {"energy": energy if training else energy.detach(), "forces": -gradient}


@contextmanager
def recordable(data: Batch) -> Iterator[Batch]:
    """Give a batch that derivatives can be taken of, also in `torch.inference_mode()`.

    What is made in that mode can take no part in a derivative later, so the mode is left for the
    moment, without recording gradients: neither forces nor tables that a model keeps depend on it.

    Args:
        data: the batch; it is not changed.
    """
    with ExitStack() as modes:
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.no_grad())
        ordinary = copy.copy(data)
        for key, value in data:
            if isinstance(value, Tensor) and value.is_inference():
                ordinary[key] = value.clone()
        yield ordinary


class EnergyModel:
    """Puts the choice of forces before a fairchem model.

    The model sets `forces` to one of `FORCES`, or to `none` for energies alone, and implements
    `predict`: a batch -> `energy`, and `forces` where the choice is `direct`.
    """

    forces: str
    #: What the option `forces` may be.
    FORCES: tuple[str, ...] = ("direct", "gradient")
    #: Name of the module that predicts direct forces; a gradient model has none.
    FORCE_HEAD: str | None = None

    def forward(self, data: Batch) -> Outputs:
        """Return `energy` and `forces` (N, 3) of a batch, which is not changed.

        Raises:
            UserError: if two atoms of a structure that share an edge are on the same spot, or an
                element is not known to the model.
        """
        heaviest = int(data.atomic_numbers.argmax())
        where = structure_name(data, int(data.batch[heaviest]))
        check_elements(self, [int(data.atomic_numbers[heaviest])], where)
        with recordable(data) as batch:
            if self.forces in ("direct", "none"):
                return dict(self.predict(batch))
            return gradient_forces(self.predict, batch, self.training)

    def predict(self, data: Batch) -> Mapping[str, Tensor]:
        """Return the model's own outputs; `data` may be written to."""
        raise NotImplementedError

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        """Leave the force head of a checkpoint out of a model that has none."""
        if self.FORCE_HEAD is not None and not hasattr(self, self.FORCE_HEAD):
            for key in [k for k in state_dict if k.startswith(f"{prefix}{self.FORCE_HEAD}.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def checked_choice(option: str, value: object, choices: tuple[str, ...]) -> str:
    """Return the value of an option of a model, one of a few words.

    Raises:
        UserError: if it is none of them; names the nearest.
    """
    if value in choices:
        return str(value)
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; nearest is '{close[0]}'" if close else ""
    raise UserError(f"model.{option}: found {value!r}, expected {' or '.join(choices)}{hint}")


def options_of(parent: type, *settled: str) -> Callable[[Callable], Callable]:
    """Show a parent's options in the signature of an `__init__(self, *, own, **options)`.

    Configurations are checked against signatures, so a misspelt option is found before a run.

    Args:
        parent: the class that takes `**options`.
        settled: options that the subclass decides by itself.
    """

    def show(initialise: Callable) -> Callable:
        own = inspect.signature(initialise).parameters.values()
        shown = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
        taken = [
            p.replace(kind=p.KEYWORD_ONLY)
            for name, p in inspect.signature(parent.__init__).parameters.items()
            if name not in shown and name not in settled
        ]
        initialise.__signature__ = inspect.Signature([*shown.values(), *taken])
        return initialise

    return show
