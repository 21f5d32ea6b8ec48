"""Coverage of predictive deviations, and the factors that set it right."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.analysis.calibration import (
    TRAJECTORIES,
    calibrate,
    calibration_halves,
    coverage_curve,
    deviation_factor,
    independent,
    reliability,
)
from fflux_py.analysis.prediction_errors import ALL
from fflux_py.analysis.report.prediction_plots import reliability_diagram
from fflux_py.analysis.report.sections import validation_section
from fflux_py.analysis.validate import validate
from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.forcefield import ForceField
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.training import TrainingConfig, train
from tests.support.cli_support import Files, fflux, methanol_data
from tests.support.synthetic import fitted, label, malondialdehyde, sample

RNG_SIZE = 4000


def _held_out(dataset: Dataset) -> np.ndarray:
    return np.flatnonzero([split == "test" for split in dataset.geometries.split])


@cache
def _calibrated() -> ForceField:
    data = methanol_data()
    model = train(data, TrainingConfig(n_train=12, max_iterations=1, subset=4))
    held_out = _held_out(data)
    first, _ = calibration_halves(data.geometries.select(held_out))
    return calibrate(model, data, held_out[first], neighbours=4)


@pytest.mark.parametrize("true_factor", [0.05, 1.0, 7.0])
def test_the_factor_of_normal_errors_is_found(true_factor: float) -> None:
    rng = np.random.default_rng(2)
    sigma = np.exp(rng.normal(size=RNG_SIZE))
    errors = true_factor * sigma * rng.normal(size=RNG_SIZE)
    assert deviation_factor(errors, sigma) == pytest.approx(true_factor, rel=0.04)
    figures = reliability(errors, true_factor * sigma)
    assert figures.within_1_sigma == pytest.approx(0.683, abs=0.02)
    assert figures.within_2_sigma == pytest.approx(0.954, abs=0.01)
    assert figures.rms_z == pytest.approx(1.0, abs=0.03)
    assert figures.rank_correlation > 0.4


def test_outliers_do_not_decide() -> None:
    """Student errors with three degrees of freedom: their root mean square covers far too many within one sigma."""
    rng = np.random.default_rng(3)
    errors, sigma = rng.standard_t(3, RNG_SIZE), np.ones(RNG_SIZE)
    figures = reliability(errors, deviation_factor(errors, sigma) * sigma)
    assert 0.60 < figures.within_1_sigma < 0.76
    assert 0.90 < figures.within_2_sigma < 0.98
    by_likelihood = reliability(errors, np.sqrt((errors**2).mean()) * sigma)
    assert by_likelihood.within_1_sigma > 0.76


def test_the_factor_undoes_the_unit_of_the_deviations() -> None:
    rng = np.random.default_rng(4)
    errors, sigma = rng.normal(size=(50, 6)), np.exp(rng.normal(size=(50, 6)))
    assert deviation_factor(errors, 3.0 * sigma) == pytest.approx(deviation_factor(errors, sigma) / 3.0, rel=1e-12)
    assert deviation_factor(-errors, sigma) == deviation_factor(errors, sigma)


def test_reliability_worked_out_by_hand() -> None:
    figures = reliability(np.array([0.5, -1.5, 3.0, np.nan]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert (figures.n, figures.within_1_sigma, figures.within_2_sigma) == (3, 1 / 3, 2 / 3)
    assert figures.rms_z == pytest.approx(np.sqrt((0.25 + 2.25 + 9.0) / 3))
    assert np.isnan(figures.rank_correlation)  # deviations that are all alike foresee nothing
    assert figures.as_dict()["rank_correlation"] is None
    ordered = reliability(np.array([0.1, -0.2, 3.0]), np.array([1.0, 2.0, 3.0]))
    assert ordered.rank_correlation == pytest.approx(1.0)
    with pytest.raises(InputError, match="at least one"):
        reliability(np.array([np.nan]), np.ones(1))
    with pytest.raises(InputError, match="as many"):
        reliability(np.ones(2), np.ones(3))


def test_curve_of_normal_errors_is_the_diagonal() -> None:
    errors = np.random.default_rng(5).normal(size=RNG_SIZE)
    expected, observed = coverage_curve(errors, np.ones(RNG_SIZE))
    assert np.abs(expected - observed).max() < 0.03
    assert (expected[0], observed[0], expected[-1], observed[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff(expected) >= 0.0).all()
    # Deviations that are half as large as they should be: the curve lies below the diagonal.
    expected, observed = coverage_curve(errors, 0.5 * np.ones(RNG_SIZE))
    assert (observed[1:-1] <= expected[1:-1] + 1e-3).all()


def test_halves_are_whole_trajectories_of_every_kind() -> None:
    names = [f"{kind}-s{k}" for kind in ("nvt-300K", "nvt-1000K", "wtmetad-300K") for k in (1, 2)]
    warm = {"nvt-300K": 300.0, "nvt-1000K": 1000.0, "wtmetad-300K": 300.0}
    source = tuple(name for name in names for _ in range(3))
    temperature = np.array([warm[name.rsplit("-", 1)[0]] for name in source])
    geometries = GeometrySet(label(sample(1)).molecule, sample(18), source, temperature, ("test",) * 18)
    first, second = calibration_halves(geometries)
    assert sorted([*first, *second]) == list(range(18))
    sources = [{source[i] for i in half} for half in (first, second)]
    assert not sources[0] & sources[1]
    for half in sources:
        assert {name.rsplit("-", 1)[0] for name in half} == set(warm)
    with pytest.raises(InputError, match="two trajectories"):
        calibration_halves(geometries.select([0, 1, 2]))


def test_calibration_holds_on_other_trajectories() -> None:
    """The model was calibrated at 300 K; reported are the frames of the other trajectory, at 1000 K."""
    data, model = methanol_data(), _calibrated()
    assert model.metadata[TRAJECTORIES] == "nvt-300K-s3"
    assert set(model.calibration) == {"total", "atomic", "neighbours"}
    validation = validate(model, data)
    sources = np.array(validation.dataset.geometries.source)
    assert (validation.independent == (sources != "nvt-300K-s3")).all()
    # On the calibration frames themselves both shares are right by construction.
    own = ~validation.independent
    inside = reliability(validation.errors.energy_errors[own], validation.deviations[own])
    assert 0.5 < inside.within_1_sigma < 0.85
    assert inside.within_2_sigma > 0.8
    assert validation.reliability()[ALL].n == validation.independent.sum() == 20
    assert validation.atomic_reliability()[ALL].n == 120
    # Hot geometries lie further from the data: the deviations say so.
    assert validation.deviations[validation.independent].mean() > 1.5 * validation.deviations[own].mean()
    assert independent(fitted(), data).all()


def test_calibration_is_refused_on_training_geometries_and_other_molecules() -> None:
    data, model = methanol_data(), _calibrated()
    with pytest.raises(InputError, match="'train'"):
        calibrate(model, data, np.arange(len(data)))
    with pytest.raises(InputError, match="at least one"):
        calibrate(model, data, [])
    other = malondialdehyde()
    geometries = GeometrySet(other, other.positions[None], ("nvt-300K-s1",), np.array([300.0]), ("test",))
    labels = {"method": "b3lyp", "basis": "", "partition": "none"}
    zeros = np.zeros((1, 9))
    with pytest.raises(ModelMismatchError):
        calibrate(model, Dataset(geometries, np.zeros(1), np.zeros((1, 9, 3)), zeros, zeros, zeros, labels), [0])


def test_energy_only_models_are_calibrated_too() -> None:
    data = methanol_data()
    held_out = _held_out(data)
    first, _ = calibration_halves(data.geometries.select(held_out))
    model = calibrate(fitted(), data, held_out[first])
    assert set(model.calibration) == {"total", "atomic"}
    assert validate(model, data).calibrated


def test_a_partition_is_not_needed() -> None:
    data = label(sample(8, seed=9), "nvt-500K-s9", "test")
    missing = np.full_like(data.atomic_energies, np.nan)
    plain = Dataset(data.geometries, data.energies, data.forces, missing, missing, missing, data.metadata)
    model = calibrate(_calibrated(), plain, np.arange(8), neighbours=4)
    assert "atomic" not in model.calibration
    assert validate(_calibrated(), plain).atomic_reliability() == {}


def test_diagram_and_section() -> None:
    validation = validate(_calibrated(), methanol_data())
    figure = reliability_diagram(validation)
    left, right = figure.axes
    assert left.get_xlim() == (0.0, 100.0)
    assert len(right.collections[0].get_offsets()) == validation.independent.sum()
    section = validation_section(validation)
    tables = [item for item in section.items if hasattr(item, "rows")]
    assert any("Within 1 σ (%)" in table.columns for table in tables)
    assert "calibrated on other trajectories" in tables[-1].caption


def test_command_line(tmp_path: Path) -> None:
    files = Files.make(tmp_path)
    output = tmp_path / "calibrated.npz"
    answer = fflux(
        "validate", files.model, files.data, "--calibrate", "-o", output, "--plots", tmp_path / "p", "--json"
    )
    assert answer.code == 0
    figures = answer.json
    assert figures["uncertainty"]["calibrated"]
    assert figures["uncertainty"]["n_frames"] == 20
    assert figures["calibration"] == dict(model_file.load(output).calibration)
    assert (tmp_path / "p" / "reliability.svg").is_file()
    assert "within two (normal: 68 and 95)" in fflux("validate", output, files.data).out.replace("\n", " ")
    for wrong in (("--calibrate",), ("-o", output), ("--neighbours", 4)):
        answer = fflux("validate", files.model, files.data, *wrong)
        assert answer.code == 2
        assert "--calibrate" in answer.err
