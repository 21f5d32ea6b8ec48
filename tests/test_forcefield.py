"""The force field: forces, invariances, conservation, and the compiled kernels against plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fflux_py import model_file
from fflux_py._compiled import forces as kernels
from fflux_py.errors import GeometryError, InputError, ModelMismatchError
from fflux_py.forcefield import ForceField
from fflux_py.gp.atomic_model import AtomicModel, fit_weights
from fflux_py.gp.covariance import Azimuth
from fflux_py.gp.features import FeatureKind, FeatureSet, features
from fflux_py.gp.kernel_arrays import Precision
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.gp.weights import DerivativeWeights, PlainWeights
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.local_frame import LocalFrame
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.potential import energy_of
from fflux_py.typing import FloatArray
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.synthetic import MethanolPotential, fit, fitted, label, methanol, sample

pytestmark = pytest.mark.core

MEANS = ("MF1", "MF2", "MF3", "MF4", "MF5", "max", "mean+2*range", "gls", "constant:-20.0")
CASES = [
    (cast(FeatureKind, kind), kernel, cast(Azimuth, azimuth))
    for kind, azimuths in (
        ("spherical", ("periodic", "rbf-cyclic", "rbf")),
        ("spherical-inverse-r", ("periodic",)),
        ("unit-vector", ("periodic",)),
        ("unit-vector-r", ("periodic",)),
    )
    for kernel in KERNELS
    for azimuth in azimuths
]
# Frames by the neighbouring indices instead of the chemistry: their azimuths go all around.
SEQUENCE = [LocalFrame(0, 1, 2), *(LocalFrame(i, i - 1, i + 1) for i in range(1, 5)), LocalFrame(5, 3, 4)]


@cache
def _forcefield(kind: FeatureKind, kernel: str, azimuth: Azimuth, basis: str = "plain") -> ForceField:
    """A force field on twelve geometries at 1000 K; in the derivative basis with random slopes of the weights' size."""
    forcefield = fit(label(sample(12, 1000.0)), kind, kernel, azimuth, noise=1e-8, inverse_width=0.05, frames=SEQUENCE)
    forcefield = forcefield.unmatched  # of twelve geometries it knows too little for a sound order
    if basis == "plain":
        return forcefield
    rng = np.random.default_rng(3)
    atoms = []
    for model in forcefield.atoms:
        u = rng.standard_normal((2, len(model.points), model.covariance.n_embedded))
        w, size = model.weights, 0.1 * np.abs(model.point_weights).max()
        atoms.append(replace(model, weights=DerivativeWeights(w.w_y, w.w_1, w.centre, size * u[0], u[1])))
    return replace(forcefield, atoms=tuple(atoms))


def _test_geometry() -> FloatArray:
    return sample(1, 1000.0, seed=6)[0]


@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize(
    ("kind", "kernel", "azimuth", "mean"),
    [
        *((*case, "MF3") for case in CASES),
        *(("unit-vector", "squared-exponential", "periodic", mean) for mean in MEANS if mean != "MF3"),
    ],
)
def test_forces_against_central_differences(
    kind: FeatureKind, kernel: str, azimuth: Azimuth, mean: str, basis: str
) -> None:
    forcefield = _forcefield(kind, kernel, azimuth, basis).with_prior_mean(mean)
    positions, step = _test_geometry(), 1e-3
    forces = forcefield.energy_and_forces(positions)[1]
    shifts = step * np.eye(18).reshape(18, 6, 3)
    e = [forcefield.compute(positions + n * shifts, deriv=0)[0] for n in (-2, -1, 1, 2)]
    numerical = -((e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * step)).reshape(6, 3)
    assert np.abs(forces - numerical).max() < 1e-6 * np.abs(forces).max()
    assert np.abs(forces).max() > 1e-3


