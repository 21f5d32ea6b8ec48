"""Methods, basis sets and partitions: every supported kind sums to its SCF energy, every other is refused in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyscf")

from scipy.spatial.transform import Rotation

from fflux_py.errors import InputError
from fflux_py.iqa.atomic_energies import WeightFunction
from fflux_py.iqa.labelling import label_geometry
from fflux_py.iqa.partition import becke, hirshfeld
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import KCAL_MOL

SMALL = LevelOfTheory(basis="6-31g(d)", grid_level=3)
WATER = Molecule(("O", "H", "H"), np.array([[0.1, -0.2, 0.3], [1.9, 0.2, -0.1], [-0.6, 1.5, 0.9]]), name="water")
HELIUM_PAIR = Molecule(("He", "He"), np.array([[0.0, 0.0, 0.0], [0.0, 1.2, 2.4]]), name="He2")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


@pytest.mark.parametrize("cartesian", [True, False])
@pytest.mark.parametrize("method", ["hf", "lda,vwn", "pbe", "pbe0", "tpss", "scan", "m06-2x"])
def test_every_kind_of_method_sums_to_its_energy(method: str, cartesian: bool) -> None:
    found = label_geometry(
        WATER, replace(SMALL, method=method, basis_functions="cartesian" if cartesian else "spherical")
    )
    assert found.atomic_energies.sum() == pytest.approx(found.energy, abs=1e-10)
    # The density of the local functional is PySCF's own, on PySCF's grid: the integral misses next to nothing.
    assert abs(found.residuals["local_xc"]) < 1e-7
    assert max(abs(r) for r in found.residuals.values()) < 2e-5
    assert (found.components["local_xc"].sum() == 0.0) == (method == "hf")
    assert (found.components["exact_exchange"].sum() == 0.0) == (method in ("lda,vwn", "pbe", "tpss", "scan"))


def test_basis_functions_are_those_asked_for() -> None:
    cartesian, spherical = (
        GroundState(WATER, replace(SMALL, basis_functions=kind)).occupied_orbitals()
        for kind in ("cartesian", "spherical")
    )
    assert len(cartesian.coefficients) - len(spherical.coefficients) == 1  # one d shell, on oxygen


def test_kinetic_energy_density_of_one_orbital_is_von_weizsackers() -> None:
    # For two electrons tau = |grad rho|^2 / (8 rho), so a meta-GGA must take the value it has for that tau.
    state = GroundState(
        Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.4]])), replace(SMALL, method="tpss")
    )
    points = np.random.default_rng(2).normal(size=(200, 3)) + np.array([0.0, 0.0, 0.7])
    orbitals = state.orbitals(points)
    density = 2.0 * (orbitals[0] ** 2).sum(axis=0)
    gradient = 4.0 * np.einsum("ip,xip->xp", orbitals[0], orbitals[1:])
    tau = np.einsum("xip,xip->p", orbitals[1:], orbitals[1:])
    weizsacker = (gradient**2).sum(axis=0) / (8.0 * density)
    np.testing.assert_allclose(tau, weizsacker, rtol=1e-10)
    values = [state.local_xc_density(np.vstack([density[None], gradient, t[None]])) for t in (tau, 1.5 * tau)]
    assert np.abs(values[1] / values[0] - 1.0).max() > 1e-3
    with pytest.raises(InputError, match="5 rows for tpss"):
        state.local_xc_density(np.vstack([density[None], gradient]))


@pytest.mark.parametrize("method", ["tpss", "m06-2x"])
def test_forces_of_meta_ggas_are_the_gradient_of_the_energy(method: str) -> None:
    level = replace(SMALL, method=method, convergence=1e-11, gradient_convergence=1e-6)
    direction = np.random.default_rng(4).normal(size=(3, 3))
    direction /= np.linalg.norm(direction)
    step = 5e-3
    energies = [
        GroundState(WATER.with_positions(WATER.positions + k * step * direction), level).energy for k in (-2, -1, 1, 2)
    ]
    slope = np.dot([1.0, -8.0, 8.0, -1.0], energies) / (12.0 * step)
    assert slope == pytest.approx(-np.vdot(GroundState(WATER, level).forces(), direction), abs=2e-6)


@pytest.mark.parametrize(
    ("symbols", "change", "message"),
    [
        (("H", "H"), {"method": "cam-b3lyp"}, "found 'cam-b3lyp', a functional range-separated; such"),
        (("H", "H"), {"method": "wb97m-v"}, "range-separated and with non-local correlation"),
        (("H", "H"), {"method": "mgga_x_br89"}, "with the Laplacian of the density"),
        (("H", "H"), {"method": "b3lyp-d3bj"}, "whose dispersion correction is not divided here"),
        (("H", "H"), {"method": "b2plyp"}, "a functional that PySCF knows"),
        (("H", "Br"), {"basis": "cc-pvdz-pp"}, "basis: expected a basis that PySCF has|an all-electron basis for Br"),
        (("H", "I"), {"basis": "def2-svp"}, "an all-electron basis for I, found 'def2-svp'"),
    ],
)
def test_what_has_no_atomic_energies_is_refused(symbols: tuple[str, ...], change: dict[str, str], message: str) -> None:
    molecule = Molecule(symbols, np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.8]]))
    with pytest.raises(InputError, match=message) as caught:
        label_geometry(molecule, replace(SMALL, **change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights_at", [hirshfeld, becke])
def test_weights_share_every_point(weights_at: WeightFunction) -> None:
    points = np.random.default_rng(5).normal(size=(500, 3)) * 8.0
    points[:3], points[3] = WATER.positions, [80.0, 0.0, 0.0]
    weights = weights_at(WATER, SMALL, points)
    assert (weights >= 0.0).all()
    np.testing.assert_allclose(weights.sum(axis=0), 1.0, atol=1e-14)
    assert (weights[[0, 1, 2], [0, 1, 2]] > [0.99, 0.75, 0.75]).all()
    turn, shift = Rotation.random(random_state=3).as_matrix(), np.array([3.0, -2.0, 1.0])
    turned = weights_at(WATER.with_positions(WATER.positions @ turn.T + shift), SMALL, points @ turn.T + shift)
    np.testing.assert_allclose(turned, weights, atol=1e-9)


def test_becke_cells_end_where_the_radii_meet() -> None:
    molecule = Molecule(("O", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]]), charge=-1)
    # Slater's 0.60 angstrom for oxygen, Becke's 0.35 for hydrogen.
    point = np.array([[0.0, 0.0, 2.0 * 0.60 / 0.95]])
    np.testing.assert_allclose(becke(molecule, SMALL, point)[:, 0], 0.5, atol=1e-12)
    along = np.zeros((50, 3))
    along[:, 2] = np.linspace(0.0, 2.0, 50)
    weights = becke(molecule, SMALL, along)
    assert (np.diff(weights[0]) < 1e-12).all()
    np.testing.assert_allclose(weights[:, [0, -1]], np.eye(2), atol=1e-14)


@pytest.mark.parametrize("name", ["hirshfeld", "becke"])
def test_partitions_obey_symmetry_and_add_up(name: str) -> None:
    pair = label_geometry(HELIUM_PAIR, SMALL, name)
    np.testing.assert_allclose(pair.atomic_energies, pair.energy / 2.0, atol=2e-6)
    np.testing.assert_allclose(pair.charges, 0.0, atol=2e-6)
    water = label_geometry(WATER, SMALL, name)
    assert water.atomic_energies.sum() == pytest.approx(water.energy, abs=1e-10)
    assert water.charges.sum() == pytest.approx(0.0, abs=1e-12)
    assert water.charges[0] < -0.1
    turn = Rotation.random(random_state=1).as_matrix()
    moved = label_geometry(WATER.with_positions(WATER.positions @ turn.T), SMALL, name)
    assert np.abs(moved.atomic_energies - water.atomic_energies).max() * KCAL_MOL < 0.05


@pytest.mark.parametrize("chosen", ["", "Sandybridge"])
def test_pyscf_multiplies_with_the_instructions_of_the_processor(chosen: str) -> None:
    information = Path("/proc/cpuinfo")
    flags = information.read_text().split() if information.is_file() else []
    if not {"avx2", "fma"}.issubset(flags):
        pytest.skip("a processor without AVX2, or a system that does not tell")
    script = (
        "import json, os, threadpoolctl\n"
        "from fflux_py.iqa.scf._pyscf import load_pyscf\n"
        "load_pyscf()\n"
        "of = {'/pyscf/' in b['filepath']: b['architecture'] for b in threadpoolctl.threadpool_info()"
        " if 'architecture' in b}\n"
        "print(json.dumps([of.get(True), of.get(False), os.environ.get('OPENBLAS_CORETYPE', '')]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    if chosen:
        environment["OPENBLAS_CORETYPE"] = chosen
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    of_pyscf, of_others, afterwards = json.loads(done.stdout)
    if of_pyscf is None:
        pytest.skip("a PySCF that was built with another BLAS")
    script = "import json, threadpoolctl, scipy.linalg; print(json.dumps(threadpoolctl.threadpool_info()))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    alone = {b["architecture"] for b in json.loads(done.stdout) if "architecture" in b}
    assert of_pyscf == (chosen or "Haswell")
    assert {of_others} == alone  # NumPy's and SciPy's stay as they are without PySCF
    assert afterwards == chosen
