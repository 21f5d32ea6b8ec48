"""Topological atoms (R. F. W. Bader): basins bounded by surfaces that no gradient path of the density crosses.

    critical points -> interatomic surfaces -> weights of every atom at the points of atom-centred grids

The surfaces are swept as smooth sheets (:mod:`fflux_py.iqa.qtaim.surfaces`) and integrals over basins are integrals
over smooth cells plus fluxes through the sheets (:mod:`fflux_py.iqa.qtaim.grid`).  The grids are turned with the atoms'
local frames, so that a label does not depend on how the molecule lies in space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fflux_py.errors import ConvergenceError, GeometryError, InputError
from fflux_py.iqa.qtaim.critical_points import CriticalPoints, find_critical_points
from fflux_py.iqa.qtaim.grid import Shells, angular_rule, cell_weights, flux_weights, model_fluxes, radial_shells
from fflux_py.iqa.qtaim.surfaces import Surface, sweep_surface
from fflux_py.iqa.scf._density import DensityData
from fflux_py.molecules.local_frame import cip_local_frames, local_axes
from fflux_py.molecules.molecule import Molecule
from fflux_py.typing import FloatArray, IntArray

# Grid points with fewer electrons than this (by a model of the density) are left out.
_NEGLIGIBLE_ELECTRONS = 1e-13


@dataclass(frozen=True)
class BasinSettings:
    """How finely topological atoms are integrated.

    Parameters
    ----------
    n_shells
        Radial shells of each atom.
    degree
        Degree of the Lebedev rule on the shells where surfaces are.
    order
        Highest spherical harmonic there.
    surface_tolerance
        Estimated error allowed in the electrons that the flux through one surface moves.  The estimate is that of an
        embedded rule of lower order; the error is smaller by two to three powers of ten.
    """

    n_shells: int = 60
    degree: int = 35
    order: int = 19
    surface_tolerance: float = 1e-3


@dataclass(frozen=True)
class BasinGrid:
    """A grid with the weight of every atom's basin at every point.

    Parameters
    ----------
    points
        Positions in bohr, ``(n, 3)``.
    weights
        Weights of the integral over all space, bohr^3, ``(n,)``.
    shares
        Share of every atom in the weight of a point, ``(n_atoms, n)``, summing to one over the atoms.  Not a
        characteristic function: near a surface the shares interpolate, so that the sum over the points is the integral.
    topology
        Critical points of the density.
    surfaces
        Interatomic surfaces.
    """

    points: FloatArray
    weights: FloatArray
    shares: FloatArray
    topology: CriticalPoints
    surfaces: tuple[Surface, ...]


def find_basins(data: DensityData, molecule: Molecule, settings: BasinSettings | None = None) -> BasinGrid:
    """Find the topological atoms of a density.

    Parameters
    ----------
    data
        The density.
    molecule
        Its nuclei.
    settings
        Fineness of grids and surfaces.

    Raises
    ------
    ConvergenceError
        Critical points that contradict topology, a non-nuclear attractor, or a surface that is not found.
    """
    settings = settings or BasinSettings()
    topology = find_critical_points(data, repr(molecule.name))
    numbers = molecule.numbers.astype(np.float64)

    def fluxes(points: FloatArray, elements: FloatArray, paths: IntArray) -> FloatArray:
        return np.asarray(model_fluxes(points, elements, paths, 15, data.centres, numbers))

    surfaces = tuple(
        sweep_surface(data, topology, bond, fluxes, settings.surface_tolerance, repr(molecule.name))
        for bond in range(len(topology.bonds))
    )
    axes = grid_axes(molecule)
    blocks = [_atom_block(atom, molecule, axes[atom], surfaces, settings) for atom in range(molecule.n_atoms)]
    points, weights, shares = (np.concatenate(parts, axis=-1) for parts in zip(*blocks, strict=True))
    return BasinGrid(np.ascontiguousarray(points.T), weights, shares, topology, surfaces)


def _atom_block(
    atom: int, molecule: Molecule, axes: FloatArray, surfaces: tuple[Surface, ...], settings: BasinSettings
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points (transposed), weights and shares of the grid round one atom."""
    centre = molecule.positions[atom]
    shells = radial_shells(int(molecule.numbers[atom]), settings.n_shells, settings.degree, settings.order)
    points, weights = _points(shells, centre, axes)
    cells, model = cell_weights(points, molecule.positions, molecule.numbers, atom)
    weights = weights * cells
    bound = _outer_electrons(shells, cells * model)
    shares = np.zeros((molecule.n_atoms, len(points)))
    shares[atom] = 1.0
    for surface in surfaces:
        moved = flux_weights(shells, centre, axes, surface.points, surface.elements, bound)
        first, second = surface.atoms
        shares[first] -= moved
        shares[second] += moved
    kept = weights * model > _NEGLIGIBLE_ELECTRONS
    return points[kept].T, weights[kept], shares[:, kept]


