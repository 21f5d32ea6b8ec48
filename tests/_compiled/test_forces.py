"""The compiled force kernels in detail: vector code, precision, coordinates left out, threads."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from fflux_py import threads
from fflux_py._compiled import forces as _forces
from fflux_py._compiled import simd as _lanes
from fflux_py._compiled import simd_numpy
from fflux_py._compiled.features import arctangent
from fflux_py.errors import InputError
from fflux_py.forcefield import ForceField
from fflux_py.gp.features import FeatureKind, FeatureSet
from fflux_py.gp.radial_kernel import KERNELS
from fflux_py.gp.weights import DerivativeWeights, PlainWeights
from tests.support.synthetic import fit, fitted, label, sample

pytestmark = pytest.mark.core


def _random(kernel: str, basis: str, kind: FeatureKind = "unit-vector") -> ForceField:
    """Weights and slopes of one sign and size, so that nothing cancels and errors are those of the arithmetic."""
    forcefield = fit(label(sample(70, 1000.0)), kind, kernel, noise=1e-8, inverse_width=0.05)
    rng = np.random.default_rng(3)
    atoms = []
    for model in forcefield.atoms:
        w, n = rng.uniform(0.5, 1.5, len(model.points)), model.covariance.n_embedded
        if basis == "derivative":
            u = rng.standard_normal((len(model.points), n))
            atoms.append(replace(model, weights=DerivativeWeights(w, w, 0.0, u, u), mean=0.0))
        else:
            atoms.append(replace(model, weights=PlainWeights(w, w, 0.0), mean=0.0))
    return replace(forcefield, atoms=tuple(atoms))


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 30.0, 80.0])
def test_vector_exponential(scale: float, kind: type[np.floating]) -> None:
    x = (-scale * np.linspace(0.0, 1.0, _lanes.block(kind))).astype(kind)
    found = np.empty_like(x)
    _exponential(x, found)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=2.5 * np.finfo(kind).eps)


def test_vector_exponential_far_away() -> None:
    for kind, least in ((np.float64, 1e-300), (np.float32, 1e-36)):
        x = np.full(_lanes.block(kind), -1e9, kind)
        found = np.empty_like(x)
        _exponential(x, found)
        assert (found > 0.0).all()
        assert (found < least).all()


def _exponential(x: np.ndarray, out: np.ndarray) -> None:
    """Through a compiled caller, as intrinsics have no others."""
    if _lanes.exponential is simd_numpy.exponential:
        _lanes.exponential(x, out)
    else:
        _compiled_exponential(x, out)


if _lanes.exponential is not simd_numpy.exponential:
    from numba import njit

    @njit
    def _compiled_exponential(x, out):  # type: ignore[no-untyped-def]
        _lanes.exponential(x, out)


def test_arctangent_in_all_quadrants_and_on_the_axes() -> None:
    angles = np.concatenate([np.linspace(-np.pi, np.pi, 2001), np.pi / 4 * np.arange(-4, 5)])
    for angle in angles:
        for radius in (1e-8, 1.0, 1e5):
            y, x = radius * math.sin(angle), radius * math.cos(angle)
            assert arctangent(y, x) == pytest.approx(math.atan2(y, x), rel=1e-15, abs=1e-300)
    assert arctangent(0.0, 0.0) == 0.0
    assert arctangent(0.0, -1.0) == math.pi


@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["unit-vector", "spherical"])
def test_to_twelve_digits_as_plain_numpy(kernel: str, basis: str, kind: FeatureKind) -> None:
    forcefield = _random(kernel, basis, kind)
    positions = sample(5, 1000.0, seed=6)  # four pass together, one alone
    energies = np.stack([model.energy(positions) for model in forcefield.atoms], axis=-1)
    gradient = sum(model.gradient(positions) for model in forcefield.atoms)
    assert np.abs(forcefield.atomic_energies(positions) - energies).max() < 1e-12 * np.abs(energies).max()
    assert np.abs(forcefield.compute(positions)[1] + gradient).max() < 1e-12 * np.abs(gradient).max()


@pytest.mark.exhaustive  # it compiles everything once more, in a precision that no command asks for
@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_single_precision(kernel: str, basis: str) -> None:
    forcefield = _random(kernel, basis)
    single = forcefield.with_precision("single")
    assert single.kernel_arrays().points.dtype == np.float32
    positions = sample(5, 1000.0, seed=6)
    energies, forces = forcefield.compute(positions)
    other, other_forces = single.compute(positions)
    np.testing.assert_allclose(other, energies, rtol=1e-6)
    assert 0.0 < np.abs(other_forces - forces).max() < 1e-5 * np.abs(forces).max()
    with pytest.raises(InputError, match=r"precision: .*'half'"):
        forcefield.with_precision("half")  # type: ignore[arg-type]


@pytest.mark.parametrize("basis", ["plain", "derivative"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_fixed_point_numbers_round_a_model_and_keep_its_forces_a_gradient(kernel: str, basis: str) -> None:
    forcefield = _random(kernel, basis)
    fixed = forcefield.with_precision("fixed")
    arrays, double = fixed.kernel_arrays(), forcefield.kernel_arrays()
    assert arrays.points.dtype == np.int32
    assert arrays.points.nbytes < 0.6 * double.points.nbytes
    positions = sample(5, 1000.0, seed=6)
    energies, forces = forcefield.compute(positions)
    other, other_forces = fixed.compute(positions)
    np.testing.assert_allclose(other, energies, rtol=1e-8)
    assert 0.0 < np.abs(other_forces - forces).max() < 1e-7 * np.abs(forces).max()
    step = 1e-3 * np.random.default_rng(1).standard_normal(positions.shape)
    # fourth order
    values = [fixed.compute(positions + k * step)[0] for k in (-2, -1, 1, 2)]
    slope = (values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / 12.0
    assert np.abs(slope + (step * other_forces).sum(axis=(1, 2))).max() < 1e-9 * np.abs(forces).max()


def test_wrapped_azimuths_stay_in_double_precision() -> None:
    data = label(sample(12, 1000.0))
    forcefield = fit(data, "spherical", azimuth="rbf-cyclic", noise=1e-8, inverse_width=0.05).unmatched
    positions = sample(3, 1000.0, seed=6)
    np.testing.assert_array_equal(
        forcefield.with_precision("single").compute(positions)[1], forcefield.compute(positions)[1]
    )


@pytest.mark.parametrize("basis", ["plain", "derivative"])
def test_coordinates_without_influence_are_left_out_and_change_nothing(basis: str) -> None:
    forcefield = _random("squared-exponential", basis)
    names = np.array(FeatureSet("unit-vector", 6).names)
    atoms = [
        replace(m, covariance=replace(m.covariance, theta=np.where(names == drop, 0.0, m.covariance.theta)))
        for m, drop in zip(forcefield.atoms, ["x", "chi", "x", "y", "z", "distance"], strict=True)
    ]
    fewer = replace(forcefield, atoms=tuple(atoms))
    assert fewer.kernel_arrays().plain.tolist() == [12, 16, 12, 12, 12, 12]  # of 15, in fours
    positions = sample(5, 1000.0, seed=6)
    energies = np.stack([model.energy(positions) for model in fewer.atoms], axis=-1)
    gradient = sum(model.gradient(positions) for model in fewer.atoms)
    np.testing.assert_allclose(fewer.atomic_energies(positions), energies, rtol=1e-12)
    assert np.abs(fewer.compute(positions)[1] + gradient).max() < 1e-12 * np.abs(gradient).max()


def test_energies_alone_need_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient's function is never called, and the energies are those of all threads' groups."""
    forcefield, positions = _random("squared-exponential", "derivative"), sample(37, 1000.0, seed=2)
    expected = forcefield.compute(positions)[0]
    monkeypatch.setattr(_forces, "batch", None)
    for number in (1, 2):
        monkeypatch.setenv("FFLUX_NUM_THREADS", str(number))
        np.testing.assert_array_equal(forcefield.compute(positions, deriv=0)[0], expected)


def test_points_begin_where_registers_do() -> None:
    points = fitted().kernel_arrays().points
    assert points.ctypes.data % _lanes.VECTOR_BYTES == 0
    assert (points.shape[3] * points.itemsize) % _lanes.VECTOR_BYTES == 0
    assert fitted().kernel_arrays().plain.max() <= points.shape[2]


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    forcefield, positions = _random("squared-exponential", "derivative"), sample(37, 1000.0, seed=2)
    results = []
    for number in (1, 2, 3):
        monkeypatch.setenv("FFLUX_NUM_THREADS", str(number))
        assert threads.get_threads() == number
        results.append(forcefield.compute(positions))
    for energies, forces in results[1:]:
        np.testing.assert_array_equal(energies, results[0][0])
        np.testing.assert_array_equal(forces, results[0][1])
    with pytest.raises(InputError, match=r"threads: .*at least one"):
        threads.set_threads(0)
