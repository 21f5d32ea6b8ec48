"""The optimiser finds known minima with both methods, and says so when it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from fflux_py.dynamics import CompiledPotential
from fflux_py.errors import ConvergenceError, GeometryError, InputError, MissingDependencyError, ModelMismatchError
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import hessian, normal_modes, rigid_motions
from fflux_py.optimization.newton import restricted_step, update_hessian
from fflux_py.optimization.search import OptimizationResult, optimize, optimize_to_minimum
from fflux_py.typing import FloatArray
from fflux_py.units import WAVENUMBER
from tests.support.compiled_potentials import ammonia, ammonia_springs, carbon_dioxide, hydrogen_chloride
from tests.support.synthetic import MethanolPotential, fitted, methanol


class LennardJones:
    """Lennard-Jones particles with well depth 1e-3 hartree and length sigma 6 bohr."""

    depth, sigma = 1e-3, 6.0

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        d = positions[:, None] - positions[None]
        r2 = (d**2).sum(-1)
        np.fill_diagonal(r2, np.inf)
        s6 = (self.sigma**2 / r2) ** 3
        slope = 24.0 * self.depth * (2.0 * s6**2 - s6) / r2
        return float(2.0 * self.depth * (s6**2 - s6).sum()), (slope[..., None] * d).sum(1)


class Kernel:
    """A compiled test potential behind the protocol."""

    def __init__(self, potential: CompiledPotential) -> None:
        self._potential = potential

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        energy, forces = self._potential.force_function(np.array(positions), self._potential.arrays)
        return float(energy), forces


@pytest.fixture(params=["newton", "internal", "bfgs"])
def method(request: pytest.FixtureRequest) -> str:
    if request.param == "internal":
        pytest.importorskip("geometric")
    return str(request.param)


def distances(molecule: Molecule) -> FloatArray:
    d = np.linalg.norm(molecule.positions[:, None] - molecule.positions[None], axis=-1)
    return np.sort(d[np.triu_indices(molecule.n_atoms, 1)])


def rattled(molecule: Molecule, amount: float, seed: int = 1) -> Molecule:
    rng = np.random.default_rng(seed)
    return molecule.with_positions(molecule.positions + rng.normal(size=molecule.positions.shape) * amount)


def check_consistent(result: OptimizationResult, potential: object) -> None:
    energy, forces = potential.energy_and_forces(result.molecule.positions)
    assert energy == pytest.approx(result.energy, abs=1e-14)
    assert np.linalg.norm(forces, axis=1).max() == pytest.approx(result.largest_force, abs=1e-12)
    assert result.n_evaluations == len(result.energies) == len(result.positions) == len(result.largest_forces)
    assert result.n_evaluations >= result.n_steps


def test_lennard_jones_tetrahedron(method: str) -> None:
    """Six pairs at the pair minimum 2^(1/6) sigma: E = -6 epsilon."""
    corners = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 2.6
    start = rattled(Molecule(("Ar",) * 4, corners), 0.3)
    result = optimize(LennardJones(), start, fmax=1e-8, method=method)
    assert result.converged
    assert result.method == method
    assert result.energy == pytest.approx(-6e-3, abs=1e-11)
    assert np.allclose(distances(result.molecule), 2.0 ** (1.0 / 6.0) * 6.0, atol=1e-4)
    check_consistent(result, LennardJones())


def test_methanol_from_distorted_starts(method: str) -> None:
    """One minimum from everywhere; all forces vanish there and no direction leads down."""
    potential = MethanolPotential()
    results = [optimize(potential, rattled(methanol(), 0.15, s), 1e-6, method=method) for s in range(3)]
    for result in results:
        assert result.converged
        check_consistent(result, potential)
        assert np.abs(distances(result.molecule) - distances(results[0].molecule)).max() < 1e-3
        assert result.energy == pytest.approx(results[0].energy, abs=1e-9)
    step, minimum = 1e-3, results[0].molecule.positions
    hessian = np.empty((18, 18))
    for k in range(18):
        shift = np.zeros(18)
        shift[k] = step
        ahead, behind = (potential.energy_and_forces(minimum + s * shift.reshape(6, 3))[1] for s in (1, -1))
        hessian[k] = -(ahead - behind).ravel() / (2.0 * step)
    eigenvalues = np.linalg.eigvalsh(0.5 * (hessian + hessian.T))
    assert np.abs(eigenvalues[:6]).max() < 1e-5
    assert eigenvalues[6] > 1e-4


def test_newton_converges_along_the_softest_mode_too() -> None:
    """A torsion that is a hundred times softer than all bonds: Newton steps to the end, not many small ones."""

    class Soft:
        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            energy, forces = 0.0, np.zeros((4, 3))
            for i, j, length, stiffness in ((0, 1, 2.0, 0.5), (1, 2, 2.5, 0.5), (2, 3, 2.0, 0.5),
                                            (0, 2, 3.5, 0.2), (1, 3, 3.5, 0.2), (0, 3, 4.0, 5e-4)):  # fmt: skip
                vector = positions[i] - positions[j]
                distance = float(np.linalg.norm(vector))
                energy += 0.5 * stiffness * (distance - length) ** 2
                pull = stiffness * (distance - length) / distance * vector
                forces[i] -= pull
                forces[j] += pull
            return energy, forces

    planar = np.array([(0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (2.6, 2.4, 0.0), (4.4, 2.8, 1.2)])
    result = optimize(Soft(), Molecule(("C",) * 4, planar), fmax=1e-8, method="newton")
    assert result.converged
    assert result.n_steps < 60
    assert np.linalg.norm(result.molecule.positions[0] - result.molecule.positions[3]) == pytest.approx(4.0, abs=1e-4)


def test_methods_agree() -> None:
    pytest.importorskip("geometric")
    start = rattled(methanol(), 0.15, 7)
    one, other = (optimize(MethanolPotential(), start, 1e-7, method=m) for m in ("internal", "bfgs"))
    assert np.allclose(distances(one.molecule), distances(other.molecule), atol=1e-4)
    newton = optimize(MethanolPotential(), start, 1e-7, method="newton")
    assert np.allclose(distances(newton.molecule), distances(other.molecule), atol=1e-4)
    assert newton.n_evaluations < one.n_evaluations < other.n_evaluations
    assert newton.n_hessians == -(-newton.n_steps // 5)
    assert one.n_hessians == other.n_hessians == 0


@pytest.mark.parametrize(
    ("make", "displacement"),
    [(hydrogen_chloride, [(0, 0, -0.3), (0, 0, 0)]), (carbon_dioxide, [(0.2, 0, 0.1), (0, 0.1, 0), (0, 0, 0.2)])],
)
def test_diatomic_and_linear_molecules(make: object, displacement: object, method: str) -> None:
    potential = make()
    start = potential.molecule.with_positions(potential.molecule.positions + np.array(displacement))
    result = optimize(Kernel(potential), start, 1e-6, method=method)
    assert result.converged
    assert np.allclose(distances(result.molecule), distances(potential.molecule), atol=1e-3)


def test_force_field_is_optimised_like_any_other_potential(method: str) -> None:
    forcefield, exact = fitted(), optimize(MethanolPotential(), methanol(), 1e-6)
    result = optimize(forcefield, rattled(methanol(), 0.05), method=method)
    assert result.converged
    assert result.largest_force < 1e-4
    assert np.abs(distances(result.molecule) - distances(exact.molecule)).max() < 0.1
    order = [1, 0, 2, 3, 4, 5]
    swapped = Molecule(tuple(methanol().symbols[k] for k in order), methanol().positions[order])
    other = optimize(forcefield, swapped, method=method)
    assert other.molecule.symbols == swapped.symbols
    assert other.energy == pytest.approx(result.energy, abs=1e-6)
    silane = Molecule(("Si", *methanol().symbols[1:]), methanol().positions)
    with pytest.raises(ModelMismatchError, match="atom 1: expected C"):
        optimize(forcefield, silane, method=method)


def test_too_few_steps_are_reported_and_the_best_geometry_is_kept(method: str) -> None:
    seen: list[tuple[int, int]] = []
    result = optimize(MethanolPotential(), rattled(methanol(), 0.2), 1e-6, 3, method, lambda *done: seen.append(done))
    assert not result.converged
    assert result.n_steps == 3
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert result.energy == result.energies.min() < result.energies[0]
    assert result.largest_force > 1e-6
    check_consistent(result, MethanolPotential())


def test_start_at_the_minimum_is_one_evaluation(method: str) -> None:
    there = optimize(MethanolPotential(), methanol(), 1e-6).molecule
    result = optimize(MethanolPotential(), there, 1e-5, 0, method)
    assert (result.converged, result.n_steps, result.n_evaluations) == (True, 0, 1)


def test_nothing_is_printed_logged_or_left_behind(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: object
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(0):
        optimize(MethanolPotential(), rattled(methanol(), 0.2), 1e-6, method=method)
    assert not caplog.records
    assert not any(capfd.readouterr())
    assert not list(tmp_path.iterdir())


def test_energy_that_is_not_a_number(method: str) -> None:
    class Hole:
        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            energy, forces = MethanolPotential().energy_and_forces(positions)
            return (energy if np.abs(positions - start.positions).max() < 2e-3 else np.nan), forces

    start = rattled(methanol(), 0.2)
    with pytest.raises(ConvergenceError, match=r"evaluation 2: expected (a )?finite") as error:
        optimize(Hole(), start, method=method)
    assert error.value.exit_code == 3


def test_search_that_leaves_the_domain_of_the_potential() -> None:
    class Edge:
        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            if not np.array_equal(positions, start.positions):
                raise GeometryError("local frame", "three atoms not on a line", "three on a line")
            return MethanolPotential().energy_and_forces(positions)

    start = rattled(methanol(), 0.2)
    with pytest.raises(ConvergenceError, match="evaluation 2: expected local frame: three atoms not on a line"):
        optimize(Edge(), start, method="bfgs")
    other = rattled(methanol(), 0.1)
    with pytest.raises(GeometryError):
        optimize(Edge(), other, method="bfgs")


def test_newton_takes_the_forces_of_many_geometries_in_one_call() -> None:
    forcefield, calls = fitted(), []

    class Counted:
        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            return forcefield.energy_and_forces(positions)

        def compute(self, positions: FloatArray) -> tuple[FloatArray, FloatArray | None]:
            calls.append(len(positions))
            return forcefield.compute(positions)

    result = optimize(Counted(), rattled(methanol(), 0.05))
    assert (result.method, result.converged) == ("newton", True)
    assert calls == [19] * result.n_hessians


def test_newton_leaves_a_saddle_point() -> None:
    """Planar ammonia, moved off the plane by a thousandth of a bohr, falls to the pyramid."""
    potential = ammonia_springs()
    bottom = optimize(Kernel(potential), potential.molecule, 1e-6, method="bfgs")
    flat = bottom.molecule.positions.copy()
    normal = np.cross(flat[2] - flat[1], flat[3] - flat[1])
    normal /= np.linalg.norm(normal)
    flat[0] -= ((flat[0] - flat[1]) @ normal - 1e-3) * normal
    result = optimize(Kernel(potential), potential.molecule.with_positions(flat), 1e-6, method="newton")
    assert result.converged
    assert result.energies[0] > bottom.energy + 1e-4
    assert result.energy == pytest.approx(bottom.energy, abs=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_updated_hessian_knows_the_last_step(sign: float) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((6, 6))
    hessian, step = matrix @ matrix.T + np.eye(6), rng.standard_normal(6)
    change = sign * hessian @ step + 0.1 * rng.standard_normal(6)
    found = update_hessian(hessian, step, change)
    np.testing.assert_allclose(found @ step, change, atol=1e-12)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    assert (np.linalg.eigvalsh(found)[0] > 0.0) == (sign > 0.0)


def test_a_restricted_step_goes_down_and_is_short_and_moves_nothing_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    positions, gradient = rng.standard_normal((5, 3)), rng.standard_normal(15)
    matrix = rng.standard_normal((15, 15))
    hessian = matrix + matrix.T  # no minimum
    for radius in (0.01, 0.3, 100.0):
        step = restricted_step(gradient, hessian, positions, radius)
        moved = step.reshape(5, 3)
        centred = positions - positions.mean(0)
        inner = gradient - gradient.reshape(5, 3).mean(0)[None].repeat(5, 0).ravel()
        assert inner @ step < 0.0
        assert np.abs(step).max() <= radius
        assert np.abs(moved.sum(0)).max() < 1e-10
        assert np.abs(np.cross(centred, moved).sum(0)).max() < 1e-10


@pytest.mark.parametrize("curvature", [0.5, -0.5])
def test_a_step_has_the_length_of_newtons_along_ways_up_and_down(curvature: float) -> None:
    """One stretch of two atoms: -g / |w|."""
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    along = np.array([0.0, 0.0, -1.0, 0.0, 0.0, 1.0]) / np.sqrt(2.0)
    step = restricted_step(0.02 * along, curvature * np.outer(along, along), positions, 1.0)
    np.testing.assert_allclose(step, -0.04 * along, atol=1e-12)


@pytest.mark.parametrize("central", [True, False])
def test_hessian_of_springs_and_the_modes_of_a_diatomic(central: bool) -> None:
    potential = hydrogen_chloride()
    positions = optimize(Kernel(potential), potential.molecule, 1e-9, method="bfgs").molecule.positions
    found = hessian(Kernel(potential), np.array(positions), central=central)
    axis = positions[1] - positions[0]
    along = np.concatenate([-axis, axis]) / np.linalg.norm(axis) / np.sqrt(2.0)
    constant = along @ found @ along / 2.0
    assert np.abs(found - constant * 2.0 * np.outer(along, along)).max() < 1e-2 * constant
    masses = potential.molecule.masses
    modes = normal_modes(Kernel(potential), np.array(positions), masses)
    assert modes.wavenumbers.shape == (1,)  # two atoms are linear: five rigid motions
    exact = np.sqrt(constant * (1.0 / masses).sum()) * WAVENUMBER
    assert modes.wavenumbers[0] == pytest.approx(exact, rel=1e-2)
    assert rigid_motions(np.array(positions), masses).shape == (6, 5)


def test_a_way_down_is_a_negative_wavenumber() -> None:
    class Saddle:
        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            energy, forces = LennardJones().energy_and_forces(positions)
            return -energy, -forces

    corners = np.array([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]) * 2.0 ** (1.0 / 6.0) * 6.0 / np.sqrt(8.0)
    masses = np.full(4, 1000.0)
    down, up = (normal_modes(potential, corners, masses).wavenumbers for potential in (Saddle(), LennardJones()))
    assert (up > 0.0).all()
    np.testing.assert_allclose(-down[::-1], up, rtol=1e-9)


def test_without_geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "geometric"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "geometric", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fflux_py\[optimize\]'"):
        optimize(MethanolPotential(), rattled(methanol(), 0.1), method="internal")
    assert optimize(Kernel(ammonia_springs()), ammonia()).method == "bfgs"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fmax": 0.0}, "fmax: expected a positive force"),
        ({"fmax": -1.0}, "fmax: expected a positive force"),
        ({"fmax": float("nan")}, "fmax: expected a positive force"),
        ({"max_steps": -1}, "max_steps: expected a whole number"),
        ({"method": "simplex"}, "method: expected one of auto, newton, internal, bfgs"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        optimize(MethanolPotential(), methanol(), **settings)
    assert str(error.value).startswith(message)
    with pytest.raises(InputError, match="at least two atoms"):
        optimize(LennardJones(), Molecule(("Ar",), np.zeros((1, 3))))


def test_molecule_keeps_its_name_and_charge() -> None:
    start = Molecule(ammonia().symbols, ammonia().positions, 1, "cation")
    result = optimize(LennardJones(), start, max_steps=0)
    assert (result.molecule.name, result.molecule.charge) == ("cation", 1)


def test_a_search_on_a_ridge_goes_on_to_the_minimum() -> None:
    """Four particles in a plane have no force out of it: a rhombus, which two bends make a tetrahedron."""
    size = 6.0 * 2.0 ** (1.0 / 6.0)
    corners = size * np.array([[1.0, 0.0, 0.0], [0.0, 0.7, 0.0], [-1.0, 0.0, 0.0], [0.0, -0.7, 0.0]]) / np.sqrt(2.0)
    flat = Molecule(("Ar",) * 4, corners)
    saddle = optimize(LennardJones(), flat, fmax=1e-8, method="bfgs")
    assert saddle.converged
    assert np.ptp(saddle.molecule.positions[:, 2]) < 1e-9
    assert normal_modes(LennardJones(), np.array(saddle.molecule.positions), flat.masses).wavenumbers[0] < 0.0
    taken: list[int] = []
    found, modes = optimize_to_minimum(
        LennardJones(), flat, fmax=1e-8, method="bfgs", progress=lambda done, of: taken.append(done)
    )
    assert modes is not None
    assert modes.wavenumbers[0] > 0.0
    assert found.energy == pytest.approx(-6.0 * LennardJones.depth, abs=1e-9)
    np.testing.assert_allclose(distances(found.molecule), size, atol=1e-4)
    # what it tells is of all searches, from the first start on
    assert found.n_steps == len(taken) > saddle.n_steps
    assert len(found.positions) == len(found.energies) == found.n_evaluations > saddle.n_evaluations
    np.testing.assert_array_equal(found.positions[: saddle.n_evaluations], saddle.positions)
    stopped, none = optimize_to_minimum(LennardJones(), flat, fmax=1e-8, max_steps=1, method="bfgs")
    assert not stopped.converged
    assert none is None
