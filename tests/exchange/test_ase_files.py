"""Labels through ASE: databases and trajectories mean what extended XYZ means; what ASE does not read is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from fflux_py.errors import FileFormatError
from fflux_py.exchange.ase_files import read_ase
from fflux_py.exchange.labelled_xyz import read_labelled_xyz
from fflux_py.exchange.npz_archive import ArchiveOrigin
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM
from tests.support.cli_support import fflux, refused
from tests.support.synthetic import MethanolPotential, methanol, sample

ORIGIN = ArchiveOrigin("springs", "none")


def images(count: int = 12, labelled: bool = True) -> list[Any]:
    found = []
    for positions in sample(count, 300.0, seed=3):
        energy, forces = MethanolPotential().energy_and_forces(positions)
        atoms = Atoms(methanol().symbols, positions * ANGSTROM)
        if labelled:
            atoms.calc = SinglePointCalculator(atoms, energy=energy * EV, forces=forces * EV_ANGSTROM)
        found.append(atoms)
    return found


@pytest.mark.parametrize("name", ["labels.traj", "labels.db", "labels.json"])
def test_energies_forces_and_positions_are_those_of_the_atoms(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".traj"):
        write(path, images())
    else:
        with connect(path) as database:
            for atoms in images():
                database.write(atoms)
    data = read_ase(path, ORIGIN)
    positions = sample(12, 300.0, seed=3)
    np.testing.assert_allclose(data.positions, positions, atol=1e-7)
    for k, x in enumerate(positions):
        energy, forces = MethanolPotential().energy_and_forces(x)
        assert data.energies[k] == pytest.approx(energy, abs=1e-8)
        np.testing.assert_allclose(data.forces[k], forces, atol=1e-7)
    assert np.isnan(data.atomic_energies).all()
    write(tmp_path / "labels.extxyz", images())
    same = read_labelled_xyz(tmp_path / "labels.extxyz", ORIGIN)
    np.testing.assert_array_equal(data.energies, same.energies)


def test_geometries_without_an_energy_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "some.traj", [*images(3), *images(2, labelled=False)])
    assert len(read_ase(tmp_path / "some.traj", ORIGIN)) == 3
    write(tmp_path / "none.traj", images(2, labelled=False))
    with pytest.raises(FileFormatError, match=r"none\.traj: expected geometries with energies"):
        read_ase(tmp_path / "none.traj", ORIGIN)


def test_a_charge_and_other_molecules_count_as_from_every_door(tmp_path: Path) -> None:
    charged = images(2)
    for atoms in charged:
        atoms.info["charge"] = 1
    write(tmp_path / "ion.traj", charged)
    assert read_ase(tmp_path / "ion.traj", ORIGIN).molecule.charge == 1
    other = Atoms("OH2", np.eye(3))
    other.calc = SinglePointCalculator(other, energy=1.0, forces=np.zeros((3, 3)))
    write(tmp_path / "two.traj", [*images(1), other])
    with pytest.raises(FileFormatError, match=r"two\.traj:.*the atoms of the first frame"):
        read_ase(tmp_path / "two.traj", ORIGIN)


@pytest.mark.parametrize("name", ["bad.db", "bad.traj", "bad.log", "bad.out", "bad.json", "bad.xml"])
@pytest.mark.parametrize("content", [b"", b"nonsense\n", bytes(range(256)) * 4, b"Entering Gaussian System\n", b"{}"])
def test_what_ase_does_not_read_is_refused_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError, match=name):
        read_ase(tmp_path / name, ORIGIN)
    with pytest.raises(FileFormatError, match="expected a file, found none"):
        read_ase(tmp_path / "missing.traj", ORIGIN)


def test_a_model_is_trained_on_labels_of_other_programs_by_one_command(tmp_path: Path) -> None:
    pytest.importorskip("gpytorch")
    write(tmp_path / "labels.traj", images(10))
    answer = fflux("train", tmp_path / "labels.traj", "-o", tmp_path / "m.npz", "--symmetry", "none", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["n_train"] == 9  # every tenth is kept for testing
    assert (tmp_path / "m.npz").exists()
    answer = fflux("validate", tmp_path / "m.npz", tmp_path / "labels.traj", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["groups"]["all"]["n_frames"] == 1
    answer = fflux(
        "convert", tmp_path / "labels.traj", tmp_path / "data.extxyz", "--method", "pbe", "--basis", "def2-svp"
    )
    assert answer.code == 0, answer.err
    assert "--method" in refused("train", tmp_path / "data.extxyz", "-o", tmp_path / "n.npz", "--method", "pbe")
    assert "--energy-unit" in refused(
        "train", tmp_path / "labels.traj", "-o", tmp_path / "n.npz", "--energy-unit", "eV"
    )
