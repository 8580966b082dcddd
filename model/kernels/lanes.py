"""Eight doubles at once: a SIMD type for Numba, lowered straight to LLVM vector instructions.

A lane holds one patient. Arrays of lanes are flat float64 arrays: slot ``k`` is at ``8 k`` to ``8 k + 7``. On
AVX-512 an operation is one instruction; on narrower machines LLVM splits it. With ``NUMBA_DISABLE_JIT=1`` the
same names work on NumPy arrays of length 8, slowly.

The exponential and logarithm are our own, because Numba has no vector library here: exp by reduction to a short
polynomial, saturating beyond |x| = 700 (relative error below 4e-16 + 4e-17 |x|; where the machine has no table in
registers, below 4 ulp), log by splitting off the exponent and the series of atanh (about 1 ulp, for normal
numbers). A NaN stays a NaN in both, so that a parameter outside its domain is a failure and not a wrong curve.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils, config
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, models, register_model

WIDTH = 8
EXP_LIMIT = 700.0
FLAGS = ("contract", "nsz", "arcp")

#: AVX-512 estimates reciprocals at an eighth of a division's price, and reads tables of eight numbers from a register.
#: Numba's cache knows the machine.
HAS_AVX512 = bool(get_host_cpu_features().get("avx512f"))

#: Of (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/32, interpolated at Chebyshev's points: exp within 3e-17.
EXP_SIXTEENTH = [0.5, 0.1666666666530169, 0.04166666666496045, 0.008333449701253456, 0.0013889034348599464]

#: 2^(i/16), less the sixteenths that shifting the exponent's bits into place leaves below it.
EXP_TABLE = [float((np.float64(2.0 ** (i / 16.0)).view(np.int64) - (i << 48)).view(np.float64)) for i in range(16)]

VECTOR = ir.VectorType(ir.DoubleType(), WIDTH)
INTEGERS = ir.VectorType(ir.IntType(64), WIDTH)


class LanesType(types.Type):
    """The Numba type of eight doubles."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{WIDTH}")


LANES = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


# ---------------------------------------------------------------- LLVM building blocks


def _constant(value: float) -> ir.Constant:
    return ir.Constant(VECTOR, [float(value)] * WIDTH)


def _integer(value: int) -> ir.Constant:
    return ir.Constant(INTEGERS, [value] * WIDTH)


