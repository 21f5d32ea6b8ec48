r"""Which atom of a geometry is which atom of a molecule: bonds, handedness and sides of rigid bonds decide.

Elements in the same order are not enough: the exchange of the two hydrogens of a CH2 group is, to the labels, the
mirror image of the rest of the molecule, and a model that learnt one order knows nothing of the other.  A *matching* is
a permutation P of the atoms and a sign sigma with which a geometry x has the labels of the reference,
:math:`x'_i = \sigma x_{P(i)}`.  The energy is the same, and forces go back by the inverse.

The search maps the skeleton (all atoms but the terminal ones) neighbour by neighbour and gives up a branch at the first
four-coordinate centre whose handedness does not fit; terminal atoms follow centre by centre.  So a CH2 group costs
nothing, and rings and chains of any length are searched in an instant.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from fflux_py.errors import ModelMismatchError
from fflux_py.molecules.handedness import handedness, sides
from fflux_py.molecules.molecule import Molecule, check_same_molecule, covalent_radius, read_only
from fflux_py.typing import BoolArray, FloatArray, IntArray

# Triple products of unit vectors below this belong to a centre that is too flat to have a hand.
FLAT: Final = 0.1
# Bonds shorter than this part of the sum of covalent radii do not turn (double, aromatic, amide).
RIGID: Final = 0.92
# ... and below these, by elements, it is a double bond, which does not turn at any temperature of interest.
_DOUBLE: Final = {("C", "C"): 0.89, ("C", "N"): 0.86, ("N", "N"): 0.90}
_PLANAR_NEIGHBOURS: Final = 3
# A bond longer than this times its length in the reference is stretched; so many may be.
LONG: Final = 1.3
STRETCHED: Final = 2
# A bond longer than this times its length in the reference is broken, one shorter than that is none.
BROKEN: Final = 1.7
SQUEEZED: Final = 0.5
# So many pairs of atoms that are not bonded may have met.
_MET: Final = 2
# Sums of squared differences of distances (bohr^2) that are equal.
_SAME: Final = 1e-6
_ANOTHER: Final = "{} is another molecule: it needs data and a model of its own"


@dataclass(frozen=True)
class Matching:
    r"""How a geometry has to be reordered, and whether inverted, to have the labels of a reference molecule.

    Parameters
    ----------
    order
        P, for every atom of the reference the index of its atom in the geometry, shape ``(n_atoms,)``.
    mirror
        Whether the geometry is inverted too (sigma = -1).
    """

    order: IntArray
    mirror: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", read_only(self.order, np.int64))

    @property
    def identity(self) -> bool:
        """Whether there is nothing to do."""
        return not self.mirror and bool((self.order == np.arange(len(self.order))).all())

    def to_reference(self, vectors: FloatArray) -> FloatArray:
        """Positions, velocities or forces of the geometry, in the reference's order and hand, ``(..., n_atoms, 3)``."""
        return np.asarray((-1.0 if self.mirror else 1.0) * np.asarray(vectors)[..., self.order, :])

    def from_reference(self, vectors: FloatArray) -> FloatArray:
        """The way back of :meth:`to_reference`."""
        return np.asarray((-1.0 if self.mirror else 1.0) * np.asarray(vectors)[..., np.argsort(self.order), :])

    def numbers_from_reference(self, numbers: FloatArray) -> FloatArray:
        """Numbers of atoms, such as their energies, back in the geometry's order, shape ``(..., n_atoms)``."""
        return np.asarray(np.asarray(numbers)[..., np.argsort(self.order)])

    def after(self, first: Matching) -> Matching:
        """Both, one after the other: ``first``, then this one."""
        return Matching(first.order[self.order], first.mirror != self.mirror)

    def reorder(self, geometry: Molecule) -> Molecule:
        """The geometry in the reference's order and hand; itself if there is nothing to do."""
        if self.identity:
            return geometry
        symbols = tuple(geometry.symbols[i] for i in self.order)
        return Molecule(symbols, self.to_reference(geometry.positions), geometry.charge, geometry.name)

    @property
    def inverse(self) -> Matching:
        """The way back."""
        return Matching(np.argsort(self.order), self.mirror)

    def describe(self) -> str:
        """What was done, for the user: for instance 'atoms 7 and 8 exchanged'."""
        moved = np.flatnonzero(self.order != np.arange(len(self.order)))
        words = []
        if len(moved) == 2:
            words.append(f"atoms {moved[0] + 1} and {moved[1] + 1} exchanged")
        elif len(moved):
            words.append(f"{len(moved)} atoms reordered")
        if self.mirror:
            words.append("taken as its mirror image, whose energy is the same")
        return ", ".join(words) or "nothing to do"


