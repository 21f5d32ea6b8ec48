"""Molecules, geometries, labels, runs and models as people handle them: in short, by index, as atoms of ASE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from fflux_py import model_file
from fflux_py.dynamics import Trajectory
from fflux_py.errors import InputError
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.units import ANGSTROM, EV, EV_ANGSTROM
from tests.support.synthetic import MethanolPotential, fit, fitted, label, methanol, sample


def test_a_molecule_goes_to_ase_and_back() -> None:
    cation = replace(methanol(), charge=2)
    atoms = cation.to_ase()
    assert atoms.get_distance(0, 1) == pytest.approx(  # type: ignore[no-untyped-call]
        np.linalg.norm(cation.positions[0] - cation.positions[1]) * ANGSTROM
    )
    back = Molecule.from_ase(atoms)
    assert (back.symbols, back.charge, back.name) == (cation.symbols, 2, "methanol")
    np.testing.assert_allclose(back.positions, cation.positions, rtol=1e-15)


def test_atoms_without_a_word_are_neutral_and_named_by_their_formula() -> None:
    molecule = Molecule.from_ase(Atoms("OHH", [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]))
    assert (molecule.charge, molecule.name) == (0, "H2O")
    assert molecule.bonds == ((0, 1), (0, 2))


def test_atoms_that_are_no_closed_shell_molecule_are_refused() -> None:
    atoms = methanol().to_ase()
    atoms.pbc = True
    with pytest.raises(InputError, match="periodic"):
        Molecule.from_ase(atoms)
    atoms.pbc = False
    atoms.info["multiplicity"] = 3
    with pytest.raises(InputError, match="multiplicity"):
        Molecule.from_ase(atoms)


def test_labels_as_atoms_of_ase_have_the_units_of_ase() -> None:
    data = label(sample(3))
    images = data.to_ase()
    for k, atoms in enumerate(images):
        assert atoms.get_potential_energy() == pytest.approx(data.energies[k] * EV, rel=1e-14)  # type: ignore[no-untyped-call]
        np.testing.assert_allclose(atoms.get_forces(), data.forces[k] * EV_ANGSTROM, rtol=1e-14)  # type: ignore[no-untyped-call]
        np.testing.assert_allclose(atoms.calc.results["energies"].sum(), data.energies[k] * EV, rtol=1e-12)
        assert atoms.info["split"] == "train"
        assert atoms.info["temperature"] == 500.0
    bare = replace(data, forces=np.full_like(data.forces, np.nan))
    assert "forces" not in bare.to_ase()[0].calc.results


def test_one_entry_and_parts_of_a_data_set() -> None:
    data = label(sample(6))
    entry = data[-1]
    assert entry.energy == data.energies[5]
    np.testing.assert_array_equal(entry.molecule.positions, data.positions[5])
    np.testing.assert_array_equal(entry.forces, data.forces[5])
    np.testing.assert_array_equal(data[1:5:2].energies, data.energies[[1, 3]])
    np.testing.assert_array_equal(data[data.energies > np.median(data.energies)].energies,
                                  data.energies[data.energies > np.median(data.energies)])  # fmt: skip
    assert isinstance(data[:2], Dataset)
    assert len(list(data)) == 6
    with pytest.raises(IndexError):
        data[6]


def test_one_geometry_and_parts_of_a_geometry_set() -> None:
    geometries = label(sample(4)).geometries
    np.testing.assert_array_equal(geometries[2].positions, geometries.positions[2])
    assert isinstance(geometries[::2], GeometrySet)
    np.testing.assert_array_equal(geometries[[3, 0]].positions, geometries.positions[[3, 0]])
    np.testing.assert_allclose(geometries.to_ase()[1].positions, geometries.positions[1] * ANGSTROM, rtol=1e-15)


def test_objects_are_shown_in_one_short_line() -> None:
    data = label(sample(4))
    shown = {
        repr(methanol()),
        repr(data),
        repr(data.geometries),
        repr(fitted(60)),
        repr(replace(methanol(), charge=-1)),
    }
    assert all(len(text) < 160 and "array" not in text and "\n" not in text for text in shown)
    assert "4 geometries" in repr(data)
    assert "CH4O" not in repr(Molecule(("He",), np.zeros((1, 3))))
    assert repr(replace(methanol(), charge=-1)).endswith("charge -1)")
    assert len(methanol()) == methanol().n_atoms


def test_a_run_has_reports_by_index_and_as_atoms() -> None:
    positions, times = sample(5), np.arange(5.0)
    energies = MethanolPotential().compute(positions)[0]
    trajectory = Trajectory(methanol(), times, positions, energies, times, energies + times, times + 300.0, seed=3,
                            velocities=positions / 7.0)  # fmt: skip
    assert "5 reports" in repr(trajectory)
    np.testing.assert_array_equal(trajectory[2].positions, trajectory.positions[2])
    part = trajectory[1:3]
    np.testing.assert_array_equal(part.times_fs, trajectory.times_fs[1:3])
    assert part.velocities is not None
    np.testing.assert_array_equal(part.velocities, trajectory.velocities[1:3])  # type: ignore[index]
    np.testing.assert_array_equal(part.kinetic, times[1:3])
    images = trajectory.to_ase()
    assert images[-1].info["time_fs"] == trajectory.times_fs[-1]
    assert images[-1].get_potential_energy() == pytest.approx(trajectory.potential[-1] * EV, rel=1e-14)  # type: ignore[no-untyped-call]


def test_a_model_gives_its_calculator_and_saves_itself(tmp_path: Path) -> None:
    forcefield = fit(label(sample(20)))
    atoms = methanol().to_ase()
    atoms.calc = forcefield.calculator()
    energy = forcefield.energy(methanol().positions) * EV
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-14)  # type: ignore[no-untyped-call]
    forcefield.save(tmp_path / "model.npz")
    assert model_file.load(tmp_path / "model.npz").energy(methanol().positions) * EV == pytest.approx(energy, rel=1e-14)
