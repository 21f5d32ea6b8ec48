"""The lowest minima of a force field held against its reference method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from fflux_py.certification.labellers import Labeller
from fflux_py.errors import InputError
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.optimization.basin_hopping import Minimum
from fflux_py.typing import FloatArray


@dataclass(frozen=True)
class MinimaCheck:
    """Energies of minima by the force field and by the reference method, at the force field's geometries.

    Parameters
    ----------
    method
        The reference method.
    model, reference
        Energies, hartree, shape ``(n,)`` each; NaN where the reference method failed.
    largest_forces
        Largest norm of the reference force on an atom, hartree/bohr, shape ``(n,)``: how far the reference method's own
        minimum is.
    """

    method: str
    model: FloatArray
    reference: FloatArray
    largest_forces: FloatArray

    @property
    def relative_model(self) -> FloatArray:
        """Energies of the model above that of the first minimum, hartree, shape ``(n,)``."""
        return np.asarray(self.model - self.model[0])

    @property
    def relative_reference(self) -> FloatArray:
        """The same of the reference method."""
        return np.asarray(self.reference - self.reference[0])

    @property
    def kendall_tau(self) -> float:
        """Kendall's rank correlation of both orders: one if they agree; NaN for fewer than two labels."""
        known = np.isfinite(self.reference)
        if known.sum() < 2:
            return float("nan")
        return float(kendalltau(self.model[known], self.reference[known]).statistic)


def check_minima(
    minima: Sequence[Minimum],
    labeller: Labeller,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> MinimaCheck:
    """Label minima of a force field.

    Parameters
    ----------
    minima
        Minima of one molecule, the lowest first.
    labeller
        The reference method (:func:`fflux_py.certification.labellers.labeller_of`).
    folder
        Keeps the results of single geometries.
    progress
        Called with (geometries done, geometries in all).

    Raises
    ------
    InputError
        No minimum to label, or the reference method failed for all.
    """
    if not minima:
        raise InputError("minima", "at least one", "none")
    n = len(minima)
    positions = np.array([each.molecule.positions for each in minima])
    geometries = GeometrySet(
        minima[0].molecule, positions, ("minima",) * n, np.full(n, np.nan), ("train",) * n
    )  # fmt: skip
    labels = labeller.label(geometries, folder, progress)
    if labels is None:
        raise InputError(f"{labeller.name} at {n} minima", "labels", "all failed", f"see the results in {folder}")
    reference, forces = np.full(n, np.nan), np.full(n, np.nan)
    # The labels are in the geometries' order; failed ones are missing.
    for index in range(n):
        same = np.flatnonzero((labels.positions == positions[index]).all(axis=(1, 2)))
        if len(same):
            reference[index] = labels.energies[same[0]]
            forces[index] = np.linalg.norm(labels.forces[same[0]], axis=1).max()
    return MinimaCheck(labeller.name, np.array([each.energy for each in minima]), reference, forces)
