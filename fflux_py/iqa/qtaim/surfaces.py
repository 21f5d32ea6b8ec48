"""Interatomic surfaces of topological atoms, as points with oriented area elements for integrals of a flux.

The surface between two bonded atoms consists of the paths of steepest ascent that end at the bond critical point.  It
is swept by following them downhill, away from that point: errors across the surface die out in this direction (the
density has a minimum across it).  With the azimuth phi at which a path leaves the bond critical point and its length s,
the area element is n dS = (dx/ds x dx/dphi) ds dphi; dx/dphi follows the linearised equation of the path
(:mod:`fflux_py.iqa.qtaim._gradient_paths`).  The azimuth is integrated by adaptive Gauss-Kronrod quadrature, which
needs no knowledge of where the paths crowd or fan out.  No ray from a nucleus is ever intersected with a surface, so
nothing depends on whether a basin is star-shaped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fflux_py.errors import ConvergenceError
from fflux_py.iqa.qtaim._gradient_paths import MAXIMUM_POINTS, trace
from fflux_py.iqa.qtaim.critical_points import CriticalPoints
from fflux_py.iqa.qtaim.path_bundles import follow_bundle
from fflux_py.iqa.qtaim.starting_curves import Curve, choose_starting_curves
from fflux_py.iqa.scf._density import DensityData
from fflux_py.typing import FloatArray, IntArray

END_DENSITY = 1e-7
"""A path ends where the density falls below this, e/bohr^3."""
_TOLERANCE = 1e-6
_MAXIMUM_PANELS = 1000

# Gauss-Kronrod (7, 15): nodes on [-1, 1], weights of both rules.
# fmt: off
_KRONROD_NODES = np.array([
    0.9914553711208126, 0.9491079123427585, 0.8648644233597691, 0.7415311855993945,
    0.5860872354676911, 0.4058451513773972, 0.2077849550078985, 0.0,
])
_KRONROD_WEIGHTS = np.array([
    0.0229353220105292, 0.0630920926299786, 0.1047900103222502, 0.1406532597155259,
    0.1690047266392679, 0.1903505780647854, 0.2044329400752989, 0.2094821410847278,
])
_GAUSS_WEIGHTS = np.array([0.1294849661688697, 0.2797053914892767, 0.3818300505051189, 0.4179591836734694])
# fmt: on
NODES = np.concatenate([-_KRONROD_NODES, _KRONROD_NODES[-2::-1]])
KRONROD = np.concatenate([_KRONROD_WEIGHTS, _KRONROD_WEIGHTS[-2::-1]])
GAUSS = np.zeros(15)
GAUSS[1::2] = np.concatenate([_GAUSS_WEIGHTS, _GAUSS_WEIGHTS[-2::-1]])


Fluxes = Callable[[FloatArray, FloatArray, IntArray], FloatArray]


@dataclass(frozen=True)
class Surface:
    """Points on one interatomic surface.

    Parameters
    ----------
    atoms
        The atoms on its negative and positive side.
    points
        Positions in bohr, ``(n, 3)``.
    elements
        Area elements, pointing from the first atom to the second, bohr^2, ``(n, 3)``.
    error
        Estimated error of the electrons that a flux through these points moves.
    """

    atoms: tuple[int, int]
    points: FloatArray
    elements: FloatArray
    error: float


def sweep_surface(
    data: DensityData,
    topology: CriticalPoints,
    bond: int,
    fluxes: Fluxes,
    tolerance: float,
    name: str = "the molecule",
) -> Surface:
    """Sweep the surface through one bond critical point.

    Parameters
    ----------
    data
        The density.
    topology
        Its critical points.
    bond
        Which bond critical point.
    fluxes
        The fluxes that decide on the refinement: points ``(n, 3)``, area elements ``(n, 3)`` and the path of each
        (0 to 14) -> fluxes of every path, ``(15, n_fields)``.
    tolerance
        Error allowed in these fluxes together.
    name
        What to call the molecule in an error.

    Raises
    ------
    ConvergenceError
        The tolerance is not reached, or a path does not end.
    """
    curves = choose_starting_curves(data, topology, bond)
    tolerance *= curves.sharpness
    panels = [_sweep_panel(data, *interval, fluxes, name) for interval in curves.panels]
    points, elements = [curves.centre], [curves.centre_elements]
    while sum(p.error for p in panels) > tolerance:
        if len(panels) > _MAXIMUM_PANELS:
            a, b = (int(i) + 1 for i in topology.bonded[bond])
            raise ConvergenceError(
                f"surface between atoms {a} and {b} of {name}",
                f"a flux within {tolerance:g} electrons in {_MAXIMUM_PANELS} panels",
                f"an error of {sum(p.error for p in panels):.1e}",
                "leave the geometry out or use another partition",
            )
        worst = max(range(len(panels)), key=lambda k: panels[k].error)
        panel = panels.pop(worst)
        bundle = follow_bundle(data, panel.curve, panel.low, panel.high, END_DENSITY)
        if bundle is not None:
            points.append(bundle.points)
            elements.append(bundle.elements)
            panels.append(_sweep_panel(data, bundle.curve, -1.0, 1.0, fluxes, name))
            continue
        middle = 0.5 * (panel.low + panel.high)
        panels.append(_sweep_panel(data, panel.curve, panel.low, middle, fluxes, name))
        panels.append(_sweep_panel(data, panel.curve, middle, panel.high, fluxes, name))
    ends = topology.bonded[bond]
    return Surface(
        (int(ends[0]), int(ends[1])),
        np.concatenate(points + [p.points for p in panels]),
        np.concatenate(elements + [p.elements for p in panels]),
        float(sum(p.error for p in panels)),
    )


@dataclass(frozen=True)
class _Panel:
    curve: Curve
    low: float
    high: float
    points: FloatArray
    elements: FloatArray
    error: float


def _sweep_panel(
    data: DensityData,
    curve: Curve,
    low: float,
    high: float,
    fluxes: Fluxes,
    name: str,
) -> _Panel:
    """Follow fifteen paths that start on a curve."""
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    origins = np.empty((15, 2, 3))
    for k, node in enumerate(NODES):
        origins[k] = curve(middle + half * node)
    points, elements = np.empty((15 * MAXIMUM_POINTS, 3)), np.empty((15 * MAXIMUM_POINTS, 3))
    counts = np.zeros(15, dtype=np.int64)
    total = trace(data, origins, _TOLERANCE, END_DENSITY, points, elements, counts)
    if total < 0:
        raise ConvergenceError(
            f"surface of {name}",
            f"paths that end at a density of {END_DENSITY:g}",
            f"a path that does not end after {MAXIMUM_POINTS} points",
            "leave the geometry out or use another partition",
        )
    points, elements = points[:total].copy(), elements[:total] * half
    path_of_point = np.repeat(np.arange(15), counts)
    flux = fluxes(points, elements, path_of_point)
    return _Panel(
        curve, low, high, points, elements * KRONROD[path_of_point, None], float(_quadrature_errors(flux).sum())
    )


def _quadrature_errors(values: FloatArray) -> FloatArray:
    """Errors of the Kronrod rule for the columns of ``values`` at its nodes, by QUADPACK's estimate.

    The difference of the two rules is the error of the lower one; the higher one is far better.
    """
    error = np.abs((KRONROD - GAUSS) @ values)
    spread = KRONROD @ np.abs(values - 0.5 * (KRONROD @ values))
    scale = np.where(spread > 0.0, spread, 1.0)
    return np.asarray(spread * np.minimum(1.0, (200.0 * error / scale) ** 1.5))
