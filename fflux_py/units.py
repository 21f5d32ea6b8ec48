"""Physical constants and unit conversions (CODATA 2018).

Inside the package everything is in atomic units: bohr, hartree, electron masses, atomic units of time, and
temperatures in kelvin.  Multiply a value in atomic units by the constant to obtain the value in the unit that the
constant names; divide to come back.  The numbers are written out, not taken from a library whose CODATA release
may change under us; source: E. Tiesinga et al., Rev. Mod. Phys. 93, 025010 (2021).
"""

from __future__ import annotations

from typing import Final

ANGSTROM: Final = 0.529177210903
"""One bohr in angstrom."""

EV: Final = 27.211386245988
"""One hartree in electronvolt."""

KCAL_MOL: Final = 627.5094740630558
"""One hartree in kcal/mol (thermochemical calorie)."""

KJ_MOL: Final = 2625.4996394798254
"""One hartree in kJ/mol."""

DALTON: Final = 1.0 / 1822.888486209
"""One electron mass in dalton (unified atomic mass unit)."""

FEMTOSECOND: Final = 0.02418884326585747
"""One atomic unit of time in femtosecond."""

BOLTZMANN: Final = 3.1668115634556e-6
"""Boltzmann's constant in hartree per kelvin."""

WAVENUMBER: Final = 219474.63136320
"""One hartree in cm^-1."""

EV_ANGSTROM: Final = EV / ANGSTROM
"""One hartree per bohr in eV/angstrom."""

KCAL_MOL_ANGSTROM: Final = KCAL_MOL / ANGSTROM
"""One hartree per bohr in kcal/mol/angstrom."""
