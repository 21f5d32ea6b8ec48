"""Energy and forces of all atoms in compiled code: arrays in, arrays out.

For every frame: features, scaled and embedded; one pass over the training points for the energy and its gradient in the
embedding (:mod:`fflux_py._compiled.training_points`); then the chain rule backwards through embedding, features, axes
and frame to positions.  Where energies alone are asked for, nothing of the gradient is computed.  A taught mean
(:mod:`fflux_py._compiled.taught_mean`) is added once a geometry.

The plain NumPy counterpart, which the tests compare with, is :class:`fflux_py.gp.atomic_model.AtomicModel`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fflux_py._compiled.features import FRAME_ROWS, local_features, local_features_backward
from fflux_py._compiled.jit import njit
from fflux_py._compiled.point_arrays import KernelArrays
from fflux_py._compiled.taught_mean import TaughtMeanArrays, taught_energy
from fflux_py._compiled.training_points import posteriors
from fflux_py.typing import FloatArray, IntArray

TOGETHER: Final = 8
"""Geometries that pass over the points of a block together."""


@njit(cache=True, error_model="numpy")
def _embedded(f: FloatArray, arrays: KernelArrays, a: int, z: FloatArray) -> None:
    """Scaled, embedded coordinates of one frame's features."""
    scale = arrays.scales[a]
    n_features = len(f)
    for h in range(n_features):
        z[h] = f[h] * scale[h]
    for k in range(len(arrays.expanded)):
        h = arrays.expanded[k]
        z[h] = np.cos(f[h]) * scale[h]
        z[n_features + k] = np.sin(f[h]) * scale[h]


@njit(cache=True, error_model="numpy")
def _embedded_backward(z: FloatArray, g_z: FloatArray, arrays: KernelArrays, a: int, g_f: FloatArray) -> None:
    """Gradient by one frame's features from the gradient by its embedded coordinates."""
    scale = arrays.scales[a]
    n_features = len(g_f)
    for h in range(n_features):
        g_f[h] = g_z[h] * scale[h]
    for k in range(len(arrays.expanded)):
        h = arrays.expanded[k]
        g_f[h] = g_z[n_features + k] * z[h] - g_z[h] * z[n_features + k]


@njit(cache=True, error_model="numpy")
def _mean(z: FloatArray, arrays: KernelArrays, a: int, g_z: FloatArray | None) -> float:
    """What a mean that is no constant adds to one frame's energy; its gradient by z is added to ``g_z``."""
    centre, linear, quadratic = arrays.polynomials[a, 0], arrays.polynomials[a, 1], arrays.polynomials[a, 2]
    mean = 0.0
    for h in range(len(z)):
        d = z[h] - centre[h]
        mean += d * (linear[h] + d * quadratic[h])
        if g_z is not None:
            g_z[h] += linear[h] + 2.0 * d * quadratic[h]
    return mean


@njit(cache=True, error_model="numpy")
def _repeats(frames: IntArray, a: int) -> bool:
    """Whether a frame is that before it, with another kernel: its features are the same."""
    if a == 0 or a == len(frames):
        return False
    for c in range(3):
        if frames[a, c] != frames[a - 1, c]:
            return False
    return True


@njit(cache=True, error_model="numpy")
def _add_taught_mean(
    positions: FloatArray,
    mean: TaughtMeanArrays,
    shares: FloatArray,
    energies: FloatArray,
    gradient: FloatArray | None,
) -> None:
    """What a taught mean adds to the atomic energies of one geometry, by their shares, and to the gradient.

    It takes no arrays of training points, whose precision it would be compiled for.
    """
    if len(mean.network.classes) == 0:
        return
    energy = taught_energy(positions, mean, gradient)
    for i in range(len(energies)):
        energies[i] += shares[i] * energy


