"""What a molecule must be before it is sampled and labelled."""

from __future__ import annotations

import numpy as np
import pytest

from fflux_py.errors import FFLUXError
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.preflight import CHECKS, check_molecule
from fflux_py.sampling.sampler import sample
from fflux_py.units import ANGSTROM
from tests.support.synthetic import malondialdehyde


def molecule(symbols: str, positions: list[list[float]], charge: int = 0) -> Molecule:
    return Molecule(tuple(symbols.split()), np.array(positions) / ANGSTROM, charge, "start")


DIMER = molecule(
    "O H H O H H",
    [[-1.551007, -0.11452, 0.0], [-1.934259, 0.762503, 0.0], [-0.599677, 0.040712, 0.0],
     [1.350625, 0.111469, 0.0], [1.680398, -0.373741, -0.758561], [1.680398, -0.373741, 0.758561]],
)  # fmt: skip
METHANE_IN_BOHR = molecule(
    "C H H H H", [[0, 0, 0], [1.19, 1.19, 1.19], [-1.19, -1.19, 1.19], [-1.19, 1.19, -1.19], [1.19, -1.19, -1.19]]
)
METHYL = molecule("C H H H", [[0, 0, 0], [1.08, 0, 0], [-0.54, 0.935307, 0], [-0.54, -0.935307, 0]])
OXYGEN = molecule("O O", [[0, 0, 0], [0, 0, 1.208]])
ACETYLENE = molecule("C C H H", [[0, 0, 0.6], [0, 0, -0.6], [0, 0, 1.66], [0, 0, -1.66]])
CARBON_DIOXIDE = molecule("O C O", [[0, 0, -1.16], [0.02, 0, 0], [0, 0, 1.16]])
XENON = molecule("Xe F F", [[0, 0, 0], [0, 0, 1.98], [0, 0, -1.98]])


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (METHANE_IN_BOHR, "found 5 atoms without a bond; are the coordinates in another unit, such as bohr"),
        (DIMER, "expected one molecule in one piece, found 2 pieces of 3, 3 atoms"),
        (METHYL, r"expected an even number of electrons \(closed shell\), found 9 electrons at charge 0"),
        (OXYGEN, "O2, a triplet"),
        (ACETYLENE, "linear molecule of more than three atoms has no local frames"),
        (XENON, "covalent radius"),
    ],
)
def test_what_is_refused(start: Molecule, message: str) -> None:
    with pytest.raises(FFLUXError, match=message):
        check_molecule(start)
    with pytest.raises(FFLUXError, match=message):  # before any energy is computed
        sample(start, potential=lambda _: pytest.fail("an energy function was made"))


def test_sound_molecules_pass() -> None:
    check_molecule(CARBON_DIOXIDE)
    for start in (malondialdehyde(), Molecule(METHYL.symbols, METHYL.positions, 1)):
        check_molecule(start)
        assert all(check(start) for check in CHECKS.values())


def test_energies_and_forces_alone_need_no_local_frames() -> None:
    check_molecule(ACETYLENE, local_frames=False)
