"""From a model's text to a module of kernels: trace, prune, differentiate, write a real file, import it.

The file holds the model's generated functions and, below them, the text of `kernels.driver`. Its name carries
a digest of everything that it depends on, so a changed model is another file: nothing stale can be loaded,
and two models never share a name. Numba's cache lies beside it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import numpy as np

from ..densities import DENSITIES
from ..equations.definition import OdeModel
from . import emit
from .algebra import Graph, Node, leaves, log, ordered, substitute
from .reverse import pullback

KERNELS = Path(__file__).parents[1] / "kernels"
MARKER = "# ---- everything below this line is copied under a model's generated functions ----\n"
ENTRY_MARKER = "# ---- everything below this line is copied only where there is a likelihood ----\n"


@dataclass(frozen=True)
class Kernel:
    """A model compiled for a purpose.

    Attributes
    ----------
    states, held, parameters
        What survived pruning, in the order of the arrays ``y``, ``h``, ``theta``.
    events, kinds, readouts
        Names whose position is the code (``events``, ``kinds``) or the column (``readouts``).
    module
        The compiled functions ``loglik_grad`` and ``simulate`` (see `kernels.driver`).
    """

    name: str
    states: tuple[str, ...]
    held: tuple[str, ...]
    parameters: tuple[str, ...]
    events: tuple[str, ...]
    kinds: tuple[str, ...]
    readouts: tuple[str, ...]
    module: ModuleType


class _Symbols:
    """A namespace whose attributes are symbols, or the numbers given in ``fixed``."""

    def __init__(self, make: Callable[[str], Any], fixed: Mapping[str, float]) -> None:
        self._make, self._fixed = make, fixed

    def __getattr__(self, name: str) -> Any:
        return self._fixed[name] if name in self._fixed else self._make(name)


class Trace:
    """A model run on symbols: its rates, start, events, read-outs and observations as graphs."""

    def __init__(self, model: OdeModel, fixed: Mapping[str, float]) -> None:
        self.model, self.graph = model, Graph()
        graph = self.graph
        known_states = {s.name for s in model.states}

        def state(name: str) -> Node:
            if name not in known_states:
                known = ", ".join(sorted(known_states))
                raise AttributeError(f"model {model.name!r} has no state {name!r}; it has {known}")
            leaf = graph.leaf(f"y.{name}")
            return graph.apply("exp", leaf) if model.state(name).log else leaf

        def held(name: str) -> Node:
            if name not in model.held:
                known = ", ".join(sorted(model.held))
                raise AttributeError(f"model {model.name!r} holds no value {name!r}; it holds {known}")
            return graph.leaf(f"h.{name}")

        y, h = _Symbols(state, {}), _Symbols(held, {})
        p = _Symbols(lambda name: graph.leaf(f"p.{name}"), fixed)
        t = graph.leaf("t")
        values, held_values = model.start(p)
        self.start_state = {s: self._stored(s, v) for s, v in values.items()}
        self.start_held = self._lifted(held_values)
        self.rates = self._lifted(model.rates(t, y, h, p))
        self.events: dict[str, tuple[dict[str, Node], dict[str, Node]]] = {}
        for name, event in model.events.items():
            states, changed = event(y, h, p)
            self.events[name] = ({s: self._stored(s, v) for s, v in states.items()}, self._lifted(changed))
        self.readouts = self._lifted(model.readouts(t, y, h, p))
        self.observations = {k: (graph.lift(a), graph.lift(b)) for k, (a, b) in model.observations(t, y, h, p).items()}

    def _lifted(self, values: Mapping[str, Any]) -> dict[str, Node]:
        return {k: self.graph.lift(v) for k, v in values.items()}

    def _stored(self, name: str, value: Any) -> Node:
        node = self.graph.lift(value)
        stored: Node = log(node) if self.model.state(name).log else node
        return stored

    def needed(self, roots: Iterable[Node]) -> set[str]:
        """Names of the states and held values that the roots depend on, over time and through events."""
        wanted: set[str] = set()
        frontier = list(roots)
        while frontier:
            found = {n for n in leaves(frontier) if n[0] in "yh"} - wanted
            wanted |= found
            frontier = []
            for full in found:
                place, name = full.split(".", 1)
                if place == "y":
                    frontier.append(self.rates[name])
                for states, held in self.events.values():
                    changed = states if place == "y" else held
                    if name in changed:
                        frontier.append(changed[name])
        return wanted


def _cut(graph: Graph, roots: list[Node]) -> tuple[list[Node], list[Node]]:
    """Replace the largest pieces that change only at events by symbols ``c.k``; returns roots and pieces."""
    nodes = ordered(roots)
    moving: set[int] = set()
    for node in nodes:
        if node.op == "leaf" and (node.name == "t" or node.name.startswith("y.")):
            moving.add(node.index)
        elif any(a.index in moving for a in node.args):
            moving.add(node.index)
    boundary: dict[int, Node] = {}
    for node in [*(n for n in nodes if n.index in moving)]:
        for a in node.args:
            if a.index not in moving and a.op != "const":
                boundary[a.index] = a
    for root in roots:
        if root.index not in moving and root.op != "const":
            boundary[root.index] = root
    coefficients = list(boundary.values())
    table = {node.index: graph.leaf(f"c.{k}") for k, node in enumerate(coefficients)}
    return substitute(roots, table), coefficients


def _places(names: Sequence[str], prefix: str, array: str, offset: str = "") -> dict[str, emit.Slot | str]:
    return {f"{prefix}.{n}": emit.Slot(array, i, offset) for i, n in enumerate(names)}


def generate(
    trace: Trace, kinds: Sequence[str], readouts: Sequence[str] | None
) -> tuple[str, dict[str, tuple[str, ...]]]:
    """Source of a model's functions (`kernels.stub` says what each is for), and the names of its arrays."""
    g, model = trace.graph, trace.model
    observed = [n for k in kinds for n in trace.observations[k]]
    reported = trace.readouts if readouts is None else {name: trace.readouts[name] for name in readouts}
    needed = trace.needed([*observed, *reported.values()])
    states = tuple(s.name for s in model.states if f"y.{s.name}" in needed)
    held = tuple(h for h in model.held if f"h.{h}" in needed)
    rates, coefficients = _cut(g, [trace.rates[s] for s in states])

    jumps: dict[str, tuple[dict[str, Node], dict[str, Node]]] = {}
    for name, (changed, changed_held) in trace.events.items():
        jumps[name] = (
            {s: v for s, v in changed.items() if s in states},
            {h: v for h, v in changed_held.items() if h in held},
        )
    everything = [*observed, *reported.values(), *coefficients]
    everything += [trace.start_state[s] for s in states] + [trace.start_held[h] for h in held]
    everything += [v for pair in jumps.values() for part in pair for v in part.values()]
    parameters = tuple(sorted(n[2:] for n in leaves(everything) if n.startswith("p.")))

    y_names, h_names, p_names = (
        [f"y.{s}" for s in states],
        [f"h.{h}" for h in held],
        [f"p.{p}" for p in parameters],
    )
    c_names = [f"c.{k}" for k in range(len(coefficients))]
    at: dict[str, emit.Slot | str] = {"t": "t"}
    at |= _places(states, "y", "y") | _places(held, "h", "h") | _places(parameters, "p", "p")
    lane_at: dict[str, emit.Slot | str] = {"t": "t"}
    lane_at |= _places(states, "y", "y", "oy") | _places([str(k) for k in range(len(coefficients))], "c", "c")
    lane_at |= _places(states, "db", "db", "odb")

    def seeds(names: Sequence[str], prefix: str) -> list[Node]:
        return [g.leaf(f"{prefix}.{n}") for n in names]

    def adjoints(array: str, values: Sequence[Node], accumulate: bool, offset: str = "") -> list[emit.Write]:
        return [emit.Write(emit.Slot(array, i, offset), v, accumulate) for i, v in enumerate(values)]

    def writes(array: str, values: Sequence[Node], offset: str = "") -> list[emit.Write]:
        return adjoints(array, values, False, offset)

    scalar, lanes = emit.SCALAR, emit.LANES
    text: list[str] = []

    # start
    begin = [trace.start_state[s] for s in states] + [trace.start_held[h] for h in held]
    text.append(
        emit.function(
            "start(y, h, p)",
            emit.body(scalar, at, writes("y", begin[: len(states)]) + writes("h", begin[len(states) :])),
        )
    )
    back = pullback(begin, seeds(states, "yb") + seeds(held, "hb"), p_names) if begin else []
    bars = _places(states, "yb", "yb") | _places(held, "hb", "hb")
    text.append(
        emit.function("start_pullback(p, yb, hb, pb)", emit.body(scalar, at | bars, adjoints("pb", back, True)))
    )

    # coefficients
    text.append(emit.function("prepare(h, p, c)", emit.body(scalar, at, writes("c", coefficients))))
    numbers = [str(k) for k in range(len(coefficients))]
    back = pullback(coefficients, seeds(numbers, "cb"), h_names + p_names) if coefficients else []
    lines = emit.body(
        scalar,
        at | _places(numbers, "cb", "cb"),
        adjoints("hb", back[: len(held)], True) + adjoints("pb", back[len(held) :], True),
    )
    text.append(emit.function("prepare_pullback(h, p, cb, hb, pb)", lines))

    # rates, in lanes
    text.append(emit.function("rates(y, oy, t, c, d, od)", emit.body(lanes, lane_at, writes("d", rates, "od"))))
    back = pullback(rates, seeds(states, "db"), y_names + c_names)
    lines = emit.body(
        lanes,
        lane_at,
        writes("yb", back[: len(states)], "oyb") + adjoints("cb", back[len(states) :], True),
    )
    text.append(emit.function("rates_pullback(y, oy, t, c, db, odb, yb, oyb, cb)", lines))

    # events
    forward, reverse = ["if code < 0:", "    return"], ["if code < 0:", "    return"]
    for code, (changed, changed_held) in enumerate(jumps.values()):
        outs = [emit.Write(emit.Slot("y", states.index(s)), v) for s, v in changed.items()] + [
            emit.Write(emit.Slot("h", held.index(h)), v) for h, v in changed_held.items()
        ]
        forward += [f"elif code == {code}:", *(f"    {line}" for line in emit.body(scalar, at, outs))]
        after = [changed.get(s, g.leaf(f"y.{s}")) for s in states] + [
            changed_held.get(h, g.leaf(f"h.{h}")) for h in held
        ]
        back = pullback(after, seeds(states, "yb") + seeds(held, "hb"), y_names + h_names + p_names)
        n, m = len(states), len(states) + len(held)
        lines = emit.body(
            scalar,
            at | bars,
            writes("yb", back[:n]) + writes("hb", back[n:m]) + adjoints("pb", back[m:], True),
        )
        reverse += [f"elif code == {code}:", *(f"    {line}" for line in lines)]
    text.append(emit.function("jump(code, y, h, p)", forward))
    text.append(emit.function("jump_pullback(code, y, h, p, yb, hb, pb)", reverse))

    # what is reported and observed
    text.append(
        emit.function("readout(t, y, h, p, out)", emit.body(scalar, at, writes("out", list(reported.values()))))
    )
    forward, reverse = ["if kind < 0:", "    return"], ["if kind < 0:", "    return"]
    seeded = {"ob.0": emit.Slot("ob", 0), "ob.1": emit.Slot("ob", 1)}
    for code, kind in enumerate(kinds):
        pair = list(trace.observations[kind])
        forward += [
            f"elif kind == {code}:",
            *(f"    {line}" for line in emit.body(scalar, at, writes("out", pair))),
        ]
        back = pullback(pair, [g.leaf("ob.0"), g.leaf("ob.1")], y_names + h_names + p_names)
        n, m = len(states), len(states) + len(held)
        lines = emit.body(
            scalar,
            at | seeded,
            writes("yb", back[:n]) + writes("hb", back[n:m]) + adjoints("pb", back[m:], True),
        )
        reverse += [f"elif kind == {code}:", *(f"    {line}" for line in lines)]
    text.append(emit.function("observe(kind, t, y, h, p, out)", forward))
    text.append(emit.function("observe_pullback(kind, t, y, h, p, ob, yb, hb, pb)", reverse))
    text.append(_density_source())

    sizes = {
        "NS": len(states),
        "NH": max(len(held), 1),
        "NT": len(parameters),
        "NC": max(len(coefficients), 1),
    }
    sizes["NR"] = max(len(reported), 1)
    constants = [f"{name} = {value}" for name, value in sizes.items()]
    scaled = [0.0 if model.state(s).log else 1.0 for s in states]
    constants.append(f"VALUE_SCALED = np.array({scaled})")
    names = {
        "states": states,
        "held": held,
        "parameters": parameters,
        "events": tuple(jumps),
        "kinds": tuple(kinds),
    }
    names["readouts"] = tuple(reported)
    comment = [f"# {key}: {', '.join(value)}" for key, value in names.items()]
    return "\n\n\n".join(["\n".join([*comment, *constants]), *text]), names


