"""A certificate is for models that are stable and right; surviving in a well is neither."""

from __future__ import annotations

import csv
import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tblite")
pytest.importorskip("gpytorch")
pytest.importorskip("pyscf")

from fflux_py import model_file
from fflux_py.analysis.energy_conservation import piece_drift
from fflux_py.analysis.equipartition import CRITERIA
from fflux_py.analysis.runs import Run, completed_run, read_run
from fflux_py.certification import (
    CertificationConfig,
    Execution,
    GFN2Labeller,
    KohnShamLabeller,
    Limits,
    certify,
    labeller_of,
)
from fflux_py.certification.assessment import assess, run_figures
from fflux_py.certification.labellers import GFN2_METADATA, level_of
from fflux_py.certification.replicas import visited_frames
from fflux_py.dynamics import MDConfig, Trajectory
from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.iqa.campaign import Resources
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.extended_xyz import write_molecule
from fflux_py.molecules.mechanics import maxwell_boltzmann
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.molecules.shipped_data import DATA, path
from fflux_py.units import ANGSTROM, KCAL_MOL
from tests.support.cli_support import fflux
from tests.support.gfn2_models import labelled, model

SHORT = CertificationConfig(temperatures=(300.0,), seeds=2, picoseconds=0.4, frames=8, report_fs=5.0)


@pytest.fixture(scope="module")
def good():
    return model(80, forces=True)


