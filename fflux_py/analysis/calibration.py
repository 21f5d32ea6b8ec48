r"""Do the predictive standard deviations tell how large the errors are?  Coverage, and calibration factors.

A deviation is right if the share of errors within :math:`k\sigma` is that of the normal distribution for every k (0.683
within one, 0.954 within two).  The factors of a model are found on trajectories that neither training nor the reported
coverage has seen: held-out trajectories are split into two halves, one to calibrate with and one to report on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.special import erf
from scipy.stats import spearmanr

from fflux_py.analysis.prediction_errors import frame_groups, group_order
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.posterior import NEIGHBOURS
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.dataset_order import reorder_dataset
from fflux_py.typing import FloatArray, IntArray

TRAJECTORIES: Final = "calibration_trajectories"
"""Key of a model's metadata: the trajectories that it was calibrated on, separated by commas."""

DATA: Final = "calibration_data"
"""Key of a model's metadata: digest of the data set with these trajectories."""

_WITHIN: Final = (1.0, 2.0)
# Deviations are not below this: at a training geometry of a model without noise they vanish but for rounding.
_SMALLEST: Final = 1e-12


@dataclass(frozen=True)
class Reliability:
    """Errors of energies against their predictive standard deviations.

    Parameters
    ----------
    n
        Number of errors.
    within_1_sigma, within_2_sigma
        Shares of errors within one and two deviations; 0.683 and 0.954 for normal errors.
    rms_z
        Root mean square of error over deviation; one for normal errors.
    rank_correlation
        Spearman's coefficient of the errors' size and the deviations: whether the deviation tells where errors are
        large.  NaN for fewer than three errors, or equal deviations.
    """

    n: int
    within_1_sigma: float
    within_2_sigma: float
    rms_z: float
    rank_correlation: float

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON; None where there is no figure."""
        return {key: None if value != value else value for key, value in vars(self).items()}


def reliability(errors: FloatArray, deviations: FloatArray) -> Reliability:
    """Reliability of deviations; errors and deviations in the same unit and of the same shape, NaN left out."""
    size, sigma = _pairs(errors, deviations)
    z = size / sigma
    varied = len(z) > 2 and np.ptp(size) > 0.0 and np.ptp(sigma) > 0.0
    return Reliability(
        n=len(z),
        within_1_sigma=float((z <= 1.0).mean()),
        within_2_sigma=float((z <= 2.0).mean()),
        rms_z=float(np.sqrt((z**2).mean())),
        rank_correlation=float(spearmanr(size, sigma).statistic) if varied else float("nan"),
    )


def coverage_curve(errors: FloatArray, deviations: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Expected and observed share of errors within k deviations, for k from zero on: the reliability diagram.

    Returns
    -------
    Shares that a normal distribution has, ascending from 0 to 1, and the observed shares, same shape.
    """
    size, sigma = _pairs(errors, deviations)
    expected = np.concatenate([[0.0], np.sort(erf(size / sigma / np.sqrt(2.0))), [1.0]])
    observed = np.concatenate([[0.0], np.arange(1, len(size) + 1) / len(size), [1.0]])
    return expected, observed


def deviation_factor(errors: FloatArray, deviations: FloatArray) -> float:
    r"""The factor after which the deviations cover as many errors as they should, within one sigma and within two.

    It is the geometric mean of the two factors that set one of the shares right each.  The likelihood would choose the
    root mean square of :math:`z = e/\sigma`, which a few outliers decide where errors are heavier-tailed than normal.

    Parameters
    ----------
    errors, deviations
        In the same unit and of the same shape; NaN is left out.

    Raises
    ------
    InputError
        No errors.
    """
    size, sigma = _pairs(errors, deviations)
    shares = erf(np.array(_WITHIN) / np.sqrt(2.0))
    factors = np.quantile(size / sigma, shares) / np.array(_WITHIN)
    return float(np.exp(np.log(np.maximum(factors, _SMALLEST)).mean()))


