r"""Permutations of equivalent atoms, with the mirror image where it applies, from a molecule's graph.

An operation g = (P, sigma) makes of a geometry x the geometry :math:`(g x)_i = \sigma x_{P(i)}`: equal atoms change
places, and for sigma = -1 everything is inverted.  The energy is the same, and an atom's energy moves with it:
:math:`E_i(g x) = E_{P(i)}(x)`.  Kept are the automorphisms of the graph of bonds that a molecule can reach without
breaking a bond: every four-coordinate centre keeps its chirality (so the exchange of the hydrogens of a CH2 group
comes with the mirror image, and a molecule with a chiral centre has no mirror image), every rigid planar bond its cis
and trans sides.

A *rotor* is a centre with three equivalent terminal atoms (methyl).  Its cyclic permutations are not listed among the
operations, because in most atoms' kernels they factorise: the sum over all rotors' permutations is a product of sums
over three, so that three methyl groups cost three times three terms and not twenty-seven.  The whole group is every
operation combined with every cyclic permutation of every rotor.

Local frames are chosen so that symmetry maps them to each other.  An atom that symmetry fixes, while it exchanges the
atoms of its local frame, then has several local frames, and its energy is the sum over them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.local_frame import LocalFrame, cip_local_frames
from fflux_py.molecules.matching import find_rotors, matchings
from fflux_py.molecules.molecule import Molecule, read_only
from fflux_py.typing import FloatArray, IntArray

_MOST_OPERATIONS: Final = 4096
# Of subgroups: operations that generate them, for each hand, and cyclic subgroups that are joined in pairs.
_MOST_TRIED: Final = 256
_MOST_JOINED: Final = 40

_Operation = tuple[IntArray, bool]
_SMALLEST_SINE: Final = 0.3
_SMALLEST_SINE_FAR: Final = 0.15


@dataclass(frozen=True)
class Symmetry:
    """The operations of a molecule.

    Parameters
    ----------
    permutations
        P of every operation, the identity first, shape ``(n_operations, n_atoms)``.
    mirrors
        Whether an operation contains the mirror image, shape ``(n_operations,)``.
    rotors
        The three atoms of every rotor in cyclic order, shape ``(n_rotors, 3)``.
    """

    permutations: IntArray
    mirrors: np.ndarray
    rotors: IntArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "permutations", read_only(self.permutations, np.int64))
        object.__setattr__(self, "mirrors", read_only(self.mirrors, np.bool_))
        object.__setattr__(self, "rotors", read_only(np.reshape(self.rotors, (-1, 3)), np.int64))
        identity = np.arange(self.permutations.shape[-1])
        whole = self.permutations.ndim == 2 and len(self.mirrors) == len(self.permutations) > 0
        if not whole or (np.sort(self.permutations, axis=1) != identity).any():
            raise InputError("symmetry", "permutations of all atoms, with a mirror flag each", "other arrays")
        if (self.permutations[0] != identity).any() or self.mirrors[0]:
            raise InputError("symmetry", "the identity first", str(self.permutations[0]))

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return int(self.permutations.shape[1])

    @property
    def order(self) -> int:
        """Number of operations, those of the rotors included."""
        return int(len(self.permutations) * 3 ** len(self.rotors))

    @property
    def trivial(self) -> bool:
        """Whether there is nothing but the identity."""
        return self.order == 1

    def describe(self) -> str:
        """One line for the user."""
        if self.trivial:
            return "none"
        mirrored = int(self.mirrors.sum())
        words = [f"{len(self.permutations)} permutations of equivalent atoms"]
        if mirrored:
            words.append(f"{mirrored} of them with the mirror image")
        if len(self.rotors):
            words.append(f"{len(self.rotors)} rotor{'s' if len(self.rotors) > 1 else ''} of three atoms")
        return ", ".join(words)

    def all_operations(self) -> Iterator[tuple[IntArray, bool]]:
        """Every element of the group, for tests and small groups."""
        for permutation, mirror in zip(self.permutations, self.mirrors, strict=True):
            for product in self._with_rotors(permutation, range(len(self.rotors))):
                yield product, bool(mirror)

    def images(self, frame: LocalFrame, factorised: bool = True) -> tuple[IntArray, np.ndarray]:
        """Operations that one local frame's training points need, those that factorise in its kernel left out.

        Parameters
        ----------
        frame
            The local frame.
        factorised
            False: list the rotors' permutations too.

        Returns
        -------
        permutations, mirrors
            Shapes ``(n_images, n_atoms)`` and ``(n_images,)``.
        """
        kept = set(self.factorised_rotors(frame)) if factorised else set()
        explicit = [m for m in range(len(self.rotors)) if m not in kept]
        chosen = [
            (product, mirror)
            for permutation, mirror in zip(self.permutations, self.mirrors, strict=True)
            for product in self._with_rotors(permutation, explicit)
        ]
        return np.array([p for p, _ in chosen], dtype=np.int64), np.array([m for _, m in chosen], dtype=np.bool_)

    def factorised_rotors(self, frame: LocalFrame) -> tuple[int, ...]:
        """Rotors none of whose atoms belongs to the local frame."""
        frame_atoms = {frame.atom, frame.x_axis, frame.xy_plane}
        return tuple(m for m, atoms in enumerate(self.rotors) if not frame_atoms & set(atoms.tolist()))

    def _with_rotors(self, permutation: IntArray, rotors: Sequence[int]) -> Iterator[IntArray]:
        """A permutation combined with every cyclic permutation of some rotors."""
        for shifts in itertools.product(range(3), repeat=len(rotors)):
            product = permutation.copy()
            for m, shift in zip(rotors, shifts, strict=True):
                atoms = self.rotors[m]
                product[atoms] = permutation[np.roll(atoms, -shift)]
            yield product

    def apply(self, positions: FloatArray, permutation: IntArray, mirror: bool) -> FloatArray:
        """The operation's image of positions, shape ``(..., n_atoms, 3)``."""
        return np.asarray((-1.0 if mirror else 1.0) * np.asarray(positions)[..., permutation, :])

    def orbits(self) -> IntArray:
        """For every atom the lowest index of the atoms equivalent to it, shape ``(n_atoms,)``."""
        lowest = np.arange(self.n_atoms)
        for generator in self.generators():
            for i, image in enumerate(generator):
                a, b = sorted((lowest[i], lowest[image]))
                lowest[lowest == b] = a
        return lowest

    def orbit_numbers(self) -> IntArray:
        """For every atom the number of its orbit, counted from 0 by the lowest atom, shape ``(n_atoms,)``."""
        return np.asarray(np.unique(self.orbits(), return_inverse=True)[1])

    def generators(self) -> list[IntArray]:
        """Permutations that generate the group."""
        cycles = []
        for atoms in self.rotors:
            cycle = np.arange(self.n_atoms)
            cycle[atoms] = np.roll(atoms, -1)
            cycles.append(cycle)
        return [*self.permutations, *cycles]

    def only_rotors(self) -> Symmetry:
        """The subgroup of the rotors' cyclic permutations."""
        return Symmetry(self.permutations[:1], self.mirrors[:1], self.rotors)