def artificial(molecule, n=400, drift=0.0, stretch=1.0, potential=0.01):
    """A run at rest of 200 ps, with a drift (kcal/mol in 100 ps) and a bond that is stretched half way."""
    positions = np.repeat(molecule.positions[None], n, axis=0)
    i, j = next(pair for pair in molecule.bonds if 1 in (molecule.numbers[pair[0]], molecule.numbers[pair[1]]))
    light, heavy = (i, j) if molecule.numbers[i] == 1 else (j, i)
    positions[n // 2, light] += (stretch - 1.0) * (positions[0, light] - positions[0, heavy])
    times = np.linspace(0.0, 200_000.0, n)
    conserved = drift / KCAL_MOL * times / 100_000.0
    trajectory = Trajectory(
        molecule, times, positions, np.full(n, potential), np.zeros(n), conserved, np.full(n, 300.0), seed=0
    )
    return completed_run(trajectory, MDConfig(steps=400_000, temperature=300.0))


def test_a_right_model_is_certified(good, tmp_path):
    certificate = certify(good, GFN2Labeller(), SHORT, Execution(tmp_path / "c"))
    assert certificate.passed
    assert certificate.error() is None
    (figures,) = certificate.figures
    assert figures.n_survived == 2
    assert figures.n_frames == 8
    # 0.4 ps from the minimum at 300 K: between nothing and twice the equipartition value of 21 modes.
    assert 0.5 < figures.mean_energy_above_minimum_kcal_mol < 12.6
    assert figures.energy_mae_kcal_mol < 1.0
    # The figures are those of the frames that were written.
    data = certificate.labels[300.0]
    energies = good.compute(data.positions, deriv=0)[0]
    assert figures.energy_mae_kcal_mol == pytest.approx(np.abs(energies - data.energies).mean() * KCAL_MOL)
    assert set(data.geometries.split) == {"test"}
    record = json.loads((tmp_path / "c" / "certificate.json").read_text())
    assert record["passed"] is True
    assert record["full_protocol"] is False


def test_a_model_that_survives_in_wells_fails(tmp_path):
    low = model(100, forces=False)
    high = low.with_prior_mean("mean+50*range")
    config = CertificationConfig(temperatures=(1000.0,), seeds=3, picoseconds=1.0, frames=12, report_fs=10.0)
    certificate = certify(high, GFN2Labeller(), config, Execution(tmp_path / "c"))
    (figures,) = certificate.figures
    # It keeps all bonds in at least one run, and is wrong by far, below the minimum.
    assert figures.n_survived >= 1
    assert figures.energy_mae_kcal_mol > 10.0
    assert figures.mean_energy_difference_kcal_mol < -10.0
    assert figures.mean_energy_above_minimum_kcal_mol < 0.0
    failed = {criterion.name for criterion in certificate.criteria if not criterion.passed}
    assert {"Energy MAE", "Mean energy, model against reference", "Mean energy above the minimum"} <= failed
    assert not certificate.passed
    assert certificate.error().exit_code == 10


def test_a_killed_certification_goes_on(good, tmp_path):
    class Killed(Exception):
        pass

    @contextmanager
    def failing(name):
        def show(done, total):
            if "300 K (steps)" in name and done >= total // 2:
                raise Killed

        yield show

    config = replace(SHORT, picoseconds=0.2, frames=4)
    with pytest.raises(Killed):
        certify(good, GFN2Labeller(), config, Execution(tmp_path / "broken", stage=failing))
    again = certify(good, GFN2Labeller(), config, Execution(tmp_path / "broken"))
    whole = certify(good, GFN2Labeller(), config, Execution(tmp_path / "whole"))
    assert again.as_dict() == whole.as_dict()
    # Once more finds everything, and a longer one prolongs the runs.
    assert certify(good, GFN2Labeller(), config, Execution(tmp_path / "broken")).as_dict() == whole.as_dict()
    longer = certify(good, GFN2Labeller(), replace(config, picoseconds=0.4), Execution(tmp_path / "broken"))
    straight = certify(good, GFN2Labeller(), replace(config, picoseconds=0.4), Execution(tmp_path / "straight"))
    assert longer.as_dict() == straight.as_dict()
    with pytest.raises(InputError, match="settings"):
        certify(good, GFN2Labeller(), replace(config, seed=5), Execution(tmp_path / "broken"))
    with pytest.raises(ModelMismatchError):
        certify(good.with_prior_mean("MF4"), GFN2Labeller(), config, Execution(tmp_path / "broken"))


def test_folder_of_others_is_left_alone(good, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="other files"):
        certify(good, GFN2Labeller(), SHORT, Execution(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"drift": 2.0}, "Drift of the conserved quantity in 100 ps"),
        ({"drift": -2.0}, "Drift of the conserved quantity in 100 ps"),
        ({"stretch": 1.6}, "Longest bond over its reference"),
        ({"stretch": 0.4}, "Shortest bond over its reference"),
        ({"potential": -1.0}, "Mean energy above the minimum"),
    ],
)
def test_every_fault_is_found(good, change, name):
    """One run with one fault fails by the criterion that is about it; without the fault it passes that."""
    labels = labelled(80).select(range(5))
    for settings, passes in (({}, True), (change, False)):
        run = artificial(good.molecule, **settings)
        figures = assess(good, [run, artificial(good.molecule)], labels, 0, 0.0)
        verdict = {line.name: line.passed for line in figures.criteria(Limits(), 5)}
        assert verdict[name] is passes
        assert passes or not all(verdict.values())
    figures = run_figures(artificial(good.molecule, drift=2.0), good.molecule)
    assert figures.drift_kcal_mol_100ps == pytest.approx(2.0)
    assert run_figures(artificial(good.molecule, stretch=1.6), good.molecule).longest_bond_ratio == pytest.approx(1.6)


@pytest.mark.parametrize(("heated", "passes"), [(1.0, True), (1.15, False)])
def test_temperatures_of_modes_and_elements_are_judged(good, heated, passes):
    """Two runs with velocities drawn anew in every frame, of which those of hydrogen may be too fast."""
    molecule, rng = good.molecule, np.random.default_rng(3)
    modes = normal_modes(good, molecule.positions, molecule.masses)
    runs = []
    for run in (artificial(molecule), artificial(molecule)):
        drawn = np.array([maxwell_boltzmann(molecule.positions, molecule.masses, 300.0, rng) for _ in run.times_ps])
        drawn *= np.where(molecule.numbers == 1, np.sqrt(heated), 1.0)[:, None]
        runs.append(replace(run, trajectory=replace(run.trajectory, velocities=drawn, modes=modes)))
    figures = assess(good, runs, None, 0, 0.0)
    verdict = {line.name: line.passed for line in figures.criteria(Limits(), 4)}
    assert all(verdict[name] for name in CRITERIA) is passes
    record = figures.as_dict()["equipartition"]
    assert record["n_blocks"] == 128
    assert len(record["parts"]) == 3 + 21


