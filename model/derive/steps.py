"""One step of a Runge-Kutta method and its adjoint, written out from the method's tableau.

Loops over stages are unrolled and weights of 0 left out, so that the coefficients are constants of the code. The loops
in `kernels.stub` do the same and are easier to read; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..kernels.tableaux import Tableau
from . import emit

HEAD = ["ns = model[NS]", "length = load(h, 0)"]


def step(method: Tableau) -> list[str]:
    """Source of `attempt`, `complete`, `weigh` and `attempt_pullback`, and the method's constants."""
    return [_constants(method), _attempt(method), _complete(method), _weigh(method), _pullback(method)]


def _constants(method: Tableau) -> str:
    return f"STAGES, SLOTS, ERROR_ORDER = {method.stages}, {method.slots}, {method.error_order}"


def _at(array: str, stage: int, offset: str = "") -> str:
    """One lane vector of state ``i``: of a stage in ``array``."""
    first = f"{offset} + " if offset else ""
    return f"load({array}, ({first}{stage} * ns + i) * WIDTH)"


def _sum(terms: Iterable[tuple[str, float]]) -> str:
    return " + ".join(f"{text} * {float(weight)!r}" for text, weight in terms if weight != 0.0)


def _at_node(method: Tableau, s: int) -> str:
    return f"store(times, 0, load(t, 0) + length * {float(method.nodes[s])!r})"


def _stage(method: Tableau, s: int) -> list[str]:
    """Point and rates of stage ``s`` from those before it."""
    total = _sum((_at("k", j), method.matrix[s, j]) for j in range(s))
    return [
        "for i in range(ns):",
        f"    point = {_at('stages', 0, 'base')} + length * ({total})",
        f"    store(stages, (base + {s} * ns + i) * WIDTH, point)",
        _at_node(method, s),
        f"call(model[RATES], stages, base + {s} * ns, times, c, k, {s} * ns)",
    ]


def _attempt(method: Tableau) -> str:
    lines = [*HEAD, *(line for s in range(1, method.stages) for line in _stage(method, s))]
    last = _at("stages", method.stages - 1, "base")
    total = _sum((_at("k", s), method.error[s]) for s in range(method.stages))
    lines += [
        "scales = floats(model[SCALE], ns)",
        "square = splat(0.0)",
        "for i in range(ns):",
        f"    error = length * ({total}) * (1.0 / tol)",
        "    if scales[i] > 0.0:",
        f"        size = lane_max(lane_abs({_at('stages', 0, 'base')}), lane_abs({last}))",
        "        error = error * lane_inverse(size + scales[i])",
        "    square = square + error * error",
        "return square * (1.0 / float(ns))",
    ]
    return emit.function("attempt(model, stages, base, k, c, t, h, tol, times)", lines)


def _complete(method: Tableau) -> str:
    lines = [line for s in range(method.stages, method.slots) for line in _stage(method, s)]
    return emit.function("complete(model, stages, base, k, c, t, h, times)", [*HEAD, *lines] if lines else ["pass"])


def _weigh(method: Tableau) -> str:
    lines = []
    for s, weights in enumerate(method.dense):
        text = repr(float(weights[-1]))
        for weight in reversed(weights[:-1]):
            text = f"{float(weight)!r} + x * ({text})"
        lines.append(f"weights[{s}] = x * ({text})")
    return emit.function("weigh(x, weights)", lines)


def _pullback(method: Tableau) -> str:
    matrix, last = method.matrix, method.stages - 1
    extra = range(method.stages, method.slots)
    # a stage that only the error estimate uses owes nothing to anyone
    used = [s for s in range(last) if matrix[:, s].any() or method.dense[s].any()]

    def add(s: int, later: Sequence[int]) -> list[str]:
        """To the adjoint of the rates of stage ``s``, what later stages owe it."""
        total = _sum((_at("yb", r), matrix[r, s]) for r in later)
        if not total:
            return []
        return ["for i in range(ns):", f"    store(kb, ({s} * ns + i) * WIDTH, {_at('kb', s)} + length * ({total}))"]

    def pulled(s: int) -> list[str]:
        arguments = f"stages, base + {s} * ns, times, c, kb, {s} * ns, yb, {s} * ns, cb"
        return [_at_node(method, s), f"call(model[RATES_PULLBACK], {arguments})"]

    inside: list[str] = []
    for s in reversed(extra):
        inside += [*add(s, [r for r in extra if r > s]), *pulled(s)]
    inside += [*add(last, extra), *pulled(last)]
    inside += ["for i in range(ns):", f"    store(lam, i * WIDTH, load(lam, i * WIDTH) + {_at('yb', last)})"]
    for s in used:
        inside += add(s, extra)
    start = " + ".join(_at("yb", s) for s in extra)
    if start:
        inside += [
            "for i in range(ns):",
            f"    store(direct, i * WIDTH, load(direct, i * WIDTH) + {start})",
        ]
    lines = [*HEAD, "if touched:", *(f"    {line}" for line in inside)]
    for s in reversed(used):
        terms = [("load(lam, i * WIDTH)", matrix[last, s])]
        terms += [(_at("yb", r), matrix[r, s]) for r in used if r > s]
        lines += [
            "for i in range(ns):",
            f"    total = length * ({_sum(terms)})",
            "    if touched:",
            f"        total = total + {_at('kb', s)}",
            f"    store(kb, ({s} * ns + i) * WIDTH, total)",
            *pulled(s),
        ]
    total = " + ".join(["load(lam, i * WIDTH)", *(_at("yb", s) for s in used)])
    lines += [
        "for i in range(ns):",
        f"    total = {total}",
        "    if touched:",
        "        total = total + load(direct, i * WIDTH)",
        "    store(lam, i * WIDTH, total)",
    ]
    return emit.function(
        "attempt_pullback(model, stages, base, kb, yb, lam, direct, touched, c, cb, t, h, times)", lines
    )
