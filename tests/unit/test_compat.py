"""The stand-ins give what the compiled packages give, and leave these alone where they work."""

from __future__ import annotations

import piwsl_ocp.compat
from piwsl_ocp.compat import radius, scatter

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
NEUTRAL = {"sum": 0.0, "mean": 0.0, "mul": 1.0, "min": 0.0, "max": 0.0}
REDUCE = {
    "sum": lambda values: values.sum(0),
    "mean": lambda values: values.mean(0),
    "mul": lambda values: values.prod(0),
    "min": lambda values: values.amin(0),
    "max": lambda values: values.amax(0),
}


def by_hand(src: torch.Tensor, index: torch.Tensor, groups: int, reduce: str) -> torch.Tensor:
    """Reduce dimension 0 with a loop over the groups."""
    rows = []
    for group in range(groups):
        members = src[index == group]
        empty = src.new_full(src.shape[1:], NEUTRAL[reduce])
        rows.append(REDUCE[reduce](members) if len(members) else empty)
    return torch.stack(rows)


def random_values(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_groups(seed: int, count: int, groups: int) -> torch.Tensor:
    return torch.randint(groups, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reduce", sorted(REDUCE))
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 12),
    groups=st.integers(1, 6),
    columns=st.integers(1, 3),
)
def test_scatter_is_the_loop_over_groups(assert_close, reduce, seed, count, groups, columns):
    src, index = random_values(seed, count, columns), random_groups(seed, count, groups)
    expected = by_hand(src, index, groups, reduce)
    assert_close(scatter.scatter(src, index, 0, dim_size=groups, reduce=reduce), expected)
    transposed = scatter.scatter(src.T, index, dim=-1, dim_size=groups, reduce=reduce)
    assert_close(transposed, expected.T)


@pytest.mark.parametrize("reduce", sorted(REDUCE))
def test_segments_are_scatter_over_sorted_groups(assert_close, reduce):
    src = random_values(1, 7, 2, 3)
    index, boundaries = torch.tensor([0, 0, 1, 3, 3, 3, 4]), torch.tensor([0, 2, 3, 3, 6, 7, 7])
    expected = by_hand(src, index, 6, reduce)
    coo = scatter.segment_coo(src, index, dim_size=6, reduce=reduce)
    assert_close(coo, expected)
    assert_close(scatter.segment_csr(src, boundaries, reduce=reduce), expected)
    columns = scatter.segment_csr(src.transpose(0, 1), boundaries.expand(2, -1), reduce=reduce)
    assert_close(columns, expected.transpose(0, 1))


def test_gather_undoes_a_segment_of_equal_values(assert_close):
    rows = random_values(2, 3, 2)
    index, boundaries = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([0, 2, 2, 5])
    assert_close(scatter.gather_coo(rows, index), rows[index])
    assert_close(scatter.gather_csr(rows, boundaries), rows[index])


def test_whole_numbers_stay_whole_numbers():
    src, index = torch.tensor([3, 4, -3, 5]), torch.tensor([0, 0, 1, 3])
    results = {r: scatter.scatter(src, index, reduce=r) for r in REDUCE}
    assert {value.dtype for value in results.values()} == {torch.int64}
    assert results["sum"].tolist() == [7, -3, 0, 5]
    assert results["mean"].tolist() == [3, -3, 0, 5]
    assert results["min"].tolist() == [3, -3, 0, 5]


def test_extremes_say_where_they_were():
    src, index = torch.tensor([2.0, 1.0, 1.0, 5.0]), torch.tensor([0, 0, 0, 2])
    value, position = scatter.scatter_min(src, index)
    assert value.tolist() == [1.0, 0.0, 5.0]
    assert position.tolist() == [1, 4, 3], "the first of equals; the length where there is none"
    assert scatter.scatter_max(src, index)[1].tolist() == [0, 4, 3]


def test_results_are_added_to_a_given_tensor():
    src, index = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 0, 1])
    out = torch.tensor([10.0, -10.0, 7.0])
    assert scatter.scatter(src, index, out=out.clone()).tolist() == [13.0, -7.0, 7.0]
    assert scatter.scatter(src, index, out=out.clone(), reduce="max").tolist() == [10.0, 3.0, 7.0]
    assert scatter.scatter(src, index, out=out.clone(), reduce="min").tolist() == [1.0, -10.0, 7.0]
    kept = out.clone()
    assert scatter.scatter(src, index, out=kept, reduce="mul") is kept
    assert kept.tolist() == [20.0, -30.0, 7.0]


