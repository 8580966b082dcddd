"""From graphs to straight-line source code, for floats or for lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .algebra import Node, ordered

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True)
class Dialect:
    """How a kind of number is read, written and passed to functions in the generated source."""

    load: str
    store: str
    accumulate: str
    functions: Mapping[str, str]
    constant: str


SCALAR = Dialect(
    load="{array}[{index}]",
    store="{array}[{index}] = {value}",
    accumulate="{array}[{index}] += {value}",
    functions={
        # saturates as the lanes do: the adjoint of 1 / (1 + inf) would be NaN
        "exp": "np.exp(700.0 if {0} > 700.0 else {0})",
        "inv": "1.0 / {0}",
        "log": "np.log({0})",
        "max": "max({0}, {1})",
        "gt0": "(1.0 if {0} > 0.0 else 0.0)",
    },
    constant="{0}",
)
LANES = Dialect(
    load="load({array}, {index} * WIDTH)",
    store="store({array}, {index} * WIDTH, {value})",
    accumulate="store({array}, {index} * WIDTH, load({array}, {index} * WIDTH) + {value})",
    functions={
        "exp": "lane_exp({0})",
        "inv": "lane_inverse({0})",
        "log": "lane_log({0})",
        "max": "lane_max({0}, {1})",
        "gt0": "lane_where_less(splat(0.0), {0}, splat(1.0), splat(0.0))",
    },
    constant="splat({0})",
)


@dataclass(frozen=True)
class Slot:
    """A place in an array: ``array[index]``; ``offset`` names a run-time offset, in slots."""

    array: str
    index: int
    offset: str = ""

    def where(self, pattern: str, value: str = "") -> str:
        """Source code that reads or writes this place, by a dialect's pattern."""
        index = f"({self.offset} + {self.index})" if self.offset else str(self.index)
        return pattern.format(array=self.array, index=index, value=value)


@dataclass(frozen=True)
class Write:
    """One assignment at the end of a function."""

    slot: Slot
    value: Node
    accumulate: bool = False


def body(dialect: Dialect, symbols: Mapping[str, Slot | str], writes: Sequence[Write]) -> list[str]:
    """Lines of a function body: loads, one statement per node, stores. Unused symbols are not loaded.

    ``symbols`` maps the name of a leaf to the slot it is read from, or to a local name. Zero accumulations
    vanish.
    """
    writes = [w for w in writes if not (w.accumulate and w.value.is_constant(0.0))]
    lines: list[str] = []
    names: dict[int, str] = {}
    for node in ordered([w.value for w in writes]):
        if node.op == "const":
            names[node.index] = repr(node.value)
            continue
        if node.op == "leaf":
            place = symbols[node.name]
            text = place if isinstance(place, str) else place.where(dialect.load)
        else:
            args = [names[a.index] for a in node.args]
            if node.op in INFIX:
                text = f"{args[0]} {INFIX[node.op]} {args[1]}"
            elif node.op == "neg":
                text = f"-{args[0]}"
            else:
                lifted = [
                    dialect.constant.format(text) if a.op == "const" else text
                    for a, text in zip(node.args, args, strict=True)
                ]
                text = dialect.functions[node.op].format(*lifted)
        names[node.index] = f"v{len(names)}"
        lines.append(f"{names[node.index]} = {text}")
    for write in writes:
        text = names[write.value.index]
        if write.value.op == "const":
            text = dialect.constant.format(text)
        lines.append(write.slot.where(dialect.accumulate if write.accumulate else dialect.store, text))
    return lines or ["pass"]


def function(header: str, lines: Sequence[str], docstring: str = "", decorator: str = "@leaf") -> str:
    """A decorated function with its body indented."""
    inside = ([f'"""{docstring}"""'] if docstring else []) + list(lines)
    return "\n".join([decorator, f"def {header}:", *(f"    {line}" for line in inside)])
