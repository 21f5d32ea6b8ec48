"""The force field as a calculator of the Atomic Simulation Environment (eV, angstrom)."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from fflux_py import model_file
from fflux_py.errors import FileFormatError, InputError
from fflux_py.forcefield import ForceField
from fflux_py.interfaces.evaluator import Evaluator, Outside
from fflux_py.molecules.frame_meaning import bears_meaning, interpret, tell
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM

DEVIATIONS: Final = "energies_std"
"""Name under which :meth:`FFLUXCalculator.get_property` gives the atomic standard deviations.

It is no property that ASE knows, and so stands neither in ``implemented_properties`` nor in ``results``.
"""

_Statements = tuple[tuple[str, str], ...]


class FFLUXCalculator(Calculator):
    """Energy, forces, atomic energies and their standard deviations for ASE's optimisers and dynamics.

    ``energy``, ``free_energy`` (the same number), ``forces`` and ``energies`` (atomic
    energies, which sum to ``energy``) come from one evaluation when forces are asked for.  Energies alone, at about
    half of the cost, are computed when only they are asked for.  The atomic standard deviations cost much more and are
    computed only when asked for: :meth:`get_atomic_deviations`.  Threads may share a calculator: one evaluates at a
    time, and what ``atoms.get_potential_energy()`` and the like return belongs to these atoms.

    Charge and spin are read from ``atoms.info`` under the names that programs give them (``charge``, ``total_charge``,
    ``multiplicity``, ...), and from initial charges and magnetic moments
    (:func:`~fflux_py.molecules.frame_meaning.interpret`); without a word on it the charge is that of the model.

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
        At a calculation: periodic boundaries, across which an isolated molecule has no meaning; an open shell, charges
        that do not agree, another unit of length.
    """

    implemented_properties: list[str] = ["energy", "free_energy", "forces", "energies"]  # noqa: RUF012

    def __init__(self, forcefield: ForceField | str | os.PathLike[str], outside: Outside = "warn") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forcefield = forcefield if isinstance(forcefield, ForceField) else model_file.load(forcefield)
        self.evaluator = Evaluator(self.forcefield, outside)
        self._adopted: tuple[tuple[int, ...], _Statements] | None = None
        self._deviations: FloatArray | None = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, which every copy has for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """A property of these atoms, computed unless it is known, as of any calculator of ASE."""
        if name == DEVIATIONS:
            return self.get_atomic_deviations(atoms)
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation, of all that an isolated molecule's energy depends on.

        ASE compares cell, initial charges and magnetic moments too, as slowly as a third of a force evaluation.
        """
        known = self.atoms
        if known is None or len(known) != len(atoms):
            return list(all_changes)
        if not (np.array_equal(known.numbers, atoms.numbers) and np.array_equal(known.pbc, atoms.pbc)):
            return ["numbers", "pbc", "positions"]
        if _statements(known) != _statements(atoms):
            return ["initial_charges", "initial_magmoms", "positions"]
        # the difference of a position that is no number is not at most tol
        return [] if np.abs(known.positions - atoms.positions).max() <= tol else ["positions"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results`` (eV, eV/angstrom); called by ASE."""
        with self._lock:
            super().calculate(atoms, list(properties), list(system_changes))  # type: ignore[no-untyped-call]
            self.results, self._deviations = {}, None
            if self.atoms is None:
                raise InputError("atoms", "the atoms to compute", "none", "give them")
            self._adopt(self.atoms)
            positions = self.atoms.positions / ANGSTROM
            if "forces" in properties:
                energies, forces = self.evaluator.evaluate(positions)
                self.results.update(forces=forces * EV_ANGSTROM)
            else:
                energies = self.evaluator.atomic_energies(positions)
            energy = float(energies.sum()) * EV
            self.results.update(energy=energy, free_energy=energy, energies=energies * EV)

    def get_atomic_deviations(self, atoms: Atoms | None = None) -> FloatArray:
        """Predictive standard deviation of every atomic energy in eV, shape ``(n_atoms,)``."""
        with self._lock:
            self.get_property("energy", atoms)  # brings the calculator to these atoms
            if self._deviations is None:
                assert self.atoms is not None
                self._deviations = self.evaluator.deviations(self.atoms.positions / ANGSTROM) * EV
            return self._deviations.copy()

    def _adopt(self, atoms: Atoms) -> None:
        """Match new atoms with the model's, once for every set of elements, charge and spin."""
        if atoms.pbc.any():
            raise InputError(
                "atoms.pbc", "no periodic boundaries (the model is of one isolated molecule)", str(atoms.pbc),
                "set atoms.pbc = False",
            )  # fmt: skip
        identity = (tuple(atoms.numbers.tolist()), _statements(atoms))
        if identity == self._adopted:
            return
        symbols, name = tuple(atoms.symbols), str(atoms.info.get("name", "atoms"))
        columns = {key: atoms.arrays[key] for key in _COLUMNS if key in atoms.arrays}
        default = self.forcefield.molecule.charge
        try:
            meaning = interpret(symbols, atoms.info, columns, "atoms", default_charge=default)
        except FileFormatError as error:
            raise InputError(error.where, error.expected, error.found, error.remedy) from None
        charge = default if meaning.charge is None else meaning.charge
        self._adopted = None
        self.evaluator.adopt(Molecule(symbols, atoms.positions / ANGSTROM, charge, name))
        self._adopted = identity
        tell(name, meaning)


_COLUMNS: Final[tuple[str, ...]] = ("initial_charges", "initial_magmoms")


def _statements(atoms: Atoms) -> _Statements:
    """What atoms say about charge, spin, units and the like, as text that can be compared."""
    said = [(key, str(value)) for key, value in atoms.info.items() if isinstance(key, str) and bears_meaning(key)]
    said += [(key, str(atoms.arrays[key].tolist())) for key in _COLUMNS if key in atoms.arrays]
    return tuple(said)