@dataclass(frozen=True)
class Labels:
    """What tells the labelled atoms of a molecule apart: its bonds, hands and sides, at a reference geometry.

    Parameters
    ----------
    reference
        The molecule at a geometry with all bonds.
    """

    reference: Molecule

    @cached_property
    def centres(self) -> IntArray:
        """Neighbours of the four-coordinate centres that have a hand, shape ``(n_centres, 4)``."""
        around = [near for near in self.reference.neighbours if len(near) == 4]
        chosen = [near for near in around if abs(handedness(self.reference.positions, np.array(near))) > FLAT]
        return np.array(chosen, dtype=np.int64).reshape(-1, 4)

    @cached_property
    def hands(self) -> FloatArray:
        """Sign of the handedness of every centre, shape ``(n_centres,)``."""
        return np.asarray(np.sign(handedness(self.reference.positions, self.centres)))

    @cached_property
    def rigid_paths(self) -> IntArray:
        """Atoms (i, j, k, l) along every bond j-k that does not turn, shape ``(n_paths, 4)``."""
        return self._paths(self._rigid_bonds)

    @cached_property
    def double_paths(self) -> IntArray:
        """Those of them along double bonds, shape ``(n_paths, 4)``."""
        double = []
        for (j, k), ratio in self._rigid_bonds.items():
            first, second = sorted((self.reference.symbols[j], self.reference.symbols[k]))
            if ratio <= _DOUBLE.get((first, second), 0.0):
                double.append((j, k))
        return self._paths(double)

    @cached_property
    def _rigid_bonds(self) -> dict[tuple[int, int], float]:
        """Lengths of the rigid bonds over the sums of covalent radii."""
        near, symbols = self.reference.neighbours, self.reference.symbols
        radii = np.array([covalent_radius(symbols[j]) + covalent_radius(symbols[k]) for j, k in self.reference.bonds])
        return {
            (j, k): float(ratio)
            for (j, k), ratio in zip(self.reference.bonds, self.lengths / radii, strict=True)
            if ratio <= RIGID and max(len(near[j]), len(near[k])) <= _PLANAR_NEIGHBOURS
        }

    def _paths(self, bonds: Iterable[tuple[int, int]]) -> IntArray:
        """Paths along bonds; along a linear group there are no sides."""
        near, straight = self.reference.neighbours, self.reference.is_straight
        paths = [(i, j, k, m) for j, k in bonds for i in near[j] for m in near[k] if i != k and m != j]
        paths = [(i, j, k, m) for i, j, k, m in paths if not straight(i, j, k) and not straight(j, k, m)]
        return np.array(paths, dtype=np.int64).reshape(-1, 4)

    @cached_property
    def bonds(self) -> IntArray:
        """Bonds (i, j), shape ``(n_bonds, 2)``."""
        return np.array(self.reference.bonds, dtype=np.int64).reshape(-1, 2)

    @cached_property
    def lengths(self) -> FloatArray:
        """Lengths of the bonds in the reference (bohr), shape ``(n_bonds,)``."""
        return _lengths(self.reference.positions, self.bonds)

    def keep_bonds(self, positions: FloatArray) -> BoolArray:
        """Which geometries have all bonds, shape ``(...)``.

        None is longer than :data:`BROKEN` times its length in the reference, or shorter than :data:`SQUEEZED` times,
        and at most two are stretched beyond :data:`LONG` times: another order of atoms makes more of them long.
        """
        stretch = _lengths(positions, self.bonds) / self.lengths
        whole = ((stretch <= BROKEN) & (stretch >= SQUEEZED)).all(axis=-1)
        return np.asarray(whole & ((stretch > LONG).sum(axis=-1) <= STRETCHED))

    def keep_chirality(self, positions: FloatArray) -> BoolArray:
        """Which geometries have the reference's handedness at every centre, shape ``(...)``."""
        return np.asarray((handedness(positions, self.centres) * self.hands > 0.0).all(axis=-1))

    def keep_sides(self, positions: FloatArray, double: bool = False) -> BoolArray:
        """Which geometries have the reference's sides (cis, trans) along every rigid bond, shape ``(...)``.

        With ``double`` only double bonds count.
        """
        paths = self.double_paths if double else self.rigid_paths
        here, there = sides(positions, paths), sides(self.reference.positions, paths)
        return np.asarray((here * there >= 0.0).all(axis=-1))


