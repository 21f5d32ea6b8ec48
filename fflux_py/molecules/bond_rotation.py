"""Rotation of a part of a molecule about a bond."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray


def rotate_about_bond(molecule: Molecule, bond: tuple[int, int], angle: float) -> FloatArray:
    """Positions after everything behind a bond has turned rigidly about it.

    Parameters
    ----------
    molecule
        The molecule, with its bonds.
    bond
        Atoms j and k; k and all that hangs on it turn.  The bond is in no ring.
    angle
        Radian, counted as a torsion is: clockwise when one looks from j to k.

    Returns
    -------
    positions
        Bohr, shape ``(n_atoms, 3)``.
    """
    j, k = bond
    moving, front = {k}, [k]
    while front:
        a = front.pop()
        for b in molecule.neighbours[a]:
            if {a, b} != {j, k} and b not in moving:
                moving.add(b)
                front.append(b)
    positions = np.array(molecule.positions)
    axis = positions[k] - positions[j]
    rotation = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis))
    indices = sorted(moving)
    positions[indices] = rotation.apply(positions[indices] - positions[k]) + positions[k]
    return positions
