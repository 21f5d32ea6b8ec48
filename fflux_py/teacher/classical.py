"""The classical terms under the network of a taught mean: which there are, and the fit of their constants.

They keep bonds together and atoms apart where the network, which is constant outside its data, says nothing.  Their
energy (:mod:`fflux_py._compiled.classical_terms`) is linear in all constants that are fitted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import lsq_linear

from fflux_py._compiled.classical_terms import ClassicalTerms, add_classical_terms
from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.classes import atom_classes
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, KCAL_MOL, KCAL_MOL_ANGSTROM

# Distance (angstrom) and depth (kcal/mol) of the van der Waals minimum, columns x and D of table 1 of A. K. Rappe et
# al., J. Am. Chem. Soc. 114, 10024 (1992) (UFF), of all elements whose bonds fflux_py.molecules.molecule knows.
_MINIMUM: Final = {
    "H": (2.886, 0.044), "B": (4.083, 0.180), "C": (3.851, 0.105), "N": (3.660, 0.069), "O": (3.500, 0.060),
    "F": (3.364, 0.050), "Si": (4.295, 0.402), "P": (4.147, 0.305), "S": (4.035, 0.274), "Cl": (3.947, 0.227),
    "Br": (4.189, 0.251), "I": (4.500, 0.339),
}  # fmt: skip
# The exponential of exp-6 with this scale has the curvature of Lennard-Jones at its minimum (eq. 18 there).
_SCALE: Final = 12.0
_BOND_EXPONENT: Final = 2.0 * ANGSTROM
"""Of the bonds' Morse functions, 2/angstrom, as of most single bonds."""
_REPULSION_BOUNDS: Final = (0.3, 3.0)


def repulsion(first: str, second: str) -> tuple[float, float]:
    """Factor A (hartree) and decay b (1/bohr) of the repulsion ``A exp(-b r)`` of two elements.

    That of the exp-6 form of UFF, with geometric means of distances and depths.

    Raises
    ------
    InputError
        An element without parameters.
    """
    for symbol in (first, second):
        if symbol not in _MINIMUM:
            raise InputError(f"element {symbol}", f"one of {', '.join(_MINIMUM)}", symbol, "it has no repulsion here")
    (x1, d1), (x2, d2) = _MINIMUM[first], _MINIMUM[second]
    distance, depth = np.sqrt(x1 * x2) / ANGSTROM, np.sqrt(d1 * d2) / KCAL_MOL
    return float(depth * 6.0 / (_SCALE - 6.0) * np.exp(_SCALE)), float(_SCALE / distance)


@dataclass(frozen=True)
class TermStructure:
    """The terms of a molecule, without their constants, and which constant each of them takes.

    Constants are shared by terms of equivalent atoms; of the repulsion there is one factor for each pair of elements
    and for pairs three bonds apart or more.

    Parameters
    ----------
    unit
        The terms with reference values, and constants of one where they are factors (those of pairs).
    bond_index, angle_index, plane_index, pair_index
        The first constant of every term: two follow each other for bonds and angles.
    lower, upper
        Bounds of the constants, shape ``(n_coefficients,)``.
    """

    unit: ClassicalTerms
    bond_index: IntArray
    angle_index: IntArray
    plane_index: IntArray
    pair_index: IntArray
    lower: FloatArray
    upper: FloatArray

    @property
    def n_coefficients(self) -> int:
        """Number of constants."""
        return len(self.lower)

    @classmethod
    def of(cls, molecule: Molecule, positions: FloatArray) -> TermStructure:
        """The terms of a molecule; reference lengths and angles are means over geometries (bohr, ``(m, n, 3)``)."""
        builder = _Builder(molecule, np.asarray(positions))
        return builder.build()

    def terms(self, coefficients: FloatArray) -> ClassicalTerms:
        """The terms with these constants, hartree; of pairs they are factors."""
        c = np.asarray(coefficients, dtype=np.float64)
        return self.unit._replace(
            bond_constants=np.ascontiguousarray(c[np.add.outer(self.bond_index, [0, 1])]),
            angle_constants=np.ascontiguousarray(c[np.add.outer(self.angle_index, [0, 1])]),
            plane_constants=c[self.plane_index],
            pair_factors=c[self.pair_index] * self.unit.pair_factors,
        )