def match(reference: Molecule, geometry: Molecule) -> Matching:
    """How a geometry must be reordered to have the labels of a reference molecule.

    The order as it is wins if bonds, hands and rigid sides fit; then an order without the mirror image, then the order
    as it is with it, then others with it; of several the one whose distances are most like the reference's.  A
    stretched or twisted geometry that no other order explains better keeps its order.

    Parameters
    ----------
    reference
        The molecule that a model or a data set belongs to, at a geometry with all bonds.
    geometry
        A geometry of the same molecule, in any order of atoms.

    Raises
    ------
    ModelMismatchError
        Other elements or charge, another graph of bonds, pieces, or a stereoisomer that is not the mirror image.
    """
    where = f"molecule {geometry.name!r}"
    if sorted(reference.symbols) != sorted(geometry.symbols) or reference.charge != geometry.charge:
        check_same_molecule(reference, geometry)
    labels = Labels(reference)
    identity = np.arange(reference.n_atoms)
    same_order = reference.symbols == geometry.symbols
    x = geometry.positions
    kept = same_order and bool(labels.keep_bonds(x))
    for turned in (False, True):
        for mirror in (False, True):
            whole = kept and labels.keep_sides(x, double=turned)
            if whole and labels.keep_chirality(-x if mirror else x):
                return Matching(identity, mirror)
            order = _nearest(reference, geometry, matchings(reference, geometry, mirror, turned))
            if order is not None:
                return Matching(order, mirror)
    # a bond is stretched, or two atoms that are not bonded have met
    few = len(set(geometry.bonds) - set(reference.bonds)) <= _MET
    if same_order and few and labels.keep_bonds(x) and labels.keep_sides(x, double=True):
        for mirror in (False, True):
            if labels.keep_chirality(-x if mirror else x):
                return Matching(identity, mirror)
    raise ModelMismatchError(where, *_difference(labels, geometry))


def _nearest(reference: Molecule, geometry: Molecule, orders: Iterator[IntArray], most: int = 5000) -> IntArray | None:
    """The order in which distances are most like the reference's, of the first ``most``; of equals the first.

    Cyclic orders of a methyl group are all right, but a model without symmetry knows the ones near its reference.
    """
    expected, distances = (_all_distances(m.positions) for m in (reference, geometry))
    best, smallest = None, np.inf
    for order in itertools.islice(orders, most):
        difference = float(((distances[np.ix_(order, order)] - expected) ** 2).sum())
        if difference < smallest - _SAME:
            best, smallest = order, difference
    return best


def _all_distances(positions: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.norm(positions[:, None] - positions[None], axis=-1))


def _difference(labels: Labels, geometry: Molecule) -> tuple[str, str, str]:
    """What was expected, what was found, and a remedy, for a geometry that cannot be matched."""
    reference = labels.reference
    pieces = connected_pieces(geometry)
    if len(pieces) > len(connected_pieces(reference)):
        return in_pieces(pieces)
    if reference.symbols == geometry.symbols and labels.keep_bonds(geometry.positions):
        if not labels.keep_sides(geometry.positions, double=True):
            return "the sides (cis, trans) of the double bonds", "others", _ANOTHER.format("a stereoisomer")
        hands = handedness(geometry.positions, labels.centres) * labels.hands
        centre = [set(reference.neighbours[c]) for c in range(reference.n_atoms)]
        wrong = [centre.index(set(labels.centres[k].tolist())) for k in np.flatnonzero(hands <= 0.0)]
        atoms = ", ".join(f"{reference.symbols[c]}{c + 1}" for c in wrong)
        return (
            "the reference's handedness at every centre, or the mirror image's", f"another at {atoms}",
            _ANOTHER.format("a stereoisomer"),
        )  # fmt: skip
    expected = f"the bonds of {reference.name!r} ({_bond_kinds(reference)})"
    return expected, _bond_kinds(geometry), _ANOTHER.format("an isomer")


