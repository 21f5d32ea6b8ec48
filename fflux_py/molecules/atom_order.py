"""The order and hand of atoms that a model knows, and geometries that are brought into them.

Bonds, hands and sides (:mod:`fflux_py.molecules.matching`) tell most orders of atoms apart.  They do not tell the
hydrogens of a methyl group, or the two ends of a symmetric molecule: there the energy is the same in several orders,
but a model without symmetry knows the one of its training data only.  So an order in which a distance is outside of the
training data gives way to one in which all distances are inside.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fflux_py._compiled.atom_labels import LabelArrays, first_misfit
from fflux_py.molecules.handedness import sides
from fflux_py.molecules.matching import BROKEN, LONG, SQUEEZED, STRETCHED, Labels, Matching, match, matchings
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.typing import FloatArray

# Orders of a molecule's atoms that are its symmetry; so many are tried.
_MOST_ORDERS: Final = 5000


@dataclass(frozen=True)
class AtomOrder:
    """The order and hand of the atoms of a model.

    Parameters
    ----------
    reference
        The molecule, at a geometry with all bonds.
    shortest, longest
        Distances (bohr) of all pairs of atoms that the model knows, shape ``(n_atoms, n_atoms)``.
    """

    reference: Molecule
    shortest: FloatArray
    longest: FloatArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "shortest", read_only(self.shortest))
        object.__setattr__(self, "longest", read_only(self.longest))

    @cached_property
    def arrays(self) -> LabelArrays:
        """What the compiled check takes."""
        labels = Labels(self.reference)
        return LabelArrays(
            bonds=labels.bonds,
            squeezed=SQUEEZED * labels.lengths,
            broken=BROKEN * labels.lengths,
            stretched=LONG * labels.lengths,
            most_stretched=STRETCHED,
            centres=labels.centres,
            hands=labels.hands,
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

    def match(self, geometry: Molecule) -> Matching:
        """How the atoms of a geometry must be reordered, and whether inverted, to be those of the model.

        Raises
        ------
        ModelMismatchError
            Other elements, charge, bonds or chirality than the model's.
        """
        matching = match(self.reference, geometry)
        x = matching.to_reference(geometry.positions)
        if self._knows_distances(x[None])[0]:
            return matching
        for first in range(0, len(self.symmetry), 100):
            some = self.symmetry[first : first + 100]
            known = self._knows_distances(np.array([order.to_reference(x) for order in some]))
            if known.any():
                return some[int(known.argmax())].after(matching)
        return matching

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
        """
        found: dict[int, Matching] = {}
        k = first_misfit(positions, self.arrays)
        begin = 0
        while k >= 0:
            begin += k
            name = "positions" if len(positions) == 1 else f"positions, geometry {begin + 1}"
            geometry = Molecule(self.reference.symbols, positions[begin], self.reference.charge, name)
            matching = self.match(geometry)
            if not matching.identity:
                found[begin] = matching
            begin += 1
            k = first_misfit(positions[begin:], self.arrays)
        return found

    def _knows_distances(self, positions: FloatArray) -> FloatArray:
        lengths = np.linalg.norm(positions[..., :, None, :] - positions[..., None, :, :], axis=-1)
        return np.asarray(((lengths >= self.shortest) & (lengths <= self.longest)).all(axis=(-1, -2)))
