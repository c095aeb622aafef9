"""How shipped data are made: autocorrelation, seeds, checkpoints, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from piwsl_ocp.datasets import xtb_files
from piwsl_ocp.datasets.xtb_layouts import xsf_text
from piwsl_ocp.datasets.xtb_sampling import (
    Dynamics,
    Walk,
    energy_autocorrelation,
    integrated_time,
    stored_positions,
)
from piwsl_ocp.datasets.xtb_starts import (
    bonds,
    group_formula,
    hill_ordered,
    molecule_names,
    strained_quartz,
)
from piwsl_ocp.errors import UserError

SHORT = Dynamics("GFN2-xTB", 500.0, 0.5, 0.02, equilibration_steps=3, spacing_steps=4, frames=2)


def short_ethanol() -> xtb_files.Recipe:
    """Return the recipe of ethanol with two walkers of two frames each."""
    recipe = xtb_files.RECIPES["ethanol"]
    return replace(recipe, starts=lambda seed: recipe.starts(seed)[:2], dynamics=SHORT)


def test_autocorrelation_time_of_an_autoregressive_process() -> None:
    """x(t+1) = r x(t) + noise has C(t) = r^t and tau = 1/2 + r / (1 - r)."""
    generator, memory = np.random.default_rng(0), 0.8
    traces = []
    for _ in range(4):
        trace = [0.0]
        for noise in generator.standard_normal(20000):
            trace.append(memory * trace[-1] + noise)
        traces.append(np.array(trace))
    correlation = energy_autocorrelation(traces, lags=200)
    np.testing.assert_allclose(correlation[:4], memory ** np.arange(4), atol=0.02)
    assert integrated_time(correlation) == pytest.approx(0.5 + memory / (1 - memory), rel=0.05)


def test_stored_positions_are_exact_in_the_file() -> None:
    atoms = Atoms("H2O", np.random.default_rng(0).standard_normal((3, 3)))
    kept = stored_positions(atoms, None)
    np.testing.assert_array_equal(kept, kept.astype(np.float32))
    atoms.positions = kept
    np.testing.assert_allclose(atoms.get_center_of_mass(), 0, atol=1e-7)
    atoms.pbc = True
    np.testing.assert_array_equal(stored_positions(atoms, 3), np.round(atoms.positions, 3))


def test_molecules_are_many_and_ordered_by_their_formula() -> None:
    names = molecule_names()
    assert len(names) >= 50
    acid = hill_ordered(Atoms("OCHNH"))
    assert acid.get_chemical_symbols() == ["C", "H", "H", "N", "O"]
    assert group_formula(acid) == "C1H2N1O1"


def test_quartz_has_four_bonds_per_silicon_under_strain() -> None:
    atoms = strained_quartz(np.random.default_rng(3), 0.03)
    first = [pair[0] for pair in bonds(atoms)] + [pair[1] for pair in bonds(atoms)]
    assert [first.count(k) for k in range(9)] in ([4] * 3 + [2] * 6, [2] * 6 + [4] * 3)
    assert not np.allclose(atoms.cell.array, strained_quartz(np.random.default_rng(4), 0.03).cell)


def test_xsf_text_has_the_energy_first_and_forces_beside_positions() -> None:
    walk = Walk(
        numbers=np.array([8]),
        cell=np.eye(3) * 3,
        positions=np.full((1, 1, 3), 0.25),
        energies=np.array([-7.5]),
        forces=np.full((1, 1, 3), -0.125),
        trace=np.zeros(1),
        temperature=500.0,
    )
    lines = xsf_text(walk, 0).splitlines()
    assert lines[0] == "# total energy = -7.5000000000 eV"
    assert lines[-1].split() == ["O"] + ["0.25000000"] * 3 + ["-0.12500000"] * 3


def test_unknown_name_and_existing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'aspirn'"):
        xtb_files.make_demo_data(["aspirn"], tmp_path, seed=0)
    (tmp_path / "ethanol.npz").write_bytes(b"mine")
    with pytest.raises(UserError, match="--overwrite"):
        xtb_files.make_demo_data(["ethanol"], tmp_path, seed=0)
    assert (tmp_path / "ethanol.npz").read_bytes() == b"mine"


@pytest.mark.usefixtures("tblite_program")
def test_the_seed_decides_the_data_and_a_resumed_call_gives_the_same(tmp_path: Path) -> None:
    recipe = short_ethanol()
    digests = {
        name: xtb_files.make_file(recipe, tmp_path / name, seed)["sha256"]
        for name, seed in (("first", 0), ("other", 1))
    }
    steps: list[int] = []

    def interrupt_second_walker(count: int) -> None:
        steps.append(count)
        if sum(steps) > SHORT.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        xtb_files.make_file(recipe, tmp_path / "resumed", 0, interrupt_second_walker)
    assert not (tmp_path / "resumed" / recipe.file_name).exists()
    assert len(list((tmp_path / "resumed" / "ethanol.partial").iterdir())) == 1
    digests["resumed"] = xtb_files.make_file(recipe, tmp_path / "resumed", 0)["sha256"]
    assert digests["first"] == digests["resumed"] != digests["other"]
    names = {path.name for path in (tmp_path / "resumed").iterdir()}
    assert names == {recipe.file_name, xtb_files.PROVENANCE}


@pytest.mark.usefixtures("tblite_program")
def test_a_checkpoint_of_another_seed_is_not_used(tmp_path: Path) -> None:
    recipe = short_ethanol()
    path = tmp_path / "walker.npz"
    start = recipe.starts(0)[0][1]
    walks = [xtb_files.checkpointed_walker(path, start, SHORT, [seed]) for seed in (0, 1, 1)]
    assert not np.array_equal(walks[0].positions, walks[1].positions)
    np.testing.assert_array_equal(walks[1].positions, walks[2].positions)
