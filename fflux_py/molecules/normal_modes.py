"""Second derivatives of an energy function, and what follows from them at a stationary point: normal modes.

A force field has cheap forces, of many geometries at a time, and no second derivatives in closed form: they are
differences of forces.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fflux_py.errors import FileFormatError
from fflux_py.files import parse_npz, write_atomically
from fflux_py.molecules.molecule import read_only
from fflux_py.molecules.potential import PotentialEnergy
from fflux_py.typing import FloatArray
from fflux_py.units import WAVENUMBER

DISPLACEMENT: Final = 1e-3
"""Bohr."""


@dataclass(frozen=True)
class NormalModes:
    """Vibrations about a stationary point.

    Parameters
    ----------
    positions
        The geometry, bohr, shape ``(n_atoms, 3)``.
    wavenumbers
        cm^-1, ascending, shape ``(3 n_atoms - 6,)``, one more for a linear molecule; an imaginary one, along which the
        energy falls, is negative.
    vectors
        Mass-weighted and orthonormal, in columns, shape ``(3 n_atoms, 3 n_atoms - 6)``.
    """

    positions: FloatArray
    wavenumbers: FloatArray
    vectors: FloatArray

    def __post_init__(self) -> None:
        for name in ("positions", "wavenumbers", "vectors"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


def write_modes(path: str | os.PathLike[str], modes: NormalModes) -> None:
    """Write normal modes into a ``.npz`` file: ``positions`` (bohr), ``wavenumbers`` (cm^-1) and ``vectors``."""
    stream = io.BytesIO()
    np.savez(stream, positions=modes.positions, wavenumbers=modes.wavenumbers, vectors=modes.vectors)
    write_atomically(path, stream.getvalue())


def read_modes(path: str | os.PathLike[str]) -> NormalModes:
    """Read what :func:`write_modes` wrote.

    Raises
    ------
    FileFormatError
        Another kind of file, or a damaged one.
    """
    expected = "normal modes of a molecule"
    try:
        arrays = parse_npz(Path(path).read_bytes())
        positions, wavenumbers, vectors = (arrays[name] for name in ("positions", "wavenumbers", "vectors"))
    except OSError as error:
        raise FileFormatError(str(path), expected, error.strerror or str(error), "check the path") from error
    except (ValueError, KeyError) as error:
        raise FileFormatError(str(path), expected, str(error), "the file is damaged") from error
    table = (positions, wavenumbers, vectors)
    n, m, shapes = positions.size, wavenumbers.size, tuple(array.shape for array in table)
    if shapes != ((n // 3, 3), (m,), (n, m)):
        raise FileFormatError(str(path), expected, f"arrays of shapes {shapes}", "the file is damaged")
    if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in table):
        raise FileFormatError(str(path), expected, "entries that are no finite numbers", "the file is damaged")
    return NormalModes(*table)


def hessian(
    potential: PotentialEnergy, positions: FloatArray, displacement: float = DISPLACEMENT, central: bool = True
) -> FloatArray:
    """Second derivatives of the energy by differences of the forces.

    Parameters
    ----------
    potential
        Energy function; if it has a method ``compute`` for many geometries, as a force field has, all are one call.
    positions
        Bohr, shape ``(n_atoms, 3)``.
    displacement
        Of one coordinate, bohr.
    central
        Both ways (``6 n_atoms`` geometries, error of second order), or one way (``3 n_atoms + 1``, first order).

    Returns
    -------
    FloatArray
        Hartree/bohr^2, shape ``(3 n_atoms, 3 n_atoms)``, symmetric.
    """
    n = positions.size
    steps = displacement * np.eye(n).reshape(n, *positions.shape)
    moved = np.concatenate([positions + steps, positions - steps] if central else [positions + steps, positions[None]])
    compute = getattr(potential, "compute", None)
    if compute is not None:
        forces = np.asarray(compute(moved)[1]).reshape(len(moved), n)
    else:
        forces = np.array([potential.energy_and_forces(one)[1].ravel() for one in moved])
    slopes = (forces[n:] - forces[:n]) / (2.0 * displacement if central else displacement)
    return np.asarray(0.5 * (slopes + slopes.T))


def rigid_motions(positions: FloatArray, masses: FloatArray) -> FloatArray:
    """Orthonormal mass-weighted translations and rotations, ``(3 n_atoms, 6)``; ``(3 n_atoms, 5)`` if it is linear.

    The same space as that of :func:`fflux_py.molecules.mechanics.rigid_motions`, in another basis: the last bits of
    a geometry optimisation depend on it.
    """
    root = np.sqrt(masses)[:, None]
    centred = positions - masses @ positions / masses.sum()
    columns = [root * np.broadcast_to(axis, centred.shape) for axis in np.eye(3)]
    columns += [root * np.cross(axis, centred) for axis in np.eye(3)]
    matrix = np.stack([c.ravel() for c in columns], axis=-1)
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(left[:, values > 1e-8 * values[0]])


def normal_modes(potential: PotentialEnergy, positions: FloatArray, masses: FloatArray) -> NormalModes:
    """Normal modes at a stationary point; rigid motions are projected out.

    Parameters
    ----------
    potential
        Energy function.
    positions
        A minimum or saddle point, bohr, shape ``(n_atoms, 3)``.
    masses
        Electron masses, shape ``(n_atoms,)``.
    """
    return modes_of_hessian(hessian(potential, positions), positions, masses)


def modes_of_hessian(second: FloatArray, positions: FloatArray, masses: FloatArray) -> NormalModes:
    """The same from second derivatives (hartree/bohr^2, ``(3 n_atoms, 3 n_atoms)``) that are known."""
    root = np.repeat(np.sqrt(masses), 3)
    rigid = rigid_motions(positions, masses)
    keep = np.eye(len(root)) - rigid @ rigid.T
    values, vectors = np.linalg.eigh(keep @ (second / np.outer(root, root)) @ keep)
    order = np.argsort(np.abs(rigid.T @ vectors).sum(0))[: len(root) - rigid.shape[1]]
    order = order[np.argsort(values[order])]
    chosen = values[order]
    return NormalModes(positions, np.sign(chosen) * np.sqrt(np.abs(chosen)) * WAVENUMBER, vectors[:, order])
