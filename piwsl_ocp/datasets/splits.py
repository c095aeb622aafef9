"""Which structure goes to training, validation or test: the paper's nested random splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from piwsl_ocp.errors import UserError

SPLITS = ("train", "val", "test")

#: Smallest validation set by default (arXiv 2408.05215, B.1: val = max(n_train, 100)).
SMALLEST_VALIDATION = 100


@dataclass(frozen=True)
class SplitRequest:
    """The wanted split.

    Args:
        train: structures for training.
        validation: for validation; None: max(train, 100).
        test: for the test; None: all the rest.
        seed: of the one permutation that all three are taken from.
        scheme: a key of `SCHEMES`.
        keep_validation: where structures are few, a validation set that was asked for is kept at
            the expense of the test set; a default one shrinks to half of what training leaves.
    """

    train: int
    validation: int | None = None
    test: int | None = None
    seed: int = 0
    scheme: str = "random"
    keep_validation: bool = False

    def __post_init__(self) -> None:
        sizes = {"n-train": self.train, "n-val": self.validation, "n-test": self.test}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise UserError(f"--{name} {size}: every split needs at least one structure")
        if self.scheme not in SCHEMES:
            raise UserError(f"unknown split '{self.scheme}': use one of {', '.join(SCHEMES)}")
        if self.seed < 0:
            raise UserError(f"--split-seed {self.seed}: a seed is 0 or larger")


@dataclass(frozen=True)
class Split:
    """Record numbers of each split in the order drawn, and what had to be changed, in words."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    messages: tuple[str, ...] = field(default=())

    def records(self, name: str) -> np.ndarray:
        """Return the record numbers of the split called `name`."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]


@dataclass(frozen=True)
class Candidates:
    """Record numbers that can be chosen from.

    Args:
        records: (n,) all that were kept, ascending.
        pools: published pool, "train" or "test", to record numbers; empty where none is told.
    """

    records: np.ndarray
    pools: dict[str, np.ndarray] = field(default_factory=dict)


def choose(candidates: Candidates, request: SplitRequest) -> Split:
    """Return the splits.

    Raises:
        UserError: if the training set and one structure for each other split do not fit.
    """
    return SCHEMES[request.scheme](candidates, request)


def random_split(candidates: Candidates, request: SplitRequest) -> Split:
    """Return disjoint splits of one seeded permutation of all records.

    Test: its beginning; validation: what follows; training: its end, read backwards. So the test
    set does not depend on the other sizes, and validation and training sets of growing size
    are nested. Where the records are too few, the test set shrinks first, then validation.

    Raises:
        UserError: if the training set and one structure for each other split do not fit.
    """
    available = len(candidates.records)
    _require(request.train + 2, available, "training, validation and test")
    rest = available - request.train
    validation = _validation_size(request, rest, rest - 1)
    test = rest - validation
    if request.test is not None:
        test = min(test, request.test)
    drawn = _permuted(candidates.records, request.seed)
    messages = (
        *_shrunk("validation", _wanted_validation(request), validation, available),
        *_shrunk("test", request.test, test, available, " (keep it the same over several training"
                 " sizes by a smaller --n-test)"),
    )  # fmt: skip
    return Split(
        train=drawn[::-1][: request.train],
        val=drawn[test : test + validation],
        test=drawn[:test],
        messages=messages,
    )


def published_split(candidates: Candidates, request: SplitRequest) -> Split:
    """Return training and validation from the published training pool, test from the other.

    Each pool is permuted by the seed. Validation takes the beginning of the first, training its
    end, read backwards; test takes the beginning of the second.

    Raises:
        UserError: if one of the two pools is missing or too small.
    """
    missing = [pool for pool in ("train", "test") if len(candidates.pools.get(pool, ())) == 0]
    if missing:
        raise UserError(
            f"no file of the published {' and '.join(missing)} set: give both files, with 'train' "
            "and 'test' in their names, or choose random splits of any file with --split paper"
        )
    first, second = candidates.pools["train"], candidates.pools["test"]
    _require(request.train + 1, len(first), "training and validation")
    rest = len(first) - request.train
    validation = min(rest, request.validation or _wanted_validation(request))
    test = min(len(second), request.test or len(second))
    drawn = _permuted(first, request.seed)
    return Split(
        train=drawn[::-1][: request.train],
        val=drawn[:validation],
        test=_permuted(second, request.seed)[:test],
        messages=(
            *_shrunk("validation", _wanted_validation(request), validation, len(first)),
            *_shrunk("test", request.test, test, len(second)),
        ),
    )


#: "paper" and "random" are the same rule; the first is its name for data with published splits.
SCHEMES: dict[str, Callable[[Candidates, SplitRequest], Split]] = {
    "random": random_split,
    "paper": random_split,
    "published": published_split,
}


def _permuted(records: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(records)


def _wanted_validation(request: SplitRequest) -> int:
    return request.validation or max(request.train, SMALLEST_VALIDATION)


def _validation_size(request: SplitRequest, rest: int, largest: int) -> int:
    beside_the_test = 0 if request.test is None else rest - request.test
    limit = largest if request.keep_validation else max(rest // 2, beside_the_test, 1)
    return min(_wanted_validation(request), limit)


def _require(needed: int, available: int, purpose: str) -> None:
    if needed > available:
        raise UserError(
            f"the splits are larger than the data: {available} structures are there, {purpose} "
            f"need at least {needed}: choose a smaller --n-train"
        )


def _shrunk(
    name: str, wanted: int | None, given: int, available: int, remedy: str = ""
) -> tuple[str, ...]:
    if wanted is None or given >= wanted:
        return ()
    there = f"{available} structures are there"
    return (f"{name} set shrunk from {wanted} to {given}: {there}{remedy}",)
