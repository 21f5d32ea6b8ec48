"""GFN2-xTB through tblite, against finite differences and the stored figures of another session of the program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.sampling_models import numerical_forces

pytest.importorskip("tblite", reason="tblite is not installed")

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.molecules.molecule import Molecule, symbols_of
from fflux_py.sampling.gfn2 import GFN2
from fflux_py.units import ANGSTROM


def water() -> Molecule:
    positions = np.array([[0.0, 0.0, 0.117], [0.0, 0.757, -0.469], [0.0, -0.757, -0.469]]) / ANGSTROM
    return Molecule(("O", "H", "H"), positions, name="water")


def test_forces_are_the_derivative() -> None:
    rng = np.random.default_rng(0)
    molecule = water()
    potential = GFN2(molecule, accuracy=1e-3)
    positions = molecule.positions + rng.normal(scale=0.1, size=(3, 3))
    forces = potential.energy_and_forces(positions)[1]
    reference = numerical_forces(lambda x: potential.energy_and_forces(x)[0], positions, 4e-3)
    assert np.abs(forces).max() > 1e-2
    np.testing.assert_allclose(forces, reference, atol=2e-7)


def test_energies_and_forces_of_stored_frames(prototype_dir: Path) -> None:
    with np.load(prototype_dir / "malondialdehyde_gfn2.npz") as stored:
        frames = stored["positions_angstrom"][::500] / ANGSTROM
        energies = stored["atomic_energies_hartree"][::500].sum(axis=1)
        forces = stored["forces_hartree_per_angstrom"][::500] * ANGSTROM
        symbols = symbols_of(stored["atomic_numbers"])
    potential = GFN2(Molecule(symbols, frames[0]))
    for x, energy, force in zip(frames, energies, forces, strict=True):
        found = potential.energy_and_forces(x)
        assert found[0] == pytest.approx(energy, abs=1e-7)
        # The stored forces were converged to the default threshold of the program, ten times looser than ours.
        np.testing.assert_allclose(found[1], force, atol=1e-5)


def test_history_does_not_matter() -> None:
    molecule = water()
    used, rng = GFN2(molecule), np.random.default_rng(1)
    for _ in range(20):
        x = molecule.positions + rng.normal(scale=0.15, size=(3, 3))
        energy, forces = used.energy_and_forces(x)
    fresh_energy, fresh_forces = GFN2(molecule).energy_and_forces(x)
    assert energy == pytest.approx(fresh_energy, abs=1e-9)
    np.testing.assert_allclose(forces, fresh_forces, atol=1e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)


def test_charge_and_odd_electrons_reach_the_program() -> None:
    neutral = water()
    cation = Molecule(neutral.symbols, neutral.positions, charge=1)
    ionisation = (
        GFN2(cation).energy_and_forces(cation.positions)[0] - GFN2(neutral).energy_and_forces(neutral.positions)[0]
    )
    # Water's vertical ionisation energy is 12.6 eV; GFN2 overestimates such energies by some eV.
    assert 11.0 / 27.2114 < ionisation < 22.0 / 27.2114


def test_no_convergence_is_an_error_and_the_next_geometry_works() -> None:
    molecule = water()
    potential = GFN2(molecule)
    energy = potential.energy_and_forces(molecule.positions)[0]
    potential._calculator.set("max-iter", 1)
    with pytest.raises(ConvergenceError, match=r"GFN2-xTB of 'water'.*converged"):
        potential.energy_and_forces(molecule.positions * 1.1)
    potential._calculator.set("max-iter", 250)
    assert potential.energy_and_forces(molecule.positions)[0] == pytest.approx(energy, abs=1e-9)


def test_wrong_shape_is_refused() -> None:
    with pytest.raises(InputError, match=r"positions: expected shape \(3, 3\), found shape \(2, 3\)"):
        GFN2(water()).energy_and_forces(np.zeros((2, 3)))


def test_the_header_names_method_and_program() -> None:
    assert GFN2(water()).program.startswith("GFN2-xTB, tblite ")