@njit(cache=True, error_model="numpy", nogil=True)
def batch(positions: FloatArray, arrays: KernelArrays, energies: FloatArray, gradient: FloatArray) -> None:
    """Write atomic energies and the gradient of their sum, geometry by geometry.

    The result for a geometry does not depend, to the last bit, on the geometries beside it.

    Parameters
    ----------
    positions
        Bohr, shape ``(k, n, 3)``.
    arrays
        The force field.
    energies, gradient
        Hartree, shape ``(k, n)``, and hartree/bohr, shape ``(k, n, 3)``.
    """
    n_geometries, n_atoms, _ = positions.shape
    n_frames, n_features = arrays.scales.shape
    n_embedded = n_features + len(arrays.expanded)
    kind = arrays.feature_code
    together = min(n_geometries, TOGETHER)
    rows, local = np.empty((together, n_frames, FRAME_ROWS, 3)), np.empty((together, n_frames, n_atoms, 4))
    f, g_f, g_more = np.empty(n_features), np.empty(n_features), np.empty(n_features)
    z, g_z = np.empty((together, n_frames, n_embedded)), np.empty((together, n_frames, n_embedded))
    of_frames = np.empty((together, n_frames))
    gradient[:] = 0.0
    energies[:] = 0.0
    for begin in range(0, n_geometries, together):
        count = min(together, n_geometries - begin)
        for r in range(count):
            for a in range(n_frames):
                if not _repeats(arrays.frames, a):
                    local_features(positions[begin + r], arrays.frames[a], kind, rows[r, a], local[r, a], f)
                _embedded(f, arrays, a, z[r, a])
        of_frames[:] = 0.0
        g_z[:] = 0.0
        posteriors(z[:count], arrays, of_frames[:count], g_z[:count])
        for r in range(count):
            first = 0
            for a in range(n_frames):
                energies[begin + r, arrays.frames[a, 0]] += arrays.means[a] + of_frames[r, a]
                if arrays.polynomials.shape[1] > 0:
                    energies[begin + r, arrays.frames[a, 0]] += _mean(z[r, a], arrays, a, g_z[r, a])
                if _repeats(arrays.frames, a):
                    _embedded_backward(z[r, a], g_z[r, a], arrays, a, g_more)
                    for h in range(n_features):
                        g_f[h] += g_more[h]
                else:
                    first = a
                    _embedded_backward(z[r, a], g_z[r, a], arrays, a, g_f)
                if not _repeats(arrays.frames, a + 1):
                    local_features_backward(
                        positions[begin + r], arrays.frames[a], kind, rows[r, first], local[r, first], g_f,
                        gradient[begin + r],
                    )  # fmt: skip
            _add_taught_mean(
                positions[begin + r], arrays.taught_mean, arrays.mean_shares, energies[begin + r], gradient[begin + r]
            )


@njit(cache=True, error_model="numpy", nogil=True)
def batch_energies(positions: FloatArray, arrays: KernelArrays, energies: FloatArray) -> None:
    """Write atomic energies alone: the bits of :func:`batch`, at less than half of its arithmetic.

    The energy of an atom on whose spot another atom stands is NaN.

    Parameters
    ----------
    positions
        Bohr, shape ``(k, n, 3)``.
    arrays
        The force field.
    energies
        Hartree, shape ``(k, n)``.
    """
    n_geometries, n_atoms, _ = positions.shape
    n_frames, n_features = arrays.scales.shape
    n_embedded = n_features + len(arrays.expanded)
    together = min(n_geometries, TOGETHER)
    rows, local, f = np.empty((FRAME_ROWS, 3)), np.empty((n_atoms, 4)), np.empty(n_features)
    z, of_frames = np.empty((together, n_frames, n_embedded)), np.empty((together, n_frames))
    apart = np.empty((together, n_frames), np.bool_)
    energies[:] = 0.0
    for begin in range(0, n_geometries, together):
        count = min(together, n_geometries - begin)
        for r in range(count):
            for a in range(n_frames):
                if not _repeats(arrays.frames, a):
                    local[:] = 0.0
                    local_features(positions[begin + r], arrays.frames[a], arrays.feature_code, rows, local, f)
                apart[r, a] = np.isfinite(local[:, 3]).all()  # 1/R of all other atoms
                _embedded(f, arrays, a, z[r, a])
        of_frames[:] = 0.0
        posteriors(z[:count], arrays, of_frames[:count], None)
        for r in range(count):
            for a in range(n_frames):
                energies[begin + r, arrays.frames[a, 0]] += arrays.means[a] + of_frames[r, a]
                if arrays.polynomials.shape[1] > 0:
                    energies[begin + r, arrays.frames[a, 0]] += _mean(z[r, a], arrays, a, None)
                if not apart[r, a]:
                    energies[begin + r, arrays.frames[a, 0]] = np.nan
            _add_taught_mean(positions[begin + r], arrays.taught_mean, arrays.mean_shares, energies[begin + r], None)


@njit(cache=True, error_model="numpy")
def energy_and_forces(positions: FloatArray, arrays: KernelArrays) -> tuple[float, FloatArray]:
    """Energy (hartree) and forces (hartree/bohr, ``(n, 3)``) at positions (bohr, ``(n, 3)``)."""
    energies = np.empty((1, positions.shape[0]))
    forces = np.empty((1, positions.shape[0], 3))
    batch(positions.reshape((1, positions.shape[0], 3)), arrays, energies, forces)
    for i in range(positions.shape[0]):
        for c in range(3):
            forces[0, i, c] = -forces[0, i, c]
    return energies.sum(), forces[0]


@njit(cache=True, error_model="numpy")
def energies_and_forces(positions: FloatArray, arrays: KernelArrays) -> tuple[FloatArray, FloatArray]:
    """Energies (hartree, ``(k,)``) and forces (hartree/bohr) of geometries (bohr), shapes ``(k, n, 3)``."""
    energies = np.empty((positions.shape[0], positions.shape[1]))
    forces = np.empty_like(positions)
    batch(positions, arrays, energies, forces)
    totals = np.zeros(positions.shape[0])
    for k in range(positions.shape[0]):
        for i in range(positions.shape[1]):
            totals[k] += energies[k, i]
            for c in range(3):
                forces[k, i, c] = -forces[k, i, c]
    return totals, forces
