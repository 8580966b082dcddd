"""Reverse-mode differentiation on a graph: exact adjoints, as graphs again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .algebra import Graph, Node, ordered


def _div_pullback(g: Graph, node: Node, seed: Node) -> tuple[Node, Node]:
    a = g.apply("div", seed, node.args[1])
    return a, -(a * node)


# For each operation: from the adjoint of the result to the adjoints of the arguments.
PULLBACK: dict[str, Callable[[Graph, Node, Node], tuple[Node, ...]]] = {
    "add": lambda g, n, s: (s, s),
    "sub": lambda g, n, s: (s, -s),
    "mul": lambda g, n, s: (s * n.args[1], s * n.args[0]),
    "div": _div_pullback,
    "neg": lambda g, n, s: (-s,),
    "inv": lambda g, n, s: (-(s * (n * n)),),
    "exp": lambda g, n, s: (s * n,),
    "log": lambda g, n, s: (s / n.args[0],),
    "max": lambda g, n, s: (s * g.apply("gt0", n.args[0] - n.args[1]), g.constant(0.0)),
    "gt0": lambda g, n, s: (g.constant(0.0),),
}


def pullback(outputs: Sequence[Node], seeds: Sequence[Node], wanted: Sequence[str]) -> list[Node]:
    """Adjoints of the wanted symbols: the product of the seeds with the Jacobian of the outputs.

    Parameters
    ----------
    outputs, seeds
        The traced values and, one each, the symbols (or values) of their adjoints; all of one graph.
    wanted
        Names of leaves.

    Returns
    -------
    list of Node
        One per wanted name; the constant 0 where the outputs do not depend on it.
    """
    graph = seeds[0].graph
    adjoint: dict[int, Node] = {}

    def accumulate(node: Node, value: Node) -> None:
        if not value.is_constant(0.0):
            adjoint[node.index] = adjoint[node.index] + value if node.index in adjoint else value

    for output, seed in zip(outputs, seeds, strict=True):
        accumulate(output, seed)
    result: dict[str, Node] = {}
    for node in reversed(ordered(outputs)):
        seed_of_node = adjoint.get(node.index)
        if seed_of_node is None:
            continue
        if node.op == "leaf":
            result[node.name] = seed_of_node
        elif node.op != "const":
            for argument, value in zip(node.args, PULLBACK[node.op](graph, node, seed_of_node), strict=True):
                accumulate(argument, value)
    zero = graph.constant(0.0)
    return [result.get(name, zero) for name in wanted]
