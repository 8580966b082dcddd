"""The source code of a model's functions: values by `emit`, adjoints by `reverse`.

`kernels.interface` says what each function is for and lists its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..densities import DENSITIES, RESOLUTION, Family, interval
from ..equations.definition import State
from . import emit
from .algebra import Graph, Node
from .reverse import pullback
from .trace import Needed, Trace, prune

type Places = dict[str, emit.Slot | str]


def generate(
    trace: Trace, kinds: Sequence[str], readouts: Sequence[str] | None
) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Source of a model's functions, and the names of its arrays."""
    needed = prune(trace, kinds, readouts)
    names = {
        "states": needed.states,
        "held": needed.held,
        "parameters": needed.parameters,
        "events": tuple(needed.jumps),
        "kinds": tuple(needed.observations),
        "readouts": tuple(needed.reported),
    }
    sizes = [
        len(needed.states),
        len(needed.held),
        len(needed.parameters),
        len(needed.coefficients),
        len(needed.reported),
    ]
    scales = [_scale(needed.model.state(s)) for s in needed.states]
    head = [f"# {key}: {', '.join(value)}" for key, value in names.items()]
    head += [f"SIZES = {[max(size, 1) for size in sizes]}", f"SCALES = np.array({scales})"]
    writer = _Writer(needed)
    parts = [*writer.start(), *writer.coefficients(), *writer.rates(), *writer.jumps()]
    parts += [writer.readout(), *writer.observations()]
    return "\n\n\n".join(["\n".join(head), *parts]), names


def _scale(state: State) -> float:
    """What is added to a state's size before an error is compared with it; 0: the error is taken as it is."""
    return 0.0 if state.log else state.scale


def _function(header: str, lines: Sequence[str]) -> str:
    return emit.function(header, lines, decorator="@model_function")


def _places(names: Sequence[str], prefix: str, array: str, offset: str = "") -> Places:
    return {f"{prefix}.{n}": emit.Slot(array, i, offset) for i, n in enumerate(names)}


def _writes(array: str, values: Sequence[Node], offset: str = "") -> list[emit.Write]:
    return [emit.Write(emit.Slot(array, i, offset), v) for i, v in enumerate(values)]


def _adds(array: str, values: Sequence[Node]) -> list[emit.Write]:
    return [emit.Write(emit.Slot(array, i), v, accumulate=True) for i, v in enumerate(values)]


def _branches(selector: str, bodies: Iterable[Sequence[str]]) -> list[str]:
    """One branch for each code; nothing happens for a negative one."""
    lines = [f"if {selector} < 0:", "    return"]
    for code, body in enumerate(bodies):
        lines += [f"elif {selector} == {code}:", *(f"    {line}" for line in body)]
    return lines


