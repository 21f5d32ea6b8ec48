"""Ramachandran maps: the free energy over the backbone torsions phi and psi, its regions, and how sure both are.

A map is a probability on a periodic grid whose cells are centred at -180, -180 + h, ... degrees, as those of
:class:`fflux_py.bias.grid.Grid` and of PLUMED's free-energy files: maps from frames (:func:`ramachandran_map`) and from
the hills of metadynamics (:func:`map_of_free_energy`) can be subtracted cell by cell
(:func:`fflux_py.analysis.ramachandran.comparison.compare_maps`).
Populations are those of the regions of :mod:`fflux_py.analysis.ramachandran.regions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from fflux_py.analysis.ramachandran.regions import MIRROR, REGIONS, Region, populations_of_cells, region_numbers
from fflux_py.analysis.statistics import block_average
from fflux_py.bias.free_energy import FreeEnergy
from fflux_py.errors import InputError
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import BoolArray, FloatArray, IntArray
from fflux_py.units import BOLTZMANN, KCAL_MOL

_WIDEST: Final = np.pi / 6.0
_REACH: Final = 3.0
_MOST_BLOCKS: Final = 50
_FEWEST_BINS: Final = 6


@dataclass(frozen=True)
class Asymmetry:
    """How far a map is from its mirror image: of a molecule without handedness, how far the sampling is from its end.

    Parameters
    ----------
    jensen_shannon
        Jensen-Shannon distance of both maps, from 0 to 1.  Also the noise of few frames adds to it.
    population
        Largest difference between the populations of a region and of its mirror image.
    population_error
        Its standard error.
    region
        The region.
    """

    jensen_shannon: float
    population: float
    population_error: float
    region: Region


@dataclass(frozen=True)
class RamachandranMap:
    """Probability over phi and psi, block by block; a block is an independent replica or a part of one run.

    Free energies are -kT ln p of a cell, the lowest at zero; standard errors come from the spread of the blocks (ratio
    estimator of the weighted mean, W. G. Cochran, Sampling Techniques, 3rd ed., ch. 6).  What no block has seen has no
    free energy (NaN) and no population, whatever the error says.

    Parameters
    ----------
    temperature
        Kelvin.
    blocks
        Weight of the frames in every cell, phi first, ``(b, n, m)``; any unit, the same for all blocks.
    regions
        The same in every one of :data:`~fflux_py.analysis.ramachandran.regions.REGIONS`, ``(b, 9)``.
    visited
        Cells that have a free energy, ``(n, m)``.
    frames
        Frames of each block, ``(b,)``; zeros for a map from hills.
    effective
        Kish's effective number of frames, (sum w)^2 / sum w^2, of each block, ``(b,)``; all frames if not weighted.
    independent
        Whether the blocks are independent runs.
    converged
        Whether the blocks of a single run are long enough for its correlation; if not, errors are lower bounds.
    given_errors
        Standard errors of the free energy, hartree, ``(n, m)``, where they are known from elsewhere.
    """

    temperature: float
    blocks: FloatArray
    regions: FloatArray
    visited: BoolArray
    frames: IntArray
    effective: FloatArray
    independent: bool = True
    converged: bool = True
    given_errors: FloatArray | None = None

    def __post_init__(self) -> None:
        for name, kind in (("blocks", np.float64), ("regions", np.float64), ("effective", np.float64),
                           ("visited", np.bool_), ("frames", np.int64)):  # fmt: skip
            object.__setattr__(self, name, read_only(getattr(self, name), kind))
        _check_temperature(self.temperature)
        b, shape = len(self.blocks), self.blocks.shape[1:]
        for name, expected in (("regions", (b, len(REGIONS))), ("visited", shape), ("frames", (b,)),
                               ("effective", (b,))):  # fmt: skip
            if getattr(self, name).shape != expected:
                raise InputError(f"map, {name}", f"shape {expected}", f"shape {getattr(self, name).shape}")
        if not (self._shares >= 0.0).all():
            raise InputError("map, blocks", "weights that are not negative and not all zero", "others")

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.frames.sum())

    @property
    def n_effective(self) -> float:
        """Kish's effective number of frames of all blocks."""
        return float(1.0 / np.sum(self._shares**2 / self.effective)) if self.effective.all() else 0.0

    def centres(self, axis: int) -> FloatArray:
        """Centres of the cells in degrees, of phi (``axis`` 0) or psi (1), from -180."""
        n = self.blocks.shape[1 + axis]
        return np.asarray(-180.0 + 360.0 / n * np.arange(n))

    @cached_property
    def probability(self) -> FloatArray:
        """Probability of every cell, ``(n, m)``; it sums up to one."""
        return read_only(self.blocks.sum(axis=0) / self.blocks.sum())

    @property
    def density(self) -> FloatArray:
        """Probability density per square radian, ``(n, m)``."""
        n, m = self.probability.shape
        return np.asarray(self.probability * n * m / (2.0 * np.pi) ** 2)

    @cached_property
    def free_energy_kcal_mol(self) -> FloatArray:
        """Free energy above its lowest cell, kcal/mol, ``(n, m)``; NaN where not visited."""
        p = np.where(self.visited, self.probability, np.nan)
        return read_only(-self._thermal * np.log(p / np.nanmax(p)) + 0.0)

    @cached_property
    def errors_kcal_mol(self) -> FloatArray:
        """Standard error of the free energy, kcal/mol, ``(n, m)``; NaN where not visited or not known."""
        if self.given_errors is not None:
            return read_only(np.where(self.visited, self.given_errors * KCAL_MOL, np.nan))
        each = self.blocks / self._divisors[:, None, None]
        p = np.where(self.visited, self.probability, np.nan)
        return read_only(self._thermal * self._error(each, self.probability) / p)

    @cached_property
    def populations(self) -> FloatArray:
        """Populations of :data:`~fflux_py.analysis.ramachandran.regions.REGIONS`, ``(9,)``; they sum up to one."""
        return read_only(self.regions.sum(axis=0) / self.regions.sum())

    @cached_property
    def population_errors(self) -> FloatArray:
        """Standard errors of the populations, ``(9,)``; NaN where not known."""
        return read_only(self._error(self.regions / self._divisors[:, None], self.populations))

    @property
    def visits(self) -> IntArray:
        """Number of blocks that were in each region, ``(9,)``."""
        return np.asarray((self.regions > 0.0).sum(axis=0))

    def minima(self) -> list[tuple[float, float, float]]:
        """Lowest visited cell of every region: free energy (kcal/mol), phi, psi (degrees); NaN for a region unseen."""
        surface, found = self.free_energy_kcal_mol, []
        phi, psi = (self.centres(axis) for axis in (0, 1))
        of_cell = region_numbers(np.radians(phi)[:, None], np.radians(psi)[None, :])
        for number in range(len(REGIONS)):
            inside = np.where((of_cell == number) & self.visited, surface, np.inf)
            i, j = np.unravel_index(int(inside.argmin()), inside.shape)
            seen = bool(np.isfinite(inside[i, j]))
            found.append((float(inside[i, j]), float(phi[i]), float(psi[j])) if seen else (np.nan,) * 3)
        return found

    def mirrored(self) -> RamachandranMap:
        """The map of the mirror image: (phi, psi) at (-phi, -psi)."""
        errors = self.given_errors
        return replace(
            self,
            blocks=_turned(self.blocks),
            regions=self.regions[:, MIRROR],
            visited=_turned(self.visited),
            given_errors=None if errors is None else _turned(errors),
        )

    def symmetrised(self) -> RamachandranMap:
        """Every frame at both its places, as holds for a molecule without handedness (capped glycine)."""
        mirror = self.mirrored()
        return replace(
            self,
            blocks=0.5 * (self.blocks + mirror.blocks),
            regions=0.5 * (self.regions + mirror.regions),
            visited=self.visited | mirror.visited,
            given_errors=None,
        )

    def asymmetry(self) -> Asymmetry:
        """How far the map is from its mirror image."""
        each = self.regions / self._divisors[:, None]
        gap = self.populations - self.populations[MIRROR]
        error = self._error(each - each[:, MIRROR], gap)
        largest = int(np.argmax(gap))
        distance = jensen_shannon(self, self.mirrored())
        return Asymmetry(distance, float(gap[largest]), float(error[largest]), REGIONS[largest])

    def part(self, chosen: slice) -> RamachandranMap:
        """The map of some of the blocks."""
        blocks = self.blocks[chosen]
        if not len(blocks):
            raise InputError("part of a map", "at least one block", "none", "run more replicas")
        return replace(self, blocks=blocks, regions=self.regions[chosen], frames=self.frames[chosen],
                       visited=self.visited & (blocks.sum(axis=0) > 0.0), effective=self.effective[chosen],
                       given_errors=None)  # fmt: skip

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        rows = zip(REGIONS, self.populations, self.population_errors, self.visits, self.minima(), strict=True)
        return {
            "temperature_k": self.temperature,
            "n_frames": self.n_frames,
            "n_effective_frames": self.n_effective,
            "n_blocks": len(self.blocks),
            "independent_runs": self.independent,
            "blocks_long_enough": self.converged,
            "regions": {
                region.name: {
                    "population": float(population),
                    "population_standard_error": float(error) if np.isfinite(error) else None,
                    "blocks_that_visited": int(visits),
                    **({} if np.isnan(lowest[0]) else dict(zip(_MINIMUM_KEYS, lowest, strict=True))),
                }
                for region, population, error, visits, lowest in rows
            },
        }

    @property
    def _thermal(self) -> float:
        return BOLTZMANN * self.temperature * KCAL_MOL

    @property
    def _totals(self) -> FloatArray:
        return np.asarray(self.blocks.sum(axis=(1, 2)))

    @property
    def _divisors(self) -> FloatArray:
        """Weights of the blocks; one for a block that has none, which counts for nothing."""
        return np.where(self._totals > 0.0, self._totals, 1.0)

    @property
    def _shares(self) -> FloatArray:
        return np.asarray(self._totals / self.blocks.sum())

    def _error(self, each: FloatArray, mean: FloatArray) -> FloatArray:
        """Standard error of the weighted mean of the blocks' values ``(b, ...)``."""
        b = len(each)
        if b < 2:
            return np.full(mean.shape, np.nan)
        spread = np.tensordot(self._shares**2, (each - mean) ** 2, axes=1)
        return np.asarray(np.sqrt(spread * b / (b - 1)))


