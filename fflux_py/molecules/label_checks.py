r"""Labels held against each other: forces and energies, atomic energies and totals, geometries that stand twice.

Between two geometries i and j that are neighbours in the set, the energy differs by the work of the forces along a
path.  The path is linear in the inverse distances :math:`q` of all pairs of atoms, which follow turning groups far
better than Cartesian coordinates do (compare X. Zhu, K. C. Thompson, T. J. Martinez, J. Chem. Phys. 150, 164103
(2019)).  With the generalised forces :math:`f = B (B^T B)^{-1} F`, :math:`B = dq/dx`, and the trapezoidal rule

.. math:: E_i - E_j = \tfrac12 (f_i + f_j) \cdot (q_j - q_i).

One factor between the two sides, the same for all pairs, says that forces
and energies have different units or signs.  No alignment, model or fit is needed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from ase.data import covalent_radii
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from fflux_py.errors import InputError, InputWarning
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import ANGSTROM, EV, KCAL_MOL, KJ_MOL

if TYPE_CHECKING:
    from fflux_py.molecules.dataset import Dataset

LARGEST_SUM_RESIDUAL: Final = 1.0 / KCAL_MOL
"""Atomic energies that miss the total energy by more (hartree) are refused: 1 kcal/mol."""
_MOST_GEOMETRIES: Final = 300
_NEIGHBOURS: Final = 3
_FEWEST_PAIRS: Final = 20
# Rank correlation from which the factor counts.  Sound sets of molecular dynamics with 30 geometries and more have 0.88
# to 0.99 (benchmarks/labels/force_factors.py), contradicting ones about 0.
_FEWEST_CORRELATION: Final = 0.8
# Of the logarithm of the ratio: what sound sets of any size have, and what is added for few pairs and for scatter.
_DEVIATION: Final = 0.2
_DEVIATION_OF_FEW: Final = 2.5
_DEVIATION_OF_SCATTER: Final = 2.0
# Two inverse distances, in units of the bond's, that are the same to the digits of a file.
_SAME: Final = 2e-6
_RIDGE: Final = 1e-6
# Logarithms of a ratio and of a factor that it may stand for.
_NEAR: Final = 0.25

_ENERGY_UNITS: Final = {"hartree": 1.0, "eV": EV, "kcal/mol": KCAL_MOL, "kJ/mol": KJ_MOL, "rydberg": 2.0}


@dataclass(frozen=True)
class ForceComparison:
    """Forces held against the energy differences of neighbouring geometries.

    Parameters
    ----------
    n_pairs
        Pairs of geometries.
    correlation
        Rank correlation of energy differences and works, signed.
    ratio
        Work over energy difference, signed: the factor by which the forces are too large.
    """

    n_pairs: int
    correlation: float
    ratio: float

    @property
    def judged(self) -> bool:
        """Whether pairs and correlation suffice for a verdict."""
        return self.n_pairs >= _FEWEST_PAIRS and abs(self.correlation) >= _FEWEST_CORRELATION

    @property
    def consistent(self) -> bool:
        """Whether nothing speaks against the forces; true too where they cannot be judged."""
        return not self.judged or (self.ratio > 0.0 and self._near_one)

    @property
    def _near_one(self) -> bool:
        """Whether the size of the ratio is one within its scatter."""
        scatter = np.sqrt(1.0 - self.correlation**2)
        few = (_DEVIATION_OF_FEW + _DEVIATION_OF_SCATTER * scatter) / np.sqrt(self.n_pairs)
        return bool(abs(np.log(abs(self.ratio))) < _DEVIATION + few)

    def describe(self) -> str:
        """One line for a report."""
        if self.n_pairs < _FEWEST_PAIRS:
            return f"forces against energies: cannot be judged, only {self.n_pairs} pairs of neighbouring geometries"
        if not self.judged:
            return (
                "forces against energies: cannot be judged, the geometries are too far apart or the labels contradict "
                f"each other (correlation {self.correlation:.2f} over {self.n_pairs} pairs)"
            )
        text = f"forces against energies: {self.ratio:.2f} times the energy differences of {self.n_pairs} pairs"
        return f"{text}, correlation {self.correlation:.2f}" if self.consistent else f"{text}; {self.likely_causes()}"

    def likely_causes(self) -> str:
        """The usual factors nearest to the ratio, in words."""
        size, sign = abs(self.ratio), "the gradient in place of the force (factor -1)" if self.ratio < 0.0 else ""
        if self._near_one:
            return sign
        near = sorted(
            (abs(np.log(size / factor)) + unusual, factor, cause) for factor, unusual, cause in _usual_factors()
        )
        causes = [f"{factor:.4g} ({cause})" for distance, factor, cause in near if distance < _NEAR][:3]
        text = f"usual factors near it are {' or '.join(causes)}" if causes else "no usual factor is near it"
        return f"{sign}, and {text}" if sign else text


@dataclass(frozen=True)
class RepeatedGeometry:
    """A geometry that stands twice in a set, up to rotation and reflection.

    Parameters
    ----------
    first, second
        Their indices, the smaller first.
    energy_difference
        Energy of the second minus that of the first, hartree.
    """

    first: int
    second: int
    energy_difference: float


@dataclass(frozen=True)
class LabelChecks:
    """What the labels of a set say about each other.

    Parameters
    ----------
    forces
        Forces against energies; None without forces.
    repeated
        Geometries that stand twice.
    shared_by_splits
        How many of these pairs are a training and a test geometry.
    largest_sum_residual
        Largest difference between sum of atomic energies and total energy, hartree; NaN without atomic energies.
    sum_ratio
        Median of sum over total energy; NaN without atomic energies.
    """

    forces: ForceComparison | None
    repeated: tuple[RepeatedGeometry, ...]
    shared_by_splits: int
    largest_sum_residual: float
    sum_ratio: float

    def notes(self) -> list[str]:
        """What the user is told though the labels can be used; one line each."""
        if not self.repeated:
            return []
        first = self.repeated[0]
        text = (
            f"{len(self.repeated)} geometries stand twice, the first are geometries {first.first + 1} and "
            f"{first.second + 1}; their energies differ by up to "
            f"{max(abs(pair.energy_difference) for pair in self.repeated) * KCAL_MOL:.2g} kcal/mol"
        )
        if self.shared_by_splits:
            text += f"; {self.shared_by_splits} of these pairs are one for training and one for testing"
        return [text]

    def describe(self) -> list[str]:
        """All results, one line each."""
        lines = ["no forces"] if self.forces is None else [self.forces.describe()]
        if not np.isnan(self.largest_sum_residual):
            size = self.largest_sum_residual * KCAL_MOL
            lines.append(f"atomic energies against total energies: at most {size:.2g} kcal/mol apart")
        return [*lines, *(self.notes() or ["no geometry stands twice"])]


def check_labels(data: Dataset, where: str = "data set", remedy: str = "") -> LabelChecks:
    """Hold the labels of a data set against each other.

    Parameters
    ----------
    data
        The labels.
    where
        The file or argument that they come from, for messages.
    remedy
        What to do about forces in another unit, if it is more than to correct them.

    Raises
    ------
    InputError
        Forces that are a factor off the energies; atomic energies that do not sum to the energies.

    Warns
    -----
    InputWarning
        Of geometries that stand twice.
    """
    checks = compare_labels(data)
    if checks.largest_sum_residual > LARGEST_SUM_RESIDUAL:
        raise InputError(
            f"{where}, atomic energies", "a sum that is the total energy within 1 kcal/mol",
            f"{checks.largest_sum_residual * KCAL_MOL:.4g} kcal/mol at one geometry, and sums that are "
            f"{checks.sum_ratio:.6g} times the energies in the middle",
            "are the units of both the same, and are these the energies of all atoms?",
        )  # fmt: skip
    forces = checks.forces
    if forces is not None and not forces.consistent:
        raise InputError(
            f"{where}, forces", "forces that account for the energy differences of the set",
            f"forces that are {forces.ratio:.3g} times as large ({forces.n_pairs} pairs of neighbouring geometries, "
            f"correlation {forces.correlation:.2f})",
            f"{forces.likely_causes()}: correct the units or the sign{f'; {remedy}' if remedy else ''}",
        )  # fmt: skip
    for note in checks.notes():
        warnings.warn(f"labels of {data.molecule.name!r}: {note}", InputWarning, stacklevel=3)
    return checks


def compare_labels(data: Dataset) -> LabelChecks:
    """Return what the labels of a data set say about each other, without a verdict."""
    forces = None
    if data.has_forces:
        forces = compare_forces(data.molecule, data.positions, data.energies, data.forces)
    repeated = repeated_geometries(data.molecule, data.positions, data.energies)
    splits = data.geometries.split
    partitioned = data.has_atomic_energies
    residual = ratio = float("nan")
    if partitioned.any():
        sums, totals = data.atomic_energies[partitioned].sum(axis=1), data.energies[partitioned]
        residual = float(np.abs(sums - totals).max())
        ratio = float(np.median(np.divide(sums, totals, out=np.full(len(sums), np.nan), where=totals != 0.0)))
    shared = sum(splits[pair.first] != splits[pair.second] for pair in repeated)
    return LabelChecks(forces, repeated, shared, residual, ratio)


def compare_forces(
    molecule: Molecule, positions: FloatArray, energies: FloatArray, forces: FloatArray
) -> ForceComparison:
    """Hold forces against the energy differences of neighbouring geometries.

    Parameters
    ----------
    molecule
        Elements; its geometry does not matter.
    positions, energies, forces
        Atomic units, shapes ``(m, n_atoms, 3)``, ``(m,)`` and ``(m, n_atoms, 3)``.  Of more than 300 geometries these
        many are taken, evenly over the set.
    """
    count = min(len(positions), _MOST_GEOMETRIES)
    if count < 2 or molecule.n_atoms < 2:
        return ForceComparison(0, float("nan"), float("nan"))
    chosen = np.linspace(0, len(positions) - 1, count).round().astype(np.int64)
    lengths = _bond_lengths(molecule)
    upper = np.triu_indices(molecule.n_atoms, 1)
    inverse = np.array([_inverse_distances(positions[k], lengths)[upper] for k in chosen])
    generalised = np.array([_generalised_forces(positions[k], forces[k], lengths)[upper] for k in chosen])
    first, second = _neighbouring_pairs(inverse)
    # the energy that the forces release on the way from the first to the second
    work = 0.5 * ((generalised[first] + generalised[second]) * (inverse[second] - inverse[first])).sum(axis=1)
    released = energies[chosen[first]] - energies[chosen[second]]
    moved = np.abs(inverse[second] - inverse[first]).max(axis=1) > _SAME
    work, released = work[moved], released[moved]
    if len(work) < _FEWEST_PAIRS:
        return ForceComparison(len(work), float("nan"), float("nan"))
    sizes = float(np.median(np.abs(work))), float(np.median(np.abs(released)))
    if min(sizes) == 0.0:
        return ForceComparison(len(work), 0.0, float("nan"))
    correlation = float(np.corrcoef(rankdata(work), rankdata(released))[0, 1])
    return ForceComparison(len(work), correlation, float(np.sign(correlation)) * sizes[0] / sizes[1])


def repeated_geometries(
    molecule: Molecule, positions: FloatArray, energies: FloatArray
) -> tuple[RepeatedGeometry, ...]:
    """Pairs of geometries with the same distances between all atoms.

    Parameters
    ----------
    molecule
        Elements.
    positions, energies
        Atomic units, shapes ``(m, n_atoms, 3)`` and ``(m,)``.
    """
    lengths = _bond_lengths(molecule)
    upper = np.triu_indices(molecule.n_atoms, 1)
    inverse = np.array([_inverse_distances(x, lengths)[upper] for x in positions])
    # geometries that are the same have the same sum of distances: only neighbours in its order can be the same
    sums = inverse.sum(axis=1)
    order = np.argsort(sums, kind="stable")
    margin = _SAME * inverse.shape[1]
    pairs = []
    for k, index in enumerate(order):
        for other in order[k + 1 :]:
            if sums[other] - sums[index] > margin:
                break
            if np.abs(inverse[other] - inverse[index]).max() <= _SAME:
                first, second = sorted((int(index), int(other)))
                pairs.append(RepeatedGeometry(first, second, float(energies[second] - energies[first])))
                break
    return tuple(sorted(pairs, key=lambda pair: (pair.first, pair.second)))


def _usual_factors() -> list[tuple[float, float, str]]:
    """Factors by which a mixture of units makes forces too large, how unusual each is, and its cause."""
    energies = [(1.0, 0.0, "")]
    for of_forces, a in _ENERGY_UNITS.items():
        for of_energies, b in _ENERGY_UNITS.items():
            if a != b:
                unusual = 0.1 if "rydberg" in (of_forces, of_energies) else 0.0
                energies.append((a / b, unusual, f"forces in {of_forces} with energies in {of_energies}"))
    lengths = (
        (1.0, ""),
        (ANGSTROM, "forces per bohr with positions in angstrom"),
        (1.0 / ANGSTROM, "forces per angstrom with positions in bohr"),
    )
    factors = []
    for factor, unusual, of_energies in energies:
        for length, of_lengths in lengths:
            cause = ", ".join(filter(None, [of_energies, of_lengths]))
            both = 0.1 if of_energies and of_lengths else 0.0
            factors.append((factor * length, unusual + both, cause))
    return [entry for entry in factors if entry[2]]


def _bond_lengths(molecule: Molecule) -> FloatArray:
    """Sums of the covalent radii of all pairs of atoms, bohr: the scale of their inverse distances."""
    radii = covalent_radii[molecule.numbers] / ANGSTROM
    return np.asarray(radii[:, None] + radii[None])


def _inverse_distances(positions: FloatArray, lengths: FloatArray) -> FloatArray:
    """Inverse distances in units of the bonds', ``(n, n)``, zeros on the diagonal."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return np.asarray(lengths / distances)


