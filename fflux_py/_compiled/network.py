r"""The network of a taught mean, in compiled code: one energy of all atoms, and its gradient.

Atom i sees every other atom j through six functions :math:`b_p(z)` of its distance, :math:`z = (r_{ij} - m)/w` with
mean and width of the pair: five Gaussians at z = -2 ... 2 and :math:`\tanh(z/2)`.  All saturate: of atoms far outside
the data the network knows the direction only.  With weights that belong to the pair of classes of equivalent atoms,

.. math:: s_k = \sum_j \sum_p W_{pk} b_p(z_{ij}), \qquad V_k = \sum_j \sum_p W'_{pk} b_p(z_{ij}) e_{ij},

and the inputs of two layers of units :math:`x / \sqrt{1 + x^2}` are s and all products :math:`V_k \cdot V_l`.  So the
energy is invariant to rotation, reflection, translation and the exchange of atoms of one class.

The five Gaussians and the hyperbolic tangent follow from two exponentials of each pair.  Rows of weights stand in
memory as they are passed over.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray, IntArray

N_RADIAL: Final = 6
"""Functions of a distance."""
LARGEST_Z: Final = 30.0
"""Beyond it all functions of a distance are constant."""
_GAUSS_1: Final = float(np.exp(-0.5))
_GAUSS_2: Final = float(np.exp(-2.0))
_CONTRACT: Final = {"contract"}
_REASSOCIATE: Final = {"contract", "reassoc", "nsz"}


class Network(NamedTuple):
    """Weights of a network; ``n`` atoms, ``c`` classes, ``p`` ordered pairs of classes, ``k`` scalars, ``v`` vectors.

    Parameters
    ----------
    classes
        Class of every atom, shape ``(n,)``; empty if there is no network.
    pair_classes
        Pair of classes of the first and the second atom, shape ``(n, n)``.
    means, inverse_widths
        Mean distance (bohr) and one over the width (1/bohr) of every pair of atoms, symmetric, shape ``(n, n)``.
    radial
        Of the functions of a distance, scalars first, shape ``(p, 6, k + v)``.
    first, first_bias
        From the inputs to the first layer, shapes ``(c, i, h)`` and ``(c, h)``; ``i`` is ``k + v (v + 1) / 2``, filled
        up with zeros to a multiple of four.
    second, second_bias
        From the first to the second layer, shapes ``(c, h, h)`` and ``(c, h)``; ``h`` is a multiple of four.
    last
        From the second layer to an energy, hartree, shape ``(c, h)``.
    n_vectors
        Number v of vectors.
    """

    classes: IntArray
    pair_classes: IntArray
    means: FloatArray
    inverse_widths: FloatArray
    radial: FloatArray
    first: FloatArray
    first_bias: FloatArray
    second: FloatArray
    second_bias: FloatArray
    last: FloatArray
    n_vectors: int


def no_network() -> Network:
    """A network of no atoms."""
    square, matrices, rows = np.zeros((0, 0)), np.zeros((0, 0, 0)), np.zeros((0, 0))
    pairs = np.zeros((0, 0), np.int64)
    return Network(np.zeros(0, np.int64), pairs, square, square, matrices, matrices, rows, matrices, rows, rows, 0)


class _Atom(NamedTuple):
    """Scratch of one atom: of its neighbours, and of the layers."""

    mixed: FloatArray
    vectors: FloatArray
    inputs: FloatArray
    one: FloatArray
    two: FloatArray


@njit(cache=True, error_model="numpy", nogil=True)
def _radial_functions(
    x: FloatArray, network: Network, units: FloatArray, lengths: FloatArray, values: FloatArray, slopes: FloatArray
) -> None:
    """Unit vectors from i to j, distances, and the functions of the distance with their derivatives."""
    n = x.shape[0]
    for i in range(n):
        for j in range(i + 1, n):
            d0, d1, d2 = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
            r = np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)
            lengths[i, j] = r
            lengths[j, i] = r
            units[i, j, 0], units[i, j, 1], units[i, j, 2] = d0 / r, d1 / r, d2 / r
            units[j, i, 0], units[j, i, 1], units[j, i, 2] = -d0 / r, -d1 / r, -d2 / r
            per_length = network.inverse_widths[i, j]
            z = (r - network.means[i, j]) * per_length
            if not abs(z) < LARGEST_Z:
                if z != z:
                    per_length = np.nan
                else:
                    z = LARGEST_Z if z > 0.0 else -LARGEST_Z
                    per_length = 0.0
            growth = np.exp(z)
            middle = np.exp(-0.5 * z * z)
            up = middle * growth * _GAUSS_1
            down = middle / growth * _GAUSS_1
            upper = middle * growth * growth * _GAUSS_2
            lower = middle / (growth * growth) * _GAUSS_2
            tangent = (growth - 1.0) / (growth + 1.0)
            for a, b in ((i, j), (j, i)):
                v, s = values[a, b], slopes[a, b]
                v[0], v[1], v[2], v[3], v[4], v[5] = lower, down, middle, up, upper, tangent
                s[0] = -(z + 2.0) * lower * per_length
                s[1] = -(z + 1.0) * down * per_length
                s[2] = -z * middle * per_length
                s[3] = -(z - 1.0) * up * per_length
                s[4] = -(z - 2.0) * upper * per_length
                s[5] = 0.5 * (1.0 - tangent * tangent) * per_length


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_CONTRACT)
def _describe(i: int, units: FloatArray, values: FloatArray, network: Network, atom: _Atom) -> None:
    """Sums over the neighbours of an atom, and the inputs of its layers."""
    n, width = atom.mixed.shape
    n_vectors = atom.vectors.shape[1]
    n_scalars = width - n_vectors
    inputs, v = atom.inputs, atom.vectors
    inputs[:] = 0.0
    v[:] = 0.0
    for j in range(n):
        if j == i:
            continue
        w, b, t = network.radial[network.pair_classes[i, j]], values[i, j], atom.mixed[j]
        b0, b1, b2, b3, b4, b5 = b[0], b[1], b[2], b[3], b[4], b[5]
        for k in range(width):
            t[k] = b0 * w[0, k] + b1 * w[1, k] + b2 * w[2, k] + b3 * w[3, k] + b4 * w[4, k] + b5 * w[5, k]
        for k in range(n_scalars):
            inputs[k] += t[k]
        e0, e1, e2 = units[i, j, 0], units[i, j, 1], units[i, j, 2]
        for k in range(n_vectors):
            v[0, k] += e0 * t[n_scalars + k]
            v[1, k] += e1 * t[n_scalars + k]
            v[2, k] += e2 * t[n_scalars + k]
    begin = n_scalars
    for k in range(n_vectors):
        v0, v1, v2 = v[0, k], v[1, k], v[2, k]
        for m in range(k, n_vectors):
            inputs[begin + m - k] = v0 * v[0, m] + v1 * v[1, m] + v2 * v[2, m]
        begin += n_vectors - k


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_CONTRACT)
def _layer(inputs: FloatArray, weights: FloatArray, bias: FloatArray, units: FloatArray) -> None:
    """Write ``x / sqrt(1 + x^2)`` of ``inputs @ weights + bias``."""
    size = len(units)
    for h in range(size):
        units[h] = bias[h]
    for p in range(0, len(inputs), 4):
        i0, i1, i2, i3 = inputs[p], inputs[p + 1], inputs[p + 2], inputs[p + 3]
        w0, w1, w2, w3 = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
        for h in range(size):
            units[h] += i0 * w0[h] + i1 * w1[h] + i2 * w2[h] + i3 * w3[h]
    for h in range(size):
        units[h] = units[h] / np.sqrt(1.0 + units[h] * units[h])


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_CONTRACT)
def _energy(network: Network, c: int, atom: _Atom) -> float:
    """The energy of an atom of class c from its inputs."""
    _layer(atom.inputs, network.first[c], network.first_bias[c], atom.one)
    _layer(atom.one, network.second[c], network.second_bias[c], atom.two)
    energy = 0.0
    for h in range(len(atom.two)):
        energy += network.last[c, h] * atom.two[h]
    return energy


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_REASSOCIATE)
def _layer_backward(weights: FloatArray, g_units: FloatArray, units: FloatArray, g_inputs: FloatArray) -> None:
    """Gradient by the inputs from that by the units of a layer; the derivative of a unit f is (1 - f^2)^(3/2)."""
    size = len(units)
    for h in range(size):
        rest = 1.0 - units[h] * units[h]
        g_units[h] *= rest * np.sqrt(rest)
    for p in range(len(g_inputs)):
        w, total = weights[p], 0.0
        for h in range(size):
            total += w[h] * g_units[h]
        g_inputs[p] = total


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_REASSOCIATE)
def _inputs_backward(v: FloatArray, g_inputs: FloatArray, n_scalars: int, g_v: FloatArray) -> None:
    """Gradient by the vectors from that by their products."""
    n_vectors = v.shape[1]
    g_v[:] = 0.0
    begin = n_scalars
    for k in range(n_vectors):
        v0, v1, v2 = v[0, k], v[1, k], v[2, k]
        s0, s1, s2 = 0.0, 0.0, 0.0
        for m in range(k, n_vectors):
            g = g_inputs[begin + m - k]
            s0 += g * v[0, m]
            s1 += g * v[1, m]
            s2 += g * v[2, m]
            g_v[0, m] += g * v0
            g_v[1, m] += g * v1
            g_v[2, m] += g * v2
        g_v[0, k] += s0
        g_v[1, k] += s1
        g_v[2, k] += s2
        begin += n_vectors - k


@njit(cache=True, error_model="numpy", nogil=True, fastmath=_REASSOCIATE)
def _neighbour_backward(
    weights: FloatArray, slopes: FloatArray, mixed: FloatArray, g_inputs: FloatArray, g_v: FloatArray, e: FloatArray
) -> tuple[float, float, float, float]:
    """Gradient of an atom's energy by the distance of a neighbour, and by the three components of its unit vector."""
    n_vectors = g_v.shape[1]
    n_scalars = len(mixed) - n_vectors
    w = weights
    d0, d1, d2, d3, d4, d5 = slopes[0], slopes[1], slopes[2], slopes[3], slopes[4], slopes[5]
    along, f0, f1, f2 = 0.0, 0.0, 0.0, 0.0
    for k in range(n_scalars):
        slope = d0 * w[0, k] + d1 * w[1, k] + d2 * w[2, k] + d3 * w[3, k] + d4 * w[4, k] + d5 * w[5, k]
        along += slope * g_inputs[k]
    e0, e1, e2 = e[0], e[1], e[2]
    for k in range(n_vectors):
        m = n_scalars + k
        slope = d0 * w[0, m] + d1 * w[1, m] + d2 * w[2, m] + d3 * w[3, m] + d4 * w[4, m] + d5 * w[5, m]
        along += slope * (g_v[0, k] * e0 + g_v[1, k] * e1 + g_v[2, k] * e2)
        f0 += mixed[m] * g_v[0, k]
        f1 += mixed[m] * g_v[1, k]
        f2 += mixed[m] * g_v[2, k]
    return along, f0, f1, f2


