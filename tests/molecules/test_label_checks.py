"""Labels held against each other: damaged ones are refused with the factor, sound ones pass, repetitions are told."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fflux_py.errors import FileFormatError, InputError, InputWarning
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset
from fflux_py.molecules.label_checks import ForceComparison, check_labels, compare_forces, compare_labels
from fflux_py.training import TrainingConfig, train
from fflux_py.units import ANGSTROM, EV, KCAL_MOL

NAMES = ("malondialdehyde", "glycine_dipeptide", "alanine_dipeptide")


@lru_cache(maxsize=3)
def shipped(name: str) -> Dataset:
    return Dataset.read(shipped_data.path(name) / shipped_data.DATA)


def sixty() -> Dataset:
    return shipped("malondialdehyde").select(range(60))


@pytest.mark.parametrize("name", NAMES)
def test_forces_of_shipped_sets_account_for_their_energies(name: str) -> None:
    data = shipped(name)
    checks = check_labels(data)
    assert checks.forces is not None
    assert checks.forces.judged
    assert checks.forces.ratio == pytest.approx(1.0, abs=0.1)
    assert checks.forces.correlation > 0.95
    assert checks.repeated == ()
    assert checks.largest_sum_residual < 1e-9
    assert len(checks.describe()) == 3


@pytest.mark.parametrize("name", NAMES)
def test_small_parts_raise_no_false_alarm(name: str) -> None:
    data, generator = shipped(name), np.random.default_rng(1)
    for size in (2, 8, 12, 20, 30):
        for _ in range(8):
            assert compare_labels(data.select(generator.choice(len(data), size, replace=False))).forces.consistent


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, "the gradient in place of the force (factor -1)"),
        (ANGSTROM, "0.5292 (forces per bohr with positions in angstrom)"),
        (1.0 / ANGSTROM, "1.89 (forces per angstrom with positions in bohr)"),
        (EV, "27.21 (forces in eV with energies in hartree)"),
        (1.0 / EV, "0.03675 (forces in hartree with energies in eV)"),
        (KCAL_MOL / EV, "23.06 (forces in kcal/mol with energies in eV)"),
        (KCAL_MOL, "627.5 (forces in kcal/mol with energies in hartree)"),
        (4.184, "4.184 (forces in kJ/mol with energies in kcal/mol)"),
        (-EV, "the gradient in place of the force (factor -1), and usual factors near it are 27.21"),
        (1e4, "no usual factor is near it"),
    ],
)
def test_the_likely_factor_of_wrong_forces_is_named(factor: float, words: str) -> None:
    data = sixty()
    with pytest.raises(InputError, match="expected forces that account for the energy differences") as error:
        check_labels(replace(data, forces=factor * data.forces), "set.extxyz")
    assert words in str(error.value)
    assert str(error.value).startswith("set.extxyz, forces:")
    ratio = compare_labels(replace(data, forces=factor * data.forces)).forces.ratio
    assert ratio == pytest.approx(factor, rel=0.15)


def test_forces_of_other_geometries_are_not_judged() -> None:
    data = sixty()
    mixed = replace(data, forces=data.forces[np.random.default_rng(0).permutation(60)])
    forces = check_labels(mixed).forces
    assert forces is not None
    assert not forces.judged
    assert "cannot be judged" in forces.describe()
    few = compare_forces(data.molecule, data.positions[:5], data.energies[:5], data.forces[:5])
    assert "cannot be judged, only" in few.describe()
    assert few.consistent
    assert compare_forces(data.molecule, data.positions[:1], data.energies[:1], data.forces[:1]).n_pairs == 0


def test_comparison_does_not_depend_on_position_and_orientation() -> None:
    data, generator = sixty(), np.random.default_rng(3)
    positions, forces = np.empty_like(data.positions), np.empty_like(data.forces)
    for k in range(len(data)):
        turn = Rotation.random(rng=generator).as_matrix()
        positions[k] = data.positions[k] @ turn.T + generator.normal(size=3)
        forces[k] = data.forces[k] @ turn.T
    turned = compare_forces(data.molecule, positions, data.energies, forces)
    plain = compare_labels(data).forces
    assert turned.ratio == pytest.approx(plain.ratio, rel=1e-6)
    assert turned.correlation == pytest.approx(plain.correlation, rel=1e-6)


def test_wrong_forces_are_refused_when_a_set_is_read_and_trained_on(tmp_path: Path) -> None:
    data = sixty()
    wrong = replace(data, forces=-data.forces)
    wrong.write(tmp_path / "wrong.extxyz")
    with pytest.raises(FileFormatError, match=r"wrong\.extxyz, forces: .*factor -1"):
        Dataset.read(tmp_path / "wrong.extxyz")
    with pytest.raises(InputError, match=r"data set, forces: .*factor -1"):
        train(wrong, TrainingConfig(n_train=20))


def test_atomic_energies_that_do_not_sum_are_refused(tmp_path: Path) -> None:
    data = sixty()
    replace(data, atomic_energies=data.atomic_energies * EV).write(tmp_path / "wrong.extxyz")
    with pytest.raises(FileFormatError, match=r"atomic energies: expected a sum .* 27\.2114 times the energies"):
        Dataset.read(tmp_path / "wrong.extxyz")
    atomic = np.array(data.atomic_energies)
    atomic[7, 2] += 1.1 / KCAL_MOL
    with pytest.raises(InputError, match=r"1\.1 kcal/mol at one geometry"):
        check_labels(replace(data, atomic_energies=atomic))
    atomic[7, 2] -= 0.2 / KCAL_MOL
    assert check_labels(replace(data, atomic_energies=atomic)).largest_sum_residual == pytest.approx(0.9 / KCAL_MOL)


def test_geometries_that_stand_twice_are_told() -> None:
    data = sixty()
    turn = Rotation.random(rng=np.random.default_rng(5)).as_matrix()
    positions, energies = np.array(data.positions), np.array(data.energies)
    forces, split = np.array(data.forces), list(data.geometries.split)
    positions[50], forces[50], energies[50] = positions[3] @ turn.T + 1.0, forces[3] @ turn.T, energies[3] + 1e-3
    split[50] = "test"
    source = [f"{part}{k}" for k, part in enumerate(split)]
    geometries = replace(data.geometries, positions=positions, split=tuple(split), source=tuple(source))
    twice = replace(data, geometries=geometries, energies=energies, forces=forces).select(range(60))
    twice = replace(twice, atomic_energies=np.full_like(twice.atomic_energies, np.nan))
    with pytest.warns(InputWarning, match="geometries 4 and 51; their energies differ by up to 0.63 kcal/mol; 1 of"):
        checks = check_labels(twice)
    assert [(pair.first, pair.second) for pair in checks.repeated] == [(3, 50)]
    assert checks.shared_by_splits == 1


def test_a_verdict_needs_pairs_and_correlation() -> None:
    assert not ForceComparison(19, 1.0, -1.0).judged
    assert not ForceComparison(400, 0.79, -1.0).judged
    assert not ForceComparison(400, 0.9, -1.0).consistent
    assert not ForceComparison(400, 0.9, 1.0 / ANGSTROM).consistent
    assert ForceComparison(24, 0.9, 1.0 / ANGSTROM).consistent  # too few pairs for so small a factor
    assert not ForceComparison(24, 0.9, EV).consistent
