"""Well-tempered metadynamics on torsions, angles and distances.

Barducci, Bussi, Parrinello, Phys. Rev. Lett. 100, 020603 (2008).  The bias is a sum of Gaussian hills,

    V(s) = sum_h W_h exp(-1/2 sum_d (s_d - c_hd)^2 / sigma_d^2),      W_h = W exp(-V(c_h) / (k_B T (gamma - 1))),

with differences on the circle for torsions.  In the long run V(s) = -(1 - 1/gamma) F(s) + const.

With ``parallel``, every variable has a bias V_d of its own, and what acts is -k_B T ln((1/D) sum_d exp(-V_d / k_B T));
the heights of a round of hills are shared in proportion to exp(-V_d / k_B T) (PBMETAD: Pfaendtner, Bonomi, J. Chem.
Theory Comput. 11, 5062 (2015)).

Reading the bias never changes it: a hill is put down by :meth:`Metadynamics.deposit` only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from fflux_py.bias import _compiled
from fflux_py.bias.collective_variables import CollectiveVariable, difference, values_and_gradients
from fflux_py.bias.grid import Grid, check_size
from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import BOLTZMANN

HillShape = Literal["gaussian", "stretched-gaussian"]
_KINDS: Final = {"torsion": _compiled.TORSION, "angle": _compiled.ANGLE, "distance": _compiled.DISTANCE}
_STRETCH_CUTOFF: Final = 6.25
_STRETCH: Final = 1.0 / (1.0 - np.exp(-_STRETCH_CUTOFF))


@dataclass(frozen=True)
class HillParameters:
    """What a hill is and how often one is put down.

    Parameters
    ----------
    height
        Height W of the first hill, hartree.
    sigma
        Width of a hill: one number for all variables, or one for each; radian (torsion, angle) or bohr (distance).
    bias_factor
        gamma = (T + Delta T) / T > 1; infinity for metadynamics that is not well-tempered.
    pace
        Steps between two hills.
    """

    height: float
    sigma: float | tuple[float, ...]
    bias_factor: float
    pace: int

    def __post_init__(self) -> None:
        for name, low in (("height", 0.0), ("bias_factor", 1.0), ("pace", 0)):
            value = getattr(self, name)
            if not (value > low and (np.isfinite(value) or name == "bias_factor")):
                raise InputError(f"hill parameter {name}", f"a number greater than {low:g}", str(value))
        if not isinstance(self.sigma, int | float):
            object.__setattr__(self, "sigma", tuple(float(s) for s in self.sigma))
        for sigma in self.sigma if isinstance(self.sigma, tuple) else (self.sigma,):
            if not (np.isfinite(sigma) and sigma > 0.0):
                raise InputError("hill parameter sigma", "a number greater than 0", str(sigma))

    def sigmas(self, variables: Sequence[CollectiveVariable]) -> tuple[float, ...]:
        """The width of each variable."""
        sigmas = self.sigma if isinstance(self.sigma, tuple) else (float(self.sigma),) * len(variables)
        if len(sigmas) != len(variables):
            raise InputError("hill parameter sigma", f"one width for each of {len(variables)} variables",
                             str(len(sigmas)))  # fmt: skip
        for variable, sigma in zip(variables, sigmas, strict=True):
            if variable.period and sigma > 1.0:
                raise InputError(f"hill parameter sigma of {variable.label}",
                                 "at most 1 radian (the hill must end within the circle)", f"{sigma:g}")  # fmt: skip
        return sigmas


@dataclass(frozen=True)
class Hills:
    """Hills of one bias, in the order in which they were put down; n hills on k variables.

    Parameters
    ----------
    variables
        The variables.
    times
        Atomic units of time, ``(n,)``.
    centres, sigmas
        Radian or bohr, ``(n, k)``.
    heights
        Heights as they stand in the bias, hartree, ``(n,)``.
    bias_factor
        gamma; infinity if the metadynamics was not well-tempered.
    shape
        ``"gaussian"``, or ``"stretched-gaussian"``: PLUMED's since version 2.8, cut where it is exp(-6.25) high and
        stretched so that it is zero there.
    """

    variables: tuple[CollectiveVariable, ...]
    times: FloatArray
    centres: FloatArray
    sigmas: FloatArray
    heights: FloatArray
    bias_factor: float
    shape: HillShape = "gaussian"

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))
        n, k = len(self.heights), len(self.variables)
        for name, shape in (("times", (n,)), ("centres", (n, k)), ("sigmas", (n, k)), ("heights", (n,))):
            array = read_only(getattr(self, name))
            if array.shape != shape:
                raise InputError(f"hills, {name}", f"shape {shape}", f"shape {array.shape}")
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.heights)

    def at(self, values: FloatArray) -> FloatArray:
        """What every hill adds to the bias at points ``(..., k)``: hartree, ``(..., n)``."""
        periods = np.array([v.period for v in self.variables])
        scaled = difference(values[..., None, :], self.centres, periods) / self.sigmas
        exponent = 0.5 * np.einsum("...hd,...hd->...h", scaled, scaled)
        if self.shape == "gaussian":
            return np.asarray(self.heights * np.exp(-exponent))
        inside = _STRETCH * (np.exp(-exponent) - np.exp(-_STRETCH_CUTOFF))
        return np.asarray(self.heights * np.where(exponent < _STRETCH_CUTOFF, inside, 0.0))


@dataclass(frozen=True)
class BiasSettings:
    """A bias before it runs.

    Parameters
    ----------
    variables
        The variables, at least one.
    hills
        Hill height, widths, bias factor and pace.
    parallel
        One bias for each variable instead of a joint one.
    grid
        Where the bias is kept; without it, it is the sum over all hills.
    """

    variables: tuple[CollectiveVariable, ...]
    hills: HillParameters
    parallel: bool = False
    grid: Grid | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))
        if not self.variables:
            raise InputError("bias", "at least one collective variable", "none", "sample without bias")
        labels = [v.label for v in self.variables]
        if len(set(labels)) != len(labels):
            raise InputError("bias", "every collective variable once", ", ".join(labels))
        self.hills.sigmas(self.variables)
        if self.grid is not None and self.grid.variables != self.variables:
            raise InputError("grid", "the variables of the bias", ", ".join(v.label for v in self.grid.variables))

    def build(self, temperature: float) -> Metadynamics:
        """A bias without hills for a system at ``temperature`` (kelvin)."""
        return Metadynamics(self.variables, self.hills, temperature, self.parallel, self.grid)


class Metadynamics:
    """A growing well-tempered bias on one or several variables, g groups of them (one, or k with ``parallel``).

    Parameters
    ----------
    variables
        The collective variables, k of them.
    parameters
        Hill height, widths, bias factor and pace.
    temperature
        Temperature of the system, kelvin.
    parallel
        One bias for each variable (PBMETAD) instead of one of all of them.
    grid
        Where the bias is kept; without it, it is the sum over all hills, whose cost grows with their number.
    """

    def __init__(
        self,
        variables: Sequence[CollectiveVariable],
        parameters: HillParameters,
        temperature: float,
        parallel: bool = False,
        grid: Grid | None = None,
    ) -> None:
        self.settings = BiasSettings(tuple(variables), parameters, parallel, grid)
        if not (np.isfinite(temperature) and temperature > 0.0):
            raise InputError("temperature", "a positive number of kelvin", str(temperature))
        self.temperature = temperature
        k = len(self.variables)
        self._sigmas = np.array(parameters.sigmas(self.variables))
        self._periods = np.array([v.period for v in self.variables])
        self._groups = [slice(v, v + 1) for v in range(k)] if parallel else [slice(0, k)]
        self._arrays = _arrays(self.settings, temperature)

    @property
    def variables(self) -> tuple[CollectiveVariable, ...]:
        """The collective variables."""
        return self.settings.variables

    @property
    def parameters(self) -> HillParameters:
        """Hill height, widths, bias factor and pace."""
        return self.settings.hills

    @property
    def n_hills(self) -> int:
        """Number of hills so far (of each group)."""
        return int(self._arrays.n_hills[0])

    @property
    def pace(self) -> int:
        """Steps between two hills."""
        return self.parameters.pace

    @property
    def centres(self) -> FloatArray:
        """Centres of the hills, radian or bohr, ``(n_hills, k)`` (a copy)."""
        return self._arrays.centres[: self.n_hills].copy()

    @property
    def heights(self) -> FloatArray:
        """Heights of the hills as they stand in the bias, hartree, ``(n_hills, g)`` (a copy)."""
        return self._arrays.heights[: self.n_hills].copy()

    def values(self, positions: FloatArray) -> FloatArray:
        """Values of the variables, ``(k,)``, at ``positions`` (bohr)."""
        return values_and_gradients(positions, self.variables)[0]

    def bias(self, values: FloatArray) -> tuple[float, FloatArray]:
        """Bias (hartree) and its derivatives (hartree per radian or bohr, ``(k,)``) at the variables' values ``(k,)``.

        Raises
        ------
        GeometryError
            Outside the grid.
        """
        energies, slopes = self._group_biases(values)
        if len(energies) == 1:
            return float(energies[0]), slopes
        thermal = BOLTZMANN * self.temperature
        shares = np.exp((energies.min() - energies) / thermal)
        energy = energies.min() - thermal * np.log(shares.mean())
        return float(energy), slopes * shares / shares.sum()

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Energy (hartree) and forces (hartree/bohr, ``(n_atoms, 3)``) at ``positions`` in bohr; deposits nothing."""
        if self.settings.grid is not None:
            energy, forces = _compiled.energy_and_forces(np.asarray(positions, dtype=np.float64), self._arrays)
            if np.isfinite(energy) and np.isfinite(forces).all():
                return float(energy), forces
            # Below, what is wrong gets its name.
        values, gradients = values_and_gradients(positions, self.variables)
        energy, slope = self.bias(values)
        return energy, -np.tensordot(slope, gradients, axes=1)

    def deposit(self, positions: FloatArray) -> float:
        """Put down one hill (in each group) at ``positions`` (bohr) and return the sum of their heights (hartree)."""
        if self.settings.grid is not None:
            count = _compiled.deposit(np.asarray(positions, dtype=np.float64), self.arrays(1))
            if count > 0:
                return float(self._arrays.heights[count - 1].sum())
            # Below, what is wrong gets its name.
        return self.deposit_at(self.values(positions))

    def deposit_at(self, values: FloatArray) -> float:
        """Put down one hill (in each group) at the variables' values and return the sum of their heights (hartree)."""
        energies, _ = self._group_biases(values)
        thermal = BOLTZMANN * self.temperature
        shares = np.exp((energies.min() - energies) / thermal)
        heights = [
            self.parameters.height * share * float(np.exp(-energy / (thermal * (self.parameters.bias_factor - 1.0))))
            for energy, share in zip(energies, shares / shares.sum(), strict=True)
        ]
        self._add(values, np.array(heights))
        return float(sum(heights))

    def restore(self, centres: FloatArray, heights: FloatArray) -> None:
        """Put down hills of an earlier run, ``(n, k)`` and ``(n, g)``; the bias then is what it was, bit for bit."""
        if self.n_hills:
            raise InputError("hills to restore", "a bias without hills", f"{self.n_hills} hills")
        if centres.shape != (len(heights), len(self.variables)) or heights.shape != (len(heights), len(self._groups)):
            raise InputError("hills to restore", f"{len(self.variables)} variables and {len(self._groups)} heights",
                             f"shapes {centres.shape} and {heights.shape}")  # fmt: skip
        for centre, height in zip(centres, heights, strict=True):
            self._add(np.array(centre, dtype=np.float64), np.array(height, dtype=np.float64))

    def hills(self, timestep: float) -> tuple[Hills, ...]:
        """The hills of each group, of a run with this time step (atomic units) that began at time 0."""
        n = self.n_hills
        times = timestep * self.pace * np.arange(1.0, n + 1.0)
        return tuple(
            Hills(self.variables[group], times, self.centres[:, group], np.tile(self._sigmas[group], (n, 1)),
                  self.heights[:, g], self.parameters.bias_factor)
            for g, group in enumerate(self._groups)
        )  # fmt: skip

    def newest_hill(self, time: float) -> tuple[Hills, ...]:
        """The last hill of each group, said to be of this time (atomic units)."""
        centre, height = self._arrays.centres[self.n_hills - 1], self._arrays.heights[self.n_hills - 1]
        return tuple(
            Hills(self.variables[group], np.array([time]), centre[None, group], self._sigmas[None, group],
                  height[None, g], self.parameters.bias_factor)
            for g, group in enumerate(self._groups)
        )  # fmt: skip

    def offset(self) -> float:
        """c(t) of the bias as it stands, hartree, from its grid; see ``free_energy.reweighting_offset``."""
        if self.settings.grid is None or len(self._groups) > 1:
            raise InputError("c(t)", "a joint bias on a grid", "another bias", "weigh frames with the bias alone")
        gamma, thermal = self.parameters.bias_factor, BOLTZMANN * self.temperature
        full, less = (gamma / (gamma - 1.0), 1.0 / (gamma - 1.0)) if np.isfinite(gamma) else (1.0, 0.0)
        weights = self.settings.grid.weights().ravel()
        scaled = self._arrays.table[:, 0] / thermal
        top = scaled.max()
        above, below = weights @ np.exp(full * (scaled - top)), weights @ np.exp(less * (scaled - top))
        return float(thermal * (np.log(above / below) + (full - less) * top))

    def keep_in(self, table: FloatArray) -> None:
        """Keep the bias in this array from now on, of the shape of ``arrays().table``: one of several in one array."""
        table[...] = self._arrays.table
        self._arrays = self._arrays._replace(table=table)

    def arrays(self, room: int = 0) -> _compiled.BiasArrays:
        """The bias for compiled code, with room for that many more hills; the bias and the arrays are one.

        Hills that compiled code puts down (:func:`fflux_py.bias._compiled.deposit`) stand in the bias, until the next
        call of this method or of :meth:`deposit`, after which the arrays have to be asked for again.
        """
        if self.settings.grid is None:
            raise InputError("bias in compiled code", "a grid", "none", "give the bias a grid")
        self._reserve(room)
        return self._arrays

    def _group_biases(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The groups' own biases ``(g,)`` and their derivatives ``(k,)``."""
        energies, slopes = np.empty(len(self._groups)), np.empty(len(self.variables))
        if self.settings.grid is not None:
            _compiled.bias(np.asarray(values, dtype=np.float64), self._arrays, slopes, energies)
            if not np.isfinite(energies).all():
                found = ", ".join(f"{v.label} = {x:.4g}" for v, x in zip(self.variables, values, strict=True))
                raise GeometryError("bias", "variables inside the grid", found, "widen GRID_MIN and GRID_MAX")
            # The kernel scales the derivatives by the shares of parallel groups; here they are the groups' own.
            for g in range(len(self._groups) if len(self._groups) > 1 else 0):
                _compiled.group_bias(np.asarray(values, dtype=np.float64), self._arrays, g, slopes)
            return energies, slopes
        n = self.n_hills
        for g, group in enumerate(self._groups):
            shift = difference(values[group], self._arrays.centres[:n, group], self._periods[group])
            scaled = shift / self._sigmas[group]
            hills = self._arrays.heights[:n, g] * np.exp(-0.5 * np.einsum("hd,hd->h", scaled, scaled))
            energies[g] = hills.sum()
            slopes[group] = -hills @ (scaled / self._sigmas[group])
        return energies, slopes

    def _add(self, values: FloatArray, heights: FloatArray) -> None:
        self._reserve(1)
        n = self.n_hills
        self._arrays.centres[n] = values
        self._arrays.heights[n] = heights
        if self.settings.grid is not None:
            for g, height in enumerate(heights):
                _compiled.add_hill(np.asarray(values, dtype=np.float64), float(height), self._arrays, g)
        self._arrays.n_hills[0] = n + 1

    def _reserve(self, room: int) -> None:
        """Capacity doubles as hills arrive; only the first n_hills rows mean anything."""
        capacity = len(self._arrays.centres)
        while capacity < self.n_hills + room:
            capacity *= 2
        if capacity > len(self._arrays.centres):
            centres, heights = np.zeros((capacity, len(self.variables))), np.zeros((capacity, len(self._groups)))
            centres[: self.n_hills], heights[: self.n_hills] = self.centres, self.heights
            self._arrays = self._arrays._replace(centres=centres, heights=heights)


def compiled_variables(variables: Sequence[CollectiveVariable]) -> tuple[IntArray, IntArray]:
    """Kinds ``(k,)`` and atoms ``(k, 4)`` of variables for compiled code."""
    atoms = np.zeros((len(variables), 4), dtype=np.int64)
    for v, variable in enumerate(variables):
        atoms[v, : len(variable.atoms)] = variable.atoms
    return np.array([_KINDS[v.kind] for v in variables], dtype=np.int64), atoms


def _arrays(settings: BiasSettings, temperature: float) -> _compiled.BiasArrays:
    """Arrays of a bias without hills; without a grid, its table is empty."""
    variables, hills = settings.variables, settings.hills
    k = len(variables)
    groups = np.arange(k + 1) if settings.parallel else np.array([0, k])
    kinds, atoms = compiled_variables(variables)
    points = np.array(settings.grid.shape if settings.grid is not None else np.zeros(k), dtype=np.int64)
    sizes = [int(points[a:b].prod()) if settings.grid is not None else 0
             for a, b in itertools.pairwise(groups)]  # fmt: skip
    columns = 2 ** int(groups[1])
    check_size([sum(sizes), columns])
    thermal = BOLTZMANN * temperature
    return _compiled.BiasArrays(
        kinds=kinds,
        atoms=atoms,
        groups=groups.astype(np.int64),
        minima=np.array(settings.grid.minima if settings.grid is not None else np.zeros(k), dtype=np.float64),
        spacings=np.array(settings.grid.spacings if settings.grid is not None else np.ones(k), dtype=np.float64),
        points=points,
        periodic=np.array([v.period > 0.0 for v in variables], dtype=np.int64),
        starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64),
        table=np.zeros((sum(sizes), columns)),
        sigmas=np.array(hills.sigmas(variables)),
        constants=np.array([hills.height, thermal, thermal * (hills.bias_factor - 1.0)]),
        n_hills=np.zeros(1, dtype=np.int64),
        centres=np.zeros((64, k)),
        heights=np.zeros((64, len(groups) - 1)),
    )
