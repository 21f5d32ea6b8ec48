"""Classical terms and network of a taught mean, against plain NumPy, finite differences and their invariances."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fflux_py._compiled.network import LARGEST_Z, Network, add_network
from fflux_py._compiled.taught_mean import TaughtMeanArrays, taught_batch, taught_energy
from tests.support.taught_means import geometries, random_mean

pytestmark = pytest.mark.core


def network_in_numpy(x: np.ndarray, network: Network) -> float:
    """The network's energy, written down as its definition."""
    total = 0.0
    v = network.n_vectors
    for i in range(len(x)):
        c = network.classes[i]
        scalars, vectors = 0.0, 0.0
        for j in range(len(x)):
            if j == i:
                continue
            r = np.linalg.norm(x[j] - x[i])
            z = np.clip((r - network.means[i, j]) * network.inverse_widths[i, j], -LARGEST_Z, LARGEST_Z)
            functions = np.append(np.exp(-0.5 * (z - np.arange(-2.0, 3.0)) ** 2), np.tanh(0.5 * z))
            mixed = functions @ network.radial[network.pair_classes[i, j]]
            scalars = scalars + mixed[:-v]
            vectors = vectors + np.outer((x[j] - x[i]) / r, mixed[-v:])
        products = (vectors.T @ vectors)[np.triu_indices(v)]
        inputs = np.concatenate([scalars, products])
        inputs = np.append(inputs, np.zeros(network.first.shape[1] - len(inputs)))
        one = inputs @ network.first[c] + network.first_bias[c]
        two = one / np.sqrt(1.0 + one**2) @ network.second[c] + network.second_bias[c]
        total += two / np.sqrt(1.0 + two**2) @ network.last[c]
    return float(total)


def energy(x: np.ndarray, mean: TaughtMeanArrays) -> float:
    return taught_energy(np.ascontiguousarray(x), mean, None)


def test_network_is_its_definition() -> None:
    mean = random_mean()
    for x in geometries(4):
        assert add_network(x, mean.network, None) == pytest.approx(network_in_numpy(x, mean.network), rel=1e-12)


def test_gradient_is_that_of_finite_differences() -> None:
    mean = random_mean()
    for x in geometries(2):
        gradient = np.zeros_like(x)
        taught_energy(x, mean, gradient)
        h = 1e-4
        for k in np.ndindex(*x.shape):
            moved = []
            for step in (-2, -1, 1, 2):
                y = x.copy()
                y[k] += step * h
                moved.append(energy(y, mean))
            difference = (moved[0] - 8.0 * moved[1] + 8.0 * moved[2] - moved[3]) / (12.0 * h)
            assert gradient[k] == pytest.approx(difference, abs=1e-8)


def test_energy_has_the_bits_of_the_energy_with_gradient() -> None:
    mean = random_mean()
    x = geometries(12)
    energies, gradient = np.empty(12), np.empty_like(x)
    taught_batch(x, mean, energies, gradient)
    assert [energy(y, mean) for y in x] == energies.tolist()


def test_rotation_reflection_translation_and_exchange_change_nothing() -> None:
    mean = random_mean()
    x = geometries(1)[0]
    before = energy(x, mean)
    rotation = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    assert energy(x @ rotation.T, mean) == pytest.approx(before, rel=1e-12)
    assert energy(-x, mean) == pytest.approx(before, rel=1e-12)
    assert energy(x + np.array([3.0, -2.0, 5.0]), mean) == pytest.approx(before, rel=1e-12)
    exchanged = x[[0, 1, 3, 2, 4, 5]]  # two hydrogens of the methyl group
    assert energy(exchanged, mean) == pytest.approx(before, rel=1e-12)
    other = x[[0, 1, 5, 3, 4, 2]]  # one of them and that of the hydroxyl group
    assert abs(energy(other, mean) - before) > 1e-4


def test_network_depends_on_directions_only_far_away() -> None:
    mean = random_mean()
    x = geometries(1)[0]
    towards = np.array([0.6, 0.0, 0.8])
    pulls = []
    for distance in (4000.0, 8000.0):
        x[5] = x[:5].mean(axis=0) + distance * towards
        gradient = np.zeros_like(x)
        add_network(x, mean.network, gradient)
        pulls.append(gradient[5])
    assert abs(pulls[0] @ towards) < 0.02 * np.linalg.norm(pulls[0])
    assert np.linalg.norm(pulls[1]) == pytest.approx(0.5 * np.linalg.norm(pulls[0]), rel=0.02)


def test_atoms_on_one_spot_are_no_number() -> None:
    x = geometries(1)[0]
    x[3] = x[2]
    with np.errstate(all="ignore"):  # of NumPy, where the compiler is switched off
        assert np.isnan(energy(x, random_mean()))
