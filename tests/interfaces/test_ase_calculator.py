"""The ASE calculator: units, per-atom energies, optimisers and dynamics, and what it refuses."""

from __future__ import annotations

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from fflux_py import model_file
from fflux_py.errors import (
    FileFormatError,
    GeometryError,
    InputError,
    InputWarning,
    ModelMismatchError,
    ReorderedAtomsWarning,
)
from fflux_py.interfaces.ase_calculator import FFLUXCalculator
from fflux_py.molecules import shipped_data
from fflux_py.optimization.known_region import OutsideTrainingWarning
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM
from tests.support.synthetic import MethanolPotential, fitted, methanol, sample


def _atoms(positions: FloatArray | None = None) -> Atoms:
    positions = methanol().positions if positions is None else positions
    return Atoms(methanol().symbols, positions * ANGSTROM, calculator=FFLUXCalculator(fitted()))


def test_energies_and_forces_are_the_force_fields_in_ev_and_angstrom() -> None:
    positions = sample(1, 300.0, seed=4)[0]
    energy, forces = fitted().energy_and_forces(positions)
    atoms = _atoms(positions)
    # ASE's constants (CODATA 2014) agree with ours to 1e-8
    assert atoms.get_potential_energy() == pytest.approx(energy * ase.units.Hartree, rel=1e-7)
    np.testing.assert_allclose(atoms.get_forces(), forces * ase.units.Hartree / ase.units.Bohr, rtol=1e-6)
    energies = atoms.get_potential_energies()
    np.testing.assert_allclose(energies, fitted().atomic_energies(positions) * ase.units.Hartree, rtol=1e-7)
    assert energies.sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_forces_against_ases_own_differences() -> None:
    atoms = _atoms(sample(1, 300.0, seed=4)[0])
    forces, step = atoms.get_forces(), 1e-3
    reference = atoms.positions.copy()
    for atom, component in np.ndindex(6, 3):
        energies = []
        for k in (-2, -1, 1, 2):
            atoms.positions = reference
            atoms.positions[atom, component] += k * step
            energies.append(atoms.get_potential_energy())
        slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step)
        assert abs(forces[atom, component] + slope) < 1e-6 * np.abs(forces).max()


def test_deviations_are_computed_only_when_asked_for() -> None:
    positions = sample(1, 1000.0, seed=4)[0]
    atoms = _atoms(positions)
    atoms.get_forces()
    assert "energies_std" not in atoms.calc.results
    deviations = atoms.calc.get_atomic_deviations(atoms)
    np.testing.assert_allclose(deviations, fitted().atomic_deviations(positions) * ase.units.Hartree, rtol=1e-7)
    assert deviations.shape == (6,)
    assert (deviations > 0).all()
    assert set(atoms.calc.results) <= set(all_properties)
    np.testing.assert_array_equal(atoms.calc.get_property("energies_std"), deviations)
    atoms.positions = sample(1, 300.0, seed=4)[0] * ANGSTROM
    atoms.get_potential_energy()  # nothing stale after a move
    assert atoms.calc.get_atomic_deviations(atoms).mean() < deviations.mean()


def test_forces_are_computed_only_when_asked_for() -> None:
    atoms = _atoms(sample(1, 300.0, seed=4)[0])
    energy = atoms.get_potential_energy()
    assert "forces" not in atoms.calc.results
    forces = atoms.get_forces()
    assert atoms.get_potential_energy() == energy
    np.testing.assert_array_equal(forces, _atoms(sample(1, 300.0, seed=4)[0]).get_forces())


def test_results_follow_the_atoms() -> None:
    atoms = _atoms()
    first = atoms.get_potential_energy()
    atoms.rattle(0.05, seed=1)
    second = atoms.get_potential_energy()
    assert abs(second - first) > 1e-3
    atoms.calc.calculate(_atoms())  # also when it is called directly
    assert atoms.calc.results["energy"] == pytest.approx(first, abs=1e-12)
    assert atoms.get_potential_energy() == pytest.approx(second, abs=1e-12)


def test_a_model_file_serves_as_well(tmp_path: Path) -> None:
    model_file.save(fitted(), tmp_path / "model.npz")
    atoms = _atoms()
    expected = atoms.get_potential_energy()
    for path in (tmp_path / "model.npz", str(tmp_path / "model.npz")):
        atoms.calc = FFLUXCalculator(path)
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(FileFormatError, match=r"no\.npz"):
        FFLUXCalculator(tmp_path / "no.npz")


def test_bfgs_finds_the_minimum_of_the_potential() -> None:
    atoms = _atoms(sample(1, 300.0, seed=4)[0])
    assert BFGS(atoms, logfile=None).run(fmax=0.005, steps=200)
    atoms_at_minimum = atoms.positions / ANGSTROM
    potential = MethanolPotential()
    # the analytic potential's own minimum is methanol()
    error = potential.energy_and_forces(atoms_at_minimum)[0] - potential.energy_and_forces(methanol().positions)[0]
    assert 0.0 <= error * 627.5 < 0.3
    for i, j in methanol().bonds:
        length = np.linalg.norm(atoms_at_minimum[i] - atoms_at_minimum[j]) * ANGSTROM
        reference = np.linalg.norm(methanol().positions[i] - methanol().positions[j]) * ANGSTROM
        assert length == pytest.approx(reference, abs=0.01)


