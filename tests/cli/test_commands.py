"""Every command on a small molecule: what it writes, and that its figures are those of the library."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.analysis.geometry import rmsd
from fflux_py.analysis.runs import read_run
from fflux_py.errors import ConvergenceError
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.extended_xyz import read_frames, read_molecule, write_molecule
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import normal_modes
from fflux_py.optimization.search import optimize as minimise
from fflux_py.training.trainer import training_indices
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM, KCAL_MOL
from tests.support.cli_support import Files, fflux
from tests.support.synthetic import MethanolPotential, fitted, methanol


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("files"))


def test_sampling_plan_of_the_defaults_is_that_of_the_library() -> None:
    from fflux_py.cli.commands.sample import plan
    from fflux_py.sampling import SamplingConfig

    made = plan([300.0, 500.0, 1000.0], True, 500, 220, 1)
    assert made == SamplingConfig()


@pytest.mark.parametrize(
    ("temperatures", "biased"), [([300.0], {300.0}), ([300.0, 900.0], {300.0}), ([200.0, 300.0, 400.0], {200.0, 300.0})]
)
def test_sampling_plan_biases_all_temperatures_but_the_highest(temperatures: list[float], biased: set[float]) -> None:
    from fflux_py.cli.commands.sample import plan

    for bias, expected in ((True, biased), (False, set())):
        classes = plan(temperatures, bias, 103, 11, 4).classes
        assert {c.temperature for c in classes if c.bias == "torsions"} == expected
        assert {c.temperature for c in classes if c.bias == "none"} == set(temperatures)
        assert sum(c.train_frames for c in classes) == 103
        assert sum(c.test_frames for c in classes) == 11


def test_sample(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    # Not GFN2 here: the analytic potential of methanol, whose geometries and energies the tests know.
    module = importlib.import_module("fflux_py.sampling.sampler")
    monkeypatch.setattr(module, "_gfn2", lambda molecule: MethanolPotential())
    out = tmp_path / "geometries.extxyz"
    arguments = [files.start, "-o", out, "--temperature", 300, "--bias", "none", "--frames", 3, "--test-frames", 1]
    answer = fflux("sample", *arguments, "--seed", 5, "--json")
    assert answer.code == 0, answer.err
    geometries = GeometrySet.read(out)
    assert len(geometries) == 4
    assert (geometries.split.count("train"), geometries.split.count("test")) == (3, 1)
    assert set(geometries.temperature) == {300.0}
    assert answer.json["n_train"] == 3
    assert answer.json["seed"] == 5
    assert answer.json["trajectory_kinds"] == {"nvt-300K": {"train": 3, "test": 1}}
    energies, _ = MethanolPotential().compute(geometries.positions)
    lowest = MethanolPotential().energy_and_forces(geometries.molecule.positions)[0]
    # 12 vibrations hold 6 kT = 3.6 kcal/mol on average.
    assert 0.5 < (energies.mean() - lowest) * KCAL_MOL < 12.0


@pytest.fixture(scope="module")
def hydrogen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hydrogen molecules."""
    molecule = Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]]), name="H2")
    positions = np.array([molecule.positions * scale for scale in (0.9, 1.0, 1.1, 1.2)])
    path = tmp_path_factory.mktemp("hydrogen") / "geometries.extxyz"
    GeometrySet(molecule, positions, ("run",) * 4, np.full(4, 300.0), ("train",) * 4).write(path)
    return path


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The campaign of labels with its workers in this process, which spares the start of others."""
    pytest.importorskip("pyscf")
    from fflux_py.iqa import campaign

    def here(function: Any, tasks: Any, workers: int, threads: int) -> Any:
        return ((task, function(task)) for task in tasks)

    monkeypatch.setattr(campaign, "run_in_processes", here)
    return campaign


def test_label_and_label_again(hydrogen: Path, tmp_path: Path, campaign: ModuleType) -> None:
    out = tmp_path / "data.extxyz"
    arguments = [hydrogen, "-o", out, "--method", "hf", "--basis", "sto-3g", "--json"]
    first = fflux("label", *arguments, "--limit", 2)
    assert first.code == 0, first.err
    assert (first.json["n_computed"], first.json["n_reused"], first.json["n_labelled"]) == (2, 0, 2)
    second = fflux("label", *arguments)
    assert (second.json["n_computed"], second.json["n_reused"], second.json["n_labelled"]) == (2, 2, 4)
    data = Dataset.read(out)
    assert (data.metadata["method"], data.metadata["basis"], data.metadata["partition"]) == (
        "hf",
        "sto-3g",
        "hirshfeld",
    )
    # Hydrogen in the minimal basis at 1.4 bohr (Szabo and Ostlund, Modern Quantum Chemistry, sec. 3.5.2).
    assert data.energies[1] == pytest.approx(-1.1167, abs=2e-4)
    np.testing.assert_allclose(data.atomic_energies.sum(axis=1), data.energies, atol=1e-8)
    assert len(list((tmp_path / "data.extxyz.labels").glob("[0-9a-f]*.json"))) == 4


def test_atomic_energies_of_the_first_geometries(hydrogen: Path, tmp_path: Path, campaign: ModuleType) -> None:
    out = tmp_path / "data.extxyz"
    arguments = [hydrogen, "-o", out, "--method", "hf", "--basis", "sto-3g", "--partition-first", 1]
    answer = fflux("label", *arguments)
    assert answer.code == 0, answer.err
    assert "1 of them have atomic energies." in answer.out
    assert Dataset.read(out).has_atomic_energies.tolist() == [True, False, False, False]
    counted = fflux("label", *arguments, "--json").json
    assert (counted["n_computed"], counted["n_reused"], counted["n_partitioned"]) == (0, 4, 1)


def test_shares_of_a_job_array(hydrogen: Path, tmp_path: Path, campaign: ModuleType) -> None:
    out, folder = tmp_path / "data.extxyz", tmp_path / "labels"
    arguments = [hydrogen, "-o", out, "--basis", "sto-3g", "--partition", "none", "--folder", folder, "--json"]
    first = fflux("label", *arguments, "--array", "0/2")
    assert (first.json["n_labelled"], first.json["n_missing"]) == (2, 2)
    np.testing.assert_array_equal(Dataset.read(out).positions, GeometrySet.read(hydrogen).positions[[0, 2]])
    second = fflux("label", *arguments, "--array", "1/2")
    assert (second.json["n_labelled"], second.json["n_missing"]) == (4, 0)
    assert not Dataset.read(out).has_atomic_energies.any()


def test_scf_that_does_not_converge_is_recorded(
    hydrogen: Path, tmp_path: Path, campaign: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = campaign.label_geometry

    def fails_when_long(molecule: Molecule, *rest: Any) -> Any:
        if np.linalg.norm(molecule.positions[1] - molecule.positions[0]) > 1.6:
            raise ConvergenceError(molecule.name, "a converged SCF", "none", "check the geometry")
        return compute(molecule, *rest)

    monkeypatch.setattr(campaign, "label_geometry", fails_when_long)
    out = tmp_path / "data.extxyz"
    arguments = [hydrogen, "-o", out, "--basis", "sto-3g", "--partition", "none"]
    answer = fflux("label", *arguments)
    assert answer.code == 0
    assert "3 of 4 geometries labelled (4 computed now, 0 reused, 1 failed)" in answer.out
    assert "geometry 4 failed: H2 geometry 4: expected a converged SCF, found none" in answer.out
    again = fflux("label", *arguments, "--json").json
    assert (again["n_failed"], again["n_reused"], again["n_labelled"]) == (1, 4, 3)
    (failed,) = again["failed"]
    assert failed["geometry"] == 4
    assert failed["reason"].startswith("H2 geometry 4: expected a converged SCF, found none")
    data = Dataset.read(out)
    assert len(data) == 3
    assert data.metadata["failed_geometries"] == 1


def test_label_in_a_worker_process(hydrogen: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    out = tmp_path / "data.extxyz"
    answer = fflux("label", hydrogen, "-o", out, "--basis", "sto-3g", "--partition", "none", "--limit", 1, "--json")
    assert answer.code == 0, answer.err
    assert len(Dataset.read(out)) == 1


def test_train_with_forces(files: Files, tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    out = tmp_path / "model.npz"
    answer = fflux("train", files.data, "-o", out, "--n-train", 16, "--threads", 1, "--json")
    assert answer.code == 0, answer.err
    model = model_file.load(out)
    assert answer.json["n_train"] == model.metadata["n_train"] == 16
    assert answer.json["fit"] == "atomic energies, total energies and forces"
    assert answer.json["n_test_available"] == 40
    data = Dataset.read(files.data)
    assert answer.json["data_digest"] == data.digest()
    test = data.with_split("test")
    _, forces = model.unmatched.compute(test.positions)
    assert forces is not None
    assert np.abs(forces - test.forces).mean() < 0.5 * np.abs(test.forces).mean()


def test_train_on_energies_only(files: Files, tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    out = tmp_path / "model.npz"
    answer = fflux("train", files.data, "-o", out, "--no-forces", "--n-train", 5, "--prior-mean", "MF5", "--threads", 1)
    most = len(training_indices(Dataset.read(files.data), None, forces=False))
    assert answer.code == 0, answer.err
    assert f"{most - 5} more are marked for training: --n-train {most} learns them" in " ".join(answer.out.split())
    model, data = model_file.load(out), Dataset.read(files.data)
    assert model.metadata["fit"] == "atomic energies"
    np.testing.assert_array_equal(model.atoms[1].energies, data.with_split("train").atomic_energies[:5, 1])
    assert (model.atoms[0].mean_name, model.atoms[0].mean) == ("MF5", pytest.approx(-37.80))


def test_validate(files: Files, tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    answer = fflux("validate", files.model, files.data, "--plots", plots, "--json")
    assert answer.code == 0, answer.err
    test = Dataset.read(files.data).with_split("test")
    energies, _ = fitted().unmatched.compute(test.positions)
    assert answer.json["n_frames"] == 40
    assert answer.json["energy_mae_kcal_mol"] == pytest.approx(np.abs(energies - test.energies).mean() * KCAL_MOL)
    assert set(answer.json["groups"]) == {"all", "300-500 K", "1000 K"}
    for name in ("predicted.svg", "s_curve.svg", "atoms.svg"):
        assert (plots / name).read_text().rstrip().endswith("</svg>")
    names = ("predicted.svg", "s_curve.svg", "atoms.svg", "reliability.svg")
    assert answer.json["pictures"] == [str(plots / name) for name in names]


def test_validate_prints_a_table(files: Files) -> None:
    answer = fflux("validate", files.model, files.data)
    assert answer.code == 0
    mae = fflux("validate", files.model, files.data, "--json").json["groups"]["1000 K"]["energy_mae_kcal_mol"]
    (row,) = [line for line in answer.out.splitlines() if "1000 K" in line]
    assert f"{mae:.3g}" in row
    assert answer.err == ""


def test_optimize(files: Files, tmp_path: Path) -> None:
    molecule = methanol()
    write_molecule(tmp_path / "far.xyz", molecule.with_positions(molecule.positions * 1.03))
    out = tmp_path / "minimum.xyz"
    answer = fflux("optimize", files.model, tmp_path / "far.xyz", "-o", out, "--fmax", 0.002, "--frequencies", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["method"], answer.json["imaginary_modes"]) == ("newton", 0)
    waves = answer.json["wavenumbers_per_cm"]
    modes = normal_modes(fitted(), np.array(read_molecule(out).positions), molecule.masses)
    np.testing.assert_allclose(waves, modes.wavenumbers, rtol=1e-9)
    assert answer.json["zero_point_energy_kcal_mol"] == pytest.approx(0.5 * sum(waves) * 2.8591e-3, rel=1e-4)
    minimum = read_molecule(out)
    energy, forces = fitted().energy_and_forces(minimum.positions)
    assert np.linalg.norm(forces, axis=1).max() * EV_ANGSTROM < 0.002
    assert answer.json["energy_ev"] == pytest.approx(energy * EV, abs=1e-9)
    assert answer.json["energy_lowered_kcal_mol"] > 0.1
    # The model was fitted to an analytic potential: its minimum must be that one's too.
    exact = minimise(MethanolPotential(), methanol(), 1e-6).molecule
    assert rmsd(minimum.positions, exact.positions) * ANGSTROM < 0.02
    info = read_frames(out)[0].info
    assert info["model_energy_ev"] == pytest.approx(energy * EV, abs=1e-9)
    assert "energy" not in info


def test_md_and_its_report(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [files.model, files.start, "--steps", 400, "--timestep", 0.5, "--temperature", 300, "--seed", 3]
    answer = fflux("md", *arguments, "--report-every", 4, "-o", run, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["steps_done"] == 400
    (figures,) = answer.json["runs"]
    assert (figures["status"], figures["time_ps"], figures["n_frames"]) == ("completed", 0.2, 101)
    assert figures["bonds_kept"] is True
    assert figures["conserved_deviation_kcal_mol"] < 0.5
    stored = read_run(run)
    assert (stored.config.seed, stored.config.timestep, stored.config.temperature) == (3, 0.5, 300.0)
    written = fflux("report", run, "--data", files.data, "--json")
    assert written.code == 0, written.err
    page = Path(written.json["report"])
    assert page == (run / "report.html").resolve()
    assert page.read_text().rstrip().endswith("</html>")
    assert "NVT 300 K, seed 3" in page.read_text()
    assert written.json["n_criteria_met"] == sum(c["passed"] for c in written.json["criteria"])


def test_md_gives_the_run_of_the_library(files: Files, tmp_path: Path) -> None:
    from fflux_py.dynamics import MDConfig, run_nvt

    config = MDConfig(steps=50, temperature=400.0, timestep=0.5, report_every=5, seed=7)
    reference = run_nvt(fitted(), methanol(), config)
    run = tmp_path / "run"
    answer = fflux("md", files.model, files.start, "--steps", 50, "--temperature", 400, "--timestep", 0.5,
                   "--report-every", 5, "--seed", 7, "-o", run)  # fmt: skip
    assert answer.code == 0, answer.err
    np.testing.assert_allclose(read_run(run).trajectory.potential, reference.potential, rtol=0, atol=1e-9)


def test_md_replicas(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = fflux("md", files.model, files.start, "--steps", 20, "--replicas", 2, "-o", run, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["steps_done"] == 40
    assert len(answer.json["runs"]) == 2
    assert sorted(entry.name for entry in run.iterdir() if entry.is_dir()) == ["replica-000", "replica-001"]


def test_md_that_a_guard_stops_tells_the_figures_and_ends_with_its_code(files: Files, tmp_path: Path) -> None:
    run = tmp_path / "run"
    hot = ["--steps", 20000, "--temperature", 30000, "--report-every", 1]
    answer = fflux("md", files.model, files.start, *hot, "-o", run, "--json")
    assert answer.code in (4, 5, 6)  # whichever comes first: bond, contact, energy
    assert answer.json["status"] == "error"
    assert answer.json["exit_code"] == answer.code
    assert 0 < answer.json["steps_done"] < 20000
    assert answer.json["runs"][0]["status"] == "stopped"
    *warnings, last = answer.err.splitlines()
    assert last.startswith("fflux md: step ")
    assert all(line.startswith("guard conserved, replica 0: ") for line in warnings)
    assert (run / "stopped.extxyz").is_file() or "NaN" in answer.err
    report = fflux("report", run)
    assert report.code == 0
    assert "not met: " in report.out


def test_convert_changes_the_mean_as_training_would(files: Files, tmp_path: Path) -> None:
    out = tmp_path / "mf1.npz"
    answer = fflux("convert", files.model, out, "--prior-mean", "MF1", "--json")
    assert answer.code == 0, answer.err
    before, after = fitted().unmatched, model_file.load(out).unmatched
    assert answer.json["prior_means_hartree"] == [0.0] * 6
    assert (answer.json["prior_mean_before"], answer.json["prior_mean"]) == ("MF5", "MF1")
    means = np.array([atom.mean for atom in before.atoms])
    inside, far = before.molecule.positions, before.molecule.positions * 3.0
    for positions, followed in ((inside, (0.0, 1e-3)), (far, (5e-3, 1.0))):
        # An energy follows its prior mean by 1 - s: hardly at all inside the data (s = 1), far outside it does.
        shift = before.atomic_energies(positions) - after.atomic_energies(positions)
        np.testing.assert_allclose(shift, means * (1.0 - before.coverage(positions)), atol=1e-8)
        assert followed[0] <= shift.sum() / means.sum() < followed[1]


def test_convert_in_place(files: Files, tmp_path: Path) -> None:
    target = tmp_path / "model.npz"
    target.write_bytes(files.model.read_bytes())
    assert fflux("convert", files.model, target, "--prior-mean", "max").code == 0
    assert model_file.load(target).atoms[0].mean_name == "max"


@pytest.mark.slow
def test_warmup() -> None:
    pytest.importorskip("gpytorch")
    answer = fflux("warmup", "--json")
    assert answer.code == 0, answer.err
    assert {"training", "forces", "dynamics"} <= set(answer.json["compile_time_s"])


def test_springs_of_the_warmup_have_the_right_forces() -> None:
    from fflux_py.cli.commands.warmup import _spring_energies, _springs

    data = _springs()
    reference = data.molecule.positions
    for positions, forces in zip(data.positions, data.forces, strict=True):
        shift = np.random.default_rng(0).standard_normal(positions.shape)
        energies = [_spring_energies(positions + h * shift, reference)[0].sum() for h in (-1e-4, 1e-4)]
        assert -(forces * shift).sum() == pytest.approx((energies[1] - energies[0]) / 2e-4, abs=1e-8)
