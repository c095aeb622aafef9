"""Draws that follow structures, atoms and edges."""

from __future__ import annotations

import math

import torch
from torch_geometric.data import Data

from piwsl_ocp.models import noise

STRUCTURES = torch.tensor([0, 0, 0, 1, 1])


def splitmix64(state: int) -> int:
    """The published generator with Python's whole numbers."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_first_output_of_splitmix64():
    keys = torch.tensor([0, 1, -5, 2**62])
    expected = [splitmix64(int(key) % 2**64) for key in keys]
    assert [int(value) % 2**64 for value in noise.combine(keys)] == expected
    assert expected[0] == 0xE220A8397B1DCDAF


def test_uniform_numbers_are_uniform_and_uncorrelated():
    draws = noise.uniform(torch.arange(20_000), 5, torch.float64)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 3e-3
    assert abs(draws.var() - 1 / 12) < 1e-3
    correlation = torch.corrcoef(draws.T) - torch.eye(5)
    assert correlation.abs().max() < 0.03
    neighbours = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1]
    assert abs(neighbours) < 0.03


def test_uniform_numbers_keep_their_digits_where_half_precision_is_asked_for():
    keys = torch.arange(1000)
    single = noise.uniform(keys, 3)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(noise.uniform(keys, 3, dtype), single)
    assert torch.equal(noise.uniform(keys, 3, torch.float64), single.double())


def test_normal_numbers_have_the_moments_of_a_gaussian():
    draws = noise.normal(torch.arange(30_000), 4, torch.float64)
    assert abs(draws.mean()) < 0.01
    assert abs(draws.var() - 1) < 0.02
    assert abs(draws.pow(4).mean() - 3) < 0.1
    assert math.isfinite(draws.abs().max())


def test_draws_do_not_depend_on_the_place_in_the_batch():
    keys = torch.tensor([11, 22])
    alone = noise.atom_keys(keys[1:], torch.zeros(2, dtype=torch.int64))
    assert torch.equal(noise.atom_keys(keys, STRUCTURES)[3:], alone)


def test_edges_are_told_apart_by_atoms_direction_and_image():
    keys = torch.tensor([7])
    index = torch.zeros(3, dtype=torch.int64)
    edges = torch.tensor([[0, 1, 0, 2, 0], [1, 0, 1, 1, 1]])
    offsets = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]])
    mixed = noise.edge_keys(keys, index, edges, offsets)
    assert mixed.unique().numel() == 5
    order = torch.tensor([4, 2, 0, 1, 3])
    again = noise.edge_keys(keys, index, edges[:, order], offsets[order])
    assert torch.equal(again, mixed[order])


def test_keys_are_fixed_in_evaluation_and_given_in_training():
    data = Data(pos=torch.zeros(5, 3), noise_key=torch.tensor([3, 4]))
    assert noise.structure_keys(data, 2, training=False).tolist() == [0, 0]
    assert noise.structure_keys(data, 2, training=True).tolist() == [3, 4]
    fresh = Data(pos=torch.zeros(5, 3))
    first = noise.structure_keys(fresh, 2, training=True)
    assert not torch.equal(first, noise.structure_keys(fresh, 2, training=True))
