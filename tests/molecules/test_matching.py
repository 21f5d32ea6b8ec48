"""Atoms are matched by bonds and hands, not by their order; what is another molecule is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fflux_py.errors import ModelMismatchError
from fflux_py.molecules.handedness import handedness
from fflux_py.molecules.matching import Labels, match, matchings
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import find_symmetry
from fflux_py.typing import FloatArray
from fflux_py.units import ANGSTROM

pytest.importorskip("rdkit")
from fflux_py.sampling import molecule_from_smiles

SMILES = (
    "CCO",
    "CC(=O)N[C@@H](C)C(=O)NC",
    "CC(C)(C)C",
    "C1CCCCCCCC1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN=[N+]=[N-]",
    "N",
    "C=CO",
)


def rotation(rng: np.random.Generator) -> FloatArray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.linalg.det(q)))


def relabelled(molecule: Molecule, order: np.ndarray, positions: FloatArray) -> Molecule:
    symbols = tuple(molecule.symbols[i] for i in order)
    return Molecule(symbols, positions[order], molecule.charge, "relabelled")


@pytest.mark.parametrize("smiles", SMILES)
def test_any_order_hand_and_place_finds_back(smiles: str) -> None:
    molecule, rng = molecule_from_smiles(smiles), np.random.default_rng(3)
    labels = Labels(molecule)
    for mirrored in (False, True, False, True):
        x = (molecule.positions * (-1.0 if mirrored else 1.0)) @ rotation(rng) + rng.normal(size=3)
        other = relabelled(molecule, rng.permutation(molecule.n_atoms), x)
        matching = match(molecule, other)
        back = matching.to_reference(other.positions)
        assert tuple(other.symbols[i] for i in matching.order) == molecule.symbols
        assert labels.keep_bonds(back)
        assert labels.keep_chirality(back)
        assert labels.keep_sides(back)
        assert np.array_equal(matching.from_reference(back), other.positions)


def test_the_order_as_it_is_wins() -> None:
    molecule, rng = molecule_from_smiles("CCO"), np.random.default_rng(0)
    for _ in range(5):
        shaken = molecule.with_positions(molecule.positions + rng.normal(scale=0.05, size=(9, 3)))
        assert match(molecule, shaken).identity


def test_two_hydrogens_of_a_methylene_group_change_back_without_the_mirror_image() -> None:
    ethanol = molecule_from_smiles("CCO")
    carbon = next(c for c, near in enumerate(ethanol.neighbours) if sum(ethanol.symbols[a] == "H" for a in near) == 2)
    a, b = (i for i in ethanol.neighbours[carbon] if ethanol.symbols[i] == "H")
    order = np.arange(9)
    order[[a, b]] = b, a
    matching = match(ethanol, relabelled(ethanol, order, ethanol.positions))
    assert np.array_equal(matching.order, order)
    assert not matching.mirror
    assert matching.describe() == f"atoms {min(a, b) + 1} and {max(a, b) + 1} exchanged"


def test_the_mirror_image_of_a_chiral_molecule_is_taken_as_such() -> None:
    lactic, other = molecule_from_smiles("C[C@H](O)C(=O)O"), molecule_from_smiles("C[C@@H](O)C(=O)O")
    assert match(lactic, lactic.with_positions(lactic.positions * [1.0, 1.0, -1.0])).mirror
    assert match(lactic, other).mirror
    assert not match(lactic, lactic).mirror


@pytest.mark.parametrize(
    ("smiles", "other", "words"),
    [
        ("CCO", "COC", "an isomer is another molecule"),
        ("C[C@H](O)[C@@H](C)Cl", "C[C@H](O)[C@H](C)Cl", "handedness at every centre"),
        ("C/C=C/C", "C/C=C\\C", "a stereoisomer is another molecule"),
        ("CCO", "CCN", "atoms"),
    ],
)
def test_another_molecule_is_refused(smiles: str, other: str, words: str) -> None:
    with pytest.raises(ModelMismatchError, match=words):
        match(molecule_from_smiles(smiles), molecule_from_smiles(other))


def test_a_molecule_in_pieces_is_refused() -> None:
    ethanol = molecule_from_smiles("CCO")
    wrapped = np.mod(ethanol.positions - ethanol.positions.mean(axis=0), 6.0 / ANGSTROM)
    with pytest.raises(ModelMismatchError, match="pieces of"):
        match(ethanol, ethanol.with_positions(wrapped))


def test_a_molecule_folded_into_a_cell_of_its_own_size_is_refused() -> None:
    """Its atoms lie on each other: no bond is long, and nothing is right."""
    ethanol = molecule_from_smiles("CCO")
    x = ethanol.positions - ethanol.positions.min(axis=0)
    with pytest.raises(ModelMismatchError, match="pieces of"):
        match(ethanol, ethanol.with_positions(np.mod(x, np.maximum(0.7 * np.ptp(x, axis=0), 3.0))))


@pytest.mark.parametrize("smiles", ["CC#C", "CC#N", "C=C=C"])
def test_a_linear_group_has_no_sides(smiles: str) -> None:
    """Bent this way or that way it is the same, in any order of its atoms."""
    molecule, rng = molecule_from_smiles(smiles), np.random.default_rng(5)
    for _ in range(10):
        bent = molecule.positions + rng.normal(scale=0.06 / ANGSTROM, size=molecule.positions.shape)
        other = relabelled(molecule, rng.permutation(molecule.n_atoms), bent)
        assert Labels(molecule).keep_bonds(match(molecule, other).to_reference(other.positions))


def test_a_stretched_bond_keeps_the_order() -> None:
    ethanol = molecule_from_smiles("CCO")
    oxygen = ethanol.symbols.index("O")
    (hydrogen,) = (i for i in ethanol.neighbours[oxygen] if ethanol.symbols[i] == "H")
    x = ethanol.positions.copy()
    along = (x[hydrogen] - x[oxygen]) / np.linalg.norm(x[hydrogen] - x[oxygen])
    x[hydrogen] = x[oxygen] + 1.5 / ANGSTROM * along
    assert len(ethanol.with_positions(x).bonds) == len(ethanol.bonds) - 1
    assert match(ethanol, ethanol.with_positions(x)).identity


def test_an_amide_that_turned_is_the_same_molecule() -> None:
    """Not so a double bond: there the sides are told apart (above)."""
    amide = molecule_from_smiles("CNC(C)=O")
    labels = Labels(amide)
    assert len(labels.rigid_paths)
    assert not len(labels.double_paths)


def test_the_symmetry_is_all_matchings_of_a_molecule_with_itself() -> None:
    """For ethane: permutations and inversions of a non-rigid molecule, a group of order 36 (Longuet-Higgins)."""
    ethane = molecule_from_smiles("CC")
    counts = [sum(1 for _ in matchings(ethane, ethane, mirror)) for mirror in (False, True)]
    assert counts == [18, 18]
    assert find_symmetry(ethane).order == 36


@pytest.mark.parametrize(("smiles", "order"), [("C1CCCCCCCC1", 36), ("CCCCCCCCCCCCCC", 36), ("c1ccccc1", 24)])
def test_long_chains_and_large_rings_have_few_operations(smiles: str, order: int) -> None:
    assert find_symmetry(molecule_from_smiles(smiles)).order == order


def test_all_orders_of_methane_are_found_by_brute_force() -> None:
    methane = molecule_from_smiles("C")
    x, around = methane.positions, np.array(methane.neighbours[methane.symbols.index("C")])
    hydrogens = [i for i, s in enumerate(methane.symbols) if s == "H"]
    kept = 0
    for images in itertools.permutations(hydrogens):
        order = np.arange(5)
        order[hydrogens] = images
        kept += bool(handedness(x[order], around) * handedness(x, around) > 0.0)
    assert kept == sum(1 for _ in matchings(methane, methane, mirror=False)) == 12
