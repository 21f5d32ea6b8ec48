"""What a molecule must be before anything expensive is done with it: sampled, labelled, trained on.

Every check is a function that returns one line about what is in order, or raises.  :data:`CHECKS` has them by name;
:func:`check_molecule` runs them all and is what sampling and labelling call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.local_frame import cip_local_frames, describe
from fflux_py.molecules.matching import connected_pieces, in_pieces
from fflux_py.molecules.molecule import Molecule, covalent_radius
from fflux_py.molecules.symmetry import find_symmetry, symmetric_local_frames

FRAMES: Final = "local frames"
"""Name of the check that energies and forces alone do not need."""


def check_elements(molecule: Molecule) -> str:
    """Refuse elements without a covalent radius, by which bonds are found."""
    for symbol in sorted(set(molecule.symbols)):
        covalent_radius(symbol)
    return f"{molecule.formula}, {molecule.n_atoms} atoms"


def check_electrons(molecule: Molecule) -> str:
    """Refuse an odd number of electrons, and the oxygen molecule, whose ground state is a triplet.

    Raises
    ------
    InputError
        An open shell.
    """
    electrons = int(molecule.numbers.sum()) - molecule.charge
    if electrons < 1 or electrons % 2:
        raise InputError(
            f"charge of {molecule.name!r}",
            "an even number of electrons (closed shell)",
            f"{electrons} electrons at charge {molecule.charge}",
            "give the charge (--charge, or total_charge in the file) if it was lost; radicals and other open shells "
            "are not supported",
        )
    if molecule.symbols == ("O", "O") and molecule.charge == 0:
        raise InputError(
            f"electrons of {molecule.name!r}", "a closed shell", "O2, a triplet in its ground state",
            "open shells are not supported",
        )  # fmt: skip
    return f"{electrons} electrons at charge {molecule.charge}"


def check_one_piece(molecule: Molecule) -> str:
    """Refuse two molecules, or one that a periodic cell cut.

    Raises
    ------
    GeometryError
        More than one piece by the rule of bonds.
    """
    pieces = connected_pieces(molecule)
    if len(pieces) > 1:
        raise GeometryError(f"bonds of {molecule.name!r}", *in_pieces(pieces))
    return f"one molecule, {len(molecule.bonds)} bonds"


def check_frames(molecule: Molecule) -> str:
    """Refuse a molecule whose atoms have no local frames, such as a diatomic one or a linear one of four atoms.

    Raises
    ------
    GeometryError
        An atom without a local frame.
    """
    return describe(cip_local_frames(molecule), molecule.symbols)


def check_symmetry(molecule: Molecule) -> str:
    """Refuse a molecule whose operations, or local frames that these map to each other, cannot be found.

    Raises
    ------
    InputError
        More operations than can be used.
    GeometryError
        No local frame that the operations map to another.
    """
    symmetry = find_symmetry(molecule)
    symmetric_local_frames(molecule, symmetry)
    return symmetry.describe()


CHECKS: Final[Mapping[str, Callable[[Molecule], str]]] = MappingProxyType(
    {
        "elements": check_elements,
        "electrons": check_electrons,
        "one piece": check_one_piece,
        FRAMES: check_frames,
        "symmetry": check_symmetry,
    }
)
"""The checks by name, in their order."""


def check_molecule(molecule: Molecule, *, local_frames: bool = True) -> None:
    """Run all checks of a molecule but that of its symmetry, which a model can do without.

    Parameters
    ----------
    molecule
        The start geometry or the reference of a set of geometries.
    local_frames
        Whether it must have local frames; energies and forces alone need none.

    Raises
    ------
    InputError, GeometryError
        The first check that fails.
    """
    for name, check in CHECKS.items():
        if name != "symmetry" and (local_frames or name != FRAMES):
            check(molecule)
