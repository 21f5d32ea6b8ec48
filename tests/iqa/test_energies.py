"""Energies, forces and atomic energies of single geometries: exact limits, invariances, oracles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyscf")

from ase.build import molecule as ase_molecule
from pyscf import dft, gto
from scipy.spatial.transform import Rotation

from fflux_py.errors import ConvergenceError, InputError
from fflux_py.iqa.labelling import Label, label_geometry
from fflux_py.iqa.partition import hirshfeld
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads
from fflux_py.iqa.scf.free_atoms import compute_free_atom_density, compute_isolated_atoms
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, KCAL_MOL

LEVEL = LevelOfTheory()
SMALL = LevelOfTheory(basis="6-31g", grid_level=3)
# A bent, unsymmetrical water away from its minimum, bohr.
WATER = Molecule(("O", "H", "H"), np.array([[0.1, -0.2, 0.3], [1.9, 0.2, -0.1], [-0.6, 1.5, 0.9]]), name="water")
MALONDIALDEHYDE = Molecule(
    ("O", "C", "C", "C", "O", "H", "H", "H", "H"),
    np.array(
        [
            [-2.1412, 0.7190, 0.5262],
            [-1.2466, 0.0404, 0.0756],
            [-0.0197, 0.6245, -0.5610],
            [1.2330, -0.0717, -0.1064],
            [2.2590, 0.5105, 0.1555],
            [-1.2843, -1.0647, 0.1130],
            [0.0312, 1.6829, -0.2757],
            [-0.1123, 0.5556, -1.6540],
            [1.1608, -1.1731, -0.0080],
        ]
    )
    / ANGSTROM,
    name="malondialdehyde",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


@pytest.fixture(scope="module")
def water() -> Label:
    return label_geometry(WATER, LEVEL)


def hydrogen(length: float = 1.4) -> Molecule:
    return Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.6 * length, 0.8 * length]]), name="H2")


def test_atoms_sum_to_the_molecule(water: Label) -> None:
    assert water.atomic_energies.sum() == pytest.approx(water.energy, abs=1e-10)
    assert sum(part.sum() for part in water.components.values()) == pytest.approx(water.energy, abs=1e-10)
    assert water.charges.sum() == pytest.approx(0.0, abs=1e-12)
    assert water.charges[0] < -0.2
    assert (water.atomic_errors >= 0.0).all()
    assert water.atomic_errors.max() * KCAL_MOL < 0.1


def test_components_are_those_of_the_scf(water: Label) -> None:
    mole = gto.M(
        atom=list(zip(WATER.symbols, WATER.positions.tolist(), strict=True)),
        unit="Bohr",
        basis=LEVEL.basis,
        cart=True,
        verbose=0,
    )
    mean_field = dft.RKS(mole, xc="b3lyp").density_fit(auxbasis=LEVEL.auxiliary_basis)
    mean_field.grids.level, mean_field.conv_tol = LEVEL.grid_level, 1e-12
    assert water.energy == pytest.approx(mean_field.kernel(), abs=1e-8)
    dm = mean_field.make_rdm1()
    j, k = mean_field.get_jk(mole, dm)
    exchange = -0.05 * np.vdot(dm, k)
    attraction = np.vdot(dm, mole.intor("int1e_nuc"))
    expected = {
        "kinetic": np.vdot(dm, mole.intor("int1e_kin")),
        "electron_nuclear": 0.5 * attraction,
        "nuclear_electron": 0.5 * attraction,
        "coulomb": 0.5 * np.vdot(dm, j),
        "exact_exchange": exchange,
        "local_xc": mean_field.get_veff(mole, dm).exc - exchange,
        "nuclear_repulsion": mole.energy_nuc(),
    }
    assert set(water.components) == set(expected)
    for name, value in expected.items():
        # First order in the density, which is converged to about 1e-5.
        assert water.components[name].sum() == pytest.approx(value, abs=1e-4), name


def test_grid_integrals_find_every_component_and_improve_with_the_grid(water: Label) -> None:
    # The residuals are what the correction hides: without it every integral must be nearly right.
    fine = label_geometry(WATER, replace(LEVEL, grid_level=4))
    assert set(fine.residuals) >= {"electrons", "kinetic", "coulomb", "exact_exchange", "nuclear_attraction"}
    for name, residual in fine.residuals.items():
        assert abs(residual) < 3e-6, name
        assert abs(water.residuals[name]) < 1e-4, name


def test_density_fitting_moves_the_energy_little() -> None:
    fitted = GroundState(WATER, replace(LEVEL, convergence=1e-10))
    exact = GroundState(WATER, replace(LEVEL, convergence=1e-10, density_fit=False))
    assert 0.0 < abs(fitted.energy - exact.energy) < 1e-4
    np.testing.assert_allclose(fitted.forces(), exact.forces(), atol=5e-5)


def test_without_density_fitting_atoms_still_sum_to_the_molecule(water: Label) -> None:
    exact = label_geometry(WATER, replace(LEVEL, density_fit=False))
    assert exact.atomic_energies.sum() == pytest.approx(exact.energy, abs=1e-10)
    np.testing.assert_allclose(exact.atomic_energies, water.atomic_energies, atol=1e-4)


def test_water_energy_and_forces_of_gaussian(reference_dir: Path) -> None:
    path = reference_dir / "aimall_water" / "aimall_water.json"
    level = LevelOfTheory(density_fit=False, grid_level=4, convergence=1e-10)
    for entry in json.loads(path.read_text()):
        molecule = Molecule(tuple(entry["symbols"]), np.array(entry["xyz_angstrom"]) / ANGSTROM, name=entry["name"])
        state = GroundState(molecule, level)
        assert state.energy == pytest.approx(entry["E_total"], abs=1e-6)
        np.testing.assert_allclose(state.forces(), entry["gaussian_forces_Ha_bohr"], atol=1e-5)


def test_forces_of_water_are_the_gradient_of_the_energy(water: Label) -> None:
    assert np.abs(water.forces.sum(axis=0)).max() < 1e-9
    _check_forces(WATER, water.forces, LEVEL, seeds=(0, 1), tolerance=3e-6)


@pytest.mark.parametrize(
    ("seed", "basis"),
    [pytest.param(11, LEVEL.basis, marks=pytest.mark.exhaustive), (12, "6-31g"), (13, "sto-3g")],
)
def test_forces_of_malondialdehyde_are_the_gradient_of_the_energy(seed: int, basis: str) -> None:
    level = replace(LEVEL, basis=basis)
    shaken = MALONDIALDEHYDE.positions + 0.1 * np.random.default_rng(seed).normal(size=(9, 3))
    molecule = MALONDIALDEHYDE.with_positions(shaken)
    forces = GroundState(molecule, level).forces()
    assert np.abs(forces.sum(axis=0)).max() < 1e-8
    _check_forces(molecule, forces, level, seeds=(seed,), tolerance=1e-5)


def _check_forces(
    molecule: Molecule, forces: np.ndarray, level: LevelOfTheory, seeds: tuple[int, ...], tolerance: float
) -> None:
    """Five-point derivative of the SCF energy along random directions of all atoms."""
    for seed in seeds:
        direction = np.random.default_rng(seed).normal(size=forces.shape)
        direction /= np.linalg.norm(direction)
        step = 5e-3
        energies = [
            GroundState(molecule.with_positions(molecule.positions + k * step * direction), level).energy
            for k in (-2, -1, 1, 2)
        ]
        slope = np.dot([1.0, -8.0, 8.0, -1.0], energies) / (12.0 * step)
        assert slope == pytest.approx(-np.vdot(forces, direction), abs=tolerance)


def test_labels_turn_and_move_with_the_molecule(water: Label) -> None:
    for seed in (1, 2, 3):
        turn = Rotation.random(random_state=seed).as_matrix()
        moved = label_geometry(WATER.with_positions(WATER.positions @ turn.T + np.array([3.0, -2.0, 5.0])), LEVEL)
        # What is left is the orientation of the integration grid.
        assert np.abs(moved.atomic_energies - water.atomic_energies).max() * KCAL_MOL < 0.02
        assert moved.energy == pytest.approx(water.energy, abs=1e-5)
        np.testing.assert_allclose(moved.forces @ turn, water.forces, atol=5e-5)
        np.testing.assert_allclose(moved.charges, water.charges, atol=2e-5)


def test_order_of_atoms_does_not_matter(water: Label) -> None:
    order = [2, 0, 1]
    other = label_geometry(Molecule(tuple(WATER.symbols[i] for i in order), WATER.positions[order]), LEVEL)
    np.testing.assert_allclose(other.atomic_energies, water.atomic_energies[order], atol=1e-8)


def test_a_label_does_not_depend_on_what_was_computed_before(water: Label) -> None:
    label_geometry(hydrogen(), LEVEL)
    again = label_geometry(WATER, LEVEL)
    assert again.energy == pytest.approx(water.energy, abs=1e-11)
    np.testing.assert_allclose(again.atomic_energies, water.atomic_energies, rtol=0, atol=1e-9)
    np.testing.assert_allclose(again.forces, water.forces, rtol=0, atol=1e-9)


def test_an_atom_alone_has_all_the_energy() -> None:
    helium = label_geometry(Molecule(("He",), np.zeros((1, 3))), LEVEL)
    assert helium.atomic_energies[0] == pytest.approx(helium.energy, abs=1e-12)
    assert helium.charges[0] == pytest.approx(0.0, abs=1e-12)
    assert helium.components["nuclear_electron"][0] == pytest.approx(helium.components["electron_nuclear"][0])


def test_equal_atoms_share_equally() -> None:
    found = label_geometry(hydrogen(), SMALL)
    np.testing.assert_allclose(found.atomic_energies, found.energy / 2.0, atol=2e-6)
    np.testing.assert_allclose(found.charges, 0.0, atol=2e-6)


def test_far_molecules_have_their_own_energies() -> None:
    near, far = hydrogen(1.4), hydrogen(1.6)
    apart = Molecule(("H",) * 4, np.concatenate([near.positions, far.positions + np.array([40.0, 0.0, 0.0])]))
    both = label_geometry(apart, SMALL)
    single = [label_geometry(m, SMALL) for m in (near, far)]
    assert both.atomic_energies[:2].sum() == pytest.approx(single[0].energy, abs=1e-5)
    assert both.atomic_energies[2:].sum() == pytest.approx(single[1].energy, abs=1e-5)


@pytest.mark.parametrize("molecule", [hydrogen(1.7), Molecule(("He", "H"), np.diag([1.5] * 3)[:2], charge=1)])
def test_exchange_of_two_electrons_is_minus_half_their_coulomb_energy(molecule: Molecule) -> None:
    found = label_geometry(molecule, replace(SMALL, method="hf"))
    coulomb, exchange = found.components["coulomb"], found.components["exact_exchange"]
    np.testing.assert_allclose(exchange, -0.5 * coulomb, rtol=1e-10)
    np.testing.assert_allclose(found.components["local_xc"], 0.0)
    assert found.charges.sum() == pytest.approx(molecule.charge, abs=1e-12)


def test_virial_theorem_of_an_atom_in_a_large_basis() -> None:
    neon = label_geometry(Molecule(("Ne",), np.zeros((1, 3))), replace(SMALL, method="hf", basis="cc-pvqz"))
    assert -neon.energy / neon.components["kinetic"].sum() == pytest.approx(1.0, abs=2e-5)


def test_hydrogen_atom_and_atomisation_energy_of_water() -> None:
    # The Hartree-Fock energy of the hydrogen atom is exactly -1/2; a finite basis lies above it.
    exact_limit = compute_isolated_atoms(
        ["H"], LevelOfTheory(method="hf", basis="aug-cc-pvqz", basis_functions="spherical")
    )
    assert -0.5 < exact_limit["H"] < -0.4999
    atoms = compute_isolated_atoms(WATER.symbols, LEVEL)
    assert set(atoms) == {"O", "H"}
    equilibrium = ase_molecule("H2O")
    minimum = GroundState(Molecule(("O", "H", "H"), equilibrium.positions / ANGSTROM), LEVEL).energy
    # Experiment without zero-point energy: 232.8 kcal/mol; a closed-shell oxygen atom would miss by 60.
    assert (atoms["O"] + 2 * atoms["H"] - minimum) * KCAL_MOL == pytest.approx(232.8, abs=8.0)


def test_free_atom_densities_hold_their_electrons() -> None:
    radius = np.linspace(0.0, 25.0, 40001)
    for symbol, electrons in (("H", 1), ("C", 6), ("O", 8)):
        logarithm = compute_free_atom_density(symbol, LEVEL).logarithm(radius)
        assert np.trapezoid(4 * np.pi * radius**2 * np.exp(logarithm), radius) == pytest.approx(electrons, abs=2e-3)
        assert (np.diff(logarithm) < 1e-3).all()


def test_hirshfeld_weights_share_every_point() -> None:
    points = np.random.default_rng(5).normal(size=(500, 3)) * 8.0
    points[:3], points[3] = WATER.positions, [80.0, 0.0, 0.0]
    weights = hirshfeld(WATER, LEVEL, points)
    assert (weights >= 0.0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-14)
    assert weights[0, 0] > 0.99


def test_hirshfeld_weights_are_shares_of_the_free_atoms_densities() -> None:
    """Hirshfeld's equation itself: w_A = rho_A / sum_B rho_B, of the densities, to the first power."""
    points = WATER.positions[0] + np.random.default_rng(6).normal(size=(200, 3))
    density = np.array(
        [
            np.exp(compute_free_atom_density(symbol, LEVEL).logarithm(np.linalg.norm(points - position, axis=1)))
            for symbol, position in zip(WATER.symbols, WATER.positions, strict=True)
        ]
    )
    np.testing.assert_allclose(hirshfeld(WATER, LEVEL, points), density / density.sum(axis=0), rtol=1e-10)


