"""A molecule: elements, a geometry, a charge, and what follows from them alone (masses, bonds)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from fflux_py.errors import GeometryError, InputError, ModelMismatchError
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, DALTON

if TYPE_CHECKING:
    from ase import Atoms

# Covalent radii (angstrom) and valences of the connectivity rule behind the CIP-like frames; H, C, N, O, F and S are
# those of ICHOR (reference: FORMATS, section a), the others are single-bond radii of the same series.
_COVALENT_RADIUS: Final = {"H": 0.37, "C": 0.77, "N": 0.75, "O": 0.73, "F": 0.71, "S": 1.02, "P": 1.06, "Cl": 0.99,
                           "Si": 1.11, "B": 0.82, "Br": 1.14, "I": 1.33}  # fmt: skip
_VALENCE: Final = {"H": 1, "C": 4, "N": 5, "O": 6}
_BOND_FACTOR: Final = 1.25
_COINCIDENCE: Final = 0.2 / ANGSTROM
# Coordinates from here on, bohr, are no positions of atoms in a molecule: five centimetres.
_FARTHEST: Final = 1e9
# Angles above this have no torsion: 165 degrees.
_STRAIGHT_COSINE: Final = float(np.cos(np.radians(165.0)))

Torsion = tuple[int, int, int, int]
"""Atom indices i-j-k-l of a torsion, from 0."""


def is_element(symbol: str) -> bool:
    """Whether ``symbol`` is that of a chemical element (ASE's placeholder X is none)."""
    return symbol != "X" and symbol in atomic_numbers


def check_elements(symbols: Sequence[str], where: str) -> None:
    """Refuse symbols that are not elements; ``where`` names their source in the message."""
    for index, symbol in enumerate(symbols):
        if not is_element(symbol):
            raise InputError(f"{where}, atom {index + 1}", "an element symbol", repr(symbol), "correct the symbol")


def check_positions(positions: FloatArray, where: str) -> None:
    """Refuse positions (bohr, ``(n_atoms, 3)``) that hold NaN or centimetres, or two atoms closer than 0.2 angstrom."""
    outside = ~(np.abs(positions) < _FARTHEST)
    if outside.any():
        atom, axis = np.argwhere(outside)[0]
        value = positions[atom, axis]
        found = f"{value * ANGSTROM:.3g} angstrom" if np.isfinite(value) else "NaN or infinity"
        raise GeometryError(f"{where}, atom {atom + 1}", "finite coordinates", found, "correct the file")
    if len(positions) > 1:
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        np.fill_diagonal(distance, np.inf)
        i, j = np.unravel_index(int(distance.argmin()), distance.shape)
        if distance[i, j] < _COINCIDENCE:
            raise GeometryError(
                f"{where}, atoms {min(i, j) + 1} and {max(i, j) + 1}",
                f"a distance of at least {_COINCIDENCE * ANGSTROM:.1f} angstrom",
                f"{distance[i, j] * ANGSTROM:.4f} angstrom",
                "two atoms stand on one spot: correct the geometry",
            )


def read_only(array: object, dtype: type = np.float64) -> NDArray[Any]:
    """Return a C-contiguous, read-only copy of ``array``, which must not be complex (:class:`TypeError`)."""
    values = np.asarray(array)
    if values.dtype.kind == "c":
        raise TypeError("complex numbers where real ones were expected")
    copy: NDArray[Any] = np.array(values, dtype=dtype, order="C")
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True)
class Molecule:
    """Elements and one geometry of a molecule.

    Parameters
    ----------
    symbols
        Element symbols; their order is the order of atoms everywhere.
    positions
        Positions in bohr, shape ``(n_atoms, 3)``.
    charge
        Net charge in elementary charges.
    name
        A short name for files and reports.
    """

    symbols: tuple[str, ...]
    positions: FloatArray
    charge: int = 0
    name: str = "molecule"

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))
        object.__setattr__(self, "positions", read_only(self.positions))
        if not self.symbols:
            raise InputError("symbols", "at least one atom", "none")
        if self.positions.shape != (len(self.symbols), 3):
            raise InputError("positions", f"shape ({len(self.symbols)}, 3)", f"shape {self.positions.shape}")
        check_elements(self.symbols, f"molecule {self.name!r}")
        check_positions(self.positions, f"molecule {self.name!r}")

    def __repr__(self) -> str:
        charge = f", charge {self.charge:+d}" if self.charge else ""
        return f"Molecule({self.name}, {self.formula}, {self.n_atoms} atoms{charge})"

    def __len__(self) -> int:
        return self.n_atoms

    def to_ase(self) -> Atoms:
        """The molecule as atoms of ASE (angstrom), its name and charge in ``info``."""
        from fflux_py.molecules.ase_atoms import atoms_of_molecule

        return atoms_of_molecule(self)

    @classmethod
    def from_ase(cls, atoms: Atoms, charge: int | None = None, name: str | None = None) -> Molecule:
        """A molecule of atoms of ASE; see :func:`fflux_py.molecules.ase_atoms.molecule_of_atoms`."""
        from fflux_py.molecules.ase_atoms import molecule_of_atoms

        return molecule_of_atoms(atoms, charge, name)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.symbols)

    @cached_property
    def numbers(self) -> IntArray:
        """Atomic numbers, shape ``(n_atoms,)``."""
        return read_only([atomic_numbers[s] for s in self.symbols], np.int64)

    @cached_property
    def masses(self) -> FloatArray:
        """Standard atomic masses in electron masses, shape ``(n_atoms,)``."""
        return read_only([atomic_masses[z] / DALTON for z in self.numbers])

    @property
    def formula(self) -> str:
        """Hill formula, for messages."""
        counts = {s: self.symbols.count(s) for s in self.symbols}
        order = sorted(
            counts, key=lambda s: (s != "C" if "C" in counts else False, s != "H" if "C" in counts else 0, s)
        )
        return "".join(s + (str(counts[s]) if counts[s] > 1 else "") for s in order)

    @cached_property
    def bonds(self) -> tuple[tuple[int, int], ...]:
        """Bonds ``(i, j)``, i < j, of the geometry by :func:`find_bonds`."""
        return find_bonds(self.symbols, self.positions)

    @cached_property
    def neighbours(self) -> tuple[tuple[int, ...], ...]:
        """For every atom the atoms bonded to it, ascending."""
        return neighbour_lists(self.n_atoms, self.bonds)

    @cached_property
    def bonds_between(self) -> IntArray:
        """Smallest number of bonds from every atom to every other, ``(n_atoms, n_atoms)``; n_atoms if unconnected."""
        between = np.full((self.n_atoms, self.n_atoms), self.n_atoms)
        for atom in range(self.n_atoms):
            front, steps = {atom}, 0
            while front:
                between[atom, list(front)] = steps
                steps += 1
                front = {b for a in front for b in self.neighbours[a] if between[atom, b] == self.n_atoms}
        return read_only(between, np.int64)

    def with_positions(self, positions: FloatArray) -> Molecule:
        """The same molecule at another geometry (bohr)."""
        return Molecule(self.symbols, positions, self.charge, self.name)

    def torsions(self, methyl: bool = True, stiff: bool = False) -> tuple[Torsion, ...]:
        """One torsion ``(i, j, k, l)`` for every rotatable single bond j-k: one that is not in a ring.

        A bond qualifies if both ends have another neighbour and its length exceeds 0.92 times the sum of the
        covalent radii, which leaves out double bonds, amide C-N bonds and the C-O bonds of acids and esters.  Bonds of
        a two-coordinate oxygen to phosphorus, to silicon and to an aromatic ring are shorter and qualify too.  The
        outer atoms are the heaviest neighbours (lowest index on a tie) among those whose angle at the bond is below
        165 degrees: along a linear group such as a nitrile or an alkyne there is no torsion.

        Parameters
        ----------
        methyl
            Whether to include the axes of methyl groups and the like (an end with three terminal atoms of one
            element: CH3, CF3, NH3+), whose three minima are one and the same structure.
        stiff
            Whether to include the shorter bonds, such as amide C-N bonds, too.
        """
        chosen = []
        for j, k in self.bonds:
            outer_j = [a for a in self.neighbours[j] if a != k and not self.is_straight(a, j, k)]
            outer_k = [a for a in self.neighbours[k] if a != j and not self.is_straight(a, k, j)]
            radii = covalent_radius(self.symbols[j]) + covalent_radius(self.symbols[k])
            length = float(np.linalg.norm(self.positions[j] - self.positions[k]))
            short = length < 0.92 * radii and not self._is_short_single_bond(j, k)
            if not outer_j or not outer_k or (short and not stiff) or self.in_ring(j, k):
                continue
            if not methyl and (self._is_rotor(outer_j) or self._is_rotor(outer_k)):
                continue
            i = max(outer_j, key=lambda a: (self.numbers[a], -a))
            last = max(outer_k, key=lambda a: (self.numbers[a], -a))
            chosen.append((i, j, k, last))
        return tuple(chosen)

    def backbone_torsions(self) -> tuple[Torsion, ...]:
        """Phi (C-N-CA-C) and psi (N-CA-C-N) of every residue of a peptide between two amide bonds, by its bonds.

        CA is a carbon with four neighbours, C and the carbon before N carry a terminal oxygen.  The torsions come as
        phi, psi, phi, psi, ..., residues in the order of their CA atoms; none if the molecule is no such peptide.
        """
        chosen: list[Torsion] = []
        for alpha in (a for a, s in enumerate(self.symbols) if s == "C" and len(self.neighbours[a]) == 4):
            for nitrogen in (a for a in self.neighbours[alpha] if self.symbols[a] == "N"):
                before = [a for a in self.neighbours[nitrogen] if a != alpha and self._is_carbonyl(a)]
                for carbonyl in (a for a in self.neighbours[alpha] if self._is_carbonyl(a)):
                    after = [a for a in self.neighbours[carbonyl] if self.symbols[a] == "N"]
                    if before and after:
                        chosen.append((before[0], nitrogen, alpha, carbonyl))
                        chosen.append((nitrogen, alpha, carbonyl, after[0]))
        return tuple(chosen)

    def _is_rotor(self, outer: Sequence[int]) -> bool:
        """Whether these are three terminal atoms of one element."""
        terminal = all(len(self.neighbours[a]) == 1 for a in outer)
        return len(outer) == 3 and terminal and len({self.symbols[a] for a in outer}) == 1

    def is_straight(self, i: int, j: int, k: int) -> bool:
        """Whether the angle i-j-k exceeds 165 degrees: a torsion with it is not defined, or hardly."""
        a, b = self.positions[i] - self.positions[j], self.positions[k] - self.positions[j]
        return bool(a @ b < _STRAIGHT_COSINE * np.linalg.norm(a) * np.linalg.norm(b))

    def _is_short_single_bond(self, j: int, k: int) -> bool:
        """Whether this is a single bond of a two-coordinate oxygen to P, to Si or to an aromatic (or vinylic) ring."""
        for oxygen, other in ((j, k), (k, j)):
            if self.symbols[oxygen] != "O" or len(self.neighbours[oxygen]) != 2:
                continue
            if self.symbols[other] in ("P", "Si"):
                return True
            around = self.neighbours[other]
            in_ring = sum(self.in_ring(other, a) for a in around) == 2
            if self.symbols[other] == "C" and len(around) == 3 and in_ring:
                return True
        return False

    def _is_carbonyl(self, atom: int) -> bool:
        around = self.neighbours[atom]
        oxygen = any(self.symbols[a] == "O" and len(self.neighbours[a]) == 1 for a in around)
        return self.symbols[atom] == "C" and len(around) == 3 and oxygen

    def in_ring(self, j: int, k: int) -> bool:
        """Whether atoms ``j`` and ``k`` stay connected without the bond between them."""
        reached, front = {j}, [j]
        while front:
            a = front.pop()
            for b in self.neighbours[a]:
                if {a, b} != {j, k} and b not in reached:
                    reached.add(b)
                    front.append(b)
        return k in reached


