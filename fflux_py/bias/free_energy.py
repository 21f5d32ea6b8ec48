"""Free energies from metadynamics: from the hills themselves, and by reweighting frames, with block errors.

Two estimates that must agree: -gamma/(gamma-1) V of the hills (Barducci et al., Phys. Rev. Lett. 100, 020603 (2008)),
and the histogram of the frames weighted with exp((V(s, t) - c(t)) / kT) (Tiwary, Parrinello, J. Phys. Chem. B 119, 736
(2015)).  The latter gives any other variable's free energy too, and an error bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fflux_py.bias.collective_variables import CollectiveVariable
from fflux_py.bias.grid import Grid, check_size
from fflux_py.bias.metadynamics import Hills
from fflux_py.errors import InputError
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import BOLTZMANN

_CHUNK = 4_000_000


@dataclass(frozen=True)
class FreeEnergy:
    """A free energy on a grid.

    Parameters
    ----------
    grid
        The grid, of some shape.
    values
        Hartree, of that shape; infinite where nothing was ever seen.
    gradients
        Derivatives by the variables, hartree per radian or bohr, ``(k, *shape)``; None where not known.
    errors
        Standard errors, hartree, of that shape; None where not known.
    """

    grid: Grid
    values: FloatArray
    gradients: FloatArray | None = None
    errors: FloatArray | None = None

    def __post_init__(self) -> None:
        shape = self.grid.shape
        for name, expected in (("values", shape), ("gradients", (len(shape), *shape)), ("errors", shape)):
            array = getattr(self, name)
            if array is None:
                continue
            if np.shape(array) != expected:
                raise InputError(f"free energy, {name}", f"shape {expected}", f"shape {np.shape(array)}")
            object.__setattr__(self, name, read_only(array))

    def relative(self) -> FreeEnergy:
        """The same with its lowest point at zero."""
        return FreeEnergy(self.grid, self.values - self.values.min(), self.gradients, self.errors)


def free_energy_of_hills(hills: Hills, grid: Grid) -> FreeEnergy:
    """-gamma/(gamma-1) times the bias of all hills, with its gradient, on ``grid`` (not shifted, as sum_hills does)."""
    _check_grid(hills, grid)
    gamma = hills.bias_factor
    scale = gamma / (gamma - 1.0) if np.isfinite(gamma) else 1.0
    points = _points(grid)
    bias, gradients = np.empty(len(points)), np.empty((len(grid.shape), len(points)))
    periods = np.array([v.period for v in hills.variables])
    for part in _chunks(len(points), len(hills)):
        each = hills.at(points[part])
        bias[part] = each.sum(axis=-1)
        for d in range(len(grid.shape)):
            shift = points[part, None, d] - hills.centres[:, d]
            if periods[d]:
                shift -= periods[d] * np.round(shift / periods[d])
            gradients[d, part] = -np.sum(_steepness(hills, each) * shift / hills.sigmas[:, d] ** 2, axis=-1)
    return FreeEnergy(grid, -scale * bias.reshape(grid.shape), -scale * gradients.reshape(-1, *grid.shape))


def _steepness(hills: Hills, each: FloatArray) -> FloatArray:
    """What d/ds exp(-x) multiplies: the hill itself, or for stretched hills the part without the offset."""
    if hills.shape == "gaussian":
        return each
    cut = np.exp(-6.25)
    return np.where(each > 0.0, each + hills.heights * cut / (1.0 - cut), 0.0)


def reweighting_offset(hills: Hills, temperature: float, grid: Grid) -> FloatArray:
    """c(t) after 0, 1, ..., n hills, hartree, ``(n + 1,)``.

    c = kT ln(integral exp(gamma/(gamma-1) V/kT) / integral exp(V/((gamma-1) kT))) over ``grid`` (Tiwary and
    Parrinello, eq. 12).

    Parameters
    ----------
    temperature
        Kelvin.
    grid
        Must cover what the variables can reach, and nothing that they cannot: the integrals are over it.
    """
    _check_grid(hills, grid)
    gamma, thermal = hills.bias_factor, BOLTZMANN * temperature
    full, less = (gamma / (gamma - 1.0), 1.0 / (gamma - 1.0)) if np.isfinite(gamma) else (1.0, 0.0)
    points, weights = _points(grid), grid.weights().ravel()
    bias, offsets = np.zeros(len(points)), np.zeros(len(hills) + 1)
    for part in _chunks(len(hills), len(points)):
        some = Hills(hills.variables, hills.times[part], hills.centres[part], hills.sigmas[part], hills.heights[part],
                     gamma, hills.shape)  # fmt: skip
        for h, hill in enumerate(some.at(points).T, start=part.start):
            bias += hill
            scaled = bias / thermal
            top = scaled.max()
            above, below = np.exp(full * (scaled - top)) @ weights, np.exp(less * (scaled - top)) @ weights
            offsets[h + 1] = thermal * (np.log(above / below) + (full - less) * top)
    return offsets


def bias_of_frames(hills: Hills, values: FloatArray, counts: IntArray) -> FloatArray:
    """Bias (hartree, ``(m,)``) at the frames' values ``(m, k)`` when there were ``counts`` ``(m,)`` hills."""
    energies = np.empty(len(values))
    number = np.arange(len(hills))
    for part in _chunks(len(values), len(hills)):
        each = hills.at(values[part])
        energies[part] = np.sum(np.where(number < counts[part, None], each, 0.0), axis=-1)
    return energies