def test_energy_conservation_is_judged_at_constant_energy(good, tmp_path):
    """In Langevin dynamics; a chain has a conserved quantity of its own, and gets no pieces."""
    config = replace(SHORT, picoseconds=0.1, frames=2)
    (figures,) = certify(good, GFN2Labeller(), config, Execution(tmp_path / "langevin")).figures
    assert [piece.config.thermostat for piece in figures.pieces] == ["none", "none"]
    for piece, run in zip(figures.pieces, ("000", "001"), strict=True):
        ended = read_run(tmp_path / "langevin" / "runs" / "300K" / f"replica-{run}").trajectory.positions[-1]
        assert piece.trajectory.positions[0] == pytest.approx(ended, abs=1e-5)
    drifts = [piece_drift(piece) for piece in figures.pieces]
    assert figures.drift_kcal_mol_100ps == max(abs(drift) for drift in drifts)
    verdict = {line.name: line.value for line in figures.criteria(Limits(), 2)}
    assert verdict["Drift of the energy at constant energy"] == figures.drift_kcal_mol_100ps
    assert "Drift of the conserved quantity in 100 ps" not in verdict
    # the drift of the runs themselves stays a figure
    leak = [replace(piece, trajectory=_leaking(piece.trajectory)) for piece in figures.pieces]
    failed = replace(figures, pieces=tuple(leak)).criteria(Limits(), 2)
    assert not {line.name: line.passed for line in failed}["Drift of the energy at constant energy"]
    chain = replace(config, thermostat="nose-hoover")
    (figures,) = certify(good, GFN2Labeller(), chain, Execution(tmp_path / "chain")).figures
    assert figures.pieces is None
    assert "Drift of the conserved quantity in 100 ps" in {line.name for line in figures.criteria(Limits(), 2)}
    with pytest.raises(InputError, match="settings"):
        certify(good, GFN2Labeller(), config, Execution(tmp_path / "chain"))


def _leaking(trajectory):
    return replace(trajectory, conserved=trajectory.conserved + np.linspace(0.0, 2.0, len(trajectory)) / KCAL_MOL)


def test_a_stopped_run_and_missing_labels_fail(good):
    run = artificial(good.molecule)
    stopped = Run(run.trajectory, run.config, "stopped", "bond", {})
    figures = assess(good, [stopped, run], None, 4, 0.0)
    verdict = {line.name: line.passed for line in figures.criteria(Limits(), 4)}
    assert figures.n_survived == 1
    assert not verdict["Runs that survived"]
    assert not verdict["Visited frames labelled"]
    assert not verdict["Energy MAE"]
    # Every run is stopped before its first report.
    broken = artificial(good.molecule, n=1)
    figures = assess(good, [Run(broken.trajectory, broken.config, "stopped", "bond", {})], None, 0, 0.0)
    assert figures.n_survived == 0
    assert not any(line.passed for line in figures.criteria(Limits(), 4) if line.name in ("Energy MAE", "Mean energy"))


def test_a_constant_error_is_an_error(good):
    """A shift of all energies by 1.5 kcal/mol leaves forces right, and fails."""
    labels = labelled(80).select(range(20))
    shifted = replace(labels, energies=labels.energies + 1.5 / KCAL_MOL)
    run = artificial(good.molecule)
    figures, before = assess(good, [run], shifted, 0, 0.0), assess(good, [run], labels, 0, 0.0)
    assert figures.mean_energy_difference_kcal_mol == pytest.approx(before.mean_energy_difference_kcal_mol - 1.5)
    assert figures.force_mae_kcal_mol_angstrom == before.force_mae_kcal_mol_angstrom
    verdict = {line.name: line.passed for line in figures.criteria(Limits(), 20)}
    assert not verdict["Mean energy, model against reference"]


def test_errors_of_both_signs_do_not_cancel(good):
    """Half of the energies 3 kcal/mol too high, half as much too low: the mean is right, the energies are not."""
    labels = labelled(80).select(range(20))
    signs = np.where(np.arange(20) % 2, 1.0, -1.0)
    energies = good.compute(labels.positions, deriv=0)[0]
    scattered = replace(labels, energies=energies - 3.0 * signs / KCAL_MOL)
    figures = assess(good, [artificial(good.molecule)], scattered, 0, 0.0)
    assert figures.mean_energy_difference_kcal_mol == pytest.approx(0.0, abs=1e-9)
    assert figures.energy_mae_kcal_mol == pytest.approx(3.0)
    assert figures.energy_largest_error_kcal_mol == pytest.approx(3.0)
    verdict = {line.name: line.passed for line in figures.criteria(Limits(), 20)}
    assert verdict["Mean energy, model against reference"]
    assert not verdict["Energy MAE"]


