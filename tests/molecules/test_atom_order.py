"""The order of atoms that a model knows: raw positions are matched by bonds, hands and distances, or refused."""

from __future__ import annotations

import warnings
from functools import lru_cache

import numpy as np
import pytest

from fflux_py import ForceField
from fflux_py._compiled.atom_labels import first_misfit
from fflux_py.errors import InputWarning, ModelMismatchError, ReorderedAtomsWarning
from fflux_py.molecules.atom_order import AtomOrder
from fflux_py.molecules.matching import Labels
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import find_symmetry
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM
from tests.support.synthetic import fitted, methanol, sample


@lru_cache(maxsize=1)
def order_of_methanol() -> AtomOrder:
    """All distances are known."""
    n = methanol().n_atoms
    return AtomOrder(methanol(), np.zeros((n, n)), np.full((n, n), np.inf))


def hydrogens_of_methyl() -> list[int]:
    carbon = methanol().symbols.index("C")
    return [i for i in methanol().neighbours[carbon] if methanol().symbols[i] == "H"]


def exchanged(x: FloatArray, a: int, b: int) -> FloatArray:
    y = x.copy()
    y[..., [a, b], :] = y[..., [b, a], :]
    return y


def test_the_compiled_check_agrees_with_the_plain_one() -> None:
    rng, labels = np.random.default_rng(1), Labels(methanol())
    order = order_of_methanol()
    fits = []
    for scale in np.repeat([0.0, 0.2, 0.5, 1.0, 2.0], 40):
        x = methanol().positions + rng.normal(scale=scale, size=(6, 3))
        x = x * rng.choice([-1.0, 1.0])
        plain = bool(labels.keep_bonds(x) and labels.keep_chirality(x) and labels.keep_sides(x))
        assert (first_misfit(x[None], order.arrays) == -1) == plain
        fits.append(plain)
    assert 20 < sum(fits) < 180


@pytest.mark.parametrize("function", ["energy", "energy_and_forces", "compute", "atomic_energies", "deviations"])
def test_raw_positions_in_another_order_or_hand_give_the_same(function: str) -> None:
    """The mirror image is taken as another order of its hydrogens, which the model learnt on its own."""
    field, x = fitted(), near_reference(1)[0]
    a, b, _ = hydrogens_of_methyl()
    expected = total(field, function, x)
    for other, tolerance in ((exchanged(x, a, b), 1e-12), (-x, 3e-4)):
        with pytest.warns(ReorderedAtomsWarning, match="to fit the model; results are in the order"):
            found = total(field, function, other)
        assert abs(found - expected) < tolerance
        assert abs(total(field.unmatched, function, other) - expected) > tolerance


def total(field: ForceField, function: str, x: FloatArray) -> float:
    """The sum of what a function gives first."""
    result = getattr(field, function)(x)
    return float(np.sum(result[0] if isinstance(result, tuple) else result))


def near_reference(count: int) -> FloatArray:
    return methanol().positions + np.random.default_rng(2).normal(scale=0.04, size=(count, 6, 3))


def test_forces_and_atomic_energies_are_in_the_order_given() -> None:
    field, x = fitted(), near_reference(3)
    a, b, _ = hydrogens_of_methyl()
    energies, forces = field.atomic_energies_and_forces(x)
    mixed = x.copy()
    mixed[1] = exchanged(x[1], a, b)
    with pytest.warns(ReorderedAtomsWarning, match="1 of 3 geometries"):
        of_mixed, forces_of_mixed = field.atomic_energies_and_forces(mixed)
    assert np.array_equal(of_mixed[[0, 2]], energies[[0, 2]])
    assert np.array_equal(forces_of_mixed[[0, 2]], forces[[0, 2]])
    np.testing.assert_allclose(of_mixed[1], exchanged(energies[1][:, None], a, b)[:, 0], atol=1e-12)
    np.testing.assert_allclose(forces_of_mixed[1], exchanged(forces[1], a, b), atol=1e-12)