def test_velocity_verlet_conserves_the_energy() -> None:
    atoms = _atoms()
    spread = np.sqrt(ase.units.kB * 300.0 / atoms.get_masses())[:, None]
    atoms.set_velocities(spread * np.random.default_rng(2).standard_normal((6, 3)))
    drift = {}
    for step in (0.5, 0.25):
        copy = _atoms()
        copy.set_velocities(atoms.get_velocities())
        start, largest = copy.get_total_energy(), 0.0
        dynamics = VelocityVerlet(copy, step * ase.units.fs)
        for _ in range(20):
            dynamics.run(round(5 / step))
            largest = max(largest, abs(copy.get_total_energy() - start))
        drift[step] = largest
    assert drift[0.5] < 0.02  # eV, of 0.39 eV kinetic energy
    assert drift[0.25] < 0.4 * drift[0.5]  # the error is that of the integrator: second order


def test_frames_with_results_can_be_written_and_read(tmp_path: Path) -> None:
    atoms = _atoms()
    atoms.get_forces()
    atoms.calc.get_atomic_deviations(atoms)
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    ase.io.write(tmp_path / "a.traj", atoms)
    for name in ("a.xyz", "a.traj"):
        read = ase.io.read(tmp_path / name)
        np.testing.assert_allclose(read.get_forces(), atoms.get_forces(), atol=1e-7)
        assert read.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-7)


def test_results_hold_only_what_ase_knows() -> None:
    atoms = _atoms()
    atoms.get_forces()
    atoms.calc.get_atomic_deviations(atoms)
    frozen = SinglePointCalculator(atoms, **atoms.calc.results)
    assert frozen.results["energy"] == atoms.get_potential_energy()
    assert set(atoms.calc.implemented_properties) <= set(all_properties)