@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize(("kind", "kernel", "azimuth"), CASES)
def test_compiled_kernels_against_plain_numpy(kind: FeatureKind, kernel: str, azimuth: Azimuth, basis: str) -> None:
    forcefield = _forcefield(kind, kernel, azimuth, basis)
    positions = np.concatenate([sample(3, 1000.0, seed=6), sample(1, 1000.0)])  # the last one is a training geometry
    energies = np.stack([model.energy(positions) for model in forcefield.atoms], axis=-1)
    gradient = sum(model.gradient(positions) for model in forcefield.atoms)
    np.testing.assert_allclose(forcefield.atomic_energies(positions), energies, rtol=0, atol=1e-10)
    total, forces = forcefield.compute(positions)
    np.testing.assert_allclose(total, energies.sum(-1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(forces, -gradient, rtol=0, atol=1e-10)
    one, force = kernels.energy_and_forces(positions[1], forcefield.kernel_arrays())
    assert one == pytest.approx(total[1], abs=1e-12)
    np.testing.assert_allclose(force, forces[1], rtol=0, atol=1e-13)


def test_the_test_geometry_meets_the_wrap_of_the_azimuths() -> None:
    # otherwise the three treatments of azimuths could not be told apart above
    forcefield = _forcefield("spherical", "squared-exponential", "rbf-cyclic")
    phi, largest = FeatureSet("spherical", 6).azimuths, 0.0
    for model in forcefield.atoms:
        f = features(_test_geometry(), model.frame, "spherical")
        difference = np.abs(f[phi] - model.points[:, phi])
        largest = max(largest, float(difference.max()))
        assert np.abs(difference - np.pi).min() > 0.01  # no kink within the step of the central differences
    assert largest > np.pi
    energies = {
        azimuth: _forcefield("spherical", "squared-exponential", cast(Azimuth, azimuth)).compute(_test_geometry())[0]
        for azimuth in ("periodic", "rbf-cyclic", "rbf")
    }
    assert abs(energies["rbf"] - energies["rbf-cyclic"]) > 1e-6
    assert abs(energies["periodic"] - energies["rbf-cyclic"]) > 1e-6


@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize(("kind", "kernel", "azimuth"), CASES)
def test_rotation_and_translation_change_nothing_and_no_net_force_or_torque(
    kind: FeatureKind, kernel: str, azimuth: Azimuth, basis: str
) -> None:
    forcefield = _forcefield(kind, kernel, azimuth, basis)
    positions = _test_geometry()
    energy, forces = forcefield.energy_and_forces(positions)
    rotation = Rotation.random(random_state=1).as_matrix()
    turned_energy, turned_forces = forcefield.energy_and_forces(positions @ rotation.T + np.array([5.0, -3.0, 8.0]))
    assert turned_energy == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(turned_forces, forces @ rotation.T, rtol=0, atol=1e-10)
    np.testing.assert_allclose(forces.sum(0), 0.0, atol=1e-10)
    np.testing.assert_allclose(np.cross(positions, forces).sum(0), 0.0, atol=1e-10)


@pytest.mark.parametrize("kind", ["spherical", "unit-vector"])
def test_relabelling_model_and_molecule_alike_changes_nothing(kind: FeatureKind) -> None:
    dataset = label(sample(12, 1000.0))
    forcefield = fit(dataset, kind, noise=1e-8, inverse_width=0.05, frames=SEQUENCE).unmatched
    order = np.array([4, 1, 0, 5, 2, 3])  # new place k holds old atom order[k]
    place = np.argsort(order)
    frames = [LocalFrame(*(int(place[i]) for i in (f.atom, f.x_axis, f.xy_plane))) for f in SEQUENCE]
    frames = [frames[old] for old in order]
    relabelled = fit(_relabel(dataset, order), kind, noise=1e-8, inverse_width=0.05, frames=frames).unmatched
    positions = _test_geometry()
    energy, forces = forcefield.energy_and_forces(positions)
    same_energy, same_forces = relabelled.energy_and_forces(positions[order])
    assert same_energy == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(same_forces, forces[order], rtol=0, atol=1e-10)


def _relabel(dataset: Dataset, order: np.ndarray) -> Dataset:
    molecule = dataset.molecule
    other = Molecule(tuple(molecule.symbols[i] for i in order), molecule.positions[order])
    return replace(
        dataset,
        geometries=replace(dataset.geometries, molecule=other, positions=dataset.positions[:, order]),
        forces=dataset.forces[:, order],
        atomic_energies=dataset.atomic_energies[:, order],
    )


def test_exchange_of_two_atoms_with_equal_models() -> None:
    # H3 and H4 get the same kernel, data and frame atoms: then exchanging them exchanges their energies, nothing more
    frames = [LocalFrame(0, 1, 2), LocalFrame(1, 0, 5), *(LocalFrame(k, 0, 1) for k in (2, 3, 4)), LocalFrame(5, 1, 0)]
    swap = np.array([0, 1, 2, 4, 3, 5])
    both = sample(6, 1000.0)
    both = np.concatenate([both, both[:, swap]])  # data that do not know which is which
    forcefield = fit(label(both), "unit-vector", noise=1e-6, inverse_width=0.05, frames=frames)
    atoms = list(forcefield.atoms)
    for a in (2, 5, 0, 1):  # features that name H3 and H4 must carry equal lengths
        theta = np.array(atoms[a].covariance.theta)
        others = frames[a].others(6)
        i, j = 3 + 4 * others.index(3), 3 + 4 * others.index(4)
        theta[i : i + 4] = theta[j : j + 4] = (theta[i : i + 4] + theta[j : j + 4]) / 2.0
        atoms[a] = _refit(forcefield, a, theta)
    theta = (atoms[3].covariance.theta + atoms[4].covariance.theta) / 2.0
    atoms[3], atoms[4] = _refit(forcefield, 3, theta), _refit(forcefield, 4, theta)
    symmetric = replace(forcefield, atoms=tuple(atoms)).unmatched
    positions = _test_geometry()
    energy, forces = symmetric.energy_and_forces(positions)
    swapped_energy, swapped_forces = symmetric.energy_and_forces(positions[swap])
    assert swapped_energy == pytest.approx(energy, abs=1e-10)
    np.testing.assert_allclose(swapped_forces, forces[swap], rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        symmetric.atomic_energies(positions[swap]), symmetric.atomic_energies(positions)[swap], rtol=0, atol=1e-10
    )
    assert abs(_forcefield("unit-vector", "matern52", "periodic").energy_and_forces(positions[swap])[0] - energy) > 1e-6


def _refit(forcefield: ForceField, atom: int, theta: FloatArray) -> AtomicModel:
    model = forcefield.atoms[atom]
    covariance = replace(model.covariance, theta=theta)
    w_y, w_1, _ = fit_weights(covariance, model.points, model.energies, model.noise)
    return replace(model, covariance=covariance, weights=PlainWeights(w_y, w_1, model.weights.centre))


def test_mirror_images_are_told_apart() -> None:
    forcefield = _forcefield("unit-vector", "squared-exponential", "periodic")
    mirrored = _test_geometry() * np.array([1.0, 1.0, -1.0])
    assert abs(forcefield.energy_and_forces(mirrored)[0] - forcefield.energy_and_forces(_test_geometry())[0]) > 1e-7


def test_batches_of_any_shape() -> None:
    forcefield = _forcefield("unit-vector", "squared-exponential", "periodic")
    positions = sample(4, 1000.0, seed=6)
    energies, forces = forcefield.compute(positions.reshape(2, 2, 6, 3))
    assert forces is not None
    assert (energies.shape, forces.shape) == ((2, 2), (2, 2, 6, 3))
    for k in range(4):
        energy, force = forcefield.energy_and_forces(positions[k])
        assert energies.ravel()[k] == pytest.approx(energy, abs=1e-13)
        np.testing.assert_allclose(forces.reshape(4, 6, 3)[k], force, atol=1e-14)
        atomic, again = forcefield.atomic_energies_and_forces(positions[k])
        assert atomic.sum() == pytest.approx(energy, abs=1e-13)
        np.testing.assert_array_equal(again, force)
    assert forcefield.compute(positions, deriv=0)[1] is None
    assert forcefield.atomic_energies(positions.reshape(2, 2, 6, 3)).shape == (2, 2, 6)
    assert forcefield.atomic_deviations(positions.reshape(2, 2, 6, 3)).shape == (2, 2, 6)
    assert forcefield.coverage(positions.reshape(2, 2, 6, 3)).shape == (2, 2, 6)


def test_a_geometry_has_the_same_bits_alone_and_among_others() -> None:
    forcefield = _forcefield("unit-vector", "squared-exponential", "periodic")
    positions = sample(19, 1000.0, seed=2)
    together = forcefield.compute(positions)
    for k in (0, 7, 8, 18):
        alone = forcefield.compute(positions[k])
        assert alone[0] == together[0][k]
        assert np.array_equal(alone[1], together[1][k])


@pytest.mark.parametrize("precision", ["double", "fixed", pytest.param("single", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize(("kind", "kernel", "azimuth"), CASES)
def test_energies_alone_have_the_bits_of_energies_with_forces(
    kind: FeatureKind, kernel: str, azimuth: Azimuth, basis: str, precision: Precision
) -> None:
    positions = sample(9, 1000.0, seed=2)  # eight go through the kernels together, and one alone
    forcefield = _forcefield(kind, kernel, azimuth, basis).with_precision(precision)
    atomic, _ = forcefield.atomic_energies_and_forces(positions)
    np.testing.assert_array_equal(forcefield.atomic_energies(positions), atomic)
    np.testing.assert_array_equal(forcefield.compute(positions, deriv=0)[0], forcefield.compute(positions)[0])
    assert forcefield.energy(positions[0]) == forcefield.energy_and_forces(positions[0])[0]
    assert energy_of(forcefield, positions[0]) == forcefield.energy(positions[0])


def test_energy_of_takes_the_forces_only_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    forcefield, potential = _forcefield("unit-vector", "squared-exponential", "periodic"), MethanolPotential()
    expected = forcefield.energy_and_forces(_test_geometry())[0]
    monkeypatch.setattr(ForceField, "energy_and_forces", None)
    assert energy_of(forcefield, _test_geometry()) == expected
    assert energy_of(potential, _test_geometry()) == potential.energy_and_forces(_test_geometry())[0]


@pytest.mark.parametrize("kind", ["spherical", "spherical-inverse-r", "unit-vector", "unit-vector-r"])
def test_two_atoms_on_one_spot_are_refused_where_energies_alone_are_asked_for(kind: FeatureKind) -> None:
    """Of finite features, and where the kernel vanishes, the energy would be a finite number."""
    forcefield, positions = _forcefield(kind, "squared-exponential", "periodic"), _test_geometry().copy()
    positions[5] = positions[1]  # in no frame together
    with np.errstate(all="ignore"):
        for compute in (forcefield.atomic_energies, forcefield.energy_and_forces, forcefield.coverage):
            with pytest.raises(GeometryError, match="atoms 2 and 6"):
                compute(positions)


def test_models_of_different_numbers_of_points_fit_into_one_array() -> None:
    forcefield = _forcefield("unit-vector", "matern52", "periodic")
    short = fit(label(sample(7, 1000.0)), "unit-vector", "matern52", noise=1e-8, inverse_width=0.05, frames=SEQUENCE)
    mixed = replace(forcefield, atoms=(short.atoms[0], *forcefield.atoms[1:]))
    positions = sample(2, 1000.0, seed=6)
    expected = [model.energy(positions) for model in mixed.atoms]
    np.testing.assert_allclose(mixed.atomic_energies(positions).T, expected, atol=1e-10)


@pytest.mark.parametrize("mean", MEANS)
def test_prior_mean_after_training_equals_training_with_it(mean: str) -> None:
    dataset = label(sample(12, 1000.0))
    trained = fit(dataset, mean=mean, noise=1e-8, inverse_width=0.05).unmatched
    chosen = fit(dataset, mean="MF2", noise=1e-8, inverse_width=0.05).unmatched.with_prior_mean(mean)
    e, f = trained.energy_and_forces(_test_geometry())
    other_e, other_f = chosen.energy_and_forces(_test_geometry())
    assert other_e == pytest.approx(e, abs=1e-10)
    np.testing.assert_allclose(other_f, f, atol=1e-10)
    assert {model.mean_name for model in chosen.atoms} == {mean}


def test_mf5_takes_the_isolated_energy_of_each_element() -> None:
    forcefield = _forcefield("unit-vector", "matern52", "periodic").with_prior_mean("MF5")
    assert [model.mean for model in forcefield.atoms] == [-37.80, -75.02, -0.50, -0.50, -0.50, -0.50]
    with pytest.raises(InputError, match="MF5"):
        replace(forcefield, isolated_energies={"C": -37.8}).with_prior_mean("MF5")


def test_dissociation_returns_to_the_isolated_atoms() -> None:
    # spherical features leave the data for good; 1/R and directions do not, which is why this is not asked of them
    forcefield = fit(label(sample(30)), "spherical", inverse_width=0.05).unmatched
    energy, forces = forcefield.energy_and_forces(50.0 * methanol().positions)
    assert energy == pytest.approx(-37.80 - 75.02 - 4 * 0.50, abs=1e-10)
    np.testing.assert_allclose(forces, 0.0, atol=1e-12)


def test_the_fit_predicts_energies_forces_and_its_own_uncertainty() -> None:
    # not a figure of merit: it shows that features, kernel, weights and units hang together
    forcefield, positions = fitted().unmatched, sample(40, 300.0, seed=9)
    energies, forces = forcefield.compute(positions)
    reference_energies, reference_forces = MethanolPotential().compute(positions)
    assert forces is not None
    assert np.abs(energies - reference_energies).mean() * KCAL_MOL < 0.3
    assert np.abs(forces - reference_forces).mean() * KCAL_MOL_ANGSTROM < 2.5
    assert reference_energies.std() * KCAL_MOL > 1.0
    hot = sample(40, 2000.0, seed=9)
    assert forcefield.atomic_deviations(hot).mean() > 2.0 * forcefield.atomic_deviations(positions).mean()


# What is refused.


def test_another_molecule_or_order_is_refused_naming_the_first_atom() -> None:
    forcefield = _forcefield("unit-vector", "matern52", "periodic")
    molecule = methanol()
    forcefield.check_molecule(molecule)
    order = [0, 2, 1, 3, 4, 5]
    cases = [
        (
            Molecule(tuple(molecule.symbols[i] for i in order), molecule.positions[order]),
            "atom 2: .*O as in the model.*H",
        ),
        (Molecule(molecule.symbols[:5], molecule.positions[:5]), r"6 atoms \(CH4O\).*5 \(CH3O\)"),
        (Molecule(molecule.symbols, molecule.positions, charge=1), "charge 0, found 1"),
    ]
    for other, message in cases:
        with pytest.raises(ModelMismatchError, match=message) as caught:
            forcefield.check_molecule(other)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_geometries_without_an_energy_are_refused() -> None:
    forcefield = _forcefield("unit-vector", "matern52", "periodic")
    linear = _test_geometry().copy()
    linear[2] = 2.0 * linear[1] - linear[0]  # atoms 1, 2 and 3 on a line: the frames of atoms 1 and 2
    not_finite = _test_geometry().copy()
    not_finite[4, 1] = np.nan
    one_spot = _test_geometry().copy()
    one_spot[5] = one_spot[0]
    for bad, message in (
        (linear, "frame of atom 1.*linear"),
        (not_finite, "NaN"),
        (one_spot, "atoms 1 and 6.*one spot"),
    ):
        for function in (forcefield.energy_and_forces, forcefield.compute, forcefield.atomic_energies):
            with np.errstate(all="ignore"), pytest.raises(GeometryError, match=message):
                function(bad)  # uncompiled, NumPy warns of the division by zero that is then refused
    with pytest.raises(InputError, match=r"positions: .*\(\.\.\., 6, 3\).*\(5, 3\)"):
        forcefield.energy_and_forces(_test_geometry()[:5])


def test_atoms_must_be_complete_in_order_and_of_one_kind() -> None:
    forcefield = _forcefield("unit-vector", "matern52", "periodic")
    other = _forcefield("spherical", "matern52", "periodic")
    for atoms, message in (
        (forcefield.atoms[:5], "6 atoms, in order"),
        (forcefield.atoms[::-1], "6 atoms, in order"),
        ((*forcefield.atoms[:5], other.atoms[5]), "atom 6: .*as of atom 1"),
    ):
        with pytest.raises(InputError, match=message):
            replace(forcefield, atoms=atoms)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
@pytest.mark.parametrize(("kind", "azimuth"), [("unit-vector", "periodic"), ("spherical", "periodic")])
def test_polynomial_means(name: str, kind: FeatureKind, azimuth: Azimuth, tmp_path: Path) -> None:
    """Compiled against plain NumPy, forces against differences; the training data are met; a file keeps it."""
    dataset = label(sample(70, 1000.0))
    forcefield = fit(dataset, kind, "squared-exponential", azimuth, noise=1e-8, inverse_width=0.05)
    changed = forcefield.with_prior_mean(name)
    np.testing.assert_allclose(changed.atomic_energies(dataset.positions[:9]), dataset.atomic_energies[:9], atol=1e-6)
    positions = sample(3, 1500.0, seed=6)
    energies, forces = changed.atomic_energies_and_forces(positions)
    np.testing.assert_array_equal(changed.atomic_energies(positions), energies)
    np.testing.assert_allclose(energies.T, [model.energy(positions) for model in changed.atoms], atol=1e-9)
    np.testing.assert_allclose(forces, -sum(model.gradient(positions) for model in changed.atoms), atol=1e-9)
    assert np.abs(forces - forcefield.compute(positions)[1]).max() > 1e-5
    model_file.save(changed, tmp_path / "model.npz")
    np.testing.assert_allclose(model_file.load(tmp_path / "model.npz").compute(positions)[1], forces, atol=1e-12)
    back = changed.with_prior_mean("MF2")
    np.testing.assert_array_equal(back.compute(positions)[1], forcefield.with_prior_mean("MF2").compute(positions)[1])
