"""Molecules: elements, masses, bonds, torsions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.molecule import Molecule, find_bonds, neighbour_lists, symbols_of
from fflux_py.units import ANGSTROM, DALTON
from tests.support.synthetic import malondialdehyde, methanol

pytestmark = pytest.mark.core


def test_masses_are_in_electron_masses() -> None:
    # 1.008 u = 1837.47 m_e (standard atomic weight of hydrogen, CODATA 2018)
    masses = methanol().masses
    assert masses[-1] == pytest.approx(1.008 * 1822.888486, rel=1e-9)
    assert masses[1] == pytest.approx(15.999 * 1822.888486, rel=1e-9)
    assert masses[0] * DALTON == pytest.approx(12.011)


def test_formula_and_numbers() -> None:
    assert methanol().formula == "CH4O"
    assert Molecule(("H", "O", "H"), np.diag([1.0, 2.0, 3.0])).formula == "H2O"
    np.testing.assert_array_equal(methanol().numbers, [6, 8, 1, 1, 1, 1])
    assert symbols_of([6, 8, 1]) == ("C", "O", "H")


def test_bonds_and_neighbours_of_methanol() -> None:
    molecule = methanol()
    assert molecule.bonds == ((0, 1), (0, 2), (0, 3), (0, 4), (1, 5))
    assert molecule.neighbours == ((1, 2, 3, 4), (0, 5), (0,), (0,), (0,), (1,))
    assert neighbour_lists(3, [(0, 2)]) == ((2,), (), (0,))


def test_bond_rule_is_a_distance_of_1_25_radii_in_angstrom() -> None:
    # C and O: 1.25 (0.77 + 0.73) = 1.875 angstrom
    for length, bonded in ((1.87, True), (1.88, False)):
        positions = np.array([[0.0, 0.0, 0.0], [length, 0.0, 0.0]]) / ANGSTROM
        assert bool(find_bonds(("C", "O"), positions)) is bonded


def test_longest_bond_of_an_overfull_atom_is_dropped() -> None:
    # the hydrogen stands within 1.25 radii of both oxygens (1.375 angstrom); it keeps the nearer one
    positions = np.array([[0.0, 0.0, 0.0], [1.00, 0.0, 0.0], [2.20, 0.0, 0.0]]) / ANGSTROM
    assert find_bonds(("O", "H", "O"), positions) == ((0, 1),)


def test_torsions_leave_out_double_bonds_and_rings() -> None:
    assert methanol().torsions() == ((2, 0, 1, 5),)
    assert malondialdehyde().torsions() == ((0, 1, 2, 3), (1, 2, 3, 4))  # both C-C, from oxygen; no C=O
    # ethene: the double bond is shorter than 0.92 times the sum of the radii
    x, y = 0.665, 0.93
    ethene = [[-x, 0, 0], [x, 0, 0], [-1.24, y, 0], [-1.24, -y, 0], [1.24, y, 0], [1.24, -y, 0]]
    assert Molecule(("C", "C", "H", "H", "H", "H"), np.array(ethene) / ANGSTROM).torsions() == ()
    assert len(Molecule(("C", "C", "H", "H", "H", "H"), np.array(ethene) / ANGSTROM).torsions(stiff=True)) == 1
    # phi, psi and both amide bonds, but no methyl group and no ring
    assert len(alanine_dipeptide().torsions(methyl=False)) == 2
    assert len(alanine_dipeptide().torsions(methyl=False, stiff=True)) == 4
    # a planar ring of four carbons, each with one hydrogen outwards
    corners = np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]])
    ring = np.concatenate([0.775 * corners, 1.54 * corners]) / ANGSTROM
    assert Molecule(("C",) * 4 + ("H",) * 4, ring).torsions() == ()
    assert Molecule(("C",) * 4 + ("H",) * 4, ring).torsions(stiff=True) == ()


def alanine_dipeptide() -> Molecule:
    """ACE-ALA-NME near C7eq, relaxed with GFN2-xTB; heavy atoms first."""
    positions = [
        [-3.656, 0.363, 0.121],
        [-2.418, -0.500, 0.063],
        [-2.460, -1.716, 0.154],
        [-1.257, 0.168, -0.089],
        [0.037, -0.497, -0.108],
        [1.062, 0.376, -0.811],
        [0.473, -0.789, 1.346],
        [1.341, -0.158, 1.912],
        [-0.213, -1.801, 1.901],
        [-0.016, -2.165, 3.285],
        [-4.402, -0.033, -0.563],
        [-4.065, 0.305, 1.128],
        [-3.448, 1.401, -0.123],
        [-1.240, 1.174, -0.044],
        [-0.095, -1.449, -0.636],
        [1.200, 1.299, -0.253],
        [0.741, 0.605, -1.824],
        [2.016, -0.142, -0.843],
        [-1.006, -2.181, 1.396],
        [1.050, -2.108, 3.509],
        [-0.378, -3.176, 3.450],
        [-0.540, -1.479, 3.957],
    ]
    symbols = ("C", "C", "O", "N", "C", "C", "C", "O", "N", "C", *("H",) * 12)
    return Molecule(symbols, np.array(positions) / ANGSTROM, name="alanine dipeptide")


def test_methyl_rotors_can_be_left_out() -> None:
    molecule = alanine_dipeptide()
    axes = {frozenset(t[1:3]) for t in molecule.torsions()}
    # C-N of both amides are no rotatable bonds; phi, psi and three methyl groups are.
    assert axes == {frozenset(p) for p in ((0, 1), (3, 4), (4, 5), (4, 6), (8, 9))}
    assert molecule.torsions(methyl=False) == ((1, 3, 4, 5), (3, 4, 6, 7))
    assert methanol().torsions(methyl=False) == ()
    # A hydroxyl is no methyl group: its three minima differ.
    assert malondialdehyde().torsions(methyl=False) == malondialdehyde().torsions()


def test_backbone_of_a_peptide() -> None:
    molecule = alanine_dipeptide()
    phi, psi = molecule.backbone_torsions()
    assert (phi, psi) == ((1, 3, 4, 6), (3, 4, 6, 8))
    assert [molecule.symbols[a] for a in phi] == ["C", "N", "C", "C"]
    assert [molecule.symbols[a] for a in psi] == ["N", "C", "C", "N"]
    assert malondialdehyde().backbone_torsions() == ()
    # The order of atoms does not matter.
    order = np.random.default_rng(3).permutation(molecule.n_atoms)
    place = {int(old): new for new, old in enumerate(order)}
    mixed = Molecule(tuple(molecule.symbols[i] for i in order), molecule.positions[order])
    assert mixed.backbone_torsions() == (tuple(place[a] for a in phi), tuple(place[a] for a in psi))


def test_bonds_in_rings() -> None:
    corners = np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]])
    ring = Molecule(("C",) * 4 + ("H",) * 4, np.concatenate([0.775 * corners, 1.54 * corners]) / ANGSTROM)
    assert ring.in_ring(0, 1)
    assert not ring.in_ring(0, 4)
    assert not any(malondialdehyde().in_ring(*bond) for bond in malondialdehyde().bonds)


def test_positions_are_copied_and_read_only() -> None:
    positions = methanol().positions.copy()
    molecule = Molecule(methanol().symbols, positions)
    positions += 1.0
    np.testing.assert_array_equal(molecule.positions, methanol().positions)
    with pytest.raises(ValueError, match="read-only"):
        molecule.positions[0, 0] = 1.0
    moved = molecule.with_positions(positions)
    assert moved.symbols == molecule.symbols
    np.testing.assert_array_equal(moved.positions, positions)


def test_what_is_no_molecule_is_refused_with_one_line() -> None:
    two = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    cases = [
        (InputError, ("H", "Xx"), two, "atom 2.*'Xx'"),
        (InputError, ("H", "X"), two, "atom 2.*'X'"),
        (InputError, (), np.zeros((0, 3)), "at least one atom"),
        (InputError, ("H",), two, r"shape \(1, 3\)"),
        (GeometryError, ("H", "H"), [[0, 0, 0], [np.nan, 0, 0]], "atom 2.*NaN"),
        (GeometryError, ("H", "H", "H"), [[0, 0, 0], [2, 0, 0], [2, 0.1, 0]], "atoms 2 and 3.*0.0529 angstrom"),
    ]
    for error, symbols, positions, text in cases:
        with pytest.raises(error, match=text) as caught:
            Molecule(symbols, np.array(positions))
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_an_element_without_a_radius_is_named() -> None:
    gold = Molecule(("Au", "H"), np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    with pytest.raises(InputError, match="element Au"):
        _ = gold.bonds
