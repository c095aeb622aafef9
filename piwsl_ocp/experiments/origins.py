"""Where runs come from that are compared: whether their code and data are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """Code and data of one run.

    Attributes:
        commit: of the code; with `+changes` where that had been changed.
        data: name of the data set.
        train_data: checksum of the training split.
        test_data: checksum of the split it was evaluated on.
    """

    commit: str
    data: str
    train_data: str
    test_data: str


def short_commit(commit: str) -> str:
    """Return the first digits of a commit, with a mark where the code had been changed."""
    digits, plus, _ = commit.partition("+")
    return digits[:9] + plus


def origin_warnings(origins: Iterable[Origin]) -> Iterator[str]:
    """Say in what the origins of runs differ that should be the same.

    Args:
        origins: one for each run.
    """
    origins = list(origins)
    commits = Counter(short_commit(origin.commit) for origin in origins)
    if len(commits) > 1:
        counted = ", ".join(f"{commit} ({count} runs)" for commit, count in commits.items())
        yield f"the runs come from different versions of the code: {counted}"
    data: dict[str, set[str]] = {}
    for origin in origins:
        checksums = f"{origin.train_data[:8]}/{origin.test_data[:8]}"
        data.setdefault(origin.data, set()).add(checksums)
    for name, checksums in data.items():
        if len(checksums) > 1:
            yield f"the runs on {name} saw different data: {', '.join(sorted(checksums))}"