def symbols_of(numbers: Sequence[int] | IntArray) -> tuple[str, ...]:
    """Element symbols of atomic numbers."""
    return tuple(chemical_symbols[int(z)] for z in numbers)


def find_bonds(symbols: Sequence[str], positions: FloatArray) -> tuple[tuple[int, int], ...]:
    """Bonds by the 'valence' rule of ICHOR.

    Two atoms are bonded if closer than 1.25 times the sum of their covalent radii; then, atom by atom in index order,
    the longest bond of an atom with more bonds than its valence (H 1, C 4, N 5, O 6) is dropped until it fits.

    Parameters
    ----------
    symbols, positions
        Elements and positions in bohr, shape ``(n_atoms, 3)``.
    """
    n = len(symbols)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    radii = np.array([covalent_radius(s) for s in symbols])
    bonded = distance < _BOND_FACTOR * (radii[:, None] + radii[None])
    np.fill_diagonal(bonded, False)
    for i in range(n):
        limit = _VALENCE.get(symbols[i], n)
        while bonded[i].sum() > limit:
            j = int(np.argmax(np.where(bonded[i], distance[i], -1.0)))
            bonded[i, j] = bonded[j, i] = False
    return tuple((i, j) for i in range(n) for j in range(i + 1, n) if bonded[i, j])


