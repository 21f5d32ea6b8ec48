r"""Which labels of a set do not fit the others: residuals of every geometry, left out of a joint Gaussian process.

With the covariance K of all energies and forces at a model's hyperparameters, noise included, :math:`P = K^{-1}` and
:math:`\alpha = P y`, what is left out is predicted by the rest with the error :math:`P_{gg}^{-1} \alpha_g` and the
covariance :math:`P_{gg}^{-1}` (C. E. Rasmussen, C. K. I. Williams, Gaussian Processes for Machine Learning, 2006,
section 5.4.2): no model is solved again.  An energy is left out alone, its own forces kept, which says most about it;
forces are left out with the whole geometry.  Both are divided by their predicted deviation, and by what most geometries
of the set have.

A wrong label spoils the predictions of its neighbours too.  The geometry that fits worst is therefore taken out, P and
alpha are updated, and the next one is looked for.  Wrong labels can spoil the hyperparameters as well: the likelihood
then takes every label for an island.  Longer length scales are therefore tried on a part of the set, and taken if the
median error, which few wrong labels do not change, is clearly smaller with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.linalg import get_lapack_funcs

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.covariance import Covariance
from fflux_py.gp.joint_covariance import JointData, JointModel, add_noise, cholesky_in_place, covariance_matrix
from fflux_py.molecules.dataset import Dataset
from fflux_py.teacher.labels import label_geometries
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

SUSPICIOUS: Final = 6.0
"""Scores from which a label is suspicious: usual deviations of the set."""
LARGEST_SHARE: Final = 0.1
"""Of the geometries, that are taken out at most."""
_SMALLEST_ENERGY: Final = 0.2 / KCAL_MOL
_SMALLEST_FORCE: Final = 1.0 / KCAL_MOL_ANGSTROM
_MOST_UNKNOWNS: Final = 6000
# Factors of all theta that are tried, on how many geometries, and how much smaller the median error must be.
_THETA_FACTORS: Final = (1.0, 4.0**-1, 4.0**-2, 4.0**-3, 4.0**-4, 4.0**-5, 4.0**-6)
_TRIED_ON: Final = 40
_CLEARLY_SMALLER: Final = 0.5
# Median of the size of a normal deviate.
_NORMAL_MEDIAN: Final = 0.6745


@dataclass(frozen=True)
class LabelResidual:
    """How a geometry's labels fit those of the others.

    Parameters
    ----------
    index
        Of the geometry in its set.
    energy_error
        Label minus prediction from all other labels, hartree.
    energy_score
        The same in usual deviations of the set, without sign.
    force_error
        Largest error of an atom's force, label minus prediction without the geometry, hartree/bohr.
    force_score
        Largest error of an atom's force in usual deviations.
    atom
        Index of the atom with the largest force score.
    """

    index: int
    energy_error: float
    energy_score: float
    force_error: float
    force_score: float
    atom: int

    @property
    def score(self) -> float:
        """The larger score."""
        return max(self.energy_score, self.force_score)

    @property
    def suspicious(self) -> bool:
        """Whether a score is large, and the error worth a look (0.2 kcal/mol; 1 kcal/mol/angstrom)."""
        energy = self.energy_score > SUSPICIOUS and abs(self.energy_error) > _SMALLEST_ENERGY
        return energy or (self.force_score > SUSPICIOUS and self.force_error > _SMALLEST_FORCE)


def label_residuals(
    forcefield: ForceField,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> tuple[LabelResidual, ...]:
    """Residuals of all geometries of a set, the most suspicious first.

    Parameters
    ----------
    forcefield
        A joint fit, of which the hyperparameters count.  With a taught mean it is of the difference to the level of
        theory that taught, which is labelled first.
    dataset
        Labelled geometries of its molecule, in its order of atoms, with forces.  Large sets are judged in parts of up
        to 6,000 energies and force components, drawn at random.
    progress
        Called with the number of geometries done and their total.
    seed
        Of the parts.

    Raises
    ------
    InputError
        A model of atomic energies only; a set without forces or of fewer than ten geometries.
    ModelMismatchError
        Another molecule.
    """
    forcefield.check_molecule(dataset.molecule)
    if not dataset.has_forces or len(dataset) < 10:
        raise InputError("data set", "forces, and ten geometries at least", f"{len(dataset)} geometries")
    if forcefield.taught_mean is not None:
        level = label_geometries(dataset.molecule, dataset.positions, forcefield.taught_mean.level)
        dataset = replace(dataset, energies=dataset.energies - level.energies, forces=dataset.forces - level.forces)
    size = max(10, _MOST_UNKNOWNS // (1 + 3 * dataset.molecule.n_atoms))
    order = np.random.default_rng(seed).permutation(len(dataset))
    process = _choose_process(forcefield, dataset, np.sort(order[:_TRIED_ON]))
    residuals: list[LabelResidual] = []
    for part in np.array_split(order, -(-len(order) // size)):
        residuals += _part_residuals(process, dataset, np.sort(part))
        if progress is not None:
            progress(len(residuals), len(dataset))
    return tuple(sorted(residuals, key=lambda residual: (-residual.score, residual.index)))


@dataclass(frozen=True)
class _Process:
    """What is modelled, at which hyperparameters: kernels and their prior variances, hartree^2."""

    model: JointModel
    kernels: tuple[Covariance, ...]
    variances: FloatArray

    @classmethod
    def of(cls, forcefield: ForceField) -> _Process:
        """The process of a joint fit."""
        first, joint = forcefield.atoms[0], forcefield.joint
        if joint is None:
            raise InputError(
                "model", "a joint fit of energies and forces", "one of atomic energies only", "train it with forces"
            )
        frames = tuple(atom.frame for atom in forcefield.atoms)
        covariance = first.covariance
        model = JointModel(
            frames, first.feature_kind, covariance.kernel, covariance.azimuth, joint.operations, joint.noises
        )
        kernels = tuple(atom.covariance for atom in forcefield.atoms)
        return cls(model, kernels, np.array([atom.variance for atom in forcefield.atoms]))

    def scaled(self, theta: float, variance: float) -> _Process:
        """The process with all theta and all prior variances times a factor."""
        kernels = tuple(replace(kernel, theta=kernel.theta * theta) for kernel in self.kernels)
        return replace(self, kernels=kernels, variances=self.variances * variance)

    def covariance(self, dataset: Dataset, indices: IntArray) -> FloatArray:
        """Lower triangle of the covariance of the energies and forces of some geometries, with noise, row-major."""
        unknown = np.full((len(indices), dataset.molecule.n_atoms), np.nan)
        data = JointData(
            dataset.positions[indices], dataset.energies[indices], dataset.forces[indices], unknown, unknown
        )
        matrix = covariance_matrix(data, self.model, self.kernels, self.variances)
        add_noise(matrix, data, self.model.noises)
        return matrix


class _LeftOut:
    """The inverse covariance of a part of the set, from which geometries can be taken out."""

    def __init__(self, inverse: FloatArray, labels: FloatArray, n_atoms: int) -> None:
        self.inverse, self.n_atoms = inverse, n_atoms
        self.alpha = inverse @ labels
        self.count = len(labels) // (1 + 3 * n_atoms)
        self.remaining = np.ones(self.count, dtype=bool)

    def rows(self, geometry: int) -> IntArray:
        """Observations of a geometry: its energy, then its forces."""
        first = self.count + 3 * self.n_atoms * geometry
        return np.concatenate([[geometry], np.arange(first, first + 3 * self.n_atoms)])

    def errors(self, geometry: int) -> tuple[float, float, FloatArray, FloatArray]:
        """Error of the energy and its deviations; errors of the atoms' forces, ``(n, 3)``, and deviations, ``(n,)``."""
        rows = self.rows(geometry)
        covariance = np.linalg.inv(self.inverse[np.ix_(rows, rows)])
        error = covariance @ self.alpha[rows]
        forces = error[1:].reshape(-1, 3)
        of_atoms = covariance[1:, 1:].reshape(self.n_atoms, 3, self.n_atoms, 3)
        atoms = np.arange(self.n_atoms)
        solved = np.linalg.solve(of_atoms[atoms, :, atoms], forces[..., None])[..., 0]
        scores = np.sqrt(np.maximum((forces * solved).sum(axis=1), 0.0) / 3.0)
        precision = self.inverse[geometry, geometry]
        return self.alpha[geometry] / precision, abs(self.alpha[geometry]) / np.sqrt(precision), forces, scores

    def take_out(self, geometry: int) -> None:
        """Leave a geometry out of everything that follows."""
        rows = self.rows(geometry)
        columns = self.inverse[:, rows]
        solved = np.linalg.solve(self.inverse[np.ix_(rows, rows)], columns.T)
        self.alpha = self.alpha - solved.T @ self.alpha[rows]
        self.inverse -= columns @ solved
        self.remaining[geometry] = False


