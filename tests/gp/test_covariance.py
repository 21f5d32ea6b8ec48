"""Kernels: closed forms, derivatives, positive semidefiniteness, periodicity, and the defects of rbf-cyclic."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.gp.covariance import AZIMUTHS, Azimuth, Covariance
from fflux_py.gp.radial_kernel import KERNELS, radial_kernel
from fflux_py.typing import FloatArray

pytestmark = pytest.mark.core

THETA = np.array([0.7, 0.05, 1.3, 0.4, 0.0, 0.9])
PHI = np.array([2, 5])
ALL = [(kernel, cast(Azimuth, azimuth)) for kernel in KERNELS for azimuth in AZIMUTHS]


def _points(n: int, seed: int) -> FloatArray:
    """Features of size one; azimuths over the whole circle."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, len(THETA)))
    x[:, PHI] = rng.uniform(-np.pi, np.pi, (n, len(PHI)))
    return x


def _distance(difference: FloatArray, azimuth: Azimuth) -> FloatArray:
    """The scaled squared distance, written from its definition."""
    terms = THETA * difference**2
    if azimuth == "periodic":
        terms[..., PHI] = 4.0 * THETA[PHI] * np.sin(difference[..., PHI] / 2.0) ** 2
    if azimuth == "rbf-cyclic":
        wrapped = (difference[..., PHI] + np.pi) % (2.0 * np.pi) - np.pi
        terms[..., PHI] = THETA[PHI] * wrapped**2
    return np.asarray(terms.sum(-1))


def _closed_form(x: FloatArray, y: FloatArray, kernel: str, azimuth: Azimuth) -> FloatArray:
    s = _distance(x[:, None] - y[None], azimuth)
    if kernel == "squared-exponential":
        return np.asarray(np.exp(-s))
    if kernel == "rational-quadratic":
        return np.asarray(1.0 / (1.0 + s / 2.0) ** 2)
    r = np.sqrt(2.0 * s)  # the Matern distance for theta = 1/(2 l^2)
    if kernel == "matern72":
        x = np.sqrt(7.0) * r
        return np.asarray((1.0 + x + 2.0 / 5.0 * x**2 + x**3 / 15.0) * np.exp(-x))
    return np.asarray((1.0 + np.sqrt(5.0) * r + 5.0 / 3.0 * r**2) * np.exp(-np.sqrt(5.0) * r))


