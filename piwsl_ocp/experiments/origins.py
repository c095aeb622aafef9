"""Where runs come from that are compared: whether their code and data are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Between the versions of a training that was resumed under another one.
THEN = ", then "


@dataclass(frozen=True)
class Origin:
    """Code and data of one run.

    Attributes:
        commit: of the code; digits after a `+` stand for changes that were not committed.
        data: name of the data set.
        train_data: checksum of the training split.
        test_data: checksum of the split it was evaluated on.
        versions: of the package and its libraries.
    """

    commit: str
    data: str
    train_data: str
    test_data: str
    versions: Mapping[str, str] = field(default_factory=dict)


def versions_of(status: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions of the code that a training was done with, its `commit` among them.

    Args:
        status: what `run.json` says; where the training was resumed under other code, the versions
            are joined in their order, as in "2.6, then 2.7".
    """
    codes = [*(part["code"] for part in status.get("earlier", ())), status.get("code", {})]
    names = dict.fromkeys(name for code in codes for name in code)
    found = {name: [str(code.get(name, "unknown")) for code in codes] for name in names}
    return {name: THEN.join(dict.fromkeys(versions)) for name, versions in found.items()}


def short_commit(commit: str) -> str:
    """Return the first digits of commits, and those of changes that were not committed."""
    parts = (one.partition("+") for one in commit.split(THEN))
    return THEN.join(digits[:9] + plus + changes[:4] for digits, plus, changes in parts)


def origin_warnings(origins: Iterable[Origin]) -> Iterator[str]:
    """Say in what the origins of runs differ that should be the same.

    Args:
        origins: one for each run.
    """
    origins = list(origins)
    yield from _differing("the code", (short_commit(origin.commit) for origin in origins))
    for name in {name: None for origin in origins for name in origin.versions}:
        yield from _differing(name, (origin.versions.get(name, "unknown") for origin in origins))
    changed = sum("+" in origin.commit for origin in origins)
    if changed:
        yield f"{changed} runs come from code with changes that were not committed"
    data: dict[str, set[str]] = {}
    for origin in origins:
        checksums = f"{origin.train_data[:8]}/{origin.test_data[:8]}"
        data.setdefault(origin.data, set()).add(checksums)
    for name, checksums in data.items():
        if len(checksums) > 1:
            yield f"the runs on {name} saw different data: {', '.join(sorted(checksums))}"


def _differing(what: str, versions: Iterable[str]) -> Iterator[str]:
    counts = Counter(versions)
    if len(counts) > 1:
        counted = ", ".join(f"{version} ({count} runs)" for version, count in counts.items())
        yield f"the runs come from different versions of {what}: {counted}"
