"""Molecules: elements, masses, bonds, torsions, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from _synthetic import malondialdehyde, methanol

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecule import Molecule, find_bonds, neighbour_lists, symbols_of
from fflux_py.units import ANGSTROM, DALTON

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
    # a planar ring of four carbons, each with one hydrogen outwards
    corners = np.array([[1, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0]])
    ring = np.concatenate([0.775 * corners, 1.54 * corners]) / ANGSTROM
    assert Molecule(("C",) * 4 + ("H",) * 4, ring).torsions() == ()


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
