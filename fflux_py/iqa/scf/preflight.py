"""Whether a level of theory can be computed for a molecule, asked before anything expensive is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from fflux_py.errors import InputError
from fflux_py.iqa.scf._pyscf import check_functional, load_pyscf, no_advice_on_missing_bases, refuse_effective_cores
from fflux_py.iqa.scf.dispersion import check_dispersion
from fflux_py.iqa.scf.electronic_structure import build_mole
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule

# All-electron sets, from which a remedy is named.
_ALTERNATIVES: Final = ("6-31+g(d,p)", "6-311++g**", "def2-svp", "def2-tzvp", "6-311g**")


def check_level(molecule: Molecule, level: LevelOfTheory) -> str:
    """Refuse a level of theory that the molecule's elements or electrons do not have.

    Parameters
    ----------
    molecule
        Elements and charge; the geometry does not matter.
    level
        Level of theory.

    Returns
    -------
    The level in words, with the number of basis functions.

    Raises
    ------
    InputError
        An unknown functional or dispersion correction, an element without basis or fitting functions, a basis set for
        an effective core, or an odd number of electrons.
    MissingDependencyError
        PySCF, or the package of a dispersion correction, is not installed.
    """
    check_functional(level.functional)
    check_dispersion(level.method)
    symbols = sorted(set(molecule.symbols))
    without = _elements_without(symbols, level.basis)
    if without:
        others = [basis for basis in _ALTERNATIVES if _is_all_electron(symbols, basis)]
        raise InputError(
            "basis",
            f"a basis set that PySCF has for {', '.join(symbols)}",
            f"{level.basis!r}, without {', '.join(without)}",
            f"choose another basis, for example {' or '.join(others)}" if others else "choose another basis",
        )
    refuse_effective_cores(set(symbols), level.basis)
    without = _elements_without(symbols, level.auxiliary_basis)
    if without:
        raise InputError(
            "auxiliary_basis",
            f"a fitting basis that PySCF has for {', '.join(symbols)}",
            f"{level.auxiliary_basis!r}, without {', '.join(without)}",
            "choose another fitting basis",
        )
    functions = int(build_mole(molecule, level).nao)
    kind = "Cartesian" if level.cartesian else "spherical"
    return f"{level.method}/{level.basis}, {functions} {kind} functions"


def _elements_without(symbols: Iterable[str], basis: str) -> list[str]:
    """Elements that PySCF's basis set of this name lacks."""
    library = load_pyscf().gto.basis
    missing = []
    for symbol in symbols:
        try:
            with no_advice_on_missing_bases():
                library.load(basis, symbol)
        except (library.BasisNotFoundError, KeyError):
            missing.append(symbol)
    return missing


def _is_all_electron(symbols: list[str], basis: str) -> bool:
    if _elements_without(symbols, basis):
        return False
    try:
        refuse_effective_cores(set(symbols), basis)
    except InputError:
        return False
    return True