@pytest.mark.parametrize("count", [7, 30, 1000])
def test_frames_of_the_start_up_are_not_labelled(good, count):
    """The first tenth of every run is left out, whether a few frames are asked for or all."""
    runs = []
    for n in (200, 300):
        run = artificial(good.molecule, n=n)
        # Every report is a copy of the first, moved along x by its number.
        moved = run.trajectory.positions[:1] + np.arange(n)[:, None, None] * np.array([1.0, 0.0, 0.0])
        runs.append(replace(run, trajectory=replace(run.trajectory, positions=moved)))
    frames = visited_frames(tuple(runs), count, "x")
    numbers = np.rint(frames.positions[:, 0, 0] - good.molecule.positions[0, 0]).astype(int)
    for r, n in enumerate((200, 300)):
        reports = numbers[np.array(frames.source) == f"x-r{r}"]
        assert n // 10 <= reports.min() <= n // 10 + 500 // count
        assert reports.max() >= n - 1 - 500 // count
        assert len(set(reports)) == len(reports)


def test_visited_frames_cover_all_runs(good):
    runs = (artificial(good.molecule, n=200), artificial(good.molecule, n=400))
    frames = visited_frames(runs, 30, "x")
    assert len(frames) == 30
    assert frames.source.count("x-r1") == 20
    assert len(visited_frames((artificial(good.molecule, n=3),), 30, "x")) == 2
    assert visited_frames((artificial(good.molecule, n=1),), 30, "x") is None


def test_level_of_theory_comes_from_the_header():
    from fflux_py.molecules.dataset import Dataset

    data = Dataset.read(path("malondialdehyde") / DATA)
    assert level_of(data.metadata) == LevelOfTheory()
    header = {**data.metadata, "basis_functions": "spherical", "density_fit": "none", "grid": "pyscf level 4"}
    expected = LevelOfTheory(basis_functions="spherical", density_fit=False, grid_level=4)
    assert level_of(header) == expected
    found = labeller_of(header, resources=Resources(2))
    assert isinstance(found, KohnShamLabeller)
    assert (found.level, found.partition, found.resources.workers) == (expected, "none", 2)
    assert isinstance(labeller_of(GFN2_METADATA), GFN2Labeller)
    with pytest.raises(InputError, match="grid"):
        labeller_of({**data.metadata, "grid": "Gaussian ultrafine"})
    with pytest.raises(InputError, match="level of theory"):
        labeller_of({})


def test_gfn2_atoms_sum_to_the_molecule():
    data = labelled(80)
    np.testing.assert_allclose(data.atomic_energies.sum(axis=1), data.energies, atol=1e-10)
    h = 1e-3
    moved = data.geometries.positions[:1].repeat(2, axis=0)
    moved[0, 0, 0] += h
    moved[1, 0, 0] -= h
    ends = GFN2Labeller().label(replace(data.geometries.select([0, 0]), positions=moved), Path())
    slope = (ends.energies[0] - ends.energies[1]) / (2 * h)
    assert slope == pytest.approx(-data.forces[0, 0, 0], abs=2e-6)


@pytest.mark.parametrize(
    "settings",
    [{"temperatures": ()}, {"temperatures": (300.0, 300.0)}, {"seeds": 0}, {"picoseconds": float("nan")},
     {"temperatures": (-5.0,)}, {"timestep": 0.0}],
)  # fmt: skip
def test_wrong_settings_are_refused(settings):
    with pytest.raises(InputError):
        CertificationConfig(**settings)


