"""Curves round a bond critical point from which the gradient paths of an interatomic surface start.

Usually that is a small ellipse in the surface (:class:`Ellipse`).  Where a bond and a ring critical point are about to
merge the density hardly changes from the one to the other, while the paths leave to both sides at once: those that get
anywhere near the ring point are a sliver of the ellipse too thin for rounded numbers.  There the paths start on both
sides of a :class:`BondRingPath`, which runs from the ring point through the bond point along the flat direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from fflux_py.iqa.qtaim.critical_points import CriticalPoints
from fflux_py.iqa.scf._density import DensityData, density_at
from fflux_py.typing import FloatArray

Curve = Callable[[float], tuple[FloatArray, FloatArray]]
"""Parameter -> starting point of a path and the derivative by the parameter, each ``(3,)``; the surface's normal points
from its first atom to its second if the derivative is to the left of the path."""

_START_RADIUS = 0.03
_FAN_RADIUS = 0.25
_THINNEST = 0.3
_FIRST_PANELS = 4
# Paths leave a bond point to both sides at once if its curvatures differ by this factor.
_CROWDED = 2.5
# A bond-ring path is used if, then, a ring point is this near (bohr), at a direction with this cosine.
_RING_REACH = 0.5
_ALONG = 0.8
_HALF_WIDTH = 0.01
_HIGHEST_DEGREE = 5
# Where the paths spread across an open end by less than this (1/bohr), ordinary panels take over.
_SPREAD = 8.0
_LONGEST_OPEN_END = 1.5
_MIDDLE_NODES = 12


@dataclass(frozen=True)
class StartingCurves:
    """The curves from which all paths of one surface start.

    Parameters
    ----------
    panels
        Curves with the two ends of an interval of their parameter; together they enclose ``centre``.
    centre, centre_elements
        Points within that, bohr, and their area elements, bohr^2, each ``(n, 3)``.
    sharpness
        Factor on the tolerance: paths may crowd into a sliver of a panel, which the first panels could miss.
    """

    panels: tuple[tuple[Curve, float, float], ...]
    centre: FloatArray
    centre_elements: FloatArray
    sharpness: float


def choose_starting_curves(data: DensityData, topology: CriticalPoints, bond: int) -> StartingCurves:
    """Choose the curves from which the paths of the surface through a bond critical point start."""
    ring_path = _bond_ring_path(data, topology, bond)
    if ring_path is not None:
        return ring_path.starting_curves()
    ellipse = Ellipse.at(data, topology, bond)
    angles = 2.0 * np.pi * np.arange(_FIRST_PANELS + 1) / _FIRST_PANELS
    panels = tuple((ellipse.point, float(angles[k]), float(angles[k + 1])) for k in range(_FIRST_PANELS))
    curvatures = topology.curvatures[bond]
    return StartingCurves(panels, *ellipse.middle(), 1e-2 if curvatures[0] < _CROWDED * curvatures[1] else 1.0)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse round a bond critical point.

    Its axes are such that the paths are spread evenly when they have come ``_FAN_RADIUS`` away (less next to a ring).
    """

    centre: FloatArray
    axes: FloatArray
    radii: FloatArray
    bend: FloatArray
    """Second-order height of the surface over its tangent plane, ``(2, 2)``, 1/bohr."""

    @classmethod
    def at(cls, data: DensityData, topology: CriticalPoints, bond: int) -> Ellipse:
        """Place it round a bond critical point."""
        centre, axes, curvatures = topology.bonds[bond], topology.axes[bond], topology.curvatures[bond]
        # Beyond half the way to a ring point the flow is no longer that of the bond point.
        ring = np.linalg.norm(topology.rings - centre, axis=1).min(initial=np.inf)
        fan = min(_FAN_RADIUS, 0.5 * float(ring))
        scale = _START_RADIUS / _FAN_RADIUS
        # An ellipse too thin would leave all its paths in one direction when the flow is not quite linear.
        thin = max(scale ** (curvatures[0] / curvatures[1]), _THINNEST * scale)
        radii = fan * np.array([thin, scale])
        delta = 0.01
        bend = np.zeros((2, 2))
        for i in (0, 1):
            hessians = density_at(data, centre + np.array([[delta], [-delta]]) * axes[:, i])[2]
            third = axes.T @ (hessians[0] - hessians[1]) @ axes / (2.0 * delta)
            for j in (0, 1):
                bend[i, j] = third[2, j] / (2.0 * (curvatures[i] + curvatures[j] - curvatures[2]))
        return cls(np.array(centre), np.array(axes), radii, 0.5 * (bend + bend.T))

    def point(self, azimuth: float) -> tuple[FloatArray, FloatArray]:
        """Starting point of the path of an azimuth, and the derivative by the azimuth."""
        w = self.radii * np.array([np.cos(azimuth), np.sin(azimuth)])
        dw = self.radii * np.array([-np.sin(azimuth), np.cos(azimuth)])
        local = np.array([w[0], w[1], w @ self.bend @ w])
        slope = np.array([dw[0], dw[1], 2.0 * (w @ self.bend @ dw)])
        return self.centre + self.axes @ local, self.axes @ slope

    def middle(self) -> tuple[FloatArray, FloatArray]:
        """Points and area elements inside the ellipse (J. Radon's rule of degree 5, Monatsh. Math. 52, 286 (1948))."""
        angle = np.arange(6) * np.pi / 3.0
        disc = np.concatenate([[[0.0, 0.0]], np.sqrt(2.0 / 3.0) * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
        w = disc * self.radii
        height = np.einsum("pi,ij,pj->p", w, self.bend, w)
        normals = np.column_stack([-2.0 * w @ self.bend, np.ones(7)])
        area = np.pi * self.radii.prod() * np.array([0.25] + [0.125] * 6)
        points = self.centre + np.column_stack([w, height]) @ self.axes.T
        return points, area[:, None] * (normals @ self.axes.T)


@dataclass(frozen=True)
class Branch:
    """One half of a bond-ring path: from the bond critical point to a ring point or to an open end.

    Parameters
    ----------
    centre
        The bond critical point.
    frame
        Columns: across the path within the surface, along it, normal to the surface.
    length
        Where it ends, along the second column, bohr.
    across, normal
        Chebyshev coefficients of the two other coordinates on [0, length].
    open_end
        Whether no ring point is there.
    """

    centre: FloatArray
    frame: FloatArray
    length: float
    across: FloatArray
    normal: FloatArray
    open_end: bool

    def at(self, y: float) -> tuple[FloatArray, FloatArray]:
        """Point at the distance ``y`` along the second column, and its derivative."""
        t = 2.0 * y / self.length - 1.0
        local = np.array([chebyshev.chebval(t, self.across), y, chebyshev.chebval(t, self.normal)])
        slope = [chebyshev.chebval(t, chebyshev.chebder(c)) * 2.0 / self.length for c in (self.across, self.normal)]
        return self.centre + self.frame @ local, self.frame @ np.array([slope[0], 1.0, slope[1]])


@dataclass(frozen=True)
class BondRingPath:
    """The gradient path from a ring to a bond critical point; the density hardly changes along it.

    The paths of the surface leave it to both sides.
    """

    data: DensityData
    branches: tuple[Branch, Branch]
    """Along the negative and the positive second eigenvector of the bond critical point."""

    def _at(self, y: float) -> tuple[FloatArray, FloatArray]:
        branch = self.branches[int(y > 0.0)]
        point, slope = branch.at(abs(y))
        return point, slope if y > 0.0 else -slope

    def across(self, y: float) -> FloatArray:
        """Unit vector across the path within the surface."""
        point, slope = self._at(y)
        along = slope / np.linalg.norm(slope)
        project = np.eye(3) - np.outer(along, along)
        hessian = project @ density_at(self.data, point[None])[2][0] @ project
        values, vectors = np.linalg.eigh(hessian)
        # The tangent itself has the eigenvalue zero; the lowest is the fast direction.
        vector = vectors[:, int(np.argmin(values))]
        first = self.branches[1].frame[:, 0]
        return np.asarray(vector * np.sign(vector @ first))

    def starting_curves(self) -> StartingCurves:
        """Lines on both sides, a line across every open end, and the strip between."""
        low, high = -self.branches[0].length, self.branches[1].length
        panels: list[tuple[Curve, float, float]] = []
        for side in (-1.0, 1.0):
            panels += [(self._line(side), low, 0.0), (self._line(side), 0.0, high)]
        for end, branch in ((low, self.branches[0]), (high, self.branches[1])):
            if branch.open_end:
                panels.append((self._crossing(end), -_HALF_WIDTH, _HALF_WIDTH))
        return StartingCurves(tuple(panels), *self._strip(low, high), sharpness=1.0)

    def _line(self, side: float) -> Curve:
        def point(y: float) -> tuple[FloatArray, FloatArray]:
            point_on_path, slope = self._at(y)
            # To the left of a path that leaves along +across is the positive direction.
            return point_on_path + side * _HALF_WIDTH * self.across(y), side * slope

        return point

    def _crossing(self, end: float) -> Curve:
        point_on_path, _ = self._at(end)
        across = self.across(end)
        # To the left of a path that leaves along the positive direction is -across.
        turn = -np.sign(end)
        return lambda w: (point_on_path + w * across, turn * across)

    def _strip(self, low: float, high: float) -> tuple[FloatArray, FloatArray]:
        nodes, weights = np.polynomial.legendre.leggauss(_MIDDLE_NODES)
        points, elements = [], []
        for first, last in ((low, 0.0), (0.0, high)):
            for node, weight in zip(nodes, weights, strict=True):
                y = 0.5 * (first + last) + 0.5 * (last - first) * node
                point, slope = self._at(y)
                points.append(point)
                width = weight * (last - first) * _HALF_WIDTH
                elements.append(width * np.cross(self.across(y), slope))
        return np.array(points), np.array(elements)


def _bond_ring_path(data: DensityData, topology: CriticalPoints, bond: int) -> BondRingPath | None:
    """Find the path from the ring points with which a bond critical point is about to merge; None if there are none."""
    rings = _merging_rings(topology, bond)
    if not rings:
        return None
    centre, axes, curvatures = topology.bonds[bond], topology.axes[bond], topology.curvatures[bond]
    degree = min(_HIGHEST_DEGREE, int(curvatures[0] / curvatures[1] - 0.2))
    branches = []
    for side, direction in enumerate((-1.0, 1.0)):
        ring = rings.get(side)
        branch = (
            _ring_branch(data, centre, axes, direction, degree, ring)
            if ring is not None
            else _open_branch(data, centre, axes, direction, degree)
        )
        if branch is None:
            return None
        branches.append(branch)
    return BondRingPath(data, (branches[0], branches[1]))


def _merging_rings(topology: CriticalPoints, bond: int) -> dict[int, FloatArray]:
    """Ring points next to a bond point along the flat direction, by their side of it (0 or 1)."""
    centre, axes, curvatures = topology.bonds[bond], topology.axes[bond], topology.curvatures[bond]
    rings: dict[int, FloatArray] = {}
    if curvatures[0] > _CROWDED * curvatures[1]:
        return rings
    away = topology.rings - centre
    distances = np.linalg.norm(away, axis=1)
    for k in np.argsort(distances)[::-1]:
        cosine = float(away[k] @ axes[:, 1]) / distances[k]
        if distances[k] < _RING_REACH and abs(cosine) > _ALONG:
            rings[int(cosine > 0.0)] = topology.rings[k]
    return rings


def _ring_branch(
    data: DensityData, centre: FloatArray, axes: FloatArray, direction: float, degree: int, ring: FloatArray
) -> Branch | None:
    frame = axes * np.array([1.0, direction, 1.0])
    end = frame.T @ (ring - centre)
    return _solve_path(data, centre, frame, float(end[1]), degree, end)


def _open_branch(
    data: DensityData, centre: FloatArray, axes: FloatArray, direction: float, degree: int
) -> Branch | None:
    """As far as the paths spread fast."""
    frame = axes * np.array([1.0, direction, 1.0])
    line = np.arange(0.05, _LONGEST_OPEN_END + 0.01, 0.05)
    _, gradients, hessians = density_at(data, centre + line[:, None] * frame[:, 1])
    spread = np.abs(np.einsum("i,kij,j->k", frame[:, 0], hessians, frame[:, 0])) / np.linalg.norm(gradients, axis=1)
    slow = np.flatnonzero(spread < _SPREAD)
    if len(slow) == 0:
        return None
    return _solve_path(data, centre, frame, float(line[slow[0]]), degree, None)


def _solve_path(
    data: DensityData, centre: FloatArray, frame: FloatArray, length: float, degree: int, end: FloatArray | None
) -> Branch | None:
    """Gradient path from ``centre`` along the second column of ``frame`` as a polynomial (collocation, Newton).

    Neither direction of integration is stable, so that the path is found as a whole: the gradient is along the
    tangent at all nodes, g_j = q_j' g_1 for both coordinates q_j across.  The critical points at its ends fix the ends.
    Any curve close to the path will do; the degree stays below the ratio of the two curvatures at ``centre``, since
    (distance)^ratio solves the equations as well.
    """
    n = degree + 1
    nodes = -np.cos(np.pi * np.arange(n) / (n - 1))
    y = 0.5 * length * (nodes + 1.0)
    to_coefficients = np.linalg.inv(chebyshev.chebvander(nodes, n - 1))
    derivative = chebyshev.chebvander(nodes, n - 2) @ chebyshev.chebder(np.eye(n)) @ to_coefficients * (2.0 / length)
    q = np.zeros((n, 2))
    fixed = np.zeros(n, dtype=bool)
    fixed[0] = True
    if end is not None:
        q = np.outer(y / length, end[[0, 2]])
        fixed[-1] = True
    for _ in range(30):
        local = np.column_stack([q[:, 0], y, q[:, 1]])
        _, gradients, hessians = density_at(data, centre + local @ frame.T)
        g, h = gradients @ frame, np.einsum("ai,kab,bj->kij", frame, hessians, frame)
        slope = derivative @ q
        residual = g[:, [0, 2]] - slope * g[:, 1:2]
        jacobian = np.zeros((n, 2, n, 2))
        for i, row in enumerate((0, 2)):
            jacobian[:, i, :, i] -= g[:, 1:2] * derivative
            for j, column in enumerate((0, 2)):
                jacobian[np.arange(n), i, np.arange(n), j] += h[:, row, column] - slope[:, i] * h[:, 1, column]
        residual[fixed] = 0.0
        jacobian[fixed] = 0.0
        for k in np.flatnonzero(fixed):
            jacobian[k, [0, 1], k, [0, 1]] = 1.0
        step = np.linalg.solve(jacobian.reshape(2 * n, 2 * n), residual.ravel()).reshape(n, 2)
        q = q - step
        if np.abs(step).max() < 1e-8:
            coefficients = to_coefficients @ q
            return Branch(np.array(centre), frame, length, coefficients[:, 0], coefficients[:, 1], end is None)
        if not np.abs(q).max() < length:
            return None
    return None
