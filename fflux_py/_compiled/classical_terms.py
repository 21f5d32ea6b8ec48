r"""Bonds, angles, planes and repulsion of one molecule, in compiled code.

.. math:: E = \sum_{bonds} (c_1 y + c_2 y^2) + \sum_{angles} (c_1 d + c_2 d^2) + \sum_{planes} c h^2
          + \sum_{pairs} A e^{-b r}

with :math:`y = 1 - e^{-a (r - r_0)}`, :math:`d = \cos\theta - \cos\theta_0` and the triple product
:math:`h = e_1 \cdot (e_2 \times e_3)` of the unit vectors along three bonds of one atom.  Everything bonded is a
polynomial in lengths and unit vectors of bonds: its gradient is collected bond by bond and carried to positions once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray, IntArray


class ClassicalTerms(NamedTuple):
    """The terms and their constants, in atomic units.

    Parameters
    ----------
    bonds
        Two atoms of every bond, shape ``(b, 2)``.
    bond_lengths, bond_exponents
        r_0 (bohr) and a (1/bohr), shapes ``(b,)``.
    bond_constants
        c_1 and c_2, hartree, shape ``(b, 2)``.
    angles
        Two bonds, and for each 1 if it leads from the vertex to its second atom and -1 if not, shape ``(a, 4)``.
    angle_cosines
        cos(theta_0), shape ``(a,)``.
    angle_constants
        c_1 and c_2, hartree, shape ``(a, 2)``.
    planes
        Three bonds of an atom with three neighbours, shape ``(p, 3)``.
    plane_constants
        Hartree, shape ``(p,)``.
    pairs
        Atoms that are three bonds apart or more, shape ``(q, 2)``.
    pair_factors, pair_decays
        A (hartree) and b (1/bohr), shapes ``(q,)``.
    """

    bonds: IntArray
    bond_lengths: FloatArray
    bond_exponents: FloatArray
    bond_constants: FloatArray
    angles: IntArray
    angle_cosines: FloatArray
    angle_constants: FloatArray
    planes: IntArray
    plane_constants: FloatArray
    pairs: IntArray
    pair_factors: FloatArray
    pair_decays: FloatArray


def no_terms() -> ClassicalTerms:
    """No terms at all."""
    pairs, one, two = np.zeros((0, 2), np.int64), np.zeros(0), np.zeros((0, 2))
    angles, planes = np.zeros((0, 4), np.int64), np.zeros((0, 3), np.int64)
    return ClassicalTerms(pairs, one, one, two, angles, one, two, planes, one, pairs, one, one)


@njit(cache=True, error_model="numpy", nogil=True)
def add_classical_terms(x: FloatArray, terms: ClassicalTerms, gradient: FloatArray) -> float:
    """Return the energy (hartree) at positions (bohr, ``(n, 3)``) and add its gradient (hartree/bohr)."""
    n_bonds = len(terms.bonds)
    e, r, slope, pull = np.empty((n_bonds, 3)), np.empty(n_bonds), np.empty(n_bonds), np.zeros((n_bonds, 3))
    energy = 0.0
    for b in range(n_bonds):
        i, j = terms.bonds[b, 0], terms.bonds[b, 1]
        for c in range(3):
            e[b, c] = x[j, c] - x[i, c]
        r[b] = np.sqrt(e[b, 0] ** 2 + e[b, 1] ** 2 + e[b, 2] ** 2)
        for c in range(3):
            e[b, c] /= r[b]
        decay = np.exp(-terms.bond_exponents[b] * (r[b] - terms.bond_lengths[b]))
        y = 1.0 - decay
        linear, quadratic = terms.bond_constants[b, 0], terms.bond_constants[b, 1]
        energy += y * (linear + quadratic * y)
        slope[b] = (linear + 2.0 * quadratic * y) * terms.bond_exponents[b] * decay
    energy += _add_angles(e, terms, pull)
    energy += _add_planes(e, terms, pull)
    for b in range(n_bonds):
        i, j = terms.bonds[b, 0], terms.bonds[b, 1]
        along = pull[b, 0] * e[b, 0] + pull[b, 1] * e[b, 1] + pull[b, 2] * e[b, 2]
        for c in range(3):
            g = slope[b] * e[b, c] + (pull[b, c] - along * e[b, c]) / r[b]
            gradient[j, c] += g
            gradient[i, c] -= g
    for q in range(len(terms.pairs)):
        i, j = terms.pairs[q, 0], terms.pairs[q, 1]
        dx, dy, dz = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
        distance = np.sqrt(dx * dx + dy * dy + dz * dz)
        repulsion = terms.pair_factors[q] * np.exp(-terms.pair_decays[q] * distance)
        energy += repulsion
        g = -terms.pair_decays[q] * repulsion / distance
        gradient[j, 0] += g * dx
        gradient[j, 1] += g * dy
        gradient[j, 2] += g * dz
        gradient[i, 0] -= g * dx
        gradient[i, 1] -= g * dy
        gradient[i, 2] -= g * dz
    return energy


@njit(cache=True, error_model="numpy", nogil=True)
def _add_angles(e: FloatArray, terms: ClassicalTerms, pull: FloatArray) -> float:
    """Energy of the angles; its gradient by the unit vectors is added to ``pull``."""
    energy = 0.0
    for a in range(len(terms.angles)):
        b1, b2 = terms.angles[a, 0], terms.angles[a, 1]
        sign = terms.angles[a, 2] * terms.angles[a, 3]
        cosine = sign * (e[b1, 0] * e[b2, 0] + e[b1, 1] * e[b2, 1] + e[b1, 2] * e[b2, 2])
        d = cosine - terms.angle_cosines[a]
        linear, quadratic = terms.angle_constants[a, 0], terms.angle_constants[a, 1]
        energy += d * (linear + quadratic * d)
        g = sign * (linear + 2.0 * quadratic * d)
        for c in range(3):
            pull[b1, c] += g * e[b2, c]
            pull[b2, c] += g * e[b1, c]
    return energy


@njit(cache=True, error_model="numpy", nogil=True)
def _add_planes(e: FloatArray, terms: ClassicalTerms, pull: FloatArray) -> float:
    """Energy of the atoms out of the plane of their neighbours; its gradient is added to ``pull``."""
    energy = 0.0
    for p in range(len(terms.planes)):
        b1, b2, b3 = terms.planes[p, 0], terms.planes[p, 1], terms.planes[p, 2]
        h = 0.0
        for c in range(3):
            c1, c2 = (c + 1) % 3, (c + 2) % 3
            h += e[b1, c] * (e[b2, c1] * e[b3, c2] - e[b2, c2] * e[b3, c1])
        energy += terms.plane_constants[p] * h * h
        g = 2.0 * terms.plane_constants[p] * h
        for c in range(3):
            c1, c2 = (c + 1) % 3, (c + 2) % 3
            pull[b1, c] += g * (e[b2, c1] * e[b3, c2] - e[b2, c2] * e[b3, c1])
            pull[b2, c] += g * (e[b3, c1] * e[b1, c2] - e[b3, c2] * e[b1, c1])
            pull[b3, c] += g * (e[b1, c1] * e[b2, c2] - e[b1, c2] * e[b2, c1])
    return energy
