"""Internal coordinates and superposition over whole trajectories, vectorised; bohr and radian.

``positions`` is always one geometry ``(n_atoms, 3)`` or a series ``(m, n_atoms, 3)``; results have the leading axis of
the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from fflux_py.errors import GeometryError, InputError
from fflux_py.molecules.molecule import Molecule, Torsion
from fflux_py.typing import FloatArray, IntArray
from fflux_py.units import BOLTZMANN

_SINE_LIMIT: Final = 1e-6


def bond_lengths(positions: FloatArray, bonds: Sequence[tuple[int, int]]) -> FloatArray:
    """Lengths of ``bonds`` in bohr, shape ``(..., n_bonds)``."""
    pairs = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    return np.asarray(np.linalg.norm(positions[..., pairs[:, 0], :] - positions[..., pairs[:, 1], :], axis=-1))


def angles(positions: FloatArray, triples: Sequence[tuple[int, int, int]]) -> FloatArray:
    """Angles i-j-k at j, radian in [0, pi], shape ``(..., n_triples)``.

    By atan2 of cross and dot product, which keeps its digits near 0 and pi, where arccos loses half of them.
    """
    index = np.asarray(triples, dtype=np.int64).reshape(-1, 3)
    a = positions[..., index[:, 0], :] - positions[..., index[:, 1], :]
    b = positions[..., index[:, 2], :] - positions[..., index[:, 1], :]
    return np.asarray(np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), np.sum(a * b, axis=-1)))


def torsions(positions: FloatArray, quadruples: Sequence[Torsion]) -> FloatArray:
    """Torsion angles i-j-k-l in (-pi, pi], IUPAC sign (0 is cis), shape ``(..., n_quadruples)``.

    Raises
    ------
    GeometryError
        If three successive atoms stand on one line, where the torsion does not exist.
    """
    index = np.asarray(quadruples, dtype=np.int64).reshape(-1, 4)
    i, j, k, last = (positions[..., index[:, c], :] for c in range(4))
    b1, b2, b3 = j - i, k - j, last - k
    m, n = np.cross(b1, b2), np.cross(b2, b3)
    length = np.linalg.norm(b2, axis=-1)
    for normal, arm in ((m, b1), (n, b3)):
        linear = np.linalg.norm(normal, axis=-1) <= _SINE_LIMIT * np.linalg.norm(arm, axis=-1) * length
        if linear.any():
            where = tuple(int(x) + 1 for x in index[np.argwhere(linear)[0][-1]])
            raise GeometryError(
                f"torsion of atoms {', '.join(map(str, where))}",
                "three successive atoms that are not on one line",
                "a linear angle",
                "choose other torsions",
            )
    return np.asarray(np.arctan2(length * np.sum(b1 * n, axis=-1), np.sum(m * n, axis=-1)))


def shortest_distances(positions: FloatArray) -> FloatArray:
    """Distance of the closest pair of atoms, bohr, shape ``(...)``; infinite for one atom."""
    first, second = np.triu_indices(positions.shape[-2], k=1)
    distance = np.linalg.norm(positions[..., first, :] - positions[..., second, :], axis=-1)
    return np.asarray(distance.min(axis=-1, initial=np.inf))


def heavy_atoms(molecule: Molecule) -> IntArray:
    """Indices of the atoms that are not hydrogen."""
    return np.flatnonzero(molecule.numbers > 1)


def superpose(positions: FloatArray, reference: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Move every geometry onto ``reference`` by the best translation and *proper* rotation.

    W. Kabsch, Acta Cryst. A 32, 922 (1976): R = V diag(1, 1, det) U^T from the singular value decomposition of the
    covariance.  The sign of the determinant keeps mirror images apart.

    Parameters
    ----------
    positions
        One geometry or a series.
    reference
        Shape ``(n_atoms, 3)``.
    weights
        Weight of every atom, shape ``(n_atoms,)`` (masses, or 1 and 0 to fit a part only); equal if not given.

    Returns
    -------
    The moved geometries, same shape as ``positions``.
    """
    if positions.shape[-2:] != reference.shape or reference.ndim != 2:
        raise InputError("positions", f"shape (..., {reference.shape[0]}, 3)", f"shape {positions.shape}")
    share = np.ones(len(reference)) if weights is None else np.asarray(weights, dtype=np.float64)
    if share.shape != (len(reference),) or not (share >= 0.0).all() or share.sum() <= 0.0:
        raise InputError("weights", f"{len(reference)} numbers that are not negative", f"{share}")
    share = share / share.sum()
    goal_centre = share @ reference
    centred = positions - np.einsum("a,...ai->...i", share, positions)[..., None, :]
    covariance = np.einsum("a,...ai,aj->...ij", share, centred, reference - goal_centre)
    left, _, right = np.linalg.svd(covariance)
    flip = np.ones((*covariance.shape[:-2], 3))
    flip[..., 2] = np.sign(np.linalg.det(left) * np.linalg.det(right))
    rotation = np.einsum("...ik,...k,...kj->...ij", left, flip, right)
    return np.asarray(centred @ rotation + goal_centre)