def _density_source() -> str:
    g = Graph()
    location, scale, value = g.leaf("a"), g.leaf("b"), g.leaf("value")
    lines = ["result = -np.inf"]
    for family, equation in DENSITIES.items():
        result = g.lift(equation(location, scale, value))
        one = g.constant(1.0)
        bars = pullback([result], [one], ["a", "b"])
        places: dict[str, emit.Slot | str] = {
            "a": emit.Slot("out", 0),
            "b": emit.Slot("out", 1),
            "value": "value",
        }
        outputs = [emit.Write(emit.Slot("ob", i), b) for i, b in enumerate(bars)]
        outputs.append(emit.Write(emit.Slot("lp", 0), result))
        body = [line.replace("lp[0] =", "result =") for line in emit.body(emit.SCALAR, places, outputs)]
        lines += [
            f"{'if' if family == 0 else 'elif'} family == {int(family)}:",
            *(f"    {line}" for line in body),
        ]
    return emit.function("density(family, value, out, ob)", [*lines, "return result"])


HEADER = '''"""Generated by reinfuse from the equations of model {name!r}; do not edit. Digest {digest}."""

# mypy: ignore-errors

from typing import Any

import numpy as np
from numba import carray, cfunc, prange

from reinfuse.model.kernels.lanes import (
    LOGLIK_SIGNATURE, WIDTH, address, lane_abs, lane_exp, lane_log, lane_max, lane_min, lane_where_less,
    load, splat, store,
)
from reinfuse.model.kernels.policy import kernel, parallel_kernel
from reinfuse.model.kernels.tableaux import DENSE, ERROR, MATRIX, NODES, STAGES

'''

