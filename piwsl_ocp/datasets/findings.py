"""What a check of a data set finds: one line each, the many of a kind cut short."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

ERROR, WARNING, INFO = "error", "warning", "info"

#: Findings of one kind in one split that are listed one by one.
LISTED = 10


@dataclass(frozen=True)
class Finding:
    """One line.

    Args:
        level: "error", "warning" or "info".
        split: name of the split, or "all".
        record: record number in the split, or None where it is about the whole.
        text: what was found, what it means.
    """

    level: str
    split: str
    record: int | None
    text: str

    def __str__(self) -> str:
        where = self.split if self.record is None else f"{self.split} record {self.record}"
        return f"{self.level}: {where}: {self.text}"


class Findings:
    """Collects findings; of each kind the first few of a split are listed, the rest counted."""

    def __init__(self) -> None:
        self._listed: list[Finding] = []
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, kind: str, level: str, split: str, record: int | None, text: str) -> None:
        """Add a finding of a kind."""
        self._counts[kind, level, split] += 1
        if self._counts[kind, level, split] <= LISTED:
            self._listed.append(Finding(level, split, record, text))

    def all(self) -> list[Finding]:
        """Return the findings, errors first."""
        more = [
            Finding(level, split, None, f"{count - LISTED} more records: {kind}")
            for (kind, level, split), count in self._counts.items()
            if count > LISTED
        ]
        order = (ERROR, WARNING, INFO)
        return sorted([*self._listed, *more], key=lambda finding: order.index(finding.level))
