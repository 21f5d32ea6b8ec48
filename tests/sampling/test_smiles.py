"""Start geometries from SMILES."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="RDKit is not installed")

from fflux_py.errors import ConvergenceError, InputError, InputWarning
from fflux_py.sampling.plan import SamplingConfig
from fflux_py.sampling.smiles import molecule_from_smiles
from fflux_py.units import ANGSTROM


def test_keto_malondialdehyde() -> None:
    molecule = molecule_from_smiles("O=CCC=O", seed=1, name="malondialdehyde")
    assert molecule.symbols == ("O", "C", "C", "C", "O", "H", "H", "H", "H")
    assert molecule.name == "malondialdehyde"
    assert set(molecule.bonds) == {(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (2, 6), (2, 7), (3, 8)}
    assert molecule.torsions() == ((0, 1, 2, 3), (1, 2, 3, 4))
    carbonyl = np.linalg.norm(molecule.positions[0] - molecule.positions[1]) * ANGSTROM
    assert 1.18 < carbonyl < 1.26


@pytest.mark.parametrize(
    ("smiles", "formula", "charge"),
    [("O", "H2O", 0), ("[NH4+]", "H4N", 1), ("CC(=O)[O-]", "C2H3O2", -1), ("CC(=O)N[C@@H](C)C(=O)NC", "C6H12N2O2", 0)],
)
def test_formula_charge_and_bonds(smiles: str, formula: str, charge: int) -> None:
    molecule = molecule_from_smiles(smiles)
    assert (molecule.formula, molecule.charge, molecule.name) == (formula, charge, smiles)
    # One component: every atom is reached over bonds.
    reached, front = {0}, [0]
    while front:
        for b in molecule.neighbours[front.pop()]:
            if b not in reached:
                reached.add(b)
                front.append(b)
    assert len(reached) == molecule.n_atoms


def test_seed_decides_the_geometry() -> None:
    first, again, other = (molecule_from_smiles("CCCO", seed=s).positions for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


@pytest.mark.parametrize(
    ("smiles", "isomers"),
    [
        ("CC=CC", ("C/C=C/C", r"C/C=C\C")),
        ("CC(F)Cl", ("C[C@H](F)Cl", "C[C@@H](F)Cl")),
    ],
)
def test_stereochemistry_that_is_open_is_told(smiles: str, isomers: tuple[str, str]) -> None:
    """The seed decides, and both isomers come."""
    taken = set()
    for seed in range(8):
        with pytest.warns(InputWarning, match="leaves the stereochemistry open: it is taken as") as told:
            molecule_from_smiles(smiles, seed)
        assert len(told) == 1
        taken.update(isomer for isomer in isomers if repr(isomer) in str(told[0].message))
    assert taken == set(isomers)
    for isomer in isomers:  # told in full, nothing is open
        molecule_from_smiles(isomer)


@pytest.mark.parametrize("smiles", ["CN=[N+]=[N-]", "C[SiH3]", "CN", "C[C@H](N)C(=O)O", r"C/C=C\C", "N=C=N", "[H][H]"])
def test_stereochemistry_that_is_not_open_needs_no_word(smiles: str) -> None:
    molecule_from_smiles(smiles)


def test_a_geometry_with_other_bonds_than_the_string_is_refused() -> None:
    """Distance geometry alone, where MMFF94 has no parameters, brings two fluorines of PF5 together."""
    with pytest.raises(ConvergenceError, match="bonds of the string, found a bond between F1 and F3; try another seed"):
        molecule_from_smiles("FP(F)(F)(F)F")


@pytest.mark.parametrize(
    ("smiles", "found"),
    [
        ("O=C(C", "cannot read"),
        ("", "cannot read"),
        ("not smiles", "cannot read"),
        ("C(C)(C)(C)(C)C", "cannot read"),
        ("O.O", "2 fragments"),
        ("[CH3]", "unpaired electrons"),
        ("[2H]O[2H]", "an isotope"),
    ],
)
def test_bad_smiles_are_named(smiles: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        molecule_from_smiles(smiles)
    assert f"SMILES {smiles!r}" in str(caught.value)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("smiles", ["CCC#N", "C=CC#N", "C#Cc1ccccc1", "CCC#CC", "N#CCC#N"])
def test_linear_groups_have_no_torsions(smiles: str) -> None:
    # Along a nitrile or an alkyne a torsion is not defined, and the gradient of a bias on it has no bound.
    assert molecule_from_smiles(smiles).torsions(methyl=False) == ()


def test_torsions_beside_a_linear_group_stay() -> None:
    assert [t[1:3] for t in molecule_from_smiles("C#CCO").torsions()] == [(2, 3)]
    assert [t[1:3] for t in molecule_from_smiles("CCC#N").torsions()] == [(0, 1)]  # the methyl group


@pytest.mark.parametrize(
    ("smiles", "axes"),
    [
        ("Oc1ccccc1", [(0, 1)]),
        ("COc1ccccc1", [(0, 1), (1, 2)]),
        ("COP(=O)(OC)OC", [(0, 1), (1, 2), (2, 4), (2, 6), (4, 5), (6, 7)]),
        ("C[SiH2]O[SiH2]C", [(0, 1), (1, 2), (2, 3), (3, 4)]),
        # as before: no torsion of acids, esters, enols and amides about the short bond, one about the others
        ("CC(=O)O", [(0, 1)]),
        ("CC(=O)OC", [(0, 1), (3, 4)]),
        ("C=COC", [(2, 3)]),
        ("CC(=O)NC", [(0, 1), (3, 4)]),
        ("OC", [(0, 1)]),
    ],
)
def test_rotatable_bonds_of_oxygen(smiles: str, axes: list[tuple[int, int]]) -> None:
    assert [t[1:3] for t in molecule_from_smiles(smiles).torsions()] == axes


def test_torsion_along_a_linear_group_is_not_biased() -> None:
    propionitrile = molecule_from_smiles("CCC#N")
    with pytest.raises(InputError, match="torsion 1-2-3-4: expected angles of its atoms below 165 degrees"):
        SamplingConfig(torsions=((0, 1, 2, 3),)).biased_torsions(propionitrile)
