"""Checksums of source files, as they stand in `dataset.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from piwsl_ocp.errors import UserError

CHUNK_BYTES = 2**16


def file_facts(files: Sequence[Path]) -> list[dict[str, str | int]]:
    """Return name, bytes and SHA-256 of each file.

    A folder counts as one file: all its XSF files by sorted relative name, name and content.

    Args:
        files: files and folders.

    Raises:
        UserError: if a file cannot be read.
    """
    facts: list[dict[str, str | int]] = []
    for path in files:
        digest = hashlib.sha256()
        try:
            if path.is_dir():
                size = 0
                for member in sorted(path.rglob("*.xsf")):
                    digest.update(str(member.relative_to(path)).encode())
                    size += _update(digest, member)
            else:
                size = _update(digest, path)
        except OSError as error:
            raise UserError(f"cannot read '{path}' ({error.strerror}): check the file") from error
        facts.append({"name": path.name, "bytes": size, "sha256": digest.hexdigest()})
    return facts


def _update(digest: hashlib._Hash, path: Path) -> int:
    size = 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size
