"""Operations of molecules: known groups, closure, handedness, frames that follow them."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.errors import InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.symmetry import Symmetry, find_subgroups, find_symmetry, no_symmetry, symmetric_local_frames
from fflux_py.units import ANGSTROM
from tests.support.synthetic import malondialdehyde, methanol

pytestmark = pytest.mark.core


def _elements(symmetry: Symmetry) -> set[tuple[tuple[int, ...], bool]]:
    return {(tuple(p.tolist()), m) for p, m in symmetry.all_operations()}


def _molecule(symbols: str, positions: list[tuple[float, float, float]]) -> Molecule:
    return Molecule(tuple(symbols.split()), np.array(positions) / ANGSTROM)


def water() -> Molecule:
    return _molecule("O H H", [(0.0, 0.0, 0.0), (0.96, 0.0, 0.0), (-0.24, 0.93, 0.0)])


def ethene() -> Molecule:
    return _molecule(
        "C C H H H H",
        [(0, 0, 0), (1.33, 0, 0), (-0.55, 0.92, 0), (-0.55, -0.92, 0), (1.88, 0.92, 0), (1.88, -0.92, 0)],
    )


def chiral() -> Molecule:
    """Bromochlorofluoromethane."""
    return _molecule("C H F Cl Br", [(0, 0, 0), (0, 0, 1.09), (1.30, 0, -0.4), (-0.8, 1.5, -0.5), (-0.9, -1.6, -0.6)])


CASES = [
    (water(), 2),  # the exchange of the hydrogens; the mirror image is the molecule itself
    (methanol(), 6),  # three turns, with and without the mirror image
    (malondialdehyde(), 4),  # ends, methylene hydrogens, mirror image: C2v's order
    (ethene(), 8),  # D2h; single exchanges of two hydrogens would turn the double bond
    (chiral(), 1),
]


@pytest.mark.parametrize(("molecule", "order"), CASES, ids=lambda x: getattr(x, "formula", None))
def test_order_of_known_groups(molecule: Molecule, order: int) -> None:
    assert find_symmetry(molecule).order == order


@pytest.mark.parametrize("molecule", [case[0] for case in CASES], ids=lambda x: x.formula)
def test_operations_are_a_group(molecule: Molecule) -> None:
    elements = _elements(find_symmetry(molecule))
    assert len(elements) == find_symmetry(molecule).order
    for p, m in elements:
        for q, n in elements:
            assert (tuple(p[i] for i in q), m != n) in elements


@pytest.mark.parametrize("most", [1, 2, 4, 8])
@pytest.mark.parametrize("molecule", [case[0] for case in CASES], ids=lambda x: x.formula)
def test_subgroups_are_groups_of_operations_the_largest_first(molecule: Molecule, most: int) -> None:
    whole, subgroups = _elements(find_symmetry(molecule)), find_subgroups(molecule, most)
    for symmetry in subgroups:
        elements = _elements(symmetry)
        assert len(elements) == symmetry.order
        assert elements <= whole
        for p, m in elements:
            for q, n in elements:
                assert (tuple(p[i] for i in q), m != n) in elements
    sizes = [len(symmetry.permutations) for symmetry in subgroups]
    assert sizes == sorted(sizes, reverse=True)
    # all these groups have subgroups of every order that divides theirs
    n_operations = len(find_symmetry(molecule).permutations)
    assert sizes[0] == max(n for n in (1, 2, 4, 8) if n <= most and n_operations % n == 0)
    assert len({frozenset(_elements(symmetry)) for symmetry in subgroups}) == len(subgroups)


def test_exchange_of_methylene_hydrogens_comes_with_the_mirror_image() -> None:
    elements = _elements(find_symmetry(malondialdehyde()))
    exchange = (0, 1, 2, 3, 4, 5, 7, 6, 8)
    ends = (4, 3, 2, 1, 0, 8, 6, 7, 5)
    both = (4, 3, 2, 1, 0, 8, 7, 6, 5)
    assert elements == {(tuple(range(9)), False), (exchange, True), (ends, True), (both, False)}


@pytest.mark.parametrize("molecule", [case[0] for case in CASES[:-1]], ids=lambda x: x.formula)
def test_symmetry_maps_frames_to_frames(molecule: Molecule) -> None:
    symmetry = find_symmetry(molecule)
    frames = {(f.atom, f.x_axis, f.xy_plane) for f in symmetric_local_frames(molecule, symmetry)}
    assert {f[0] for f in frames} == set(range(molecule.n_atoms))
    for permutation, _ in symmetry.all_operations():
        assert {tuple(int(permutation[i]) for i in f) for f in frames} == frames


def test_images_and_factorised_rotors_make_up_the_group() -> None:
    symmetry = find_symmetry(methanol())
    frames = symmetric_local_frames(methanol(), symmetry)
    assert len(frames) == 6
    for frame in frames:
        permutations, _ = symmetry.images(frame)
        rotors = symmetry.factorised_rotors(frame)
        assert len(permutations) * 3 ** len(rotors) == symmetry.order
        assert len(rotors) == (0 if frame.atom in (2, 3, 4) else 1)
        assert len(symmetry.images(frame, factorised=False)[0]) == symmetry.order


def test_equivalent_atoms() -> None:
    assert find_symmetry(methanol()).orbits().tolist() == [0, 1, 2, 2, 2, 5]
    assert find_symmetry(malondialdehyde()).orbits().tolist() == [0, 1, 2, 1, 0, 5, 6, 6, 5]
    assert no_symmetry(4).orbits().tolist() == [0, 1, 2, 3]


def test_subgroup_of_rotors() -> None:
    rotors = find_symmetry(methanol()).only_rotors()
    assert rotors.order == 3
    assert all(not mirror for _, mirror in rotors.all_operations())
    assert _elements(rotors) < _elements(find_symmetry(methanol()))


def test_descriptions() -> None:
    assert no_symmetry(3).describe() == "none"
    assert find_symmetry(methanol()).describe() == (
        "2 permutations of equivalent atoms, 1 of them with the mirror image, 1 rotor of three atoms"
    )


def test_arrays_that_are_no_permutations_are_refused() -> None:
    none = np.zeros((0, 3), dtype=np.int64)
    with pytest.raises(InputError, match="permutations"):
        Symmetry(np.array([[0, 1, 1]]), np.array([False]), none)
    with pytest.raises(InputError, match="identity first"):
        Symmetry(np.array([[1, 0, 2]]), np.array([False]), none)
