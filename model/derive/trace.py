"""A model's text, run on symbols, and what of it a purpose needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..equations.definition import OdeModel
from .algebra import Graph, Node, leaves, log, ordered, substitute
from .economy import economise


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


@dataclass(frozen=True)
class Needed:
    """What of a model a purpose needs; the rest is pruned.

    Attributes
    ----------
    graph, model
        Of the trace.
    states, held, parameters
        What survives.
    start
        States, then held values, at the start.
    coefficients
        What changes at events only.
    rates
        Of the states, with symbols ``c.k`` for the coefficients.
    jumps
        By event, the states and held values that it changes.
    reported
        Read-outs.
    observations
        Location and scale, by kind.
    """

    graph: Graph
    model: OdeModel
    states: tuple[str, ...]
    held: tuple[str, ...]
    parameters: tuple[str, ...]
    start: list[Node]
    coefficients: list[Node]
    rates: list[Node]
    jumps: dict[str, tuple[dict[str, Node], dict[str, Node]]]
    reported: dict[str, Node]
    observations: dict[str, tuple[Node, Node]]


def prune(trace: Trace, kinds: Sequence[str], readouts: Sequence[str] | None) -> Needed:
    """Keep what observations of these kinds and these read-outs (None: all) depend on."""
    observations = {k: trace.observations[k] for k in kinds}
    observed = [n for pair in observations.values() for n in pair]
    reported = trace.readouts if readouts is None else {name: trace.readouts[name] for name in readouts}
    needed = trace.needed([*observed, *reported.values()])
    states = tuple(s.name for s in trace.model.states if f"y.{s.name}" in needed)
    held = tuple(h for h in trace.model.held if f"h.{h}" in needed)
    rates, coefficients = _cut(trace.graph, economise([trace.rates[s] for s in states]))
    jumps = {
        name: ({s: v for s, v in changed.items() if s in states}, {h: v for h, v in kept.items() if h in held})
        for name, (changed, kept) in trace.events.items()
    }
    jumps = {name: changes for name, changes in jumps.items() if any(changes)}
    start = [trace.start_state[s] for s in states] + [trace.start_held[h] for h in held]
    everything = [*observed, *reported.values(), *coefficients, *start]
    everything += [v for pair in jumps.values() for part in pair for v in part.values()]
    return Needed(
        graph=trace.graph,
        model=trace.model,
        states=states,
        held=held,
        parameters=tuple(sorted(n[2:] for n in leaves(everything) if n.startswith("p."))),
        start=start,
        coefficients=coefficients,
        rates=rates,
        jumps=jumps,
        reported=reported,
        observations=observations,
    )


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
