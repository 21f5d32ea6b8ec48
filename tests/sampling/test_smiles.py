"""Start geometries from SMILES."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="RDKit is not installed")

from fflux_py.errors import InputError
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
