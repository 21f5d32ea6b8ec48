"""GFN2-xTB energies and forces through tblite (the only module that imports it).

Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019).
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np

from fflux_py.errors import ConvergenceError, InputError, MissingDependencyError
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

try:
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator
except ImportError as error:
    raise MissingDependencyError(
        "GFN2-xTB", "the package tblite", "it is not installed", "pip install 'fflux_py[sample]'"
    ) from error


class GFN2:
    """The GFN2-xTB energy function of one molecule (lowest spin).

    Successive calls start the self-consistent charges from the previous geometry's, which saves half of the time
    along a trajectory; they agree with a fresh start within the convergence threshold.

    Parameters
    ----------
    molecule
        Elements and charge; its positions are the first guess only.
    accuracy
        tblite's threshold factor; 0.1 makes forces independent of the starting guess to 3e-7 hartree/bohr.
    """

    def __init__(self, molecule: Molecule, accuracy: float = 0.1) -> None:
        self.molecule = molecule
        electrons = int(molecule.numbers.sum()) - molecule.charge
        self._calculator = Calculator(
            "GFN2-xTB",
            np.array(molecule.numbers),
            np.array(molecule.positions),
            charge=float(molecule.charge),
            uhf=electrons % 2,
        )
        self._calculator.set("verbosity", 0)
        self._calculator.set("accuracy", accuracy)
        self._previous: Any = None

    @property
    def program(self) -> str:
        """Method, program and version, for the header of files."""
        return f"GFN2-xTB, tblite {metadata.version('tblite')}"

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Return the energy (hartree) and the forces (hartree/bohr, ``(n_atoms, 3)``) at ``positions`` (bohr).

        Raises
        ------
        ConvergenceError
            If the self-consistent charges do not converge, neither from the previous ones nor from a fresh guess; if
            two atoms are too close.
        """
        if positions.shape != self.molecule.positions.shape:
            raise InputError("positions", f"shape {self.molecule.positions.shape}", f"shape {positions.shape}")
        try:
            self._calculator.update(np.ascontiguousarray(positions, dtype=np.float64))
        except TBLiteRuntimeError as error:
            self._previous = None
            where = f"GFN2-xTB of {self.molecule.name!r}"
            raise ConvergenceError(where, "a geometry that it takes", str(error), "check the geometry") from error
        result = self._single_point()
        energy, gradient = float(result.get("energy")), np.asarray(result.get("gradient"))
        if not (np.isfinite(energy) and np.isfinite(gradient).all()):
            self._previous = None
            raise ConvergenceError(
                f"GFN2-xTB of {self.molecule.name!r}", "a finite energy and gradient", "NaN", "check the geometry"
            )
        self._previous = result
        return energy, -gradient

    def atomic_energies(self) -> FloatArray:
        """Atom-resolved energies (hartree, ``(n_atoms,)``, summing to the total) of the geometry computed last."""
        if self._previous is None:
            raise InputError("GFN2-xTB, atomic energies", "a geometry that was computed", "none")
        return np.array(self._previous.get("energies"), dtype=np.float64)

    def _single_point(self) -> Any:
        if self._previous is not None:
            try:
                return self._calculator.singlepoint(self._previous)
            except TBLiteRuntimeError:
                # The failed iteration has overwritten the old charges: fall back to a fresh guess below.
                self._previous = None
        try:
            return self._calculator.singlepoint()
        except TBLiteRuntimeError as error:
            raise ConvergenceError(
                f"GFN2-xTB of {self.molecule.name!r}",
                "converged self-consistent charges",
                str(error),
                "check geometry and charge",
            ) from error
