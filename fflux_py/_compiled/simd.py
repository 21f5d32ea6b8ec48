r"""Vector code for force evaluations: products of queries and points, kernels, and sums over points, block by block.

What a compiler makes of a loop (vector code or not, in which order it adds) changes from version to version and with
the loops around it.  Here it is written out instead: registers of :data:`VECTOR_BYTES` bytes, four queries by four
registers of training points at a time, so that nearly every instruction is a fused multiply-add.  Each *lane* of a
register adds up its own points in their order, and lanes are added in a fixed order at the end.  So a sum has the same
bits for one query or four at a time, on any number of threads.

Every function exists twice: as LLVM code for compiled callers, and in NumPy (:mod:`fflux_py._compiled.simd_numpy`) for
when the compiler is switched off (``NUMBA_DISABLE_JIT``).  Numbers are float64 or float32, after the arrays; points may
also be int32 beside float64, and are then converted as they are read.  Points stand in *blocks* of four registers,
``x[frame, block, row, point]``; the rows are coordinates, and what else belongs to a point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from fflux_py._compiled import simd_numpy

VECTOR_BYTES: Final = 64
"""Bytes of a register (AVX-512); where they are shorter, LLVM takes two."""
REGISTERS: Final = 4
"""Registers of a block."""
TOGETHER: Final = 4
"""Queries whose products are formed together."""

# exp(x) = 2^n (1 + r + r^2 p(r)), |r| <= ln 2 / 2.  Adding 1.5 * 2^(bits of the mantissa) rounds to an integer and
# leaves it in the low bits.  p by Chebyshev interpolation.
_EXP64: Final = (
    2.510038549551032e-08, 2.7620088445409746e-07, 2.7557268459997064e-06, 2.4801521295954376e-05,
    0.00019841269863053618, 0.0013888888917213717, 0.008333333333330062, 0.04166666666662413, 0.16666666666666669, 0.5,
)  # fmt: skip
_EXP32: Final = (0.0013926184, 0.0083631789, 0.0416665561, 0.1666657663, 0.5)
_LOG2E: Final = 1.4426950408889634
_LN2: Final = {64: (6.93145751953125e-1, 1.42860682030941723212e-6), 32: (0.693145751953125, 1.4286068203094172e-06)}
_ROUND: Final = {64: 6755399441055744.0, 32: 12582912.0}
_MANTISSA: Final = {64: 52, 32: 23}
_BIAS: Final = {64: 1023, 32: 127}


def lanes(dtype: Any) -> int:
    """Numbers of a type in a register."""
    return VECTOR_BYTES // int(np.dtype(dtype).itemsize)


def block(dtype: Any) -> int:
    """Training points of a block."""
    return REGISTERS * lanes(dtype)


class _Vector:
    """A register while LLVM code is written; operators append instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value, self.type = builder, value, value.type
        self.bits = 64 if value.type.element == ir.DoubleType() else 32

    def of(self, other: _Vector | float) -> Any:
        """The LLVM value of a register, or of one that is filled with a constant."""
        if isinstance(other, _Vector):
            return other.value
        number = float(other) if self.bits == 64 else float(np.float32(other))
        return ir.Constant(self.type, [number] * self.type.count)

    def __add__(self, other: _Vector | float) -> _Vector:
        return _Vector(self.builder, self.builder.fadd(self.value, self.of(other)))

    def __sub__(self, other: _Vector | float) -> _Vector:
        return _Vector(self.builder, self.builder.fsub(self.value, self.of(other)))

    def __mul__(self, other: _Vector | float) -> _Vector:
        return _Vector(self.builder, self.builder.fmul(self.value, self.of(other)))

    def times_plus(self, factor: _Vector | float, term: _Vector | float) -> _Vector:
        """``self * factor + term`` in one instruction where there is one."""
        return self.call("fmuladd", self.of(factor), self.of(term))

    def at_least(self, least: float) -> _Vector:
        value = self.of(least)
        larger = self.builder.fcmp_ordered(">", self.value, value)
        return _Vector(self.builder, self.builder.select(larger, self.value, value))

    def call(self, name: str, *rest: Any) -> _Vector:
        """An intrinsic function of LLVM."""
        kind = ir.FunctionType(self.type, [self.type] * (1 + len(rest)))
        full = f"llvm.{name}.v{self.type.count}f{self.bits}"
        function = cgutils.get_or_insert_function(self.builder.module, kind, full)  # type: ignore[no-untyped-call]
        return _Vector(self.builder, self.builder.call(function, (self.value, *rest)))

    def exp(self) -> _Vector:
        builder, bits = self.builder, self.bits
        x = self.at_least(simd_numpy.SMALLEST[bits])
        rounded = x.times_plus(_LOG2E, _ROUND[bits])
        n = rounded - _ROUND[bits]
        high, low = _LN2[bits]
        r = n.times_plus(-low, n.times_plus(-high, x))
        first, *rest = _EXP64 if bits == 64 else _EXP32
        e = r * first + rest[0]
        for c in rest[1:]:
            e = e.times_plus(r, c)
        e = (e * r).times_plus(r, r) + 1.0
        whole = ir.VectorType(ir.IntType(bits), self.type.count)
        shift, bias = (
            ir.Constant(whole, [number] * self.type.count)
            for number in (_MANTISSA[bits], _BIAS[bits] << _MANTISSA[bits])
        )
        power = builder.add(builder.shl(builder.bitcast(rounded.value, whole), shift), bias)
        return e * _Vector(builder, builder.bitcast(power, self.type))


