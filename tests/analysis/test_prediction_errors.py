"""Error tables on numbers worked out by hand, and the validation of a force field."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fflux_py.analysis.prediction_errors import ALL, METADYNAMICS, ROOM, frame_groups, prediction_errors
from fflux_py.analysis.validate import validate
from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.synthetic import MethanolPotential, fitted, label, malondialdehyde, methanol, sample

SOURCES = ("nvt-300K-s1", "nvt-500K-s1", "nvt-1000K-s1", "wtmetad-300K-s2", "distorted", "nvt-1200K-s1")
TEMPERATURES = (300.0, 500.0, 1000.0, 300.0, np.nan, 1200.0)


def labelled(sources=SOURCES, temperatures=TEMPERATURES, atomic=True) -> Dataset:
    m, molecule = len(sources), methanol()
    geometries = GeometrySet(molecule, np.repeat(molecule.positions[None], m, axis=0), sources, temperatures,
                             ("test",) * m)  # fmt: skip
    energies = -115.0 + 0.01 * np.arange(m)
    shares = np.repeat(energies[:, None] / 6.0, 6, axis=1)
    return Dataset(
        geometries, energies, np.zeros((m, 6, 3)), shares if atomic else shares * np.nan, np.zeros((m, 6)),
        np.zeros((m, 6)), {"method": "b3lyp", "basis": "6-31+g(d,p)", "partition": "hirshfeld"},
    )  # fmt: skip


def test_groups_come_from_the_marks():
    groups = frame_groups(labelled().geometries)
    assert groups == (ROOM, ROOM, "1000 K", METADYNAMICS, "distorted", "1200 K")
    cold = labelled(("nvt-100K-s1",), (100.0,))
    assert frame_groups(cold.geometries) == ("100 K",)


def test_figures_worked_out_by_hand():
    data = labelled()
    # kcal/mol: 1, -3 at 300-500 K, then 4, 0, 0, 0
    error = np.array([1.0, -3.0, 4.0, 0.0, 0.0, 0.0]) / KCAL_MOL
    forces = np.zeros((6, 6, 3))
    forces[0, 0, 0], forces[1, 2, 1] = 18.0 / KCAL_MOL_ANGSTROM, -36.0 / KCAL_MOL_ANGSTROM
    atomic = data.atomic_energies + error[:, None] * np.array([2.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    table = prediction_errors(data, data.energies + error, forces, atomic)
    room = table.groups[ROOM]
    assert room.n_frames == 2
    assert room.energy_mae_kcal_mol == pytest.approx(2.0)
    assert room.energy_rmse_kcal_mol == pytest.approx(np.sqrt(5.0))
    assert room.energy_max_kcal_mol == pytest.approx(3.0)
    assert room.energy_mean_signed_error_kcal_mol == pytest.approx(-1.0)
    assert room.force_mae_kcal_mol_angstrom == pytest.approx(54.0 / 36.0)
    assert room.force_rmse_kcal_mol_angstrom == pytest.approx(np.sqrt((18.0**2 + 36.0**2) / 36.0))
    assert room.force_max_kcal_mol_angstrom == pytest.approx(36.0)
    # atoms 1 and 2 carry 2 and 1 times the error of each frame
    assert room.atomic_energy_mae_kcal_mol == pytest.approx(3.0 * 4.0 / 12.0)
    assert room.atomic_energy_max_kcal_mol == pytest.approx(6.0)
    np.testing.assert_allclose(table.atomic_energy_mae_kcal_mol(ROOM), [4.0, 2.0, 0.0, 0.0, 0.0, 0.0], atol=1e-9)
    everything = table.groups[ALL]
    assert everything.energy_mae_kcal_mol == pytest.approx(8.0 / 6.0)
    assert everything.energy_median_kcal_mol == pytest.approx(0.5)
    # reference energies 0, 0.01, ... 0.05 hartree: mean distance from their median is 0.015
    assert everything.energy_spread_kcal_mol == pytest.approx(0.015 * KCAL_MOL)
    assert list(table.groups) == [ALL, ROOM, "1000 K", "1200 K", METADYNAMICS, "distorted"]


def test_a_constant_offset_is_an_error_and_is_reported_as_a_shift():
    data = labelled()
    table = prediction_errors(data, data.energies + 0.5 / KCAL_MOL, data.forces)
    figures = table.groups[ALL]
    assert figures.energy_mae_kcal_mol == pytest.approx(0.5)
    assert figures.energy_shift_kcal_mol == pytest.approx(0.5)
    assert figures.energy_mean_signed_error_kcal_mol == pytest.approx(0.5)
    assert figures.energy_mae_after_shift_kcal_mol == pytest.approx(0.0, abs=1e-10)


def test_no_constant_leaves_less_than_the_reported_shift():
    data = labelled()
    error = np.array([0.3, -2.0, 4.0, 0.1, 0.7, 9.0]) / KCAL_MOL
    figures = prediction_errors(data, data.energies + error, data.forces).groups[ALL]
    for shift in np.linspace(-3.0, 10.0, 400):
        assert figures.energy_mae_after_shift_kcal_mol <= np.abs(error * KCAL_MOL - shift).mean() + 1e-12


def test_s_curve_rises_to_one_hundred_per_cent():
    data = labelled()
    error = np.array([1.0, -3.0, 4.0, 0.5, 0.5, 2.0]) / KCAL_MOL
    x, percent = prediction_errors(data, data.energies + error, data.forces).s_curve()
    np.testing.assert_allclose(x, [0.5, 0.5, 1.0, 2.0, 3.0, 4.0], rtol=1e-9)
    np.testing.assert_allclose(percent, 100.0 * np.arange(1, 7) / 6.0)
    assert percent[-1] == 100.0
    room, percent = prediction_errors(data, data.energies + error, data.forces).s_curve(ROOM)
    np.testing.assert_allclose(room, [1.0, 3.0], rtol=1e-9)
    assert percent.tolist() == [50.0, 100.0]


def test_data_without_atomic_energies_have_no_atomic_errors():
    data = labelled(atomic=False)
    table = prediction_errors(data, data.energies, data.forces, np.zeros((6, 6)))
    assert table.groups[ALL].n_frames_atomic == 0
    assert np.isnan(table.groups[ALL].atomic_energy_mae_kcal_mol)
    assert table.groups[ALL].as_dict()["atomic_energy_mae_kcal_mol"] is None
    assert np.isnan(table.atomic_energy_mae_kcal_mol()).all()
    json.dumps(table.as_dict(), allow_nan=False)


def test_wrong_shapes_and_names_are_refused():
    data = labelled()
    with pytest.raises(InputError, match="predicted energies"):
        prediction_errors(data, data.energies[:3], data.forces)
    with pytest.raises(InputError, match="predicted forces"):
        prediction_errors(data, data.energies, data.forces[:, :3])
    with pytest.raises(InputError, match="atomic"):
        prediction_errors(data, data.energies, data.forces, data.energies)
    with pytest.raises(InputError, match="at least one"):
        prediction_errors(data.select([]), np.zeros(0), np.zeros((0, 6, 3)))
    with pytest.raises(InputError, match="one of all"):
        prediction_errors(data, data.energies, data.forces).s_curve("2000 K")


def test_validation_of_a_force_field_against_its_potential():
    test = label(sample(40, seed=9), "nvt-500K-s9", "test")
    seen: list[tuple[int, int]] = []
    validation = validate(fitted(), test, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)
    # Its figures are those of predictions made one by one.
    energies, forces = zip(*(fitted().energy_and_forces(x) for x in test.positions), strict=True)
    figures = validation.errors.groups[ROOM]
    mae = np.abs(np.array(energies) - test.energies).mean() * KCAL_MOL
    assert figures.energy_mae_kcal_mol == pytest.approx(mae, rel=1e-6)
    mae = np.abs(np.array(forces) - test.forces).mean() * KCAL_MOL_ANGSTROM
    assert figures.force_mae_kcal_mol_angstrom == pytest.approx(mae, rel=1e-9)
    np.testing.assert_allclose(validation.atomic_energies.sum(axis=1), validation.energies, atol=1e-9)
    assert (validation.atomic_deviations >= 0.0).all()
    # It learned: far better than the best constant, and it passes its criterion.
    assert figures.energy_mae_kcal_mol < 0.2 * figures.energy_spread_kcal_mol
    assert all(criterion.passed for criterion in validation.criteria())
    assert not validation.criteria(energy_mae_kcal_mol=0.5 * figures.energy_mae_kcal_mol)[0].passed
    keys = json.loads(json.dumps(validation.as_dict(), allow_nan=False))
    assert keys["energy_mae_kcal_mol"] == pytest.approx(figures.energy_mae_kcal_mol)
    assert set(keys["groups"]) == {ALL, ROOM}


def test_validation_takes_the_held_out_frames_only():
    train, test = label(sample(120)[:10]), label(sample(40, seed=9)[:12], "nvt-500K-s9", "test")
    both = Dataset(
        GeometrySet(methanol(), np.concatenate([train.positions, test.positions]),
                    train.geometries.source + test.geometries.source, np.full(22, 500.0),
                    train.geometries.split + test.geometries.split),
        *(np.concatenate([getattr(train, k), getattr(test, k)])
          for k in ("energies", "forces", "atomic_energies", "atomic_errors", "charges")),
        train.metadata,
    )  # fmt: skip
    assert len(validate(fitted(), both).dataset) == 12
    assert len(validate(fitted(), both, split="train").dataset) == 10
    assert len(validate(fitted(), both, split=None).dataset) == 22
    with pytest.raises(InputError, match="'test'"):
        validate(fitted(), train)


def test_validation_refuses_another_molecule():
    other = malondialdehyde()
    geometries = GeometrySet(other, other.positions[None], ("nvt-300K-s1",), (300.0,), ("test",))
    data = Dataset(geometries, np.zeros(1), np.zeros((1, 9, 3)), np.zeros((1, 9)), np.zeros((1, 9)), np.zeros((1, 9)),
                   {"method": "b3lyp", "basis": "", "partition": "none"})  # fmt: skip
    with pytest.raises(ModelMismatchError):
        validate(fitted(), data)


def test_the_potential_behind_the_test_is_no_accident():
    """A model of other energies is found out: the labels of a stiffer rotor."""
    positions = sample(40, seed=9)[:20]
    data = label(positions, "nvt-500K-s9", "test")
    stiff = MethanolPotential(barrier=0.04)
    energies, forces = stiff.compute(positions)
    table = prediction_errors(data, energies, forces)
    assert table.groups[ROOM].energy_mae_kcal_mol > 1.0