def connected_pieces(molecule: Molecule) -> list[set[int]]:
    """Atoms of every piece of a molecule that bonds hold together."""
    pieces: list[set[int]] = []
    for atom in _connected_order(range(molecule.n_atoms), molecule.neighbours):
        near = [piece for piece in pieces if piece & set(molecule.neighbours[atom])]
        pieces = [piece for piece in pieces if piece not in near] + [{atom}.union(*near)]
    return pieces


def in_pieces(pieces: list[set[int]]) -> tuple[str, str, str]:
    """What was expected, what was found, and a remedy, for a molecule in several pieces."""
    if all(len(piece) == 1 for piece in pieces):
        remedy = "are the coordinates in another unit, such as bohr in a file of angstrom?"
        return "one molecule in one piece", f"{len(pieces)} atoms without a bond", remedy
    sizes = ", ".join(str(len(piece)) for piece in pieces)
    remedy = "unwrap a molecule that a periodic cell cut, take out others, or bring back a bond that is too long"
    return "one molecule in one piece", f"{len(pieces)} pieces of {sizes} atoms", remedy


def _bond_kinds(molecule: Molecule) -> str:
    """Numbers of bonds by elements, for instance '1 C-C, 5 C-H, 1 C-O, 1 H-O'."""
    kinds = ["-".join(sorted((molecule.symbols[i], molecule.symbols[j]))) for i, j in molecule.bonds]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def matchings(
    reference: Molecule, other: Molecule, mirror: bool, turned: bool = False, rotors_once: bool = False
) -> Iterator[IntArray]:
    """All orders of the atoms of ``other`` that have the reference's elements, bonds, hands and rigid sides.

    Parameters
    ----------
    reference, other
        Two geometries; equal for the symmetry of one.
    mirror
        Whether ``other`` is inverted.
    turned
        Whether rigid bonds other than double ones (amides) may have turned.
    rotors_once
        Whether the atoms of rotors (:func:`find_rotors`) come in one of their three cyclic orders only.

    Yields
    ------
    For every atom of the reference the index of its atom in ``other``, shape ``(n_atoms,)``.
    """
    if sorted(reference.symbols) != sorted(other.symbols) or len(reference.bonds) != len(other.bonds):
        return
    search = _Search(reference, other, mirror, rotors_once)
    labels = Labels(reference)
    for skeleton in search.skeletons({}):
        for terminals in itertools.product(*search.choices_of_terminals(skeleton)):
            order = np.full(reference.n_atoms, -1, dtype=np.int64)
            for atom, image in itertools.chain(skeleton.items(), *terminals):
                order[atom] = image
            if labels.keep_sides(other.positions[order], double=turned):
                yield order


def find_rotors(molecule: Molecule) -> list[tuple[int, int, int]]:
    """The atoms of every rotor, by its centre: four neighbours, three of them terminal atoms of one element."""
    rotors = []
    for around in molecule.neighbours:
        ends = [a for a in around if len(molecule.neighbours[a]) == 1]
        if len(around) == 4 and len(ends) == 3 and len({molecule.symbols[a] for a in ends}) == 1:
            rotors.append((ends[0], ends[1], ends[2]))
    return rotors


