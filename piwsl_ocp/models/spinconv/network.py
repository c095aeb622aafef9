"""SpinConv as a fairchem model: energies from messages along edges, forces from random frames."""

from __future__ import annotations

import piwsl_ocp.compat  # noqa: F401  (before fairchem)

from typing import Any, NamedTuple

import torch
from fairchem.core.common.registry import registry
from fairchem.core.models.base import GraphModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from piwsl_ocp.datasets.neighbours import SAME_POINT_ANGSTROM
from piwsl_ocp.errors import UserError
from piwsl_ocp.models import noise
from piwsl_ocp.models.edges import CLEAN_POSITIONS, check_images
from piwsl_ocp.models.gradient_forces import recordable
from piwsl_ocp.models.spinconv import frames, graph, sphere
from piwsl_ocp.models.spinconv.layers import (
    DistanceLayer,
    ElementPairs,
    ForceHead,
    GaussianBasis,
    Interaction,
    PairMixture,
    element_pairs,
)
from piwsl_ocp.models.spinconv.options import check_options


class Geometry(NamedTuple):
    """What the network sees of the positions.

    Args:
        distances: d, (E,) in Angstrom.
        neighbours: the in-edges of the source of every edge, on a sphere in the edge's frame.
        surroundings: the in-edges of every atom on three spheres for every rotation; None without
            a force head.
    """

    distances: Float[Tensor, " edges"]
    neighbours: sphere.Projection
    surroundings: sphere.Projection | None