def _splat(builder: Any, scalar: Any) -> Any:
    vector = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.IntType(32)(0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(vector, ir.Constant(VECTOR, ir.Undefined), mask)


def _intrinsic(builder: Any, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f64")
    return builder.call(function, list(args))


def _polynomial(builder: Any, x: Any, coefficients: list[float]) -> Any:
    """Estrin's scheme: sum of coefficients[k] x^k, short dependency chains."""
    level = [_constant(c) for c in coefficients]
    power = x
    while len(level) > 1:
        paired = [
            _intrinsic(builder, "fma", level[i + 1], power, level[i]) if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
        level = paired
        if len(level) > 1:
            power = builder.fmul(power, power)
    return level[0]


def _less(builder: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
    """``x`` where ``a < b``, else ``y`` (also where either is NaN)."""
    return builder.select(builder.fcmp_ordered("<", a, b), x, y)


def _exp(builder: Any, x: Any) -> Any:
    # comparisons that are false for NaN, not `minnum` and `maxnum`, which would turn a NaN into a number
    x = _less(builder, _constant(EXP_LIMIT), x, _constant(EXP_LIMIT), x)
    x = _less(builder, x, _constant(-EXP_LIMIT), _constant(-EXP_LIMIT), x)
    if HAS_AVX512:
        return _exp_by_table(builder, x)
    # llvm.rint, not the magic-number trick, which a `reassoc` flag anywhere would fold away
    k = _intrinsic(builder, "rint", builder.fmul(x, _constant(1.0 / math.log(2.0))))
    r = _intrinsic(builder, "fma", k, _constant(-6.93147180369123816490e-01), x)
    r = _intrinsic(builder, "fma", k, _constant(-1.90821492927058770002e-10), r)
    p = _polynomial(builder, r, [1.0 / math.factorial(i) for i in range(13)])
    # k + 1.5 * 2^52 holds k in its lowest bits: an integer without `fptosi`, which is undefined for NaN
    shifted = builder.bitcast(builder.fadd(k, _constant(1.5 * 2.0**52)), INTEGERS)
    bits = builder.add(builder.shl(shifted, _integer(52)), _integer(0x3FF0000000000000))
    return builder.fmul(p, builder.bitcast(bits, VECTOR))


def _exp_by_table(builder: Any, x: Any) -> Any:
    """Exponential of |x| <= EXP_LIMIT: sixteenths of a binary exponent from a table that fits two registers."""
    # adding 1.5 * 2^52 rounds to an integer, which then stands in the lowest bits
    shifted = _intrinsic(builder, "fma", x, _constant(16.0 / math.log(2.0)), _constant(1.5 * 2.0**52))
    k = builder.fsub(shifted, _constant(1.5 * 2.0**52))
    r = _intrinsic(builder, "fma", k, _constant(-math.log(2.0) / 16.0), x)
    square = builder.fmul(r, r)
    low = _intrinsic(builder, "fma", r, _constant(EXP_SIXTEENTH[1]), _constant(EXP_SIXTEENTH[0]))
    high = _intrinsic(builder, "fma", r, _constant(EXP_SIXTEENTH[3]), _constant(EXP_SIXTEENTH[2]))
    high = _intrinsic(builder, "fma", square, _constant(EXP_SIXTEENTH[4]), high)
    change = _intrinsic(builder, "fma", square, _intrinsic(builder, "fma", square, high, low), r)
    bits = builder.bitcast(shifted, INTEGERS)
    kind = ir.FunctionType(VECTOR, [VECTOR, INTEGERS, VECTOR])
    permute = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.vpermi2var.pd.512")
    first, second = (ir.Constant(VECTOR, EXP_TABLE[i : i + 8]) for i in (0, 8))
    root = builder.bitcast(builder.call(permute, [first, bits, second]), INTEGERS)  # by the lowest four bits
    power = builder.bitcast(builder.add(root, builder.shl(bits, _integer(48))), VECTOR)
    return _intrinsic(builder, "fma", power, change, power)


def _inverse(builder: Any, x: Any) -> Any:
    if not HAS_AVX512:
        return builder.fdiv(_constant(1.0), x)
    kind = ir.FunctionType(VECTOR, [VECTOR, VECTOR, ir.IntType(8)])
    estimate = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rcp14.pd.512")
    r = builder.call(estimate, [x, _constant(0.0), ir.IntType(8)(-1)])
    # r is within 2^-14: with e = 1 - x r, the inverse is r (1 + e) (1 + e^2) up to e^4
    e = _intrinsic(builder, "fma", builder.fneg(x), r, _constant(1.0))
    r = _intrinsic(builder, "fma", r, e, r)
    return _intrinsic(builder, "fma", r, builder.fmul(e, e), r)


def _log(builder: Any, x: Any) -> Any:
    bits = builder.bitcast(x, INTEGERS)
    # subtracting the bits of sqrt(1/2) makes the mantissa fall in [sqrt(1/2), sqrt(2))
    shifted = builder.sub(bits, _integer(0x3FE6A09E667F3BCD))
    exponent = builder.ashr(shifted, _integer(52))
    mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, _integer(52))), VECTOR)
    e = builder.sitofp(exponent, VECTOR)
    f = builder.fsub(mantissa, _constant(1.0))
    s = builder.fmul(f, _inverse(builder, builder.fadd(mantissa, _constant(1.0))))
    z = builder.fmul(s, s)
    # log(1 + f) = f - s (f - z series): the leading term is exact, so the rounding of s hardly matters
    series = _polynomial(builder, z, [2.0 / (2 * i + 3) for i in range(10)])
    tail = _intrinsic(builder, "fma", builder.fneg(z), series, f)
    low = _intrinsic(builder, "fma", e, _constant(1.90821492927058770002e-10), builder.fneg(builder.fmul(s, tail)))
    result = builder.fadd(_intrinsic(builder, "fma", e, _constant(6.93147180369123816490e-01), f), low)
    result = _less(builder, x, _constant(math.inf), result, x)
    outside = _less(builder, x, _constant(0.0), _constant(math.nan), _constant(-math.inf))
    outside = builder.select(builder.fcmp_unordered("uno", x, x), x, outside)
    return _less(builder, _constant(0.0), x, result, outside)


def _unary(build: Any) -> Any:
    @intrinsic
    def function(typing_context: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return build(builder, args[0])

        return LANES(LANES), code

    return function


def _binary(name: str) -> Any:
    @intrinsic
    def function(typing_context: Any, x: Any, y: Any) -> Any:
        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _intrinsic(builder, name, *args)

        return LANES(LANES, LANES), code

    return function


for _operator, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):

    @infer_global(_operator)
    class _Arithmetic(ConcreteTemplate):
        cases = (
            signature(LANES, LANES, LANES),
            signature(LANES, LANES, types.float64),
            signature(LANES, types.float64, LANES),
        )

    def _lower(instruction: str) -> Any:
        def implementation(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            a, b = (x if t == LANES else _splat(builder, x) for x, t in zip(args, sig.args, strict=True))
            return getattr(builder, instruction)(a, b, flags=FLAGS)

        return implementation

    _implementation = _lower(_name)
    for _types in ((LANES, LANES), (LANES, types.float64), (types.float64, LANES)):
        lower_builtin(_operator, *_types)(_implementation)


@infer_global(operator.neg)
class _Negation(ConcreteTemplate):
    cases = (signature(LANES, LANES),)


@lower_builtin(operator.neg, LANES)
def _negate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0])


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    whole = isinstance(array_type, types.Array)
    data = context.make_array(array_type)(context, builder, array).data if whole else array
    return builder.bitcast(builder.gep(data, [offset]), VECTOR.as_pointer())


