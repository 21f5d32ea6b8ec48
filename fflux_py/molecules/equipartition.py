"""Kinetic energies of the parts of a molecule, by element and by normal mode, and their degrees of freedom.

Mass-weighted velocities, turned into the orientation of a reference geometry, are projected on its normal modes.  At
P = 0 and L = 0 a direction l has not one degree of freedom but 1 - |B l|^2, with the basis B of the six rigid motions
at the geometry at hand.  Kinetic energy over that, averaged, is kT/2 in equilibrium, exactly, for any directions that
depend on positions alone: also away from the minimum, and for vectors that are no normal modes.
"""

from __future__ import annotations

import numpy as np

from fflux_py.molecules.mechanics import rigid_motions
from fflux_py.molecules.molecule import Molecule
from fflux_py.molecules.normal_modes import NormalModes
from fflux_py.typing import FloatArray


def orientations(positions: FloatArray, reference: FloatArray, masses: FloatArray) -> FloatArray:
    """Proper rotations R, shape ``(r, 3, 3)``: ``positions @ R`` lies best on the reference, mass-weighted."""
    weights = masses / masses.sum()
    a = positions - np.einsum("i,ric->rc", weights, positions)[:, None]
    b = reference - weights @ reference
    left, _, right = np.linalg.svd(np.einsum("i,ric,id->rcd", weights, a, b))
    sign = np.linalg.det(left @ right)
    left[:, :, 2] *= sign[:, None]
    return np.asarray(left @ right)


def elements_of(molecule: Molecule) -> tuple[str, ...]:
    """The elements of a molecule, each once, in the order of its atoms."""
    return tuple(dict.fromkeys(molecule.symbols))


def names_of_parts(molecule: Molecule, modes: NormalModes | None) -> tuple[str, ...]:
    """Elements, then wavenumbers of modes like ``"1799 cm-1"``; an imaginary one is ``"312i cm-1"``."""
    names = list(elements_of(molecule))
    if modes is not None:
        names += [f"{abs(w):.0f}{'i' if w < 0.0 else ''} cm-1" for w in modes.wavenumbers]
    return tuple(names)


def kinetic_energies(
    positions: FloatArray, velocities: FloatArray, molecule: Molecule, masses: FloatArray, modes: NormalModes | None
) -> tuple[FloatArray, FloatArray]:
    """Kinetic energies of all parts (:func:`names_of_parts`), and their degrees of freedom.

    Parameters
    ----------
    positions, velocities
        Atomic units, shape ``(r, n_atoms, 3)``; the velocities without momentum and angular momentum.
    molecule, masses
        The molecule, and its masses in the run (electron masses, shape ``(n_atoms,)``).
    modes
        Directions to look at; None for elements only.

    Returns
    -------
    Energies in hartree and degrees of freedom, shape ``(r, parts)``.
    """
    root = np.sqrt(masses)[:, None]
    member = np.array([[s == e for s in molecule.symbols] for e in elements_of(molecule)], dtype=np.float64)
    rigid = rigid_motions(positions, masses)
    rank = rigid.shape[-1]
    weighted = root * velocities
    by_atom = 0.5 * (weighted**2).sum(-1)
    left = 3.0 - (rigid**2).reshape(*positions.shape, rank).sum((-2, -1))
    parts, freedom = [by_atom @ member.T], [left @ member.T]
    if modes is not None:
        rotation = orientations(positions, modes.positions, masses)
        along = (weighted @ rotation).reshape(len(positions), -1) @ modes.vectors
        rotated = (rigid.reshape(*positions.shape, rank).swapaxes(-1, -2) @ rotation[:, None]).swapaxes(-1, -2)
        overlap = np.einsum("rkb,km->rbm", rotated.reshape(len(positions), -1, rank), modes.vectors)
        parts.append(0.5 * along**2)
        freedom.append(1.0 - (overlap**2).sum(1))
    return np.concatenate(parts, axis=1), np.concatenate(freedom, axis=1)