@registry.register_model("spinconv")
class SpinConv(nn.Module, GraphModelMixin):
    """Spin-convolutional graph network (Shuaibi et al. 2021, arXiv 2106.09575).

    Stored edges (`edge_index`, `cell_offsets`) are used as they are but for the cap on neighbours,
    also where displaced atoms took them beyond the cutoff. The energy is continuous in the
    positions only between changes of the graph, of a direction across an edge's axis and of a
    frame; forces of the estimator "random" follow rotations in distribution only. Those of "grad"
    are near singular where an edge lies along its target's surroundings, as in ideal geometries:
    in a small network the forces on benzene rattled by 1e-5 Angstrom are up to 1,000 times those
    at 0.05 Angstrom.

    Args:
        hidden_channels: H, width of a message; H // 8 groups must divide H and M.
        mid_hidden_channels: M, width inside every block.
        num_interactions: how many updates of the messages.
        num_basis_functions: Gaussians in the distance basis.
        basis_width_scalar: their width in units of the distance between two centres.
        sphere_size_lat: L, rows of a sphere's grid from pole to pole.
        sphere_size_long: O, columns of a sphere's grid around the axis.
        max_num_neighbors: k, of the edge selection and of the energy's normaliser k / 2 + 1.
        cutoff: largest distance of an edge, Angstrom.
        max_num_elements: atomic numbers must be below it.
        embedding_size: entries in a row of the element tables.
        scale_distances: learn a scale and an offset of distances for every pair of elements.
        distance_block_scalar_max: c; that scale stays between 1 / c and c.
        sphere_message: filter of the interactions, "fullconv".
        output_message: filter of the force head, "fullconv".
        force_estimator: "random" (direct) or "grad" (conservative).
        num_rand_rotations: rotations averaged in the force head in training.
        num_rand_rotations_eval: the same in evaluation, where they are fixed and the same for
            every atom; None: as in training.
        rotation_seed: of the rotations in evaluation.
        regress_forces: False: energies only.
        use_pbc: use periodic images.
        use_pbc_single: no effect; images are always those of each structure's own cell.
        otf_graph: make edges from positions; this is also done where no edges are stored.
        edge_selection: "published" or "mutual"; see `graph.select_edges`. With "mutual" the
            attribute `max_neighbors` is 0, no limit, for whoever stores the candidates.
        frame_rule: "published" or "neighbour"; see `frames.edge_frames`.
        position_gradient: let derivatives with respect to positions through a direct-force model.
        lmax: no effect.
        model_ref_number: no effect.
        readout: no effect; energies of atoms are added.
        show_timing_info: no effect.

    Raises:
        UserError: an option has no meaning, or the batch holds too large an atomic number.
    """

    def __init__(
        self,
        hidden_channels: int = 32,
        mid_hidden_channels: int = 200,
        num_interactions: int = 1,
        num_basis_functions: int = 200,
        basis_width_scalar: float = 1.0,
        sphere_size_lat: int = 15,
        sphere_size_long: int = 9,
        max_num_neighbors: int = 20,
        cutoff: float = 10.0,
        max_num_elements: int = 90,
        embedding_size: int = 32,
        scale_distances: bool = True,
        distance_block_scalar_max: float = 2.0,
        sphere_message: str = "fullconv",
        output_message: str = "fullconv",
        force_estimator: str = "random",
        num_rand_rotations: int = 5,
        num_rand_rotations_eval: int | None = None,
        rotation_seed: int = 0,
        regress_forces: bool = True,
        use_pbc: bool = True,
        use_pbc_single: bool = False,
        otf_graph: bool = False,
        edge_selection: str = "published",
        frame_rule: str = "published",
        position_gradient: bool = False,
        lmax: Any = False,
        model_ref_number: Any = 0,
        readout: Any = "add",
        show_timing_info: Any = False,
    ) -> None:
        super().__init__()
        check_options(locals())
        self.cutoff = cutoff
        self.max_num_neighbors = max_num_neighbors
        self.max_neighbors = max_num_neighbors if edge_selection == "published" else 0
        self.max_num_elements = max_num_elements
        self.grid_shape = (sphere_size_lat, sphere_size_long)
        self.force_estimator = force_estimator
        self.num_rand_rotations = num_rand_rotations
        self.num_rand_rotations_eval = num_rand_rotations_eval or num_rand_rotations
        self.rotation_seed = rotation_seed
        self.regress_forces = regress_forces
        self.use_pbc = use_pbc
        self.use_pbc_single = use_pbc_single
        self.otf_graph = otf_graph
        self.edge_selection = edge_selection
        self.frame_rule = frame_rule
        self.position_gradient = position_gradient
        self.lab_component = frames.LAB_COMPONENT

        width, tables = mid_hidden_channels, (max_num_elements, embedding_size)
        block = (hidden_channels, width, self.grid_shape, *tables)
        self.distance_layer = DistanceLayer(
            GaussianBasis(num_basis_functions, cutoff, basis_width_scalar),
            width,
            max_num_elements,
            distance_block_scalar_max if scale_distances else None,
        )
        self.message_dense = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.message_mixture = PairMixture(width, width, hidden_channels, *tables)
        self.interactions = nn.ModuleList(Interaction(*block) for _ in range(num_interactions))
        self.energy_mixture = PairMixture(hidden_channels, width, 1, *tables)
        self.force_head = ForceHead(*block) if self.direct_forces else None

    @property
    def direct_forces(self) -> bool:
        """Whether forces come from the force head."""
        return self.regress_forces and self.force_estimator == "random"

    def forward(self, data: Any) -> dict[str, Tensor]:
        """Return the energy (B,) and, if wanted, the forces (N, 3) of a batch, in its label unit.

        The batch is not changed. With the estimator "grad" the results are detached in evaluation.
        """
        with recordable(data) as batch:
            return self._forward(batch)

    def _forward(self, data: Any) -> dict[str, Tensor]:
        structures = data.natoms.numel()
        rotations = self.rotations(data, structures) if self.direct_forces else None
        # Bound here, so that derivatives reach the positions only if somebody can ask for them.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._differentiable):
            edge_index, vectors = self.edges(data)
        return self.evaluate(
            data.atomic_numbers.long(), data.batch, edge_index, vectors, rotations, structures
        )

    def evaluate(
        self,
        atomic_numbers: Int[Tensor, " atoms"],
        structure_index: Int[Tensor, " atoms"],
        edge_index: Int[Tensor, "2 edges"],
        edge_vectors: Float[Tensor, "edges 3"],
        rotations: Float[Tensor, "atoms repetitions 3 3"] | None = None,
        structures: int | None = None,
    ) -> dict[str, Tensor]:
        """Return energies and forces for given edges and given random frames.

        E = sum over atoms n of Mix(X_n), X_n = sum over edges e with target n of x_e / (k / 2 + 1).
        F = mean over rotations Q of Q^T (f_1, f_2, f_3), or -dE/dr.

        Args:
            atomic_numbers: Z.
            structure_index: structure of each atom, ascending.
            edge_index: source and target of every edge.
            edge_vectors: from target to source, Angstrom, none of them zero.
            rotations: Q of every atom and repetition; not used by the estimator "grad".
            structures: B; None: up to the last structure with an atom.
        """
        self._check_elements(atomic_numbers)
        if structures is None:
            structures = int(structure_index.max()) + 1 if structure_index.numel() else 0
        atoms = (atomic_numbers, structure_index, structures)
        if self.regress_forces and self.force_estimator == "grad":
            return self._conservative(atoms, edge_index, edge_vectors)
        geometry = self._geometry(len(atomic_numbers), edge_index, edge_vectors, rotations)
        x, energy = self._messages_and_energy(atoms, edge_index, geometry)
        if not self.direct_forces:
            return {"energy": energy}
        forces = self._direct(atomic_numbers, edge_index, geometry, x, rotations)
        return {"energy": energy, "forces": forces}

    def edges(self, data: Any) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
        """Return the edges of a batch and their vectors from target to source, in Angstrom.

        Displaced copies (see `ocp.copies`) have the edges of the clean structure.

        Raises:
            UserError: if stored edges reach periodic images and `use_pbc` is False.
        """
        positions = data.pos.to(torch.promote_types(data.pos.dtype, torch.float32))
        with torch.no_grad():
            index, shift = self._graph(data)
        cells = data.cell.reshape(-1, 3, 3)[data.batch] if self.use_pbc else None
        vectors = graph.edge_vectors(positions, index, shift, cells)
        apart = vectors.detach().norm(dim=1) >= SAME_POINT_ANGSTROM
        return index[:, apart], vectors[apart]

    def _graph(self, data: Any) -> tuple[Int[Tensor, "2 edges"], Int[Tensor, "edges 3"]]:
        """Return the edges that the clean positions choose, ranked in double precision."""
        positions = getattr(data, CLEAN_POSITIONS, data.pos).double()
        cells = data.cell.reshape(-1, 3, 3) if self.use_pbc else None
        stored = not self.otf_graph and "edge_index" in data
        if stored:
            check_images(data, self.use_pbc)
            index = data.edge_index
            shift = data.cell_offsets.long() if self.use_pbc else index.new_zeros(len(index.T), 3)
            each = None if cells is None else cells[data.batch]
            vectors = graph.edge_vectors(positions, index, shift, each)
            candidates = graph.Edges(index, shift, vectors)
        else:
            periodic = data.pbc.reshape(-1, 3) if self.use_pbc and "pbc" in data else None
            candidates = graph.all_edges(positions, data.natoms, cells, periodic, self.cutoff)
        chosen = graph.select_edges(
            candidates, len(positions), self.max_num_neighbors, self.edge_selection, not stored
        )
        return chosen.index, chosen.shift

    def rotations(self, data: Any, structures: int) -> Float[Tensor, "atoms repetitions 3 3"]:
        """Return the rotations of every atom: drawn in training, fixed in evaluation."""
        dtype = torch.promote_types(data.pos.dtype, torch.float32)
        if self.training:
            keys = noise.structure_keys(data, structures, training=True)
            numbers = torch.arange(self.num_rand_rotations, device=data.pos.device)
            atoms = noise.atom_keys(keys, data.batch)
            return frames.random_rotations(noise.combine(atoms[:, None], numbers), dtype)
        numbers = torch.arange(self.num_rand_rotations_eval, device=data.pos.device)
        fixed = frames.random_rotations(noise.combine(numbers, self.rotation_seed), dtype)
        return fixed.expand(len(data.pos), *fixed.shape)

    @property
    def _differentiable(self) -> bool:
        """Whether results may depend on positions as far as derivatives are concerned."""
        return self.position_gradient or self.force_estimator == "grad"

    def _conservative(
        self, atoms: tuple[Tensor, Tensor, int], edge_index: Tensor, edge_vectors: Tensor
    ) -> dict[str, Tensor]:
        """Return energies and exact forces F_n = sum_{t=n} dE/dv_e - sum_{s=n} dE/dv_e."""
        attached = torch.is_grad_enabled() and self.training
        with torch.enable_grad():
            if not edge_vectors.requires_grad:
                edge_vectors = edge_vectors.detach().requires_grad_()
            geometry = self._geometry(len(atoms[0]), edge_index, edge_vectors, None)
            _, energy = self._messages_and_energy(atoms, edge_index, geometry)
            (slope,) = torch.autograd.grad(
                energy.sum(), edge_vectors, create_graph=attached, materialize_grads=True
            )
            source, target = edge_index
            forces = slope.new_zeros(len(atoms[0]), 3)
            forces = forces.index_add(0, target, slope).index_add(0, source, -slope)
        results = {"energy": energy, "forces": forces}
        return results if attached else {key: value.detach() for key, value in results.items()}

    def _geometry(
        self, atoms: int, edge_index: Tensor, vectors: Tensor, rotations: Tensor | None
    ) -> Geometry:
        """Return distances and projections, in single precision at least."""
        source, target = edge_index
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        differentiable = torch.is_grad_enabled() and self._differentiable
        with (
            torch.set_grad_enabled(differentiable),
            torch.autocast(vectors.device.type, enabled=False),
        ):
            distances = frames.guarded_norm(vectors)
            directions = vectors / distances[:, None]
            around = frames.surroundings(vectors, distances, target, atoms, self.cutoff)
            edge_frames = frames.edge_frames(
                directions, distances, target, around, self.frame_rule, self.lab_component
            )
            where = (directions, target, atoms, self.grid_shape)
            neighbours = sphere.project(edge_frames, source, *where)
            if rotations is None:
                return Geometry(distances, neighbours, None)
            polar = frames.polar_frames(rotations.to(vectors.dtype)).flatten(0, 2)
            centre = torch.arange(atoms, device=target.device)
            centre = centre.repeat_interleave(3 * rotations.shape[1])
            return Geometry(distances, neighbours, sphere.project(polar, centre, *where))

    def _messages_and_energy(
        self, atoms: tuple[Tensor, Tensor, int], edge_index: Tensor, geometry: Geometry
    ) -> tuple[Float[Tensor, "edges channels"], Float[Tensor, " structures"]]:
        atomic_numbers, structure_index, structures = atoms
        source, target = edge_index
        pairs = self._pairs(atomic_numbers[source], atomic_numbers[target])
        x_dist = self.distance_layer(geometry.distances, pairs)
        x = x_dist
        for dense in self.message_dense:
            x = silu(dense(x))
        x = self.message_mixture(x, pairs)
        for number, interaction in enumerate(self.interactions):
            update = interaction(geometry.neighbours, x, x_dist, pairs)
            x = update if number == 0 else x + update

        messages = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = messages.new_zeros(len(atomic_numbers), x.shape[1]).index_add(0, target, messages)
        sums = (sums / (self.max_num_neighbors / 2 + 1)).to(x.dtype)
        own = self._pairs(atomic_numbers, atomic_numbers)
        atom_energies = self.energy_mixture(sums, own).squeeze(1).to(messages.dtype)
        energy = atom_energies.new_zeros(structures).index_add(0, structure_index, atom_energies)
        return x, energy

    def _direct(
        self,
        atomic_numbers: Tensor,
        edge_index: Tensor,
        geometry: Geometry,
        x: Tensor,
        rotations: Tensor,
    ) -> Float[Tensor, "atoms 3"]:
        """Return the mean over rotations of Q^T f, and zero where an atom has no edge."""
        atoms, repetitions = rotations.shape[:2]
        elements = self._pairs(atomic_numbers, atomic_numbers)
        which = elements.which.repeat_interleave(3 * repetitions)
        along = self.force_head(geometry.surroundings, x, elements._replace(which=which))
        along = along.to(torch.promote_types(along.dtype, torch.float32))
        along = along.view(atoms, repetitions, 3, 1)
        forces = (rotations.to(along.dtype) * along).sum(dim=2).mean(dim=1)
        connected = torch.bincount(edge_index[1], minlength=atoms) > 0
        return torch.where(connected[:, None], forces, 0.0)

    def _pairs(self, first: Tensor, second: Tensor) -> ElementPairs:
        return element_pairs(first, second, self.max_num_elements)

    def _check_elements(self, atomic_numbers: Tensor) -> None:
        outside = atomic_numbers[(atomic_numbers < 0) | (atomic_numbers >= self.max_num_elements)]
        if outside.numel():
            raise UserError(
                f"SpinConv: found atomic number {int(outside[0])}, expected 0 to "
                f"{self.max_num_elements - 1}: set model.max_num_elements above it"
            )
