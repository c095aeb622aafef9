"""LMDB files of fairchem's layout: one writer that grows, one reader that trusts nothing."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import lmdb

from piwsl_ocp.errors import UserError

LENGTH_KEY = b"length"
DATA_FILE = "data.lmdb"
METADATA_FILE = "metadata.npz"

FIRST_MAP_BYTES = 64 * 2**20
LARGEST_MAP_BYTES = 2**42
BATCH_BYTES = 2 * 2**20

#: The file is closed and opened again after this much: its pages then leave the process's memory.
REOPEN_BYTES = 4 * 2**20


class LmdbWriter:
    """Writes numbered records; the file is usable after a `with` block that ended well.

    Args:
        path: of the new file.
        largest_map_bytes: limit of its size; None: 4 TiB.
    """

    def __init__(self, path: Path, largest_map_bytes: int | None = None) -> None:
        self._path = path
        self._largest = largest_map_bytes or LARGEST_MAP_BYTES
        self._map_bytes = min(FIRST_MAP_BYTES, self._largest)
        self._waiting: list[tuple[bytes, bytes]] = []
        self._waiting_bytes = 0
        self._written_bytes = 0
        self._count = 0
        if path.exists():
            raise UserError(f"'{path}' exists: records are never added to a file that is there")
        self._environment = self._opened()

    def _opened(self) -> lmdb.Environment:
        try:
            return lmdb.open(
                str(self._path),
                subdir=False,
                map_size=self._map_bytes,
                lock=False,
                readahead=False,
                meminit=False,
                sync=False,
            )
        except lmdb.Error as error:
            raise _cannot_write(self._path, error) from error

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._put(LENGTH_KEY, self._count)
                self._flush()
                self._environment.sync(True)
        except lmdb.Error as error:
            raise _cannot_write(self._path, error) from error
        finally:
            self._environment.close()

    def write(self, number: int, record: Any) -> None:
        """Store a record under its number; numbers may come in any order."""
        self._put(str(number).encode("ascii"), record)
        self._count += 1
        if self._waiting_bytes > BATCH_BYTES:
            self._flush()

    def _put(self, key: bytes, record: Any) -> None:
        value = pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL)
        self._waiting.append((key, value))
        self._waiting_bytes += len(value)

    def _flush(self) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in self._waiting:
                        transaction.put(key, value)
                break
            except lmdb.MapFullError as error:
                if self._map_bytes >= self._largest:
                    raise _cannot_write(self._path, error) from error
                self._map_bytes = min(2 * self._map_bytes, self._largest)
                self._environment.set_mapsize(self._map_bytes)
            except lmdb.Error as error:
                raise _cannot_write(self._path, error) from error
        self._written_bytes += self._waiting_bytes
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._written_bytes > REOPEN_BYTES:
            self._written_bytes = 0
            self._environment.close()
            self._environment = self._opened()


class LmdbReader:
    """Reads the records of one file, as a sequence.

    Args:
        path: of the file, or of a folder with one `*.lmdb` in it.

    Raises:
        UserError: if there is no file, or it is no LMDB, or it is cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = _single_file(path)
        try:
            self._environment = lmdb.open(
                str(self.path), subdir=False, readonly=True, lock=False, max_readers=1
            )
        except lmdb.Error as error:
            raise UserError(
                f"'{self.path}' cannot be opened as LMDB ({error}): it is damaged, cut short or "
                "another format; convert it again"
            ) from error
        self._check_size()
        self._transaction = self._environment.begin()
        stored = self._transaction.get(LENGTH_KEY)
        self.has_length = stored is not None
        #: Number of entries besides `length`.
        self.entries = self._environment.stat()["entries"] - self.has_length
        #: Number of records the file says it has; without a say, its number of entries.
        self.length = int(pickle.loads(stored)) if stored else self.entries

    def __len__(self) -> int:
        return self.length

    def __enter__(self) -> LmdbReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(self.length))

    def __getitem__(self, number: int) -> Any:
        """Return the record of this number.

        Raises:
            UserError: if it is missing or cannot be unpickled.
        """
        if not 0 <= number < self.length:
            raise IndexError(number)
        stored = self._transaction.get(str(number).encode("ascii"))
        if stored is None:
            raise UserError(f"record {number} of '{self.path}' is missing: convert it again")
        try:
            return pickle.loads(stored)
        except Exception as error:
            raise UserError(
                f"record {number} of '{self.path}' cannot be read "
                f"({type(error).__name__}: {error}): convert it again"
            ) from error

    def close(self) -> None:
        """Close the file."""
        self._transaction.abort()
        self._environment.close()

    def _check_size(self) -> None:
        """A page beyond the end of the file would end the process, not raise an error."""
        pages = self._environment.info()["last_pgno"] + 1
        expected = pages * self._environment.stat()["psize"]
        found = self.path.stat().st_size
        if found < expected:
            self._environment.close()
            raise UserError(
                f"'{self.path}' has {found} bytes of {expected}: it is cut short; convert it again"
            )


def _single_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.lmdb")) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} *.lmdb files" if path.is_dir() else "nothing"
    raise UserError(
        f"no LMDB at '{path}' ({what} there): give the file, its folder, or make it with "
        "`piwsl data convert`"
    )


def _cannot_write(path: Path, error: Exception) -> UserError:
    """LMDB tells a full disk in several ways, so the free space is told beside its words."""
    free = shutil.disk_usage(path.parent).free if path.parent.is_dir() else 0
    return UserError(
        f"cannot write '{path}' ({error}; {free / 2**20:.1f} MiB are free there): free space, or "
        "choose another --out; nothing was left behind"
    )
