"""The level of theory of a label: method, basis sets, and the thresholds that an energy depends on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

from fflux_py.errors import InputError
from fflux_py.iqa.scf.functionals import MP2, mean_field_functional

_DENSITY_FIT_OF_PARTITION = "def2-universal-jkfit"
# Pople's split-valence sets whose d functions are Cartesian; (d,p), **, or what else names the polarisation functions.
_POPLE_CARTESIAN: Final = re.compile(r"(3-21|4-31|6-21|4-22|6-31)(\+{0,2})g(?P<polarisation>\*{0,2}|\(.*\))")

BasisFunctions = Literal["auto", "spherical", "cartesian"]
"""Kinds of basis functions; ``auto`` is the kind that the basis set is defined with."""


def uses_cartesian_functions(basis: str) -> bool:
    """Whether a basis set is defined with Cartesian d functions: Pople's 3-21G, 4-31G, 6-21G and 6-31G families.

    All others, among them 6-311G, def2, (aug-)cc-pVXZ and pc-n, are defined with spherical ones (Gaussian 16, keyword
    Basis; Basis Set Exchange).

    Parameters
    ----------
    basis
        PySCF's name, such as ``6-31+g(d,p)``.

    Raises
    ------
    InputError
        A set of the 6-31G family with f functions: they are spherical while the d functions are Cartesian, a mixture
        that PySCF does not have.
    """
    family = _POPLE_CARTESIAN.fullmatch(basis.strip().lower())
    if family is not None and "f" in family["polarisation"]:
        raise InputError(
            "basis_functions",
            "'spherical' or 'cartesian' for this basis set",
            f"'auto' with {basis!r}, which is defined with Cartesian d and spherical f functions",
            "PySCF cannot mix them: choose one kind (--basis-functions), or another basis set",
        )
    return family is not None


@dataclass(frozen=True)
class LevelOfTheory:
    """Everything on which the energy of a geometry depends.

    Parameters
    ----------
    method
        Functional, PySCF's name: local, GGA, meta-GGA or global hybrid, or ``hf``.  For energies and forces alone also
        range-separated hybrids, functionals with a dispersion correction (``b3lyp-d3bj``, ``pbe0-d4``) and ``mp2``,
        which is without density fitting.
    basis
        Orbital basis, PySCF's name.
    basis_functions
        ``spherical`` (five d functions), ``cartesian`` (six), or ``auto``: as the basis set is defined, by
        :func:`uses_cartesian_functions`.
    density_fit
        Fit Coulomb and exchange in ``auxiliary_basis``.
    auxiliary_basis
        Fitting basis; without density fitting it still serves the potentials of the atomic partition.
    grid_level
        PySCF's integration grid, 0 (coarse) to 9.
    convergence
        Change of energy (hartree) at which the SCF ends.
    gradient_convergence
        Norm of the orbital gradient at which the SCF ends.
    max_cycle
        Iterations after which the SCF has failed.
    """

    method: str = "b3lyp"
    basis: str = "6-31+g(d,p)"
    basis_functions: BasisFunctions = field(default="auto", compare=False)
    density_fit: bool = True
    auxiliary_basis: str = _DENSITY_FIT_OF_PARTITION
    grid_level: int = 2
    convergence: float = 1e-9
    gradient_convergence: float = 3e-5
    max_cycle: int = 60
    cartesian: bool = field(init=False)
    """Whether d functions and higher ones are Cartesian: six d functions, not five."""

    def __post_init__(self) -> None:
        for name in ("method", "basis", "auxiliary_basis"):
            if not getattr(self, name).strip():
                raise InputError(name, "a name", "an empty text")
            object.__setattr__(self, name, getattr(self, name).strip().lower())
        if self.method == MP2:
            object.__setattr__(self, "density_fit", False)
        if not 0 <= self.grid_level <= 9:
            raise InputError("grid_level", "an integer from 0 to 9", str(self.grid_level))
        if self.basis_functions not in get_args(BasisFunctions):
            raise InputError("basis_functions", f"one of {', '.join(get_args(BasisFunctions))}",
                             repr(self.basis_functions))  # fmt: skip
        automatic = self.basis_functions == "auto"
        cartesian = uses_cartesian_functions(self.basis) if automatic else self.basis_functions == "cartesian"
        object.__setattr__(self, "cartesian", cartesian)
        for name in ("convergence", "gradient_convergence"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise InputError(name, "a number between 0 and 1", str(getattr(self, name)))
        if self.max_cycle < 1:
            raise InputError("max_cycle", "at least 1", str(self.max_cycle))

    @property
    def functional(self) -> str:
        """The functional whose equations are solved: the method without its dispersion correction; ``hf`` for MP2."""
        return mean_field_functional(self.method)

    def as_dict(self) -> dict[str, str | int | float | bool]:
        """Fields by name, for headers and content hashes; ``cartesian`` says which functions ``auto`` stands for."""
        values = asdict(self)
        del values["basis_functions"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LevelOfTheory:
        """Return the level that :meth:`as_dict` describes."""
        rest = {name: value for name, value in values.items() if name != "cartesian"}
        return cls(**rest, basis_functions="cartesian" if values["cartesian"] else "spherical")
