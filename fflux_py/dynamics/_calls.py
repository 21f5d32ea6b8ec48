"""Compiled loops that take a force function as an argument, compiled once for all force functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numba
from numba import njit
from numba.core import types


def compiled_call(function: Any, force: Any, *rest: Any, dimensions: int = 2) -> Callable[..., Any]:
    """The compiled form of ``function(force, *rest)``, to be called with arguments of the same types.

    Numba gives every force function a type of its own, under which a caller is compiled anew, and in every process, as
    such a type cannot be recognised on disk.  Here the caller is compiled for *any* function of the signature of
    ``force`` (a first-class function type), and its entry point is called with ``force``.  Errors raised by ``force``
    arrive as usual.  With the compiler switched off (``NUMBA_DISABLE_JIT``) the function itself is returned.

    Parameters
    ----------
    function
        Njit function whose first argument is a force function.
    force
        Njit function ``(positions, arrays) -> (energy, forces)``; ``rest`` starts with ``arrays``.
    dimensions
        Of the positions: 2 for one geometry, 3 for several at once.
    """
    if not hasattr(function, "compile"):
        return cast(Callable[..., Any], function)
    if _foreign(rest[0]):
        function = in_memory(function)
    typed = [numba.typeof(argument) for argument in rest]  # type: ignore[no-untyped-call]
    arguments = (types.Array(types.float64, dimensions, "C"), typed[0])
    force.compile(arguments)
    signature = force.overloads[arguments].signature
    whole = (types.FunctionType(signature), *typed)
    function.compile(whole)
    return cast(Callable[..., Any], function.overloads[whole].entry_point)


def compiled_biased_call(
    function: Any, force: Any, pull: Any, arrays: Any, bias: Any, *rest: Any, dimensions: int = 2
) -> Callable[..., Any]:
    """As :func:`compiled_call`, of ``function(force, pull, arrays, bias, *rest)``.

    Parameters
    ----------
    pull
        Njit function ``(positions, forces, bias) -> float`` of shapes ``(g, n_atoms, 3)``.
    """
    if not hasattr(function, "compile"):
        return cast(Callable[..., Any], function)
    if _foreign(arrays):
        function = in_memory(function)
    several = types.Array(types.float64, 3, "C")
    typed = [numba.typeof(argument) for argument in (arrays, bias, *rest)]  # type: ignore[no-untyped-call]
    positions = several if dimensions == 3 else types.Array(types.float64, dimensions, "C")
    signatures = []
    for part, arguments in ((force, (positions, typed[0])), (pull, (several, several, typed[1]))):
        part.compile(arguments)
        signatures.append(types.FunctionType(part.overloads[arguments].signature))
    whole = (*signatures, *typed)
    function.compile(whole)
    return cast(Callable[..., Any], function.overloads[whole].entry_point)


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
