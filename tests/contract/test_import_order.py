"""A room imports only those below it, and nothing imports fairchem before the stand-ins."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "piwsl_ocp"
NEEDS_STAND_INS = ("fairchem", "torch_geometric")


def imported_names(tree: ast.Module) -> list[tuple[int, str]]:
    """Line and module of every import statement that runs when the module is loaded."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module))
    return found


def first_line(names: list[tuple[int, str]], *packages: str) -> int | None:
    """First line that imports one of the packages."""
    lines = [n for n, name in names if any(f"{name}.".startswith(f"{p}.") for p in packages)]
    return min(lines, default=None)


def run_linter(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_rooms_import_only_the_rooms_below_them():
    done = run_linter(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_an_import_upwards_is_found(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "piwsl_ocp", ignore=shutil.ignore_patterns("embedded"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    with (tmp_path / "piwsl_ocp" / "consistency" / "metrics.py").open("a") as file:
        file.write("import piwsl_ocp.ocp\nimport fairchem\n")
    done = run_linter(tmp_path)
    assert done.returncode == 1
    assert "piwsl_ocp.consistency is not allowed to import piwsl_ocp.ocp" in done.stdout
    assert "piwsl_ocp.consistency is not allowed to import fairchem" in done.stdout


def rooms_of(path: Path) -> list[Path]:
    """The `__init__` files that run before the module, from the package inwards."""
    folders = [folder for folder in path.parents if folder.is_relative_to(PACKAGE)]
    return [folder / "__init__.py" for folder in reversed(folders)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_stand_ins_come_before_fairchem(path):
    for source in [*rooms_of(path), path]:
        names = imported_names(ast.parse(source.read_text(encoding="utf-8")))
        needs = first_line(names, *NEEDS_STAND_INS)
        stand_ins = first_line(names, "piwsl_ocp.compat")
        if stand_ins is not None and (needs is None or stand_ins < needs):
            return
        assert needs is None, f"{path}: put `import piwsl_ocp.compat` before line {needs}"
