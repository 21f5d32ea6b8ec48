"""Vibrational spectra from trajectories.

The power spectrum is that of the mass-weighted velocities, the Fourier transform of their autocorrelation.  It is taken
from the positions of the frames: a difference of two successive frames is the mean velocity between them, whose
spectrum is that of the velocity times (sin(x)/x)^2, x = omega interval / 2, and is divided by it.  So no velocities
need to be stored, but frames must be close: a vibration faster than half the rate of the frames is folded back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.signal import welch

from fflux_py.errors import InputError
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND, WAVENUMBER

HIGHEST: Final = 4000.0
"""No vibration of a molecule is faster than this (cm^-1)."""

RESOLUTION: Final = 10.0
"""Resolution of a spectrum in cm^-1, if the trajectory is long enough."""

FEWEST: Final = 64
"""Steps between frames at least."""

# A wave of angular frequency 1 (atomic units) has the energy of one hartree.
_TO_WAVENUMBER: Final = 2.0 * np.pi * WAVENUMBER


@dataclass(frozen=True)
class PowerSpectrum:
    """Power spectrum of the velocities.

    Parameters
    ----------
    wavenumbers
        cm^-1, shape ``(k,)``, from zero to the highest that the frames resolve.
    density
        Per cm^-1, shape ``(k,)``: the share of the kinetic energy in units of kT/2.  A classical vibration at the
        temperature of the run has the area one, all together have the number of degrees of freedom.
    folded
        Whether vibrations up to 4000 cm^-1 could be too fast for the frames.
    """

    wavenumbers: FloatArray
    density: FloatArray
    folded: bool

    def area(self, low: float, high: float) -> float:
        """Area between two wavenumbers (cm^-1): the number of vibrations there."""
        step = float(self.wavenumbers[1] - self.wavenumbers[0])
        inside = (self.wavenumbers >= low) & (self.wavenumbers <= high)
        return float(self.density[inside].sum() * step)


def power_spectrum(
    positions: FloatArray, interval_fs: float, masses: FloatArray, temperature: float, resolution: float = RESOLUTION
) -> PowerSpectrum:
    """Power spectrum by Welch's method (Hann windows that overlap by half).

    Parameters
    ----------
    positions
        Equally spaced frames of a molecule that does not rotate as a whole, bohr, shape ``(m, n_atoms, 3)``.
    interval_fs
        Time between two of them, femtosecond.
    masses
        Electron masses, shape ``(n_atoms,)``; those of the run, if hydrogen was made heavier.
    temperature
        Mean temperature of the run in kelvin.
    resolution
        Wanted distance of two points in cm^-1; coarser if the trajectory is short.

    Raises
    ------
    InputError
        Fewer than 65 frames, or no temperature.
    """
    if len(positions) <= FEWEST:
        raise InputError("trajectory", f"more than {FEWEST} frames", str(len(positions)), "report more often")
    if not temperature > 0.0:
        raise InputError("temperature", "a positive number of kelvin", str(temperature))
    interval = interval_fs / FEMTOSECOND
    velocities = np.diff(positions, axis=0) / interval * np.sqrt(masses)[:, None]
    length = min(len(velocities), max(FEWEST, round(_TO_WAVENUMBER / (interval * resolution))))
    frequency, power = welch(
        velocities.reshape(len(velocities), -1), fs=1.0 / interval, window="hann", nperseg=length, detrend="constant",
        axis=0,
    )  # fmt: skip
    wavenumbers = frequency * _TO_WAVENUMBER
    smoothing = np.sinc(frequency * interval) ** 2
    density = power.sum(axis=1) / smoothing / (BOLTZMANN * temperature * _TO_WAVENUMBER)
    return PowerSpectrum(wavenumbers, density, bool(wavenumbers[-1] < HIGHEST))
