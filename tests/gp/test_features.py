"""Atomic local frames: choice of atoms, conventions, invariances, derivatives, public reference features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fflux_py.errors import GeometryError, InputError
from fflux_py.gp.features import FEATURE_KINDS, FeatureKind, FeatureSet, feature_jacobian, features
from fflux_py.molecules.local_frame import (
    LocalFrame,
    _highest_priority,
    check_local_frames,
    cip_local_frames,
    describe,
    local_axes,
)
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM
from tests.support.synthetic import malondialdehyde, methanol, sample

pytestmark = pytest.mark.core
KINDS = [cast(FeatureKind, kind) for kind in FEATURE_KINDS]
FRAME = LocalFrame(1, 3, 0)


def _indices(molecule: Molecule) -> list[tuple[int, int, int]]:
    return [(f.atom, f.x_axis, f.xy_plane) for f in cip_local_frames(molecule)]


def _water(*order: int) -> Molecule:
    positions = np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]]) / ANGSTROM
    symbols = ("O", "H", "H")
    return Molecule(tuple(symbols[i] for i in order), positions[list(order)])


def _cloud(seed: int, n: int = 5) -> FloatArray:
    """Random positions in bohr, no two closer than one bohr."""
    rng = np.random.default_rng(seed)
    while True:
        positions = 2.0 * rng.standard_normal((n, 3))
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1) + 9.0 * np.eye(n)
        if distance.min() > 1.0:
            return positions


# The choice of frame atoms.  The rule: X, then Y, is the neighbour of highest priority that is not taken yet (or, if no
# neighbour is left, a neighbour's neighbour); priority is isotopic mass, then the mass of the sphere that grows around
# the candidate by its bonded atoms, until the maximum is unique or nothing changes; the lowest index wins a tie.


def test_frames_of_water() -> None:
    # O: both hydrogens tie at every level.  H: O is the only neighbour, then the other H is O's only other neighbour.
    assert _indices(_water(0, 1, 2)) == [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
    assert _indices(_water(1, 0, 2)) == [(0, 1, 2), (1, 0, 2), (2, 1, 0)]


def test_frames_of_methanol() -> None:
    # atoms: C0 O1 H2 H3 H4 (on C) H5 (on O)
    # C0: O is the heaviest; the three hydrogens tie at every level, the first is taken.
    # O1: C, then its hydrogen.  H2-H4: C, then C's heaviest other neighbour O.  H5: O, then C.
    assert _indices(methanol()) == [(0, 1, 2), (1, 0, 5), (2, 0, 1), (3, 0, 1), (4, 0, 1), (5, 1, 0)]
    # in the order C H O H H H the carbon reads (1, 3, 2) when counted from one, as in a published methanol model
    order = [0, 2, 1, 3, 4, 5]
    molecule = Molecule(tuple(methanol().symbols[i] for i in order), methanol().positions[order])
    assert _indices(molecule)[0] == (0, 2, 1)


def test_frames_of_keto_malondialdehyde() -> None:
    # atoms: O0=C1(H5)-C2(H6)(H7)-C3(H8)=O4
    # O0: C1, then C2 (12) before H5.  C1: O0, then C2 before H5.  C2: C1 and C3 tie at every level, for the two halves
    # are equal: the lower index is x, the other is y.  The other half by symmetry.  H5: C1, then O0 before C2.
    # H6, H7: C2, then C1 before C3 by index.
    assert _indices(malondialdehyde()) == [
        (0, 1, 2), (1, 0, 2), (2, 1, 3), (3, 4, 2), (4, 3, 2), (5, 1, 0), (6, 2, 1), (7, 2, 1), (8, 3, 4),
    ]  # fmt: skip


def test_frames_of_glycine() -> None:
    # atoms: N0 C1(alpha) C2 O3(carbonyl) O4(hydroxyl) H5 H6 (on N) H7 H8 (on C1) H9 (on O4)
    positions = [
        [-1.472, 0.338, -0.288], [-0.525, -0.724, 0.109], [0.908, -0.218, 0.211], [1.859, -0.844, 0.652],
        [1.086, 1.034, -0.267], [-1.100, 0.776, -1.135], [-1.420, 1.082, 0.410], [-0.556, -1.525, -0.636],
        [-0.825, -1.117, 1.085], [2.045, 1.196, -0.142],
    ]  # fmt: skip
    glycine = Molecule(tuple("NCCOOHHHHH"), np.array(positions) / ANGSTROM)
    # C2: the oxygens tie by their own mass, so all spheres grow: the carbonyl's to O + C = 28, the hydroxyl's to
    # O + C + H = 29, but that of C1, which was not in the tie, to C + N + C + 2 H = 40: x is C1 (the rule is like
    # Cahn, Ingold and Prelog's, not theirs).  Then the hydroxyl's 29 against the carbonyl's 28: y is O4.
    # C1: N (14), then C2 (12).  O3: C2, then O4 before C1.  O4: C2, then its hydrogen.
    # N0: C1, then the first of two tied hydrogens.  H5, H6: N0, then C1 before the other H.  H7, H8: C1, then N0.
    assert _indices(glycine) == [
        (0, 1, 5), (1, 0, 2), (2, 1, 4), (3, 2, 4), (4, 2, 9), (5, 0, 1), (6, 0, 1), (7, 1, 0), (8, 1, 0), (9, 4, 2),
    ]  # fmt: skip


def test_an_atom_reached_twice_counts_twice() -> None:
    # 0 is bonded to 1 and 2; 1 to 3 and 4, which both hold 7 (mass 16); 2 to 5 and 6, which hold 8 (16) and 9 (1).
    # Own mass 12 = 12.  First growth: 12 + 12 (atom 0) + 24 = 48 on both sides.  Second growth, side of 1: atom 2 (12)
    # and twice atom 7 (32), 92; side of 2: atom 1 (12), 16 and 1, 77.  Counted once, 7 would lose: 76 against 77.
    neighbours = [(1, 2), (0, 3, 4), (0, 5, 6), (1, 7), (1, 7), (2, 8), (2, 9), (3, 4), (5,), (6,)]
    for masses_8, winner in ((16.0, 1), (32.0, 2)):
        masses = [12.0] * 7 + [16.0, masses_8, 1.0]
        assert _highest_priority([1, 2], neighbours, masses) == winner


def test_molecules_without_frames_are_refused() -> None:
    hydrogen = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [1.4, 0.0, 0.0]]))
    with pytest.raises(GeometryError, match="at least 3 atoms"):
        cip_local_frames(hydrogen)
    scattered = Molecule(("O", "H", "H"), np.array([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [0.0, 9.0, 0.0]]))
    with pytest.raises(GeometryError, match=r"atom 1.*two further atoms"):
        cip_local_frames(scattered)
    line = np.array([[0.0, 0.0, 0.0], [2.2, 0.0, 0.0], [-2.2, 0.0, 0.0], [4.4, 0.0, 0.0]])
    with pytest.raises(GeometryError, match=r"atom 1.*an atom off the line.*none.*linear molecule") as caught:
        cip_local_frames(Molecule(("C", "O", "O", "H"), line))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_frame_is_refused_in_any_of_many_geometries(kind: FeatureKind) -> None:
    positions = np.array([_cloud(k) for k in range(4)])
    features(positions, FRAME, kind)
    for bad in (2.5, -1.0):  # Y behind X, and Y opposite to X
        broken = positions.copy()
        broken[2, 0] = broken[2, 1] + bad * (broken[2, 3] - broken[2, 1])
        for function in (features, feature_jacobian):
            with pytest.raises(GeometryError, match="frame of atom 2"):
                function(broken, FRAME, kind)
    for spot in (broken[1, 1], np.full(3, np.nan)):
        broken[1, 3] = spot
        with pytest.raises(GeometryError, match="frame of atom 2"):
            check_local_frames(broken[:2], [FRAME])


def test_describe_counts_from_one() -> None:
    text = describe(cip_local_frames(_water(0, 1, 2)), ("O", "H", "H"))
    assert text == "O1: x to H2, plane of H3, H2: x to O1, plane of H3, H3: x to O1, plane of H2"


# Conventions.


def test_axes_are_right_handed_with_x_towards_x_and_y_towards_y() -> None:
    positions = np.array([_cloud(k) for k in range(3)])
    axes = local_axes(positions, FRAME)
    np.testing.assert_allclose(axes @ axes.swapaxes(-1, -2), np.broadcast_to(np.eye(3), (3, 3, 3)), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(axes), 1.0, rtol=1e-13)
    local = np.einsum("mij,mnj->mni", axes, positions - positions[:, [1]])
    np.testing.assert_allclose(local[:, 3, 1:], 0.0, atol=1e-13)
    assert (local[:, 3, 0] > 0).all()
    np.testing.assert_allclose(local[:, 0, 2], 0.0, atol=1e-13)
    assert (local[:, 0, 1] > 0).all()


def test_spherical_features_by_their_definition() -> None:
    positions = _cloud(3)
    f = features(positions, FRAME, "spherical")
    a, b = positions[3] - positions[1], positions[0] - positions[1]
    assert f[0] == pytest.approx(np.linalg.norm(a), rel=1e-14)
    assert f[1] == pytest.approx(np.linalg.norm(b), rel=1e-14)
    assert np.cos(f[2]) == pytest.approx(a @ b / f[0] / f[1], rel=1e-13)
    e1 = a / f[0]
    e2 = (b - (e1 @ b) * e1) / np.linalg.norm(b - (e1 @ b) * e1)
    for k, other in enumerate((2, 4)):
        d = positions[other] - positions[1]
        radius, theta, phi = f[3 + 3 * k : 6 + 3 * k]
        assert radius == pytest.approx(np.linalg.norm(d), rel=1e-14)
        assert np.cos(theta) == pytest.approx(d @ np.cross(e1, e2) / radius, rel=1e-12)
        assert phi == pytest.approx(np.arctan2(d @ e2, d @ e1), rel=1e-12)
        assert 0.0 <= theta <= np.pi


def test_unit_vector_features_hold_the_same_information() -> None:
    positions = np.array([_cloud(k) for k in range(5)])
    spherical, unit = features(positions, FRAME, "spherical"), features(positions, FRAME, "unit-vector")
    for kind, other, distances in (
        ("spherical-inverse-r", spherical, [0, 1, *range(3, spherical.shape[-1], 3)]),
        ("unit-vector-r", unit, [0, 1, *range(3, unit.shape[-1], 4)]),
    ):
        expected = other.copy()
        expected[..., distances] = 1.0 / expected[..., distances]
        np.testing.assert_allclose(features(positions, FRAME, cast(FeatureKind, kind)), expected, rtol=1e-14)
    np.testing.assert_allclose(unit[:, :2], 1.0 / spherical[:, :2], rtol=1e-14)
    np.testing.assert_allclose(unit[:, 2], np.cos(spherical[:, 2]), atol=1e-14)
    for k in range(2):
        radius, theta, phi = spherical[:, 3 + 3 * k : 6 + 3 * k].T
        u = [1 / radius, np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)]
        np.testing.assert_allclose(unit[:, 3 + 4 * k : 7 + 4 * k], np.array(u).T, atol=1e-14)


def test_numbers_of_features_and_their_azimuths() -> None:
    assert [FeatureSet("spherical", n).n_features for n in (3, 4, 9)] == [3, 6, 21]
    assert [FeatureSet("unit-vector", n).n_features for n in (3, 4, 9)] == [3, 7, 27]
    np.testing.assert_array_equal(FeatureSet("spherical", 6).azimuths, [5, 8, 11])
    assert len(FeatureSet("unit-vector", 6).azimuths) == 0
    assert len(FeatureSet("spherical", 3).azimuths) == 0
    with pytest.raises(InputError, match="spherical, spherical-inverse-r, unit-vector, unit-vector-r"):
        features(_cloud(0), FRAME, "cartesian")  # type: ignore[arg-type]


def test_water_by_hand() -> None:
    # r = 2 bohr, 90 degrees
    positions = np.array([[1.0, 1.0, 1.0], [3.0, 1.0, 1.0], [1.0, 1.0, 3.0]])
    np.testing.assert_allclose(features(positions, LocalFrame(0, 1, 2), "spherical"), [2.0, 2.0, np.pi / 2], atol=1e-15)
    np.testing.assert_allclose(features(positions, LocalFrame(0, 1, 2), "unit-vector"), [0.5, 0.5, 0.0], atol=1e-15)
    np.testing.assert_allclose(
        features(positions, LocalFrame(1, 0, 2), "spherical"), [2.0, np.sqrt(8.0), np.pi / 4], rtol=1e-15
    )


# Invariances.


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_feel_rotation_and_translation_but_reflection(kind: FeatureKind) -> None:
    positions = sample(5)
    turned = positions @ Rotation.random(random_state=4).as_matrix().T + np.array([3.0, -50.0, 7.0])
    mirrored = positions * np.array([1.0, -1.0, 1.0])
    for frame in cip_local_frames(methanol()):
        f = features(positions, frame, kind)
        np.testing.assert_allclose(features(turned, frame, kind), f, atol=1e-11)
        reflected = features(mirrored, frame, kind)
        if kind.startswith("spherical"):
            reflected[:, 4::3] = np.pi - reflected[:, 4::3]  # theta
        else:
            reflected[:, 6::4] *= -1.0  # z component
        np.testing.assert_allclose(reflected, f, atol=1e-12)
        assert np.abs(features(mirrored, frame, kind) - f).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_has_no_net_translation_and_no_net_rotation(kind: FeatureKind) -> None:
    positions = np.array([_cloud(k) for k in range(4)])
    jacobian = feature_jacobian(positions, FRAME, kind)
    assert jacobian.shape == (4, FeatureSet(kind, 5).n_features, 5, 3)
    np.testing.assert_allclose(jacobian.sum(-2), 0.0, atol=1e-13)
    torque = np.cross(positions[:, None], jacobian).sum(-2)
    np.testing.assert_allclose(torque, 0.0, atol=1e-12)


# Derivatives.


def _numerical_jacobian(positions: FloatArray, frame: LocalFrame, kind: FeatureKind, step: float) -> FloatArray:
    n = len(positions)
    shifts = step * np.eye(3 * n).reshape(3 * n, n, 3)
    f = [features(positions + k * shifts, frame, kind) for k in (-2, -1, 1, 2)]
    if kind.startswith("spherical"):  # phi may pass from pi to -pi within the step
        phi = FeatureSet(kind, n).azimuths
        for part in f:
            part[:, phi] += 2 * np.pi * np.round((f[0][:, phi] - part[:, phi]) / (2 * np.pi))
    slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)
    return np.asarray(slope.T.reshape(-1, n, 3))


def _compare(positions: FloatArray, frame: LocalFrame, kind: FeatureKind, step: float, tolerance: float) -> None:
    """Analytic against numerical derivatives, relative to the largest of each feature (they may grow with 1/rho)."""
    exact, numerical = feature_jacobian(positions, frame, kind), _numerical_jacobian(positions, frame, kind, step)
    scale = np.maximum(np.abs(exact).max(axis=(1, 2), keepdims=True), 0.1)
    np.testing.assert_allclose(exact / scale, numerical / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_jacobian_against_central_differences(kind: FeatureKind) -> None:
    for seed in range(4):
        positions = _cloud(seed)
        for frame in (FRAME, LocalFrame(0, 1, 2), LocalFrame(4, 2, 3)):
            _compare(positions, frame, kind, step=3e-4, tolerance=2e-9)


def _with_local_position(local: tuple[float, float, float]) -> tuple[FloatArray, LocalFrame]:
    """A turned cloud in which atom 4 stands at ``local`` in the frame of atom 0."""
    frame = LocalFrame(0, 1, 2)
    positions = _cloud(7)
    positions[4] = positions[0] + np.array(local) @ local_axes(positions, frame)
    return positions, frame


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("local", "step"),
    [
        ((1e-3, 0.5e-3, 2.0), 3e-6),  # near the pole of theta and phi
        ((-1e-3, 1e-3, -2.0), 3e-6),  # near the other
        ((-2.0, 1e-7, 0.3), 3e-4),  # at the cut of phi
        ((0.0, 2.0, 0.3), 3e-4),  # phi = pi/2, where a quotient y/x has no value
        ((0.0, -2.0, 0.0), 3e-4),  # in the plane, phi = -pi/2
    ],
)
def test_jacobian_near_poles_and_at_the_cut(kind: FeatureKind, local: tuple[float, float, float], step: float) -> None:
    positions, frame = _with_local_position(local)
    _compare(positions, frame, kind, step, tolerance=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sine", [1e-2, 1e-3])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_jacobian_of_a_nearly_linear_frame(kind: FeatureKind, sine: float, side: float) -> None:
    positions, frame = _cloud(7), LocalFrame(0, 1, 2)
    e1, e2, _ = local_axes(positions, frame)
    positions[2] = positions[0] + 2.0 * (side * np.sqrt(1 - sine**2) * e1 + sine * e2)
    _compare(positions, frame, kind, step=1e-3 * sine, tolerance=1e-6)
    if kind.startswith("spherical"):
        assert np.abs(feature_jacobian(positions, frame, kind)[2]).max() < 10.0  # chi itself is smooth: no 1/sin(chi)


def test_at_a_pole_the_undefined_derivatives_are_zero() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    jacobian = feature_jacobian(positions, LocalFrame(0, 1, 2), "spherical")
    assert np.isfinite(jacobian).all()
    np.testing.assert_array_equal(jacobian[5], 0.0)  # phi
    np.testing.assert_array_equal(jacobian[3, 3], [0.0, 0.0, 1.0])  # R
    smooth = feature_jacobian(positions, LocalFrame(0, 1, 2), "unit-vector")
    np.testing.assert_allclose(
        smooth, _numerical_jacobian(positions, LocalFrame(0, 1, 2), "unit-vector", 1e-3), atol=1e-9
    )


# Public figures of other programs.


def test_published_features_of_a_water_dimer(reference_dir: Path) -> None:
    data = json.loads((reference_dir / "alf_features" / "alf_features.json").read_text())
    positions = np.array(data["xyz_angstrom"]) / ANGSTROM
    for indices, published in zip(data["alf0"], data["features"], strict=True):
        ours = features(positions, LocalFrame(*indices), "spherical")
        np.testing.assert_allclose(ours, published, rtol=1e-7, atol=5e-9)  # eight decimals are given


def test_published_features_of_water(reference_dir: Path) -> None:
    # Coordinates are given to 1e-8 angstrom, so each is off by up to 5e-9 and a distance by up to
    # 2 sqrt(3) 5e-9 angstrom = 3.3e-8 bohr; an angle between bonds of at least 0.85 angstrom by 4e-8.
    tolerance = 4e-8
    data = np.load(reference_dir / "water_frames.npz")
    place = {frame: k for k, frame in enumerate(data["frame_ids"])}
    frames = {"O1": LocalFrame(0, 1, 2), "H2": LocalFrame(1, 0, 2), "H3": LocalFrame(2, 0, 1)}
    # FEREBUS 7 rows were made with 1 angstrom = 1.88971616463 bohr; the others agree with CODATA 2018 (DL_FFLUX's
    # constant differs from it by 4e-10, far below what the coordinates resolve).
    sets = [(f"ferebus7_{atom}", atom, 1.88971616463) for atom in frames]
    sets += [(f"dlfflux_{atom}", atom, 1.0 / ANGSTROM) for atom in frames]
    sets += [("paper_train", "O1", 1.0 / ANGSTROM)]
    for name, atom, bohr in sets:
        chosen = [place[frame] for frame in data[f"{name}_frame"]]
        ours = features(data["frames_angstrom"][chosen] * bohr, frames[atom], "spherical")
        np.testing.assert_allclose(ours, data[f"{name}_features"], rtol=0, atol=tolerance, err_msg=name)


def test_cip_rule_gives_the_published_frames_of_water(reference_dir: Path) -> None:
    positions = np.load(reference_dir / "water_frames.npz")["frames_angstrom"][0] / ANGSTROM
    assert _indices(Molecule(("O", "H", "H"), positions)) == [(0, 1, 2), (1, 0, 2), (2, 0, 1)]


@pytest.mark.parametrize("kind", ["unit-vector", "unit-vector-r"])
@pytest.mark.parametrize("frame", [LocalFrame(0, 1, 2), LocalFrame(1, 0, 2)])
def test_three_atoms_may_stand_on_a_line(kind: FeatureKind, frame: LocalFrame) -> None:
    """As those of CO2 do: their one angle stands as its cosine, which is smooth there; chi itself has a kink."""
    turned = Rotation.random(random_state=1).as_matrix()
    positions = np.array([[0.0, 0.0, 0.0], [2.2, 0.0, 0.0], [-2.1, 0.0, 0.0]]) @ turned
    jacobian, step = feature_jacobian(positions, frame, kind), 1e-5
    for atom in range(3):
        for c in range(3):
            moved = [positions.copy() for _ in range(2)]
            moved[0][atom, c] += step
            moved[1][atom, c] -= step
            slope = (features(moved[0], frame, kind) - features(moved[1], frame, kind)) / (2.0 * step)
            assert np.abs(jacobian[:, atom, c] - slope).max() < 1e-8
    with pytest.raises(GeometryError, match="linear frame"):
        features(positions, frame, "spherical")


def test_a_linear_group_has_frames_and_a_linear_molecule_of_four_atoms_has_none() -> None:
    """Along C-C-N of acetonitrile Y is a hydrogen; acetylene has no plane at all."""
    hydrogens = [[1.03, 0.0, -0.36], [-0.51, 0.89, -0.36], [-0.51, -0.89, -0.36]]
    nitrile = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.46], [0.0, 0.0, 2.62], *hydrogens])
    frames = cip_local_frames(Molecule(tuple("CCNHHH"), nitrile / ANGSTROM))
    assert frames[2].x_axis == 1
    assert frames[2].xy_plane in (3, 4, 5)
    assert frames[1].xy_plane in (3, 4, 5)
    acetylene = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2], [0.0, 0.0, -1.06], [0.0, 0.0, 2.26]])
    with pytest.raises(GeometryError, match="linear molecule of more than three atoms"):
        cip_local_frames(Molecule(tuple("CCHH"), acetylene / ANGSTROM))


def test_the_end_of_a_bent_chain_has_a_frame() -> None:
    """N-N-N-H: both others stand within twelve degrees of the line through the last nitrogen and its neighbour."""
    chain = [[-0.6646, 0.3435, -0.0338], [0.4587, 0.0252, 0.1784], [1.5400, -0.0787, 0.4499], [-1.3341, -0.29, -0.4333]]
    azide = Molecule(tuple("NNNH"), np.array(chain) / ANGSTROM)
    frames = cip_local_frames(azide)
    assert frames[2] == LocalFrame(2, 0, 3)
    a, b = azide.positions[[0, 3]] - azide.positions[2]
    sine = np.linalg.norm(np.cross(a, b)) / np.linalg.norm(a) / np.linalg.norm(b)
    assert sine == pytest.approx(0.265, abs=1e-3)
    assert [frame.x_axis for frame in frames[:2]] == [1, 0]