def _points(shells: Shells, centre: FloatArray, axes: FloatArray) -> tuple[FloatArray, FloatArray]:
    points, weights = [], []
    for first, last in shells.runs():
        directions, angular = angular_rule(int(shells.degrees[first]))
        points.append((shells.radii[first:last, None, None] * (directions @ axes)).reshape(-1, 3))
        weights.append((shells.weights[first:last, None] * angular).ravel())
    return centre + np.concatenate(points), np.concatenate(weights)


def _outer_electrons(shells: Shells, density: FloatArray) -> FloatArray:
    """Electrons per steradian outside of every shell, at most."""
    largest, start = np.empty(len(shells.radii)), 0
    for first, last in shells.runs():
        n = len(angular_rule(int(shells.degrees[first]))[1])
        block = density[start : start + n * (last - first)].reshape(last - first, n)
        largest[first:last] = np.abs(block).max(axis=1)
        start += n * (last - first)
    return np.cumsum(largest * shells.weights)


def grid_axes(molecule: Molecule) -> FloatArray:
    """Orientation of every atom's grid, rows of ``(n_atoms, 3, 3)``: its local frame, where it has one."""
    try:
        frames = cip_local_frames(molecule)
    except (GeometryError, InputError):
        # Too few atoms, atoms on a line or elements without a priority: the nearest atom, and any direction across.
        return np.array([_axes_to_nearest(molecule, atom) for atom in range(molecule.n_atoms)])
    return np.array([local_axes(molecule.positions, frame) for frame in frames])


def _axes_to_nearest(molecule: Molecule, atom: int) -> FloatArray:
    if molecule.n_atoms == 1:
        return np.eye(3)
    away = np.delete(molecule.positions, atom, axis=0) - molecule.positions[atom]
    away = away[np.argsort(np.linalg.norm(away, axis=1))]
    first = away[0] / np.linalg.norm(away[0])
    across = away - np.outer(away @ first, first)
    lengths = np.linalg.norm(across, axis=1)
    bent = np.flatnonzero(lengths > 0.1 * np.linalg.norm(away, axis=1))
    second = across[bent[0]] if len(bent) else np.cross(first, np.eye(3)[np.abs(first).argmin()])
    second = second / np.linalg.norm(second)
    return np.array([first, second, np.cross(first, second)])


def check_basins(laplacian: FloatArray, limit: float, name: str) -> None:
    """Refuse basins over which the Laplacian of the density does not integrate to zero.

    Parameters
    ----------
    laplacian
        L(A) = -1/4 of the integral, hartree.
    limit
        Largest size allowed.
    name
        What to call the molecule.

    Raises
    ------
    ConvergenceError
        An atom is above the limit.
    """
    worst = int(np.argmax(np.abs(laplacian)))
    if not np.abs(laplacian[worst]) < limit:
        raise ConvergenceError(
            f"basin of atom {worst + 1} of {name}",
            f"an integral of the density's Laplacian below {limit:g} hartree",
            f"{laplacian[worst]:.1e}",
            "leave the geometry out or use another partition",
        )