def calibration_halves(geometries: GeometrySet) -> tuple[IntArray, IntArray]:
    """Indices of held-out geometries to calibrate with, and of those to report on: whole trajectories, in turn.

    Trajectories are ordered by group and temperature, so that both halves have every kind of which there are two.

    Raises
    ------
    InputError
        Fewer than two trajectories.
    """
    groups = frame_groups(geometries)
    order = {
        source: (group_order(group), temperature if temperature == temperature else -1.0, source)
        for source, group, temperature in zip(geometries.source, groups, geometries.temperature, strict=True)
    }
    ordered = sorted(order, key=lambda source: order[source])
    if len(ordered) < 2:
        raise InputError("calibration", "held-out geometries of at least two trajectories", f"{len(ordered)}")
    first = set(ordered[::2])
    chosen = np.array([source in first for source in geometries.source])
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def calibrate(
    forcefield: ForceField,
    dataset: Dataset,
    indices: Sequence[int] | IntArray,
    neighbours: int = NEIGHBOURS,
    progress: Callable[[int, int], None] | None = None,
) -> ForceField:
    """The same model with predictive deviations calibrated on labelled geometries that training has not seen.

    Parameters
    ----------
    forcefield
        The model; an older calibration is forgotten.
    dataset, indices
        A data set of the same molecule, and which of its geometries to calibrate with.  Report coverage on others.
    neighbours
        Training geometries that a deviation of a joint model is conditioned on (:mod:`fflux_py.gp.posterior`).
    progress
        Called with (geometries done, geometries in total).

    Raises
    ------
    ModelMismatchError
        If the data are of another molecule.
    InputError
        If there are no geometries, or if some of them are training geometries.
    """
    dataset = reorder_dataset(dataset, forcefield.match_or_keep(dataset.molecule))
    plain = replace(forcefield, calibration={"neighbours": neighbours}).unmatched
    chosen = dataset.select(indices)
    if not len(chosen):
        raise InputError("calibration", "at least one geometry", "none")
    if "train" in chosen.geometries.split:
        raise InputError("calibration", "held-out geometries", "some that are marked 'train'", "use those for testing")
    total, atomic = np.empty(len(chosen)), np.empty(chosen.atomic_energies.shape)
    for k, geometry in enumerate(chosen.positions):
        total[k], atomic[k] = plain.predictive_deviations(geometry)
        if progress is not None:
            progress(k + 1, len(chosen))
    predicted = plain.atomic_energies(chosen.positions)
    factors = {"total": deviation_factor(predicted.sum(axis=1) - chosen.energies, total)}
    if chosen.has_atomic_energies.any():
        factors["atomic"] = deviation_factor(predicted - chosen.atomic_energies, atomic)
    if forcefield.joint is not None:
        factors["neighbours"] = neighbours
    sources = ",".join(sorted(set(chosen.geometries.source)))
    metadata = {**forcefield.metadata, DATA: dataset.digest(), TRAJECTORIES: sources}
    return replace(forcefield, calibration=factors, metadata=metadata)


def calibrate_on_held_out(
    forcefield: ForceField,
    dataset: Dataset,
    neighbours: int = NEIGHBOURS,
    progress: Callable[[int, int], None] | None = None,
) -> ForceField:
    """Calibrate a model on every second held-out trajectory of its data set (:func:`calibration_halves`).

    The other half is left for reporting the coverage.  Arguments and errors are those of :func:`calibrate`.
    """
    held_out = np.flatnonzero([split == "test" for split in dataset.geometries.split])
    first, _ = calibration_halves(dataset.geometries.select(held_out))
    return calibrate(forcefield, dataset, held_out[first], neighbours, progress)


def independent(forcefield: ForceField, dataset: Dataset) -> np.ndarray:
    """Which geometries of a data set are of trajectories that the model was not calibrated on, bool, ``(m,)``."""
    used = set(str(forcefield.metadata.get(TRAJECTORIES, "")).split(","))
    return np.array([source not in used for source in dataset.geometries.source])


def _pairs(errors: FloatArray, deviations: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sizes of errors and deviations, flat, without NaN."""
    size, sigma = np.abs(np.ravel(errors)), np.ravel(deviations)
    if size.shape != sigma.shape:
        raise InputError("deviations", f"{len(size)}, as many as errors", str(len(sigma)))
    known = np.isfinite(size)
    size, sigma = size[known], sigma[known]
    if not len(size):
        raise InputError("reliability", "at least one error with its deviation", "none")
    return size, np.maximum(sigma, _SMALLEST)
