"""Closed shells are not taken for granted: broken bonds, biradicals and triplets are found and left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pyscf = pytest.importorskip("pyscf", reason="needs pyscf")

from fflux_py.errors import ConvergenceError, InputError  # noqa: E402
from fflux_py.iqa.campaign import Campaign  # noqa: E402
from fflux_py.iqa.labelling import Label, label_geometry  # noqa: E402
from fflux_py.iqa.scf.electronic_structure import GroundState, use_threads  # noqa: E402
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory  # noqa: E402
from fflux_py.iqa.scf.stability import Stability, is_small  # noqa: E402
from fflux_py.molecules.dataset import Dataset, GeometrySet  # noqa: E402
from fflux_py.molecules.extended_xyz import write_molecule  # noqa: E402
from fflux_py.molecules.molecule import Molecule  # noqa: E402
from fflux_py.units import ANGSTROM  # noqa: E402
from tests.support.cli_support import fflux  # noqa: E402

LEVEL = LevelOfTheory(basis="sto-3g")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    use_threads(1)


def hydrogen(distance: float) -> Molecule:
    return Molecule(("H", "H"), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance / ANGSTROM]]), 0, "hydrogen")


def carbene() -> Molecule:
    positions = np.array([[0.0, 0.0, 0.0], [0.86, 0.70, 0.0], [-0.86, 0.70, 0.0]]) / ANGSTROM
    return Molecule(("C", "H", "H"), positions, 0, "carbene")


def water() -> Molecule:
    positions = np.array([[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]) / ANGSTROM
    return Molecule(("O", "H", "H"), positions, 0, "water")


def stability_of_pyscf(state: GroundState) -> bool:
    """PySCF's own analysis of its own solution."""
    mean_field: Any = pyscf.dft.RKS(state._mole, xc=state.level.method).density_fit(auxbasis=LEVEL.auxiliary_basis)
    mean_field.grids.level = state.level.grid_level
    mean_field.chkfile = None
    mean_field.kernel()
    return bool(mean_field.stability(internal=False, external=True, return_status=True)[3])


@pytest.mark.parametrize(
    ("molecule", "stable"),
    [(hydrogen(0.74), True), (hydrogen(1.6), False), (hydrogen(3.0), False), (carbene(), False), (water(), True)],
)
@pytest.mark.parametrize("method", ["b3lyp", "hf"])
def test_verdict_is_that_of_pyscf(molecule: Molecule, stable: bool, method: str) -> None:
    state = GroundState(molecule, LevelOfTheory(method=method, basis="sto-3g"))
    before = state.energy, state.forces()
    stability = state.stability(always=True)
    assert stability.stable is stable
    if method == "b3lyp":
        assert stability_of_pyscf(state) is stable
    if stable:
        stability.require_stable("it")
    else:
        with pytest.raises(ConvergenceError, match=r"expected a closed shell.* unstable restricted solution \(gap"):
            stability.require_stable("it")
    assert state.energy == before[0]
    np.testing.assert_array_equal(state.forces(), before[1])


def test_eigenvalue_is_the_second_derivative_of_the_energy() -> None:
    """Hydrogen in a minimal basis has one rotation: its energy against that of unrestricted determinants."""
    state = GroundState(hydrogen(3.0), LevelOfTheory(method="hf", basis="sto-3g", density_fit=False))
    mean_field = state._mean_field
    unrestricted: Any = pyscf.scf.UHF(state._mole)
    energies, orbitals = mean_field.eig(state._fock, mean_field.get_ovlp())

    def energy(angle: float) -> float:
        up, down = (np.cos(a) * orbitals[:, :1] + np.sin(a) * orbitals[:, 1:] for a in (angle, -angle))
        return float(unrestricted.energy_tot(np.array([up @ up.T, down @ down.T])))

    step = 1e-2
    curvature = (energy(step) - 2.0 * energy(0.0) + energy(-step)) / step**2
    stability = state.stability()
    assert stability.gap == pytest.approx(energies[1] - energies[0])
    assert stability.eigenvalue == pytest.approx(0.25 * curvature, rel=1e-3)


def test_large_gaps_are_not_looked_into() -> None:
    assert GroundState(water(), LEVEL).stability() == Stability(pytest.approx(0.497, abs=0.002), None)
    assert is_small(0.18, 0.2)
    assert not is_small(0.18, 0.1)
    helium = GroundState(Molecule(("He",), np.zeros((1, 3))), LEVEL).stability(always=True)
    assert helium == Stability(float("inf"), None)
    assert helium.as_dict() == {}


def test_unstable_geometries_are_left_out_and_the_label_remembers(tmp_path: Path) -> None:
    positions = np.array([hydrogen(distance).positions for distance in (0.74, 3.0, 0.8)])
    source, temperature, split = ("md",) * 3, np.full(3, 300.0), ("train",) * 3
    geometries = GeometrySet(hydrogen(0.74), positions, source, temperature, split)
    campaign = Campaign(geometries, LEVEL, "none", tmp_path / "labels")
    data = campaign.run()
    assert len(data) == 2
    assert "unstable restricted solution" in campaign.failures()[1]
    assert data.metadata["smallest_orbital_gap_hartree"] == pytest.approx(0.77, abs=0.05)
    first, third = (Label.from_dict(campaign._tasks()[k].result()["label"]).stability for k in (0, 2))
    assert set(first) == {"gap", "eigenvalue"}
    assert set(third) == {"gap"}
    kept = Campaign(geometries, LEVEL, "none", tmp_path / "kept", keep_unstable=True).run()
    assert len(kept) == 3
    np.testing.assert_array_equal(kept.energies[[0, 2]], data.energies)
    with pytest.raises(InputError, match=r"the last failed because of this: .*unstable restricted"):
        Campaign(geometries.select([1]), LEVEL, "none", tmp_path / "alone").run()
    assert label_geometry(hydrogen(3.0), LEVEL, "none", keep_unstable=True).stability["eigenvalue"] < -0.1


def test_carbene_is_refused_by_the_command(tmp_path: Path) -> None:
    write_molecule(tmp_path / "carbene.xyz", carbene())
    arguments = ("label", tmp_path / "carbene.xyz", "-o", tmp_path / "data.extxyz", "--basis", "sto-3g")
    answer = fflux(*arguments, "--partition", "none")
    assert answer.code == 2
    assert "unstable restricted solution" in answer.err
    answer = fflux(*arguments, "--partition", "none", "--keep-unstable", "--folder", tmp_path / "kept")
    assert answer.code == 0, answer.err
    assert Dataset.read(tmp_path / "data.extxyz").metadata["smallest_orbital_gap_hartree"] < 0.13
