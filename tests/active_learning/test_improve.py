"""Active learning: the error on what a model visits falls, the budget is kept, and a killed loop goes on."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tblite")
pytest.importorskip("gpytorch")
pytest.importorskip("pyscf")

from fflux_py import model_file
from fflux_py.active_learning import ImprovementConfig, improve
from fflux_py.active_learning.choice import (
    FRAMES_BEFORE_FAILURE,
    acquisition_scores,
    candidate_frames,
    diverse_batch,
    find_failed_runs,
    frames_to_collapse,
)
from fflux_py.active_learning.improvement import training_config_of
from fflux_py.active_learning.rounds import concatenate
from fflux_py.analysis.runs import read_runs
from fflux_py.certification import Execution, GFN2Labeller, Limits
from fflux_py.certification.labellers import KohnShamLabeller
from fflux_py.dynamics import MDConfig, run_replicas
from fflux_py.errors import FFLUXError, InputError
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.extended_xyz import write_molecule
from fflux_py.sampling.selection import pair_features
from fflux_py.training import TrainingConfig, train
from fflux_py.units import KCAL_MOL
from tests.support.cli_support import fflux
from tests.support.gfn2_models import labelled

FIT = TrainingConfig(max_iterations=6, subset=15, symmetry="none")
# An aim out of reach: the budget ends the loop.
CONFIG = ImprovementConfig(
    temperatures=(300.0, 1000.0), replicas=1, picoseconds=0.3, checks=4, batch=14, budget=55, candidates=60,
    limits=Limits(energy_mae_kcal_mol=1e-3), training=FIT,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return train(labelled(30), FIT)


@pytest.fixture(scope="module")
def improved(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("improved") / "run"
    return improve(small, labelled(30), GFN2Labeller(), CONFIG, Execution(folder)), folder


def test_errors_on_other_trajectories_fall(small, improved):
    """Of frames that no round has seen.  Those that so small a model visits change with the last bit of its forces."""
    result, _ = improved
    assert len(result.rounds) == 3
    assert not result.holds
    others = labelled(130).select(range(30, 130))
    errors = []
    for model in (small, result.forcefield):
        energies, forces = model.unmatched.compute(others.positions)
        errors.append((np.abs(energies - others.energies).mean(), np.abs(forces - others.forces).mean()))
    before, after = errors
    assert after[0] < 0.6 * before[0]
    assert after[1] < 0.8 * before[1]


def test_labels_are_counted_and_marked(improved):
    result, folder = improved
    assert [r.labels_spent for r in result.rounds] == [9 + 14, 2 * (9 + 14), 55]
    assert result.rounds[-1].labels_spent <= CONFIG.budget
    data = result.dataset
    assert len(data) == 30 + 55
    marks = [(s, t) for s, t in zip(data.geometries.source, data.geometries.split, strict=True) if s.startswith("act")]
    assert marks.count(("active-learning round 1", "train")) == 23
    assert marks.count(("active-learning round 2", "train")) == 23
    # The frames of the last verdict were not learnt by the model that they judge.
    assert marks.count(("active-learning round 3", "test")) == 9
    assert [r.n_train for r in result.rounds] == [30, 53, 76]
    assert len(result.forcefield.joint.positions) == 76
    assert Dataset.read(folder / "data.extxyz").digest() == data.digest()
    saved = model_file.load(folder / "model.npz")
    x = data.positions[:3]
    np.testing.assert_array_equal(saved.compute(x)[0], result.forcefield.compute(x)[0])
    rows = list(csv.DictReader((folder / "rounds.csv").read_text().splitlines()))
    assert [int(row["labels_spent"]) for row in rows] == [23, 46, 55]


def test_labels_are_those_of_the_method(improved):
    """Energies and forces of the new entries belong to their geometries, in the file's units too."""
    result, _ = improved
    new = result.dataset.select(range(60, 64))
    again = GFN2Labeller().label(new.geometries, None)
    np.testing.assert_allclose(new.energies, again.energies, atol=1e-8)
    np.testing.assert_allclose(new.forces, again.forces, atol=1e-6)


