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

    Raises
    ------
    ModelMismatchError
        At a calculation: the atoms are not those of the model, or in another order; names the first that differs.
    GeometryError
        At a calculation: a local frame whose three atoms stand on a line, or two atoms on one spot.
    InputError
        At a calculation: periodic boundaries, across which an isolated molecule has no meaning.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "energies", DEVIATIONS]  # noqa: RUF012

    def __init__(self, forcefield: ForceField | str | os.PathLike[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forcefield = forcefield if isinstance(forcefield, ForceField) else model_file.load(forcefield)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, of all that an isolated molecule's energy depends on.

        ASE compares cell, initial charges and magnetic moments too, as slowly as a third of a force evaluation.
        """
        known = self.atoms
        if known is None or len(known) != len(atoms):
            return list(all_changes)
        if np.array_equal(known.numbers, atoms.numbers) and np.array_equal(known.pbc, atoms.pbc):
            return ["positions"] if np.abs(known.positions - atoms.positions).max() > tol else []
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
        positions = self._positions(self.atoms)
        if DEVIATIONS in properties:
            self.results[DEVIATIONS] = self.forcefield.atomic_deviations(positions) * EV
        if "forces" in properties and "forces" not in self.results:
            energies, forces = self.forcefield.atomic_energies_and_forces(positions)
            self.results.update(self._energies(energies), forces=forces * EV_ANGSTROM)
        elif "energy" not in self.results:
            self.results.update(self._energies(self.forcefield.atomic_energies(positions)))

    @staticmethod
    def _energies(energies: FloatArray) -> dict[str, Any]:
        """The properties that atomic energies in hartree give, eV."""
        energy = float(energies.sum()) * EV
        return {"energy": energy, "free_energy": energy, "energies": energies * EV}

    def get_atomic_deviations(self, atoms: Atoms | None = None) -> FloatArray:
        """Predictive standard deviation of every atomic energy in eV, shape ``(n_atoms,)``."""
        return np.asarray(self.get_property(DEVIATIONS, atoms))  # type: ignore[no-untyped-call]

    def _positions(self, atoms: Any) -> FloatArray:
        """Positions in bohr of atoms that belong to the model."""
        molecule = self.forcefield.molecule
        charge = int(atoms.info.get("total_charge", molecule.charge))
        if not np.array_equal(atoms.numbers, molecule.numbers) or charge != molecule.charge:
            symbols = tuple(atoms.get_chemical_symbols())
            self.forcefield.check_molecule(
                Molecule(symbols, atoms.positions / ANGSTROM, charge, atoms.info.get("name", "atoms"))
            )
        if atoms.pbc.any():
            raise InputError(
                "atoms.pbc", "no periodic boundaries (the model is of one isolated molecule)", str(atoms.pbc),
                "set atoms.pbc = False",
            )  # fmt: skip
        return np.asarray(atoms.positions / ANGSTROM)