@pytest.mark.parametrize(("kernel", "azimuth"), ALL)
def test_matrix_is_the_closed_form(kernel: str, azimuth: Azimuth) -> None:
    covariance = Covariance(THETA, PHI, KERNELS[kernel], azimuth)
    x, y = _points(7, 1), _points(5, 2)
    np.testing.assert_allclose(covariance.matrix(x, y), _closed_form(x, y, kernel, azimuth), rtol=1e-12)
    np.testing.assert_allclose(np.diag(covariance.matrix(x, x)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(covariance.matrix(x, x), covariance.matrix(x, x).T, rtol=1e-14)


def test_embedding_is_the_periodic_kernel() -> None:
    theta, d = 0.83, np.linspace(-7.0, 7.0, 57)
    covariance = Covariance(np.array([theta]), np.array([0]))
    x = 0.4 + d[:, None]
    y = np.array([[0.4]])
    np.testing.assert_allclose(covariance.matrix(x, y)[:, 0], np.exp(-4.0 * theta * np.sin(d / 2.0) ** 2), rtol=1e-13)
    z = covariance.embed(x)
    assert z.shape == (57, 2)
    np.testing.assert_allclose((z**2).sum(-1), theta, rtol=1e-14)


@pytest.mark.parametrize(("kernel", "azimuth"), ALL)
def test_whole_turns_do_not_matter_unless_the_kernel_is_plain(kernel: str, azimuth: Azimuth) -> None:
    covariance = Covariance(THETA, PHI, KERNELS[kernel], azimuth)
    x, y = _points(6, 3), _points(4, 4)
    turned = x.copy()
    turned[:, PHI] += 2.0 * np.pi * np.array([1.0, -2.0])
    same = np.abs(covariance.matrix(turned, y) - covariance.matrix(x, y)).max() < 1e-12
    assert same == (azimuth != "rbf")
    if azimuth == "rbf-cyclic":  # a whole turn there is the period of the embedded coordinate
        np.testing.assert_allclose(covariance.periods()[PHI], 2.0 * np.pi * np.sqrt(THETA[PHI]), rtol=1e-15)
        assert np.count_nonzero(covariance.periods()) == 2
    else:
        assert not covariance.periods().any()


@pytest.mark.parametrize(("kernel", "azimuth"), ALL)
def test_gradient_against_central_differences(kernel: str, azimuth: Azimuth) -> None:
    covariance = Covariance(THETA, PHI, KERNELS[kernel], azimuth)
    x, y = _points(5, 5), _points(6, 6)
    exact = covariance.gradient(x, y)
    step = 1e-3
    for h in range(len(THETA)):
        shift = step * np.eye(len(THETA))[h]
        k = [covariance.matrix(x + n * shift, y) for n in (-2, -1, 1, 2)]
        np.testing.assert_allclose(exact[..., h], (k[0] - 8 * k[1] + 8 * k[2] - k[3]) / (12 * step), atol=1e-10)


@pytest.mark.parametrize("kernel", [kernel for kernel, azimuth in ALL if azimuth == "rbf"])
def test_slope_and_curvature_are_the_derivatives_of_the_value(kernel: str) -> None:
    covariance = Covariance(THETA, PHI, KERNELS[kernel])
    s, step = np.linspace(0.3, 4.0, 9), 1e-3
    for function, derivative in ((covariance.value, covariance.slope), (covariance.slope, covariance.curvature)):
        f = [function(s + n * step) for n in (-2, -1, 1, 2)]
        np.testing.assert_allclose(derivative(s), (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step), rtol=1e-8)
    zero = np.zeros(1)
    expected = {
        "squared-exponential": (1.0, -1.0, 1.0),
        "matern52": (1.0, -5.0 / 3.0, 25.0 / 3.0),
        "rational-quadratic": (1.0, -1.0, 1.5),
        "matern72": (1.0, -1.4, 49.0 / 15.0),
    }[kernel]
    at_zero = (covariance.value(zero)[0], covariance.slope(zero)[0], covariance.curvature(zero)[0])
    assert at_zero == pytest.approx(expected)


@pytest.mark.parametrize("azimuth", AZIMUTHS)
def test_jacobian_of_the_embedding(azimuth: Azimuth) -> None:
    covariance = Covariance(THETA, PHI, azimuth=azimuth)
    rng = np.random.default_rng(0)
    direction = rng.standard_normal((len(THETA), 2, 3))  # d features / d positions of two atoms

    def embedded(t: FloatArray) -> FloatArray:
        return covariance.embed(x + np.einsum("fac,ac->f", direction, t))

    x = _points(1, 7)
    exact = covariance.embed_jacobian(x, direction[None])[0]
    step = 1e-3
    for atom, component in np.ndindex(2, 3):
        shift = np.zeros((2, 3))
        shift[atom, component] = step
        z = [embedded(n * shift)[0] for n in (-2, -1, 1, 2)]
        np.testing.assert_allclose(
            exact[:, atom, component], (z[0] - 8 * z[1] + 8 * z[2] - z[3]) / (12 * step), atol=1e-9
        )


@pytest.mark.parametrize("kernel", KERNELS)
def test_periodic_kernel_is_positive_semidefinite(kernel: str) -> None:
    for theta in (0.02, 0.1, 1.0, 10.0):
        covariance = Covariance(np.array([theta]), np.array([0]), KERNELS[kernel], "periodic")
        phi = np.linspace(-np.pi, np.pi, 60, endpoint=False)[:, None]
        eigenvalues = np.linalg.eigvalsh(covariance.matrix(phi, phi))
        assert eigenvalues[0] > -1e-12 * 60
    covariance = Covariance(THETA, PHI, KERNELS[kernel], "periodic")
    x = _points(80, 8)
    assert np.linalg.eigvalsh(covariance.matrix(x, x))[0] > -1e-12 * 80


def test_rbf_cyclic_is_not_positive_semidefinite() -> None:
    # On an equidistant circle the matrix is circulant; its eigenvalues are the Fourier coefficients of the kernel,
    # whose kink at pi makes those of order m fall as cos(pi m)/m^2: alternating in sign.  Largest near theta = 0.1.
    phi = np.linspace(-np.pi, np.pi, 60, endpoint=False)[:, None]
    lowest = {}
    for theta in (0.1, 1.0):
        matrix = Covariance(np.array([theta]), np.array([0]), azimuth="rbf-cyclic").matrix(phi, phi)
        lowest[theta] = np.linalg.eigvalsh(matrix)[0] / np.trace(matrix)
    assert -0.025 < lowest[0.1] < -0.015
    assert -1e-5 < lowest[1.0] < -1e-7


def test_rbf_cyclic_has_a_kink_at_pi_and_the_periodic_kernel_has_none() -> None:
    theta, y, tiny = 0.1, np.array([[0.0]]), 1e-9
    below, above = np.array([[np.pi - tiny]]), np.array([[np.pi + tiny]])
    jump = {}
    for azimuth in ("rbf-cyclic", "periodic"):
        covariance = Covariance(np.array([theta]), np.array([0]), azimuth=cast(Azimuth, azimuth))
        assert covariance.matrix(below, y) == pytest.approx(covariance.matrix(above, y), abs=1e-8)
        jump[azimuth] = float((covariance.gradient(above, y) - covariance.gradient(below, y))[0, 0, 0])
    assert jump["rbf-cyclic"] == pytest.approx(4.0 * theta * np.pi * np.exp(-theta * np.pi**2), rel=1e-6)  # 0.47
    assert abs(jump["periodic"]) < 1e-8


def test_wrong_parameters_are_refused() -> None:
    for theta in ([1.0, -1.0], [np.nan], [[1.0]], [np.inf]):
        with pytest.raises(InputError, match="theta"):
            Covariance(np.array(theta), np.zeros(0, dtype=np.int64))
    with pytest.raises(InputError, match=r"kernel.*matern52.*'linear'"):
        radial_kernel("linear")
    with pytest.raises(InputError, match=r"azimuth.*rbf-cyclic.*'wrapped'"):
        Covariance(THETA, PHI, azimuth=cast(Azimuth, "wrapped"))
