"""Torsions, angles and distances as collective variables: value, gradient, and differences on the circle."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.molecule import Torsion
from fflux_py.typing import FloatArray

VariableKind = Literal["torsion", "angle", "distance"]
_N_ATOMS: Final = {"torsion": 4, "angle": 3, "distance": 2}


@dataclass(frozen=True)
class CollectiveVariable:
    """A torsion (radian, in (-pi, pi]), an angle (radian) or a distance (bohr) between atoms.

    Parameters
    ----------
    kind
        ``"torsion"``, ``"angle"`` or ``"distance"``.
    atoms
        Four, three or two atom indices from 0; the middle one is the vertex of an angle.
    label
        Name in files; made of kind and atoms (from 1) if not given.
    """

    kind: VariableKind
    atoms: tuple[int, ...]
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(self.atoms))
        if self.kind not in _N_ATOMS:
            raise InputError("collective variable", f"one of {', '.join(_N_ATOMS)}", repr(self.kind))
        if len(set(self.atoms)) != len(self.atoms) or len(self.atoms) != _N_ATOMS[self.kind] or min(self.atoms) < 0:
            found = ", ".join(str(a + 1) for a in self.atoms)
            raise InputError(f"{self.kind} {self.label}".strip(), f"{_N_ATOMS[self.kind]} different atoms", found)
        if not self.label:
            object.__setattr__(self, "label", f"{self.kind}_{'_'.join(str(a + 1) for a in self.atoms)}")
        if not re.fullmatch(r"[^\s#=,{}]+", self.label):
            raise InputError("label of a collective variable", "a name without blanks, '#', '=' and ','", self.label)

    @property
    def period(self) -> float:
        """Period (radian), or zero."""
        return 2.0 * np.pi if self.kind == "torsion" else 0.0

    def check(self, n_atoms: int) -> None:
        """Refuse atoms that a molecule of ``n_atoms`` atoms does not have."""
        if max(self.atoms) >= n_atoms:
            raise InputError(f"{self.kind} {self.label}", f"atoms from 1 to {n_atoms}", str(max(self.atoms) + 1))

    def value_and_gradient(self, positions: FloatArray) -> tuple[float, FloatArray]:
        """Value and gradient (per bohr, one row for each of ``atoms``) at ``positions`` (bohr, ``(n_atoms, 3)``).

        Raises
        ------
        GeometryError
            Where the variable has no gradient: three atoms on one line, or two on one spot.
        """
        if self.kind == "torsion":
            i, j, k, last = self.atoms
            return torsion_and_gradient(positions, (i, j, k, last))
        return _angle(positions, self.atoms) if self.kind == "angle" else _distance(positions, self.atoms)


def values_and_gradients(
    positions: FloatArray, variables: Sequence[CollectiveVariable]
) -> tuple[FloatArray, FloatArray]:
    """Values ``(k,)`` and gradients ``(k, n_atoms, 3)`` (per bohr) of several variables."""
    values = np.empty(len(variables))
    gradients = np.zeros((len(variables), *positions.shape))
    for index, variable in enumerate(variables):
        values[index], gradients[index, list(variable.atoms)] = variable.value_and_gradient(positions)
    return values, gradients


def difference(a: FloatArray, b: FloatArray, periods: FloatArray) -> FloatArray:
    """``a - b`` for each variable, on the circle where its entry of ``periods`` is not zero."""
    if periods.all():
        return periodic_difference(a, b)
    return np.asarray(np.where(periods > 0.0, periodic_difference(a, b), a - b))


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


def _angle(positions: FloatArray, atoms: tuple[int, ...]) -> tuple[float, FloatArray]:
    i, j, k = positions[list(atoms)]
    a, b = i - j, k - j
    normal = np.cross(a, b)
    aa, bb, sine = float(a @ a), float(b @ b), float(np.sqrt(normal @ normal))
    if sine <= 1e-6 * np.sqrt(aa * bb):
        raise GeometryError(
            f"angle of atoms {', '.join(str(x + 1) for x in atoms)}", "three atoms that are not on one line",
            "a linear angle", "choose another variable")  # fmt: skip
    from_i, from_k = np.cross(a, normal) / (aa * sine), np.cross(normal, b) / (bb * sine)
    return float(np.arctan2(sine, a @ b)), np.array([from_i, -from_i - from_k, from_k])


def _distance(positions: FloatArray, atoms: tuple[int, ...]) -> tuple[float, FloatArray]:
    arm = positions[atoms[1]] - positions[atoms[0]]
    length = float(np.sqrt(arm @ arm))
    if length < 1e-8:
        name = f"distance of atoms {atoms[0] + 1}, {atoms[1] + 1}"
        raise GeometryError(name, "two atoms that are not on one spot", "a distance of zero")
    return length, np.array([-arm / length, arm / length])
