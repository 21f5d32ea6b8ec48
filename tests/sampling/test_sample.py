"""The whole sampling: plan, trajectories, choice of frames, marks, order, restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fflux_py.bias import BiasSettings, CollectiveVariable, HillParameters
from fflux_py.bias.collective_variables import torsion
from fflux_py.bias.grid import grid_around
from fflux_py.errors import ConvergenceError, InputError, SimulationStopped
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.sampling.plan import SamplingConfig, TrajectoryClass, standard_classes
from fflux_py.sampling.sampler import BiasedRun, _align, sample
from fflux_py.sampling.thermostatted import fault
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM, FEMTOSECOND
from tests.support.sampling_models import Springs, hydrogen_peroxide
from tests.support.synthetic import fitted, methanol

FS = 1.0 / FEMTOSECOND


def make(molecule: Molecule) -> PotentialEnergy:
    return Springs(molecule, barrier=8e-3, tilt=4e-3)


def small_plan(seed: int = 3) -> SamplingConfig:
    classes = (
        TrajectoryClass(300.0, "none", 2, 200 * FS, 12, 2, 300 * FS, 5),
        TrajectoryClass(900.0, "torsions", 1, 400 * FS, 10, 1, 300 * FS, 3),
    )
    return SamplingConfig(classes, seed=seed, equilibration=50 * FS)


@pytest.fixture(scope="module")
def sampled() -> GeometrySet:
    return sample(hydrogen_peroxide(), small_plan(), potential=make)


def test_counts_marks_and_splits(sampled: GeometrySet) -> None:
    counts = Counter(zip(sampled.split, sampled.source, sampled.temperature.tolist(), strict=True))
    per_class = Counter(
        (split, source.rsplit("-s", 1)[0]) for split, source in zip(sampled.split, sampled.source, strict=True)
    )
    assert per_class == {
        ("train", "nvt-300K"): 12, ("test", "nvt-300K"): 5, ("train", "wtmetad-900K"): 10, ("test", "wtmetad-900K"): 3,
    }  # fmt: skip
    assert counts["test", "nvt-300K-s3", 300.0] == 3
    assert counts["test", "nvt-300K-s4", 300.0] == 2
    assert counts["train", "wtmetad-900K-s5", 900.0] == 10
    assert counts["test", "wtmetad-900K-s6", 900.0] == 3
    assert {s for split, s, _ in counts if split == "train"}.isdisjoint(s for split, s, _ in counts if split == "test")


def test_frames_are_sound_distinct_and_in_place(sampled: GeometrySet) -> None:
    molecule = sampled.molecule
    assert all(fault(molecule, x) is None for x in sampled.positions)
    gaps = np.abs(sampled.positions[:, None] - sampled.positions[None]).max(axis=(2, 3))
    assert gaps[~np.eye(len(sampled), dtype=bool)].min() > 1e-4
    centres = np.einsum("a,mai->mi", molecule.masses, sampled.positions) / molecule.masses.sum()
    np.testing.assert_allclose(centres, np.broadcast_to(centres[0], centres.shape), atol=1e-10)


def test_file_round_trip(sampled: GeometrySet, tmp_path: Path) -> None:
    path = tmp_path / "geometries.extxyz"
    sampled.write(path)
    again = GeometrySet.read(path)
    np.testing.assert_allclose(again.positions, sampled.positions, rtol=1e-14)
    assert (again.source, again.split) == (sampled.source, sampled.split)
    assert dict(again.metadata) == dict(sampled.metadata)
    assert again.metadata["sampling"] == "springs"
    assert again.metadata["sampling_seed"] == 3
    assert again.metadata["sampling_restarts"] == 0


def test_seed_reproduces_bit_for_bit(sampled: GeometrySet) -> None:
    again = sample(hydrogen_peroxide(), small_plan(), potential=make)
    np.testing.assert_array_equal(again.positions, sampled.positions)
    assert (again.source, again.split) == (sampled.source, sampled.split)
    other = sample(hydrogen_peroxide(), small_plan(seed=4), potential=make)
    assert np.abs(other.positions - sampled.positions).max() > 0.01


def test_a_trajectory_does_not_depend_on_those_after_it(sampled: GeometrySet) -> None:
    plan = small_plan()
    alone = sample(hydrogen_peroxide(), replace(plan, classes=plan.classes[:1]), potential=make)
    tests = [sampled.positions[k] for k in range(len(sampled)) if sampled.source[k] == "nvt-300K-s3"]
    others = [alone.positions[k] for k in range(len(alone)) if alone.source[k] == "nvt-300K-s3"]
    key = lambda x: x.tobytes()  # noqa: E731
    assert sorted(map(key, tests)) == sorted(map(key, others))


def test_any_first_part_is_representative() -> None:
    classes = (
        TrajectoryClass(300.0, "none", 2, 400 * FS, 60, 1, 600 * FS, 6),
        TrajectoryClass(600.0, "none", 1, 400 * FS, 30, 2, 600 * FS, 12),
    )
    frames = sample(hydrogen_peroxide(), SamplingConfig(classes, equilibration=20 * FS), potential=make)
    groups = list(zip(frames.split, frames.temperature.tolist(), strict=True))
    whole = Counter(groups)
    assert sum(whole.values()) == 108
    for n in (18, 36, 54, 90):
        part = Counter(groups[:n])
        for group, count in whole.items():
            # Every trajectory of a split is placed on its own, so the parts of two may both be rounded up.
            assert abs(part[group] - count * n / 108) <= 2.0


def test_metadynamics_leaves_the_start_basin() -> None:
    """Barriers of 25 kT at 150 K: only the biased trajectory crosses them."""
    barrier = 25.0 * 3.1668e-6 * 150.0

    def steep(molecule: Molecule) -> PotentialEnergy:
        return Springs(molecule, barrier=barrier)

    spread = {}
    for bias in ("none", "torsions"):
        kind = TrajectoryClass(150.0, bias, 1, 3000 * FS, 200, 0, 0.0, 0)  # type: ignore[arg-type]
        frames = sample(hydrogen_peroxide(), SamplingConfig((kind,), equilibration=50 * FS), potential=steep)
        angles = np.array([torsion(x, (0, 1, 2, 3)) for x in frames.positions])
        spread[bias] = len(set((angles // (np.pi / 6)).astype(int)))
    assert spread["none"] <= 6
    assert spread["torsions"] == 12


def test_alignment_moves_rigidly() -> None:
    reference = hydrogen_peroxide()
    rng = np.random.default_rng(0)
    positions = np.array(reference.positions) @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) + 7.0
    np.testing.assert_allclose(_align(reference, positions), reference.positions, atol=1e-12)
    positions += rng.normal(scale=0.2, size=positions.shape)
    moved = _align(reference, positions)
    for i, j in np.ndindex(4, 4):
        before = np.linalg.norm(positions[i] - positions[j])
        assert np.linalg.norm(moved[i] - moved[j]) == pytest.approx(before, abs=1e-12)
    # A rotation, not a reflection: the torsion keeps its sign.
    assert torsion(moved, (0, 1, 2, 3)) == pytest.approx(torsion(positions, (0, 1, 2, 3)), abs=1e-12)
    mirrored = _align(reference, reference.positions * [1.0, 1.0, -1.0])
    assert torsion(mirrored, (0, 1, 2, 3)) == pytest.approx(-torsion(reference.positions, (0, 1, 2, 3)), abs=1e-12)


class Failing:
    """The springs, which after some calls tear the molecule apart or stop to converge."""

    def __init__(self, molecule: Molecule, calls: int, error: bool) -> None:
        self.springs, self.left, self.error = Springs(molecule), calls, error

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        self.left -= 1
        energy, forces = self.springs.energy_and_forces(positions)
        if self.left >= 0:
            return energy, forces
        if self.error:
            raise ConvergenceError("SCF", "convergence", "none after 250 cycles")
        return energy, forces + 0.2 * (positions - positions.mean(axis=0))


def failing(runs: set[int], error: bool = False) -> Callable[[Molecule], PotentialEnergy]:
    """A maker whose potentials number ``runs`` fail; the first one serves the relaxation of the start."""
    made = iter(range(10**6))

    def maker(molecule: Molecule) -> PotentialEnergy:
        return Failing(molecule, 200 if next(made) in runs else 10**9, error)

    return maker


@pytest.mark.parametrize(("error", "reason"), [(False, "broken"), (True, "none after 250 cycles")])
def test_a_reacting_trajectory_starts_again_and_is_reported(error: bool, reason: str) -> None:
    # Potential 2 is the second trajectory's first attempt.
    frames = sample(hydrogen_peroxide(), small_plan(), potential=failing({2}, error))
    assert len(frames) == 30
    assert frames.metadata["sampling_restarts"] == 1
    assert "nvt-300K-s2: " in str(frames.metadata["sampling_restarted"])
    assert reason in str(frames.metadata["sampling_restarted"])
    assert all(fault(frames.molecule, x) is None for x in frames.positions)
    # The attempt that was thrown away left nothing behind: the others are what they are without it.
    clean = sample(hydrogen_peroxide(), small_plan(), potential=failing(set()))
    kept = {x.tobytes() for x, s in zip(frames.positions, frames.source, strict=True) if s == "wtmetad-900K-s6"}
    assert kept == {x.tobytes() for x, s in zip(clean.positions, clean.source, strict=True) if s == "wtmetad-900K-s6"}


def test_a_molecule_that_always_reacts_is_an_error() -> None:
    plan = replace(small_plan(), max_restarts=2)
    with pytest.raises(SimulationStopped, match=r"trajectory nvt-300K-s1: expected one of 3 runs.*broken"):
        sample(hydrogen_peroxide(), plan, potential=failing(set(range(1, 100))))


def test_progress_counts_to_the_end() -> None:
    calls: list[tuple[int, int]] = []
    sample(hydrogen_peroxide(), small_plan(), potential=make, progress=lambda done, total: calls.append((done, total)))
    steps = (2 * 200 + 2 * 300 + 400 + 300) * 2
    assert {total for _, total in calls} == {steps}
    assert calls[-1][0] == steps
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_default_plan() -> None:
    config = SamplingConfig()
    counts = {c.label: (c.train_frames, c.test_frames) for c in config.classes}
    assert counts == {
        "nvt-300K": (100, 60), "nvt-500K": (100, 60), "nvt-1000K": (100, 60),
        "wtmetad-300K": (100, 20), "wtmetad-500K": (100, 20),
    }  # fmt: skip
    assert config.settings()["sampling_hills"] == "1 kcal/mol, 0.35 rad, bias factor 20, every 20 fs"


@pytest.mark.parametrize(("train", "test"), [(500, 220), (7, 3), (1, 0), (0, 5), (1234, 321)])
def test_plans_for_any_number_of_frames(train: int, test: int) -> None:
    config = SamplingConfig(standard_classes((300.0, 1000.0), (400.0,), train, test))
    assert sum(c.train_frames for c in config.classes) == train
    assert sum(c.test_frames for c in config.classes) == test


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected a positive number of kelvin, found -1.0"),
        ({"bias": "distance"}, "bias: expected 'none', 'torsions' or 'variables'"),
        ({"train_trajectories": 0}, "train frames"),
        ({"test_frames": 1}, "test frames"),
    ],
)
def test_wrong_classes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(small_plan().classes[0], **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "at least one class"),
        ({"classes": (small_plan().classes[0],) * 2}, "one class for each temperature"),
        ({"seed": -1}, "seed"),
        ({"timestep": 0.0}, "timestep"),
        ({"equilibration": 0.0}, "equilibration"),
        ({"max_restarts": -1}, "max_restarts"),
        ({"stride": 400}, "nvt-300K, train_frames: expected at most"),
        ({"test_spacing": 200 * FS}, "test frames at least 200 fs apart, found 100 fs"),
    ],
)
def test_wrong_plans_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(small_plan(), **change)  # type: ignore[arg-type]


def test_torsion_bias_without_torsion_is_refused() -> None:
    water = Molecule(("O", "H", "H"), np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) / ANGSTROM)
    with pytest.raises(InputError, match="a molecule with a torsion, found H2O without"):
        sample(water, small_plan(), potential=Springs)


def glycol() -> Molecule:
    """Ethylene glycol: three rotatable bonds, no methyl group."""
    positions = np.array(
        [[0.75, 0.05, 0.0], [-0.75, 0.0, 0.05], [1.25, -1.25, 0.3], [-1.25, 1.25, -0.4], [1.1, 0.4, -1.0],
         [1.1, 0.8, 0.7], [-1.1, -0.3, 1.05], [-1.1, -0.8, -0.65], [2.2, -1.2, 0.25], [-2.2, 1.2, -0.3]]
    ) / ANGSTROM  # fmt: skip
    return Molecule(("C", "C", "O", "O", "H", "H", "H", "H", "H", "H"), positions, name="glycol")


def test_which_torsions_are_biased() -> None:
    config, molecule = SamplingConfig(), glycol()
    assert len(molecule.torsions()) == 3
    bias = config.bias_of("torsions", molecule)
    assert bias is not None
    # Three and more torsions have a bias each; one and two a joint one.
    assert bias.parallel
    assert [v.atoms for v in bias.variables] == list(molecule.torsions())
    pair = molecule.torsions()[:2]
    assert config.bias_of("none", molecule) is None
    for given, expected in ((None, False), (True, True), (False, False)):
        chosen = replace(config, torsions=pair, parallel=given).bias_of("torsions", molecule)
        assert chosen is not None
        assert chosen.parallel is expected
        assert [v.atoms for v in chosen.variables] == list(pair)
    assert replace(config, torsions=pair).bias_settings(molecule) == {
        "sampling_torsions": ", ".join("-".join(str(a + 1) for a in t) for t in pair) + " (joint)"
    }


def test_conformers_turn_all_rotatable_bonds_and_the_chosen_ones() -> None:
    molecule = glycol()
    torsions = molecule.torsions()
    config = SamplingConfig(torsions=torsions[1:2])
    assert config.conformer_torsions(molecule) == torsions
    # Another torsion about an axis that turns anyway does not turn it twice.
    i, j, k, last = torsions[0]
    other = next(a for a in molecule.neighbours[j] if a not in (i, k))
    assert SamplingConfig(torsions=((other, j, k, last),)).conformer_torsions(molecule) == torsions
    assert len(SamplingConfig().conformer_torsions(methanol())) == 1
    with pytest.raises(InputError, match="a molecule with a torsion, found CH4O without"):
        SamplingConfig().bias_of("torsions", methanol())
    # Who names it gets it.
    assert SamplingConfig(torsions=methanol().torsions()).bias_of("torsions", methanol()) is not None


@pytest.mark.parametrize(
    ("torsions", "message"),
    [
        ((), "at least one torsion"),
        (((2, 0, 1, 1),), "torsion 3-1-2-2: expected four different atoms"),
        (((2, 0, 1, 99),), "from 1 to 10"),
        (((2, 0, 1, 8),), "torsion 3-1-2-9: expected four successive atoms.*no bond C2-H9"),
        (((2, 0, 1, 3), (3, 1, 0, 2)), "every torsion once"),
    ],
)
def test_wrong_torsions_are_refused(torsions: tuple[tuple[int, int, int, int], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingConfig(torsions=torsions).biased_torsions(glycol())


def test_any_variables_can_be_biased() -> None:
    """A distance and the torsion each with a bias of their own; every biased run is handed over with its hills."""
    variables = (CollectiveVariable("distance", (0, 3)), CollectiveVariable("torsion", (0, 1, 2, 3)))
    bias = BiasSettings(variables, HillParameters(2e-3, (0.2, 0.3), 8.0, 20), parallel=True)
    kind = TrajectoryClass(400.0, "variables", 1, 400 * FS, 10, 1, 300 * FS, 2)
    runs: list[BiasedRun] = []
    plan = SamplingConfig((kind,), seed=5, equilibration=20 * FS, bias=bias)
    frames = sample(hydrogen_peroxide(), plan, potential=make, record=runs.append)
    assert {run.source for run in runs} == set(frames.source) == {"wtmetad-400K-s1", "wtmetad-400K-s2"}
    assert [run.bias.n_hills for run in runs] == [40, 30]
    assert frames.metadata["sampling_variables"] == "1-4, 1-2-3-4 (one bias each)"
    assert "rad or bohr, bias factor 8, every 10 fs" in str(frames.metadata["sampling_bias_hills"])
    for run in runs:
        assert len(run.positions) * run.interval == pytest.approx(run.bias.n_hills * 20 * run.timestep)
        # A hill stands where the run was; the frame of the same step is one step further at most.
        gaps = [abs(run.bias.values(x)[0] - c[0]) for x, c in zip(run.positions, run.bias.centres, strict=True)]
        assert max(gaps) < 1e-12
    with pytest.raises(InputError, match="bias: expected variables to bias, found none"):
        SamplingConfig((kind,))
    far = BiasSettings((CollectiveVariable("distance", (0, 7)),), HillParameters(2e-3, 0.2, 8.0, 20))
    with pytest.raises(InputError, match="atoms from 1 to 4, found 8"):
        sample(hydrogen_peroxide(), replace(plan, bias=far), potential=make)


def test_start_that_reacts_on_relaxation_is_refused() -> None:
    with pytest.raises(InputError, match="bonds that relaxation keeps"):
        sample(hydrogen_peroxide(), small_plan(), potential=_Stretched)


class _Stretched:
    """A harmonic minimum at which the bonds of the molecule are gone."""

    def __init__(self, molecule: Molecule) -> None:
        self.goal = np.array(hydrogen_peroxide().positions) * 2.0

    def energy_and_forces(self, positions: FloatArray) -> tuple[float, FloatArray]:
        shift = positions - self.goal
        return 0.05 * float(np.sum(shift**2)), -0.1 * shift


def test_malondialdehyde_with_gfn2() -> None:
    pytest.importorskip("tblite", reason="tblite is not installed")
    positions = np.array(
        [[1.925, 0.737, -1.102], [1.157, 0.563, -0.202], [0.080, -0.492, -0.198], [-1.229, -0.025, 0.387],
         [-1.425, 1.018, 0.937], [1.183, 1.172, 0.719], [0.428, -1.335, 0.408], [-0.080, -0.870, -1.211],
         [-2.038, -0.770, 0.261]]
    ) / ANGSTROM  # fmt: skip
    molecule = Molecule(("O", "C", "C", "C", "O", "H", "H", "H", "H"), positions, name="malondialdehyde")
    classes = (
        TrajectoryClass(500.0, "none", 1, 100 * FS, 5, 1, 200 * FS, 2),
        TrajectoryClass(500.0, "torsions", 1, 100 * FS, 5, 0, 0.0, 0),
    )
    frames = sample(molecule, SamplingConfig(classes, equilibration=50 * FS))
    assert len(frames) == 12
    assert frames.molecule.torsions() == ((0, 1, 2, 3), (1, 2, 3, 4))
    assert all(fault(frames.molecule, x) is None for x in frames.positions)
    assert str(frames.metadata["sampling"]).startswith("GFN2-xTB, tblite")


def test_the_bias_drives_a_force_field() -> None:
    """Metadynamics on a Gaussian-process model of methanol, torsion and distance on a grid: it leaves its basin."""
    forcefield = fitted()
    molecule = methanol()
    variables = (CollectiveVariable("torsion", molecule.torsions()[0]), CollectiveVariable("distance", (2, 5)))
    grid = grid_around(variables, (0.3, 0.3), [None, (1.0, 12.0)])
    bias = BiasSettings(variables, HillParameters(1e-3, 0.3, 10.0, 20), grid=grid)
    kind = TrajectoryClass(300.0, "variables", 1, 200 * FS, 5, 0, 0.0, 0)
    runs: list[BiasedRun] = []
    plan = SamplingConfig((kind,), equilibration=20 * FS, bias=bias)
    sample(molecule, plan, potential=lambda _: forcefield, record=runs.append)
    (run,) = runs
    assert run.bias.n_hills == 20
    x = run.positions[-1]
    exact = BiasSettings(variables, HillParameters(1e-3, 0.3, 10.0, 20)).build(300.0)
    exact.restore(run.bias.centres, run.bias.heights)
    assert exact.energy_and_forces(x)[0] > 5e-4
    assert run.bias.energy_and_forces(x)[0] == pytest.approx(exact.energy_and_forces(x)[0], rel=1e-3)
