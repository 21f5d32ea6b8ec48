"""From atomic models to the arrays of the compiled kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from fflux_py._compiled import simd
from fflux_py._compiled.features import FEATURES
from fflux_py._compiled.point_arrays import ROTOR, KernelArrays
from fflux_py._compiled.taught_mean import no_taught_mean
from fflux_py.gp.atomic_model import AtomicModel
from fflux_py.gp.frame_queries import FrameQueries, frame_queries
from fflux_py.gp.joint_fit import rotors_last
from fflux_py.gp.taught_mean import TaughtMean
from fflux_py.gp.weights import DerivativeWeights
from fflux_py.molecules.symmetry import Symmetry, no_symmetry
from fflux_py.typing import FloatArray, IntArray

Precision = Literal["double", "fixed", "single"]
"""Points in float64; points as whole numbers of 32 bits, all else in float64; points, products and sums in float32."""

_TYPES: Final[Mapping[Precision, tuple[np.dtype[Any], np.dtype[Any]]]] = {
    "double": (np.dtype(np.float64), np.dtype(np.float64)),
    "fixed": (np.dtype(np.int32), np.dtype(np.float64)),
    "single": (np.dtype(np.float32), np.dtype(np.float32)),
}
_LARGEST: Final = 2**31 - 1
_FOUR: Final = 4


def kernel_arrays(
    atoms: Sequence[AtomicModel],
    symmetry: Symmetry | None,
    means: Sequence[float],
    weights: Sequence[FloatArray],
    slopes: Sequence[FloatArray | None],
    precision: Precision = "double",
    polynomials: bool = True,
    taught_mean: TaughtMean | None = None,
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
    precision
        In which points are stored and products and sums are formed; features and positions are always double.
    polynomials
        Whether to add the means that are no constants.
    taught_mean
        Added to the total energy.
    """
    first = atoms[0]
    queries = frame_queries(symmetry or no_symmetry(max(m.frame.atom for m in atoms) + 1), atoms)
    kept = [_kept(model) for model in atoms]
    plain = np.array([max(-(-len(k) // _FOUR), 1) * _FOUR for k, _ in kept], dtype=np.int64)
    rotors = np.array([len(model.rotors) for model in atoms], dtype=np.int64)
    width = int((plain + ROTOR * rotors).max())
    periods = [m.covariance.periods() for m in atoms]
    wraps = any((p > 0).any() for p in periods)
    kind, of_sums = _TYPES["double" if wraps else precision]
    counts = [len(m.points) // q.n_images for m, q in zip(atoms, queries, strict=True)]
    shape = (len(atoms), -(-max(counts) // simd.block(of_sums)), simd.block(of_sums))
    points, terms = _aligned(shape, _n_rows(first, width), kind), _aligned(shape, 3, of_sums)
    units = np.ones((len(atoms), 2))
    row_periods = np.zeros((len(atoms), width))
    of_queries: tuple[list[FloatArray], ...] = ([], [], [])
    for a, (model, query, count) in enumerate(zip(atoms, queries, counts, strict=True)):
        rows, columns = _rows_and_columns(kept[a], int(plain[a]))
        coordinates = model.covariance.embed(model.points[:count])[:, columns]
        centre = np.zeros(len(columns)) if wraps else _centre(coordinates, len(kept[a][0]))
        u = slopes[a]
        stored = _stored(coordinates - centre, None if u is None else u[:count, columns], rows, width, kind)
        units[a] = stored.units
        _fill_blocks(points[a], stored.rows)
        _fill_blocks(terms[a], stored.terms(weights[a][:count]))
        row_periods[a, rows] = periods[a][columns]
        for parts, values in zip(of_queries, _queries_of(query, model, columns, centre), strict=True):
            by_row: FloatArray = np.zeros((len(values), width))
            by_row[:, rows] = values
            parts.append(by_row)
    return KernelArrays(
        frames=np.array([[m.frame.atom, m.frame.x_axis, m.frame.xy_plane] for m in atoms], dtype=np.int64),
        points=points,
        terms=terms,
        units=units,
        means=np.array(means, dtype=np.float64),
        polynomials=_polynomials(atoms) if polynomials else _no_polynomials(atoms),
        scales=np.array([np.sqrt(m.covariance.theta) for m in atoms]),
        periods=row_periods,
        expanded=np.array(first.covariance.expanded, dtype=np.int64),
        plain=plain,
        rotors=rotors,
        first_query=np.cumsum([0, *(len(q.sources) for q in queries)]).astype(np.int64),
        sources=np.concatenate([q.sources for q in queries]),
        order=np.concatenate(of_queries[0]).astype(np.int64),
        signs=np.concatenate(of_queries[1]),
        shifts=np.concatenate(of_queries[2]),
        feature_code=FEATURES[first.feature_kind],
        kernel_code=first.covariance.kernel.code,
        wraps=wraps,
        derivative=isinstance(first.weights, DerivativeWeights),
        **_taught(taught_mean),
    )


def _taught(mean: TaughtMean | None) -> dict[str, Any]:
    """A taught mean and the atoms' shares in it, or none."""
    if mean is None:
        return {"taught_mean": no_taught_mean(), "mean_shares": np.zeros(0)}
    return {"taught_mean": mean.arrays, "mean_shares": np.array(mean.shares)}


def _kept(model: AtomicModel) -> tuple[IntArray, IntArray]:
    """Embedded coordinates outside rotors whose theta is not zero, and those of the rotors."""
    covariance = model.covariance
    theta = np.concatenate([covariance.theta, covariance.theta[covariance.expanded]])
    order = rotors_last(model.rotors, covariance.n_embedded)
    n_plain = len(order) - ROTOR * len(model.rotors)
    return order[:n_plain][theta[order[:n_plain]] > 0.0], order[n_plain:]


def _rows_and_columns(kept: tuple[IntArray, IntArray], plain: int) -> tuple[IntArray, IntArray]:
    """Rows in which the kept coordinates are stored, and the embedded coordinates."""
    rows = np.concatenate([np.arange(len(kept[0])), plain + np.arange(len(kept[1]))])
    return rows.astype(np.int64), np.concatenate(kept).astype(np.int64)


def _centre(coordinates: FloatArray, n_plain: int) -> FloatArray:
    """Means of the coordinates; the three atoms of a rotor, which change places, have one."""
    centre = coordinates.mean(axis=0)
    rotors = centre[n_plain:].reshape(-1, 3, ROTOR // 3)
    centre[n_plain:] = np.broadcast_to(rotors.mean(axis=1, keepdims=True), rotors.shape).ravel()
    return np.asarray(centre)


def _n_rows(model: AtomicModel, width: int) -> int:
    """Rows of coordinates, and as many of slopes in the derivative basis."""
    return 2 * width if isinstance(model.weights, DerivativeWeights) else width


@dataclass(frozen=True)
class _Stored:
    """Coordinates (and slopes) of a frame's points as they are stored.

    Parameters
    ----------
    rows
        In units, shape ``(n, rows)``.
    units
        Of coordinates; and of weights and of slopes times coordinates.
    """

    rows: FloatArray
    units: tuple[float, float]
    width: int

    def terms(self, weights: FloatArray) -> FloatArray:
        """Minus squared lengths, weights, and minus twice points times slopes: those of the numbers that are stored."""
        unit, value = self.units
        x, u = unit * self.rows[:, : self.width], unit * self.rows[:, self.width :]
        along = -2.0 * (x[:, : u.shape[1]] * u).sum(axis=1)
        return np.column_stack([-(x**2).sum(axis=1), weights / value, along])


def _stored(x: FloatArray, slopes: FloatArray | None, rows: IntArray, width: int, kind: np.dtype[Any]) -> _Stored:
    """Whole numbers count the largest coordinate over 2^31 - 1; slopes times a factor, the same."""
    values = np.zeros((len(x), width if slopes is None else 2 * width))
    unit, scale = 1.0, 1.0
    if kind == np.int32:
        unit = float(np.abs(x).max()) / _LARGEST or 1.0
        steepest = 0.0 if slopes is None else float(np.abs(slopes).max())
        scale = steepest / (_LARGEST * unit) or 1.0
    values[:, rows] = x / unit
    if slopes is not None:
        values[:, width + rows] = slopes / (scale * unit)
    values = np.rint(values) if kind == np.int32 else values.astype(kind).astype(np.float64)
    return _Stored(values, (unit, scale), width)


def _fill_blocks(blocks: FloatArray, rows: FloatArray) -> None:
    """Rows of points, ``(n, r)``, in blocks ``(p, r, B)``; zeros follow."""
    n_blocks, n_rows, size = blocks.shape
    padded = np.zeros((n_blocks * size, n_rows))
    padded[: len(rows)] = rows
    blocks[:] = padded.reshape(n_blocks, size, n_rows).transpose(0, 2, 1)


def _queries_of(
    query: FrameQueries, model: AtomicModel, coordinates: IntArray, centre: FloatArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Order, signs and shifts of a frame's queries for the chosen coordinates, less the centre."""
    order = rotors_last(model.rotors, model.covariance.n_embedded)
    columns = np.argsort(order)[coordinates]
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


def _aligned(shape: tuple[int, int, int], n_rows: int, kind: np.dtype[Any]) -> FloatArray:
    """Zeros whose rows begin where registers do: a load across two lines of the cache takes twice as long."""
    n, n_blocks, block = shape
    size = n * n_blocks * n_rows * block * kind.itemsize
    raw = np.zeros(size + simd.VECTOR_BYTES, dtype=np.uint8)
    start = -raw.ctypes.data % simd.VECTOR_BYTES
    return np.asarray(raw[start : start + size].view(kind).reshape(n, n_blocks, n_rows, block))
