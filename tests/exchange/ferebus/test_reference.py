"""Public models and figures of ICHOR, FEREBUS and DL_FFLUX; skipped where the reference data are not there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from fflux_py.exchange.dl_fflux import read_dl_fflux, total
from fflux_py.exchange.ferebus.consistency import read_model
from fflux_py.exchange.ferebus.folder import read_models
from fflux_py.exchange.ferebus.forcefield import count_common_geometries
from fflux_py.exchange.ferebus.model import ICHOR_JITTER
from fflux_py.exchange.ferebus.model_text import format_model, parse_model
from fflux_py.exchange.ferebus.tables import read_training_csv
from fflux_py.units import KJ_MOL


def test_predictions_and_variances_of_ichor(reference_dir: Path) -> None:
    folder = reference_dir / "ichor_gpr"
    model = read_model(folder / "WATER_MONOMER_iqa_O1.model")
    table = read_training_csv(folder / "O1_features_with_properties.txt")
    assert len(table) == 500
    predictions, variances = (np.loadtxt(folder / f"o1_{kind}.txt") for kind in ("predictions", "variance"))
    np.testing.assert_allclose(model.energies(table.features), predictions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.variances(table.features, ICHOR_JITTER), variances, rtol=0, atol=1e-12)


def test_all_models_reproduce_their_training_energies(reference_dir: Path) -> None:
    """Their largest training error is the nugget times their largest weight, to rounding: nothing else is left."""
    paths = sorted(reference_dir.rglob("*.model"))
    assert len(paths) == 7
    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = read_model(path)
        expected = abs(model.nugget) * np.abs(model.text.weights).max()
        assert model.training_error() == pytest.approx(expected, rel=1e-3, abs=1e-9)
        assert parse_model(format_model(model.text), path.name).weights.tolist() == model.text.weights.tolist()


def test_periodic_ammonia_of_ichor(reference_dir: Path) -> None:
    model = read_model(reference_dir / "ichor_gpr" / "AMMONIA_iqa_N1.model")
    assert model.reading.periodic_factor == 4.0
    assert model.text.nugget is None
    assert model.nugget == pytest.approx(1.33e-8, rel=1e-2)


@pytest.mark.parametrize("name", ["WATER_iqa_O1", "AMMONIA_iqa_N1"])
def test_likelihoods_of_ferebus(name: str, reference_dir: Path) -> None:
    model = read_model(reference_dir / "ferebus_paper" / f"{name}_marginal.model")
    assert model.text.likelihood is not None
    assert model.log_likelihood() == pytest.approx(model.text.likelihood, rel=1e-6)
    system, _, atom = name.split("_")
    table = read_training_csv(reference_dir / "ferebus_paper" / f"{system}_{atom}_TRAINING_SET.csv")
    np.testing.assert_allclose(table.features, model.text.x, rtol=1e-15)
    np.testing.assert_allclose(table.energies, model.text.y, rtol=1e-15)


def test_unwrapped_azimuths_of_ferebus(reference_dir: Path) -> None:
    folder = reference_dir / "ferebus_paper"
    model = read_model(folder / "AMMONIA_iqa_N1_marginal.model")
    assert np.ptp(model.text.x[:, 5]) > 6.25
    assert not model.reading.wrap_rbf
    table = read_training_csv(folder / "AMMONIA_N1_VALIDATION_SET.csv")
    error = (model.energies(table.features) - table.energies) * KJ_MOL
    assert np.sqrt((error**2).mean()) == pytest.approx(0.115, abs=5e-4)


def test_water_of_dl_fflux(reference_dir: Path) -> None:
    (species,) = read_dl_fflux(reference_dir / "dl_fflux_water")
    assert species.positions.shape == (343, 3, 3)
    energies, forces = species.forcefield.compute(species.positions)
    assert forces is not None
    assert total([species]) == pytest.approx(-26226.878133861, abs=1e-6)
    assert (energies.min(), energies.max()) == pytest.approx((-76.46530, -76.45581), abs=1e-5)
    # Richardson's extrapolation of central differences, along one random direction for all molecules
    direction = np.random.default_rng(0).normal(size=species.positions.shape)

    def slope(h: float) -> np.ndarray:
        ahead, behind = (species.forcefield.compute(species.positions + s * h * direction, 0)[0] for s in (1, -1))
        return np.asarray((ahead - behind) / (2.0 * h))

    numerical = (4.0 * slope(1e-3) - slope(2e-3)) / 3.0
    np.testing.assert_allclose(-(forces * direction).sum((1, 2)), numerical, rtol=0, atol=1e-7)
    assert min(count_common_geometries(read_models(reference_dir / "dl_fflux_water" / "model_krig"))) > 10