# ---------------------------------------------------------------- what kernels call

if config.DISABLE_JIT:

    def load(array: Any, offset: int) -> Any:
        """Eight doubles of a flat array, or at a pointer."""
        return array[offset : offset + WIDTH].copy()

    def store(array: Any, offset: int, value: Any) -> None:
        """Write eight doubles into a flat array."""
        array[offset : offset + WIDTH] = value

    def splat(x: float) -> Any:
        """The same number in every lane."""
        return np.full(WIDTH, x)

    def lane_exp(x: Any) -> Any:
        """Exponential, saturating at exp(700)."""
        return np.exp(np.clip(x, -EXP_LIMIT, EXP_LIMIT))

    def lane_inverse(x: Any) -> Any:
        """Reciprocal."""
        return 1.0 / x

    lane_log, lane_abs, lane_max, lane_min = np.log, np.abs, np.fmax, np.fmin

    def lanes_less(a: Any, b: Any) -> int:
        """Bits of the lanes in which ``a < b``."""
        return int(np.packbits(a < b, bitorder="little")[0])

    def lowest_bit(bits: int) -> int:
        """The position of the lowest bit of a positive integer."""
        return (bits & -bits).bit_length() - 1

    def lane_where_less(a: Any, b: Any, x: Any, y: Any) -> Any:
        """``x`` where ``a < b``, else ``y`` (also where either is NaN)."""
        return np.where(a < b, x, y)

else:

    @intrinsic
    def load(typing_context: Any, array: Any, offset: Any) -> Any:
        """Eight doubles of a flat array, or at a pointer."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]), align=8)

        return LANES(array, types.intp), code

    @intrinsic
    def store(typing_context: Any, array: Any, offset: Any, value: Any) -> Any:
        """Write eight doubles into a flat array."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            builder.store(args[2], _pointer(context, builder, sig.args[0], args[0], args[1]), align=8)
            return context.get_dummy_value()

        return types.none(array, types.intp, LANES), code

    @intrinsic
    def splat(typing_context: Any, x: Any) -> Any:
        """The same number in every lane."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _splat(builder, args[0])

        return LANES(types.float64), code

    @intrinsic
    def lane_where_less(typing_context: Any, a: Any, b: Any, x: Any, y: Any) -> Any:
        """``x`` where ``a < b``, else ``y`` (also where either is NaN)."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return _less(builder, *args)

        return LANES(LANES, LANES, LANES, LANES), code

    @intrinsic
    def lanes_less(typing_context: Any, a: Any, b: Any) -> Any:
        """Bits of the lanes in which ``a < b``."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            bits = builder.bitcast(builder.fcmp_ordered("<", *args), ir.IntType(WIDTH))
            return builder.zext(bits, ir.IntType(64))

        return types.int64(LANES, LANES), code

    @intrinsic
    def lowest_bit(typing_context: Any, bits: Any) -> Any:
        """The position of the lowest bit of a positive integer."""

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), code

    lane_exp = _unary(_exp)
    lane_inverse = _unary(_inverse)
    lane_log = _unary(_log)
    lane_abs = _unary(lambda builder, x: _intrinsic(builder, "fabs", x))
    lane_max = _binary("maxnum")
    lane_min = _binary("minnum")


# ---------------------------------------------------------------- kernels behind C addresses


@intrinsic
def address(typing_context: Any, number: Any) -> Any:
    """An integer as a pointer, for `numba.carray`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(number), code
