"""The bias in compiled code: variables with gradients, lookup on a grid, deposit.  Arrays in, arrays out.

A bias consists of groups of variables: one group of all (a joint bias), or one for each variable (parallel bias).  Each
group has a grid that holds, at every point, the bias and all its mixed first derivatives; between the points stands
the tensor product of cubic Hermite polynomials, whose gradient is the force.  So the force is the exact derivative of
the energy, and energy is conserved.  Hills are products, which is why their mixed derivatives are known exactly; the
interpolation error is of fourth order in the spacing.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py._compiled.vectors import cross, dot
from fflux_py.typing import FloatArray, IntArray

TORSION: Final = 0
ANGLE: Final = 1
DISTANCE: Final = 2
_CUTOFF: Final = 6.5
"""Hills end after so many sigma, where they are 7e-10 of their height."""


class BiasArrays(NamedTuple):
    """All that the compiled functions need; k variables, g groups, in atomic units.

    Parameters
    ----------
    kinds, atoms
        Kind of every variable ``(k,)`` and its atoms ``(k, 4)``.
    groups
        First variable of every group and k, ``(g + 1,)``.
    minima, spacings, points, periodic
        Grid of every variable, ``(k,)``; ``periodic`` is 0 or 1.
    starts
        First row of every group in ``table``, ``(g,)``.
    table
        Bias and mixed derivatives, one row for each grid point, the last variable fastest; column c holds the
        derivative by all variables whose bit in c is set (the lowest bit is the group's first variable).
    sigmas
        Widths of the hills, ``(k,)``.
    constants
        Height of a first hill, thermal energy kT, and kT (gamma - 1), ``(3,)``.
    n_hills, centres, heights
        Number of hills ``(1,)``, and room for them: ``(capacity, k)`` and ``(capacity, g)``.
    """

    kinds: IntArray
    atoms: IntArray
    groups: IntArray
    minima: FloatArray
    spacings: FloatArray
    points: IntArray
    periodic: IntArray
    starts: IntArray
    table: FloatArray
    sigmas: FloatArray
    constants: FloatArray
    n_hills: IntArray
    centres: FloatArray
    heights: FloatArray


@njit(cache=True, error_model="numpy")
def _torsion(positions: Any, atoms: Any, gradient: Any) -> Any:
    f, g, h, a, b, c = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for x in range(3):
        f[x] = positions[atoms[0], x] - positions[atoms[1], x]
        g[x] = positions[atoms[1], x] - positions[atoms[2], x]
        h[x] = positions[atoms[3], x] - positions[atoms[2], x]
    cross(f, g, a)
    cross(h, g, b)
    cross(b, a, c)
    length, aa, bb = np.sqrt(dot(g, g)), dot(a, a), dot(b, b)
    fg, hg = dot(f, g) / length, dot(h, g) / length
    for x in range(3):
        shift = fg / aa * a[x] - hg / bb * b[x]
        gradient[0, x] = -length / aa * a[x]
        gradient[3, x] = length / bb * b[x]
        gradient[1, x] = -gradient[0, x] + shift
        gradient[2, x] = -gradient[3, x] - shift
    return np.arctan2(dot(c, g) / length, dot(a, b))


@njit(cache=True, error_model="numpy")
def _angle(positions: Any, atoms: Any, gradient: Any) -> Any:
    a, b, n, p, q = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for x in range(3):
        a[x] = positions[atoms[0], x] - positions[atoms[1], x]
        b[x] = positions[atoms[2], x] - positions[atoms[1], x]
    cross(a, b, n)
    sine = np.sqrt(dot(n, n))
    cross(a, n, p)
    cross(n, b, q)
    for x in range(3):
        gradient[0, x] = p[x] / (dot(a, a) * sine)
        gradient[2, x] = q[x] / (dot(b, b) * sine)
        gradient[1, x] = -gradient[0, x] - gradient[2, x]
    return np.arctan2(sine, dot(a, b))


@njit(cache=True, error_model="numpy")
def variable(positions: Any, kind: Any, atoms: Any, gradient: Any) -> Any:
    """Value of one variable; its gradient goes to the first rows of ``gradient``, ``(4, 3)``.

    Both are NaN or infinite where the variable does not exist (atoms on one line).
    """
    if kind == TORSION:
        return _torsion(positions, atoms, gradient)
    if kind == ANGLE:
        return _angle(positions, atoms, gradient)
    length = 0.0
    for x in range(3):
        gradient[1, x] = positions[atoms[1], x] - positions[atoms[0], x]
        length += gradient[1, x] ** 2
    length = np.sqrt(length)
    for x in range(3):
        gradient[1, x] /= length
        gradient[0, x] = -gradient[1, x]
    return length


@njit(cache=True, error_model="numpy")
def _hermite(u: Any, spacing: Any, basis: Any, slope: Any) -> None:
    """Weights of value and derivative (second index) at both ends (first index) of a cell, and their derivatives."""
    basis[0, 0], basis[1, 0] = (1.0 + 2.0 * u) * (1.0 - u) ** 2, u * u * (3.0 - 2.0 * u)
    basis[0, 1], basis[1, 1] = u * (1.0 - u) ** 2 * spacing, u * u * (u - 1.0) * spacing
    slope[0, 0], slope[1, 0] = 6.0 * u * (u - 1.0) / spacing, 6.0 * u * (1.0 - u) / spacing
    slope[0, 1], slope[1, 1] = (1.0 - u) * (1.0 - 3.0 * u), u * (3.0 * u - 2.0)


@njit(cache=True, error_model="numpy")
def group_bias(values: Any, arrays: Any, group: Any, slopes: Any) -> Any:
    """Bias of one group on its grid; its derivatives go to ``slopes`` ``(k,)``.  NaN outside the grid."""
    first = arrays.groups[group]
    d = arrays.groups[group + 1] - first
    cell, basis, slope = np.empty(d, np.int64), np.empty((d, 2, 2)), np.empty((d, 2, 2))
    for i in range(d):
        v = first + i
        slopes[v] = 0.0
        n = arrays.points[v]
        x = (values[v] - arrays.minima[v]) / arrays.spacings[v]
        if arrays.periodic[v] == 1:
            x -= n * np.floor(x / n)
            # Rounding may put x on the seam itself, which is point 0.
            if x >= n:
                x = 0.0
        if not (x >= 0.0 and x <= n - 1 + arrays.periodic[v]):
            slopes[v] = np.nan
            return np.nan
        cell[i] = min(int(x), n - 2 + arrays.periodic[v])
        _hermite(x - cell[i], arrays.spacings[v], basis[i], slope[i])
    energy = 0.0
    for corner in range(1 << d):
        row = 0
        for i in range(d):
            point = cell[i] + ((corner >> i) & 1)
            if point == arrays.points[first + i]:
                point = 0
            row = row * arrays.points[first + i] + point
        row += arrays.starts[group]
        for column in range(1 << d):
            entry = arrays.table[row, column]
            product = entry
            for i in range(d):
                product *= basis[i, (corner >> i) & 1, (column >> i) & 1]
            energy += product
            for j in range(d):
                product = entry
                for i in range(d):
                    weights = slope if i == j else basis
                    product *= weights[i, (corner >> i) & 1, (column >> i) & 1]
                slopes[first + j] += product
    return energy


@njit(cache=True, error_model="numpy")
def bias(values: Any, arrays: Any, slopes: Any, energies: Any) -> Any:
    """Bias (hartree) at the variables' values; derivatives by them go to ``slopes`` ``(k,)``.

    ``energies`` ``(g,)`` receives the groups' own biases.  Several groups make the parallel bias
    -kT ln((1/g) sum exp(-V/kT)) of Pfaendtner and Bonomi, J. Chem. Theory Comput. 11, 5062 (2015).
    """
    g = arrays.starts.shape[0]
    for group in range(g):
        energies[group] = group_bias(values, arrays, group, slopes)
    if g == 1:
        return energies[0]
    thermal = arrays.constants[1]
    lowest = energies.min()
    total = 0.0
    for group in range(g):
        total += np.exp((lowest - energies[group]) / thermal)
    for group in range(g):
        weight = np.exp((lowest - energies[group]) / thermal) / total
        for v in range(arrays.groups[group], arrays.groups[group + 1]):
            slopes[v] *= weight
    return lowest - thermal * np.log(total / g)


@njit(cache=True, error_model="numpy")
def energy_and_forces(positions: Any, arrays: Any) -> Any:
    """Bias energy (hartree) and forces (hartree/bohr, ``(n_atoms, 3)``) at ``positions`` (bohr); deposits nothing."""
    k = arrays.kinds.shape[0]
    values, slopes, energies = np.empty(k), np.empty(k), np.empty(arrays.starts.shape[0])
    gradients = np.empty((k, 4, 3))
    for v in range(k):
        values[v] = variable(positions, arrays.kinds[v], arrays.atoms[v], gradients[v])
    energy = bias(values, arrays, slopes, energies)
    forces = np.zeros_like(positions)
    for v in range(k):
        for a in range(4 - arrays.kinds[v]):
            for x in range(3):
                forces[arrays.atoms[v, a], x] -= slopes[v] * gradients[v, a, x]
    return energy, forces


@njit(cache=True, error_model="numpy")
def add_hill(centre: Any, height: Any, arrays: Any, group: Any) -> None:
    """Add one hill with a centre ``(k,)`` to the grid of a group."""
    first = arrays.groups[group]
    d = arrays.groups[group + 1] - first
    widest = 0
    for i in range(d):
        widest = max(widest, arrays.points[first + i])
    shape, support, near = np.zeros((d, widest, 2)), np.empty((d, widest), np.int64), np.zeros(d, np.int64)
    for i in range(d):
        v = first + i
        n = arrays.points[v]
        period = n * arrays.spacings[v] if arrays.periodic[v] == 1 else 0.0
        for p in range(n):
            distance = arrays.minima[v] + p * arrays.spacings[v] - centre[v]
            if period > 0.0:
                distance -= period * np.floor(distance / period + 0.5)
            scaled = distance / arrays.sigmas[v]
            if abs(scaled) < _CUTOFF:
                shape[i, p, 0] = np.exp(-0.5 * scaled * scaled)
                shape[i, p, 1] = -scaled / arrays.sigmas[v] * shape[i, p, 0]
                support[i, near[i]] = p
                near[i] += 1
    total = 1
    for i in range(d):
        total *= near[i]
    index = np.empty(d, np.int64)
    for flat in range(total):
        rest = flat
        for i in range(d - 1, -1, -1):
            index[i] = support[i, rest % near[i]]
            rest //= near[i]
        row = 0
        for i in range(d):
            row = row * arrays.points[first + i] + index[i]
        row += arrays.starts[group]
        for column in range(1 << d):
            product = height
            for i in range(d):
                product *= shape[i, index[i], (column >> i) & 1]
            arrays.table[row, column] += product


@njit(cache=True, error_model="numpy")
def deposit_at(values: Any, arrays: Any) -> Any:
    """Put down one hill in every group at the variables' values and return the number of hills.

    Returned instead, with nothing put down: -1 if there is no room left, -2 if a variable is outside the grid.  The
    heights are those of well-tempered metadynamics, W exp(-V/(kT (gamma - 1))), shared among parallel groups by
    exp(-V/kT).
    """
    n, g = arrays.n_hills[0], arrays.starts.shape[0]
    if n >= arrays.centres.shape[0]:
        return -1
    slopes, energies = np.empty(values.shape[0]), np.empty(g)
    if not np.isfinite(bias(values, arrays, slopes, energies)):
        return -2
    lowest, total = energies.min(), 0.0
    for group in range(g):
        total += np.exp((lowest - energies[group]) / arrays.constants[1])
    for v in range(values.shape[0]):
        arrays.centres[n, v] = values[v]
    for group in range(g):
        share = np.exp((lowest - energies[group]) / arrays.constants[1]) / total
        arrays.heights[n, group] = arrays.constants[0] * share * np.exp(-energies[group] / arrays.constants[2])
        add_hill(values, arrays.heights[n, group], arrays, group)
    arrays.n_hills[0] = n + 1
    return n + 1


@njit(cache=True, error_model="numpy")
def deposit(positions: Any, arrays: Any) -> Any:
    """:func:`deposit_at` the values of the variables at ``positions`` (bohr)."""
    k = arrays.kinds.shape[0]
    values, gradient = np.empty(k), np.empty((4, 3))
    for v in range(k):
        values[v] = variable(positions, arrays.kinds[v], arrays.atoms[v], gradient)
    return deposit_at(values, arrays)


class BiasOfReplicas(NamedTuple):
    """The biases of a group of g replicas.

    Parameters
    ----------
    bias
        Variables and grid, which all have in common; its own table does not count.
    tables
        Table of every replica, ``(g, rows, columns)``, or one for all, ``(1, rows, columns)``.
    energies
        Bias energies (hartree) at the last positions, ``(g,)``; :func:`add_bias` writes them.
    """

    bias: BiasArrays
    tables: FloatArray
    energies: FloatArray


@njit(cache=True, error_model="numpy")
def add_bias(positions: Any, forces: Any, replicas: Any) -> Any:
    """Add the bias forces of g replicas to ``forces`` ``(g, n_atoms, 3)`` and write their energies; returns zero."""
    common, tables = replicas.bias, replicas.tables
    for r in range(positions.shape[0]):
        arrays = BiasArrays(
            common.kinds, common.atoms, common.groups, common.minima, common.spacings, common.points, common.periodic,
            common.starts, tables[r if tables.shape[0] > 1 else 0], common.sigmas, common.constants, common.n_hills,
            common.centres, common.heights,
        )  # fmt: skip
        replicas.energies[r], bias_forces = energy_and_forces(positions[r], arrays)
        for i in range(bias_forces.shape[0]):
            for x in range(3):
                forces[r, i, x] += bias_forces[i, x]
    return 0.0


class NoBias(NamedTuple):
    """What stands for the biases of g replicas that have none; ``energies`` ``(g,)`` are zero."""

    energies: FloatArray


@njit(cache=True, error_model="numpy")
def add_no_bias(positions: Any, forces: Any, replicas: Any) -> Any:
    """As :func:`add_bias` for replicas without a bias: nothing changes."""
    return 0.0


@njit(cache=True, error_model="numpy")
def values_of(positions: Any, kinds: Any, atoms: Any) -> Any:
    """Values of variables ``(k,)`` at ``positions`` (bohr); ``kinds`` and ``atoms`` as in :class:`BiasArrays`."""
    values, gradient = np.empty(kinds.shape[0]), np.empty((4, 3))
    for v in range(kinds.shape[0]):
        values[v] = variable(positions, kinds[v], atoms[v], gradient)
    return values