def test_a_known_order_has_the_same_bits_without_the_look_and_no_word() -> None:
    field, x = fitted(), sample(2, 300.0, seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for one, other in zip(field.compute(x), field.unmatched.compute(x), strict=True):
            assert one is not None
            assert other is not None
            assert one.tobytes() == other.tobytes()
    assert field.unmatched.unmatched is field.unmatched
    assert field.unmatched.kernel_arrays() is field.kernel_arrays()


def test_positions_in_angstrom_are_told() -> None:
    """All bonds have 0.53 of their length; a single short bond, or a molecule shrunk by a third, is believed."""
    model, x = fitted(), sample(3)
    for function in (model.compute, model.atomic_energies, model.deviations):
        with pytest.warns(InputWarning, match=r"0\.5\d times as long .*, as if positions were in angstrom") as told:
            function(x * ANGSTROM)
        assert len(told) == 1
    short = x[0].copy()
    hydrogen = methanol().n_atoms - 1
    oxygen = methanol().neighbours[hydrogen][0]
    short[hydrogen] = short[oxygen] + 0.53 * (short[hydrogen] - short[oxygen])
    for other in (x, x[0] * 0.75, short):  # warnings are errors in tests
        model.compute(other)


def test_other_bonds_are_refused_unless_nobody_is_to_look() -> None:
    field, x = fitted(), methanol().positions.copy()
    x[hydrogens_of_methyl()[0]] += 8.0
    with pytest.raises(ModelMismatchError, match="2 pieces of"):
        field.compute(x)
    assert np.isfinite(field.unmatched.energy(x))


def test_an_order_whose_distances_are_unknown_gives_way_to_one_whose_are_known() -> None:
    """A model without symmetry knows one of the three cyclic orders of a methyl group that does not turn."""
    x = methanol().positions
    lengths = np.linalg.norm(x[:, None] - x[None], axis=-1)
    order = AtomOrder(methanol(), lengths - 0.1, lengths + 0.1)
    a, b, c = hydrogens_of_methyl()
    cycled = x.copy()
    cycled[[a, b, c]] = x[[b, c, a]]
    geometry = Molecule(methanol().symbols, cycled)
    assert order_of_methanol().match(geometry).identity
    matching = order.match(geometry)
    np.testing.assert_allclose(matching.to_reference(cycled), x)
    assert not matching.mirror
    found = order.match_positions(np.array([x, cycled, x]))
    assert list(found) == [1]
    # an order is only given up for a better one
    far = x.copy()
    far[a] *= 1.3
    assert order.match(Molecule(methanol().symbols, far)).identity


def test_the_mirror_image_of_a_twisted_molecule_is_told_by_four_atoms() -> None:
    """Hydrogen peroxide has no centre with a hand: the other enantiomer has the same bonds and distances."""
    x = np.array([[1.4, 0.0, 0.0], [-1.4, 0.0, 0.0], [1.7, 1.6, 0.7], [-1.7, -0.9, 1.5]])
    peroxide = Molecule(("O", "O", "H", "H"), x, name="peroxide")
    none, all_ = np.zeros((4, 4)), np.full((4, 4), np.inf)
    order = AtomOrder(peroxide, none, all_, training=x[None])
    mirrored = x * [1.0, 1.0, -1.0]
    assert order.match(peroxide).identity
    assert order.match(peroxide.with_positions(mirrored)).mirror
    assert list(order.match_positions(np.array([x, mirrored]))) == [1]
    # also a little outside of the distances that are known
    lengths = np.linalg.norm(x[:, None] - x[None], axis=-1)
    narrow = AtomOrder(peroxide, lengths - 0.1, lengths + 0.1, training=x[None])
    assert narrow.match(peroxide.with_positions(1.1 * mirrored)).mirror
    assert narrow.match(peroxide.with_positions(1.1 * x)).identity
    # not so if the model knows both, from its data or by its symmetry
    assert AtomOrder(peroxide, none, all_, np.array([x, mirrored])).match(peroxide.with_positions(mirrored)).identity
    both = AtomOrder(peroxide, none, all_, x[None], find_symmetry(peroxide))
    assert both.match(peroxide.with_positions(mirrored)).identity