class _Array:
    """An array argument while LLVM code is written: its data and shape."""

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
        made = context.make_array(kind)(context, builder, value)
        self.builder, self.data = builder, made.data
        self.shape = cgutils.unpack_tuple(builder, made.shape)  # type: ignore[no-untyped-call]
        self.bits = kind.dtype.bitwidth
        self.whole = isinstance(kind.dtype, types.Integer)
        element = ir.DoubleType() if self.bits == 64 else ir.IntType(32) if self.whole else ir.FloatType()
        self.lanes = VECTOR_BYTES * 8 // self.bits
        self.vector = ir.VectorType(element, self.lanes)

    def place(self, *indices: Any) -> Any:
        """Pointer to an element; indices that are missing at the end are zero."""
        builder, offset = self.builder, indices[0]
        for index, size in zip(indices[1:], self.shape[1:], strict=False):
            offset = builder.add(builder.mul(offset, size), index)
        for size in self.shape[len(indices) :]:
            offset = builder.mul(offset, size)
        return builder.gep(self.data, [offset])

    def load(self, pointer: Any, register: int = 0, like: _Array | None = None) -> _Vector:
        """A register; whole numbers become float64, as many as are in a register of the array ``like``."""
        stored = ir.VectorType(self.vector.element, (like or self).lanes)
        pointer = self.builder.gep(pointer, [_integer(register * stored.count)])
        value = self.builder.load(self.builder.bitcast(pointer, stored.as_pointer()))
        value.align = self.bits // 8
        if self.whole:
            value = self.builder.sitofp(value, ir.VectorType(ir.DoubleType(), stored.count))
        return _Vector(self.builder, value)

    def store(self, vector: _Vector, pointer: Any, register: int = 0) -> None:
        pointer = self.builder.gep(pointer, [_integer(register * self.lanes)])
        self.builder.store(vector.value, self.builder.bitcast(pointer, self.vector.as_pointer())).align = self.bits // 8

    def spread(self, pointer: Any) -> _Vector:
        """A register filled with one number."""
        unknown = ir.Constant(self.vector, ir.Undefined)
        single = self.builder.insert_element(unknown, self.builder.load(pointer), ir.Constant(ir.IntType(32), 0))
        return _Vector(self.builder, self.builder.shuffle_vector(single, unknown, _places([0] * self.lanes)))


def _integer(value: int) -> Any:
    return ir.Constant(ir.IntType(64), value)


