"""Distorted geometries: one coordinate changes and nothing else, the ceiling holds, the extremes are there."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fflux_py.bias import CollectiveVariable
from fflux_py.errors import ConvergenceError, InputError
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule, find_bonds
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.sampling.distortions import (
    Change,
    DistortionConfig,
    MarkedGeometry,
    angles_of,
    distort,
    extra_frames,
)
from fflux_py.sampling.plan import SamplingConfig, TrajectoryClass
from fflux_py.sampling.sampler import sample
from fflux_py.sampling.selection import extend_farthest, farthest_points
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, FEMTOSECOND, KCAL_MOL
from tests.support.sampling_models import Springs, hydrogen_peroxide
from tests.support.synthetic import malondialdehyde, methanol

FS = 1.0 / FEMTOSECOND
CONFIG = DistortionConfig(60, 12, train_conformers=2, test_conformers=2, pairs=60, ceiling=300.0 / KCAL_MOL)


def make(molecule: Molecule) -> PotentialEnergy:
    """Springs soft enough that every distortion lies under the ceiling."""
    return Springs(molecule, barrier=8e-3, tilt=4e-3, stiffness=0.05)


@cache
def frames() -> list[MarkedGeometry]:
    molecule = malondialdehyde()
    return extra_frames(molecule, make, molecule.torsions(), CONFIG, True, 5)


def length(x: FloatArray, bond: tuple[int, ...]) -> float:
    return CollectiveVariable("distance", bond).value_and_gradient(x)[0]


def angle(x: FloatArray, atoms: tuple[int, ...]) -> float:
    return CollectiveVariable("angle", atoms).value_and_gradient(x)[0]


def crotonaldehyde_ring() -> Molecule:
    """A planar square of carbons, each with one hydrogen outwards."""
    corners = np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]])
    ring = np.concatenate([0.775 * corners, 1.54 * corners]) / ANGSTROM
    return Molecule(("C",) * 4 + ("H",) * 4, ring)


@pytest.mark.parametrize("factor", [0.68, 0.9, 1.3, 1.6])
def test_a_bond_is_stretched_and_nothing_else(factor: float) -> None:
    molecule = malondialdehyde()
    x = molecule.positions
    for bond in molecule.bonds:
        for atoms in (bond, bond[::-1]):
            moved = distort(molecule, [Change(atoms, factor)])
            assert length(moved, bond) == pytest.approx(factor * length(x, bond), rel=1e-12)
            for other in molecule.bonds:
                if other != bond:
                    assert length(moved, other) == pytest.approx(length(x, other), rel=1e-12)
            for each in angles_of(molecule):
                assert angle(moved, each) == pytest.approx(angle(x, each), abs=1e-9)
            for each in molecule.torsions():
                before = CollectiveVariable("torsion", each).value_and_gradient(x)[0]
                after = CollectiveVariable("torsion", each).value_and_gradient(moved)[0]
                assert np.cos(after - before) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("factor", [0.7, 0.95, 1.3])
def test_an_angle_is_opened_and_all_bonds_stay(factor: float) -> None:
    molecule = malondialdehyde()
    x = molecule.positions
    assert len(angles_of(molecule)) == 3 + 6 + 3
    for atoms in angles_of(molecule):
        moved = distort(molecule, [Change(atoms, factor)])
        assert angle(moved, atoms) == pytest.approx(factor * angle(x, atoms), rel=1e-10)
        for bond in molecule.bonds:
            assert length(moved, bond) == pytest.approx(length(x, bond), rel=1e-12)
        # Angles at other atoms do not feel it.
        for other in angles_of(molecule):
            if other[1] != atoms[1]:
                assert angle(moved, other) == pytest.approx(angle(x, other), abs=1e-9)


def test_a_linear_angle_bends_to_any_side() -> None:
    hcn = Molecule(("H", "C", "N"), np.array([[0.0, 0.0, -2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.2]]))
    moved = distort(hcn, [Change((0, 1, 2), 0.8)])
    assert angle(moved, (0, 1, 2)) == pytest.approx(0.8 * np.pi)
    assert length(moved, (1, 2)) == pytest.approx(2.2)


def test_in_a_ring_one_atom_moves_with_its_hydrogen() -> None:
    molecule = crotonaldehyde_ring()
    moved = distort(molecule, [Change((0, 1), 1.2)])
    assert length(moved, (0, 1)) == pytest.approx(1.2 * length(molecule.positions, (0, 1)))
    shifted = np.linalg.norm(moved - molecule.positions, axis=1) > 1e-9
    assert shifted.tolist() == [False, True, False, False, False, True, False, False]


def test_changes_follow_one_another() -> None:
    molecule = methanol()
    x = molecule.positions
    moved = distort(molecule, [Change((0, 1), 1.3), Change((0, 1, 5), 0.8)])
    assert length(moved, (0, 1)) == pytest.approx(1.3 * length(x, (0, 1)))
    assert angle(moved, (0, 1, 5)) == pytest.approx(0.8 * angle(x, (0, 1, 5)))


def test_every_bond_and_angle_is_there_stretched_and_compressed() -> None:
    """The extremes of the range stand among the training frames, marked with what they are."""
    molecule = malondialdehyde()
    sources = [f.source for f in frames() if f.split == "train"]
    for i, j in molecule.bonds:
        names = [f"{molecule.symbols[a]}{a + 1}-{molecule.symbols[b]}{b + 1}" for a, b in ((i, j), (j, i))]
        factors = {float(s.split("-")[4]) for s in sources if any(f"-bond-{n}-" in s for n in names)}
        assert {0.68, 1.6} <= factors
    widest = Counter(re.sub(r"-[\d.]+-c\d+$", "", s) for s in sources if "-angle-" in s)
    assert len(widest) == len(angles_of(molecule))
    assert min(widest.values()) >= 2


def test_marks_say_what_the_geometry_is() -> None:
    relaxed = {f.source.rpartition("-")[2]: f.positions for f in frames() if f.source.startswith("minimum")}
    checked = 0
    for frame in frames():
        match = re.fullmatch(r"distorted-(?:bond|angle)-((?:[A-Z][a-z]?\d+-)+)([\d.]+)-(c\d+)", frame.source)
        if match is None or match[3] not in relaxed:
            continue
        atoms = tuple(int(re.sub(r"\D", "", name)) - 1 for name in match[1].rstrip("-").split("-"))
        measure = length if len(atoms) == 2 else angle
        ratio = measure(frame.positions, atoms) / measure(relaxed[match[3]], atoms)
        assert ratio == pytest.approx(float(match[2]), abs=0.006)
        checked += 1
    assert checked > 20


def test_displaced_geometries_are_moved_all_over_and_keep_their_bonds() -> None:
    molecule = malondialdehyde()
    config = DistortionConfig(0, displaced_frames=40, train_conformers=3)
    found = extra_frames(molecule, make, molecule.torsions(), config, True, 5)
    conformers = {f.source.rpartition("-")[2]: f.positions for f in found if f.source.startswith("minimum")}
    moved = [f for f in found if f.source.startswith("displaced")]
    assert len(moved) == 40
    assert Counter(f.source.rpartition("-")[2] for f in moved) == {"c1": 14, "c2": 13, "c3": 13}
    shares = []
    for frame in moved:
        _, most, name = frame.source.split("-")
        assert frame.split == "train"
        if name in conformers:  # each minimum comes once
            change = (frame.positions - conformers[name]) * ANGSTROM
            assert np.abs(change).max() <= float(most) + 0.005
            assert (np.abs(change).max(axis=0) > 0.5 * float(most)).all()
        shares.append(float(most))
        assert set(find_bonds(molecule.symbols, frame.positions)) <= set(molecule.bonds)
    assert 0.07 <= min(shares) < 0.12
    assert 0.2 < max(shares) <= 0.25
    assert config.settings() == {"sampling_displaced": "40 frames, coordinates by up to 0.25 angstrom"}
    again = extra_frames(molecule, make, molecule.torsions(), config, True, 5)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(found, again, strict=True))


def test_conformers_of_the_splits_are_apart() -> None:
    of = {split: {f.source.rpartition("-")[2] for f in frames() if f.split == split} for split in ("train", "test")}
    assert of["train"] == {"c1", "c2"}
    assert of["test"] <= {"c3", "c4"}
    counts = Counter((f.split, f.source.startswith("minimum")) for f in frames())
    assert counts["train", False] == 60
    assert counts["test", False] == 12


def test_the_ceiling_holds_and_leaves_out_what_is_above() -> None:
    molecule = malondialdehyde()
    stiff = Springs(molecule, stiffness=0.3)
    config = replace(CONFIG, ceiling=40.0 / KCAL_MOL)
    found = extra_frames(molecule, lambda m: Springs(m, stiffness=0.3), molecule.torsions(), config, False, 5)
    energies = np.array([stiff.energy_and_forces(f.positions)[0] for f in found]) * KCAL_MOL
    assert len(found) == 72
    assert energies.max() < 40.0 + 1e-3
    assert energies.max() > 30.0
    high = extra_frames(molecule, lambda m: Springs(m, stiffness=0.3), molecule.torsions(), CONFIG, False, 5)
    assert max(stiff.energy_and_forces(f.positions)[0] for f in high) * KCAL_MOL > 100.0


def test_too_low_a_ceiling_is_an_error() -> None:
    molecule = malondialdehyde()
    config = replace(CONFIG, ceiling=1e-6)
    with pytest.raises(InputError, match=r"distortions for training: expected at most \d+ frames .*raise the ceiling"):
        extra_frames(molecule, make, molecule.torsions(), config, False, 5)


class GivesUp(Springs):
    """Does not converge where the first carbon-carbon bond is longer than 1.2 times its length."""

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        start = malondialdehyde().positions
        if length(positions, (1, 2)) > 1.2 * length(start, (1, 2)):
            raise ConvergenceError("SCF", "convergence", "none")
        return super().energy_and_forces(positions)


def test_what_does_not_converge_is_left_out() -> None:
    molecule = malondialdehyde()
    found = extra_frames(molecule, lambda m: GivesUp(m, 8e-3, 0.0, 0.05), molecule.torsions(), CONFIG, False, 5)
    assert len(found) == 72
    assert max(length(f.positions, (1, 2)) for f in found) <= 1.2 * length(molecule.positions, (1, 2))


def test_seed_decides() -> None:
    molecule = malondialdehyde()
    again = extra_frames(molecule, make, molecule.torsions(), CONFIG, True, 5)
    other = extra_frames(molecule, make, molecule.torsions(), CONFIG, True, 6)
    assert [f.source for f in again] == [f.source for f in frames()]
    np.testing.assert_array_equal([f.positions for f in again], [f.positions for f in frames()])
    assert [f.source for f in other] != [f.source for f in frames()]


def test_each_minimum_comes_once() -> None:
    """The model has planar minima at 0 and 180 degrees only, however many conformers are relaxed."""
    molecule = hydrogen_peroxide()
    config = DistortionConfig(0, train_conformers=12)
    found = extra_frames(molecule, lambda m: Springs(m, barrier=5e-3), molecule.torsions(), config, True, 1)
    assert all(f.source.startswith("minimum-c") and f.split == "train" for f in found)
    angles = [CollectiveVariable("torsion", (0, 1, 2, 3)).value_and_gradient(f.positions)[0] for f in found]
    assert sorted(round(abs(a) / np.pi, 1) for a in angles) == [0.0, 1.0]
    potential = Springs(molecule, barrier=5e-3)
    assert max(np.abs(potential.energy_and_forces(f.positions)[1]).max() for f in found) <= 1e-4


def small_plan() -> SamplingConfig:
    kind = TrajectoryClass(300.0, "none", 1, 200 * FS, 10, 1, 300 * FS, 3)
    return SamplingConfig((kind,), seed=3, equilibration=20 * FS, distortions=replace(CONFIG, pairs=40), minima=True)


def test_sample_adds_them_with_marks_in_proportion() -> None:
    calls: list[tuple[int, int]] = []
    plan = small_plan()
    sampled = sample(malondialdehyde(), plan, potential=make, progress=lambda a, b: calls.append((a, b)))
    kinds = Counter((s.partition("-")[0], split) for s, split in zip(sampled.source, sampled.split, strict=True))
    n_minima = kinds["minimum", "train"] + kinds["minimum", "test"]
    assert n_minima >= 1
    assert (kinds["distorted", "train"], kinds["distorted", "test"]) == (60, 12)
    assert (kinds["nvt", "train"], kinds["nvt", "test"]) == (10, 3)
    for source, temperature in zip(sampled.source, sampled.temperature, strict=True):
        assert np.isnan(temperature) == (not source.startswith("nvt"))
    assert "train 2 conformers 60 frames, test 2 conformers 12 frames" in str(sampled.metadata["sampling_distortions"])
    assert [a for a, _ in calls] == sorted(a for a, _ in calls)
    assert calls[-1][0] == calls[-1][1]
    # A first half of the set holds half of the distortions.
    half = sum(s.startswith("distorted") for s in sampled.source[: len(sampled) // 2])
    assert abs(half - 36) <= 3
    # The trajectories are what they are without them.
    plain = sample(malondialdehyde(), replace(plan, distortions=None, minima=False), potential=make)
    runs = {x.tobytes() for x, s in zip(sampled.positions, sampled.source, strict=True) if s.startswith("nvt")}
    assert runs == {x.tobytes() for x in plain.positions}


def test_file_round_trip_of_marked_frames(tmp_path: pytest.TempPathFactory) -> None:
    sampled = sample(malondialdehyde(), small_plan(), potential=make)
    path = f"{tmp_path}/geometries.extxyz"
    sampled.write(path)
    again = GeometrySet.read(path)
    assert again.source == sampled.source
    np.testing.assert_array_equal(np.isnan(again.temperature), np.isnan(sampled.temperature))


def test_extended_selection_keeps_its_beginning() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(50, 3))
    assert extend_farthest(features, 10, [7]).tolist() == farthest_points(features, 10, 7).tolist()
    chosen = extend_farthest(features, 10, [3, 11, 30])
    assert chosen[:3].tolist() == [3, 11, 30]
    assert len(set(chosen.tolist())) == 10
    gaps = np.linalg.norm(features[:, None] - features[chosen[:3]], axis=-1).min(axis=1)
    assert chosen[3] == gaps.argmax()
    for begin in ([], [1, 1], list(range(11))):
        with pytest.raises(InputError, match="begin"):
            extend_farthest(features, 10, begin)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_frames": -1}, "train_frames"),
        ({"test_conformers": 0}, "test_conformers: expected at least 1"),
        ({"bond_factors": (0.1, 1.6)}, "bond_factors"),
        ({"angle_factors": (1.1, 1.6)}, "angle_factors"),
        ({"values": 1}, "values"),
        ({"ceiling": 0.0}, "ceiling"),
    ],
)
def test_wrong_distortions_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_bonds_of_malondialdehyde_pull_back_in_gfn2() -> None:
    """What the distortions are for: far out, the force along every bond points back, all under the ceiling."""
    pytest.importorskip("tblite", reason="tblite is not installed")
    from fflux_py.sampling.gfn2 import GFN2
    from fflux_py.sampling.starts import relax

    molecule = malondialdehyde()
    potential = GFN2(molecule)
    relaxed = relax(molecule, potential)
    for i, j in relaxed.bonds:
        for factor in (0.8, 1.6):
            x = distort(relaxed, [Change((i, j), factor)])
            energy, forces = potential.energy_and_forces(x)
            along = (x[j] - x[i]) / np.linalg.norm(x[j] - x[i])
            assert float((forces[j] - forces[i]) @ along) * (factor - 1.0) < -0.01
            assert (energy - potential.energy_and_forces(relaxed.positions)[0]) * KCAL_MOL < 160.0