def frame_weights(bias: FloatArray, offset: FloatArray | float, temperature: float) -> FloatArray:
    """Weights exp((V - c) / kT) of frames, scaled to a mean of one, ``(m,)``."""
    exponent = (np.asarray(bias) - offset) / (BOLTZMANN * temperature)
    weights = np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.mean())


def weighted_free_energy(
    values: FloatArray, weights: FloatArray, grid: Grid, temperature: float, n_blocks: int = 10
) -> FreeEnergy:
    """-kT ln of a weighted histogram around the points of ``grid``, lowest point at zero, with block errors.

    The frames are cut into blocks of successive ones; the error of a bin is that of the weighted mean of the blocks'
    histograms (Bussi, Tribello, in Biomolecular Simulations, Methods Mol. Biol. 2022 (2019)).

    Parameters
    ----------
    values
        Variables of every frame in the order of time, ``(m, k)``.
    weights
        Weights of the frames, ``(m,)``; ones for an unbiased run.
    grid
        A frame counts for its nearest point; frames beyond the limits do not count.
    temperature
        Kelvin.
    n_blocks
        Blocks must be longer than the run's memory, or the error comes out too small.
    """
    if values.shape != (len(weights), len(grid.shape)):
        raise InputError("values", f"shape ({len(weights)}, {len(grid.shape)})", f"shape {values.shape}")
    if not 2 <= n_blocks <= len(values):
        raise InputError("n_blocks", f"a number from 2 to {len(values)} (the frames at hand)", str(n_blocks))
    index = np.zeros(len(values), dtype=np.int64)
    inside = np.ones(len(values), dtype=bool)
    for k, variable in enumerate(grid.variables):
        nearest = np.round((values[:, k] - grid.minima[k]) / grid.spacings[k]).astype(np.int64)
        if variable.period:
            nearest %= grid.shape[k]
        else:
            inside &= (values[:, k] >= grid.minima[k]) & (values[:, k] <= grid.maxima[k])
        index = index * grid.shape[k] + np.clip(nearest, 0, grid.shape[k] - 1)
    size = int(np.prod(grid.shape))
    block = np.arange(len(values)) * n_blocks // len(values)
    sums = np.zeros((n_blocks, size))
    np.add.at(sums, (block[inside], index[inside]), weights[inside])
    totals = np.bincount(block, weights, minlength=n_blocks)
    shares = totals / totals.sum()
    mean = sums.sum(axis=0) / totals.sum()
    effective = 1.0 / np.sum(shares**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = shares @ (sums / totals[:, None] - mean) ** 2
        error = np.sqrt(spread / (effective - 1.0)) / mean
        # Half bins at the limits of a variable that is no torsion hold half of the frames.
        density = mean / grid.weights().ravel()
        energy = -np.log(density / density.max())
    thermal = BOLTZMANN * temperature
    error[~(mean > 0.0)] = np.inf
    return FreeEnergy(grid, thermal * energy.reshape(grid.shape), errors=thermal * error.reshape(grid.shape))


def _check_grid(hills: Hills, grid: Grid) -> None:
    check_size(grid.shape)
    if grid.variables != hills.variables:
        raise InputError("grid", f"the variables {_names(hills.variables)}", _names(grid.variables))


def _names(variables: Sequence[CollectiveVariable]) -> str:
    return ", ".join(v.label for v in variables)


def _points(grid: Grid) -> FloatArray:
    """All points of a grid, the last variable fastest, ``(size, k)``."""
    axes = np.meshgrid(*(grid.points(k) for k in range(len(grid.shape))), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=-1)


def _chunks(n: int, width: int) -> list[slice]:
    """Parts of ``range(n)`` whose tables with ``width`` columns fit the memory."""
    step = max(1, _CHUNK // max(width, 1))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