def _choose_process(forcefield: ForceField, dataset: Dataset, indices: IntArray) -> _Process:
    """The model's process, or one with longer length scales that predicts these geometries clearly better."""
    process = _Process.of(forcefield)
    best, smallest = process, np.inf
    for factor in _THETA_FACTORS:
        tried = process.scaled(factor, 1.0) if factor != 1.0 else process
        try:
            left_out = _invert(tried, dataset, indices)
        except ConvergenceError:  # length scales so long that no digits are left
            break
        _take_out_worst(left_out, indices, 2.0 * LARGEST_SHARE)
        rows = [left_out.errors(int(k)) for k in np.flatnonzero(left_out.remaining)]
        error = float(np.median([np.abs(forces).max() for _, _, forces, _ in rows]))
        if error < (_CLEARLY_SMALLER if best is process else 1.0) * smallest:
            score = float(np.median([scores.max() for _, _, _, scores in rows]))
            best, smallest = tried if tried is process else tried.scaled(1.0, score**2), error
    return best


def _part_residuals(process: _Process, dataset: Dataset, indices: IntArray) -> list[LabelResidual]:
    """Residuals of the geometries ``indices``, each left out of them."""
    return _take_out_worst(_invert(process, dataset, indices), indices, LARGEST_SHARE)


