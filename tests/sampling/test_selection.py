"""Farthest-point selection and start geometries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from fflux_py.bias.collective_variables import periodic_difference, torsion
from fflux_py.errors import ConvergenceError, InputError, SimulationStopped
from fflux_py.sampling.selection import evenly_spaced, farthest_points, pair_features
from fflux_py.sampling.starts import random_conformer, relax, set_torsion
from fflux_py.sampling.thermostatted import fault
from fflux_py.typing import FloatArray
from tests.support.sampling_models import Springs, hydrogen_peroxide


def brute_force(features: FloatArray, n_select: int, first: int) -> list[int]:
    chosen = [first]
    while len(chosen) < n_select:
        rest = [k for k in range(len(features)) if k not in chosen]
        gaps = [min(float(np.sum((features[k] - features[c]) ** 2)) for c in chosen) for k in rest]
        chosen.append(rest[int(np.argmax(gaps))])
    return chosen


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4))
def test_farthest_points_agree_with_brute_force(seed: int, m: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    # Small integers make ties and duplicates.
    features = rng.integers(0, 4, size=(m, d)).astype(float)
    n, first = int(rng.integers(1, m + 1)), int(rng.integers(m))
    assert farthest_points(features, n, first).tolist() == brute_force(features, n, first)


def test_farthest_points_on_a_line() -> None:
    line = np.linspace(0.0, 8.0, 9)[:, None]
    assert farthest_points(line, 5, 0).tolist() == [0, 8, 4, 2, 6]


def test_farthest_points_cover_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(400, 3))
    chosen = cloud[farthest_points(cloud, 40, 0)]
    random = cloud[rng.permutation(400)[:40]]

    def hole(points: FloatArray) -> float:
        return float(np.linalg.norm(cloud[:, None] - points, axis=-1).min(axis=1).max())

    assert hole(chosen) < 0.7 * hole(random)


@pytest.mark.parametrize(("n", "first"), [(0, 0), (6, 0), (2, 5), (2, -1)])
def test_impossible_selections_are_refused(n: int, first: int) -> None:
    with pytest.raises(InputError, match="expected"):
        farthest_points(np.zeros((5, 2)), n, first)


@pytest.mark.parametrize(("m", "n"), [(10, 10), (10, 3), (11, 4), (300, 30), (5, 1)])
def test_even_spacing(m: int, n: int) -> None:
    indices = evenly_spaced(m, n)
    assert len(indices) == n
    assert indices[0] >= 0
    assert indices[-1] == m - 1
    assert set(np.diff(indices)) <= {m // n}


def test_even_spacing_needs_the_frames() -> None:
    with pytest.raises(InputError, match="from 1 to 4"):
        evenly_spaced(4, 5)


def test_pair_features_are_invariant_and_tell_conformers_apart() -> None:
    molecule = hydrogen_peroxide()
    torsions = molecule.torsions()
    x = np.array(molecule.positions)
    turned = Rotation.random(random_state=2).apply(x) + 1.5
    mirror = x * [1.0, 1.0, -1.0]
    features = pair_features(np.array([x, turned, mirror]), torsions)
    assert features.shape == (3, 6 + 2)
    np.testing.assert_allclose(features[1], features[0], atol=1e-12)
    assert np.abs(features[2] - features[0]).max() > 0.1
    plain = pair_features(np.array([x, mirror]))
    np.testing.assert_allclose(plain[0], plain[1], atol=1e-12)
    np.testing.assert_allclose(plain[0][0], 1.0 / np.linalg.norm(x[0] - x[1]), rtol=1e-14)


@pytest.mark.parametrize("angle", [-3.0, -0.4, 0.0, 1.3, np.pi])
def test_turn_sets_the_torsion_and_nothing_else(angle: float) -> None:
    molecule = hydrogen_peroxide()
    atoms = molecule.torsions()[0]
    turned = set_torsion(molecule, atoms, angle)
    assert abs(periodic_difference(torsion(turned.positions, atoms), angle)) < 1e-12
    for i, j in ((0, 1), (1, 2), (2, 3), (0, 2), (1, 3)):
        before = np.linalg.norm(molecule.positions[i] - molecule.positions[j])
        assert np.linalg.norm(turned.positions[i] - turned.positions[j]) == pytest.approx(before, rel=1e-12)


def test_relax_finds_the_minimum() -> None:
    molecule = hydrogen_peroxide()
    potential = Springs(molecule, barrier=5e-3)
    rng = np.random.default_rng(1)
    start = molecule.with_positions(molecule.positions + rng.normal(scale=0.15, size=(4, 3)))
    relaxed = relax(start, potential, fmax=1e-6)
    energy, forces = potential.energy_and_forces(relaxed.positions)
    assert energy < 1e-8
    assert np.abs(forces).max() < 1e-6


def test_relax_that_does_not_end_is_an_error() -> None:
    molecule = hydrogen_peroxide()
    moved = molecule.with_positions(molecule.positions * 1.1)
    with pytest.raises(ConvergenceError, match="in 1 iterations"):
        relax(moved, Springs(molecule, barrier=5e-3), fmax=1e-9, max_iterations=1)


def test_conformers_are_relaxed_different_and_reproducible() -> None:
    molecule = hydrogen_peroxide()
    potential = Springs(molecule, barrier=5e-3)
    torsions = molecule.torsions()

    def angles(seed: int) -> list[float]:
        rng = np.random.default_rng(seed)
        found = [random_conformer(molecule, potential, torsions, rng) for _ in range(12)]
        for c in found:
            assert fault(molecule, c.positions) is None
            assert np.abs(potential.energy_and_forces(c.positions)[1]).max() < 1e-3
        return [torsion(c.positions, torsions[0]) for c in found]

    first = angles(3)
    # The minima of the model are the planar ones; both are found.
    assert {round(abs(a) / np.pi) for a in first} == {0, 1}
    assert len(set(first)) == 12
    assert angles(3) == first


def test_no_conformer_is_an_error() -> None:
    molecule = hydrogen_peroxide()

    class Apart:
        """A harmonic minimum far outside the molecule's bonds."""

        def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
            shift = positions - 3.0 * molecule.positions
            return 0.05 * float(np.sum(shift**2)), -0.1 * shift

    with pytest.raises(SimulationStopped, match=r"none in 50 trials.*broken"):
        random_conformer(molecule, Apart(), molecule.torsions(), np.random.default_rng(0))
