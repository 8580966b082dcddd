"""Tracing: the graph of an equation has the equation's value, is shared, and is simplified."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reinfuse.model.derive.algebra import (
    Graph,
    exp,
    expit,
    leaves,
    log,
    maximum,
    ordered,
    step_up,
    substitute,
)

from .generated_python import as_python

NAMES = ("x", "y", "z")


@dataclass(frozen=True)
class Expression:
    """A formula as text, so that a failing example can be read, run on whatever it is given."""

    text: str

    def __call__(self, *values):
        tools = {"exp": exp, "log": log, "expit": expit, "maximum": maximum, "step_up": step_up}
        return eval(self.text, tools | dict(zip(NAMES, values, strict=True)))


def expressions(*, smooth: bool = False) -> st.SearchStrategy[Expression]:
    """Random formulas of x, y, z; `smooth` leaves out those with a kink or a jump."""
    numbers = st.sampled_from(["0.0", "1.0", "-1.0", "2.0", "0.5", "3.0", "-0.25"])
    atoms = st.sampled_from(NAMES) | numbers

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        two = st.tuples(inner, inner)
        options = [
            two.map(lambda ab: f"({ab[0]} + {ab[1]})"),
            two.map(lambda ab: f"({ab[0]} - {ab[1]})"),
            two.map(lambda ab: f"({ab[0]} * {ab[1]})"),
            two.map(lambda ab: f"({ab[0]} / (1.5 + {ab[1]} * {ab[1]}))"),
            two.map(lambda ab: f"(exp(0.3 * {ab[0]}) / exp(0.2 * {ab[1]}))"),
            two.map(lambda ab: f"log(exp(0.1 * {ab[0]}) * (2.0 + {ab[1]} * {ab[1]}))"),
            inner.map(lambda a: f"(-{a})"),
            inner.map(lambda a: f"expit({a})"),
            st.tuples(inner, st.integers(1, 4)).map(lambda an: f"({an[0]} ** {an[1]})"),
            inner.map(lambda a: f"((1.0 + {a} * {a}) ** 0.5)"),
        ]
        if not smooth:
            options += [
                inner.map(lambda a: f"maximum({a}, 0.5)"),
                inner.map(lambda a: f"step_up({a})"),
            ]
        return st.one_of(options)

    return st.recursive(atoms, larger, max_leaves=12).map(Expression)


values = st.tuples(*[st.floats(-3.0, 3.0, allow_nan=False).map(lambda v: round(v, 3)) for _ in NAMES])


def traced(expression: Expression):
    graph = Graph()
    symbols = [graph.leaf(name) for name in NAMES]
    return graph, graph.lift(expression(*symbols))


@given(expressions(), values)
def test_a_traced_formula_has_the_value_of_the_formula(expression, given_values):
    with np.errstate(all="ignore"):
        wanted = float(expression(*given_values))
        # what rounding alone may do to this formula at this place
        precise = float(expression(*np.asarray(given_values, dtype=np.longdouble)))
    assume(math.isfinite(wanted) and abs(wanted) < 1e100)
    assume(abs(wanted - precise) <= 1e-12 * (1 + abs(wanted)))
    _, node = traced(expression)
    found = as_python([node], NAMES)(*given_values)[0]
    if "step_up" in expression.text and found != pytest.approx(wanted, rel=1e-9, abs=1e-9):
        # a step may fall the other way only where its argument is within rounding of 0
        near = [float(expression(*(np.array(given_values) + d))) for d in (-1e-9, 1e-9)]
        assert any(found == pytest.approx(v, rel=1e-6, abs=1e-6) for v in near)
    else:
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@given(expressions())
def test_tracing_twice_gives_the_same_node(expression):
    graph, node = traced(expression)
    again = graph.lift(expression(*(graph.leaf(name) for name in NAMES)))
    assert again is node
    known = [n.index for n in ordered([node])]
    assert len(set(known)) == len(known)


@given(expressions(), values)
def test_substituting_a_number_is_evaluating_there(expression, given_values):
    graph, node = traced(expression)
    table = {graph.leaf(n).index: graph.constant(v) for n, v in zip(NAMES, given_values, strict=True)}
    with np.errstate(all="ignore"):
        wanted = as_python([node], NAMES)(*given_values)[0]
    try:
        (found,) = substitute([node], table)
    except OverflowError:  # a constant too large for a float is refused, not folded
        assert not math.isfinite(wanted) or abs(wanted) > 1e100
        return
    assert found.op == "const"
    assume(math.isfinite(wanted))
    assert found.value == pytest.approx(wanted, rel=1e-12, abs=1e-12)


class TestSharing:
    def test_equal_expressions_are_one_node(self):
        g = Graph()
        x, y = g.leaf("x"), g.leaf("y")
        assert (x + y) * 2.0 is 2.0 * (y + x)
        assert g.leaf("x") is x
        assert g.constant(1.0) is g.constant(1.0)

    def test_a_quotient_keeps_its_order(self):
        g = Graph()
        x, y = g.leaf("x"), g.leaf("y")
        assert x / y is not y / x
        assert x - y is not y - x

    def test_numpy_numbers_and_integers_are_numbers(self):
        g = Graph()
        x = g.leaf("x")
        assert np.float64(2.0) * x is 2 * x
        assert 1 - x is np.float64(1.0) - x
        assert sum([x, x]) is x + x


class TestSimplification:
    @pytest.fixture
    def g(self):
        return Graph()

    def test_zeros_and_ones_vanish(self, g):
        x = g.leaf("x")
        assert x + 0.0 is x
        assert 0.0 + x is x
        assert x - 0.0 is x
        assert x * 1.0 is x
        assert x / 1.0 is x
        minus = -x
        assert -minus is x
        assert (x * 0.0).is_constant(0.0)
        assert (0.0 / x).is_constant(0.0)
        assert (x - x).is_constant(0.0)
        assert 0.0 - x is -x
        assert x * -1.0 is -x

    def test_a_switched_off_mechanism_leaves_no_trace(self, g):
        x, k = g.leaf("x"), g.leaf("k")
        assert leaves([x + 0.0 * exp(k) / (1.0 + k)]) == {"x"}

    def test_constants_fold(self, g):
        two = g.constant(2.0)
        assert (two * 3.0 + 1.0).is_constant(7.0)
        assert exp(g.constant(0.0)).is_constant(1.0)
        assert maximum(two, 5.0).is_constant(5.0)
        assert step_up(two).is_constant(1.0)

    def test_signs_move_outwards(self, g):
        x, y = g.leaf("x"), g.leaf("y")
        assert x + (-y) is x - y
        assert x - (-y) is x + y
        assert (-x) * y is -(x * y)
        assert (-x) / y is -(x / y)
        assert -(x - y) is y - x

    def test_a_ratio_of_exponentials_cannot_overflow(self, g):
        x, y = g.leaf("x"), g.leaf("y")
        ratio = exp(x) / exp(y)
        assert ratio is exp(x - y)
        assert as_python([ratio], ("x", "y"))(1000.0, 999.0) == [pytest.approx(math.e)]

    def test_the_logarithm_of_a_state_times_a_factor_cannot_underflow(self, g):
        x, k = g.leaf("x"), g.leaf("k")
        node = log(exp(x) * k)
        assert as_python([node], ("x", "k"))(-1000.0, 0.5) == [pytest.approx(-1000.0 + math.log(0.5))]
        assert log(exp(x)) is x

    def test_small_powers_are_products(self, g):
        x = g.leaf("x")
        assert x**1 is x
        assert x**3 is x * x * x
        assert {n.op for n in ordered([x**8])} == {"leaf", "mul"}
        assert as_python([x**0.5, x**-2, x**9], ("x",))(4.0) == pytest.approx([2.0, 1 / 16, 4.0**9])


class TestBranches:
    @pytest.mark.parametrize(
        "branch",
        [
            lambda x: 1.0 if x else 0.0,
            lambda x: 1.0 if x > 0 else 0.0,
            lambda x: 1.0 if x == 0 else 0.0,
            lambda x: x != 0,
            lambda x: max(x, 0.0),
            lambda x: min(x, 0.0),
            lambda x: not x,
            lambda x: x and 1.0,
        ],
    )
    def test_branching_on_a_symbol_raises(self, branch):
        with pytest.raises(TypeError):
            branch(Graph().leaf("x"))

    def test_the_message_says_what_to_use_instead(self):
        with pytest.raises(TypeError, match=r"branched on a symbol.*`maximum` or `step_up`"):
            bool(Graph().leaf("x"))


class TestNumbersAndArrays:
    def test_the_functions_work_on_floats_and_arrays(self):
        x = np.array([-1.0, 0.0, 2.0])
        np.testing.assert_allclose(exp(x), np.exp(x))
        np.testing.assert_allclose(log(x + 3.0), np.log(x + 3.0))
        np.testing.assert_allclose(expit(x), 1 / (1 + np.exp(-x)))
        np.testing.assert_array_equal(maximum(x, 0.5), [0.5, 0.5, 2.0])
        np.testing.assert_array_equal(step_up(x), [0.0, 0.0, 1.0])
        assert float(step_up(0.3)) == 1.0
        assert float(maximum(0.3, 1.0)) == 1.0


def test_a_very_deep_formula_is_no_deep_recursion():
    g = Graph()
    node = g.leaf("x")
    for _ in range(20_000):
        node = exp(node) + g.leaf("y")
    assert len(ordered([node])) == 40_002
    assert leaves([node]) == {"x", "y"}


def test_ordered_puts_arguments_first():
    _, node = traced(Expression("(x + y) * exp(x + y) / (1.0 + z)"))
    seen = set()
    for n in ordered([node]):
        assert all(a.index in seen for a in n.args)
        seen.add(n.index)


def test_a_node_shows_what_it_is():
    g = Graph()
    assert repr(exp(g.leaf("x") + 1.0)) == "exp(add(leaf(x), const(1.0)))"
