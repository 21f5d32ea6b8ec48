r"""Kernels of ``.model`` files: their kinds, and expressions of several.

With d the difference of two features,

============  ====================================================================================
rbf           :math:`\exp(-\sum \theta d^2)`
rbf-cyclic    the same, the difference of azimuths wrapped into [-pi, pi)
periodic      :math:`\exp(-c \sum \theta \sin^2(d/2))`, c = 4 (FEREBUS, ICHOR) or 2 (some of ICHOR's files)
constant      its value
============  ====================================================================================

A composition such as ``(k1*k2)`` says how the kernels of a file are multiplied and added.  What a file does not say,
the factor c and whether an ``rbf`` was trained with wrapped azimuths, is a :class:`Reading`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from scipy.spatial.distance import cdist

from fflux_py.errors import InputError
from fflux_py.molecules.molecule import read_only
from fflux_py.typing import FloatArray, IntArray

Kind = Literal["rbf", "rbf-cyclic", "periodic", "constant"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
PERIODIC_FACTORS: Final = (4.0, 2.0)
_DEEPEST: Final = 100
_TOKEN: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|[+*()])")

Tree = str | tuple[str, "Tree", "Tree"]
"""The name of a kernel, or ``(operator, left, right)``."""


@dataclass(frozen=True)
class Reading:
    """What the header of a ``.model`` file leaves open.

    Parameters
    ----------
    periodic_factor
        The c of the periodic kernel.
    wrap_rbf
        Whether differences of azimuths are wrapped in a kernel of kind ``rbf``, too.
    """

    periodic_factor: float = 4.0
    wrap_rbf: bool = False


@dataclass(frozen=True)
class Kernel:
    """One kernel of a ``.model`` file.

    Parameters
    ----------
    name
        As in the composition, for example ``k1``.
    kind
        One of :data:`KINDS`.
    dimensions
        Features on which it works, from 0, shape ``(k,)``; empty for ``constant``.
    theta
        In the inverse square of the features' units, shape ``(k,)``.
    value
        Of the kind ``constant``.
    """

    name: str
    kind: Kind
    dimensions: IntArray
    theta: FloatArray
    value: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", read_only(self.dimensions, np.int64))
        object.__setattr__(self, "theta", read_only(self.theta))
        where = f"kernel {self.name}"
        if self.kind not in KINDS:
            raise InputError(where, f"a type among {', '.join(KINDS)}", repr(self.kind), "this kernel cannot be read")
        if self.theta.ndim != 1 or self.theta.shape != self.dimensions.shape:
            raise InputError(where, f"{self.dimensions.size} theta, one for each feature", str(self.theta.size))
        if len(set(self.dimensions.tolist())) != self.dimensions.size or (self.dimensions < 0).any():
            raise InputError(where, "every feature once, from 1", str((self.dimensions + 1).tolist()))
        if not np.isfinite(self.theta).all() or (self.theta < 0).any():
            raise InputError(where, "finite theta that are not negative", str(self.theta.tolist()))

    def matrix(self, x: FloatArray, y: FloatArray, reading: Reading) -> FloatArray:
        """Kernel matrix, shape ``(m, n)``, between features of shapes ``(m, d)`` and ``(n, d)``."""
        if self.kind == "constant":
            return np.full((len(x), len(y)), self.value)
        root = np.sqrt(self.theta)
        u, v = x[:, self.dimensions], y[:, self.dimensions]
        if self.kind == "periodic":  # |exp(iu) - exp(iv)|^2 = 4 sin^2((u - v)/2)
            root = root * np.sqrt(0.25 * reading.periodic_factor)
            u, v = (np.concatenate([np.cos(w) * root, np.sin(w) * root], axis=1) for w in (u, v))
            return np.asarray(np.exp(-cdist(u, v, "sqeuclidean")))
        s = np.zeros((len(x), len(y)))
        # Every third feature is an angle for FEREBUS and ICHOR; chi, between 0 and pi, never wraps.
        wraps = self.dimensions % 3 == 2
        wraps &= self.kind == "rbf-cyclic" or reading.wrap_rbf
        if not wraps.all():
            s += cdist(u[:, ~wraps] * root[~wraps], v[:, ~wraps] * root[~wraps], "sqeuclidean")
        for h in np.flatnonzero(wraps):
            difference = u[:, h, None] - v[None, :, h]
            difference -= 2.0 * np.pi * np.floor(difference / (2.0 * np.pi) + 0.5)
            s += self.theta[h] * difference**2
        return np.asarray(np.exp(-s))


@dataclass(frozen=True)
class Composition:
    """Kernels and the expression that joins them, times a prefactor.

    Parameters
    ----------
    kernels
        With different names.
    expression
        Names joined by ``+`` and ``*``, and parentheses.
    prefactor
        Of the whole expression, positive.
    """

    kernels: tuple[Kernel, ...]
    expression: str
    prefactor: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))
        names = [kernel.name for kernel in self.kernels]
        if len(set(names)) != len(names):
            raise InputError("kernels", "different names", ", ".join(names))
        if not (np.isfinite(self.prefactor) and self.prefactor > 0.0):
            raise InputError("prefactor of the kernels", "a positive number", str(self.prefactor))
        used = _names(parse(self.expression))
        if set(used) != set(names):
            raise InputError(f"composition {self.expression!r}", f"the kernels {', '.join(names)}", ", ".join(used))

    def matrix(self, x: FloatArray, y: FloatArray, reading: Reading) -> FloatArray:
        """Kernel matrix, shape ``(m, n)``, between features of shapes ``(m, d)`` and ``(n, d)``."""
        parts = {kernel.name: kernel.matrix(x, y, reading) for kernel in self.kernels}
        return self.prefactor * _combine(parse(self.expression), parts)

    def diagonal(self) -> float:
        """The kernel of a point with itself."""
        parts = {k.name: np.array([[k.value if k.kind == "constant" else 1.0]]) for k in self.kernels}
        return self.prefactor * float(_combine(parse(self.expression), parts)[0, 0])

    @property
    def is_product(self) -> bool:
        """Whether the kernels are multiplied only."""
        return "+" not in self.expression

    def of_kind(self, kind: Kind) -> tuple[Kernel, ...]:
        """The kernels of a kind."""
        return tuple(kernel for kernel in self.kernels if kernel.kind == kind)


def parse(expression: str) -> Tree:
    """The tree of an expression; ``*`` binds closer than ``+``.

    Raises
    ------
    InputError
        An expression with anything but names, ``+``, ``*`` and matching parentheses.
    """
    tokens, position = [], 0
    text = expression.strip()
    if text.count("(") > _DEEPEST:
        raise InputError("composition", f"at most {_DEEPEST} parentheses", str(text.count("(")))
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InputError(f"composition {expression!r}", "names, +, * and parentheses", repr(text[position]))
        tokens.append(match[1])
        position = match.end()
    tree, rest = _sum(tokens, expression)
    if rest:
        raise InputError(f"composition {expression!r}", "its end", repr(rest[0]))
    return tree


def _sum(tokens: Sequence[str], expression: str) -> tuple[Tree, Sequence[str]]:
    left, rest = _product(tokens, expression)
    while rest and rest[0] == "+":
        right, rest = _product(rest[1:], expression)
        left = ("+", left, right)
    return left, rest


def _product(tokens: Sequence[str], expression: str) -> tuple[Tree, Sequence[str]]:
    left, rest = _factor(tokens, expression)
    while rest and rest[0] == "*":
        right, rest = _factor(rest[1:], expression)
        left = ("*", left, right)
    return left, rest


def _factor(tokens: Sequence[str], expression: str) -> tuple[Tree, Sequence[str]]:
    where = f"composition {expression!r}"
    if not tokens or tokens[0] in "+*)":
        raise InputError(where, "the name of a kernel", repr(tokens[0]) if tokens else "its end")
    if tokens[0] != "(":
        return tokens[0], tokens[1:]
    inner, rest = _sum(tokens[1:], expression)
    if not rest or rest[0] != ")":
        raise InputError(where, "a closing parenthesis", repr(rest[0]) if rest else "its end")
    return inner, rest[1:]


def _names(tree: Tree) -> list[str]:
    return [tree] if isinstance(tree, str) else [*_names(tree[1]), *_names(tree[2])]


def _combine(tree: Tree, parts: Mapping[str, FloatArray]) -> FloatArray:
    if isinstance(tree, str):
        return parts[tree]
    left, right = _combine(tree[1], parts), _combine(tree[2], parts)
    return left * right if tree[0] == "*" else left + right