def evaluate_terms(positions: FloatArray, terms: ClassicalTerms) -> tuple[FloatArray, FloatArray]:
    """Energies (hartree, ``(m,)``) and forces (hartree/bohr) of geometries (bohr), shapes ``(m, n, 3)``."""
    positions = np.ascontiguousarray(positions)
    gradient = np.zeros_like(positions)
    energies = np.array([add_classical_terms(x, terms, g) for x, g in zip(positions, gradient, strict=True)])
    return energies, -gradient


def fit_terms(
    structure: TermStructure,
    positions: FloatArray,
    energies: FloatArray,
    forces: FloatArray,
    ridge: float = 1e-2,
) -> tuple[ClassicalTerms, float]:
    """Constants by bounded least squares with a small ridge, and the constant energy beside them (hartree).

    Energies and forces weigh alike in kcal/mol and kcal/mol/angstrom.

    Parameters
    ----------
    structure
        The terms.
    positions, energies, forces
        Labelled geometries: bohr, hartree, hartree/bohr; shapes ``(m, n, 3)``, ``(m,)`` and ``(m, n, 3)``.
    ridge
        Added to the normal equations, whose diagonal is scaled to one.
    """
    m, size = len(positions), structure.n_coefficients
    matrix = np.empty((forces.size + m, size + 1))
    for k in range(size):
        unit = np.zeros(size)
        unit[k] = 1.0
        e, f = evaluate_terms(positions, structure.terms(unit))
        matrix[:, k] = np.concatenate([e * KCAL_MOL, f.ravel() * KCAL_MOL_ANGSTROM])
    matrix[:, size] = np.concatenate([np.ones(m), np.zeros(forces.size)])
    centre = float(energies.mean())
    right = np.concatenate([(energies - centre) * KCAL_MOL, forces.ravel() * KCAL_MOL_ANGSTROM])
    scale = np.maximum(np.linalg.norm(matrix, axis=0), np.finfo(float).tiny)
    matrix /= scale
    extra = np.diag(np.append(np.full(size, np.sqrt(ridge)), 0.0))
    bounds = np.append(structure.lower, -np.inf) * scale, np.append(structure.upper, np.inf) * scale
    # The triangular factor has the normal equations of the whole, and as many rows as there are constants.
    stacked = np.vstack([np.column_stack([matrix, right]), np.column_stack([extra, np.zeros(size + 1)])])
    factor = np.asarray(np.linalg.qr(stacked, mode="r"))
    solution = lsq_linear(factor[: size + 1, :-1], factor[: size + 1, -1], bounds).x / scale
    return structure.terms(solution[:-1]), centre + float(solution[-1]) / KCAL_MOL