def test_attraction_belongs_to_the_atom_whose_electrons_are_attracted() -> None:
    """Helium and a proton far away: all electrons are helium's, so the proton has no electron_nuclear energy.

    Half of the attraction between them is the proton's as the nucleus, half helium's as the electrons; by themselves
    and with the repulsion of the nuclei the proton has no energy and helium that of the atom less one repulsion.
    """
    distance = 40.0
    ion = Molecule(("He", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]), charge=1)
    label = label_geometry(ion, replace(SMALL, method="hf"), "hirshfeld")
    alone = label_geometry(Molecule(("He",), np.zeros((1, 3))), replace(SMALL, method="hf"))
    attraction, by_nucleus = label.components["electron_nuclear"], label.components["nuclear_electron"]
    assert attraction[1] == pytest.approx(0.0, abs=1e-6)
    assert attraction[0] == pytest.approx(alone.components["electron_nuclear"][0] - 1.0 / distance, abs=2e-5)
    assert by_nucleus[1] == pytest.approx(-1.0 / distance, abs=2e-5)
    np.testing.assert_allclose(label.atomic_energies, [alone.energy - 1.0 / distance + 1.0 / distance, 0.0], atol=2e-5)


def test_label_survives_as_text(water: Label) -> None:
    copy = Label.from_dict(json.loads(json.dumps(water.as_dict(), allow_nan=False)))
    np.testing.assert_array_equal(copy.forces, water.forces)
    np.testing.assert_array_equal(copy.atomic_energies, water.atomic_energies)
    assert copy.as_dict() == water.as_dict()


