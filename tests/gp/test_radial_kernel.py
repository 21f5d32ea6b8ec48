"""The registry of radial kernels: NumPy against compiled code, derivatives, and what a kernel must fulfil."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py._compiled.radial_kernels import radial, radial_block, radial_third
from fflux_py._compiled.simd import REGISTERS, block
from fflux_py.errors import InputError
from fflux_py.gp.radial_kernel import KERNELS, RadialKernel, radial_kernel
from tests.support.synthetic import fit, label, sample

pytestmark = pytest.mark.core

S = np.concatenate([[0.0, 1e-12, 1e-6], np.linspace(0.01, 60.0, 400)])


def test_names_and_codes_are_unique() -> None:
    assert all(name == kernel.name for name, kernel in KERNELS.items())
    assert sorted(kernel.code for kernel in KERNELS.values()) == list(range(len(KERNELS)))
    assert all(radial_kernel(name) is kernel for name, kernel in KERNELS.items())
    with pytest.raises(InputError, match=r"kernel: expected one of squared-exponential, matern52.*'gaussian'"):
        radial_kernel("gaussian")


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_compiled_code_is_the_numpy_code(kernel: RadialKernel) -> None:
    compiled = np.array([radial(float(s), kernel.code) for s in S])
    for column, function in zip(compiled.T, (kernel.value, kernel.slope, kernel.curvature), strict=True):
        np.testing.assert_allclose(column, function(S), rtol=1e-13)


def test_compiled_code_has_no_kernel_under_another_code() -> None:
    assert np.isnan(radial(1.0, len(KERNELS))).all()
    assert np.isnan(radial_third(1.0, len(KERNELS)))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_third_derivative_is_the_slope_of_the_curvature(kernel: RadialKernel) -> None:
    s, step = np.linspace(0.3, 8.0, 30), 1e-3
    f = [kernel.curvature(s + n * step) for n in (-2, -1, 1, 2)]
    third = [radial_third(float(x), kernel.code) for x in s]
    np.testing.assert_allclose(third, (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step), rtol=1e-7)
    assert np.isfinite(radial_third(0.0, kernel.code))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_is_a_smooth_correlation_that_falls(kernel: RadialKernel) -> None:
    assert kernel.value(np.zeros(1))[0] == 1.0
    assert (kernel.slope(S) < 0.0).all()
    assert (kernel.curvature(S) > 0.0).all()
    assert kernel.value(np.array([1e4]))[0] < 1e-6
    s, step = np.linspace(0.3, 8.0, 30), 1e-3
    for function, derivative in ((kernel.value, kernel.slope), (kernel.slope, kernel.curvature)):
        f = [function(s + n * step) for n in (-2, -1, 1, 2)]
        np.testing.assert_allclose(derivative(s), (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step), rtol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("dimensions", [1, 3, 20])
def test_matrices_are_positive_definite(kernel: RadialKernel, dimensions: int) -> None:
    """Of values and slopes together: the covariance of E and dE/dz, as the joint fit has it."""
    z = 0.6 * np.random.default_rng(dimensions).standard_normal((12, dimensions))
    d = z[:, None] - z[None]
    s = (d**2).sum(-1)
    value, slope, curvature = kernel.value(s), kernel.slope(s), kernel.curvature(s)
    size = 12 * dimensions
    mixed = (2.0 * slope[..., None] * d).transpose(0, 2, 1).reshape(size, 12)
    both = -2.0 * slope[:, None, :, None] * np.eye(dimensions)[None, :, None, :]
    both = both - 4.0 * np.einsum("ij,ija,ijb->iajb", curvature, d, d)
    whole = np.block([[value, mixed.T], [mixed, both.reshape(size, size)]])
    np.testing.assert_allclose(whole, whole.T, atol=1e-14)
    assert np.linalg.eigvalsh(whole).min() > -1e-12 * np.trace(whole)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_only_what_factorises_says_so(kernel: RadialKernel) -> None:
    s, t = np.meshgrid(np.linspace(0.1, 3.0, 7), np.linspace(0.2, 2.0, 5))
    product = np.abs(kernel.value(s + t) - kernel.value(s) * kernel.value(t)).max() < 1e-14
    minus = np.abs(kernel.slope(s) + kernel.value(s)).max() < 1e-14
    assert kernel.factorises == product == minus


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_scalar_code_of_a_block(kernel: RadialKernel, derivative: bool) -> None:
    """Number by number against the sums, with exponents that rounding has made positive."""
    rng = np.random.default_rng(2)
    size = block(np.float64)
    s, weights = rng.uniform(0.0, 5.0, size), rng.standard_normal(size)
    s[3] = 0.0
    t = rng.standard_normal(size) if derivative else np.zeros(size)
    exponents, along = -s, t.copy()
    exponents[3] = 1e-13
    energies, pulls = np.ones(size // REGISTERS), np.ones(size // REGISTERS)
    radial_block(kernel.code, derivative, exponents, along, weights, energies, pulls)
    energy = weights * kernel.value(s) - kernel.slope(s) * t
    pull = -weights * kernel.slope(s) + kernel.curvature(s) * t
    np.testing.assert_allclose(exponents, pull, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(along, -kernel.slope(s) if derivative else 0.0, rtol=1e-12)
    for found, of_points in ((energies, energy), (pulls, pull)):
        np.testing.assert_allclose(found, 1.0 + of_points.reshape(REGISTERS, -1).sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_model_file_keeps_the_kernel(kernel: str, tmp_path: Path) -> None:
    forcefield = fit(label(sample(12, 1000.0)), kernel=kernel, noise=1e-8, inverse_width=0.05)
    model_file.save(forcefield, tmp_path / "model.npz")
    loaded = model_file.load(tmp_path / "model.npz")
    assert {model.covariance.kernel.name for model in loaded.atoms} == {kernel}
    positions = sample(3, 1000.0, seed=6)
    np.testing.assert_array_equal(loaded.unmatched.compute(positions)[1], forcefield.unmatched.compute(positions)[1])


def test_atoms_of_one_force_field_have_one_kernel() -> None:
    forcefield = fit(label(sample(5)), noise=1e-6)
    other = replace(forcefield.atoms[1].covariance, kernel=KERNELS["matern52"])
    atoms: list[object] = list(forcefield.atoms)
    atoms[1] = replace(forcefield.atoms[1], covariance=other)
    with pytest.raises(InputError, match="atom 2: expected features and kernel as of atom 1"):
        replace(forcefield, atoms=tuple(atoms))
