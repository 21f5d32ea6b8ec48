"""Dispersion corrections D3(BJ) and D4, through the packages dftd3 and dftd4 (imported only here).

S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011); E. Caldeweyher et al., J. Chem. Phys. 150, 154122
(2019).  Parameters are those of the functional, three-body terms as the packages have them: without for D3, with for
D4.  Free atoms have no dispersion energy.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

import numpy as np

from fflux_py.errors import InputError, MissingDependencyError
from fflux_py.iqa.scf.functionals import split_dispersion
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray


def check_dispersion(method: str) -> None:
    """Refuse a correction whose package is missing, or that has no parameters for the functional.

    Raises
    ------
    MissingDependencyError
        The package is not installed.
    InputError
        No parameters.
    """
    functional, kind = split_dispersion(method)
    if kind:
        _parameters(functional, kind)


def dispersion_energy_and_gradient(molecule: Molecule, method: str) -> tuple[float, FloatArray]:
    """Energy (hartree) and gradient (hartree/bohr, ``(n_atoms, 3)``); zero for a method without a correction."""
    functional, kind = split_dispersion(method)
    if not kind:
        return 0.0, np.zeros_like(molecule.positions)
    parameters = _parameters(functional, kind)
    numbers, positions = np.array(molecule.numbers), np.array(molecule.positions)
    if kind == "d4":
        model = _load(kind).DispersionModel(numbers, positions, charge=float(molecule.charge))
    else:
        model = _load(kind).DispersionModel(numbers, positions)
    result = model.get_dispersion(parameters, grad=True)
    return float(result["energy"]), np.asarray(result["gradient"], dtype=np.float64)


def dispersion_version(method: str) -> dict[str, str]:
    """Name and version of the package that a method needs; empty if it needs none."""
    kind = split_dispersion(method)[1]
    return {_package(kind): metadata.version(_package(kind))} if kind else {}


def _package(kind: str) -> str:
    return "dftd4" if kind == "d4" else "dftd3"


def _load(kind: str) -> Any:
    name = _package(kind)
    try:
        return importlib.import_module(f"{name}.interface")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"dispersion correction {kind}", f"the package {name}", "it is not installed",
            "pip install 'fflux_py[dispersion]'",
        ) from error  # fmt: skip


def _parameters(functional: str, kind: str) -> Any:
    interface = _load(kind)
    parameters = interface.DampingParam if kind == "d4" else interface.RationalDampingParam
    try:
        return parameters(method=functional)
    except RuntimeError as error:
        raise InputError(
            "method", f"a functional for which {_package(kind)} has parameters", f"{functional!r} ({error})",
            "use for example b3lyp, pbe, pbe0 or tpss",
        ) from error  # fmt: skip