def _take_out_worst(left_out: _LeftOut, indices: IntArray, share: float) -> list[LabelResidual]:
    """Take suspicious geometries out, one by one and at most this share; residuals of all, these first."""
    done: dict[int, LabelResidual] = {}
    while True:
        current = _residuals(left_out, indices)
        geometry, worst = max(current.items(), key=lambda item: item[1].score)
        if not worst.suspicious or len(done) >= share * len(indices):
            return [*done.values(), *current.values()]
        done[geometry] = worst
        left_out.take_out(geometry)


def _residuals(left_out: _LeftOut, indices: IntArray) -> dict[int, LabelResidual]:
    """Residuals of the geometries that remain, by their number in the part."""
    remaining = np.flatnonzero(left_out.remaining)
    rows = [left_out.errors(int(k)) for k in remaining]
    energy_scores = np.array([row[1] for row in rows])
    force_scores = np.array([row[3].max() for row in rows])
    energy_scale = max(float(np.median(energy_scores)) / _NORMAL_MEDIAN, np.finfo(float).tiny)
    force_scale = max(float(np.median(force_scores)), np.finfo(float).tiny)
    residuals = {}
    for k, (energy, energy_score, forces, scores) in zip(remaining, rows, strict=True):
        atom = int(scores.argmax())
        residuals[int(k)] = LabelResidual(
            int(indices[k]),
            float(energy),
            float(energy_score) / energy_scale,
            float(np.linalg.norm(forces[atom])),
            float(scores[atom]) / force_scale,
            atom,
        )
    return residuals


def _invert(process: _Process, dataset: Dataset, indices: IntArray) -> _LeftOut:
    """Invert the covariance of the energies and forces of some geometries."""
    matrix = process.covariance(dataset, indices)
    cholesky_in_place(matrix)
    (potri,) = get_lapack_funcs(("potri",), (matrix,))
    inverse, _ = potri(matrix.T, lower=False, overwrite_c=True)
    energies = dataset.energies[indices]
    labels = np.concatenate([energies - np.median(energies), dataset.forces[indices].ravel()])
    return _LeftOut(np.triu(inverse) + np.triu(inverse, 1).T, labels, dataset.molecule.n_atoms)