_MINIMUM_KEYS: Final = ("lowest_free_energy_kcal_mol", "lowest_phi_degree", "lowest_psi_degree")


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
        Width (standard deviation) of the kernel in radian, at most pi/6; 0 for the histogram as it is.

    Raises
    ------
    InputError
        Series of different lengths, fewer than 16 frames in a single run, numbers that are not finite.
    """
    _check_temperature(temperature)
    if bins < _FEWEST_BINS:
        raise InputError("bins", f"at least {_FEWEST_BINS}", str(bins))
    if not 0.0 <= smoothing <= _WIDEST:
        raise InputError("smoothing", f"a width from 0 to {_WIDEST:.3f} radian", str(smoothing))
    first, second = _series(phi, "phi"), _series(psi, "psi")
    each = [np.ones(len(s)) for s in first] if weights is None else _series(weights, "weights")
    if not [len(s) for s in first] == [len(s) for s in second] == [len(s) for s in each]:
        lengths = "; ".join(", ".join(str(len(s)) for s in part) for part in (first, second, each))
        raise InputError("phi, psi and weights", "series of equal lengths", lengths)
    if any((w < 0.0).any() for w in each) or not sum(w.sum() for w in each) > 0.0:
        raise InputError("weights", "numbers that are not negative and not all zero", "others")
    block = np.repeat(np.arange(len(first)), [len(s) for s in first])
    angles = np.concatenate(first), np.concatenate(second)
    weight = np.concatenate(each)
    regions = region_numbers(*angles)
    converged = True
    if len(first) == 1:
        n_blocks, converged = _blocks_of(angles, weight, regions)
        block = np.arange(len(weight)) * n_blocks // len(weight)
    n_blocks = int(block[-1]) + 1
    step = 2.0 * np.pi / bins
    cell = [np.round((angle + np.pi) / step).astype(np.int64) % bins for angle in angles]

    def table(values: FloatArray, columns: IntArray, width: int) -> FloatArray:
        counted = np.bincount(block * width + columns, values, n_blocks * width)
        return np.asarray(counted.reshape(n_blocks, width), dtype=np.float64)

    columns = cell[0] * bins + cell[1]
    kernel = _kernel(bins, smoothing)
    sums = kernel @ table(weight, columns, bins * bins).reshape(-1, bins, bins) @ kernel.T
    counts = kernel @ np.bincount(columns, minlength=bins * bins).reshape(bins, bins) @ kernel.T
    totals, squares = np.bincount(block, weight), np.bincount(block, weight**2)
    return RamachandranMap(
        temperature=temperature,
        blocks=sums,
        regions=table(weight, regions, len(REGIONS)),
        # A hundredth of one frame covers rounding; weights that underflow leave a cell without a free energy.
        visited=(counts >= 0.99 * kernel[0, 0] ** 2) & (sums.sum(axis=0) > 0.0),
        frames=np.bincount(block),
        effective=np.divide(totals**2, squares, out=np.ones(n_blocks), where=squares > 0.0),
        independent=len(first) > 1,
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
    _check_temperature(temperature)
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


def jensen_shannon(first: RamachandranMap, second: RamachandranMap) -> float:
    """Jensen-Shannon distance of two maps of one grid: 0 for equal maps, 1 for maps without a common cell.

    The square root of the divergence with logarithms to base 2 (D. M. Endres, J. E. Schindelin, IEEE Trans. Inf. Theory
    49, 1858 (2003)).
    """
    if first.probability.shape != second.probability.shape:
        shapes = [str(m.probability.shape) for m in (first, second)]
        raise InputError("maps to be compared", f"{shapes[0]} cells", shapes[1], "use the same bins")
    return float(jensenshannon(first.probability.ravel(), second.probability.ravel(), base=2))


def _check_temperature(temperature: float) -> None:
    if not (temperature > 0.0 and np.isfinite(temperature)):
        raise InputError("temperature", "a positive number of kelvin", str(temperature))


def _series(values: FloatArray | Sequence[FloatArray], where: str) -> list[FloatArray]:
    """One array for each run, none of them empty."""
    single = isinstance(values, np.ndarray) and values.ndim == 1
    series = [np.asarray(each, dtype=np.float64) for each in ([values] if single else values)]
    if not series or any(each.ndim != 1 or not len(each) for each in series):
        raise InputError(where, "a series of numbers for each run", "none, or another shape")
    if not all(np.isfinite(each).all() for each in series):
        raise InputError(where, "finite numbers", "NaN or infinity")
    return series


def _blocks_of(angles: tuple[FloatArray, FloatArray], weight: FloatArray, regions: IntArray) -> tuple[int, bool]:
    """How many parts of a run are independent, and whether the run is long enough to tell."""
    series = [f(angle) for angle in angles for f in (np.cos, np.sin)]
    series += [(regions == number).astype(np.float64) for number in np.unique(regions)]
    share = weight / weight.mean()
    # The weighted mean's error is that of the mean of these, to first order.
    found = [block_average(share * (s - np.average(s, weights=weight))) for s in series]
    return min(_MOST_BLOCKS, *(each.n_blocks for each in found)), all(each.converged for each in found)


def _kernel(bins: int, smoothing: float) -> FloatArray:
    """Weight with which a frame in one cell counts in another, columns sum up to one."""
    if smoothing == 0.0:
        return np.eye(bins)
    steps = np.arange(bins)
    distance = 2.0 * np.pi / bins * np.minimum(steps, bins - steps)
    row = np.where(distance <= _REACH * smoothing, np.exp(-0.5 * (distance / smoothing) ** 2), 0.0)
    return np.asarray((row / row.sum())[(steps[:, None] - steps) % bins])


def _turned(table: NDArray[Any]) -> NDArray[Any]:
    """Cells at the opposite angles; the cell at -180 degrees is its own."""
    return np.roll(table[..., ::-1, ::-1], 1, axis=(-2, -1))
