"""Free atoms at the level of theory of the molecule: ground-state energies and spherically averaged densities."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.interpolate import CubicSpline

from fflux_py.errors import InputError
from fflux_py.iqa.scf._pyscf import check_functional, load_pyscf, no_checkpoint_files
from fflux_py.iqa.scf.electronic_structure import build_mean_field, build_mole, converge
from fflux_py.iqa.scf.functionals import MP2
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

# Unpaired electrons of the ground state (NIST Atomic Spectra Database), main-group elements of the first five rows.
_UNPAIRED = {"H": 1, "He": 0, "Li": 1, "Be": 0, "B": 1, "C": 2, "N": 3, "O": 2, "F": 1, "Ne": 0,
             "Na": 1, "Mg": 0, "Al": 1, "Si": 2, "P": 3, "S": 2, "Cl": 1, "Ar": 0,
             "K": 1, "Ca": 0, "Ga": 1, "Ge": 2, "As": 3, "Se": 2, "Br": 1, "Kr": 0,
             "Rb": 1, "Sr": 0, "In": 1, "Sn": 2, "Sb": 3, "Te": 2, "I": 1, "Xe": 0}  # fmt: skip
_GRID_LEVEL = 4
_RADIAL_END = 20.0
_RADIAL_POINTS = 1200
_SMALLEST_DENSITY = 1e-280


def compute_isolated_atoms(symbols: Iterable[str], level: LevelOfTheory) -> dict[str, float]:
    """Energies (hartree) of the free atoms in their ground-state multiplicity, spin-polarised, at ``level``.

    The grid is at least level 4, as one atom is cheap: different orientations of a singly filled p orbital then agree
    to 1e-6 hartree.

    Raises
    ------
    ConvergenceError
        The SCF of an atom does not converge.
    InputError
        An element whose ground-state multiplicity is not in the table.
    """
    return {symbol: _isolated_atom_energy(symbol, level) for symbol in sorted(set(symbols))}


@lru_cache(maxsize=64)
def _isolated_atom_energy(symbol: str, level: LevelOfTheory) -> float:
    if level.method == MP2:
        raise InputError("method", "one for which free atoms are computed", "'mp2'", "use another prior mean than MF5")
    if symbol not in _UNPAIRED:
        raise InputError(f"element {symbol}", f"one of {', '.join(_UNPAIRED)}", symbol, "it is not supported yet")
    level = replace(level, grid_level=max(level.grid_level, _GRID_LEVEL))
    mean_field = build_mean_field(build_mole(_atom(symbol), level, spin=_UNPAIRED[symbol]), level)
    converge(mean_field, level, f"free atom {symbol}")
    return float(mean_field.e_tot)


@dataclass(frozen=True)
class FreeAtomDensity:
    """Logarithm of a spherical density: a cubic spline of the distance, continued linearly beyond its last point."""

    spline: CubicSpline
    last: float

    def logarithm(self, distance: FloatArray) -> FloatArray:
        """Natural logarithm of the density (bohr^-3) at ``distance`` (bohr)."""
        inside = np.minimum(distance, self.last)
        return np.asarray(self.spline(inside) + (distance - inside) * float(self.spline(self.last, 1)))


@lru_cache(maxsize=64)
def compute_free_atom_density(symbol: str, level: LevelOfTheory) -> FreeAtomDensity:
    """Spherically averaged density of the neutral, spin-restricted free atom (open shell filled evenly) at ``level``.

    Raises
    ------
    InputError
        A method that PySCF cannot run, or a basis without this element.
    """
    pyscf = load_pyscf()
    check_functional(level.functional)
    spherical = replace(level, basis_functions="spherical")
    mole = build_mole(_atom(symbol), spherical, spin=None)
    with no_checkpoint_files(), warnings.catch_warnings():
        # PySCF's own atomic solver calls a function that PySCF has deprecated.
        warnings.filterwarnings("ignore", message="remove_linear_dep_", category=DeprecationWarning)
        from_scf = pyscf.scf.atom_ks.get_atm_nrks(mole, xc=level.functional)[symbol]
    orbitals, occupations = from_scf[2], from_scf[3]
    distance = np.linspace(0.0, _RADIAL_END, _RADIAL_POINTS)
    # The averaged density is the same in all directions; this one is as good as any.
    values = pyscf.dft.numint.eval_ao(mole, distance[:, None] * np.array([0.48, 0.6, 0.64])) @ orbitals
    density = (values**2) @ occupations
    usable = density > _SMALLEST_DENSITY
    end = len(density) if usable.all() else int(np.argmin(usable))
    return FreeAtomDensity(CubicSpline(distance[:end], np.log(density[:end])), float(distance[end - 1]))


def _atom(symbol: str) -> Molecule:
    return Molecule((symbol,), np.zeros((1, 3)), name=symbol)