def rmsd(positions: FloatArray, reference: FloatArray, atoms: Sequence[int] | IntArray | None = None) -> FloatArray:
    """Root-mean-square deviation from ``reference`` after :func:`superpose`, bohr, shape ``(...)``.

    Parameters
    ----------
    positions
        One geometry or a series.
    reference
        Shape ``(n_atoms, 3)``.
    atoms
        Fit and compare these atoms only, for example :func:`heavy_atoms`.
    """
    chosen = np.arange(len(reference)) if atoms is None else np.asarray(atoms, dtype=np.int64)
    goal = reference[chosen]
    moved = superpose(positions[..., chosen, :], goal)
    return np.asarray(np.sqrt(np.mean(np.sum((moved - goal) ** 2, axis=-1), axis=-1)))


def torsion_histogram(angle: FloatArray, bins: int = 72) -> tuple[FloatArray, FloatArray]:
    """Probability density of a torsion.

    Parameters
    ----------
    angle
        Angles in radian, any shape; taken modulo 2 pi.
    bins
        Equal bins over (-pi, pi).

    Returns
    -------
    Edges ``(bins + 1,)`` in radian and density ``(bins,)`` in 1/radian; it integrates to 1.
    """
    edges = np.linspace(-np.pi, np.pi, bins + 1)
    density, _ = np.histogram(_wrap(angle), bins=edges, density=True)
    return edges, density


def torsion_free_energy(
    first: FloatArray, second: FloatArray, temperature: float, bins: int = 60
) -> tuple[FloatArray, FloatArray]:
    """Free energy surface F = -k_B T ln p of two torsions from an unbiased canonical trajectory, lowest bin at zero.

    Parameters
    ----------
    first, second
        Angles in radian, shape ``(m,)``.
    temperature
        Kelvin.
    bins
        Equal bins over (-pi, pi) on each axis.

    Returns
    -------
    Edges ``(bins + 1,)`` in radian and F ``(bins, bins)`` in hartree, first torsion first; infinite where the
    trajectory never was.
    """
    if not temperature > 0.0:
        raise InputError("temperature", "a positive number of kelvin", str(temperature))
    edges = np.linspace(-np.pi, np.pi, bins + 1)
    counts, _, _ = np.histogram2d(_wrap(first), _wrap(second), bins=(edges, edges))
    with np.errstate(divide="ignore"):
        surface = -BOLTZMANN * temperature * np.log(counts / counts.max())
    # Avoid the negative zero of the lowest bin in tables.
    return edges, surface + 0.0


def _wrap(angle: FloatArray) -> FloatArray:
    """Angles in [-pi, pi), flattened."""
    return np.asarray((np.ravel(angle) + np.pi) % (2.0 * np.pi) - np.pi)
