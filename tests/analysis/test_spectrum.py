"""Power spectrum: frequencies and areas of vibrations that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fflux_py.analysis.report.runs import report_runs
from fflux_py.analysis.spectrum import power_spectrum
from fflux_py.dynamics import MDConfig, run_nvt
from fflux_py.errors import InputError
from fflux_py.molecules import mechanics
from fflux_py.typing import FloatArray
from fflux_py.units import BOLTZMANN, FEMTOSECOND, WAVENUMBER
from tests.support.compiled_potentials import ammonia, ammonia_springs


def wave(wavenumber: float, interval: float, n: int, mass: float, temperature: float) -> FloatArray:
    """One atom on a spring at its thermal amplitude, along x."""
    omega = wavenumber / WAVENUMBER
    amplitude = np.sqrt(2.0 * BOLTZMANN * temperature / mass) / omega
    positions = np.zeros((n, 2, 3))
    positions[:, 0, 0] = amplitude * np.cos(omega * interval / FEMTOSECOND * np.arange(n))
    return positions


@pytest.mark.parametrize("wavenumber", [200.0, 1500.0, 3700.0])
@pytest.mark.parametrize("interval", [0.5, 4.0])
def test_a_vibration_has_its_wavenumber_and_the_area_one(wavenumber: float, interval: float) -> None:
    masses = np.array([1837.0, 1e5])
    positions = wave(wavenumber, interval, round(20_000 / interval), masses[0], 300.0)
    spectrum = power_spectrum(positions, interval, masses, 300.0)
    assert not spectrum.folded
    peak = spectrum.wavenumbers[spectrum.density.argmax()]
    assert peak == pytest.approx(wavenumber, abs=10.0)
    assert spectrum.area(wavenumber - 60.0, wavenumber + 60.0) == pytest.approx(1.0, abs=0.03)
    assert spectrum.area(0.0, np.inf) == pytest.approx(1.0, abs=0.03)


def test_a_vibration_too_fast_for_the_frames_is_told() -> None:
    masses = np.array([1837.0, 1e5])
    spectrum = power_spectrum(wave(3700.0, 5.0, 4000, masses[0], 300.0), 5.0, masses, 300.0)
    assert spectrum.folded
    highest = spectrum.wavenumbers[-1]
    assert highest == pytest.approx(1e15 / (2 * 5.0 * 2.99792458e10), rel=5e-3)
    peak = spectrum.wavenumbers[spectrum.density.argmax()]
    assert peak == pytest.approx(2 * highest - 3700.0, abs=10.0)


def normal_modes() -> FloatArray:
    """Wavenumbers (cm^-1) of the springs, from their Hessian by finite differences of the forces."""
    potential = ammonia_springs()
    positions, n = np.array(potential.molecule.positions), 12
    hessian = np.empty((n, n))
    for k in range(n):
        shifted = [positions.copy(), positions.copy()]
        for sign, moved in zip((1.0, -1.0), shifted, strict=True):
            moved.reshape(-1)[k] += sign * 1e-4
        plus, minus = (potential.force_function(moved, potential.arrays)[1].ravel() for moved in shifted)
        hessian[k] = -(plus - minus) / 2e-4
    root = np.repeat(np.sqrt(potential.molecule.masses), 3)
    values = np.linalg.eigvalsh(0.5 * (hessian + hessian.T) / np.outer(root, root))
    return np.sqrt(values[6:]) * WAVENUMBER


def test_a_harmonic_molecule_has_its_normal_modes() -> None:
    potential, temperature = ammonia_springs(), 20.0
    config = MDConfig(steps=240_000, temperature=temperature, timestep=0.25, thermostat="langevin",
                      relaxation_time=200.0, report_every=12, seed=2)  # fmt: skip
    run = run_nvt(potential, potential.molecule, config)
    spectrum = power_spectrum(run.positions[500:], 3.0, mechanics.masses(ammonia()), temperature, resolution=5.0)
    modes = normal_modes()
    groups = [[modes[0]]]
    for mode in modes[1:]:
        if mode - groups[-1][-1] < 100.0:
            groups[-1].append(mode)
        else:
            groups.append([mode])
    assert [len(group) for group in groups] != [6]
    for group in groups:
        # friction makes a line 27 cm^-1 wide: 92 % of it lie within 100
        low, high = group[0] - 100.0, group[-1] + 100.0
        assert spectrum.area(low, high) == pytest.approx(len(group), rel=0.4)  # 10 % by chance, 8 % outside
        inside = (spectrum.wavenumbers > low) & (spectrum.wavenumbers < high)
        peak = spectrum.wavenumbers[inside][spectrum.density[inside].argmax()]
        assert np.abs(np.array(group) - peak).min() < 20.0
    assert spectrum.area(0.0, np.inf) == pytest.approx(6.0, rel=0.1)


def test_series_that_say_nothing_are_refused() -> None:
    masses = np.ones(2)
    with pytest.raises(InputError, match="more than 64 frames, found 10"):
        power_spectrum(np.zeros((10, 2, 3)), 1.0, masses, 300.0)
    with pytest.raises(InputError, match="temperature"):
        power_spectrum(np.zeros((100, 2, 3)), 1.0, masses, 0.0)


@pytest.mark.parametrize(("interval", "folded"), [(4, False), (12, True)])
def test_the_report_shows_spectrum_and_angles(tmp_path: Path, interval: int, folded: bool) -> None:
    config = MDConfig(steps=2000, report_every=interval, thermostat="langevin", hydrogen_mass=2.0)
    run_nvt(ammonia_springs(), ammonia(), config, tmp_path / "run")
    path, _ = report_runs(tmp_path / "run")
    page = path.read_text()
    assert "Power spectrum of the velocities" in page
    assert "Distribution of every angle" in page
    assert "Langevin dynamics (BAOAB), relaxation time 100 fs, hydrogen of 2 Da" in page
    assert ("are folded back" in page) is folded
