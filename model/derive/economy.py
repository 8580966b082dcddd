"""Cheaper expressions of the same value: the passes that rates go through before they become lanes.

A division costs as much as eight multiplications, and its adjoint costs another. So every quotient becomes a product
with a reciprocal: one reciprocal serves all quotients by the same denominator and their adjoints, one that changes only
at events is hoisted out of the rates, and lanes compute it without dividing (`kernels.lanes.lane_inverse`). An
exponential costs five multiplications more than a reciprocal: ratios such as exp(a - b) are made of ratios that are
there already.
"""

from __future__ import annotations

from collections.abc import Sequence

from .algebra import Node, ordered


def economise(roots: Sequence[Node]) -> list[Node]:
    """The same values, with reciprocals for quotients and products for exponentials where they serve."""
    made: dict[int, Node] = {}
    ratios = _Ratios()
    for node in ordered(roots):
        graph, args = node.graph, [made[a.index] for a in node.args]
        if node.op == "div":
            new = args[0] * graph.apply("inv", args[1])
        elif node.op == "exp" and args[0].op == "sub":
            new = ratios.exp(args[0])
        else:
            new = graph.apply(node.op, *args) if args else node
        made[node.index] = new
    return [made[root.index] for root in roots]


class _Ratios:
    """Exponentials of differences: exp(b - a) is 1 / exp(a - b), and exp(a - c) is exp(a - b) exp(b - c)."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Node] = {}

    def exp(self, difference: Node) -> Node:
        """The exponential of a node that subtracts."""
        graph, (high, low) = difference.graph, (a.index for a in difference.args)
        found = self._get(high, low)
        if found is None:
            found = self._through(high, low)
            found = graph.apply("exp", difference) if found is None else found
            self._known[high, low] = found
        return found

    def _through(self, high: int, low: int) -> Node | None:
        for middle in sorted({i for pair in self._known for i in pair}):
            upper, lower = self._get(high, middle), self._get(middle, low)
            if upper is not None and lower is not None:
                return upper * lower
        return None

    def _get(self, high: int, low: int) -> Node | None:
        if (high, low) in self._known:
            return self._known[high, low]
        opposite = self._known.get((low, high))
        return None if opposite is None else opposite.graph.apply("inv", opposite)