def test_no_partition_leaves_energy_and_forces_as_they_are(water: Label) -> None:
    plain = label_geometry(WATER, LEVEL, "none")
    assert plain.energy == pytest.approx(water.energy, abs=1e-11)
    np.testing.assert_allclose(plain.forces, water.forces, atol=1e-9)
    assert np.isnan(plain.atomic_energies).all()
    assert np.isnan(plain.charges).all()
    copy = Label.from_dict(json.loads(json.dumps(plain.as_dict(), allow_nan=False)))
    assert np.isnan(copy.atomic_errors).all()


def test_failed_scf_is_an_error() -> None:
    with pytest.raises(ConvergenceError, match="within 1 iterations"):
        label_geometry(WATER, replace(SMALL, max_cycle=1))


@pytest.mark.parametrize(
    ("change", "partition", "message"),
    [
        ({}, "voronoi", "expected one of .*becke, hirshfeld, .*found 'voronoi'"),
        ({"method": "no-such"}, "none", "expected a functional that PySCF knows"),
        ({"method": "cam-b3lyp"}, "hirshfeld", "'cam-b3lyp', a functional range-separated; such"),
        ({"method": "b3lyp-d3"}, "none", "with a dispersion correction"),
        ({"method": "wb97m-v"}, "none", "range-separated and with non-local correlation"),
        ({"method": "mgga_x_br89"}, "none", "with the Laplacian of the density"),
        ({"method": "b2plyp"}, "none", "expected a functional that PySCF knows"),
        ({"basis": "no-such"}, "none", "basis: expected a basis that PySCF has for H2O"),
        ({"auxiliary_basis": "no-such"}, "none", "auxiliary_basis: expected a fitting basis"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(change: dict[str, str], partition: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        label_geometry(WATER, replace(SMALL, **change), partition)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"grid_level": 10}, {"max_cycle": 0}, {"convergence": 0.0}, {"basis": " "}, {"gradient_convergence": 2.0}],
)
def test_level_of_theory_refuses_nonsense(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        replace(LEVEL, **change)


def test_open_shells_are_refused() -> None:
    with pytest.raises(InputError, match="an even number of electrons"):
        label_geometry(Molecule(("O", "H"), WATER.positions[:2]), SMALL)
