"""Compiled loops that take a force function as an argument, compiled once for all force functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numba
from numba.core import types

from fflux_py._compiled.jit import njit


def compiled_loop(
    loop: Any, force: Any, add_bias: Any, arrays: Any, bias: Any, *rest: Any, dimensions: int = 2
) -> Callable[..., Any]:
    """The compiled form of ``loop(force, add_bias, arrays, bias, *rest)``, for arguments of the same types.

    Numba gives every force function a type of its own, under which a caller is compiled anew, and in every process, as
    such a type cannot be recognised on disk.  Here the caller is compiled for *any* functions of the signatures of
    ``force`` and ``add_bias`` (first-class function types), and its entry point is called with them.  Errors raised by
    ``force`` arrive as usual.  With the compiler switched off (``NUMBA_DISABLE_JIT``) the loop itself is returned.

    Parameters
    ----------
    loop
        Njit function.
    force
        Njit function ``(positions, arrays) -> (energy, forces)``.
    add_bias
        Njit function ``(positions, forces, bias) -> float`` of shapes ``(g, n_atoms, 3)``.
    dimensions
        Of the positions that ``force`` takes: 2 for one geometry, 3 for several at once.
    """
    if not hasattr(loop, "compile"):
        return cast(Callable[..., Any], loop)
    if _foreign(arrays):
        loop = in_memory(loop)
    typed = [numba.typeof(argument) for argument in (arrays, bias, *rest)]  # type: ignore[no-untyped-call]
    several = types.Array(types.float64, 3, "C")
    positions = types.Array(types.float64, dimensions, "C")
    signatures = []
    for function, arguments in ((force, (positions, typed[0])), (add_bias, (several, several, typed[1]))):
        function.compile(arguments)
        signatures.append(types.FunctionType(function.overloads[arguments].signature))
    whole = (*signatures, *typed)
    loop.compile(whole)
    return cast(Callable[..., Any], loop.overloads[whole].entry_point)


def _foreign(arrays: Any) -> bool:
    """Whether the class of a tuple of arrays, or of one in it, is not of this package."""
    if type(arrays).__module__.split(".")[0] != __name__.split(".")[0]:
        return True
    return any(_foreign(part) for part in arrays if isinstance(part, tuple))


@cache
def in_memory(function: Any) -> Any:
    """The same function without its cache on disk.

    The index of that cache names the class of ``arrays``.  Numba imports all classes of an index before it looks for
    the one that is asked for, so one class from a module that cannot be imported later (a script, a test) would stop
    every later run.  Only classes of this package are therefore written to disk.
    """
    return njit(nogil=True)(function.py_func)