def test_nothing_scatters_to_nothing():
    empty = scatter.scatter(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 0, reduce="max")
    assert empty.shape == (0, 3)
    assert scatter.scatter(torch.zeros(0), torch.zeros(0, dtype=torch.long), dim_size=2).sum() == 0


@pytest.mark.parametrize("reduce", sorted(REDUCE))
def test_scatter_can_be_differentiated_twice(reduce):
    index = torch.tensor([0, 2, 0, 2, 2])
    src = random_values(3, 5, 2).requires_grad_()

    def reduced(values: torch.Tensor) -> torch.Tensor:
        return scatter.scatter(values, index, 0, dim_size=4, reduce=reduce)

    assert torch.autograd.gradcheck(reduced, (src,))
    assert torch.autograd.gradgradcheck(reduced, (src,))


def test_ties_send_the_gradient_to_one_element():
    src = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    scatter.scatter(src, torch.zeros(3, dtype=torch.long), reduce="max").sum().backward()
    assert src.grad.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("reduce", sorted(REDUCE))
def test_scripted_callers_get_the_same(assert_close, reduce):
    class Caller(torch.nn.Module):
        def __init__(self, reduce: str) -> None:
            super().__init__()
            self.reduce = reduce

        def forward(self, src: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
            return scatter.scatter(src, index, 0, None, None, self.reduce)

    src, index = random_values(4, 6, 2), torch.tensor([0, 1, 1, 0, 3, 3])
    plain = scatter.scatter(src, index, 0, reduce=reduce)
    assert_close(torch.jit.script(Caller(reduce))(src, index), plain)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="'median': use sum"):
        scatter.scatter(torch.ones(2), torch.zeros(2, dtype=torch.long), reduce="median")


def edges_by_hand(points: torch.Tensor, batch: torch.Tensor, cutoff: float, limit: int) -> list:
    """Edges (neighbour, centre) in the order of centre and distance, with plain loops."""
    edges = []
    for centre in range(len(points)):
        near = []
        for other in range(len(points)):
            distance = float(torch.linalg.vector_norm(points[other] - points[centre]))
            if other != centre and batch[other] == batch[centre] and distance <= cutoff:
                near.append((distance, other))
        edges += [(other, centre) for _, other in sorted(near)[:limit]]
    return edges


@given(seed=st.integers(0, 10**6), sizes=st.lists(st.integers(0, 7), min_size=1, max_size=4))
def test_the_nearest_neighbours_in_range_are_kept(seed, sizes):
    points = random_values(seed, sum(sizes), 3)
    batch = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    edges = radius.radius_graph(points, 1.5, batch, max_num_neighbors=3)
    assert [tuple(edge) for edge in edges.T.tolist()] == edges_by_hand(points, batch, 1.5, 3)


def test_the_graph_does_not_depend_on_the_order_of_the_atoms():
    points = random_values(5, 20, 3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(6))
    edges = radius.radius_graph(points, 9.0, max_num_neighbors=5)
    permuted = order[radius.radius_graph(points[order], 9.0, max_num_neighbors=5)]
    assert len(edges.T) == 100
    assert set(map(tuple, edges.T.tolist())) == set(map(tuple, permuted.T.tolist()))


def test_pieces_give_the_whole(monkeypatch):
    points, batch = random_values(7, 30, 3), torch.arange(30) // 10
    whole = radius.radius_graph(points, 2.0, batch)
    monkeypatch.setattr(radius, "MAX_PAIRS", 25)
    assert torch.equal(radius.radius_graph(points, 2.0, batch), whole)


def test_loops_flow_and_two_sets_of_points():
    points = torch.tensor([[0.0], [1.0], [5.0]])
    looped = radius.radius_graph(points, 1.5, loop=True, max_num_neighbors=None)
    assert looped.tolist() == [[0, 1, 1, 0, 2], [0, 0, 1, 1, 2]]
    backward = radius.radius_graph(points, 1.5, flow="target_to_source")
    assert backward.tolist() == [[0, 1], [1, 0]]
    found = radius.radius(points, torch.tensor([[4.0], [0.9]]), 1.0)
    assert found.tolist() == [[0, 1, 1], [2, 1, 0]]


