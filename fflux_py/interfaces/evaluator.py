"""A force field for atoms in any order and hand, which says a word where it knows nothing.

Every door for other programs (ASE, i-PI, OpenMM) evaluates through an :class:`Evaluator`, so that all answer alike.
"""

from __future__ import annotations

import warnings
from typing import Final, Literal, get_args

import numpy as np

from fflux_py.errors import GeometryError, InputError, ModelMismatchError, ReorderedAtomsWarning
from fflux_py.forcefield import ForceField
from fflux_py.molecules.matching import Labels, Matching
from fflux_py.molecules.molecule import Molecule
from fflux_py.optimization.known_region import KnownRegion, OutsideTrainingWarning
from fflux_py.typing import FloatArray

Outside = Literal["warn", "raise", "ignore"]
OUTSIDE: Final[tuple[str, ...]] = get_args(Outside)
"""What happens at a geometry that the model does not know: one warning, an error, or nothing."""


class Evaluator:
    """Energies and forces of a molecule in its own order of atoms.

    Parameters
    ----------
    forcefield
        The force field.
    outside
        What happens outside of what the model knows (:class:`~fflux_py.optimization.known_region.KnownRegion`):
        ``"warn"`` (once), ``"raise"`` (:class:`~fflux_py.errors.GeometryError`) or ``"ignore"``.
    """

    def __init__(self, forcefield: ForceField, outside: Outside = "warn") -> None:
        if outside not in OUTSIDE:
            raise InputError("outside", " or ".join(map(repr, OUTSIDE)), repr(outside))
        self.forcefield = forcefield
        self.outside: Outside = outside
        self.matching: Matching | None = None
        self._labels = Labels(forcefield.molecule)
        self._region = KnownRegion(forcefield)
        self._warned = False

    def adopt(self, molecule: Molecule) -> Matching:
        """Match the atoms of a molecule; all evaluations that follow are in its order.

        Raises
        ------
        ModelMismatchError
            Another molecule than the model's.
        """
        matching = self.forcefield.match(molecule)
        before = self.matching
        same = before is not None and before.mirror == matching.mirror and np.array_equal(before.order, matching.order)
        if not matching.identity and not same:
            text = f"{molecule.name}: {matching.describe()} to fit the model; results are in the order and hand given"
            warnings.warn(text, ReorderedAtomsWarning, stacklevel=3)
        self.matching = matching
        return matching

    def to_model(self, positions: FloatArray) -> FloatArray:
        """Positions (bohr, ``(n_atoms, 3)``) in the model's order and hand.

        They are matched anew if a hand or the bonds have changed.

        Raises
        ------
        GeometryError
            A position that is no number.
        ModelMismatchError
            Another number of atoms, or another molecule.
        """
        if not np.isfinite(positions).all():
            raise GeometryError("positions", "finite numbers", "NaN or infinity", "correct the geometry")
        if self.matching is None:
            self.adopt(self._in_model_order(positions))
        assert self.matching is not None
        x = self.matching.to_reference(positions)
        if not self._labels.keep_chirality(x):
            self.adopt(self._in_known_order(positions))
        elif not self._labels.keep_bonds(x):
            try:
                self.adopt(self._in_known_order(positions))
            except ModelMismatchError:
                return x  # broken bonds, in the order that was: the check of the known region says so
        else:
            return x
        return self.matching.to_reference(positions)

    def evaluate(self, positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Energies of the atoms (hartree, ``(n_atoms,)``) and forces (hartree/bohr, ``(n_atoms, 3)``), in their order.

        Raises
        ------
        GeometryError
            A geometry outside of what the model knows, with ``outside="raise"``; a local frame on a line.
        """
        x = self.to_model(positions)
        energies, forces = self.forcefield.unmatched.atomic_energies_and_forces(x)
        self.check(x, float(energies.sum()))
        assert self.matching is not None
        return self._in_given_order(energies), self.matching.from_reference(forces)

    def atomic_energies(self, positions: FloatArray) -> FloatArray:
        """Energies of the atoms alone (hartree, ``(n_atoms,)``), in their order; errors as of :meth:`evaluate`."""
        x = self.to_model(positions)
        energies = self.forcefield.unmatched.atomic_energies(x)
        self.check(x, float(energies.sum()))
        return self._in_given_order(energies)

    def deviations(self, positions: FloatArray) -> FloatArray:
        """Standard deviations of the atoms' energies (hartree, ``(n_atoms,)``), in their order."""
        return self._in_given_order(self.forcefield.unmatched.atomic_deviations(self.to_model(positions)))

    def _in_given_order(self, values: FloatArray) -> FloatArray:
        """Numbers of the atoms from the model's order to the one given."""
        assert self.matching is not None
        return self.matching.numbers_from_reference(values)

    def check(self, positions: FloatArray, energy: float) -> None:
        """Say a word, or raise, if a geometry in the model's order is outside of what the model knows."""
        if self.outside == "ignore" or (self._warned and self.outside == "warn"):
            return
        reasons = self._region.objections(positions, energy, None if self.matching is None else self.matching.order)
        if not reasons:
            return
        if self.outside == "raise":
            remedy = "label such geometries and train again, or evaluate with outside='warn'"
            raise GeometryError("geometry", "one inside of the model's training data", "; ".join(reasons), remedy)
        self._warned = True
        text = f"outside of the model's training data, energy and forces are no answer: {'; '.join(reasons)}"
        warnings.warn(text, OutsideTrainingWarning, stacklevel=4)

    def _in_known_order(self, positions: FloatArray) -> Molecule:
        """A molecule of positions with the elements that stood at these places so far."""
        assert self.matching is not None
        model, symbols = self.forcefield.molecule, [""] * len(positions)
        for atom, index in enumerate(self.matching.order):
            symbols[index] = model.symbols[atom]
        return Molecule(tuple(symbols), positions, model.charge, "the new geometry")

    def _in_model_order(self, positions: FloatArray) -> Molecule:
        """A molecule of positions alone: what has no elements is taken to stand in the model's order."""
        model = self.forcefield.molecule
        if len(positions) != model.n_atoms:
            model = Molecule(model.symbols[:1] * len(positions), positions, model.charge, "positions")
            return model
        return Molecule(model.symbols, positions, model.charge, "positions")
