"""How solvers and a model's generated functions meet: by a table of sizes and addresses.

The solvers are compiled once for all models. A model comes to them as an array of integers: how many states, held
values, parameters, coefficients and read-outs it has, then the addresses of its compiled functions, in the order of
`FUNCTIONS`. (With ``NUMBA_DISABLE_JIT=1`` it is a list that holds the functions themselves.)

Arguments of the functions: ``y`` (NS,) state, ``h`` (NH,) held values, ``p`` (NT,) parameters, ``c`` (NC,)
coefficients, ``t`` time; a name that ends in ``b`` is the adjoint of the one without. `rates` and `rates_pullback` work
in lanes: their arrays are flat lane arrays, ``oy`` is the slot at which ``y`` begins, and so on, and ``t`` has one time
a lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.core import config
from numba.extending import intrinsic

from .lanes import address
from .policy import c_function, kernel

_ARRAY = types.CPointer(types.float64)
_KINDS = {"a": _ARRAY, "i": types.intp, "f": types.float64}

#: Functions of a model and the kinds of their arguments: array, integer, float.
FUNCTIONS = {
    "start": "aaa",  # y, h, p: write state and held values at the start
    "start_pullback": "aaaa",  # p, yb, hb, pb: accumulate into pb
    "prepare": "aaa",  # h, p, c: write everything that stays constant between events
    "prepare_pullback": "aaaaa",  # h, p, cb, hb, pb: accumulate into hb and pb
    "rates": "aiaaai",  # y, oy, t, c, d, od: write time derivatives
    "rates_pullback": "aiaaaiaia",  # y, oy, t, c, db, odb, yb, oyb, cb: write yb, accumulate into cb
    "jump": "iaaa",  # code, y, h, p: apply an event in place
    "jump_pullback": "iaaaaaa",  # code, y, h, p, yb, hb, pb: yb and hb in place, accumulate into pb
    "readout": "faaaa",  # t, y, h, p, out: write what a simulation reports
    "observe": "ifaaaa",  # kind, t, y, h, p, out: write location and scale, or log-hazard and cumulative hazard
    "observe_pullback": "ifaaaaaaa",  # kind, t, y, h, p, ob, yb, hb, pb: write yb and hb, accumulate into pb
}

NS, NH, NT, NC, NR, SCALE = range(6)  # SCALE: address of the states' scales (see `derive.source`)
(
    START,
    START_PULLBACK,
    PREPARE,
    PREPARE_PULLBACK,
    RATES,
    RATES_PULLBACK,
    JUMP,
    JUMP_PULLBACK,
    READOUT,
    OBSERVE,
    OBSERVE_PULLBACK,
) = range(6, 6 + len(FUNCTIONS))


#: Places in ``watch``, the rules by which a simulation may stop (`model.stopping`); empty: it never does.
(
    WATCH_PROTEIN, WATCH_CELLS, WATCH_RATIO, WATCH_RISE, WATCH_RISE_HIGH, WATCH_HIGH_NADIR, WATCH_CONFIRM,
    WATCH_MEASURABLE, WATCH_ROUNDING, WATCH_FIRST, WATCH_END, WATCH_LIMIT, WATCH_SIZE,
) = range(13)  # fmt: skip

TABLE_SIZE = 6 + len(FUNCTIONS)

#: Of `kernels.driver.loglik_grad` behind a C address: the table, arrays, sizes, tolerance, steps, adjoint or not.
SOLVER_SIGNATURE = types.void(*[types.intp] * 18, types.float64, types.intp, types.intp)
#: The same for one model.
LOGLIK_SIGNATURE = types.void(*[types.uintp] * 13, *[types.intp] * 4, types.float64, types.intp, types.boolean)


def model_function[F: Callable[..., Any]](function: F) -> F:
    """Compile a function of a model, named as in `FUNCTIONS`, to be called by its address."""
    return c_function(types.void(*(_KINDS[kind] for kind in FUNCTIONS[function.__name__])))(function)


if config.DISABLE_JIT:

    def call(function: Any, *args: Any) -> None:
        """Call a function of a table."""
        function(*args)

    def floats(place: Any, size: int) -> Any:
        """The array of a table's entry."""
        return place

else:

    @intrinsic
    def call(typing_context: Any, function: Any, *args: Any) -> Any:
        """Call a function of a table by its address; arrays are passed as pointers to their first element."""

        def code(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            passed = []
            for i, kind in enumerate(args):
                value = builder.extract_value(values[1], i)
                if isinstance(kind, types.Array):
                    passed.append(context.make_array(kind)(context, builder, value).data)
                elif isinstance(kind, types.Integer | types.Boolean):
                    passed.append(context.cast(builder, value, kind, types.intp))
                else:
                    passed.append(context.cast(builder, value, kind, types.float64))
            signature = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
            builder.call(builder.inttoptr(values[0], signature.as_pointer()), passed)
            return context.get_dummy_value()

        return types.none(function, types.StarArgTuple(args)), code

    @kernel
    def floats(place: Any, size: int) -> Any:
        """The array at the address in a table's entry."""
        return carray(address(place), (size,), types.float64)
