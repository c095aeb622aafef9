"""Splits: disjoint, seeded, nested, shrunk with a word, refused where they do not fit."""

from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from piwsl_ocp.datasets.splits import Candidates, SplitRequest, choose
from piwsl_ocp.errors import UserError


def candidates(count: int) -> Candidates:
    return Candidates(np.arange(count, dtype=np.int32) * 3)


def published(train: int, test: int) -> Candidates:
    records = np.arange(train + test)
    return Candidates(records, {"train": records[:train], "test": records[train:]})


@given(
    count=st.integers(3, 400),
    train=st.integers(1, 200),
    validation=st.one_of(st.none(), st.integers(1, 300)),
    test=st.one_of(st.none(), st.integers(1, 300)),
    keep=st.booleans(),
)
def test_splits_are_disjoint_and_no_larger_than_asked(count, train, validation, test, keep):
    request = SplitRequest(train, validation, test, keep_validation=keep)
    if train + 2 > count:
        with pytest.raises(UserError, match="larger than the data"):
            choose(candidates(count), request)
        return
    split = choose(candidates(count), request)
    drawn = np.concatenate([split.train, split.val, split.test])
    assert len(np.unique(drawn)) == len(drawn)
    assert set(drawn) <= set(candidates(count).records)
    assert len(split.train) == train
    assert 1 <= len(split.val) <= (validation or max(train, 100))
    assert 1 <= len(split.test) <= (test or count)


def test_test_set_is_the_same_and_training_is_nested_for_all_sizes():
    splits = [choose(candidates(2000), SplitRequest(n, None, 500)) for n in (50, 200, 700)]
    for smaller, larger in itertools.pairwise(splits):
        np.testing.assert_array_equal(smaller.test, larger.test)
        np.testing.assert_array_equal(smaller.train, larger.train[: len(smaller.train)])
        np.testing.assert_array_equal(smaller.val, larger.val[: len(smaller.val)])
    assert [len(split.val) for split in splits] == [100, 200, 700]
    assert not any(split.messages for split in splits)


def test_seed_alone_decides():
    request = SplitRequest(50, None, 100, seed=4)
    first, again = (choose(candidates(400), request) for _ in range(2))
    other = choose(candidates(400), SplitRequest(50, None, 100, seed=5))
    np.testing.assert_array_equal(first.test, again.test)
    np.testing.assert_array_equal(first.train, again.train)
    assert set(first.test) != set(other.test)


def test_random_split_mixes_an_ordered_source():
    split = choose(Candidates(np.arange(10_000)), SplitRequest(1000, None, 1000))
    # The mean of 1000 draws without replacement from 0..9999 has a deviation of 87.
    assert abs(split.train.mean() - 4999.5) < 5 * 87
    assert abs(split.test.mean() - 4999.5) < 5 * 87


def test_test_set_shrinks_first_with_a_message():
    split = choose(candidates(1000), SplitRequest(100, None, 10_000))
    assert (len(split.train), len(split.val), len(split.test)) == (100, 100, 800)
    (message,) = split.messages
    assert "from 10000 to 800" in message
    assert "--n-test" in message


def test_wanted_validation_is_kept_and_default_validation_leaves_half():
    kept = choose(candidates(1000), SplitRequest(100, 800, None, keep_validation=True))
    shared = choose(candidates(1000), SplitRequest(100, 9000, None))
    assert (len(kept.val), len(kept.test)) == (800, 100)
    assert (len(shared.val), len(shared.test)) == (450, 450)
    assert "validation set shrunk from 9000 to 450" in shared.messages[0]


def test_published_pools_never_mix():
    split = choose(published(300, 200), SplitRequest(100, 9000, 10_000, scheme="published"))
    assert max(split.train.max(), split.val.max()) < 300
    assert set(split.test) == set(range(300, 500))
    assert len(split.val) == 200
    assert not set(split.train) & set(split.val)
    larger = choose(published(300, 200), SplitRequest(150, 100, 50, scheme="published"))
    np.testing.assert_array_equal(split.train, larger.train[:100])
    assert len(larger.test) == 50


def test_published_split_needs_both_files():
    one = Candidates(np.arange(10), {"train": np.arange(10)})
    with pytest.raises(UserError, match=r"published test set.*--split paper"):
        choose(one, SplitRequest(5, scheme="published"))
    with pytest.raises(UserError, match="larger than the data"):
        choose(published(100, 10), SplitRequest(100, scheme="published"))


@pytest.mark.parametrize(
    "sizes", [{"train": 0}, {"train": 5, "validation": -1}, {"train": 5, "test": 0}]
)
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(UserError, match="at least one structure"):
        SplitRequest(**sizes)


def test_unknown_scheme_and_seed_are_refused():
    with pytest.raises(UserError, match="random, paper, published"):
        SplitRequest(5, scheme="rondom")
    with pytest.raises(UserError, match="0 or larger"):
        SplitRequest(5, seed=-1)