def test_every_round_has_its_own_random_numbers(improved):
    """The same seed twice would visit the same frames again, and a model would be judged by what it has learnt."""
    result, folder = improved
    rounds = [folder / f"round-{entry.number:02d}" / "runs" for entry in result.rounds]
    for temperature in ("300K", "1000K"):
        runs = [read_runs(path / temperature)[0] for path in rounds]
        assert len({run.config.seed for run in runs}) == len(rounds) == 3
        # Velocities are drawn anew: 21 degrees of freedom never have the same kinetic energy twice.
        assert len({float(run.trajectory.temperature[0]) for run in runs}) == 3
    assert CONFIG.runs(1).seed != replace(CONFIG, seed=3).runs(1).seed


def test_a_killed_loop_goes_on(small, improved, tmp_path):
    class Killed(Exception):
        pass

    @contextmanager
    def failing(name):
        if name == "round 2: training":
            raise Killed
        yield lambda done, total: None

    with pytest.raises(Killed):
        improve(small, labelled(30), GFN2Labeller(), CONFIG, Execution(tmp_path / "b", stage=failing))
    state = json.loads((tmp_path / "b" / "improve.json").read_text())
    assert [entry["number"] for entry in state["rounds"]] == [1]
    again = improve(small, labelled(30), GFN2Labeller(), CONFIG, Execution(tmp_path / "b"))
    whole, _ = improved
    assert again.rounds == whole.rounds
    assert again.dataset.digest() == whole.dataset.digest()
    # Finished: nothing is run again.
    assert improve(small, labelled(30), GFN2Labeller(), CONFIG, Execution(tmp_path / "b")).rounds == whole.rounds
    with pytest.raises(InputError, match="another one"):
        improve(small, labelled(30), GFN2Labeller(), replace(CONFIG, seed=3), Execution(tmp_path / "b"))


def test_a_model_that_is_right_costs_one_verdict(small, tmp_path):
    config = replace(
        CONFIG,
        temperatures=(300.0,),
        limits=Limits(energy_mae_kcal_mol=50.0, mean_energy_kcal_mol=50.0, drift_kcal_mol_100ps=50.0),
    )
    result = improve(small, labelled(30), GFN2Labeller(), config, Execution(tmp_path / "c"))
    assert result.holds
    assert [r.n_learnt for r in result.rounds] == [0]
    assert result.rounds[0].labels_spent == 5
    x = labelled(30).positions[:2]
    np.testing.assert_array_equal(result.forcefield.compute(x)[0], small.compute(x)[0])


def test_scores_know_the_unknown(small):
    """Training geometries score low, a stretched bond scores high, a jump counts."""
    known = labelled(30).positions[:5]
    far = known.copy()
    far[:, 5] += 0.4 * (far[:, 5] - far[:, 1])
    positions = np.concatenate([known, far])
    score, deviation = acquisition_scores(small, positions, np.zeros(10), 5.0)
    assert score[5:].min() > score[:5].max()
    assert deviation[5:].min() > deviation[:5].max()
    jumped, _ = acquisition_scores(small, positions, np.full(10, 10.0), 5.0)
    np.testing.assert_allclose(jumped - score, 2.0)


def test_a_batch_differs_from_what_is_known():
    data = labelled(80)
    positions = data.positions[:40]
    score = np.linspace(1.0, 0.0, 40)
    # Two of the candidates are known, two are twins.
    positions = np.concatenate([positions, positions[3:4]])
    score = np.append(score, 1.0)
    known = data.positions[[0, 1]]
    chosen = diverse_batch(positions, score, known, 6)
    assert len(set(chosen.tolist())) == 6
    assert not {0, 1} & set(chosen.tolist())
    assert not {3, 40} <= set(chosen.tolist())
    assert set(chosen.tolist()) <= {*range(30), 40}
    gap = np.linalg.norm(pair_features(positions[chosen[:1]]) - pair_features(known), axis=1).min()
    gaps = [np.linalg.norm(pair_features(positions[k : k + 1]) - pair_features(known), axis=1).min() for k in range(29)]
    assert gap == pytest.approx(max(gaps))
    assert len(diverse_batch(positions[:4], score[:4], known, 6)) == 4