_LOADED: dict[str, ModuleType] = {}


def _folder() -> Path:
    """Where generated files live: beside the kernels if writable, else in a cache or temporary folder."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    candidates = [
        KERNELS / "generated",
        Path(home) / "reinfuse",
        Path(tempfile.gettempdir()) / f"reinfuse-{os.getuid()}",
    ]
    if named := os.environ.get("REINFUSE_CACHE"):
        candidates.insert(0, Path(named))
    for folder in candidates:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    tried = ", ".join(map(str, candidates))
    raise OSError(f"no writable folder for compiled models: tried {tried}; set REINFUSE_CACHE")


def _import(name: str, source: str, likelihood: bool) -> ModuleType:
    driver, entry = (KERNELS / "driver.py").read_text(encoding="utf-8").split(MARKER, 1)[1].split(ENTRY_MARKER)
    driver += entry if likelihood and not numba.config.DISABLE_JIT else ""  # a C function is always compiled
    parts = [HEADER, source, driver, numba.__version__, np.__version__]
    parts += [(KERNELS / f"{part}.py").read_text(encoding="utf-8") for part in ("lanes", "policy", "tableaux")]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    module_name = f"{name}_{digest}"
    if module_name in _LOADED:
        return _LOADED[module_name]
    path = _folder() / f"{module_name}.py"
    if not path.exists():
        text = HEADER.format(name=name, digest=digest) + source + "\n\n\n" + driver
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
            file.write(text)
        os.replace(file.name, path)  # atomic: two processes may build at once
    spec = importlib.util.spec_from_file_location(f"reinfuse_generated.{module_name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import the generated model {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    _LOADED[module_name] = module
    return module


def build(
    model: OdeModel,
    *,
    fixed: Mapping[str, float] | None = None,
    kinds: Sequence[str] = (),
    readouts: Sequence[str] | None = None,
) -> Kernel:
    """Compile a model for a purpose; what the purpose does not need is pruned.

    Parameters
    ----------
    model
        The text.
    fixed
        Parameters that are numbers in this kernel; a mechanism whose rate is fixed at 0 vanishes.
    kinds
        Observation kinds of the likelihood.
    readouts
        What simulations report; None: everything, with all states. A shorter list prunes what it does not
        need.

    Returns
    -------
    Kernel
    """
    trace = Trace(model, fixed or {})
    unknown = [k for k in kinds if k not in trace.observations]
    if unknown:
        raise ValueError(f"model {model.name!r} has no observation {unknown}; it has {sorted(trace.observations)}")
    source, names = generate(trace, kinds, readouts)
    return Kernel(name=model.name, module=_import(model.name, source, bool(kinds)), **names)
