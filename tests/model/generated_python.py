"""Expression graphs as plain Python functions: the emitted source without Numba."""

from collections.abc import Callable, Sequence

import numpy as np

from reinfuse.model.derive import emit
from reinfuse.model.derive.algebra import Node


def as_python(outputs: Sequence[Node], names: Sequence[str]) -> Callable[..., list[float]]:
    """The function of floats `names` (in this order) that returns the values of `outputs`."""
    places = {name: emit.Slot("given", i) for i, name in enumerate(names)}
    writes = [emit.Write(emit.Slot("out", i), node) for i, node in enumerate(outputs)]
    source = emit.function("made(given, out)", emit.body(emit.SCALAR, places, writes), decorator="")
    space = {"np": np}
    exec(source, space)

    def call(*given: float) -> list[float]:
        out = [np.nan] * len(outputs)
        with np.errstate(all="ignore"):
            space["made"](given, out)
        return out

    return call
