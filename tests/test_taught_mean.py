"""A force field with a taught mean: every path adds it once, and the file keeps it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fflux_py import model_file
from fflux_py._compiled import forces as kernels
from fflux_py.dynamics.potentials import CompiledPotential, identity_of
from fflux_py.errors import FileFormatError, InputError
from fflux_py.exchange.ferebus.forcefield import model_texts
from fflux_py.forcefield import ForceField
from fflux_py.gp.taught_mean import TaughtMean
from tests.support.synthetic import fitted, methanol
from tests.support.taught_means import random_mean

SHARES = np.array([0.3, 0.2, 0.125, 0.125, 0.125, 0.125])


def taught() -> ForceField:
    return replace(fitted(), taught_mean=TaughtMean(random_mean(), "GFN2-xTB", SHARES))


def positions(count: int = 11) -> np.ndarray:
    return methanol().positions + 0.05 * np.random.default_rng(8).normal(size=(count, 6, 3))


def test_the_mean_is_added_once_to_energies_and_forces() -> None:
    with_mean, without, x = taught(), fitted(), positions()
    assert with_mean.taught_mean is not None
    mean, pull = with_mean.taught_mean.energies_and_forces(x)
    atoms, forces = with_mean.atomic_energies_and_forces(x)
    plain_atoms, plain_forces = without.atomic_energies_and_forces(x)
    np.testing.assert_allclose(atoms, plain_atoms + mean[:, None] * SHARES, rtol=1e-13)
    np.testing.assert_allclose(forces, plain_forces + pull, atol=1e-12)
    np.testing.assert_allclose(with_mean.deviations(x), without.deviations(x))
    np.testing.assert_array_equal(with_mean.coverage(x), without.coverage(x))


def test_every_way_gives_the_same_bits() -> None:
    forcefield, x = taught(), positions()
    energies, forces = forcefield.compute(x)
    np.testing.assert_array_equal(forcefield.compute(x, 0)[0], energies)
    assert forces is not None
    arrays = forcefield.kernel_arrays()
    totals, all_forces = kernels.energies_and_forces(x, arrays)
    one, force = kernels.energy_and_forces(x[3], arrays)
    np.testing.assert_array_equal(all_forces, forces)
    np.testing.assert_array_equal(force, forces[3])
    np.testing.assert_allclose(totals, energies, rtol=1e-15)
    assert one == pytest.approx(energies[3], rel=1e-15)


@pytest.mark.parametrize("precision", ["fixed", pytest.param("single", marks=pytest.mark.exhaustive)])
def test_other_precisions_add_it_too(precision: str) -> None:
    x = positions(3)
    energies, _ = taught().with_precision(precision).compute(x)  # type: ignore[arg-type]
    np.testing.assert_allclose(energies, taught().compute(x)[0], atol=1e-4)


def test_identity_tells_it_from_others() -> None:
    assert taught().taught_mean is not None
    shifted = replace(taught(), taught_mean=taught().taught_mean.shifted(1.0))  # type: ignore[union-attr]
    identities = {identity_of(f) for f in (fitted(), taught(), taught(), shifted)}
    assert len(identities) == 3
    assert CompiledPotential.of(taught()).digest() in identities


def test_file_keeps_it_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    model_file.save(taught(), path)
    loaded, x = model_file.load(path), positions()
    assert loaded.taught_mean is not None
    assert loaded.taught_mean.level == "GFN2-xTB"
    np.testing.assert_array_equal(
        loaded.taught_mean.energies_and_forces(x)[1], taught().taught_mean.energies_and_forces(x)[1]
    )  # type: ignore[union-attr]
    np.testing.assert_array_equal(loaded.compute(x)[0], taught().compute(x)[0])
    assert identity_of(loaded) == identity_of(taught())
    model_file.save(fitted(), path)
    assert model_file.load(path).taught_mean is None


def test_file_with_half_of_a_mean_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.npz"
    whole = TaughtMean.entries
    monkeypatch.setattr(
        TaughtMean, "entries", lambda self: {k: v for k, v in whole(self).items() if k != "terms/bonds"}
    )
    model_file.save(taught(), path)
    with pytest.raises(FileFormatError, match="terms/bonds"):
        model_file.load(path)


def test_what_does_not_fit_is_refused() -> None:
    mean = taught().taught_mean
    assert mean is not None
    with pytest.raises(InputError, match="add up to 1"):
        mean.with_shares(2.0 * SHARES)
    network = mean.arrays.network
    smaller = mean.arrays._replace(network=network._replace(first=network.first[:, :-1]))
    with pytest.raises(InputError, match=r"first of float64 and shape \(4, 23, 8\) that does not fit"):
        TaughtMean(smaller, "GFN2-xTB")
    with pytest.raises(InputError, match=r"prior mean.*found MF5"):
        taught().with_prior_mean("MF5")
    assert taught().with_prior_mean("MF2").taught_mean is mean or taught().taught_mean is not None


_ENTRIES = {k: v for k, v in TaughtMean(random_mean(), "GFN2-xTB").entries().items() if v.ndim and v.size > 1}


@pytest.mark.parametrize("name", sorted(_ENTRIES))
def test_a_shorter_array_is_refused_for_compiled_code_would_read_beyond_it(name: str) -> None:
    """Each array by itself; the loops run over the longer of two that belong together."""
    entries = TaughtMean(random_mean(), "GFN2-xTB", SHARES).entries()
    with pytest.raises(InputError):
        TaughtMean.from_entries({**entries, name: entries[name][:-1]}, "GFN2-xTB")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("terms/bonds", lambda a: a + 1, "bonds beyond the 6"),
        ("terms/planes", lambda a: np.array([[0, 1, 2]]), "plane_constants of float64"),
        ("terms/angles", lambda a: 0 * a, "without a direction"),
        ("terms/pairs", lambda a: a + 0.0, "pairs of float64"),
        ("network/radial", lambda a: a[:, :5], "radial of"),
        ("network/classes", lambda a: a + 1, "classes beyond"),
        ("network/pair_classes", lambda a: a - 1, "pair_classes beyond"),
        ("network/means", lambda a: (1e3 * a).astype(int), "means of int64"),
        ("network/n_vectors", lambda a: a + 99, "104 vectors"),
        ("network/last", lambda a: a[:, :7], "weights of shapes"),
        ("terms/bonds", lambda a: a - 1, "bonds beyond the 6"),
        ("constant", lambda a: np.zeros(0), "constant of shape"),
    ],
)
def test_arrays_that_contradict_each_other_are_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    entries = TaughtMean(random_mean(), "GFN2-xTB", SHARES).entries()
    with pytest.raises(InputError, match=f"{said}.* that does not fit"):
        TaughtMean.from_entries({**entries, name: change(np.asarray(entries[name]))}, "GFN2-xTB")


def test_model_files_of_other_programs_refuse_it() -> None:
    with pytest.raises(InputError, match=r"taught by GFN2-xTB, which \.model files cannot hold"):
        model_texts(taught())
