"""Torsion angles as collective variables: value, gradient, and differences on the circle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fflux_py.errors import GeometryError
from fflux_py.potential import FloatArray

Torsion = tuple[int, int, int, int]


def periodic_difference(a: FloatArray | float, b: FloatArray | float) -> FloatArray:
    """``a - b`` on the circle, in [-pi, pi) (radian, any broadcastable shapes)."""
    return np.asarray((np.asarray(a) - np.asarray(b) + np.pi) % (2.0 * np.pi) - np.pi)


def torsion(positions: FloatArray, atoms: Torsion) -> float:
    """Torsion angle i-j-k-l in (-pi, pi], IUPAC sign (0 is cis), of positions in bohr, ``(n_atoms, 3)``."""
    i, j, k, last = positions[list(atoms)]
    b1, b2, b3 = j - i, k - j, last - k
    m, n = np.cross(b1, b2), np.cross(b2, b3)
    return float(np.arctan2(np.linalg.norm(b2) * np.dot(b1, n), np.dot(m, n)))


def torsion_and_gradient(positions: FloatArray, atoms: Torsion) -> tuple[float, FloatArray]:
    """Torsion angle (radian) and its gradient (radian/bohr, ``(4, 3)``, one row for each of ``atoms``).

    The gradient is that of Blondel and Karplus, J. Comput. Chem. 17, 1132 (1996), which has no singularity at
    0 and pi.

    Raises
    ------
    GeometryError
        If three successive atoms stand on one line, where the torsion does not exist.
    """
    ri, rj, rk, rl = positions[list(atoms)]
    f, g, h = ri - rj, rj - rk, rl - rk
    a, b = np.cross(f, g), np.cross(h, g)
    length = float(np.sqrt(g @ g))
    aa, bb = float(a @ a), float(b @ b)
    # |a| = |f||g| sin(angle); below a sine of 1e-6 the direction of the normal is noise.
    if aa <= 1e-12 * float(f @ f) * length**2 or bb <= 1e-12 * float(h @ h) * length**2:
        raise GeometryError(
            f"torsion of atoms {', '.join(str(x + 1) for x in atoms)}",
            "three successive atoms that are not on one line",
            "a linear angle",
            "choose other torsions",
        )
    value = float(np.arctan2(np.dot(np.cross(b, a), g) / length, a @ b))
    from_i, from_l = -length / aa * a, length / bb * b
    fg, hg = float(f @ g) / length, float(h @ g) / length
    shift = fg / aa * a - hg / bb * b
    return value, np.array([from_i, -from_i + shift, -from_l - shift, from_l])


def torsions_and_gradients(positions: FloatArray, torsions: Sequence[Torsion]) -> tuple[FloatArray, FloatArray]:
    """Values ``(k,)`` (radian) and gradients ``(k, n_atoms, 3)`` (radian/bohr) of several torsions."""
    values = np.empty(len(torsions))
    gradients = np.zeros((len(torsions), *positions.shape))
    for index, atoms in enumerate(torsions):
        values[index], gradients[index, list(atoms)] = torsion_and_gradient(positions, atoms)
    return values, gradients