def no_symmetry(n_atoms: int) -> Symmetry:
    """The identity alone."""
    return Symmetry(np.arange(n_atoms)[None], np.zeros(1, dtype=np.bool_), np.zeros((0, 3), dtype=np.int64))


def find_rotor_symmetry(molecule: Molecule) -> Symmetry:
    """The cyclic permutations of a molecule's rotors alone."""
    return Symmetry(np.arange(molecule.n_atoms)[None], np.zeros(1, dtype=np.bool_), np.array(find_rotors(molecule)))


def find_symmetry(molecule: Molecule, most: int = _MOST_OPERATIONS) -> Symmetry:
    """All operations of a molecule, by its graph of bonds, the chirality of its centres and its rigid bonds.

    Parameters
    ----------
    molecule
        The molecule.
    most
        Operations that are of use, rotors apart; a CH2 group may double them, and they are found one by one.

    Raises
    ------
    InputError
        More operations than that.
    """
    operations: list[tuple[IntArray, bool]] = []
    for mirror in (False, True) if molecule.n_atoms > 3 else (False,):
        for permutation in matchings(molecule, molecule, mirror, rotors_once=True):
            if len(operations) == most:
                raise InputError(
                    f"symmetry of {molecule.name!r}", f"at most {most} operations", "more",
                    "train with the rotors alone, or without symmetry",
                )  # fmt: skip
            operations.append((permutation, mirror))
    return _ordered(operations, np.array(find_rotors(molecule), dtype=np.int64))


def find_subgroups(molecule: Molecule, most: int) -> list[Symmetry]:
    """Subgroups of a molecule's operations with at most ``most`` of them, rotors apart; the largest first.

    They are generated by up to three of the first operations that are found, so that no group of any size is listed; of
    equal ones those with more mirror images come first.  All have all rotors.

    Parameters
    ----------
    molecule
        The molecule.
    most
        Operations of a subgroup, rotors apart.
    """
    rotors = np.array(find_rotors(molecule), dtype=np.int64).reshape(-1, 3)
    found = [
        (permutation, mirror)
        for mirror in ((False, True) if molecule.n_atoms > 3 else (False,))
        for permutation in itertools.islice(matchings(molecule, molecule, mirror, rotors_once=True), _MOST_TRIED)
    ]
    cyclic = _generated([[operation] for operation in found], rotors, most)
    groups = cyclic
    for _ in range(2):  # three generators are enough for groups of up to 15 operations
        pairs = itertools.product(list(groups.values())[:_MOST_JOINED], list(cyclic.values())[:_MOST_JOINED])
        groups = groups | _generated([[*one, *other] for one, other in pairs], rotors, most)
    ranked = sorted(
        (-len(group), -sum(mirror for _, mirror in group), sorted((tuple(p), m) for p, m in group))
        for group in groups.values()
    )
    return [_ordered([(np.array(p), m) for p, m in group], rotors) for _, _, group in ranked]