def test_heavy_hydrogen_is_part_of_the_settings(good, tmp_path):
    """Longer steps with heavier hydrogens: another run, whose positions have the same averages."""
    heavy = replace(SHORT, seeds=1, picoseconds=0.2, timestep=2.0, hydrogen_mass=3.0, frames=2, report_fs=20.0)
    certificate = certify(good, GFN2Labeller(), heavy, Execution(tmp_path / "c"))
    assert certificate.runs[0][0].config.hydrogen_mass == 3.0
    assert certificate.as_dict()["hydrogen_mass_da"] == 3.0
    with pytest.raises(InputError, match="settings"):
        certify(good, GFN2Labeller(), replace(heavy, hydrogen_mass=2.0), Execution(tmp_path / "c"))
    with pytest.raises(InputError, match="hydrogen_mass"):
        replace(heavy, hydrogen_mass=30.0)


def test_command(good, tmp_path):
    model_file.save(good, tmp_path / "model.npz")
    write_molecule(tmp_path / "start.xyz", good.molecule)
    words = [
        "certify", str(tmp_path / "model.npz"), str(tmp_path / "start.xyz"), "-o", str(tmp_path / "c"),
        "--temperatures", "300,500", "--seeds", "1", "--picoseconds", "0.2", "--frames", "3", "--json",
        "--thermostat", "velocity-rescaling",
    ]  # fmt: skip
    answer = fflux(*words)
    record = json.loads(answer.out)
    assert record["thermostat"] == "velocity-rescaling"
    assert answer.code == (0 if record["passed"] else 10)
    assert [entry["temperature_k"] for entry in record["temperatures"]] == [300.0, 500.0]
    assert record["reference"] == "gfn2-xtb"
    rows = list(csv.DictReader((tmp_path / "c" / "certificate.csv").read_text().splitlines()))
    assert [float(row["temperature_k"]) for row in rows] == [300.0, 500.0]
    page = (tmp_path / "c" / "certificate.html").read_text()
    assert "Energy MAE" in page
    assert "thin run" in page
    # A limit that no model meets.
    failed = fflux(*words, "--energy-mae", "1e-6")
    assert failed.code == 10
    assert "Energy MAE" in failed.err
    assert len(failed.err.strip().splitlines()) == 1
    assert fflux(*words, "--temperatures", "hot").code == 2


def test_reference_lengths_are_the_models(good):
    """Bonds are held against the model's reference geometry, not against where a run began."""
    molecule = good.molecule
    other = molecule.with_positions(molecule.positions * 1.1)
    figures = run_figures(artificial(other), molecule)
    lengths = [np.linalg.norm(molecule.positions[i] - molecule.positions[j]) for i, j in molecule.bonds]
    assert figures.largest_bond_deviation_angstrom == pytest.approx(0.1 * max(lengths) * ANGSTROM)


def test_progress_counts_labels_also_those_that_fail() -> None:
    molecule = Molecule(("H", "H"), np.diag([0.0, 0.0, 1.4])[[0, 2]])
    positions = np.array([molecule.positions, np.zeros((2, 3)), 1.1 * molecule.positions])
    frames = GeometrySet(molecule, positions, ("a",) * 3, np.full(3, np.nan), ("test",) * 3)
    told: list[tuple[int, int]] = []
    labels = GFN2Labeller().label(frames, Path(), lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert labels is not None
    assert len(labels) == 2


@pytest.mark.parametrize(("seeds", "frames", "full"), [(3, 100, True), (2, 100, False), (3, 99, False)])
def test_the_full_protocol_has_three_seeds_and_a_hundred_frames(seeds: int, frames: int, full: bool) -> None:
    assert CertificationConfig().is_full
    assert CertificationConfig(seeds=seeds, frames=frames).is_full is full


def test_frames_of_which_none_can_be_labelled_are_no_error(tmp_path: Path) -> None:
    """A run that ended far outside is judged as such; another cause of the failure is an error."""
    apart = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.0 / ANGSTROM]]), name="H2")
    marks = (("run",), np.array([300.0]), ("test",))
    labeller = KohnShamLabeller(LevelOfTheory(basis="sto-3g", grid_level=1))
    assert labeller.label(GeometrySet(apart, apart.positions[None], *marks), tmp_path / "apart") is None
    wrong = KohnShamLabeller(LevelOfTheory(method="no-such-functional", basis="sto-3g", grid_level=1))
    with pytest.raises(InputError, match="no-such-functional"):
        wrong.label(GeometrySet(apart, 0.25 * apart.positions[None], *marks), tmp_path / "wrong")
