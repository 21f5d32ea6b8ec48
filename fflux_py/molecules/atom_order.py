"""The order and hand of atoms that a model knows, and geometries that are brought into them.

Bonds, hands and sides (:mod:`fflux_py.molecules.matching`) tell most orders of atoms apart.  They do not tell the
hydrogens of a methyl group, the two ends of a symmetric molecule, or a twisted conformer (hydrazine, allene's two
planes) from its mirror image: there the energy is the same in several orders, but a model without that symmetry knows
the one of its training data only.  So an order in which a distance is outside of the training data, or four atoms have
a hand that they have nowhere in them, gives way to one in which all is known, or much less is strange.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fflux_py._compiled.atom_labels import LabelArrays, first_misfit
from fflux_py.errors import InputWarning
from fflux_py.molecules.handedness import handedness, sides
from fflux_py.molecules.matching import BROKEN, FLAT, LONG, SQUEEZED, STRETCHED, Labels, Matching, match, matchings
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.molecules.symmetry import Symmetry, no_symmetry
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM

# Orders of a molecule's atoms that are its symmetry; so many are tried.
_MOST_ORDERS: Final = 5000
# An order gives way to one that is stranger by less than this part; an unknown hand counts as so many bohr^2.
_BETTER: Final = 0.25
_UNKNOWN_HAND: Final = 1e3
# Bonds of a distorted geometry in angstrom, over those of the reference in bohr, are 0.53 within this part.
_AS_IN_ANGSTROM: Final = 0.25
# Four atoms, and training geometries, that are looked at for hands that the model knows.
_MOST_QUADRUPLES: Final = 3000
_MOST_GEOMETRIES: Final = 200


@dataclass(frozen=True)
class AtomOrder:
    """The order and hand of the atoms of a model.

    Parameters
    ----------
    reference
        The molecule, at a geometry with all bonds.
    shortest, longest
        Distances (bohr) of all pairs of atoms that the model knows, shape ``(n_atoms, n_atoms)``.
    training, operations
        Training geometries (bohr, ``(m, n_atoms, 3)``) and the model's symmetry; None where they are not known.
    """

    reference: Molecule
    shortest: FloatArray
    longest: FloatArray
    training: FloatArray | None = None
    operations: Symmetry | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shortest", read_only(self.shortest))
        object.__setattr__(self, "longest", read_only(self.longest))

    @cached_property
    def arrays(self) -> LabelArrays:
        """What the compiled check takes."""
        labels = Labels(self.reference)
        quadruples, signs = self.known_hands
        return LabelArrays(
            bonds=labels.bonds,
            squeezed=SQUEEZED * labels.lengths,
            broken=BROKEN * labels.lengths,
            stretched=LONG * labels.lengths,
            most_stretched=STRETCHED,
            centres=np.concatenate([labels.centres, quadruples]),
            hands=np.concatenate([labels.hands, signs]),
            paths=labels.rigid_paths,
            sides=np.sign(sides(self.reference.positions, labels.rigid_paths)),
            shortest=np.array(self.shortest),
            longest=np.array(self.longest),
        )

    @cached_property
    def symmetry(self) -> tuple[Matching, ...]:
        """The other orders of the reference's atoms that have its bonds, hands and sides, those without mirror first.

        Of very many only the first :data:`_MOST_ORDERS`.
        """
        orders = [
            Matching(order, mirror)
            for mirror in (False, True)
            for order in itertools.islice(matchings(self.reference, self.reference, mirror), _MOST_ORDERS)
        ]
        return tuple(order for order in orders if not order.identity)

    @cached_property
    def known_hands(self) -> tuple[IntArray, FloatArray]:
        """Four atoms each, and the sign of their triple product in all training geometries and their images.

        Of all such, one for every order in :attr:`symmetry` that it tells from the training data.
        """
        none = np.empty((0, 4), dtype=np.int64), np.empty(0)
        if self.training is None or self.reference.n_atoms < 4:
            return none
        operations = list(itertools.islice((self.operations or no_symmetry(len(self.shortest))).all_operations(), 100))
        group = {(tuple(order.tolist()), bool(mirror)) for order, mirror in operations}
        others = [g for g in self.symmetry if (tuple(g.order.tolist()), g.mirror) not in group]
        if not others:
            return none
        quadruples = np.array(list(itertools.combinations(range(self.reference.n_atoms), 4)))
        if len(quadruples) > _MOST_QUADRUPLES:
            quadruples = quadruples[np.linspace(0, len(quadruples) - 1, _MOST_QUADRUPLES).astype(int)]
        some = self.training[np.unique(np.linspace(0, len(self.training) - 1, _MOST_GEOMETRIES).astype(int))]
        images = (Matching(order, bool(mirror)).to_reference(some) for order, mirror in operations)
        bounds = [(v.min(axis=0), v.max(axis=0)) for v in (handedness(x, quadruples) for x in images)]
        low, high = np.min([b[0] for b in bounds], axis=0), np.max([b[1] for b in bounds], axis=0)
        clear = np.where(low > FLAT, low, np.where(high < -FLAT, high, 0.0))
        chosen = set()
        for other in others:
            values = handedness(other.to_reference(some), quadruples) * np.sign(clear)
            told = np.where(values.max(axis=0) < 0.0, np.abs(clear), 0.0)
            if told.max() > 0.0:
                chosen.add(int(told.argmax()))
        rows = np.array(sorted(chosen), dtype=np.int64)
        return quadruples[rows], np.sign(clear[rows])

    def match(self, geometry: Molecule) -> Matching:
        """How the atoms of a geometry must be reordered, and whether inverted, to be those of the model.

        Raises
        ------
        ModelMismatchError
            Other elements, charge, bonds or chirality than the model's.
        """
        matching = match(self.reference, geometry)
        x = matching.to_reference(geometry.positions)
        best, lowest = matching, _BETTER * self._strangeness(x[None])[0]
        for first in range(0, len(self.symmetry) if lowest > 0.0 else 0, 100):
            some = self.symmetry[first : first + 100]
            strangeness = self._strangeness(np.array([order.to_reference(x) for order in some]))
            k = int(strangeness.argmin())
            if strangeness[k] < lowest:
                best, lowest = some[k].after(matching), strangeness[k]
        return best

    def match_positions(self, positions: FloatArray) -> dict[int, Matching]:
        """The same for geometries without elements, which are taken to stand in the model's order.

        Parameters
        ----------
        positions
            Bohr, shape ``(k, n_atoms, 3)``, C-contiguous.

        Returns
        -------
        For the indices of those that have to be reordered or inverted, how.

        Raises
        ------
        ModelMismatchError
            Other bonds or chirality than the model's.
        GeometryError
            Two atoms on one spot.

        Warns
        -----
        InputWarning
            Bonds as short as if the positions were in angstrom.
        """
        found: dict[int, Matching] = {}
        told = False
        k = first_misfit(positions, self.arrays)
        begin = 0
        while k >= 0:
            begin += k
            name = "positions" if len(positions) == 1 else f"positions, geometry {begin + 1}"
            geometry = Molecule(self.reference.symbols, positions[begin], self.reference.charge, name)
            told = told or self._tell_another_unit(geometry)
            matching = self.match(geometry)
            if not matching.identity:
                found[begin] = matching
            begin += 1
            k = first_misfit(positions[begin:], self.arrays)
        return found

    def _tell_another_unit(self, geometry: Molecule) -> bool:
        """Warn of a geometry all of whose bonds are as short as if its positions were in angstrom; whether they are."""
        labels = Labels(self.reference)
        ratios = np.linalg.norm(np.diff(geometry.positions[labels.bonds], axis=1)[:, 0], axis=1) / labels.lengths
        if not len(ratios) or not (np.abs(ratios / ANGSTROM - 1.0) < _AS_IN_ANGSTROM).all():
            return False
        text = "times as long as in the model, as if positions were in angstrom; they are taken as bohr"
        warnings.warn(f"{geometry.name}: bonds are {np.median(ratios):.2f} {text}", InputWarning, stacklevel=5)
        return True

    def _strangeness(self, positions: FloatArray) -> FloatArray:
        """How far geometries, ``(k, n_atoms, 3)``, are from what the model knows, ``(k,)``; zero inside.

        The sum of the squares by which distances are outside (bohr^2), and much for every hand that is unknown.
        """
        quadruples, signs = self.known_hands
        hands = (handedness(positions, quadruples) * signs <= 0.0).sum(axis=-1)
        lengths = np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1)
        outside = lengths - np.clip(lengths, self.shortest, self.longest)
        return np.asarray((outside**2).sum(axis=(-1, -2)) + _UNKNOWN_HAND * hands)
