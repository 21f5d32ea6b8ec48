"""Labels that do not fit the others: residuals against left-out solutions, damaged labels first, sound sets clean."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py.analysis import label_residuals as module
from fflux_py.analysis.label_residuals import LabelResidual, label_residuals
from fflux_py.errors import InputError, ModelMismatchError
from fflux_py.forcefield import ForceField
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.molecules import shipped_data
from fflux_py.molecules.dataset import Dataset
from fflux_py.teacher.labels import LEVEL, label_geometries
from fflux_py.units import KCAL_MOL
from tests.support.cli_support import fflux, refused
from tests.support.paths import REPOSITORY

COUNT = 70
ENERGY, SMALL_ENERGY, ONE_FORCE, ALL_FORCES, FIRST, SECOND = 5, 11, 23, 31, 44, 62


@lru_cache(maxsize=1)
def model() -> ForceField:
    return model_file.load(shipped_data.path("malondialdehyde") / shipped_data.MODEL)


@lru_cache(maxsize=1)
def sound() -> Dataset:
    data = Dataset.read(shipped_data.path("malondialdehyde") / shipped_data.DATA).select(range(COUNT))
    unknown = np.full_like(data.atomic_energies, np.nan)
    return replace(data, atomic_energies=unknown, atomic_errors=unknown)


def damaged() -> Dataset:
    """Energies off by 5 and 2 kcal/mol, the force of one atom and all of a frame turned round, two frames swapped."""
    energies, forces = np.array(sound().energies), np.array(sound().forces)
    energies[ENERGY] += 5.0 / KCAL_MOL
    energies[SMALL_ENERGY] -= 2.0 / KCAL_MOL
    forces[ONE_FORCE, 2] *= -1.0
    forces[ALL_FORCES] *= -1.0
    for labels in (energies, forces):
        labels[[FIRST, SECOND]] = labels[[SECOND, FIRST]]
    return replace(sound(), energies=energies, forces=forces)


@lru_cache(maxsize=1)
def of_damaged() -> tuple[LabelResidual, ...]:
    return label_residuals(model(), damaged())


def test_sound_labels_are_not_suspicious() -> None:
    residuals = label_residuals(model(), sound())
    assert not any(residual.suspicious for residual in residuals)
    assert sorted(residual.index for residual in residuals) == list(range(COUNT))
    assert np.median([residual.energy_score for residual in residuals]) == pytest.approx(0.6745)
    assert np.median([residual.force_score for residual in residuals]) == pytest.approx(1.0)


def test_a_model_of_a_difference_judges_the_difference() -> None:
    """Labels plus those of the level that taught have the residuals of the labels alone."""
    level = label_geometries(sound().molecule, sound().positions)
    labelled = replace(sound(), energies=sound().energies + level.energies, forces=sound().forces + level.forces)
    mean = cast(TaughtMean, SimpleNamespace(level=LEVEL, n_atoms=9))
    residuals = label_residuals(replace(model(), taught_mean=mean), labelled)
    assert [r.index for r in residuals] == [r.index for r in label_residuals(model(), sound())]
    assert not any(residual.suspicious for residual in residuals)


def test_damaged_labels_come_first_and_their_neighbours_do_not() -> None:
    residuals = of_damaged()
    suspicious = {residual.index for residual in residuals if residual.suspicious}
    assert suspicious == {ENERGY, SMALL_ENERGY, ONE_FORCE, ALL_FORCES, FIRST, SECOND}
    assert {residual.index for residual in residuals[:6]} == suspicious
    of = {residual.index: residual for residual in residuals}
    assert of[ENERGY].energy_error * KCAL_MOL == pytest.approx(5.0, abs=0.5)
    assert of[SMALL_ENERGY].energy_error * KCAL_MOL == pytest.approx(-2.0, abs=0.5)
    assert of[ENERGY].force_score < module.SUSPICIOUS
    assert of[ONE_FORCE].force_score > module.SUSPICIOUS
    assert of[ONE_FORCE].atom == 2
    turned = 2.0 * np.linalg.norm(sound().forces[ONE_FORCE, 2])
    assert of[ONE_FORCE].force_error == pytest.approx(turned, rel=0.3)


def test_residuals_are_those_of_a_solution_without_the_geometry() -> None:
    """The closed form against conditioning on the other observations, written out."""
    data = sound().select(range(12))
    process = module._Process.of(model())
    left_out = module._invert(process, data, np.arange(12))
    lower = np.tril(process.covariance(data, np.arange(12)))
    covariance = lower + np.tril(lower, -1).T
    labels = np.concatenate([data.energies - np.median(data.energies), data.forces.ravel()])

    def errors(chosen: np.ndarray, taken: np.ndarray) -> np.ndarray:
        rest = np.setdiff1d(np.arange(len(labels)), np.union1d(chosen, taken))
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], labels[rest])
        return labels[chosen] - covariance[np.ix_(chosen, rest)] @ weights

    def check(geometry: int, taken: np.ndarray) -> None:
        energy, _, forces, _ = left_out.errors(geometry)
        rows = left_out.rows(geometry)
        np.testing.assert_allclose(energy, errors(rows[:1], taken)[0], rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(forces.ravel(), errors(rows, taken)[1:], rtol=1e-3, atol=1e-6)

    check(4, np.array([], dtype=int))
    left_out.take_out(7)
    check(4, left_out.rows(7))


def test_spoiled_hyperparameters_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Length scales so short that every label is an island, as a fit to wrong labels finds them."""
    atoms = [
        replace(atom, variance=30.0, covariance=replace(atom.covariance, theta=atom.covariance.theta * 400.0))
        for atom in model().atoms
    ]
    spoiled = replace(model(), atoms=tuple(atoms))
    wrong = {ENERGY, SMALL_ENERGY, ONE_FORCE, ALL_FORCES, FIRST, SECOND}
    assert {residual.index for residual in label_residuals(spoiled, damaged())[:10]} >= wrong
    kept = module._choose_process(model(), sound(), np.arange(40))
    np.testing.assert_array_equal(kept.variances, [atom.variance for atom in model().atoms])
    monkeypatch.setattr(module, "_THETA_FACTORS", (1.0,))
    assert not {residual.index for residual in label_residuals(spoiled, damaged())[:10]} >= wrong


