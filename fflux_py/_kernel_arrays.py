"""From atomic models to the arrays of the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fflux_py import _lanes
from fflux_py._feature_kernels import FEATURES
from fflux_py._posterior_kernels import BIAS, FIRST, MATERN52, ROTOR, SQUARED_EXPONENTIAL, WEIGHT, KernelArrays
from fflux_py.atomic_model import AtomicModel
from fflux_py.frame_queries import FrameQueries, frame_queries
from fflux_py.joint_fit import rotors_last
from fflux_py.potential import FloatArray, IntArray
from fflux_py.symmetry import Symmetry, no_symmetry

_FOUR = 4


def kernel_arrays(
    atoms: Sequence[AtomicModel],
    symmetry: Symmetry | None,
    means: Sequence[float],
    weights: Sequence[FloatArray],
    slopes: Sequence[FloatArray | None],
    single: bool = False,
    polynomials: bool = True,
) -> KernelArrays:
    """Arrays of the compiled kernels: a frame's points without images, which become queries.

    Coordinates stand about the mean of the points, so that their squares, which distances are formed from, are small;
    coordinates that are the same in all points and queries (theta is zero) are left out.

    Parameters
    ----------
    atoms, symmetry
        The frames' models, and what makes images of their points.
    means, weights, slopes
        Of every model, hartree.
    single
        Store points, and form products and sums, in single precision; features and positions stay in double.
    polynomials
        Whether to add the means that are no constants.
    """
    first = atoms[0]
    queries = frame_queries(symmetry or no_symmetry(max(m.frame.atom for m in atoms) + 1), atoms)
    kept = [_kept(model) for model in atoms]
    plain = np.array([max(-(-len(k) // _FOUR), 1) * _FOUR for k, _ in kept], dtype=np.int64)
    rotors = np.array([len(model.rotors) for model in atoms], dtype=np.int64)
    width = int((plain + ROTOR * rotors).max())
    periods = [m.covariance.periods() for m in atoms]
    wraps = any((p > 0).any() for p in periods)
    kind = np.dtype(np.float32 if single and not wraps else np.float64)
    counts = [len(m.points) // q.n_images for m, q in zip(atoms, queries, strict=True)]
    points = _aligned(
        (len(atoms), -(-max(counts) // _lanes.block(kind)), _rows(first, width), _lanes.block(kind)), kind
    )
    row_periods = np.zeros((len(atoms), width))
    collected: tuple[list[FloatArray], list[FloatArray], list[FloatArray]] = ([], [], [])
    for a, (model, query, count) in enumerate(zip(atoms, queries, counts, strict=True)):
        places, chosen = _places(model, kept[a], int(plain[a]))
        coordinates = model.covariance.embed(model.points[:count])[:, chosen]
        centre = np.zeros(len(chosen)) if wraps else _centre(coordinates, len(kept[a][0]))
        own_slopes = slopes[a]
        rows = _point_rows(
            coordinates - centre, weights[a][:count], None if own_slopes is None else own_slopes[:count, chosen],
            places, width, kind,
        )  # fmt: skip
        padded = np.zeros((points.shape[1] * points.shape[3], points.shape[2]))
        padded[:count] = rows
        points[a] = padded.reshape(points.shape[1], points.shape[3], points.shape[2]).transpose(0, 2, 1)
        row_periods[a, places] = periods[a][chosen]
        for into, values in zip(collected, _rows_of(query, model, chosen, centre), strict=True):
            spread: FloatArray = np.zeros((len(values), width))
            spread[:, places] = values
            into.append(spread)
    squared = first.covariance.shape == "squared-exponential"
    options = [FEATURES[first.feature_kind], SQUARED_EXPONENTIAL if squared else MATERN52, int(wraps)]
    options.append(int(first.u_y is not None))
    return KernelArrays(
        frames=np.array([[m.frame.atom, m.frame.x_axis, m.frame.xy_plane] for m in atoms], dtype=np.int64),
        points=points,
        means=np.array(means, dtype=np.float64),
        polynomials=_polynomials(atoms) if polynomials else _no_polynomials(atoms),
        scales=np.array([np.sqrt(m.covariance.theta) for m in atoms]),
        periods=row_periods,
        expanded=np.array(first.covariance.expanded, dtype=np.int64),
        plain=plain,
        rotors=rotors,
        first_query=np.cumsum([0, *(len(q.sources) for q in queries)]).astype(np.int64),
        sources=np.concatenate([q.sources for q in queries]),
        order=np.concatenate(collected[0]).astype(np.int64),
        signs=np.concatenate(collected[1]),
        shifts=np.concatenate(collected[2]),
        options=np.array(options, dtype=np.int64),
    )


def _kept(model: AtomicModel) -> tuple[IntArray, IntArray]:
    """Embedded coordinates outside rotors whose theta is not zero, and those of the rotors."""
    covariance = model.covariance
    theta = np.concatenate([covariance.theta, covariance.theta[covariance.expanded]])
    order = rotors_last(model.rotors, covariance.n_embedded)
    n_plain = len(order) - ROTOR * len(model.rotors)
    return order[:n_plain][theta[order[:n_plain]] > 0.0], order[n_plain:]


def _places(model: AtomicModel, kept: tuple[IntArray, IntArray], plain: int) -> tuple[IntArray, IntArray]:
    """Rows of the kept coordinates, and the coordinates."""
    rows = np.concatenate([np.arange(len(kept[0])), plain + np.arange(len(kept[1]))])
    return rows.astype(np.int64), np.concatenate(kept).astype(np.int64)


def _centre(coordinates: FloatArray, n_plain: int) -> FloatArray:
    """Means of the coordinates; the three atoms of a rotor, which change places, have one."""
    centre = coordinates.mean(axis=0)
    rotors = centre[n_plain:].reshape(-1, 3, ROTOR // 3)
    centre[n_plain:] = np.broadcast_to(rotors.mean(axis=1, keepdims=True), rotors.shape).ravel()
    return np.asarray(centre)


def _rows(model: AtomicModel, width: int) -> int:
    return FIRST + width + (1 + width if model.u_y is not None else 0)


def _point_rows(
    x: FloatArray, weights: FloatArray, slopes: FloatArray | None, places: IntArray, width: int, kind: np.dtype[Any]
) -> FloatArray:
    """All rows of the points, shape ``(n, rows)``; products are those of the coordinates as they are stored."""
    rows = np.zeros((len(x), FIRST + width + (0 if slopes is None else 1 + width)))
    x = x.astype(kind).astype(np.float64)
    rows[:, BIAS] = -(x**2).sum(axis=1)
    rows[:, WEIGHT] = weights
    rows[:, FIRST + places] = x
    if slopes is not None:
        slopes = slopes.astype(kind).astype(np.float64)
        rows[:, FIRST + width] = -2.0 * (x * slopes).sum(axis=1)
        rows[:, FIRST + width + 1 + places] = slopes
    return rows


def _rows_of(
    query: FrameQueries, model: AtomicModel, chosen: IntArray, centre: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Order, signs and shifts of a frame's queries for the chosen coordinates, less the centre."""
    order = rotors_last(model.rotors, model.covariance.n_embedded)
    columns = np.argsort(order)[chosen]
    return query.order[:, columns], query.signs[:, columns], query.shifts[:, columns] - centre


def _polynomials(atoms: Sequence[AtomicModel]) -> FloatArray:
    """Centre, linear and quadratic coefficients of the means that are no constants."""
    if all(model.polynomial is None for model in atoms):
        return _no_polynomials(atoms)
    rows = np.zeros((len(atoms), 3, atoms[0].covariance.n_embedded))
    for row, model in zip(rows, atoms, strict=True):
        if model.polynomial is not None:
            row[0], row[1], row[2] = model.polynomial.monomials()
    return rows


def _no_polynomials(atoms: Sequence[AtomicModel]) -> FloatArray:
    return np.zeros((len(atoms), 0, atoms[0].covariance.n_embedded))


def _aligned(shape: tuple[int, ...], kind: np.dtype[Any]) -> FloatArray:
    """Zeros whose rows begin where registers do: a load across two lines of the cache takes twice as long."""
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.zeros(size + _lanes.VECTOR_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % _lanes.VECTOR_BYTES
    return np.asarray(raw[start : start + size].view(kind).reshape(shape))