def check_same_molecule(model: Molecule, other: Molecule) -> None:
    """Refuse a molecule with other elements, another order of atoms, or another charge than the model's.

    Raises
    ------
    ModelMismatchError
        Naming the first atom that differs.
    """
    where = f"molecule {other.name!r}"
    if model.n_atoms != other.n_atoms:
        raise ModelMismatchError(
            where,
            f"{model.n_atoms} atoms ({model.formula})",
            f"{other.n_atoms} ({other.formula})",
            "this model is for another molecule",
        )
    for k, (a, b) in enumerate(zip(model.symbols, other.symbols, strict=True)):
        if a != b:
            raise ModelMismatchError(
                f"{where}, atom {k + 1}", f"{a} as in the model", b, "put the atoms into the model's order"
            )
    if model.charge != other.charge:
        raise ModelMismatchError(where, f"charge {model.charge}", str(other.charge))


def neighbour_lists(n_atoms: int, bonds: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Neighbour lists, ascending, of a list of bonds."""
    lists: list[list[int]] = [[] for _ in range(n_atoms)]
    for i, j in bonds:
        lists[i].append(j)
        lists[j].append(i)
    return tuple(tuple(sorted(entry)) for entry in lists)


def covalent_radius(symbol: str) -> float:
    """Covalent radius in bohr."""
    if symbol not in _COVALENT_RADIUS:
        raise InputError(
            f"element {symbol}",
            f"one of {', '.join(_COVALENT_RADIUS)} (elements with a covalent radius for the bond rule)",
            symbol,
            "this element is not supported yet",
        )
    return _COVALENT_RADIUS[symbol] / ANGSTROM