class _Builder:
    """Collects the terms of a molecule and numbers their constants."""

    def __init__(self, molecule: Molecule, positions: FloatArray) -> None:
        self._molecule, self._positions = molecule, positions
        self._classes = atom_classes(molecule)
        self._numbers: dict[tuple[object, ...], int] = {}
        self._bounds: list[tuple[float, float]] = []
        self._bond_number = {bond: k for k, bond in enumerate(molecule.bonds)}

    def _constants(self, key: tuple[object, ...], *bounds: tuple[float, float]) -> int:
        """Number of the first constant of terms with this key."""
        if key not in self._numbers:
            self._numbers[key] = len(self._bounds)
            self._bounds.extend(bounds)
        return self._numbers[key]

    def _bond(self, vertex: int, other: int) -> tuple[int, int]:
        """Number of a bond, and whether it leads from the vertex to the other atom."""
        pair = (min(vertex, other), max(vertex, other))
        return self._bond_number[pair], 1 if vertex < other else -1

    def _unit_vectors(self, i: int, j: int) -> FloatArray:
        d = self._positions[:, j] - self._positions[:, i]
        return np.asarray(d / np.linalg.norm(d, axis=1)[:, None])

    def build(self) -> TermStructure:
        molecule, classes, free = self._molecule, self._classes, (-np.inf, np.inf)
        positive = (0.0, np.inf)
        bonds = np.array(molecule.bonds, dtype=np.int64).reshape(-1, 2)
        bond_keys = [("bond", *sorted((int(classes[i]), int(classes[j])))) for i, j in bonds]
        lengths = [np.linalg.norm(self._positions[:, j] - self._positions[:, i], axis=1).mean() for i, j in bonds]
        bond_index = [self._constants(key, free, positive) for key in bond_keys]
        angles, angle_keys, cosines = [], [], []
        planes, plane_keys = [], []
        for j in range(molecule.n_atoms):
            for i, k in itertools.combinations(molecule.neighbours[j], 2):
                (b1, s1), (b2, s2) = self._bond(j, i), self._bond(j, k)
                angles.append((b1, b2, s1, s2))
                ends = sorted((int(classes[i]), int(classes[k])))
                angle_keys.append(("angle", int(classes[j]), *ends))
                cosines.append((self._unit_vectors(j, i) * self._unit_vectors(j, k)).sum(axis=1).mean())
            if len(molecule.neighbours[j]) == 3:
                planes.append([self._bond(j, i)[0] for i in molecule.neighbours[j]])
                plane_keys.append(("plane", int(classes[j])))
        angle_index = [self._constants(key, free, positive) for key in angle_keys]
        plane_index = [self._constants(key, positive) for key in plane_keys]
        pairs, pair_keys, factors, decays = [], [], [], []
        for i, j, apart in _distant_pairs(molecule):
            factor, decay = repulsion(molecule.symbols[i], molecule.symbols[j])
            pairs.append((i, j))
            factors.append(factor)
            decays.append(decay)
            pair_keys.append(("pair", *sorted((molecule.symbols[i], molecule.symbols[j])), min(apart, 4)))
        pair_index = [self._constants(key, _REPULSION_BOUNDS) for key in pair_keys]
        unit = ClassicalTerms(
            bonds=bonds,
            bond_lengths=_alike(lengths, bond_keys),
            bond_exponents=np.full(len(bonds), _BOND_EXPONENT),
            bond_constants=np.zeros((len(bonds), 2)),
            angles=np.array(angles, dtype=np.int64).reshape(-1, 4),
            angle_cosines=_alike(cosines, angle_keys),
            angle_constants=np.zeros((len(angles), 2)),
            planes=np.array(planes, dtype=np.int64).reshape(-1, 3),
            plane_constants=np.zeros(len(planes)),
            pairs=np.array(pairs, dtype=np.int64).reshape(-1, 2),
            pair_factors=np.array(factors, dtype=np.float64),
            pair_decays=np.array(decays, dtype=np.float64),
        )
        bounds = np.array(self._bounds, dtype=np.float64).reshape(-1, 2)
        return TermStructure(
            unit=unit,
            bond_index=np.array(bond_index, dtype=np.int64),
            angle_index=np.array(angle_index, dtype=np.int64),
            plane_index=np.array(plane_index, dtype=np.int64),
            pair_index=np.array(pair_index, dtype=np.int64),
            lower=bounds[:, 0],
            upper=bounds[:, 1],
        )


def _alike(values: list[float], keys: list[tuple[object, ...]]) -> FloatArray:
    """Every value replaced by the mean of those with its key."""
    means = {key: np.mean([v for v, k in zip(values, keys, strict=True) if k == key]) for key in dict.fromkeys(keys)}
    return np.array([means[key] for key in keys], dtype=np.float64)


def _distant_pairs(molecule: Molecule) -> list[tuple[int, int, int]]:
    """Pairs of atoms three bonds apart or more, i < j, and how many bonds; far more where no bonds join them."""
    n = molecule.n_atoms
    apart = np.full((n, n), n + 3)
    for start in range(n):
        apart[start, start], front = 0, [start]
        while front:
            a = front.pop(0)
            for b in molecule.neighbours[a]:
                if apart[start, b] > apart[start, a] + 1:
                    apart[start, b] = apart[start, a] + 1
                    front.append(b)
    return [(i, j, int(apart[i, j])) for i in range(n) for j in range(i + 1, n) if apart[i, j] >= 3]
