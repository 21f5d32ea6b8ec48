"""From a molecule to a taught mean, its file, and a model that learns the difference; all of it tiny."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from fflux_py._compiled.network import add_network
from fflux_py.errors import FileFormatError, InputError, ModelMismatchError
from fflux_py.molecules.dataset import Dataset, GeometrySet
from fflux_py.molecules.molecule import Molecule
from fflux_py.teacher.classes import atom_classes
from fflux_py.teacher.classical import TermStructure, evaluate_terms, fit_terms
from fflux_py.teacher.config import TeachingConfig
from fflux_py.teacher.labels import Labels, label_geometries
from fflux_py.teacher.teacher_file import OWN_FORCE_ERROR, Teacher, load_teacher, save_teacher
from fflux_py.teacher.teaching import teach
from fflux_py.training import TrainingConfig, train
from fflux_py.training.refit import refit
from fflux_py.units import KCAL_MOL, KCAL_MOL_ANGSTROM
from tests.support.taught_means import METHANOL, geometries

pytest.importorskip("torch")
pytest.importorskip("tblite")

WATER = Molecule(("O", "H", "H"), np.array([[0.0, 0.0, 0.0], [1.8, 0.0, 0.0], [-0.45, 1.75, 0.0]]), name="water")


@cache
def teacher() -> Teacher:
    """Of water, in two seconds."""
    config = TeachingConfig(minutes=0.05, labels=200, round_labels=40, rounds=1, scalars=6, vectors=5, hidden=8)
    return teach(WATER, config)


@cache
def labelled() -> Dataset:
    """Water by GFN2-xTB and a smooth difference to it."""
    rng = np.random.default_rng(2)
    molecule = teacher().molecule
    x = molecule.positions + 0.1 * rng.normal(size=(14, 3, 3))
    labels = label_geometries(molecule, x)
    stretch = x[:, 1] - x[:, 0]
    r = np.linalg.norm(stretch, axis=1)
    slope = 0.004 * np.cos(r)
    forces = np.zeros_like(x)
    forces[:, 1] = -(slope / r)[:, None] * stretch
    forces[:, 0] = -forces[:, 1]
    geometry_set = GeometrySet(molecule, x, tuple(f"t{k}" for k in range(14)), np.full(14, np.nan), ("train",) * 14)
    energies = labels.energies + 0.004 * np.sin(r)
    return Dataset(
        geometries=geometry_set,
        energies=energies,
        forces=labels.forces + forces,
        atomic_energies=np.repeat(energies[:, None] / 3.0, 3, axis=1),
        atomic_errors=np.full((14, 3), np.nan),
        charges=np.zeros((14, 3)),
        metadata={"method": "GFN2-xTB", "basis": "own", "partition": "none"},
    )


def test_teaching_ends_in_time_and_tells_its_own_errors() -> None:
    made = teacher()
    assert made.metadata["labels"] > 100
    assert made.metadata["rounds"] == 1
    assert made.metadata["own_frames"] > 0
    assert made.metadata["processor_minutes"] < 0.5
    error = made.metadata[OWN_FORCE_ERROR]
    assert error is not None
    x = WATER.positions + 0.05 * np.random.default_rng(1).normal(size=(20, 3, 3))
    labels = label_geometries(WATER, x)
    energies, forces = made.mean.energies_and_forces(x)
    assert np.abs(forces - labels.forces).mean() * KCAL_MOL_ANGSTROM < 5.0
    assert (energies - labels.energies).std() * KCAL_MOL < 2.0


def test_the_compiled_network_is_the_one_that_was_trained() -> None:
    import torch

    from fflux_py.teacher._torch.network import MeanNetwork, Sizes

    x = geometries(5)
    network = MeanNetwork(atom_classes(METHANOL), geometries(30), Sizes(6, 5, 8), seed=1)
    network.standardise(torch.tensor(geometries(30), dtype=torch.float32))
    energies, forces = network.energy_and_forces(torch.tensor(x, dtype=torch.float32), training=False)
    arrays, constant = network.arrays()
    for k in range(5):
        gradient = np.zeros((6, 3))
        energy = (add_network(x[k], arrays, gradient) + constant) * KCAL_MOL
        assert energy == pytest.approx(float(energies[k].detach()), abs=1e-3)
        np.testing.assert_allclose(-gradient * KCAL_MOL, forces[k].numpy(), atol=1e-3)


def test_classical_terms_are_found_again() -> None:
    structure = TermStructure.of(METHANOL, METHANOL.positions[None])
    x = geometries(40)
    energies, forces = evaluate_terms(x, structure.terms(np.linspace(0.4, 0.8, structure.n_coefficients)))
    fitted, constant = fit_terms(structure, x, energies - 1.5, forces, ridge=1e-8)
    again, same = evaluate_terms(x, fitted)
    np.testing.assert_allclose(again + constant, energies - 1.5, atol=2e-4)
    np.testing.assert_allclose(same, forces, atol=2e-4)


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npz"
    save_teacher(teacher(), path)
    again = load_teacher(path)
    assert again.metadata == dict(teacher().metadata)
    assert again.molecule.symbols == WATER.symbols
    x = WATER.positions[None]
    np.testing.assert_array_equal(again.mean.energies_and_forces(x)[1], teacher().mean.energies_and_forces(x)[1])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(FileFormatError, match=r"teacher\.npz"):
        load_teacher(path)
    with pytest.raises(FileFormatError, match="No such file"):
        load_teacher(tmp_path / "none.npz")


def test_training_learns_the_difference_and_the_model_adds_the_mean() -> None:
    data = labelled()
    config = TrainingConfig(max_iterations=3, subset=10, symmetry="none")
    model = train(data, config, teacher=teacher())
    assert model.taught_mean is not None
    assert model.metadata["teacher_digest"] == teacher().mean.digest()
    assert model.joint is not None
    energies, _ = model.compute(data.positions)
    mean, _ = model.taught_mean.energies_and_forces(data.positions)
    own = label_geometries(data.molecule, data.positions).energies
    # what the process learned is the difference to the level, not to the mean
    learned = energies - mean
    np.testing.assert_allclose(learned, data.energies - own, atol=0.05 / KCAL_MOL)
    assert abs((mean - own).mean()) < 1e-9
    # a fit on all of its geometries is the same fit
    same = refit(model, data, ())
    np.testing.assert_allclose(same.compute(data.positions)[0], energies, atol=1e-8)


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    data, config = labelled(), TrainingConfig(max_iterations=1, subset=4, symmetry="none")
    with pytest.raises(InputError, match="a mean of 6 atoms, found one of 3"):
        replace(teacher(), molecule=METHANOL)
    sulfide = replace(teacher(), molecule=replace(teacher().molecule, symbols=("S", "H", "H")))
    with pytest.raises(ModelMismatchError):
        train(data, config, teacher=sulfide)
    with pytest.raises(InputError, match="energies and forces"):
        train(data, replace(config, forces=False), teacher=teacher())
    with pytest.raises(InputError, match="MF5"):
        train(data, replace(config, prior_mean="MF5"), teacher=teacher())
    other = replace(teacher(), mean=replace(teacher().mean, level="PM7"))
    with pytest.raises(InputError, match="level of the teacher"):
        train(data, config, teacher=other)


def test_labels_are_joined_in_their_order() -> None:
    first = Labels.stacked([(WATER.positions, 1.0, WATER.positions)], 3)
    both = first.joined(Labels.stacked([], 3)).joined(first.select(np.array([True])))
    assert both.energies.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("name", "value"), [("minutes", 0.0), ("hidden", 6), ("labels", 10), ("rounds", -1)])
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(InputError, match=name):
        TeachingConfig(**{name: value})  # type: ignore[arg-type]