def test_torch_geometric_finds_the_stand_in():
    from torch_geometric.nn import radius as pyg_radius
    from torch_geometric.nn import radius_graph as pyg_radius_graph

    name = next(n for n in ("pyg_lib", "torch_cluster") if n in piwsl_ocp.compat.stand_ins())
    if piwsl_ocp.compat.stand_ins()[name].startswith("real"):
        pytest.skip(f"the real {name} is installed and wins")
    points, batch = random_values(8, 24, 3), torch.arange(24) // 8
    ours = radius.radius_graph(points, 2.0, batch, max_num_neighbors=4)
    assert torch.equal(pyg_radius_graph(points, 2.0, batch, max_num_neighbors=4), ours)
    between = pyg_radius(points, points[:8], 2.0, batch, batch[:8], max_num_neighbors=4)
    assert torch.equal(between, radius.radius(points, points[:8], 2.0, batch, batch[:8], 4))
    reverse = pyg_radius(points[:8], points, 2.0, batch[:8], batch)
    assert set(reverse[0].tolist()) == set(range(8))


def test_spherical_harmonics_take_order_then_degree_azimuth_then_polar():
    azimuth, polar = np.array([0.3, 2.0]), np.array([1.1, 0.4])
    first = -0.5 * np.sqrt(1.5 / np.pi) * np.sin(polar) * np.exp(1j * azimuth)
    if not hasattr(scipy.special, "sph_harm_y"):
        pytest.skip("this scipy still has its own sph_harm and no sph_harm_y")
    np.testing.assert_allclose(piwsl_ocp.compat._sph_harm(1, 1, azimuth, polar), first, rtol=1e-12)


def test_what_a_stand_in_lacks_is_said_when_it_is_used():
    with pytest.raises(ImportError, match="install torch_sparse for this torch"):
        piwsl_ocp.compat.SparseTensor(row=torch.zeros(1), col=torch.zeros(1))
    with pytest.raises(ImportError, match="'knn' needs the real torch_cluster"):
        radius.knn(torch.zeros(1, 3), torch.zeros(1, 3), 1)


def run_fresh(code: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Run code in a new interpreter that looks for packages in `folder` first."""
    path = os.pathsep.join(str(p) for p in (folder, ROOT) if p is not None)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def make_package(folder: Path, name: str, body: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(body)


def test_the_package_loads_nothing_and_the_stand_ins_only_torch():
    done = run_fresh(
        "import sys, piwsl_ocp\n"
        "assert not {'torch', 'fairchem', 'ase'} & set(sys.modules)\n"
        "import piwsl_ocp.compat\n"
        "assert not {'fairchem', 'torch_geometric', 'ase'} & set(sys.modules)\n"
        "ours = {m for m in sys.modules if m.startswith('piwsl_ocp.')}\n"
        "print(sorted(ours))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "['piwsl_ocp.compat',", "'piwsl_ocp.compat.radius',", "'piwsl_ocp.compat.scatter']"
    ]  # fmt: skip


def test_an_installed_package_wins(tmp_path):
    make_package(tmp_path, "torch_scatter", "__version__ = '9.8'\nmark = 'installed'\n")
    done = run_fresh(
        "import piwsl_ocp.compat, torch_scatter\n"
        "print(piwsl_ocp.compat.stand_ins()['torch_scatter'], torch_scatter.mark)",
        tmp_path,
    )
    assert done.stdout.split() == ["real", "9.8", "installed"], done.stderr


def test_a_package_that_cannot_be_imported_is_replaced_with_a_warning(tmp_path):
    make_package(tmp_path, "torch_scatter", "raise OSError('undefined symbol: _ZN5torch')\n")
    done = run_fresh(
        "import piwsl_ocp.compat, torch\n"
        "from torch_scatter import scatter\n"
        "print(scatter(torch.ones(3), torch.tensor([0, 0, 1])).tolist())\n"
        "print(piwsl_ocp.compat.stand_ins()['torch_scatter'])",
        tmp_path,
    )
    assert done.stdout.splitlines() == [
        "[2.0, 1.0]",
        "stand-in (OSError: undefined symbol: _ZN5torch)",
    ], done.stderr
    assert "reinstall torch_scatter for torch" in done.stderr


def test_torch_geometric_may_be_loaded_first():
    done = run_fresh(
        "import torch_geometric.nn, piwsl_ocp.compat, torch\n"
        "from torch_geometric.nn import radius_graph\n"
        "print(radius_graph(torch.tensor([[0.0], [1.0]]), 2.0).tolist())"
    )
    assert done.stdout.strip() == "[[1, 0], [0, 1]]", done.stderr
