r"""Atom-centred grids for topological atoms, and the flux that moves densities from smooth cells to sharp basins.

A density f is first divided into smooth cells, f = sum_B w_B f (A. D. Becke, J. Chem. Phys. 88, 2547 (1988)), each
integrated on its own spherical grid.  With :math:`x = r - R_B`, the field

.. math:: G(r) = -\sum_B \frac{x}{|x|^3} \int_{|x|}^\infty w_B f(R_B + s\, x/|x|)\, s^2 ds

has the divergence f minus point sources, :math:`f - \sum_B \delta(r - R_B) \int w_B f`.  By Gauss's theorem the
integral over a basin is that over the smooth cell of its nucleus plus the flux of G through the surfaces of the basin.
The sharp boundary thus never meets the grid: the surfaces are smooth sheets, and G is smooth.  On each shell of the
grid w_B f is expanded in spherical harmonics, along the radius it is interpolated locally; all this is linear in f, so
that it comes down to one weight for every grid point and atom.  The weights of all atoms at a point sum to one whatever
the surfaces are: what the flux takes from one atom it gives to another.

Radial nodes: O. Treutler, R. Ahlrichs, J. Chem. Phys. 102, 346 (1995), map M4 with the trapezoidal rule in the angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from scipy.integrate import lebedev_rule
from scipy.interpolate import CubicSpline

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray, IntArray

# Radii of the smooth cells in bohr: Slater's, but a larger hydrogen, whose small radius makes cells with sharper edges.
_CELL_RADII = {1: 0.95, 2: 0.6, 3: 2.7, 4: 2.0, 5: 1.6, 6: 1.3, 7: 1.25, 8: 1.2, 9: 1.1, 10: 1.0}
_LATER_CELL_RADIUS = 1.9
_RADIAL_SCALES = {1: 0.8, 2: 0.9, 3: 1.8, 4: 1.4, 5: 1.3, 6: 1.1, 7: 0.9, 8: 0.9, 9: 0.9, 10: 0.9}
_LATER_RADIAL_SCALE = 1.3
_MAP_POWER = 0.6
_STENCIL = 8
# Surface points whose flux is below this many electrons are left out.
_NEGLIGIBLE_FLOW = 3e-11
# Below this many electrons, harmonics up to the low order do.
_SMALL_FLOW = 3e-8
_LOW_ORDER = 8
_ROUNDING = 1e-100
# Degree of the Lebedev rule and highest harmonic between the radii (in units of the radial scale) that stand beside it.
_SHELLS = ((0.25, 11, 5), (0.5, 19, 9), (0.0, 0, 0), (4.5, 29, 14), (6.5, 17, 8))


@dataclass(frozen=True)
class Shells:
    """The grid of one atom.

    Parameters
    ----------
    scale
        Length of the radial map in bohr.
    radii
        Radii of the shells in bohr, decreasing, ``(n_shells,)``.
    weights
        Radial weights with r^2, bohr^3, ``(n_shells,)``.
    degrees
        Degree of the angular rule of every shell, ``(n_shells,)``.
    orders
        Highest harmonic of the expansion on every shell, ``(n_shells,)``.
    """

    scale: float
    radii: FloatArray
    weights: FloatArray
    degrees: IntArray
    orders: IntArray

    def runs(self) -> list[tuple[int, int]]:
        """First and last + 1 of consecutive shells with the same rule and highest harmonic."""
        rule = self.degrees * 1000 + self.orders
        edges = [0, *(np.flatnonzero(np.diff(rule)) + 1).tolist(), len(rule)]
        return list(pairwise(edges))

    @property
    def n_points(self) -> int:
        """Number of points of the grid."""
        return sum((last - first) * len(angular_rule(int(self.degrees[first]))[1]) for first, last in self.runs())


def radial_shells(number: int, n_shells: int, degree: int, order: int) -> Shells:
    """Shells for an element; ``degree`` and ``order`` are those of the shells where surfaces are."""
    scale = _RADIAL_SCALES.get(number, _LATER_RADIAL_SCALE)
    angle = np.arange(1, n_shells + 1) * np.pi / (n_shells + 1)
    x = np.cos(angle)
    logarithm = np.log(2.0 / (1.0 - x))
    radii = scale / np.log(2.0) * (1.0 + x) ** _MAP_POWER * logarithm
    slope = _MAP_POWER * (1.0 + x) ** (_MAP_POWER - 1.0) * logarithm + (1.0 + x) ** _MAP_POWER / (1.0 - x)
    weights = np.pi / (n_shells + 1) * np.sin(angle) * scale / np.log(2.0) * slope * radii**2
    (core, *core_rule), (inner, *inner_rule), _, (outer, *outer_rule), (far, *far_rule) = _SHELLS
    full = [degree, order]
    rules = []
    for r in radii / scale:
        rule = core_rule if r < core else inner_rule if r < inner else full
        rule = far_rule if r > far else outer_rule if r > outer else rule
        rules.append(min(rule, full))
    table = np.array(rules)
    return Shells(scale, radii, weights, table[:, 0], table[:, 1])


@cache
def angular_rule(degree: int) -> tuple[FloatArray, FloatArray]:
    """Directions ``(n, 3)`` and weights ``(n,)`` (sum 4 pi) of the Lebedev rule of a degree."""
    directions, weights = lebedev_rule(degree)
    return np.ascontiguousarray(directions.T), weights


@cache
def angular_harmonics(degree: int, order: int) -> FloatArray:
    """Harmonics up to ``order`` at the directions of a rule, ``(n, (order + 1)^2)``."""
    directions = angular_rule(degree)[0]
    out = np.empty((len(directions), (order + 1) ** 2))
    _harmonics_at(directions, order, recursion(order), out)
    # High powers of a component that is zero but for rounding are subnormal numbers, with which products are slow.
    out[np.abs(out) < _ROUNDING] = 0.0
    return out


@cache
def recursion(order: int) -> FloatArray:
    """Coefficients of the recursion of normalised Legendre functions: diagonal, and two of every (l, m)."""
    table = np.zeros((3, order + 2, order + 2))
    table[0, 0, 0] = np.sqrt(0.25 / np.pi)
    for m in range(1, order + 1):
        table[0, m, m] = table[0, m - 1, m - 1] * np.sqrt((2.0 * m + 1.0) / (2.0 * m))
    for m in range(order + 1):
        for l in range(m, order + 1):  # noqa: E741 - the field's name
            table[1, l, m] = np.sqrt((4.0 * (l + 1) ** 2 - 1.0) / ((l + 1.0) ** 2 - m * m))
            table[2, l, m] = np.sqrt((l * l - m * m) / (4.0 * l * l - 1.0)) if l > 0 else 0.0
    return table


@njit(cache=True, fastmath=True)
def _harmonics(
    x: float, y: float, z: float, order: int, table: FloatArray, out: FloatArray
) -> None:  # pragma: no cover - compiled
    """Orthonormal real spherical harmonics of a unit vector, row l^2 + l + m."""
    cosine, sine = np.sqrt(2.0), 0.0
    for m in range(order + 1):
        below, here = 0.0, table[0, m, m]
        for l in range(m, order + 1):  # noqa: E741 - the field's name
            if m == 0:
                out[l * l + l] = here
            else:
                out[l * l + l + m] = here * cosine
                out[l * l + l - m] = here * sine
            below, here = here, table[1, l, m] * (z * here - table[2, l, m] * below)
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine


@njit(cache=True)
def _harmonics_at(
    directions: FloatArray, order: int, table: FloatArray, out: FloatArray
) -> None:  # pragma: no cover - compiled
    for k in range(len(directions)):
        _harmonics(directions[k, 0], directions[k, 1], directions[k, 2], order, table, out[k])


@cache
def _stencil() -> tuple[FloatArray, FloatArray]:
    """Antiderivatives of Lagrange's polynomials on eight nodes, from 0 to t and over the middle interval."""
    nodes = np.arange(_STENCIL) - (_STENCIL // 2 - 1.0)
    rows = []
    for k in range(_STENCIL):
        polynomial = np.poly1d([1.0])
        for m in range(_STENCIL):
            if m != k:
                polynomial = polynomial * np.poly1d([1.0, -nodes[m]]) / (nodes[k] - nodes[m])
        rows.append(polynomial.integ().coeffs)
    table = np.array(rows)
    return table, table.sum(axis=1)


@cache
def _inverse_map() -> CubicSpline:
    """Angle of the radial map as a function of the logarithm of r / scale."""
    angle = np.linspace(0.0, np.pi, 40002)[1:-1]
    x = np.cos(angle)
    radius = (1.0 + x) ** _MAP_POWER * np.log(2.0 / (1.0 - x)) / np.log(2.0)
    return CubicSpline(np.log(radius[::-1]), angle[::-1])


def flux_weights(
    shells: Shells, centre: FloatArray, axes: FloatArray, points: FloatArray, elements: FloatArray, bound: FloatArray
) -> FloatArray:
    """What a flux through a surface takes from each grid point of one atom's grid.

    Parameters
    ----------
    shells
        The grid.
    centre, axes
        Its position and the rows of its orientation.
    points, elements
        The surface.
    bound
        At every shell, bohr: an upper bound of the electrons per steradian outside of it in the cell of this atom.
        Surface points that cannot matter are left out.

    Returns
    -------
    The share of every grid point (shell by shell) that flows along the area elements, against them negative.
    """
    n = len(shells.radii)
    order = int(shells.orders.max())
    away = points - centre
    distance = np.sqrt(np.einsum("px,px->p", away, away))
    flow = np.einsum("px,px->p", away, elements) / distance**3
    largest = np.interp(distance, shells.radii[::-1], bound[::-1])
    matters = (np.abs(flow) * largest > _NEGLIGIBLE_FLOW) & (distance < shells.radii[0])
    if not matters.any():
        return np.zeros(shells.n_points)
    away, distance, flow = away[matters], distance[matters], flow[matters]
    # Radial coordinate in units of the shells' spacing, from the outermost inwards.
    node = _inverse_map()(np.log(distance / shells.scale)) * (n + 1) / np.pi
    antiderivatives, whole = _stencil()
    moments = np.zeros((n + 2 * _STENCIL, (order + 1) ** 2))
    steps = np.zeros((n + 2, (order + 1) ** 2))
    # What moves few electrons needs no fine angular structure.
    orders = np.where(np.abs(flow) * largest[matters] > _SMALL_FLOW, order, min(order, _LOW_ORDER))
    directions = (away / distance[:, None]) @ axes.T
    _moments(directions, flow, node, orders, recursion(order), antiderivatives, moments, steps)
    # Every interval beyond the one of the surface point counts in full.
    beyond = np.cumsum(steps[::-1], axis=0)[::-1]
    for k in range(_STENCIL):
        first = k + _STENCIL // 2 + 1
        moments[first : first + n + 1] += whole[k] * beyond[1:]
    moments = moments[_STENCIL + 1 : _STENCIL + 1 + n]
    out = []
    for first, last in shells.runs():
        highest = int(shells.orders[first])
        harmonics = angular_harmonics(int(shells.degrees[first]), highest)
        out.append((moments[first:last, : (highest + 1) ** 2] @ harmonics.T).ravel())
    return np.concatenate(out)


@njit(cache=True, fastmath=True)
def _moments(
    directions: FloatArray,
    flow: FloatArray,
    node: FloatArray,
    orders: IntArray,
    table: FloatArray,
    antiderivatives: FloatArray,
    moments: FloatArray,
    steps: FloatArray,
) -> None:  # pragma: no cover - compiled
    """Sum flow times harmonics over surface points, by interval (``steps``) and by stencil node within it."""
    harmonics = np.empty(steps.shape[1])
    for p in range(len(flow)):
        n_terms = (orders[p] + 1) ** 2
        _harmonics(directions[p, 0], directions[p, 1], directions[p, 2], orders[p], table, harmonics)
        for q in range(n_terms):
            harmonics[q] *= flow[p]
        interval = int(node[p])
        t = node[p] - interval
        for q in range(n_terms):
            steps[interval, q] += harmonics[q]
        for k in range(8):
            weight = 0.0
            for i in range(antiderivatives.shape[1]):
                weight = weight * t + antiderivatives[k, i]
            row = interval + k + 5
            for q in range(n_terms):
                moments[row, q] += weight * harmonics[q]


def cell_weights(
    points: FloatArray, centres: FloatArray, numbers: IntArray, owner: int
) -> tuple[FloatArray, FloatArray]:
    """Weight of one atom's smooth cell at ``points``, and a model of the density there.

    The model, two exponentials for each atom and its core, serves estimates only.

    Returns
    -------
    weights, density
        Each ``(n_points,)``.
    """
    radii = np.array([_CELL_RADII.get(int(z), _LATER_CELL_RADIUS) for z in numbers])
    out, density = np.empty(len(points)), np.empty(len(points))
    pair = radii[:, None] / radii[None]
    u = (pair - 1.0) / (pair + 1.0)
    shift = np.clip(u / (u * u - 1.0), -0.5, 0.5)
    separation = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    _cells(np.ascontiguousarray(points), centres, separation, shift, numbers.astype(np.float64), owner, out, density)
    return out, density


@njit(cache=True, fastmath=True)
def _cells(
    points: FloatArray,
    centres: FloatArray,
    separation: FloatArray,
    shift: FloatArray,
    numbers: FloatArray,
    owner: int,
    out: FloatArray,
    density: FloatArray,
) -> None:  # pragma: no cover - compiled
    n = len(centres)
    distance, cell = np.empty(n), np.empty(n)
    for p in range(len(points)):
        model = 0.0
        for a in range(n):
            x, y, z = points[p, 0] - centres[a, 0], points[p, 1] - centres[a, 1], points[p, 2] - centres[a, 2]
            distance[a] = np.sqrt(x * x + y * y + z * z)
            cell[a] = 1.0
            if distance[a] < 16.0:
                model += model_density(numbers[a], distance[a])
        density[p] = model
        product_of_owner = 1.0
        for b in range(n):
            if b != owner:
                product_of_owner *= _step((distance[owner] - distance[b]) / separation[owner, b], shift[owner, b])
        out[p] = 0.0
        if product_of_owner < 1e-14:
            continue
        total = product_of_owner
        for a in range(n):
            if a == owner:
                continue
            product = 1.0
            for b in range(n):
                if b != a:
                    product *= _step((distance[a] - distance[b]) / separation[a, b], shift[a, b])
                    if product < 1e-16:
                        break
            total += product
        out[p] = product_of_owner / total


@njit(cache=True, fastmath=True)
def _step(mu: float, shift: float) -> float:  # pragma: no cover - compiled
    """Becke's step from 1 at one nucleus to 0 at the other."""
    nu = mu + shift * (1.0 - mu * mu)
    for _ in range(3):
        nu *= 1.5 - 0.5 * nu * nu
    return 0.5 - 0.5 * nu


@njit(cache=True, fastmath=True)
def model_density(number: float, r: float) -> float:  # pragma: no cover - compiled
    """Density of a crude free atom, e/bohr^3: its valence in two exponentials, two electrons in its core."""
    if number < 3.0:
        return float(number * np.exp(-2.0 * r) / np.pi)
    valence = 0.5 * (number - 2.0) / (8.0 * np.pi)
    core = 2.0 * number**3 / np.pi * np.exp(-2.0 * number * r)
    return float(valence * (8.0 * np.exp(-2.0 * r) + 64.0 * np.exp(-4.0 * r)) + core)


@njit(cache=True, fastmath=True)
def model_fluxes(
    points: FloatArray, elements: FloatArray, owners: IntArray, n_owners: int, centres: FloatArray, numbers: FloatArray
) -> FloatArray:  # pragma: no cover - compiled
    """Flux of every crude free atom's part of the field G through each path's area elements, ``(n_owners, n_atoms)``.

    Only the valence counts; these fluxes steer the refinement of surfaces.  They are kept apart by atom, since those of
    two atoms that face each other across a surface cancel.

    Parameters
    ----------
    points, elements
        The surface, each ``(n, 3)``.
    owners
        Path of every point, ``(n,)``.
    n_owners
        Number of paths.
    centres, numbers
        The nuclei.
    """
    out = np.zeros((n_owners, len(centres)))
    for p in range(len(points)):
        for a in range(len(centres)):
            x, y, z = points[p, 0] - centres[a, 0], points[p, 1] - centres[a, 1], points[p, 2] - centres[a, 2]
            r = np.sqrt(x * x + y * y + z * z)
            if r > 16.0:
                continue
            outside = _outside(2.0, r)
            if numbers[a] < 3.0:
                outside *= numbers[a]
            else:
                outside = 0.5 * (numbers[a] - 2.0) * (outside + _outside(4.0, r))
            flow = x * elements[p, 0] + y * elements[p, 1] + z * elements[p, 2]
            out[owners[p], a] -= outside / (4.0 * np.pi * r**3) * flow
    return out


@njit(cache=True, fastmath=True)
def _outside(zeta: float, r: float) -> float:  # pragma: no cover - compiled
    """Part of one electron in an exponential that is further out than r."""
    z = zeta * r
    return float(np.exp(-z) * (1.0 + z + 0.5 * z * z))