class _Writer:
    """Functions of one pruned model; each method gives a function and, where there is one, its pullback."""

    def __init__(self, needed: Needed) -> None:
        self.needed, self.graph = needed, needed.graph
        self.numbers = [str(k) for k in range(len(needed.coefficients))]
        self.y = [f"y.{s}" for s in needed.states]
        self.h = [f"h.{h}" for h in needed.held]
        self.p = [f"p.{p}" for p in needed.parameters]
        self.bars = _places(needed.states, "yb", "yb") | _places(needed.held, "hb", "hb")
        self.at: Places = {"t": "t"}
        self.at |= _places(needed.states, "y", "y") | _places(needed.held, "h", "h")
        self.at |= _places(needed.parameters, "p", "p")

    def _seeds(self, names: Sequence[str], prefix: str) -> list[Node]:
        return [self.graph.leaf(f"{prefix}.{n}") for n in names]

    def _state_seeds(self) -> list[Node]:
        return self._seeds(self.needed.states, "yb") + self._seeds(self.needed.held, "hb")

    def _scalar(self, writes: Sequence[emit.Write], more: Places | None = None) -> list[str]:
        return emit.body(emit.SCALAR, self.at | (more or {}), writes)

    def _back(self, roots: Sequence[Node], seeds: Sequence[Node], places: Places) -> list[str]:
        """Pullback to states and held values (written) and to parameters (added)."""
        back = pullback(list(roots), list(seeds), self.y + self.h + self.p)
        n, m = len(self.y), len(self.y) + len(self.h)
        return self._scalar(_writes("yb", back[:n]) + _writes("hb", back[n:m]) + _adds("pb", back[m:]), places)

    def start(self) -> tuple[str, str]:
        """State and held values at the start."""
        begin, n = self.needed.start, len(self.needed.states)
        back = pullback(begin, self._state_seeds(), self.p) if begin else []
        return (
            _function("start(y, h, p)", self._scalar(_writes("y", begin[:n]) + _writes("h", begin[n:]))),
            _function("start_pullback(p, yb, hb, pb)", self._scalar(_adds("pb", back), self.bars)),
        )

    def coefficients(self) -> tuple[str, str]:
        """What stays constant between events."""
        values, n = self.needed.coefficients, len(self.h)
        back = pullback(values, self._seeds(self.numbers, "cb"), self.h + self.p) if values else []
        adds = _adds("hb", back[:n]) + _adds("pb", back[n:])
        return (
            _function("prepare(h, p, c)", self._scalar(_writes("c", values))),
            _function("prepare_pullback(h, p, cb, hb, pb)", self._scalar(adds, _places(self.numbers, "cb", "cb"))),
        )

    def rates(self) -> tuple[str, str]:
        """Time derivatives, in lanes."""
        states, n = self.needed.states, len(self.needed.states)
        at: Places = {"t": emit.Slot("t", 0)}
        at |= _places(states, "y", "y", "oy") | _places(self.numbers, "c", "c") | _places(states, "db", "db", "odb")
        back = pullback(self.needed.rates, self._seeds(states, "db"), self.y + [f"c.{k}" for k in self.numbers])
        lines = emit.body(emit.LANES, at, _writes("yb", back[:n], "oyb") + _adds("cb", back[n:]))
        return (
            _function("rates(y, oy, t, c, d, od)", emit.body(emit.LANES, at, _writes("d", self.needed.rates, "od"))),
            _function("rates_pullback(y, oy, t, c, db, odb, yb, oyb, cb)", lines),
        )

    def jumps(self) -> tuple[str, str]:
        """Events."""
        states, held = self.needed.states, self.needed.held
        forward, reverse = [], []
        for changed, kept in self.needed.jumps.values():
            outs = [emit.Write(emit.Slot("y", states.index(s)), v) for s, v in changed.items()]
            outs += [emit.Write(emit.Slot("h", held.index(h)), v) for h, v in kept.items()]
            forward.append(self._scalar(outs))
            after = [changed.get(s, self.graph.leaf(f"y.{s}")) for s in states]
            after += [kept.get(h, self.graph.leaf(f"h.{h}")) for h in held]
            reverse.append(self._back(after, self._state_seeds(), self.bars))
        return (
            _function("jump(code, y, h, p)", _branches("code", forward)),
            _function("jump_pullback(code, y, h, p, yb, hb, pb)", _branches("code", reverse)),
        )

    def readout(self) -> str:
        """What simulations report."""
        lines = self._scalar(_writes("out", list(self.needed.reported.values())))
        return _function("readout(t, y, h, p, out)", lines)

    def observations(self) -> tuple[str, str]:
        """Location and scale of what is observed."""
        seeds, places = self._seeds(("0", "1"), "ob"), _places(("0", "1"), "ob", "ob")
        pairs = self.needed.observations.values()
        forward = [self._scalar(_writes("out", pair)) for pair in pairs]
        reverse = [self._back(pair, seeds, places) for pair in pairs]
        return (
            _function("observe(kind, t, y, h, p, out)", _branches("kind", forward)),
            _function("observe_pullback(kind, t, y, h, p, ob, yb, hb, pb)", _branches("kind", reverse)),
        )


def density() -> str:
    """Log density of an observation by family, with its derivatives by location and scale."""
    g = Graph()
    location, scale, value, width = g.leaf("a"), g.leaf("b"), g.leaf("value"), g.leaf("width")
    lines = ["result = -np.inf"]
    for family, equation in DENSITIES.items():
        lines.append(f"{'if' if family == 0 else 'elif'} family == {int(family)}:")
        lines += _with_derivatives(g, g.lift(equation(location, scale, value)))
    lines += [
        f"elif family > {int(Family.INTERVAL)}:",
        f"    width = (family - {int(Family.INTERVAL)}) * {RESOLUTION!r}",
    ]
    lines += _with_derivatives(g, g.lift(interval(location, scale, value, width)))
    return emit.function("density(family, value, out, ob)", [*lines, "return result"])


def _with_derivatives(g: Graph, result: Node) -> list[str]:
    """Body of a branch of `density`."""
    bars = pullback([result], [g.constant(1.0)], ["a", "b"])
    places: Places = {"a": emit.Slot("out", 0), "b": emit.Slot("out", 1), "value": "value", "width": "width"}
    outputs = [emit.Write(emit.Slot("ob", i), b) for i, b in enumerate(bars)]
    outputs.append(emit.Write(emit.Slot("lp", 0), result))
    body = emit.body(emit.SCALAR, places, outputs)
    return [f"    {line.replace('lp[0] =', 'result =')}" for line in body]
