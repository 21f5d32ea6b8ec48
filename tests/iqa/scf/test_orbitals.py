"""Stored orbitals: the same label without an SCF, and nothing taken on trust."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyscf")

from fflux_py.errors import InputError
from fflux_py.iqa import campaign
from fflux_py.iqa.labelling import label_geometry
from fflux_py.iqa.scf import electronic_structure
from fflux_py.iqa.scf.electronic_structure import GroundState, OccupiedOrbitals, use_threads
from fflux_py.iqa.scf.level_of_theory import LevelOfTheory
from fflux_py.iqa.scf.orbitals import OrbitalFile
from fflux_py.molecules.dataset import GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

LEVEL = LevelOfTheory(basis="6-31g(d)", grid_level=1)
WATER = Molecule(("O", "H", "H"), np.array([[0.1, -0.2, 0.3], [1.9, 0.2, -0.1], [-0.6, 1.5, 0.9]]), name="water")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    use_threads(1)


@pytest.mark.parametrize(
    "level",
    [
        LEVEL,
        replace(LEVEL, basis_functions="spherical"),
        replace(LEVEL, method="pbe"),
        replace(LEVEL, method="lda,vwn"),
        replace(LEVEL, method="hf"),
        replace(LEVEL, density_fit=False),
        replace(LEVEL, method="tpss"),
    ],
    ids=lambda level: f"{level.method}-{level.cartesian}-{level.density_fit}",
)
def test_state_from_stored_orbitals_is_the_same_bit_for_bit(level: LevelOfTheory, tmp_path: Path) -> None:
    solved = GroundState(WATER, level)
    file = OrbitalFile(WATER, level, tmp_path)
    file.write(solved.occupied_orbitals())
    stored = GroundState(WATER, level, file.read())
    assert stored.from_stored_orbitals
    assert not solved.from_stored_orbitals
    assert stored.energy == solved.energy
    np.testing.assert_array_equal(stored.forces(), solved.forces())
    np.testing.assert_array_equal(stored.occupied_orbitals().coefficients, solved.occupied_orbitals().coefficients)
    for name, value in vars(stored.analytic_energies()).items():
        np.testing.assert_array_equal(value, getattr(solved.analytic_energies(), name), err_msg=name)


def test_label_is_the_same_whether_orbitals_are_kept_used_or_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OrbitalFile(WATER, LEVEL, tmp_path)
    solved: list[str] = []
    converge = electronic_structure.converge

    def counted(mean_field: Any, level: LevelOfTheory, what: str) -> FloatArray:
        solved.append(what)
        return converge(mean_field, level, what)

    monkeypatch.setattr(electronic_structure, "converge", counted)
    plain = label_geometry(WATER, LEVEL, "hirshfeld")
    first = label_geometry(WATER, LEVEL, "none", file, keep_orbitals=True)
    written = file.path.read_bytes()
    second = label_geometry(WATER, LEVEL, "hirshfeld", file, keep_orbitals=True)
    assert file.path.read_bytes() == written
    monkeypatch.setattr(GroundState, "forces", lambda state: pytest.fail("forces are known"))
    third = label_geometry(WATER, LEVEL, "hirshfeld", file, earlier=first)
    np.testing.assert_array_equal(third.forces, plain.forces)
    np.testing.assert_array_equal(third.atomic_energies, plain.atomic_energies)
    monkeypatch.undo()
    other = replace(first, forces=np.zeros((3, 3)), versions={**first.versions, "pyscf": "0"})
    assert np.any(label_geometry(WATER, LEVEL, "hirshfeld", file, earlier=other).forces)
    assert first.energy == second.energy == plain.energy
    for name in ("forces", "atomic_energies", "atomic_errors", "charges"):
        np.testing.assert_array_equal(getattr(second, name), getattr(plain, name), err_msg=name)
    assert len(solved) == 2  # of three labels


def test_orbitals_of_something_else_are_not_used() -> None:
    orbitals = GroundState(WATER, LEVEL).occupied_orbitals()
    moved = WATER.with_positions(WATER.positions + 0.02 * np.random.default_rng(1).normal(size=(3, 3)))
    expected = GroundState(moved, LEVEL)
    # Orbitals that are orthonormal and of the right size, but of another functional.
    wrong = [orbitals, GroundState(moved, replace(LEVEL, method="hf")).occupied_orbitals()]
    wrong.append(OccupiedOrbitals(orbitals.coefficients[:, :4], orbitals.energies[:4]))
    wrong.append(OccupiedOrbitals(np.full_like(orbitals.coefficients, np.nan), orbitals.energies))
    for candidate in wrong:
        state = GroundState(moved, LEVEL, candidate)
        assert not state.from_stored_orbitals
        assert state.energy == expected.energy


def test_file_is_named_by_its_content_and_damage_is_noticed(tmp_path: Path) -> None:
    file = OrbitalFile(WATER, LEVEL, tmp_path)
    assert file.read() is None
    file.write(GroundState(WATER, LEVEL).occupied_orbitals())
    assert [path.name for path in tmp_path.iterdir()] == [f"{file.key}.orbitals.npz"]
    others = [
        replace(file, level=replace(LEVEL, grid_level=2)),
        replace(file, level=replace(LEVEL, basis_functions="spherical")),
        replace(file, molecule=WATER.with_positions(WATER.positions + 1e-6)),
        replace(file, molecule=replace(WATER, charge=2)),
    ]
    assert len({file.key, *(other.key for other in others)}) == 5
    assert replace(file, molecule=replace(WATER, name="aqua")).key == file.key
    data = file.path.read_bytes()
    for damaged in (b"", data[:500], data[:-40], data[:2000] + bytes([data[2000] ^ 1]) + data[2001:], b"no archive"):
        file.path.write_bytes(damaged)
        assert file.read() is None
    # The file of another geometry under this name.
    others[0].write(GroundState(WATER, LEVEL).occupied_orbitals())
    file.path.write_bytes(others[0].path.read_bytes())
    assert file.read() is None


def test_campaign_leaves_orbitals_and_forces_for_the_next_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts = 0.05 * np.random.default_rng(3).normal(size=(3, 3, 3))
    chosen = GeometrySet(WATER, WATER.positions + shifts, ("run",) * 3, np.full(3, 300.0), ("train",) * 3)
    with ThreadPoolExecutor(1) as here:
        campaign.label(chosen, LEVEL, "none", tmp_path / "kept", executor=here, keep_orbitals=True)
        assert len(list((tmp_path / "kept").glob("*.orbitals.npz"))) == 3
        monkeypatch.setattr(GroundState, "forces", lambda state: pytest.fail("forces are known"))
        second = campaign.label(chosen, LEVEL, "hirshfeld", tmp_path / "kept", executor=here)
        monkeypatch.undo()
        plain = campaign.label(chosen, LEVEL, "hirshfeld", tmp_path / "plain", executor=here)
    assert not list((tmp_path / "plain").glob("*.npz"))
    np.testing.assert_array_equal(second.energies, plain.energies)
    np.testing.assert_array_equal(second.forces, plain.forces)
    np.testing.assert_array_equal(second.atomic_energies, plain.atomic_energies)


def test_orbitals_must_fit_together() -> None:
    with pytest.raises(InputError, match="orbitals: expected coefficients"):
        OccupiedOrbitals(np.zeros((4, 2)), np.zeros(3))
