"""The symmetry that a training takes where all of it would be too much."""

from __future__ import annotations

import time

import pytest

from fflux_py.errors import InputError
from fflux_py.molecules.symmetry import find_symmetry
from fflux_py.sampling import molecule_from_smiles
from fflux_py.training import TrainingConfig, chosen_symmetry, images_per_atom

pytest.importorskip("rdkit")


@pytest.mark.parametrize(
    ("smiles", "permutations", "rotors"),
    [
        ("C1CCCCCCCC1", 6, 0),  # cyclononane: of 36 operations
        ("C1COCCOCCOCCOCCO1", 5, 0),  # 15-crown-5: of 20
        ("CCCCCCCCCCCCCC", 4, 2),  # tetradecane
        ("CN=[N+]=[N-]", 2, 1),  # methyl azide: a linear group
        ("CCO", 2, 1),
        ("c1ccccc1", 6, 0),  # of 24
        ("c1ccc2ccccc2c1", 4, 0),  # naphthalene: of 8, where four of a kind share an atom's frames
        ("C", 4, 0),
    ],
)
def test_auto_is_what_fits_and_never_an_error(smiles: str, permutations: int, rotors: int) -> None:
    molecule, config = molecule_from_smiles(smiles), TrainingConfig()
    begin = time.process_time()
    symmetry = chosen_symmetry(molecule, config)
    assert (len(symmetry.permutations), len(symmetry.rotors)) == (permutations, rotors)
    assert images_per_atom(molecule, symmetry, config) <= 8.0
    assert time.process_time() - begin < 5.0, "operations are not listed only to be thrown away"


def test_rotors_alone_need_no_list_of_all_operations() -> None:
    molecule = molecule_from_smiles("CC(C)(C)C")
    with pytest.raises(InputError, match="at most 8 operations, found more"):
        find_symmetry(molecule, 8)
    for choice, permutations in (("rotors", 1), ("auto", 3)):
        chosen = chosen_symmetry(molecule, TrainingConfig(symmetry=choice))
        assert (len(chosen.permutations), len(chosen.rotors)) == (permutations, 4)


def test_every_operation_is_an_image_of_every_frame() -> None:
    """Why more operations than images are none to list."""
    for smiles in ("CCO", "C=C", "c1ccccc1"):
        molecule = molecule_from_smiles(smiles)
        full = find_symmetry(molecule)
        assert images_per_atom(molecule, full, TrainingConfig()) >= len(full.permutations)
