"""Whether the atoms of geometries stand in the order and hand of a reference, in compiled code.

The plain NumPy counterpart is :class:`fflux_py.molecules.matching.Labels`, the tests compare with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray, IntArray


class LabelArrays(NamedTuple):
    """What tells the atoms of a molecule apart, as arrays.

    Parameters
    ----------
    bonds
        Bonds (i, j), shape ``(n_bonds, 2)``.
    squeezed, broken, stretched
        Lengths (bohr) below which each of them is none, beyond which it is broken, and stretched, shape ``(n_bonds,)``.
    most_stretched
        So many bonds may be stretched.
    centres, hands
        Neighbours of the centres with a hand, shape ``(n_centres, 4)``, and the sign of their triple product.
    paths, sides
        Atoms (i, j, k, l) along rigid bonds, shape ``(n_paths, 4)``, and the sign of their side in the reference.
    shortest, longest
        Distances (bohr) of all pairs of atoms that a model knows, shape ``(n_atoms, n_atoms)``.
    """

    bonds: IntArray
    squeezed: FloatArray
    broken: FloatArray
    stretched: FloatArray
    most_stretched: int
    centres: IntArray
    hands: FloatArray
    paths: IntArray
    sides: FloatArray
    shortest: FloatArray
    longest: FloatArray


@njit(cache=True, error_model="numpy")
def _distance(x: FloatArray, i: int, j: int) -> float:
    return float(np.sqrt((x[i, 0] - x[j, 0]) ** 2 + (x[i, 1] - x[j, 1]) ** 2 + (x[i, 2] - x[j, 2]) ** 2))


@njit(cache=True, error_model="numpy")
def _keeps_bonds(x: FloatArray, labels: LabelArrays) -> bool:
    stretched = 0
    for b in range(len(labels.bonds)):
        length = _distance(x, labels.bonds[b, 0], labels.bonds[b, 1])
        if not labels.squeezed[b] <= length <= labels.broken[b]:
            return False
        stretched += length > labels.stretched[b]
    return bool(stretched <= labels.most_stretched)


@njit(cache=True, error_model="numpy")
def _keeps_hands(x: FloatArray, labels: LabelArrays) -> bool:
    """The sign of a triple product does not need the lengths of its vectors."""
    for c in range(len(labels.centres)):
        i, j, k, last = labels.centres[c, 0], labels.centres[c, 1], labels.centres[c, 2], labels.centres[c, 3]
        a0, a1, a2 = x[i, 0] - x[last, 0], x[i, 1] - x[last, 1], x[i, 2] - x[last, 2]
        b0, b1, b2 = x[j, 0] - x[last, 0], x[j, 1] - x[last, 1], x[j, 2] - x[last, 2]
        c0, c1, c2 = x[k, 0] - x[last, 0], x[k, 1] - x[last, 1], x[k, 2] - x[last, 2]
        triple = a0 * (b1 * c2 - b2 * c1) + a1 * (b2 * c0 - b0 * c2) + a2 * (b0 * c1 - b1 * c0)
        if not triple * labels.hands[c] > 0.0:
            return False
    return True


@njit(cache=True, error_model="numpy")
def _keeps_sides(x: FloatArray, labels: LabelArrays) -> bool:
    for p in range(len(labels.paths)):
        i, j, k, last = labels.paths[p, 0], labels.paths[p, 1], labels.paths[p, 2], labels.paths[p, 3]
        a0, a1, a2 = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
        b0, b1, b2 = x[k, 0] - x[j, 0], x[k, 1] - x[j, 1], x[k, 2] - x[j, 2]
        c0, c1, c2 = x[last, 0] - x[k, 0], x[last, 1] - x[k, 1], x[last, 2] - x[k, 2]
        side = (a1 * b2 - a2 * b1) * (b1 * c2 - b2 * c1)
        side += (a2 * b0 - a0 * b2) * (b2 * c0 - b0 * c2)
        side += (a0 * b1 - a1 * b0) * (b0 * c1 - b1 * c0)
        if not side * labels.sides[p] >= 0.0:
            return False
    return True


@njit(cache=True, error_model="numpy")
def _keeps_distances(x: FloatArray, labels: LabelArrays) -> bool:
    for i in range(len(x)):
        for j in range(i):
            length = _distance(x, i, j)
            if not labels.shortest[i, j] <= length <= labels.longest[i, j]:
                return False
    return True


@njit(cache=True, error_model="numpy", nogil=True)
def first_misfit(positions: FloatArray, labels: LabelArrays) -> int:
    """Index of the first geometry (bohr, ``(k, n, 3)``) whose atoms do not fit their labels; -1 if all do."""
    for k in range(len(positions)):
        x = positions[k]
        fits = _keeps_bonds(x, labels) and _keeps_hands(x, labels) and _keeps_sides(x, labels)
        if not (fits and _keeps_distances(x, labels)):
            return k
    return -1