def test_large_sets_are_judged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_UNKNOWNS", 28 * 36)
    counts: list[tuple[int, int]] = []
    residuals = label_residuals(model(), damaged(), lambda done, total: counts.append((done, total)))
    assert counts == [(35, 70), (70, 70)]
    assert {residual.index for residual in residuals[:4]} >= {ENERGY, ALL_FORCES}
    assert len(residuals) == COUNT


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(InputError, match="ten geometries at least"):
        label_residuals(model(), sound().select(range(9)))
    with pytest.raises(InputError, match="data set: expected forces"):
        label_residuals(model(), replace(sound(), forces=np.full_like(sound().forces, np.nan)))
    with pytest.raises(InputError, match="model: expected a joint fit"):
        label_residuals(replace(model(), joint=None), sound())
    other = Dataset.read(shipped_data.path("glycine_dipeptide") / shipped_data.DATA).select(range(12))
    with pytest.raises(ModelMismatchError):
        label_residuals(model(), other)


def test_validate_ranks_labels_and_writes_a_page(tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    damaged().write(path)
    shipped = REPOSITORY / "training_data" / "malondialdehyde" / "model.npz"
    answer = fflux("validate", shipped, path, "--labels", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["n_suspicious"] == 6
    ranking = [entry["geometry"] - 1 for entry in answer.json["labels"]]
    assert set(ranking[:6]) == {ENERGY, SMALL_ENERGY, ONE_FORCE, ALL_FORCES, FIRST, SECOND}
    page = (tmp_path / "data.extxyz.labels.html").read_text("utf-8")
    assert "Labels of malondialdehyde" in page
    assert f">{ranking[0] + 1}<" in page
    assert "Suspicious labels" in page
    assert "--labels alone" in refused("validate", shipped, path, "--labels", "--plots", tmp_path / "pictures")
    assert "--page: expected --labels" in refused("validate", shipped, path, "--page", tmp_path / "page.html")
