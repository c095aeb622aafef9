"""Energy units and their conversion factors, from ase.units (CODATA 2014)."""

from __future__ import annotations

from ase import units as ase_units

from piwsl_ocp.errors import UserError

#: One of each energy unit in eV.
ENERGY_IN_EV: dict[str, float] = {
    "eV": 1.0,
    "kcal/mol": ase_units.kcal / ase_units.mol,
    "kJ/mol": ase_units.kJ / ase_units.mol,
    "Hartree": ase_units.Hartree,
}


def energy_factor(from_unit: str, to_unit: str) -> float:
    """Return the number that turns an energy in `from_unit` into one in `to_unit`.

    Lengths are in Angstrom everywhere, so the same number converts forces.

    Args:
        from_unit: a key of `ENERGY_IN_EV`.
        to_unit: a key of `ENERGY_IN_EV`.

    Raises:
        UserError: if a unit is unknown.
    """
    for unit in (from_unit, to_unit):
        if unit not in ENERGY_IN_EV:
            raise UserError(f"unknown energy unit '{unit}': use one of {', '.join(ENERGY_IN_EV)}")
    return ENERGY_IN_EV[from_unit] / ENERGY_IN_EV[to_unit]
