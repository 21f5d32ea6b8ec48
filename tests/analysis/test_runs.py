"""Runs read back from their folders, and what is said about them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fflux_py.analysis.geometry import bond_lengths
from fflux_py.analysis.report.runs import report_runs
from fflux_py.analysis.runs import Run, analyse_run, completed_run, read_run, read_runs
from fflux_py.dynamics import GuardTripped, MDConfig, Trajectory, run_nvt
from fflux_py.errors import FileFormatError, InputError
from fflux_py.units import ANGSTROM, BOLTZMANN, KCAL_MOL
from tests.support.compiled_potentials import ammonia, ammonia_morse


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ammonia at 300 K and 500 K, 2 ps each."""
    base = tmp_path_factory.mktemp("runs")
    for temperature in (500, 300):
        config = MDConfig(steps=4000, temperature=float(temperature), timestep=0.5, report_every=5, seed=3)
        run_nvt(ammonia_morse(), ammonia(), config, base / f"md-{temperature}")
    return base


def made_up(temperature: np.ndarray, conserved_kcal_mol: np.ndarray, target: float = 300.0, length: float = 1.0) -> Run:
    """A run with given traces (report every ``length`` fs); the molecule stands still."""
    m, start = len(temperature), ammonia()
    trajectory = Trajectory(
        molecule=start,
        times_fs=length * np.arange(m),
        positions=np.repeat(start.positions[None], m, axis=0),
        potential=np.zeros(m),
        kinetic=3.0 * BOLTZMANN * temperature,
        conserved=conserved_kcal_mol / KCAL_MOL - 56.0,
        temperature=temperature,
        seed=0,
    )
    config = MDConfig(steps=m - 1, temperature=target, timestep=length, report_every=1, thermostat="nose-hoover")
    return completed_run(trajectory, config)


def verdict(run: Run) -> dict[str, bool]:
    return {c.name: c.passed for c in analyse_run(run).criteria()}


def test_a_sound_run_passes(folder):
    run = read_run(folder / "md-300")
    analysis = analyse_run(run)
    assert all(criterion.passed for criterion in analysis.criteria())
    assert analysis.bonds_kept
    assert run.length_ps == 2.0
    assert run.label == "NVT 300 K, seed 3"
    # 3N - 6 = 6: the temperature of so small a molecule swings by T sqrt(2/6)
    assert analysis.degrees_of_freedom == 6
    assert analysis.expected_temperature_deviation_k == pytest.approx(300.0 / np.sqrt(3.0))
    assert analysis.temperature_deviation_k == pytest.approx(300.0 / np.sqrt(3.0), rel=0.25)
    json.dumps(analysis.as_dict(), allow_nan=False)