def test_candidates_hold_every_end(small, tmp_path):
    config = MDConfig(steps=100, replicas=2, report_every=5, temperature=300.0, thermostat="langevin")
    run_replicas(small, small.molecule, config, tmp_path / "r")
    runs = read_runs(tmp_path / "r")
    minimum = float(runs[0].trajectory.potential.min())
    positions, temperatures, _ = candidate_frames(runs, 6, minimum)
    assert 6 <= len(positions) <= 8
    for run in runs:
        assert (positions == run.trajectory.positions[-1]).all(axis=(1, 2)).any()
        assert not (positions == run.trajectory.positions[0]).all(axis=(1, 2)).any()
    assert set(temperatures) == {300.0}
    every, _, changes = candidate_frames(runs, 1000, minimum)
    assert len(every) == 40
    reported = np.abs(np.diff(runs[0].trajectory.conserved)) * KCAL_MOL
    np.testing.assert_allclose(changes[:20], reported, atol=1e-9)


def test_candidates_end_where_a_run_falls(small, tmp_path):
    """Of a run that fell into a hole: the way in, to the first frame below the minimum; of one that did not, all."""
    config = MDConfig(steps=100, replicas=2, report_every=2, temperature=300.0, thermostat="langevin")
    run_replicas(small, small.molecule, config, tmp_path / "r")
    sound, other = read_runs(tmp_path / "r")
    potential = other.trajectory.potential.copy()
    potential[30:] -= 5.0
    potential[40] += 10.0  # out of the hole again: that is no way in
    runs = (sound, replace(other, trajectory=replace(other.trajectory, potential=potential)))
    minimum = float(sound.trajectory.potential.min())
    assert frames_to_collapse(runs, minimum) == [51, 31]
    positions, _, _ = candidate_frames(runs, 4, minimum)

    def frames(run):
        return {k for k in range(51) if (positions == run.trajectory.positions[k]).all(axis=(1, 2)).any()}

    assert frames(runs[1]) >= set(range(31 - FRAMES_BEFORE_FAILURE, 31))
    assert max(frames(runs[1])) == 30
    assert 50 in frames(sound)
    assert len(frames(sound)) < FRAMES_BEFORE_FAILURE
    assert find_failed_runs(runs, minimum) == [False, True]


def test_candidates_hold_the_way_to_where_a_guard_stopped_a_run(small, tmp_path):
    config = MDConfig(steps=100, replicas=2, report_every=2, temperature=300.0, thermostat="langevin")
    run_replicas(small, small.molecule, config, tmp_path / "r")
    sound, other = read_runs(tmp_path / "r")
    runs = (sound, replace(other, status="stopped"))
    minimum = float(min(run.trajectory.potential.min() for run in runs))
    assert find_failed_runs(runs, minimum) == [False, True]
    positions, _, _ = candidate_frames(runs, 4, minimum)
    last = other.trajectory.positions[-FRAMES_BEFORE_FAILURE:]
    assert all((positions == frame).all(axis=(1, 2)).any() for frame in last)


