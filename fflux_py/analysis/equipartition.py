"""Does the thermostat equilibrate?  Temperature of every element and of every normal mode, with standard errors.

The temperature of a whole molecule says nothing about that of its parts: a thermostat that scales all velocities by one
factor holds the mean, while stretches that hardly exchange energy with the rest stay hot or cold for as long as a run
lasts.  So the kinetic energy of each part (:mod:`fflux_py.molecules.equipartition`) is averaged over blocks of the
runs, and held against the thermostat's temperature.

**Errors.**  The mean kinetic energy of a part with f degrees of freedom has the relative variance 2/f over the number
of independent frames, which is much the same for all modes of a sound run.  From few blocks the scatter of one mode's
own blocks is a poor estimate of it; so the error of a part is taken from its own blocks or from those of all modes,
whichever is larger.  Blocks are at least ten relaxation times of the thermostat long, of a short run eight at least;
what correlation that leaves is taken into account as if it decayed with the relaxation time, as it does in Langevin
dynamics.

**Deviations** are counted in standard errors.  A kinetic energy has a chi-square distribution, whose mean over few
independent frames is far from normal; its cube root is nearly so (E. B. Wilson and M. M. Hilferty, PNAS 17, 684
(1931)), and is what is compared.  Where the error is small, this is the deviation over the standard error.

**Two criteria.**  *The largest deviation* of a part, over all runs together, is below four standard errors; of many
parts below what one sound verdict in a thousand exceeds (Bonferroni).  *The root mean square of the deviations* of all
modes in all single runs is below what one in five thousand exceeds; of sound runs it is about one.  It is larger if
modes keep their energy for longer than a block: the errors are then too small, whatever the mean over several runs is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import chi2, norm

from fflux_py.analysis.criteria import Criterion, with_error
from fflux_py.dynamics.config import MDConfig
from fflux_py.dynamics.trajectory import Trajectory
from fflux_py.errors import InputError
from fflux_py.molecules.equipartition import elements_of, kinetic_energies, names_of_parts
from fflux_py.molecules.mechanics import masses
from fflux_py.molecules.normal_modes import NormalModes
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN

CRITERIA: Final = (
    "Temperature by mode and element, largest deviation",
    "Temperature by mode, root mean square deviation",
)
"""Names of the criteria in reports and certificates."""

LARGEST_DEVIATION: Final = 4.0
"""Standard errors that a part of a small molecule may be off."""

FALSE_ALARMS: Final = 0.001
"""Share of sound verdicts that the largest deviation may fail, if it is more than four standard errors of few parts."""

FALSE_ALARMS_RMS: Final = 0.0002
"""The same of the root mean square; less, for errors from few blocks are estimates, which widens its distribution."""

_START_UP: Final = 0.1
_SHORTEST_TIME_FS: Final = 100.0
_START_UP_TIMES: Final = 5.0
_BLOCK_TIMES: Final = 10.0
_SHORTEST_BLOCK_TIMES: Final = 8.0
_FEWEST_BLOCKS: Final = 4
_MOST_BLOCKS: Final = 64


@dataclass(frozen=True)
class Equipartition:
    """Temperatures of the parts of a molecule in runs with one thermostat.

    Parameters
    ----------
    target_k
        Temperature of the thermostat, kelvin.
    names
        Elements, and normal modes by their wavenumbers.
    temperatures_k, standard_errors_k
        Of each part, kelvin.
    deviations
        Distance of each from the target in standard errors, with its sign.
    of_runs
        The same of the modes in every single run (of the elements if there are no modes), shape ``(runs, modes)``.
    n_blocks
        Blocks of all runs together.
    block_fs
        Their length, femtosecond.
    start_up_fs
        What was left out at the start of every run, femtosecond.
    """

    target_k: float
    names: tuple[str, ...]
    temperatures_k: FloatArray
    standard_errors_k: FloatArray
    deviations: FloatArray
    of_runs: FloatArray
    n_blocks: int
    block_fs: float
    start_up_fs: float

    @property
    def worst(self) -> int:
        """Index of the part that is furthest off."""
        return int(np.abs(self.deviations).argmax())

    @property
    def largest_deviation(self) -> float:
        """Its deviation in standard errors, without sign."""
        return float(np.abs(self.deviations).max())

    @property
    def largest_relative_error(self) -> float:
        """Largest standard error as a share of the target."""
        return float(self.standard_errors_k.max() / self.target_k)

    @property
    def rms_deviation(self) -> float:
        """Root mean square of the deviations of single modes in single runs, in standard errors."""
        return float(np.sqrt((self.of_runs**2).mean()))

    @property
    def thresholds(self) -> tuple[float, float]:
        """What the largest deviation and the root mean square may reach, standard errors."""
        n = self.of_runs.size
        largest = max(LARGEST_DEVIATION, float(norm.isf(0.5 * FALSE_ALARMS / len(self.names))))
        return largest, float(np.sqrt(chi2.isf(FALSE_ALARMS_RMS, n) / n))

    def criteria(self, group: str = "") -> tuple[Criterion, ...]:
        """The largest deviation, and the root mean square, against their thresholds."""
        k, (largest, rms) = self.worst, self.thresholds
        words = with_error(float(self.temperatures_k[k]), float(self.standard_errors_k[k]))
        note = (
            f"{self.names[k]}: {words} K; {len(self.names)} parts, standard errors up to "
            f"{100.0 * self.largest_relative_error:.2g} % ({self.n_blocks} blocks of {self.block_fs / 1000.0:.3g} ps)."
        )
        n_runs, n_modes = self.of_runs.shape
        single = f"{n_modes} parts in {n_runs} run{'s' if n_runs > 1 else ''}; about one if no part keeps its energy."
        return (
            Criterion(CRITERIA[0], self.largest_deviation, "standard errors", largest, "<", note, group),
            Criterion(CRITERIA[1], self.rms_deviation, "standard errors", rms, "<", single, group),
        )

    def as_dict(self) -> dict[str, object]:
        """For JSON: units in the key names."""
        return {
            "target_k": self.target_k,
            "largest_deviation_standard_errors": self.largest_deviation,
            "largest_relative_standard_error": self.largest_relative_error,
            "rms_deviation_standard_errors": self.rms_deviation,
            "thresholds_standard_errors": list(self.thresholds),
            "n_blocks": self.n_blocks,
            "block_fs": self.block_fs,
            "start_up_fs": self.start_up_fs,
            "parts": [
                {"name": name, "temperature_k": float(t), "standard_error_k": float(e), "deviation": float(z)}
                for name, t, e, z in zip(
                    self.names, self.temperatures_k, self.standard_errors_k, self.deviations, strict=True
                )
            ],
        }


def equipartition(
    trajectories: Sequence[Trajectory], config: MDConfig, modes: NormalModes | None = None
) -> Equipartition | None:
    """Temperatures by element and by normal mode of runs of one kind.

    Parameters
    ----------
    trajectories
        Runs of the same molecule with the same settings.
    config
        Their settings.
    modes
        Directions to look at; those that the first trajectory holds if not given, and elements only if it holds none.

    Returns
    -------
    None where there is nothing to judge: no thermostat, no velocities (a run of an earlier version), or a run that is
    too short (:func:`shortest_run_fs`).

    Raises
    ------
    InputError
        No trajectories.
    """
    if not trajectories:
        raise InputError("trajectories", "at least one", "none")
    if config.thermostat == "none":
        return None
    first = trajectories[0]
    directions = first.modes if modes is None else modes
    table = masses(first.molecule, config.hydrogen_mass)
    blocks, times = [], []
    for trajectory in trajectories:
        frames = _frames_of_blocks(trajectory, config)
        if frames is None or trajectory.velocities is None:
            return None
        chosen, n_blocks, length_fs = frames
        series = kinetic_energies(
            trajectory.positions[chosen], trajectory.velocities[chosen], first.molecule, table, directions
        )
        blocks.append(np.stack([_means(entry, n_blocks) for entry in series]))
        times.append((length_fs, _start_up_fs(config, float(trajectory.times_fs[-1]))))
    n_elements = 0 if directions is None else len(elements_of(first.molecule))
    shortest, start_up = min(length for length, _ in times), max(begin for _, begin in times)
    block_times = shortest / _unit_fs(config)
    judged = [_judge(config.temperature, one[0], one[1], n_elements, block_times) for one in blocks]
    energies, freedom = np.concatenate(blocks, axis=1)
    temperatures, relative, deviations = _judge(config.temperature, energies, freedom, n_elements, block_times)
    return Equipartition(
        target_k=config.temperature,
        names=names_of_parts(first.molecule, directions),
        temperatures_k=temperatures,
        standard_errors_k=config.temperature * relative,
        deviations=deviations,
        of_runs=np.array([z[n_elements:] for _, _, z in judged]),
        n_blocks=len(energies),
        block_fs=shortest,
        start_up_fs=start_up,
    )


def shortest_run_fs(config: MDConfig) -> float:
    """Length in femtosecond from which on runs with these settings have temperatures by mode and element."""
    needed = _FEWEST_BLOCKS * _SHORTEST_BLOCK_TIMES * _unit_fs(config)
    return max(_START_UP_TIMES * _unit_fs(config) + needed, needed / (1.0 - _START_UP))


def _unit_fs(config: MDConfig) -> float:
    assert config.relaxation_time is not None
    return max(config.relaxation_time, _SHORTEST_TIME_FS)


def _start_up_fs(config: MDConfig, length_fs: float) -> float:
    return max(_START_UP * length_fs, _START_UP_TIMES * _unit_fs(config))


def _frames_of_blocks(trajectory: Trajectory, config: MDConfig) -> tuple[slice, int, float] | None:
    """Frames that are looked at, number of blocks, and their length (femtosecond); None if there are too few."""
    if len(trajectory) < 2:
        return None
    times, unit = trajectory.times_fs, _unit_fs(config)
    interval = float(times[1] - times[0])
    n_frames = len(times) - int(np.ceil(_start_up_fs(config, float(times[-1])) / interval - 1e-9))
    shortest = max(1, int(np.ceil(_SHORTEST_BLOCK_TIMES * unit / interval - 1e-9)))
    if n_frames < _FEWEST_BLOCKS * shortest:
        return None
    n_blocks = int(np.clip(n_frames * interval / (_BLOCK_TIMES * unit), _FEWEST_BLOCKS, _MOST_BLOCKS))
    length = n_frames // n_blocks
    return slice(len(times) - n_blocks * length, None), n_blocks, length * interval


def _means(series: FloatArray, n_blocks: int) -> FloatArray:
    """Means over consecutive blocks, shape ``(n_blocks, parts)``."""
    return np.asarray(series.reshape(n_blocks, -1, series.shape[1]).mean(axis=1))


def _judge(
    target: float, energies: FloatArray, freedom: FloatArray, n_elements: int, block_times: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Temperatures, relative standard errors and deviations of the parts.

    Parameters
    ----------
    target
        Kelvin.
    energies, freedom
        Means over blocks, hartree and degrees of freedom, shape ``(blocks, parts)``.
    n_elements
        How many parts come before the modes.
    block_times
        Length of a block over the time in which kinetic energies forget.
    """
    share = freedom.mean(axis=0)
    temperatures = 2.0 * energies.mean(axis=0) / (BOLTZMANN * share)
    # Relative variance of one block, times the degrees of freedom: of one size for all modes of a sound run.
    scatter = (2.0 * energies / (BOLTZMANN * freedom)).var(axis=0, ddof=1) / temperatures**2 * share
    # The variance of the mean of correlated blocks is larger than theirs by this factor, if C(t) = exp(-t).
    scatter /= 1.0 - (1.0 - np.exp(-block_times)) / block_times
    relative = np.sqrt(np.maximum(scatter, scatter[n_elements:].mean()) / (share * len(energies)))
    # Wilson and Hilferty: the cube root of a chi-square mean of relative deviation s has mean 1 - s^2/9, deviation s/3
    deviations = (np.cbrt(temperatures / target) - 1.0 + relative**2 / 9.0) / (relative / 3.0)
    return temperatures, relative, deviations