def _places(places: list[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)


def _code(write: Callable[..., None], *kinds: Any) -> Any:
    """Signature and code of an intrinsic without result, whose instructions ``write(builder, *arguments)`` appends."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arguments = [
            _Array(context, builder, kind, value) if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        ]
        write(builder, *arguments)
        return context.get_dummy_value()

    return types.void(*(kind if isinstance(kind, types.Array) else types.intp for kind in kinds)), code


def _repeated(
    builder: Any, count: Any, values: list[_Vector], body: Callable[[Any, list[_Vector]], list[_Vector]]
) -> list[_Vector]:
    """``values`` after ``body(i, values)`` for i from zero; ``count`` is at least one.  They stay in registers."""
    before, loop = builder.block, builder.append_basic_block("repeat")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(count.type)
    phis = [builder.phi(value.type) for value in values]
    results = body(index, [_Vector(builder, phi) for phi in phis])
    following = builder.add(index, _integer(1))
    index.add_incoming(_integer(0), before)
    index.add_incoming(following, builder.block)
    for phi, value, result in zip(phis, values, results, strict=True):
        phi.add_incoming(value.value, before)
        phi.add_incoming(result.value, builder.block)
    after = builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return results


def _products(queries: int, fresh: bool) -> Any:
    """LLVM code of :data:`begin4` and :data:`extend4` and their like for ``queries`` queries at once."""

    def write(
        builder: Any, z: Any, q: Any, column: Any, x: Any, a: Any, b: Any, first: Any, last: Any, *rest: Any
    ) -> None:
        *fresh_only, s, target = rest
        outputs = [s.place(builder.add(target, _integer(k))) for k in range(queries)]
        inputs = [z.place(builder.add(q, _integer(k)), column) for k in range(queries)]
        sums = []
        for k in range(queries):
            for v in range(REGISTERS):
                if fresh_only:
                    terms, row, start = fresh_only
                    value = terms.load(terms.place(a, b, row), v) + start.spread(
                        start.place(builder.add(q, _integer(k)))
                    )
                else:
                    value = s.load(outputs[k], v)
                sums.append(value)
        origin = x.place(a, b, first)

        def add(h: Any, sums: list[_Vector]) -> list[_Vector]:
            place = builder.gep(origin, [builder.mul(h, x.shape[3])])
            points = [x.load(place, v, s) for v in range(REGISTERS)]
            coordinates = [z.spread(builder.gep(inputs[k], [h])) for k in range(queries)]
            pairs = [(c, x) for c in coordinates for x in points]
            return [c.times_plus(x, total) for (c, x), total in zip(pairs, sums, strict=True)]

        sums = _repeated(builder, builder.sub(last, first), sums, add)
        for k in range(queries):
            for v in range(REGISTERS):
                s.store(sums[REGISTERS * k + v], outputs[k], v)

    if fresh:

        @intrinsic
        def begin(context, z, q, column, x, a, b, first, last, terms, row, start, s, target):  # type: ignore[no-untyped-def]
            return _code(write, z, q, column, x, a, b, first, last, terms, row, start, s, target)

        return begin

    @intrinsic
    def extend(context, z, q, column, x, a, b, first, last, s, target):  # type: ignore[no-untyped-def]
        return _code(write, z, q, column, x, a, b, first, last, s, target)

    return extend


def _weighted_sums(queries: int) -> Any:
    """LLVM code of :data:`add_weighted4` for ``queries`` queries at once; for one, several rows side by side."""
    at_once = TOGETHER // queries

    def write(builder: Any, c: Any, source: Any, x: Any, a: Any, b: Any, first: Any, last: Any, *rest: Any) -> None:
        g, q, column = rest
        factors = [
            [c.load(c.place(builder.add(source, _integer(k))), v) for v in range(REGISTERS)] for k in range(queries)
        ]
        origin = x.place(a, b, first)
        outputs = [g.place(builder.add(q, _integer(k)), column) for k in range(queries)]
        with cgutils.for_range(builder, builder.sdiv(builder.sub(last, first), _integer(at_once))) as loop:
            for j in range(at_once):
                h = builder.add(builder.mul(loop.index, _integer(at_once)), _integer(j))
                place = builder.gep(origin, [builder.mul(h, x.shape[3])])
                points = [x.load(place, v, c) for v in range(REGISTERS)]
                for k in range(queries):
                    output = builder.gep(outputs[k], [builder.mul(h, _integer(g.lanes))])
                    total = g.load(output)
                    for v in range(REGISTERS):
                        total = factors[k][v].times_plus(points[v], total)
                    g.store(total, output)

    @intrinsic
    def add_weighted(context, c, source, x, a, b, first, last, g, q, column):  # type: ignore[no-untyped-def]
        return _code(write, c, source, x, a, b, first, last, g, q, column)

    return add_weighted


def _radial(matern: bool, derivative: bool, gradient: bool = True) -> Any:
    """LLVM code of :data:`radial_plain` and its like for one kernel and basis, or of the energies alone."""

    def write(builder: Any, s: Any, t: Any, q: Any, w: Any, a: Any, b: Any, row: Any, *sums_of: Any) -> None:
        weights, exponents, slopes = w.place(a, b, row), s.place(q), t.place(q)
        sums = [array.load(array.place(q)) for array in sums_of]
        for v in range(REGISTERS):
            weight, along = w.load(weights, v), t.load(slopes, v)
            if matern:
                root = (s.load(exponents, v) * -10.0).at_least(0.0).call("sqrt")
                k = (root * -1.0).exp()
                flat = (root + 1.0) * k * (5.0 / 3.0)
                e = weight * root.times_plus(root * (1.0 / 3.0), root + 1.0) * k
                c = weight * flat
                if derivative:
                    e, c = flat.times_plus(along, e), (k * along).times_plus(25.0 / 3.0, c)
            else:
                flat = s.load(exponents, v).exp()
                e = flat * (weight + along) if derivative else flat * weight
                c = e
            sums = [total + value for total, value in zip(sums, (e, c), strict=False)]
            if gradient:
                s.store(c, exponents, v)
            if gradient and derivative:
                t.store(flat, slopes, v)
        for array, total in zip(sums_of, sums, strict=True):
            array.store(total, array.place(q))

    if not gradient:

        @intrinsic
        def energies_only(context, s, t, q, terms, a, b, row, energies):  # type: ignore[no-untyped-def]
            return _code(write, s, t, q, terms, a, b, row, energies)

        return energies_only

    @intrinsic
    def radial(context, s, t, q, terms, a, b, row, energies, factor_sums):  # type: ignore[no-untyped-def]
        return _code(write, s, t, q, terms, a, b, row, energies, factor_sums)

    return radial


def _exponential() -> Any:
    def write(builder: Any, x: Any, out: Any) -> None:
        for v in range(REGISTERS):
            out.store(x.load(x.data, v).exp(), out.data, v)

    @intrinsic
    def exponential(context, x, out):  # type: ignore[no-untyped-def]
        return _code(write, x, out)

    return exponential


def _halves(left: _Vector, right: _Vector) -> _Vector:
    """Sums of neighbouring lanes of two registers, in one."""
    builder, n = left.builder, left.type.count
    even, odd = (
        builder.shuffle_vector(left.value, right.value, _places(list(range(start, 2 * n, 2)))) for start in (0, 1)
    )
    return _Vector(builder, builder.fadd(even, odd))


def _lane_sums() -> Any:
    """LLVM code of :data:`sum_lanes`: four rows at a time become one register of four sums."""

    def write(builder: Any, g: Any, q: Any, rows: Any, out: Any) -> None:
        with cgutils.for_range(builder, builder.sdiv(rows, _integer(4))) as loop:
            h = builder.mul(loop.index, _integer(4))
            four = [g.load(g.place(q, builder.add(h, _integer(j)))) for j in range(4)]
            both = _halves(_halves(four[0], four[1]), _halves(four[2], four[3])).value
            while both.type.count > 4:
                places = list(range(0, both.type.count, 2)), list(range(1, both.type.count, 2))
                even, odd = (builder.shuffle_vector(both, both, _places(p)) for p in places)
                both = builder.fadd(even, odd)
            for j in range(4):
                number = builder.extract_element(both, ir.Constant(ir.IntType(32), j))
                if g.bits == 32:
                    number = builder.fpext(number, ir.DoubleType())
                builder.store(number, out.place(q, builder.add(h, _integer(j))))

    @intrinsic
    def sum_lanes(context, g, q, rows, out):  # type: ignore[no-untyped-def]
        return _code(write, g, q, rows, out)

    return sum_lanes


_PLAIN: Final = bool(config.DISABLE_JIT)  # type: ignore[attr-defined]

begin4, begin1 = ((simd_numpy.make_begin(n) if _PLAIN else _products(n, True)) for n in (TOGETHER, 1))
"""``s[target] = terms[row] + start[q] + sum_h z[q, column + h] x[first + h]``, for four queries from ``q`` on,
or one."""

extend4, extend1 = ((simd_numpy.make_extend(n) if _PLAIN else _products(n, False)) for n in (TOGETHER, 1))
"""``s[target] += sum_h z[q, column + h] x[first + h]``, likewise."""

add_weighted4, add_weighted1 = (
    (simd_numpy.make_add_weighted(n) if _PLAIN else _weighted_sums(n)) for n in (TOGETHER, 1)
)
"""``g[q, column + h] += sum_i c[source, i] x[first + h, i]``, lane by lane; likewise, rows in multiples of four."""

radial_plain, radial_derivative, matern_plain, matern_derivative = (
    (simd_numpy.make_radial if _PLAIN else _radial)(matern, derivative)
    for matern in (False, True)
    for derivative in (False, True)
)
"""From exponents s (minus squared distances) and twice the slopes along the differences t to energies.

Energies and the factors c of the points are added to the lanes ``energies[q]`` and ``factor_sums[q]``; c replaces s,
and in the derivative basis the factor of the slopes replaces t.  The gradient by the query is ``2 (sum_i c_i x_i - z
sum_i c_i + sum_i t_i u_i)``.
"""

energies_plain, energies_derivative, matern_energies_plain, matern_energies_derivative = (
    (simd_numpy.make_radial if _PLAIN else _radial)(matern, derivative, gradient=False)
    for matern in (False, True)
    for derivative in (False, True)
)
"""The same energies, to the bit, without the factors; s and t stay as they are."""

exponential = simd_numpy.exponential if _PLAIN else _exponential()
"""Write exp of a block of numbers that are not positive; below -708 (float32: -87) that of -708."""

sum_lanes = simd_numpy.sum_lanes if _PLAIN else _lane_sums()
"""``out[q, h]`` in float64: the sum over the lanes of ``g[q, h]``, for ``rows`` rows, a multiple of four."""
