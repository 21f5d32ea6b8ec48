"""What a joint fit learns beside a taught mean: the difference between the labels and the level of theory that taught.

Not the difference to the mean itself: the error of a network is rough, a hundred labels cannot learn it, and a Gaussian
process that is made to amplifies it.  The labels of the level at the training geometries cost milliseconds each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from fflux_py.gp.joint_covariance import JointData
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.labels import Labels, label_geometries
from fflux_py.typing import Progress
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM

Noises = tuple[float, float, float]

NOISES: Final[tuple[Noises, ...]] = tuple(
    (0.3 / KCAL_MOL, total / KCAL_MOL, force / KCAL_MOL_ANGSTROM)
    for total, force in ((0.02, 0.03), (0.1, 0.3), (0.3, 0.9))
)
"""Standard deviations among which a fit of a difference chooses: atomic energies, total energies, forces.

The labels are as exact as any; what makes noise useful is that the difference of two levels is rougher than the kernel.
Atomic energies, of which nothing is taken away but a share of a total, are held tighter than in other fits: otherwise
they would suffer from the looser totals and forces.
"""
LENGTHS_BY: Final = 1
"""Which of :data:`NOISES` the length scales are searched with."""
_MOST_JUDGED: Final = 100
_HELD_OUT: Final = 5


def subtract_level(
    data: JointData, molecule: Molecule, mean: TaughtMean, progress: Progress | None = None
) -> tuple[JointData, Labels]:
    """The data less the labels of the mean's level of theory, and these labels.

    An atomic energy loses the atom's share of the total.

    Raises
    ------
    InputError
        A level of theory that is not known.
    ConvergenceError
        Labels that do not converge.
    """
    labels = label_geometries(molecule, data.positions, mean.level, progress)
    shares = np.asarray(mean.shares)
    difference = JointData(
        data.positions,
        data.energies - labels.energies,
        data.forces - labels.forces,
        data.atomic_energies - labels.energies[:, None] * shares,
        data.atomic_errors,
    )
    return difference, labels


def level_mean(mean: TaughtMean, labels: Labels) -> TaughtMean:
    """The mean with the constant that makes its mean error against its level zero on these labels."""
    energies, _ = mean.energies_and_forces(labels.positions)
    return mean.shifted(float((labels.energies - energies).mean()))


def choose_noises(data: JointData, force_error: Callable[[Noises, np.ndarray, np.ndarray], float]) -> Noises:
    """The noises of :data:`NOISES` with the least force error on every fifth of the first hundred geometries.

    Parameters
    ----------
    data
        The training data.
    force_error
        Fits with some noises to geometries, and gives the mean absolute force error on others; their indices.
    """
    rows = np.arange(min(len(data.positions), _MOST_JUDGED))
    held_out = rows % _HELD_OUT == _HELD_OUT - 1
    if not held_out.any():
        return NOISES[LENGTHS_BY]
    errors = [force_error(noises, rows[~held_out], rows[held_out]) for noises in NOISES]
    return NOISES[int(np.argmin(errors))]
