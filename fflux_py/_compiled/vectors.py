"""Products of vectors with three components, in compiled code."""

from __future__ import annotations

from fflux_py._compiled.jit import njit
from fflux_py.typing import FloatArray


@njit(cache=True, error_model="numpy")
def cross(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """Write the cross product of ``a`` and ``b``."""
    out[0] = a[1] * b[2] - a[2] * b[1]
    out[1] = a[2] * b[0] - a[0] * b[2]
    out[2] = a[0] * b[1] - a[1] * b[0]


@njit(cache=True, error_model="numpy")
def dot(a: FloatArray, b: FloatArray) -> float:
    """The scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]  # type: ignore[no-any-return]
