"""The table of weak terms: what each needs and which residual it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from piwsl_ocp.consistency import residuals
from piwsl_ocp.consistency.potential import Labels, Prediction


@dataclass(frozen=True)
class Evaluations:
    """All that was predicted for one batch in one step, in one physical unit.

    Attributes:
        clean: prediction at S.
        displaced: predictions at S_d and, where a term needs it, S_d'.
        displacements: d and d' (N, 3), Angstrom, in the order of `displaced`.
        structure_index: (N,) structure of each atom.
        labels: reference values at S, where a term needs them.
    """

    clean: Prediction
    displaced: Sequence[Prediction]
    displacements: Sequence[Float[Tensor, "atoms 3"]]
    structure_index: Int[Tensor, " atoms"]
    labels: Labels | None = None


@dataclass(frozen=True)
class Term:
    """One weak term.

    Attributes:
        name: as in a configuration.
        residual: Evaluations -> (B,) residual in the energy unit.
        copies: displaced copies it needs: 1 for S_d, 2 for S_d and S_d'.
        needs_labels: whether it needs reference energies.
        needs_label_forces: whether it needs reference forces.
    """

    name: str
    residual: Callable[[Evaluations], Tensor]
    copies: int
    needs_labels: bool = False
    needs_label_forces: bool = False

    def tolerance(self, e: Evaluations) -> Float[Tensor, " structures"]:
        """Return E(S_d) |d|^2, or E(S_d) |d''|^2 for a term that spans S_d' and S_d.

        Args:
            e: the predictions of one batch.

        Returns:
            (B,) in the energy unit, |d|^2 taken per square Angstrom.
        """
        span = e.displacements[0]
        if self.copies == 2:
            span = span - e.displacements[1]
        energy = e.displaced[0].energy
        squared = span.square().sum(dim=1)
        return energy * residuals.sum_over_atoms(squared, e.structure_index, len(energy))


def _pitc(e: Evaluations) -> Tensor:
    return residuals.pitc(
        e.displaced[0].energy,
        e.clean.energy,
        e.clean.forces,
        e.displacements[0],
        e.structure_index,
    )


def _pitc_trapezoid(e: Evaluations) -> Tensor:
    return residuals.pitc_trapezoid(
        e.displaced[0].energy,
        e.displaced[0].forces,
        e.clean.energy,
        e.clean.forces,
        e.displacements[0],
        e.structure_index,
    )


def _pisc(e: Evaluations) -> Tensor:
    return residuals.pisc(
        e.displaced[0].energy,
        e.displaced[1].energy,
        e.displaced[1].forces,
        *e.displacements,
        e.structure_index,
    )


def _pisc_batch_work(e: Evaluations) -> Tensor:
    return residuals.pisc_batch_work(
        e.displaced[0].energy, e.displaced[1].energy, e.displaced[1].forces, *e.displacements
    )


def _pisc_case2(e: Evaluations) -> Tensor:
    return residuals.pisc_case2(
        e.clean.energy,
        e.clean.forces,
        e.displaced[1].energy,
        e.displaced[1].forces,
        *e.displacements,
        e.structure_index,
    )


def _pisc_case3(e: Evaluations) -> Tensor:
    return residuals.pisc_case3(
        e.displaced[0].energy,
        e.displaced[0].forces,
        e.displaced[1].energy,
        *e.displacements,
        e.structure_index,
    )


def _pisc_trapezoid(e: Evaluations) -> Tensor:
    return residuals.pisc_trapezoid(
        e.displaced[0].energy,
        e.displaced[0].forces,
        e.displaced[1].energy,
        e.displaced[1].forces,
        *e.displacements,
        e.structure_index,
    )


def _closed_loop(e: Evaluations) -> Tensor:
    return residuals.closed_loop(
        e.clean.forces,
        e.displaced[0].forces,
        e.displaced[1].forces,
        *e.displacements,
        e.structure_index,
        len(e.clean.energy),
    )


def _weak_label(e: Evaluations) -> Tensor:
    return residuals.weak_label(
        e.displaced[0].energy,
        e.labels.energy,
        e.labels.forces,
        e.displacements[0],
        e.structure_index,
    )


def _weak_label_predicted_forces(e: Evaluations) -> Tensor:
    return residuals.weak_label_predicted_forces(
        e.displaced[0].energy,
        e.labels.energy,
        e.clean.forces,
        e.displacements[0],
        e.structure_index,
    )


#: Terms by the name used in a configuration.
TERMS: dict[str, Term] = {
    term.name: term
    for term in (
        Term("pitc", _pitc, copies=1),
        Term("pitc_trapezoid", _pitc_trapezoid, copies=1),
        Term("pisc", _pisc, copies=2),
        Term("pisc_batch_work", _pisc_batch_work, copies=2),
        Term("pisc_case2", _pisc_case2, copies=2),
        Term("pisc_case3", _pisc_case3, copies=2),
        Term("pisc_trapezoid", _pisc_trapezoid, copies=2),
        Term("closed_loop", _closed_loop, copies=2),
        Term("weak_label", _weak_label, copies=1, needs_labels=True, needs_label_forces=True),
        Term(
            "weak_label_predicted_forces",
            _weak_label_predicted_forces,
            copies=1,
            needs_labels=True,
        ),
    )
}
