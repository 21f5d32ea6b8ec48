"""Every radial kernel from data to dynamics, by the command line alone; other tests do so with the default."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.gp.radial_kernel import KERNELS
from tests.support.cli_support import Files, fflux, refused
from tests.support.synthetic import sample


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files.make(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize("fit", ["--forces", "--no-forces"])
@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "squared-exponential"])
def test_a_trained_model_has_forces_deviations_and_dynamics(
    files: Files, tmp_path: Path, kernel: str, fit: str
) -> None:
    if fit == "--no-forces":
        pytest.importorskip("gpytorch")
    path = tmp_path / "model.npz"
    n_train = 30 if fit == "--forces" else 80
    trained = fflux("train", files.data, "-o", path, "--kernel", kernel, fit, "--n-train", n_train, "--threads", 1)
    assert trained.code == 0, trained.err
    forcefield = model_file.load(path)
    assert {model.covariance.kernel for model in forcefield.atoms} == {KERNELS[kernel]}

    positions = sample(2, 400.0, seed=9)
    energies, forces = forcefield.compute(positions)
    assert forces is not None
    direction = np.random.default_rng(1).standard_normal(positions.shape)
    e = [forcefield.compute(positions + n * 1e-3 * direction, deriv=0)[0] for n in (-2, -1, 1, 2)]
    slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / 12e-3
    np.testing.assert_allclose(-(direction * forces).sum(axis=(1, 2)), slope, rtol=1e-6, atol=2e-7)
    atomic = np.stack([model.energy(positions) for model in forcefield.atoms], axis=-1)
    np.testing.assert_allclose(atomic.sum(axis=1), energies, rtol=0, atol=1e-9)

    deviations = forcefield.deviations(np.concatenate([positions, 1.3 * positions[:1]]))
    assert (deviations > 0.0).all()
    assert deviations[2] > 2.0 * deviations[0]

    run = tmp_path / "run"
    settings = ["--thermostat", "none", "--temperature", 200, "--timestep", 0.25, "--steps", 200, "--seed", 1]
    ran = fflux("md", path, files.start, "-o", run, *settings, "--report-every", 20)
    assert ran.code == 0, ran.err
    with (run / "thermo.csv").open() as rows:
        conserved = [float(row["conserved_hartree"]) for row in csv.DictReader(line for line in rows if line[0] != "#")]
    assert np.ptp(conserved) < 2e-5


def test_an_unknown_kernel_is_refused_with_all_names(files: Files, tmp_path: Path) -> None:
    line = refused("train", files.data, "-o", tmp_path / "model.npz", "--kernel", "gaussian")
    assert f"kernel: expected one of {', '.join(KERNELS)}, found 'gaussian'" in line