def test_what_atoms_say_of_charge_and_spin_counts_also_after_a_result() -> None:
    atoms = _atoms()
    energy = atoms.get_potential_energy()
    for key, value, error, message in (
        ("total_charge", 1, ModelMismatchError, "charge 0, found 1"),
        ("charge", np.int64(-1), ModelMismatchError, "charge 0, found -1"),
        ("charge", np.nan, InputError, "key charge: expected a whole number"),
        ("multiplicity", 3, InputError, "closed shell"),
        ("units", "bohr", InputError, "units with angstrom"),
    ):
        atoms.info[key] = value
        for _ in range(2):
            with pytest.raises(error, match=message):
                atoms.get_potential_energy()
        del atoms.info[key]
        assert atoms.get_potential_energy() == energy
    atoms.set_initial_charges([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(ModelMismatchError, match="charge 0, found 1"):
        atoms.get_potential_energy()
    atoms.set_initial_charges(None)
    atoms.set_initial_magnetic_moments([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match="closed shell"):
        atoms.get_potential_energy()
    atoms.set_initial_magnetic_moments(None)
    atoms.info.update(charge=0, spin=1)
    with pytest.warns(InputWarning, match="spin=1 is read as the multiplicity 1"):
        assert atoms.get_potential_energy() == energy


def test_one_calculator_serves_threads_and_its_copies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = FFLUXCalculator(fitted())
    geometries = sample(10, 300.0, seed=4)
    evaluate = shared.evaluator.evaluate

    def evaluate_slowly(positions: FloatArray) -> tuple[FloatArray, FloatArray]:
        result = evaluate(positions)
        time.sleep(2e-3)  # the other thread has its turn here, unless it is kept out
        return result

    monkeypatch.setattr(shared.evaluator, "evaluate", evaluate_slowly)
    expected = [fitted().energy_and_forces(x) for x in geometries]
    barrier = threading.Barrier(2)

    def compute(first: int) -> float:
        worst = 0.0
        barrier.wait()
        for k in range(first, len(geometries), 2):
            atoms = Atoms(methanol().symbols, geometries[k] * ANGSTROM)
            atoms.calc = shared
            energy, forces = atoms.get_potential_energy(), atoms.get_forces()
            deviations = shared.get_atomic_deviations(atoms)
            worst = max(
                worst,
                abs(energy / EV - expected[k][0]),
                float(np.abs(forces / EV_ANGSTROM - expected[k][1]).max()),
                float(np.abs(deviations / EV - fitted().atomic_deviations(geometries[k])).max()),
            )
        return worst

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(compute, range(2))) < 1e-9
    monkeypatch.undo()
    atoms = Atoms(methanol().symbols, geometries[3] * ANGSTROM, calculator=copy.deepcopy(shared))
    assert atoms.get_potential_energy() / EV == pytest.approx(expected[3][0], abs=1e-9)


def test_other_atoms_of_the_same_elements_are_matched_anew() -> None:
    """Malondialdehyde has no four-coordinate centre: only its bonds tell that hydrogens are exchanged."""
    field = model_file.load(shipped_data.path("malondialdehyde") / shipped_data.MODEL)
    molecule = field.molecule
    atoms = Atoms(molecule.symbols, molecule.positions * ANGSTROM, calculator=FFLUXCalculator(field))
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    first, *_, last = (k for k, symbol in enumerate(molecule.symbols) if symbol == "H")
    order = list(range(len(molecule.symbols)))
    order[first], order[last] = last, first
    other = atoms[order]
    other.calc = atoms.calc
    with pytest.warns(ReorderedAtomsWarning, match="exchanged"):
        assert other.get_potential_energy() == pytest.approx(energy, abs=1e-8)
    assert np.abs(other.get_forces() - forces[order]).max() < 1e-7


def test_atoms_of_another_molecule_are_refused_naming_the_first() -> None:
    atoms = _atoms()
    calculator = atoms.calc
    shorter = atoms[:5]
    other_element = atoms.copy()
    other_element.symbols[1] = "N"
    charged = atoms.copy()
    charged.info["total_charge"] = 1
    for other, message in (
        (other_element, "atom 2: .*O as in the model, found N"),
        (shorter, "6 atoms.*5"),
        (charged, "charge 0, found 1"),
    ):
        other.calc = calculator
        with pytest.raises(ModelMismatchError, match=message):
            other.get_potential_energy()
    assert atoms.get_potential_energy() < 0.0


def test_atoms_in_another_order_have_their_own_forces() -> None:
    atoms = _atoms()
    energy, forces, energies = atoms.get_potential_energy(), atoms.get_forces(), atoms.calc.results["energies"]
    order = [5, 2, 1, 4, 0, 3]
    other = atoms[order]
    other.calc = FFLUXCalculator(atoms.calc.forcefield)
    with pytest.warns(ReorderedAtomsWarning, match="reordered to fit the model"):
        assert other.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    assert np.abs(other.get_forces() - forces[order]).max() < 1e-9
    assert np.abs(other.calc.results["energies"] - energies[order]).max() < 1e-9


def test_the_mirror_image_of_alanine_dipeptide_has_its_energy_and_reflected_forces() -> None:
    """In any order of atoms; symmetry of the model makes all cyclic orders of its methyl groups alike."""
    folder = shipped_data.path("alanine_dipeptide")
    field = model_file.load(folder / shipped_data.MODEL)
    molecule, rng = field.molecule, np.random.default_rng(5)
    left = Atoms(molecule.symbols, molecule.positions * ANGSTROM, calculator=FFLUXCalculator(field))
    order = rng.permutation(len(left))
    right = left[order]
    right.positions *= [1.0, 1.0, -1.0]
    right.calc = FFLUXCalculator(field)
    with pytest.warns(ReorderedAtomsWarning, match="mirror image"):
        assert right.get_potential_energy() == pytest.approx(left.get_potential_energy(), abs=1e-8)
    assert np.abs(right.get_forces() - left.get_forces()[order] * [1.0, 1.0, -1.0]).max() < 1e-7


def test_a_position_that_becomes_no_number_is_not_answered_by_the_last_result() -> None:
    atoms = _atoms()
    atoms.get_potential_energy()
    atoms.positions[3, 0] = np.nan
    with pytest.raises(GeometryError, match="NaN"):
        atoms.get_potential_energy()


def test_outside_of_the_training_data_there_is_one_word_or_an_error() -> None:
    atoms = _atoms()
    field = atoms.calc.forcefield
    atoms.get_potential_energy()
    away = atoms.positions[5] - atoms.positions[1]
    atoms.positions[5] += 0.6 * away
    with pytest.warns(OutsideTrainingWarning, match="bond O2-H6"):
        atoms.get_potential_energy()
    atoms.positions[5] += 0.01 * away
    atoms.get_potential_energy()  # a second word would be an error here
    atoms.calc = FFLUXCalculator(field, outside="raise")
    with pytest.raises(GeometryError, match="inside of the model's training data"):
        atoms.get_potential_energy()


def test_periodic_and_impossible_geometries_are_refused() -> None:
    atoms = _atoms()
    atoms.set_cell([20.0, 20.0, 20.0])
    atoms.pbc = True
    with pytest.raises(InputError, match=r"atoms\.pbc"):
        atoms.get_forces()
    atoms.pbc = False
    atoms.get_forces()
    atoms.positions[5] = atoms.positions[4]
    with np.errstate(all="ignore"), pytest.raises(GeometryError, match="atoms 5 and 6"):
        atoms.get_forces()
    atoms.positions[0] = np.nan
    with pytest.raises(GeometryError, match="NaN"):
        atoms.get_potential_energy()


def test_what_is_not_there_is_not_implemented() -> None:
    atoms = _atoms()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