def _generalised_forces(positions: FloatArray, forces: FloatArray, lengths: FloatArray) -> FloatArray:
    """Forces along the inverse distances of all pairs, ``(n, n)``: the smallest ones that give the Cartesian forces."""
    n = len(positions)
    vectors = positions[:, None] - positions[None]
    distances = np.linalg.norm(vectors, axis=-1)
    np.fill_diagonal(distances, np.inf)
    slopes = -(lengths / distances**3)[..., None] * vectors
    blocks = slopes[..., :, None] * slopes[..., None, :]
    gram = -blocks
    gram[np.arange(n), np.arange(n)] = blocks.sum(axis=1)
    matrix = gram.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    matrix[np.diag_indices(3 * n)] += _RIDGE * matrix.trace() / (3 * n)
    displacement = np.linalg.solve(matrix, forces.ravel()).reshape(n, 3)
    return np.asarray((slopes * (displacement[:, None] - displacement[None])).sum(axis=-1))


def _neighbouring_pairs(coordinates: FloatArray) -> tuple[IntArray, IntArray]:
    """Each geometry with its nearest ones; every pair once."""
    distances = cdist(coordinates, coordinates)
    np.fill_diagonal(distances, np.inf)
    count = min(_NEIGHBOURS, len(coordinates) - 1)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    first = np.repeat(np.arange(len(coordinates)), count)
    pairs = np.unique(np.sort(np.stack([first, nearest.ravel()], axis=1), axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]
