"""Expressions: the equations of a model, run on symbols instead of numbers, leave a graph behind.

A model is written once, as plain Python functions of its states and parameters. Run on floats or NumPy arrays
they give numbers (the slow, readable twin of the kernels). Run on `Node` objects they record what was
computed; from that record `reverse` makes exact derivatives and `emit` makes source code for the kernels. The
functions `exp`, `log`, `expit`, `maximum` and `step_up` below work on all three.

Nodes are hash-consed: the same expression is the same object, so common subexpressions are found for free.
The few simplifications are those that matter here: constants fold, zeros and ones vanish (which is what
prunes a switched-off mechanism out of a kernel), and ``exp(a) / exp(b)`` becomes ``exp(a - b)``, which cannot
overflow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Union

import numpy as np

Scalar = Union["Node", float, Any]

COMMUTATIVE = frozenset({"add", "mul"})
BRANCHED = "an equation branched on a symbol: use `maximum` or `step_up` instead of `if`, `==`, `min` or `max`"


class Graph:
    """The store of nodes of one trace; makes, simplifies and shares them."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[Any, ...], Node] = {}

    def _new(self, op: str, args: tuple[Node, ...] = (), value: float = 0.0, name: str = "") -> Node:
        if op in COMMUTATIVE and args[0].index > args[1].index:
            args = (args[1], args[0])
        key = (op, tuple(a.index for a in args), value, name)
        node = self._nodes.get(key)
        if node is None:
            node = Node(self, len(self._nodes), op, args, value, name)
            self._nodes[key] = node
        return node

    def constant(self, value: float) -> Node:
        """A number."""
        return self._new("const", value=float(value))

    def leaf(self, name: str) -> Node:
        """A symbol: a state, a parameter, the time, or the seed of an adjoint."""
        return self._new("leaf", name=name)

    def lift(self, x: Scalar) -> Node:
        """Make a node of a number; pass a node through."""
        return x if isinstance(x, Node) else self.constant(float(x))

    def apply(self, op: str, *args: Node) -> Node:
        """Apply an operation, simplified."""
        if all(a.op == "const" for a in args):
            return self.constant(EVALUATE[op](*(a.value for a in args)))
        rule = SIMPLIFY.get(op)
        simple: Node | None = rule(self, *args) if rule else None
        return simple if simple is not None else self._new(op, args)


class Node:
    """One value in a graph. Behaves like a number under ``+ - * / **`` and unary minus."""

    __slots__ = ("args", "graph", "index", "name", "op", "value")

    def __init__(self, graph: Graph, index: int, op: str, args: tuple[Node, ...], value: float, name: str) -> None:
        self.graph, self.index, self.op = graph, index, op
        self.args, self.value, self.name = args, value, name

    def __repr__(self) -> str:
        inside = self.name or (repr(self.value) if self.op == "const" else ", ".join(map(repr, self.args)))
        return f"{self.op}({inside})"

    def is_constant(self, value: float) -> bool:
        """Whether this node is the number ``value``."""
        return self.op == "const" and self.value == value

    def _with(self, op: str, other: Scalar, swapped: bool = False) -> Node:
        b = self.graph.lift(other)
        return self.graph.apply(op, b, self) if swapped else self.graph.apply(op, self, b)

    def __add__(self, other: Scalar) -> Node:
        return self._with("add", other)

    def __sub__(self, other: Scalar) -> Node:
        return self._with("sub", other)

    def __mul__(self, other: Scalar) -> Node:
        return self._with("mul", other)

    def __truediv__(self, other: Scalar) -> Node:
        return self._with("div", other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Scalar) -> Node:
        return self._with("sub", other, swapped=True)

    def __rtruediv__(self, other: Scalar) -> Node:
        return self._with("div", other, swapped=True)

    def __neg__(self) -> Node:
        return self.graph.apply("neg", self)

    def __pow__(self, power: Scalar) -> Node:
        if isinstance(power, int) and 1 <= power <= 8:
            result: Node = self
            for _ in range(power - 1):
                result = result * self
        else:
            result = exp(log(self) * power)
        return result

    def __bool__(self) -> bool:
        raise TypeError(BRANCHED)

    def __eq__(self, other: object) -> bool:
        raise TypeError(BRANCHED)

    __hash__ = object.__hash__


def exp(x: Scalar) -> Any:
    """Exponential of a node, number or array."""
    return x.graph.apply("exp", x) if isinstance(x, Node) else np.exp(x)


