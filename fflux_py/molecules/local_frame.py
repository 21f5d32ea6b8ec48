r"""Atomic local frames: which two other atoms span an atom's axes.

The x axis points from the atom A to X, and Y lies in the xy half plane with positive y.  :math:`e_1 = a/|a|`,
:math:`e_2 \propto b - (e_1 \cdot b) e_1`, :math:`e_3 = e_1 \times e_2` with :math:`a = R_X - R_A` and
:math:`b = R_Y - R_A`.  (Mills and Popelier, Comput. Theor. Chem. 975, 42 (2011); the CIP-like choice of X and Y is
ICHOR's.)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray

# Mass of the most abundant isotope in dalton (AME2020, rounded), the level-0 priority of the CIP-like rule.
_ISOTOPE_MASS: Final = {
    "H": 1.007825, "B": 11.009305, "C": 12.0, "N": 14.003074, "O": 15.994915, "F": 18.998403, "Si": 27.976927,
    "P": 30.973762, "S": 31.972071, "Cl": 34.968853, "Br": 78.918338, "I": 126.904473,
}  # fmt: skip
LINEAR_SINE: Final = 1e-4
# Atoms for a local frame are chosen with a sine of their angle, in the reference, of at least this.
_SMALLEST_SINE: Final = 0.2
_ON_A_LINE: Final = 1e-10


@dataclass(frozen=True)
class LocalFrame:
    """Indices (from 0) of the atom, of its x-axis atom and of its xy-plane atom."""

    atom: int
    x_axis: int
    xy_plane: int

    def others(self, n_atoms: int) -> tuple[int, ...]:
        """All atoms outside the local frame, ascending: the order of their features."""
        return tuple(i for i in range(n_atoms) if i not in (self.atom, self.x_axis, self.xy_plane))


def cip_local_frames(molecule: Molecule) -> tuple[LocalFrame, ...]:
    """The local frames of all atoms by the Cahn-Ingold-Prelog-like rule of ICHOR, on the molecule's geometry.

    X is chosen first, then Y, among the neighbours of the atom (or the neighbours' neighbours if no neighbour is left,
    and so on) by the sum of isotopic masses of a sphere of bonded atoms that grows until the maximum is unique.  Y is
    no atom that stands nearly on a line with the atom and X, as along a nitrile or an alkyne.  If all do, as at the end
    of a bent chain (HN3), X and Y are the two atoms that stand farthest from a line with the atom, X the nearer.

    Raises
    ------
    GeometryError
        Fewer than three atoms, an atom from which no two others can be reached, or three atoms of a frame on a line.
    """
    if molecule.n_atoms < 3:
        raise GeometryError(
            f"molecule {molecule.name!r}", "at least 3 atoms (a frame has three)", str(molecule.n_atoms)
        )
    for symbol in molecule.symbols:
        if symbol not in _ISOTOPE_MASS:
            raise InputError(f"element {symbol}", f"one of {', '.join(_ISOTOPE_MASS)}", symbol)
    masses = [_ISOTOPE_MASS[s] for s in molecule.symbols]
    frames = []
    for atom in range(molecule.n_atoms):
        x_axis = _highest_priority(_candidates(molecule, [atom], ()), molecule.neighbours, masses)
        collinear = [
            i for i in range(molecule.n_atoms) if molecule.n_atoms > 3 and _on_a_line(molecule, atom, x_axis, i)
        ]
        pair = _widest_pair(molecule, atom) if len(collinear) == molecule.n_atoms - 2 else None
        if pair is not None:
            frames.append(LocalFrame(atom, *pair))
            continue
        candidates = _candidates(molecule, [atom, x_axis], collinear)
        frames.append(LocalFrame(atom, x_axis, _highest_priority(candidates, molecule.neighbours, masses)))
    if molecule.n_atoms > 3:
        check_local_frames(molecule.positions, frames)
    return tuple(frames)


def _candidates(molecule: Molecule, taken: list[int], collinear: Collection[int]) -> list[int]:
    """Atoms of the first shell of bonds around ``taken[0]`` with any that is not taken, and not collinear."""
    shell, reached = list(molecule.neighbours[taken[0]]), {taken[0]}
    while shell:
        candidates = [i for i in shell if i not in taken and i not in collinear]
        if candidates:
            return candidates
        reached |= set(shell)
        further = [j for i in shell for j in molecule.neighbours[i]]
        # the second shell leads back to the atom itself; what is reached once more in later ones ends the search
        shell = further if not set(further) <= reached else []
    place = f"molecule {molecule.name!r}, atom {taken[0] + 1}"
    if collinear:
        raise GeometryError(
            place, "an atom off the line through it and its neighbour", "none",
            "a linear molecule of more than three atoms has no local frames",
        )  # fmt: skip
    raise GeometryError(
        place, "a bonded molecule, in which two further atoms can be reached", "none left",
        "check the bonds of the start geometry",
    )  # fmt: skip


def _widest_pair(molecule: Molecule, atom: int) -> tuple[int, int] | None:
    """The two others with the largest sine of their angle at an atom, the nearer first; None if all are on a line."""
    arms = molecule.positions - molecule.positions[atom]
    lengths = np.linalg.norm(arms, axis=1)
    lengths[atom] = np.inf
    sines = np.linalg.norm(np.cross(arms[:, None], arms[None]), axis=2) / (lengths[:, None] * lengths[None])
    i, j = (int(k) for k in np.unravel_index(int(sines.argmax()), sines.shape))
    if sines[i, j] < _SMALLEST_SINE:
        return None
    return (i, j) if lengths[i] <= lengths[j] else (j, i)


def _on_a_line(molecule: Molecule, atom: int, x_axis: int, other: int) -> bool:
    """Whether the angle of two atoms at an atom is within twelve degrees of a straight or of no angle."""
    if other in (atom, x_axis):
        return False
    a, b = (molecule.positions[i] - molecule.positions[atom] for i in (x_axis, other))
    return bool(np.linalg.norm(np.cross(a, b)) < _SMALLEST_SINE * np.linalg.norm(a) * np.linalg.norm(b))


def _highest_priority(candidates: list[int], neighbours: Sequence[Sequence[int]], masses: list[float]) -> int:
    spheres = [[i] for i in candidates]
    priority = [masses[i] for i in candidates]
    while priority.count(max(priority)) > 1:
        spheres = [s + [j for i in s for j in neighbours[i] if j not in set(s)] for s in spheres]
        grown = [sum(masses[i] for i in s) for s in spheres]
        if grown == priority:
            break
        priority = grown
    return candidates[priority.index(max(priority))]


def check_local_frames(positions: FloatArray, frames: Sequence[LocalFrame]) -> None:
    """Refuse local frames whose three atoms stand on a line in any geometry (bohr, shape ``(..., n_atoms, 3)``)."""
    for frame in frames:
        a = positions[..., frame.x_axis, :] - positions[..., frame.atom, :]
        b = positions[..., frame.xy_plane, :] - positions[..., frame.atom, :]
        area = np.linalg.norm(np.cross(a, b), axis=-1)
        product = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        if not np.all(area > LINEAR_SINE * product):  # False for NaN and for coinciding atoms as well
            worst = np.argmin(np.where(area > LINEAR_SINE * product, np.inf, 0.0))
            sine = np.ravel(area)[worst] / (np.ravel(product)[worst] or np.inf)
            raise GeometryError(
                f"local frame of atom {frame.atom + 1} (x axis to {frame.x_axis + 1}, plane of {frame.xy_plane + 1})",
                f"three atoms with a sine of their angle above {LINEAR_SINE:g}",
                f"{sine:.2g}",
                "a linear frame has no axes; choose another geometry or other frame atoms",
            )


def local_axes(positions: FloatArray, frame: LocalFrame) -> FloatArray:
    """The axes of a local frame as rows, shape ``(..., 3, 3)``, of positions in bohr, shape ``(..., n_atoms, 3)``."""
    a = positions[..., frame.x_axis, :] - positions[..., frame.atom, :]
    b = positions[..., frame.xy_plane, :] - positions[..., frame.atom, :]
    e1 = a / np.linalg.norm(a, axis=-1, keepdims=True)
    y = b - (e1 * b).sum(-1, keepdims=True) * e1
    if positions.shape[-2] == 3:
        # no feature of three atoms on a line depends on where the plane lies: any will do
        linear = np.linalg.norm(y, axis=-1, keepdims=True) <= _ON_A_LINE * np.linalg.norm(b, axis=-1, keepdims=True)
        unit = np.eye(3)[np.abs(e1).argmin(axis=-1)]
        y = np.where(linear, unit - (e1 * unit).sum(-1, keepdims=True) * e1, y)
    e2 = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([e1, e2, np.cross(e1, e2)], axis=-2)


def describe(frames: Sequence[LocalFrame], symbols: Sequence[str]) -> str:
    """The local frames in words (atoms counted from 1), for reports."""
    name = [f"{s}{i + 1}" for i, s in enumerate(symbols)]
    return ", ".join(f"{name[f.atom]}: x to {name[f.x_axis]}, plane of {name[f.xy_plane]}" for f in frames)