def _ordered(operations: list[_Operation], rotors: IntArray) -> Symmetry:
    """The group of these operations, the identity first."""
    identity = np.arange(len(operations[0][0]))
    operations.sort(key=lambda entry: (entry[1], tuple(entry[0] != identity), tuple(entry[0])))
    return Symmetry(np.array([p for p, _ in operations]), np.array([m for _, m in operations]), rotors)


def _generated(
    generators: Sequence[Sequence[_Operation]], rotors: IntArray, most: int
) -> dict[frozenset[tuple[tuple[int, ...], bool]], list[_Operation]]:
    """The groups of at most ``most`` operations that some sets of operations generate, by what tells them apart.

    Permutations that differ by cyclic ones of rotors are the same operation here.
    """
    groups = {}
    for given in generators:
        n_atoms = len(given[0][0])
        group = {(tuple(range(n_atoms)), False): (np.arange(n_atoms), False)}
        front = list(group.values())
        while front and len(group) <= most:
            permutation, mirror = front.pop()
            for by, by_mirror in given:
                product = (_without_turns(permutation[by], rotors), mirror != by_mirror)
                key = (tuple(product[0].tolist()), product[1])
                if key not in group:
                    group[key] = product
                    front.append(product)
        if len(group) <= most:
            groups[frozenset(group)] = list(group.values())
    return groups


def _without_turns(permutation: IntArray, rotors: IntArray) -> IntArray:
    """The permutation whose rotors have not been turned among those that differ by turns of rotors."""
    product = permutation.copy()
    for atoms in rotors:
        first = int(np.argmin(permutation[atoms]))
        product[atoms] = np.roll(permutation[atoms], -first)
    return product


def symmetric_local_frames(molecule: Molecule, symmetry: Symmetry) -> tuple[LocalFrame, ...]:
    """Local frames that the symmetry maps to each other, ascending by atom; an atom may have several.

    Of the frames that an atom's neighbours and their neighbours span, the one with the fewest images is taken, then
    the one with the fewest rotor atoms, then the one that shares most with the CIP-like frame.  Without symmetry these
    are the CIP-like frames.
    """
    preferred = cip_local_frames(molecule)
    if symmetry.trivial:
        return preferred
    generators = symmetry.generators()
    lowest = symmetry.orbits()
    frames: set[tuple[int, int, int]] = set()
    for atom in np.unique(lowest).tolist():
        choices = [
            (_cost(orbit, preferred[atom], choice, symmetry), choice, orbit)
            for choice in _possible_local_frames(molecule, atom)
            for orbit in [_orbit(choice, generators)]
        ]
        if not choices:
            raise GeometryError(
                f"molecule {molecule.name!r}, atom {atom + 1}", "two neighbours that span a frame with it", "none",
                "train without symmetry",
            )  # fmt: skip
        frames |= min(choices, key=lambda entry: entry[0])[2]
    return tuple(LocalFrame(*frame) for frame in sorted(frames))


def _possible_local_frames(molecule: Molecule, atom: int) -> list[tuple[int, int, int]]:
    """Local frames of an atom with a neighbour and another near atom; along a linear group with one farther away."""
    near, positions = molecule.neighbours, molecule.positions
    for reach in range(2, molecule.n_atoms):
        frames = []
        for x in near[atom]:
            others = set(near[atom]) | set(near[x])
            for _ in range(reach - 2):
                others |= {far for other in others for far in near[other]}
            for y in sorted(others - {atom, x}):
                a, b = positions[x] - positions[atom], positions[y] - positions[atom]
                sine = np.linalg.norm(np.cross(a, b)) / (np.linalg.norm(a) * np.linalg.norm(b))
                if sine > (_SMALLEST_SINE if reach == 2 else _SMALLEST_SINE_FAR):
                    frames.append((atom, x, y))
        if frames:
            return frames
    # three atoms alone may stand on a line
    return [(atom, x, 3 - atom - x) for x in near[atom]] if molecule.n_atoms == 3 else []


def _orbit(frame: tuple[int, int, int], generators: Sequence[IntArray]) -> set[tuple[int, int, int]]:
    reached, front = {frame}, [frame]
    while front:
        current = front.pop()
        for generator in generators:
            a, x, y = (int(generator[i]) for i in current)
            if (a, x, y) not in reached:
                reached.add((a, x, y))
                front.append((a, x, y))
    return reached


def _cost(
    orbit: set[tuple[int, int, int]], preferred: LocalFrame, choice: tuple[int, int, int], symmetry: Symmetry
) -> tuple[int, int, int, tuple[int, int, int]]:
    inside = set(symmetry.rotors.ravel().tolist())
    in_rotors = sum(i in inside for i in choice[1:])
    alike = (choice[1] == preferred.x_axis) + (choice[2] == preferred.xy_plane)
    return len(orbit), in_rotors, -alike, choice