@njit(cache=True, error_model="numpy", nogil=True)
def add_network(x: FloatArray, network: Network, gradient: FloatArray | None) -> float:
    """Return the energy (hartree) at positions (bohr, ``(n, 3)``) and add its gradient (hartree/bohr), if asked for."""
    n = x.shape[0]
    width, size = network.radial.shape[2], network.last.shape[1]
    n_vectors = network.n_vectors
    n_scalars = width - n_vectors
    units, lengths = np.zeros((n, n, 3)), np.zeros((n, n))
    values, slopes = np.zeros((n, n, N_RADIAL)), np.zeros((n, n, N_RADIAL))
    _radial_functions(x, network, units, lengths, values, slopes)
    atom = _Atom(
        np.zeros((n, width)), np.zeros((3, n_vectors)), np.zeros(network.first.shape[1]), np.zeros(size), np.zeros(size)
    )
    g_one, g_two, g_inputs, g_v = np.zeros(size), np.zeros(size), np.zeros(len(atom.inputs)), np.zeros((3, n_vectors))
    energy = 0.0
    for i in range(n):
        c = network.classes[i]
        _describe(i, units, values, network, atom)
        energy += _energy(network, c, atom)
        if gradient is not None:
            for h in range(size):
                g_two[h] = network.last[c, h]
            _layer_backward(network.second[c], g_two, atom.two, g_one)
            _layer_backward(network.first[c], g_one, atom.one, g_inputs)
            _inputs_backward(atom.vectors, g_inputs, n_scalars, g_v)
            for j in range(n):
                if j == i:
                    continue
                e = units[i, j]
                along, f0, f1, f2 = _neighbour_backward(
                    network.radial[network.pair_classes[i, j]], slopes[i, j], atom.mixed[j], g_inputs, g_v, e
                )
                inverse = 1.0 / lengths[i, j]
                axial = along - (f0 * e[0] + f1 * e[1] + f2 * e[2]) * inverse
                h0, h1, h2 = axial * e[0] + f0 * inverse, axial * e[1] + f1 * inverse, axial * e[2] + f2 * inverse
                gradient[j, 0] += h0
                gradient[j, 1] += h1
                gradient[j, 2] += h2
                gradient[i, 0] -= h0
                gradient[i, 1] -= h1
                gradient[i, 2] -= h2
    return energy