def test_biased_runs_and_other_starts_are_learnt_from(small, tmp_path):
    """They visit, at the lowest temperature, what the judged runs do not; their frames may be chosen."""
    other = small.molecule.with_positions(labelled(30).positions[7])
    bias = "d: DISTANCE ATOMS=1,5\nMETAD ARG=d SIGMA=0.01 HEIGHT=20 PACE=10 BIASFACTOR=20 GRID_MIN=0.1 GRID_MAX=0.9\n"
    config = replace(CONFIG, temperatures=(300.0,), picoseconds=0.2, checks=2, budget=11, batch=3, bias=bias)
    config = replace(config, hydrogen_mass=3.0)
    assert config.biased_temperature == 300.0
    result = improve(small, labelled(30), GFN2Labeller(), config, Execution(tmp_path / "i"), [small.molecule, other])
    assert result.rounds[0].n_runs == 1
    assert result.rounds[0].n_learnt == 3 + 3
    where = tmp_path / "i" / "round-01"
    found = [*sorted((where / "runs").iterdir()), *sorted((where / "runs-2").iterdir())]
    assert [path.name for path in found] == ["300K", "biased", "300K", "biased"]

    def distances(path):
        positions = read_runs(path)[0].trajectory.positions
        return np.linalg.norm(positions[:, 0] - positions[:, 4], axis=1)

    assert {read_runs(path)[0].config.hydrogen_mass for path in found} == {3.0}
    assert np.ptp(distances(found[1])) > np.ptp(distances(found[0]))
    learnt = result.dataset.positions[30 : 30 + 6]
    further = np.concatenate([read_runs(path)[0].trajectory.positions for path in found[1:]])
    assert any((np.abs(further - positions).max(axis=(1, 2)) < 1e-8).any() for positions in learnt)
    with pytest.raises(InputError, match="improvement"):
        improve(small, labelled(30), GFN2Labeller(), config, Execution(tmp_path / "i"))
    with pytest.raises(FFLUXError, match="bias_factor"):
        replace(config, bias=bias.replace("FACTOR=20", "FACTOR=0.5"))


def test_data_of_other_levels_are_not_mixed():
    data = labelled(30)
    other = replace(data, metadata={**data.metadata, "method": "b3lyp"})
    with pytest.raises(InputError, match="method"):
        concatenate(data, other)
    both = concatenate(data, data)
    assert len(both) == 60
    np.testing.assert_array_equal(both.forces[30:], data.forces)


def test_folder_is_told_apart_by_settings_that_older_versions_wrote(improved):
    """The state that marks a folder holds the settings of earlier versions, no more: interrupted loops go on."""
    _, folder = improved
    settings = json.loads((folder / "improve.json").read_text())["key"]["settings"]
    assert set(settings) == {
        "temperatures", "replicas", "picoseconds", "timestep", "checks", "batch", "candidates", "bias", "seed"
    }  # fmt: skip


def test_retraining_keeps_the_kind_of_model(small):
    high = small.with_prior_mean("MF4")
    settings = training_config_of(high)
    assert (settings.forces, settings.prior_mean, settings.symmetry) == (True, "MF4", "none")
    energies_only = train(labelled(30), TrainingConfig(forces=False, features="spherical", max_iterations=2))
    assert (training_config_of(energies_only).forces, training_config_of(energies_only).features) == (
        False,
        "spherical",
    )


def test_a_budget_below_one_verdict_is_refused():
    with pytest.raises(InputError, match="budget"):
        ImprovementConfig(temperatures=(300.0, 500.0), checks=5, budget=10)


def test_the_labeller_of_dft_data_keeps_the_partition():
    labeller = KohnShamLabeller(LevelOfTheory(), "hirshfeld")
    assert labeller.name == "b3lyp/6-31+g(d,p)"


def test_command(small, tmp_path):
    model_file.save(small, tmp_path / "model.npz")
    labelled(30).write(tmp_path / "data.extxyz")
    write_molecule(tmp_path / "start.xyz", small.molecule)
    words = [
        "improve", tmp_path / "model.npz", tmp_path / "data.extxyz", tmp_path / "start.xyz", "--bias", "torsions",
        "-o", tmp_path / "i", "--temperatures", "300",
        "--budget", "5", "--checks", "2", "--batch", "3", "--replicas", "1", "--picoseconds", "0.1", "--json",
    ]  # fmt: skip
    answer = fflux(*words, "--energy-mae", "1e-6")
    assert answer.code == 10
    record = answer.json
    assert record["holds"] is False
    assert record["labels_spent"] == 3
    assert record["rounds"][0]["n_train"] == 30
    assert model_file.load(tmp_path / "i" / "model.npz").joint is not None
    assert "round 1: 30 training geometries" in answer.err
    assert (tmp_path / "i" / "round-01" / "runs" / "biased" / "plumed.dat").exists()
