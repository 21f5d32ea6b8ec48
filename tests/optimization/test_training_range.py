"""What distances a model has learnt, and starts that are brought there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fflux_py.analysis.geometry import rmsd
from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.forcefield import ForceField
from fflux_py.gp.distance_ranges import distances
from fflux_py.gp.features import FEATURE_KINDS
from fflux_py.molecules.extended_xyz import read_molecule, write_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import find_symmetry
from fflux_py.optimization.search import optimize
from fflux_py.optimization.training_range import (  # fmt: skip
    distance_ranges,
    largest_violation,
    move_into_ranges,
    move_into_training_range,
)
from fflux_py.training import TrainingConfig, train
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM
from tests.support.cli_support import Files, fflux
from tests.support.synthetic import MethanolPotential, fit, fitted, label, methanol, sample

CARBON, OXYGEN, HYDROXYL = 0, 1, 5


@pytest.fixture(scope="module")
def joint() -> ForceField:
    return train(label(sample(8)), TrainingConfig(n_train=8, max_iterations=2, subset=6))


def crushed(factor: float) -> Molecule:
    """Methanol whose O-H bond has ``factor`` times its length."""
    molecule = methanol()
    positions = np.array(molecule.positions)
    positions[HYDROXYL] = positions[OXYGEN] + factor * (positions[HYDROXYL] - positions[OXYGEN])
    return molecule.with_positions(positions)


@pytest.mark.parametrize("kind", FEATURE_KINDS)
def test_ranges_from_features_are_those_of_the_training_geometries(kind: str) -> None:
    positions = sample(12)
    shortest, longest = distance_ranges(fit(label(positions), kind))
    found = distances(positions)
    np.testing.assert_allclose(shortest, found.min(axis=0), atol=1e-10)
    np.testing.assert_allclose(longest, found.max(axis=0), atol=1e-10)


def test_ranges_of_a_joint_fit_know_its_symmetry(joint: ForceField) -> None:
    """They are those of the training geometries under every operation of the group: the slow way."""
    shortest, longest = distance_ranges(joint)
    symmetry = find_symmetry(methanol())
    assert symmetry.order == 6
    images = [symmetry.apply(joint.joint.positions, *operation) for operation in symmetry.all_operations()]
    found = distances(np.concatenate(images))
    np.testing.assert_allclose(shortest, found.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(longest, found.max(axis=0), atol=1e-12)
    own = distances(joint.joint.positions)
    assert (longest > own.max(axis=0) + 1e-3).any()


def test_ranges_of_a_joint_fit_without_symmetry() -> None:
    plain = train(label(sample(6)), TrainingConfig(n_train=6, max_iterations=1, subset=5, symmetry="none"))
    found = distances(plain.joint.positions)
    shortest, longest = distance_ranges(plain)
    np.testing.assert_array_equal(shortest, found.min(axis=0))
    np.testing.assert_array_equal(longest, found.max(axis=0))


def test_training_geometries_and_their_images_stay_as_they_are(joint: ForceField) -> None:
    ranges = distance_ranges(joint)
    turned = joint.joint.positions[3][find_symmetry(methanol()).generators()[-1]]
    for positions in (joint.joint.positions[2], turned):
        assert move_into_ranges(positions, *ranges) is positions
    start = methanol().with_positions(turned)
    assert move_into_training_range(joint, start) is start


def test_a_crushed_bond_is_brought_back_and_little_else_moves() -> None:
    ranges = distance_ranges(fitted())
    start = crushed(0.4)
    i, j, beyond = largest_violation(start.positions, *ranges)
    assert (i, j) == (OXYGEN, HYDROXYL)
    assert beyond == pytest.approx(distances(start.positions)[OXYGEN, HYDROXYL] - ranges[0][OXYGEN, HYDROXYL])
    moved = move_into_ranges(start.positions, *ranges)
    assert abs(largest_violation(moved, *ranges)[2]) < 1e-4
    np.testing.assert_allclose(moved.mean(axis=0), start.positions.mean(axis=0), atol=1e-10)
    shifts = np.linalg.norm(moved - start.positions, axis=1)
    assert set(np.argsort(shifts)[-2:]) == {OXYGEN, HYDROXYL}
    assert shifts.max() < -1.1 * beyond


def test_the_way_back_does_not_depend_on_where_the_molecule_is() -> None:
    ranges = distance_ranges(fitted())
    start = crushed(0.4).positions
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    there = move_into_ranges(start @ rotation + 3.0, *ranges)
    np.testing.assert_allclose(distances(there), distances(move_into_ranges(start, *ranges)), atol=1e-5)


def test_no_geometry_with_smaller_excess_is_near(joint: ForceField) -> None:
    """Ranges that cannot be met together: at the end the sum of squares has no slope, by differences."""
    shortest, longest = (np.array(limit) for limit in distance_ranges(joint))
    shortest[CARBON, OXYGEN] = longest[CARBON, OXYGEN] = shortest[OXYGEN, CARBON] = longest[OXYGEN, CARBON] = 20.0
    moved = move_into_ranges(methanol().positions, shortest, longest)

    def excess(positions: FloatArray) -> float:
        found = distances(positions)
        return float(((found - np.clip(found, shortest, longest)) ** 2).sum() / 2.0)

    step, flat = 1e-4, np.eye(18).reshape(18, 6, 3)
    slopes = [(excess(moved + step * e) - excess(moved - step * e)) / (2.0 * step) for e in flat]
    assert excess(moved) > 1.0
    assert np.abs(slopes).max() < 1e-3


def test_a_search_that_ends_elsewhere_finds_the_minimum_from_inside() -> None:
    """From this start a search turns the methyl group inside out: its hydrogens go round the other way."""
    forcefield, exact = fitted(), optimize(MethanolPotential(), methanol(), 1e-6).molecule
    noise = np.random.default_rng(9).normal(size=(6, 3))
    start = methanol().with_positions(methanol().positions + 0.6 * noise)
    assert rmsd(optimize(forcefield, start).molecule.positions, exact.positions) > 0.5
    found = optimize(forcefield, move_into_training_range(forcefield, start))
    assert found.converged
    assert rmsd(found.molecule.positions, exact.positions) * ANGSTROM < 0.03


def test_refused() -> None:
    shortest, longest = distance_ranges(fitted())
    with pytest.raises(InputError, match="nowhere above longest, found 1 pairs"):
        move_into_ranges(methanol().positions, shortest + np.diag([1.0] + 5 * [0.0]), longest)
    with pytest.raises(InputError, match=r"expected shape \(6, 6\)"):
        move_into_ranges(methanol().positions, shortest[:3], longest)
    swapped = Molecule(("O", "C", "H", "H", "H", "H"), methanol().positions)
    with pytest.raises(ModelMismatchError, match="atom 1: expected C"):
        move_into_training_range(fitted(), swapped)


def test_command_says_that_it_moved_the_start(tmp_path: Path) -> None:
    files = Files.make(tmp_path)
    write_molecule(tmp_path / "crushed.xyz", crushed(0.4))
    answer = fflux("optimize", files.model, tmp_path / "crushed.xyz", "-o", tmp_path / "minimum.xyz")
    assert answer.code == 0, answer.err
    words = " ".join(answer.out.split())
    assert "The start lies outside of what the model has learnt (O2-H6 at 0.38 Å, in the training data" in words
    exact = optimize(MethanolPotential(), methanol(), 1e-6).molecule
    assert rmsd(read_molecule(tmp_path / "minimum.xyz").positions, exact.positions) * ANGSTROM < 0.03
    arguments = ["optimize", files.model, tmp_path / "crushed.xyz", "-o", tmp_path / "other.xyz", "--json"]
    assert fflux(*arguments).json["start_moved_angstrom"] > 0.1
    inside = fflux("optimize", files.model, files.start, "-o", tmp_path / "third.xyz", "--json")
    assert inside.json["start_moved_angstrom"] == 0.0
    as_it_is = fflux(*arguments[:-1], "--as-it-is", "--json")
    assert as_it_is.json["start_moved_angstrom"] == 0.0