def log(x: Scalar) -> Any:
    """Natural logarithm of a node, number or array."""
    return x.graph.apply("log", x) if isinstance(x, Node) else np.log(x)


def expit(x: Scalar) -> Any:
    """Logistic function ``1 / (1 + exp(-x))``."""
    return 1.0 / (1.0 + exp(-x))


def maximum(x: Scalar, floor: float) -> Any:
    """The larger of ``x`` and a number; its derivative is that of whichever is larger."""
    return x.graph.apply("max", x, x.graph.constant(floor)) if isinstance(x, Node) else np.maximum(x, floor)


def step_up(x: Scalar) -> Any:
    """1 where ``x > 0``, else 0; its derivative is taken as 0."""
    return x.graph.apply("gt0", x) if isinstance(x, Node) else np.where(np.asarray(x) > 0, 1.0, 0.0)[()]


EVALUATE: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "inv": lambda a: 1.0 / a,
    "exp": math.exp,
    "log": math.log,
    "max": max,
    "gt0": lambda a: 1.0 if a > 0 else 0.0,
}


def _add(g: Graph, a: Node, b: Node) -> Node | None:
    if a.is_constant(0.0):
        return b
    if b.is_constant(0.0):
        return a
    if b.op == "neg":
        return g.apply("sub", a, b.args[0])
    if a.op == "neg":
        return g.apply("sub", b, a.args[0])
    return None


def _sub(g: Graph, a: Node, b: Node) -> Node | None:
    if b.is_constant(0.0):
        return a
    if a.is_constant(0.0):
        return g.apply("neg", b)
    if a is b:
        return g.constant(0.0)
    if b.op == "neg":
        return g.apply("add", a, b.args[0])
    return None


def _mul(g: Graph, a: Node, b: Node) -> Node | None:
    for x, y in ((a, b), (b, a)):
        if x.is_constant(0.0):
            return x
        if x.is_constant(1.0):
            return y
        if x.is_constant(-1.0):
            return g.apply("neg", y)
        if x.op == "neg":
            return g.apply("neg", g.apply("mul", x.args[0], y))
    return None


def _div(g: Graph, a: Node, b: Node) -> Node | None:
    if b.is_constant(1.0) or a.is_constant(0.0):
        return a
    if a.op == "exp" and b.op == "exp":
        return g.apply("exp", g.apply("sub", a.args[0], b.args[0]))
    if a.op == "neg":
        return g.apply("neg", g.apply("div", a.args[0], b))
    return None


def _neg(g: Graph, a: Node) -> Node | None:
    if a.op == "neg":
        return a.args[0]
    return g.apply("sub", a.args[1], a.args[0]) if a.op == "sub" else None


def _log(g: Graph, a: Node) -> Node | None:
    if a.op == "exp":
        return a.args[0]
    if a.op == "mul":  # the logarithm of a state times a factor: exp may underflow, its logarithm need not
        for x, y in (a.args, a.args[::-1]):
            if x.op == "exp":
                return g.apply("add", x.args[0], g.apply("log", y))
    return None


SIMPLIFY: dict[str, Any] = {"add": _add, "sub": _sub, "mul": _mul, "div": _div, "neg": _neg, "log": _log}


def ordered(roots: Iterable[Node]) -> list[Node]:
    """All nodes that the roots need, each after its arguments."""
    seen: set[int] = set()
    result: list[Node] = []
    stack: list[tuple[Node, Iterator[Node]]] = []
    for root in roots:
        if root.index in seen:
            continue
        seen.add(root.index)
        stack.append((root, iter(root.args)))
        while stack:
            node, arguments = stack[-1]
            for child in arguments:
                if child.index not in seen:
                    seen.add(child.index)
                    stack.append((child, iter(child.args)))
                    break
            else:
                stack.pop()
                result.append(node)
    return result


def leaves(roots: Iterable[Node]) -> set[str]:
    """Names of the symbols that the roots depend on."""
    return {n.name for n in ordered(roots) if n.op == "leaf"}


def substitute(roots: list[Node], table: dict[int, Node]) -> list[Node]:
    """The roots with some nodes (by index) replaced; all between is built anew and simplified again."""
    made: dict[int, Node] = dict(table)
    for node in ordered(roots):
        if node.index not in made:
            args = tuple(made[a.index] for a in node.args)
            made[node.index] = node.graph.apply(node.op, *args) if args else node
    return [made[r.index] for r in roots]