def test_figures_agree_with_the_trajectory(folder):
    run = read_run(folder / "md-500")
    analysis, trajectory = analyse_run(run), run.trajectory
    lengths = bond_lengths(trajectory.positions, ammonia().bonds) / bond_lengths(ammonia().positions, ammonia().bonds)
    found = (analysis.smallest_bond_ratio, analysis.largest_bond_ratio)
    assert found == pytest.approx((lengths.min(), lengths.max()), rel=1e-12)
    kept = trajectory.temperature[len(trajectory) // 10 :]
    assert analysis.temperature_k.mean == pytest.approx(kept.mean(), rel=1e-12)
    change = (trajectory.conserved - trajectory.conserved[0]) * KCAL_MOL
    assert analysis.conserved_deviation_kcal_mol == pytest.approx(np.abs(change).max())
    assert analysis.conserved_jump_kcal_mol == pytest.approx(np.abs(np.diff(change)).max())


def test_a_wrong_temperature_is_found():
    rng = np.random.default_rng(0)
    quiet = np.zeros(2000)
    name = "Mean temperature, distance from the thermostat"
    assert verdict(made_up(rng.normal(301.0, 80.0, 2000), quiet))[name]
    assert not verdict(made_up(rng.normal(318.0, 80.0, 2000), quiet))[name]


def test_the_start_is_left_out_of_the_mean_temperature():
    temperature = np.random.default_rng(0).normal(300.0, 20.0, 2000)
    temperature[:150] = 0.0
    assert analyse_run(made_up(temperature, np.zeros(2000))).temperature_k.mean == pytest.approx(300.0, abs=2.0)


def test_a_leak_and_a_jump_of_the_conserved_quantity_are_found():
    temperature = np.random.default_rng(0).normal(300.0, 80.0, 2001)
    leak = made_up(temperature, np.linspace(0.0, 1.5, 2001), length=100.0)  # 1.5 kcal/mol in 200 ps
    analysis = analyse_run(leak)
    assert analysis.conserved_drift_kcal_mol_100ps.slope == pytest.approx(0.75, rel=1e-9)
    assert verdict(leak)["Conserved quantity, drift in 100 ps"]
    assert not verdict(leak)["Conserved quantity, largest deviation"]
    jump = made_up(temperature, 1.2 * (np.arange(2001) == 1000))
    assert analyse_run(jump).conserved_jump_kcal_mol == pytest.approx(1.2)
    assert not verdict(jump)["Conserved quantity, largest deviation"]
    # two picoseconds say nothing about the drift in a hundred
    assert "Conserved quantity, drift in 100 ps" not in verdict(jump)


def test_a_broken_bond_and_a_contact_are_found():
    run = made_up(np.full(50, 300.0), np.zeros(50))
    positions = np.array(run.trajectory.positions)
    stretched, met = positions.copy(), positions.copy()
    stretched[30, 1] += 0.6 / ANGSTROM * stretched[30, 1] / np.linalg.norm(stretched[30, 1])
    met[30, 2] = met[30, 1] + np.array([0.0, 0.0, 0.5 / ANGSTROM])
    for bad, name in ((stretched, "Largest deviation of a bond"), (met, "Closest pair of atoms")):
        broken = replace(run, trajectory=replace(run.trajectory, positions=bad))
        assert not verdict(broken)[name]
        assert not analyse_run(broken).bonds_kept
    assert verdict(run)["Largest deviation of a bond"]
    assert analyse_run(replace(run, trajectory=replace(run.trajectory, positions=stretched))).worst_bond == (0, 1)
    assert analyse_run(
        replace(run, trajectory=replace(run.trajectory, positions=met))
    ).closest_contact * ANGSTROM == pytest.approx(0.5)


def test_bonds_are_held_against_the_reference_that_is_given():
    run = made_up(np.full(50, 300.0), np.zeros(50))
    larger = ammonia().with_positions(1.1 * ammonia().positions)
    assert analyse_run(run, larger).largest_bond_ratio == pytest.approx(1.0 / 1.1)


def test_runs_of_a_folder_come_by_temperature(folder):
    assert [run.config.temperature for run in read_runs(folder)] == [300.0, 500.0]
    assert len(read_runs(folder / "md-300")) == 1


def test_folders_without_a_run_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match=r"run\.json"):
        read_runs(tmp_path)
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"run\.json:1"):
        read_runs(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": "fflux-run-1", "config": {"speed": 3}}', encoding="utf-8")
    with pytest.raises(FileFormatError, match="config"):
        read_runs(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": "another"}', encoding="utf-8")
    with pytest.raises(FileFormatError, match="another"):
        read_runs(tmp_path)


def test_too_few_reports_are_refused():
    with pytest.raises(InputError, match="20 reports"):
        analyse_run(made_up(np.full(10, 300.0), np.zeros(10)))


def test_report_of_a_folder(folder):
    path, criteria = report_runs(folder)
    assert path == (folder / "report.html").resolve()
    page = path.read_text(encoding="utf-8")
    for run in read_runs(folder):
        assert f"Molecular dynamics: {run.label}" in page
        assert run.record["model_sha256"] in page
    assert page.index("NVT 300 K") < page.index("NVT 500 K")
    assert len(criteria) == 10
    assert f"{sum(c.passed for c in criteria)} of 10 criteria met" in page


def test_report_of_a_run_that_stopped_at_once(tmp_path):
    """Two ammonia molecules' worth of heat: the guard stops it, and the report says so."""
    config = MDConfig(steps=400, temperature=60000.0, report_every=50, seed=1)
    with pytest.raises(GuardTripped):
        run_nvt(ammonia_morse(), ammonia(), config, tmp_path)
    path, criteria = report_runs(tmp_path, tmp_path / "stopped.html")
    assert [criterion.passed for criterion in criteria] == [False]
    run = read_run(tmp_path)
    assert (run.status, criteria[0].value) == ("stopped", float(run.steps_done))
    assert run.steps_done < 400
    assert "not met" in path.read_text(encoding="utf-8")
