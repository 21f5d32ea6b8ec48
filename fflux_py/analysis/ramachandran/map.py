"""Ramachandran maps: the free energy over the backbone torsions phi and psi, its regions, and how sure both are.

A map is a probability on a periodic grid whose cells are centred at -180, -180 + h, ... degrees, as those of
:class:`fflux_py.bias.grid.Grid` and of PLUMED's free-energy files: maps from frames (:func:`ramachandran_map`) and from
the hills of metadynamics (:func:`map_of_free_energy`) can be subtracted cell by cell
(:func:`fflux_py.analysis.ramachandran.comparison.compare_maps`).
Populations are those of the regions of :mod:`fflux_py.analysis.ramachandran.regions`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon

from fflux_py.analysis.ramachandran.regions import MIRROR, REGIONS, Region, region_numbers
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
    """How far a map is from its mirror image: of an achiral molecule, how far the sampling is from convergence.

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
        check_temperature(self.temperature)
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
        surface, lowest = self.free_energy_kcal_mol, []
        phi, psi = (self.centres(axis) for axis in (0, 1))
        of_cell = region_numbers(np.radians(phi)[:, None], np.radians(psi)[None, :])
        for number in range(len(REGIONS)):
            inside = np.where((of_cell == number) & self.visited, surface, np.inf)
            i, j = np.unravel_index(int(inside.argmin()), inside.shape)
            seen = bool(np.isfinite(inside[i, j]))
            lowest.append((float(inside[i, j]), float(phi[i]), float(psi[j])) if seen else (np.nan,) * 3)
        return lowest

    def mirrored(self) -> RamachandranMap:
        """The map of the mirror image: (phi, psi) at (-phi, -psi)."""
        errors = self.given_errors
        return replace(
            self,
            blocks=_inverted(self.blocks),
            regions=self.regions[:, MIRROR],
            visited=_inverted(self.visited),
            given_errors=None if errors is None else _inverted(errors),
        )

    def symmetrised(self) -> RamachandranMap:
        """The mean of the map and its mirror image, which is the map of an achiral molecule (capped glycine)."""
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

    def subset(self, chosen: slice) -> RamachandranMap:
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


def jensen_shannon(first: RamachandranMap, second: RamachandranMap) -> float:
    """Jensen-Shannon distance of two maps of one grid: 0 for equal maps, 1 for maps without a common cell.

    The square root of the divergence with logarithms to base 2 (D. M. Endres, J. E. Schindelin, IEEE Trans. Inf. Theory
    49, 1858 (2003)).
    """
    if first.probability.shape != second.probability.shape:
        shapes = [str(m.probability.shape) for m in (first, second)]
        raise InputError("maps to be compared", f"{shapes[0]} cells", shapes[1], "use the same bins")
    return float(jensenshannon(first.probability.ravel(), second.probability.ravel(), base=2))


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive number of kelvin."""
    if not (temperature > 0.0 and np.isfinite(temperature)):
        raise InputError("temperature", "a positive number of kelvin", str(temperature))


def _inverted(table: NDArray[Any]) -> NDArray[Any]:
    """Cells at the opposite angles; the cell at -180 degrees is its own."""
    return np.roll(table[..., ::-1, ::-1], 1, axis=(-2, -1))
