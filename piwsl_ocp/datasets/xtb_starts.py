"""Start geometries of the shipped data: aspirin, molecules of ASE, strained quartz cells."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.collections import g2
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from ase.spacegroup import crystal

#: Molecules of ASE's g2 collection without a sound closed-shell reference: a carbene and ozone.
EXCLUDED_MOLECULES = frozenset({"CH2_s1A1d", "O3"})

#: Two atoms are bonded below this multiple of the sum of their covalent radii.
BOND_TOLERANCE = 1.25

#: alpha-quartz, space group P3_2 21 (Levien, Prewitt and Weidner, Am. Mineral. 65, 920, 1980).
QUARTZ_A_ANGSTROM = 4.916
QUARTZ_C_ANGSTROM = 5.405
QUARTZ_BASIS = [(0.4697, 0.0, 2 / 3), (0.4135, 0.2669, 0.7858)]

#: Scale of the cell near the energy minimum of GFN1-xTB at the Gamma point.
QUARTZ_SCALE = 1.02


def _in_plane(angle_degrees: float) -> np.ndarray:
    """Return the unit vector of the xy plane at this angle from the x axis."""
    angle = np.radians(angle_degrees)
    return np.array([np.cos(angle), np.sin(angle), 0.0])


def _methyl_hydrogens(axis: np.ndarray, side: np.ndarray) -> list[np.ndarray]:
    """Return three C-H vectors (Angstrom) of a methyl group bound along `-axis`."""
    other = np.cross(axis, side)
    return [
        1.09 * (axis / 3 + np.sqrt(8) / 3 * (np.cos(turn) * side + np.sin(turn) * other))
        for turn in np.radians([0.0, 120.0, 240.0])
    ]


def aspirin() -> Atoms:
    """Return 2-acetoxybenzoic acid, C9H8O4, from ideal bond lengths and angles (not yet relaxed).

    Atoms 0-5 are the ring; 6 and 7, 8 the carboxyl carbon, its carbonyl and hydroxyl oxygen;
    9 the ester oxygen; 10, 11 the acetyl carbon and oxygen; 12 the methyl carbon; then hydrogen.
    """
    ring = [1.39 * _in_plane(60 * k) for k in range(6)]
    carboxyl = 2.88 * _in_plane(0)
    carbonyl, hydroxyl = carboxyl + 1.21 * _in_plane(-60), carboxyl + 1.34 * _in_plane(60)
    ester = 2.78 * _in_plane(60)
    bend = np.radians(118)
    along = np.cos(bend) * _in_plane(240) + np.sin(bend) * np.array([0.0, 0.0, 1.0])
    to_ring = _in_plane(240) - np.dot(_in_plane(240), along) * along
    to_ring /= np.linalg.norm(to_ring)
    acetyl = ester + 1.36 * along

    def turned(degrees: float) -> np.ndarray:
        return -np.cos(np.radians(degrees)) * along + np.sin(np.radians(degrees)) * to_ring

    methyl = acetyl + 1.50 * turned(-111)
    hydrogens = [2.48 * _in_plane(60 * k) for k in range(2, 6)]
    hydrogens.append(hydroxyl + 0.97 * _in_plane(-14))
    side = np.cross(turned(-111), _in_plane(150))
    hydrogens += [
        methyl + arm for arm in _methyl_hydrogens(turned(-111), side / np.linalg.norm(side))
    ]
    heavy = [*ring, carboxyl, carbonyl, hydroxyl, ester, acetyl, acetyl + 1.20 * turned(123)]
    return Atoms("C7O3COCH8", positions=np.array([*heavy, methyl, *hydrogens]))


def ethanol() -> Atoms:
    """Return ethanol from ASE's g2 collection."""
    return g2["CH3CH2OH"]


def molecule_names() -> list[str]:
    """Return the g2 molecules that are closed-shell, of H, C, N, O, with three atoms or more."""
    names = []
    for name in g2.names:
        atoms = g2[name]
        closed_shell = (
            atoms.numbers.sum() % 2 == 0 and not atoms.get_initial_magnetic_moments().any()
        )
        if closed_shell and len(atoms) >= 3 and set(atoms.numbers) <= {1, 6, 7, 8}:
            names.append(name)
    return sorted(set(names) - EXCLUDED_MOLECULES)


def hill_ordered(atoms: Atoms) -> Atoms:
    """Return the atoms sorted as in their Hill formula, so that isomers share one ordering."""
    has_carbon = 6 in atoms.numbers
    first = {"C": " 1", "H": " 2"} if has_carbon else {}
    keys = [first.get(symbol, symbol) for symbol in atoms.get_chemical_symbols()]
    return atoms[np.argsort(keys, kind="stable")]


def group_formula(atoms: Atoms) -> str:
    """Return the Hill formula with every count written, the group name of the ANI-1x release."""
    symbols = hill_ordered(atoms).get_chemical_symbols()
    return "".join(f"{symbol}{symbols.count(symbol)}" for symbol in dict.fromkeys(symbols))


def strained_quartz(generator: np.random.Generator, strain_max: float) -> Atoms:
    """Return alpha-quartz (9 atoms, periodic) under a random symmetric strain.

    Args:
        generator: source of the six strain components.
        strain_max: largest size of a component of the symmetric strain matrix.
    """
    a, c = QUARTZ_A_ANGSTROM * QUARTZ_SCALE, QUARTZ_C_ANGSTROM * QUARTZ_SCALE
    atoms = crystal(["Si", "O"], QUARTZ_BASIS, spacegroup=154, cellpar=[a, a, c, 90, 90, 120])
    strain = np.zeros((3, 3))
    strain[np.triu_indices(3)] = generator.uniform(-strain_max, strain_max, 6)
    strain = np.triu(strain) + np.triu(strain, 1).T
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return Atoms(atoms.symbols, atoms.positions, cell=atoms.cell.array, pbc=True)


def bonds(atoms: Atoms) -> frozenset[tuple[int, int]]:
    """Return the pairs of atoms closer than `BOND_TOLERANCE` times their covalent radii."""
    cutoffs = natural_cutoffs(atoms, mult=BOND_TOLERANCE)
    neighbours = build_neighbor_list(atoms, cutoffs, skin=0.0, self_interaction=False)
    pairs = neighbours.get_connectivity_matrix().keys()
    return frozenset((int(min(pair)), int(max(pair))) for pair in pairs)
