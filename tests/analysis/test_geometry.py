"""Internal coordinates and superposition against ASE, against brute force and against known motions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from fflux_py.analysis.geometry import (
    angles,
    bond_lengths,
    heavy_atoms,
    rmsd,
    shortest_distances,
    superpose,
    torsion_free_energy,
    torsion_histogram,
    torsions,
)
from fflux_py.errors import GeometryError, InputError
from fflux_py.units import BOLTZMANN
from tests.support.synthetic import malondialdehyde, methanol, sample


@pytest.fixture
def frames() -> np.ndarray:
    return sample(120, 1000.0, seed=2)[:60]


def test_internal_coordinates_against_ase(frames):
    molecule = methanol()
    triples, quadruples = [(1, 0, 2), (0, 1, 5), (3, 0, 4)], [(2, 0, 1, 5), (5, 1, 0, 3), (4, 0, 1, 5)]
    found = bond_lengths(frames, molecule.bonds), angles(frames, triples), torsions(frames, quadruples)
    for k, positions in enumerate(frames):
        atoms = Atoms(molecule.symbols, positions)
        np.testing.assert_allclose(found[0][k], [atoms.get_distance(i, j) for i, j in molecule.bonds], rtol=1e-13)
        np.testing.assert_allclose(np.degrees(found[1][k]), [atoms.get_angle(*t) for t in triples], atol=1e-9)
        expected = np.array([atoms.get_dihedral(*q) for q in quadruples])
        difference = (np.degrees(found[2][k]) - expected + 180.0) % 360.0 - 180.0
        np.testing.assert_allclose(difference, 0.0, atol=1e-9)


def test_torsion_sign_and_range():
    # Seen from the front, the rear bond of this one stands clockwise: +60 degrees by IUPAC.
    angle = np.radians(60.0)
    chain = np.array([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, -1.0), (np.cos(angle), -np.sin(angle), -1.0)])
    assert torsions(chain, [(0, 1, 2, 3)])[0] == pytest.approx(angle)
    assert torsions(chain * [1.0, -1.0, 1.0], [(0, 1, 2, 3)])[0] == pytest.approx(-angle)
    trans = np.array([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, -1.0), (-1.0, 0.0, -1.0)])
    assert torsions(trans, [(0, 1, 2, 3)])[0] == pytest.approx(np.pi)


def test_torsion_of_a_straight_chain_is_refused():
    line = np.array([(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 2.0), (1.0, 0.0, 2.0)])
    with pytest.raises(GeometryError, match="1, 2, 3, 4"):
        torsions(line, [(0, 1, 2, 3)])


def test_angles_keep_their_digits_near_zero_and_pi():
    tiny = 1e-9
    bent = np.array([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-np.cos(tiny), np.sin(tiny), 0.0)])
    assert np.pi - angles(bent, [(0, 1, 2)])[0] == pytest.approx(tiny, rel=1e-6)


def test_superposition_undoes_any_rigid_motion(frames):
    rng = np.random.default_rng(2)
    reference = np.array(methanol().positions)
    rotations = [Rotation.from_quat(rng.standard_normal(4)) for _ in frames]
    turned = np.array([rotation.apply(reference) + rng.normal(0.0, 5.0, 3) for rotation in rotations])
    np.testing.assert_allclose(superpose(turned, reference), np.broadcast_to(reference, turned.shape), atol=1e-12)
    np.testing.assert_allclose(rmsd(turned, reference), 0.0, atol=1e-13)


def test_rmsd_is_the_minimum_over_all_rotations(frames):
    reference, other = frames[0], Rotation.from_rotvec([0.4, -1.1, 2.0]).apply(frames[7])
    a, b = reference - reference.mean(axis=0), other - other.mean(axis=0)

    def distance(vector: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.sum((Rotation.from_rotvec(vector).apply(b) - a) ** 2, axis=1))))

    # Six starts that cover the rotations: the distance has several minima.
    starts = Rotation.create_group("O").as_rotvec()
    best = min(minimize(distance, start, method="BFGS").fun for start in starts)
    assert float(rmsd(other, reference)) == pytest.approx(best, abs=1e-7)
    assert float(rmsd(other, reference)) > 0.05


def test_mirror_image_does_not_align(frames):
    chiral = frames[3]
    mirrored = chiral * [1.0, 1.0, -1.0]
    assert float(rmsd(mirrored, chiral)) > 0.1
    # With a reflection allowed it would be zero: the distance is that of the handedness alone.
    assert float(rmsd(mirrored * [1.0, 1.0, -1.0], chiral)) < 1e-12


def test_mirror_image_of_a_planar_molecule_does_align():
    flat = np.array(malondialdehyde().positions)[:6]
    assert float(rmsd(flat * [1.0, -1.0, 1.0], flat)) < 1e-12


def test_rmsd_is_symmetric_and_takes_subsets(frames):
    molecule = methanol()
    a, b = frames[1], frames[2]
    assert float(rmsd(a, b)) == pytest.approx(float(rmsd(b, a)), rel=1e-10)
    heavy = heavy_atoms(molecule)
    assert heavy.tolist() == [0, 1]
    # Two atoms on top of each other: only the difference of the bond lengths remains, half of it at each end.
    lengths = bond_lengths(np.stack([a, b]), [(0, 1)])[:, 0]
    assert float(rmsd(a, b, heavy)) == pytest.approx(0.5 * abs(lengths[0] - lengths[1]), abs=1e-12)


def test_weighted_superposition_fits_the_weighted_atoms_only(frames):
    reference, other = frames[0], frames[9]
    weights = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    moved = superpose(other, reference, weights)
    part = superpose(other[:3], reference[:3])
    np.testing.assert_allclose(moved[:3], part, atol=1e-12)
    # a rigid motion of the whole molecule
    first, second = np.triu_indices(6, k=1)
    np.testing.assert_allclose(
        np.linalg.norm(moved[first] - moved[second], axis=1), np.linalg.norm(other[first] - other[second], axis=1)
    )


def test_superposition_refuses_other_molecules(frames):
    with pytest.raises(InputError):
        superpose(frames, frames[0][:5])
    with pytest.raises(InputError):
        superpose(frames, frames[0], np.zeros(6))


def test_shortest_distance(frames):
    every = [
        min(np.linalg.norm(x[i] - x[j]) for i in range(6) for j in range(i)) for x in frames
    ]  # fmt: skip
    np.testing.assert_allclose(shortest_distances(frames), every)


def test_torsion_histogram_is_a_density_on_the_circle():
    angle = np.array([-np.pi, np.pi, 3.0 * np.pi, 0.1, 0.1 + 4.0 * np.pi])
    edges, density = torsion_histogram(angle, bins=8)
    assert float(np.sum(density * np.diff(edges))) == pytest.approx(1.0)
    # -pi, pi and 3 pi are one place
    np.testing.assert_allclose(density * (edges[1] - edges[0]) * 5, [3, 0, 0, 0, 2, 0, 0, 0])


def test_free_energy_of_a_known_distribution():
    """Angles of the density exp(-V/kT) with V = a (1 - cos phi) give that V back, at the right temperature."""
    rng = np.random.default_rng(4)
    temperature, barrier = 400.0, 2.0 * BOLTZMANN * 400.0
    first = rng.vonmises(0.0, barrier / (BOLTZMANN * temperature), 400_000)
    second = rng.uniform(-np.pi, np.pi, 400_000)
    edges, surface = torsion_free_energy(first, second, temperature, bins=12)
    assert surface.min() == 0.0
    weight = [quad(lambda x: np.exp(2.0 * np.cos(x)), low, high)[0] for low, high in pairwise(edges)]
    expected = -BOLTZMANN * temperature * np.log(np.array(weight) / max(weight))
    found = surface.mean(axis=1) - surface.mean(axis=1).min()
    np.testing.assert_allclose(found, expected, atol=0.1 * BOLTZMANN * temperature)


def test_places_never_visited_are_infinite():
    _, surface = torsion_free_energy(np.full(10, 0.3), np.full(10, 0.3), 300.0, bins=6)
    assert np.isinf(surface).sum() == 35
    with pytest.raises(InputError, match="kelvin"):
        torsion_free_energy(np.zeros(3), np.zeros(3), 0.0)
