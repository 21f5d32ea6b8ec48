"""Ramachandran maps estimated from frames, with weights or without, and from free energies on a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.analysis.ramachandran.map import RamachandranMap, check_temperature
from fflux_py.analysis.ramachandran.regions import REGIONS, populations_of_cells, region_numbers
from fflux_py.analysis.statistics import block_average
from fflux_py.bias.free_energy import FreeEnergy
from fflux_py.errors import InputError
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import BOLTZMANN

_WIDEST: Final = np.pi / 6.0
_REACH: Final = 3.0
_MOST_BLOCKS: Final = 50
_FEWEST_BINS: Final = 6


def ramachandran_map(
    phi: FloatArray | Sequence[FloatArray],
    psi: FloatArray | Sequence[FloatArray],
    temperature: float,
    weights: FloatArray | Sequence[FloatArray] | None = None,
    *,
    bins: int = 36,
    smoothing: float = 0.0,
) -> RamachandranMap:
    """The map of one run or of several independent ones: a histogram, smoothed on request.

    The blocks of the map are the runs; a single run is cut into parts, as long as
    :func:`~fflux_py.analysis.statistics.block_average` wants them for the torsions and the visits of all regions.

    Smoothing makes the histogram a kernel density estimate on the torus (P. Hall, G. S. Watson, J. Cabrera, Biometrika
    74, 751 (1987)) with a Gaussian of the distance on the circle, cut off at three times its width: a probability
    again, and as periodic.  It widens every basin, by ``smoothing`` squared in variance; populations are counted
    before.  A cell then counts as visited where the smoothed number of frames is at least what one frame gives at its
    own cell.

    Parameters
    ----------
    phi, psi
        Torsions in radian, taken modulo 2 pi: one series in the order of time, or one for each run.
    temperature
        Kelvin.
    weights
        Weights of the frames, of the same shape, for example those of
        :func:`fflux_py.bias.free_energy.frame_weights` over all runs at once; equal if not given.
    bins
        Cells on each axis; 36 are 10 degrees wide.
    smoothing
        Width (standard deviation) of the Gaussian in radian, at most pi/6; 0 for the histogram as it is.

    Raises
    ------
    InputError
        Series of different lengths, fewer than 16 frames in a single run, numbers that are not finite.
    """
    check_temperature(temperature)
    if bins < _FEWEST_BINS:
        raise InputError("bins", f"at least {_FEWEST_BINS}", str(bins))
    if not 0.0 <= smoothing <= _WIDEST:
        raise InputError("smoothing", f"a width from 0 to {_WIDEST:.3f} radian", str(smoothing))
    frames = _join_runs(phi, psi, weights)
    regions = region_numbers(frames.phi, frames.psi)
    block, converged = frames.runs, True
    if frames.n_runs == 1:
        n_blocks, converged = _count_blocks(frames, regions)
        block = np.arange(len(block)) * n_blocks // len(block)
    n_blocks = int(block[-1]) + 1
    step = 2.0 * np.pi / bins
    cell = [np.round((angle + np.pi) / step).astype(np.int64) % bins for angle in (frames.phi, frames.psi)]
    columns = cell[0] * bins + cell[1]
    smooth = _smoothing_matrix(bins, smoothing)
    weight = frames.weights
    sums = smooth @ _sum_by_block(weight, block, columns, bins * bins).reshape(-1, bins, bins) @ smooth.T
    counts = smooth @ np.bincount(columns, minlength=bins * bins).reshape(bins, bins) @ smooth.T
    totals, squares = np.bincount(block, weight), np.bincount(block, weight**2)
    return RamachandranMap(
        temperature=temperature,
        blocks=sums,
        regions=_sum_by_block(weight, block, regions, len(REGIONS)),
        # A hundredth of one frame covers rounding; weights that underflow leave a cell without a free energy.
        visited=(counts >= 0.99 * smooth[0, 0] ** 2) & (sums.sum(axis=0) > 0.0),
        frames=np.bincount(block),
        effective=np.divide(totals**2, squares, out=np.ones(n_blocks), where=squares > 0.0),
        independent=frames.n_runs > 1,
        converged=converged,
    )


def map_of_free_energy(surface: FreeEnergy | Sequence[FreeEnergy], temperature: float) -> RamachandranMap:
    """The map of a free energy on a grid, for example :func:`fflux_py.bias.free_energy.free_energy_of_hills`.

    Parameters
    ----------
    surface
        Free energy over phi and psi, in this order; several are independent estimates on one grid, of equal weight.
    temperature
        Kelvin.

    Raises
    ------
    InputError
        The grid is not that of two torsions, or not the same for all.
    """
    check_temperature(temperature)
    surfaces = [surface] if isinstance(surface, FreeEnergy) else list(surface)
    if not surfaces:
        raise InputError("free energies", "at least one", "none")
    grid = surfaces[0].grid
    kinds = tuple(v.kind for v in grid.variables)
    if kinds != ("torsion", "torsion"):
        raise InputError("free energy", "a grid of two torsions, phi and psi", ", ".join(kinds))
    if any(each.grid != grid for each in surfaces):
        raise InputError("free energies", "one grid for all", "several")
    blocks = []
    for each in surfaces:
        values = np.where(np.isfinite(each.values), each.values, np.inf)
        weight = np.exp(-(values - values.min()) / (BOLTZMANN * temperature))
        blocks.append(weight / weight.sum())
    b = len(blocks)
    return RamachandranMap(
        temperature=temperature,
        blocks=np.array(blocks),
        regions=populations_of_cells(np.array(blocks)),
        visited=np.any([np.isfinite(each.values) for each in surfaces], axis=0),
        frames=np.zeros(b, dtype=np.int64),
        effective=np.zeros(b),
        independent=b > 1,
        given_errors=surfaces[0].errors if b == 1 else None,
    )


@dataclass(frozen=True)
class _Frames:
    """Frames of all runs, one after the other: torsions (radian), weights, and the run of every frame."""

    phi: FloatArray
    psi: FloatArray
    weights: FloatArray
    runs: IntArray

    @property
    def n_runs(self) -> int:
        return int(self.runs[-1]) + 1


def _join_runs(
    phi: FloatArray | Sequence[FloatArray],
    psi: FloatArray | Sequence[FloatArray],
    weights: FloatArray | Sequence[FloatArray] | None,
) -> _Frames:
    """Check the series of all runs and put them one after the other."""
    first, second = _series(phi, "phi"), _series(psi, "psi")
    each = [np.ones(len(s)) for s in first] if weights is None else _series(weights, "weights")
    if not [len(s) for s in first] == [len(s) for s in second] == [len(s) for s in each]:
        lengths = "; ".join(", ".join(str(len(s)) for s in part) for part in (first, second, each))
        raise InputError("phi, psi and weights", "series of equal lengths", lengths)
    if any((w < 0.0).any() for w in each) or not sum(w.sum() for w in each) > 0.0:
        raise InputError("weights", "numbers that are not negative and not all zero", "others")
    runs = np.repeat(np.arange(len(first)), [len(s) for s in first])
    return _Frames(np.concatenate(first), np.concatenate(second), np.concatenate(each), runs)


def _series(values: FloatArray | Sequence[FloatArray], where: str) -> list[FloatArray]:
    """One array for each run, none of them empty."""
    single = isinstance(values, np.ndarray) and values.ndim == 1
    series = [np.asarray(each, dtype=np.float64) for each in ([values] if single else values)]
    if not series or any(each.ndim != 1 or not len(each) for each in series):
        raise InputError(where, "a series of numbers for each run", "none, or another shape")
    if not all(np.isfinite(each).all() for each in series):
        raise InputError(where, "finite numbers", "NaN or infinity")
    return series


def _count_blocks(frames: _Frames, regions: IntArray) -> tuple[int, bool]:
    """How many parts of a run are independent, and whether the run is long enough to tell."""
    series = [f(angle) for angle in (frames.phi, frames.psi) for f in (np.cos, np.sin)]
    series += [(regions == number).astype(np.float64) for number in np.unique(regions)]
    weight = frames.weights
    share = weight / weight.mean()
    # The weighted mean's error is that of the mean of these, to first order.
    averages = [block_average(share * (s - np.average(s, weights=weight))) for s in series]
    return min(_MOST_BLOCKS, *(each.n_blocks for each in averages)), all(each.converged for each in averages)


def _sum_by_block(values: FloatArray, block: IntArray, columns: IntArray, width: int) -> FloatArray:
    """Sums of the frames' values by block and column, shape ``(n_blocks, width)``."""
    n_blocks = int(block[-1]) + 1
    sums = np.bincount(block * width + columns, values, n_blocks * width)
    return np.asarray(sums.reshape(n_blocks, width), dtype=np.float64)


def _smoothing_matrix(bins: int, smoothing: float) -> FloatArray:
    """Weight with which a frame in one cell counts in another, columns sum up to one."""
    if smoothing == 0.0:
        return np.eye(bins)
    steps = np.arange(bins)
    distance = 2.0 * np.pi / bins * np.minimum(steps, bins - steps)
    row = np.where(distance <= _REACH * smoothing, np.exp(-0.5 * (distance / smoothing) ** 2), 0.0)
    return np.asarray((row / row.sum())[(steps[:, None] - steps) % bins])