class _Search:
    """The search for :func:`matchings`."""

    def __init__(self, reference: Molecule, other: Molecule, mirror: bool, rotors_once: bool) -> None:
        self._near, self._images_near = reference.neighbours, other.neighbours
        self._symbols, self._image_symbols = reference.symbols, other.symbols
        self._positions, self._image_positions = reference.positions, other.positions
        self._sign = -1.0 if mirror else 1.0
        self._skeleton = _skeleton(reference)
        self._terminals = [[b for b in near if b not in self._skeleton] for near in self._near]
        images = _skeleton(other)
        self._image_terminals = [[b for b in near if b not in images] for near in self._images_near]
        self._images = sorted(images)
        self._order = _connected_order(sorted(self._skeleton), self._near)
        self._rotors = set(find_rotors(reference)) if rotors_once else set()
        labels = Labels(reference)
        self._hand_of = {
            frozenset(around.tolist()): (around.tolist(), hand)
            for around, hand in zip(labels.centres, labels.hands, strict=True)
        }

    def skeletons(self, mapping: dict[int, int]) -> Iterator[dict[int, int]]:
        """All ways to go on with a mapping of skeleton atoms."""
        if len(mapping) == len(self._order):
            yield dict(mapping)
            return
        atom = self._order[len(mapping)]
        taken = set(mapping.values())
        before = [b for b in self._near[atom] if b in mapping]
        candidates = self._images_near[mapping[before[0]]] if before else self._images
        for image in candidates:
            if image in taken or self._colour(atom) != self._image_colour(image):
                continue
            if all((mapping[b] in self._images_near[image]) == (b in before) for b in mapping):
                mapping[atom] = image
                if all(self._keeps_hand(c, mapping) for c in (atom, *self._near[atom])):
                    yield from self.skeletons(mapping)
                del mapping[atom]

    def choices_of_terminals(self, skeleton: dict[int, int]) -> list[list[list[tuple[int, int]]]]:
        """For every centre the ways to map its terminal atoms that keep its hand."""
        choices = []
        for centre in self._order:
            atoms, images = self._terminals[centre], self._image_terminals[skeleton[centre]]
            if not atoms:
                continue
            kept = []
            for permuted in itertools.permutations(images):
                pairs = list(zip(atoms, permuted, strict=True))
                alike = all(self._symbols[a] == self._image_symbols[b] for a, b in pairs)
                if alike and self._keeps_hand(centre, {**skeleton, **dict(pairs)}):
                    kept.append(pairs)
            choices.append(kept[:1] if tuple(atoms) in self._rotors else kept)
        return choices

    def _colour(self, atom: int) -> tuple[str, int, tuple[str, ...]]:
        return (
            self._symbols[atom],
            len(self._near[atom]),
            tuple(sorted(self._symbols[b] for b in self._terminals[atom])),
        )

    def _image_colour(self, image: int) -> tuple[str, int, tuple[str, ...]]:
        ends = sorted(self._image_symbols[b] for b in self._image_terminals[image])
        return self._image_symbols[image], len(self._images_near[image]), tuple(ends)

    def _keeps_hand(self, centre: int, mapping: dict[int, int]) -> bool:
        around, hand = self._hand_of.get(frozenset(self._near[centre]), (None, 0.0))
        if around is None or centre not in mapping or any(a not in mapping for a in around):
            return True
        image = np.array([mapping[a] for a in around])
        return bool(handedness(self._image_positions, image) * hand * self._sign > 0.0)


def _skeleton(molecule: Molecule) -> set[int]:
    """Atoms with more than one neighbour; of a piece of two atoms or one, all."""
    near = molecule.neighbours
    return {a for a in range(molecule.n_atoms) if len(near[a]) != 1 or len(near[near[a][0]]) == 1}


def _connected_order(atoms: Sequence[int], near: Sequence[Sequence[int]]) -> list[int]:
    """Atoms, each after one of its neighbours where possible."""
    among, order, seen = set(atoms), [], set()
    for first in atoms:
        front = [first]
        while front:
            atom = front.pop(0)
            if atom not in seen:
                seen.add(atom)
                order.append(atom)
                front += [b for b in near[atom] if b in among and b not in seen]
    return order


def _lengths(positions: FloatArray, bonds: IntArray) -> FloatArray:
    x = np.asarray(positions)
    return np.asarray(np.linalg.norm(x[..., bonds[:, 0], :] - x[..., bonds[:, 1], :], axis=-1))
