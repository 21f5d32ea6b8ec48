"""The force field as a calculator of the Atomic Simulation Environment (eV, angstrom)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from fflux_py import model_file
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.interfaces.evaluator import Evaluator, Outside
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM

DEVIATIONS: Final = "energies_std"
"""Name of the property that holds the atomic standard deviations."""


class FFLUXCalculator(Calculator):
    """Energy, forces, atomic energies and their standard deviations for ASE's optimisers and dynamics.

    ``energy``, ``free_energy`` (the same number), ``forces`` and ``energies`` (atomic
    energies, which sum to ``energy``) come from one evaluation when forces are asked for.  Energies alone, at about
    half of the cost, are computed when only they are asked for.  The atomic standard deviations cost much more and are
    computed only when asked for: :meth:`get_atomic_deviations`, or the property ``energies_std``.

    Parameters
    ----------
    forcefield
        A force field, or the path of a model file.
    outside
        What happens at a geometry that the model does not know (bonds, contacts, distances and the lowest energy of its
        training data): ``"warn"`` once, ``"raise"`` an error, or ``"ignore"`` it.

    Raises
    ------
    ModelMismatchError
        At a calculation: the atoms are not those of the model.  In another order or hand they are matched, with a
        warning, and results are in theirs.
    GeometryError
        At a calculation: a local frame whose three atoms stand on a line, two atoms on one spot, a position that is no
        number; with ``outside="raise"`` a geometry that the model does not know.
    InputError
        At a calculation: periodic boundaries, across which an isolated molecule has no meaning.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "energies", DEVIATIONS]  # noqa: RUF012

    def __init__(self, forcefield: ForceField | str | os.PathLike[str], outside: Outside = "warn") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forcefield = forcefield if isinstance(forcefield, ForceField) else model_file.load(forcefield)
        self.evaluator = Evaluator(self.forcefield, outside)
        self._adopted: tuple[tuple[int, ...], int] | None = None

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, of all that an isolated molecule's energy depends on.

        ASE compares cell, initial charges and magnetic moments too, as slowly as a third of a force evaluation.
        """
        known = self.atoms
        if known is None or len(known) != len(atoms):
            return list(all_changes)
        if np.array_equal(known.numbers, atoms.numbers) and np.array_equal(known.pbc, atoms.pbc):
            # the difference of a position that is no number is not at most tol
            return [] if np.abs(known.positions - atoms.positions).max() <= tol else ["positions"]
        return ["numbers", "pbc", "positions"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` (eV, eV/angstrom); called by ASE."""
        super().calculate(atoms, list(properties), list(system_changes))  # type: ignore[no-untyped-call]
        if system_changes:
            self.results = {}
        atoms = self.atoms
        assert atoms is not None
        self._adopt(atoms)
        positions = atoms.positions / ANGSTROM
        if DEVIATIONS in properties:
            self.results[DEVIATIONS] = self.evaluator.deviations(positions) * EV
        if "forces" in properties and "forces" not in self.results:
            energies, forces = self.evaluator.evaluate(positions)
            self.results.update(self._energies(energies), forces=forces * EV_ANGSTROM)
        elif "energy" not in self.results:
            self.results.update(self._energies(self.evaluator.atomic_energies(positions)))

    @staticmethod
    def _energies(energies: FloatArray) -> dict[str, Any]:
        """The properties that atomic energies in hartree give, eV."""
        energy = float(energies.sum()) * EV
        return {"energy": energy, "free_energy": energy, "energies": energies * EV}

    def get_atomic_deviations(self, atoms: Atoms | None = None) -> FloatArray:
        """Predictive standard deviation of every atomic energy in eV, shape ``(n_atoms,)``."""
        return np.asarray(self.get_property(DEVIATIONS, atoms))  # type: ignore[no-untyped-call]

    def _adopt(self, atoms: Any) -> None:
        """Match new atoms with the model's, once for every set of elements and charge."""
        charge = int(atoms.info.get("total_charge", self.forcefield.molecule.charge))
        identity = (tuple(atoms.numbers.tolist()), charge)
        if atoms.pbc.any():
            raise InputError(
                "atoms.pbc", "no periodic boundaries (the model is of one isolated molecule)", str(atoms.pbc),
                "set atoms.pbc = False",
            )  # fmt: skip
        if identity != self._adopted:
            symbols, name = tuple(atoms.get_chemical_symbols()), str(atoms.info.get("name", "atoms"))
            self.evaluator.adopt(Molecule(symbols, atoms.positions / ANGSTROM, charge, name))
            self._adopted = identity
