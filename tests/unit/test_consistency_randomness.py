"""Random streams: distinct for distinct keys, the same for the same key."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from piwsl_ocp.consistency.randomness import generators, step_generator

NUMBERS = st.integers(0, 2**31)


def first_number(generator: torch.Generator) -> float:
    """Return the first float64 number of a stream."""
    return torch.rand((), dtype=torch.float64, generator=generator).item()


@given(seed=NUMBERS, step=NUMBERS, record=NUMBERS, copy=st.integers(0, 3))
def test_a_stream_depends_on_its_key_alone(seed, step, record, copy) -> None:
    alone = first_number(generators(seed, step, [record], copy)[0])
    among_others = first_number(generators(seed, step, [1, record, 2], copy)[1])
    assert alone == among_others


def test_streams_of_neighbouring_keys_differ() -> None:
    keys = [(seed, step, copy) for seed in range(6) for step in range(6) for copy in range(2)]
    numbers = [first_number(g) for key in keys for g in generators(*key[:2], range(6), key[2])]
    assert len(set(numbers)) == len(numbers) == 432
    assert abs(sum(numbers) / len(numbers) - 0.5) < 4 * (1 / 12 / len(numbers)) ** 0.5


def test_the_order_of_the_key_counts() -> None:
    numbers = [
        first_number(generators(*key[:2], [key[2]], key[3])[0])
        for key in [(1, 2, 3, 0), (2, 1, 3, 0), (1, 3, 2, 0), (3, 2, 1, 0), (1, 2, 0, 3)]
    ]
    assert len(set(numbers)) == 5


def test_the_stream_of_a_step_is_not_that_of_a_record() -> None:
    assert first_number(step_generator(0, 0)) != first_number(generators(0, 0, [0], 0)[0])


def test_records_may_come_as_a_tensor() -> None:
    from_list = [first_number(g) for g in generators(0, 1, [5, 6], 0)]
    from_tensor = [first_number(g) for g in generators(0, 1, torch.tensor([5, 6]), 0)]
    assert from_list == from_tensor


def test_another_process_draws_the_same() -> None:
    script = (
        "import torch\n"
        "from piwsl_ocp.consistency.randomness import generators\n"
        "print(torch.rand((), dtype=torch.float64, generator=generators(1, 2, [3], 0)[0]).item())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert float(printed) == first_number(generators(1, 2, [3], 0)[0])
