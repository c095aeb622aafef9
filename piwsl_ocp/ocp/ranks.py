"""Data-parallel processes that a scheduler has started, one for each of its tasks."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from torch.distributed import TCPStore

#: How long the processes wait for each other before the training.
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Ranks:
    """This process among the data-parallel ones; they meet at MASTER_ADDR and MASTER_PORT + 1.

    Attributes:
        rank: number of this process.
        count: number of processes.
    """

    rank: int
    count: int

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read RANK and WORLD_SIZE as torch's launchers and submitit set them."""
        return cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))

    def send(self, value: Any) -> None:
        """Give the first process's value to all others, and return when they have it."""
        store = self._store()
        store.set("value", pickle.dumps(value))
        store.wait([f"received by {rank}" for rank in range(1, self.count)], _TIMEOUT)

    def receive(self) -> Any:
        """Return what the first process sends."""
        store = self._store()
        value = pickle.loads(store.get("value"))
        store.set(f"received by {self.rank}", "")
        return value

    def _store(self) -> TCPStore:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
        return TCPStore(address, port, self.count, self.rank == 0, timeout=_TIMEOUT)
