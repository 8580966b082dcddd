"""Cheaper expressions have the same values and the same derivatives, and fewer expensive operations."""

import numpy as np
import pytest

from reinfuse.model.derive.algebra import EVALUATE, Graph, exp, expit, ordered
from reinfuse.model.derive.economy import economise
from reinfuse.model.derive.reverse import pullback
from reinfuse.model.derive.trace import Trace
from reinfuse.model.equations import bcma

VALUES = {"a": 0.7, "b": -1.3, "c": 2.1, "d": 0.4}


def evaluate(roots, values):
    found = {}
    for node in ordered(roots):
        if node.op == "const":
            found[node.index] = node.value
        elif node.op == "leaf":
            found[node.index] = values[node.name]
        else:
            found[node.index] = EVALUATE[node.op](*(found[a.index] for a in node.args))
    return [found[root.index] for root in roots]


def count(roots, op):
    return sum(node.op == op for node in ordered(roots))


@pytest.fixture
def symbols():
    graph = Graph()
    return [graph.leaf(name) for name in VALUES]


def test_a_quotient_becomes_a_product_and_equal_denominators_share_their_reciprocal(symbols):
    a, b, c, d = symbols
    roots = [a / (c + d), b / (c + d), 1.0 / (c + d)]
    cheap = economise(roots)
    assert (count(cheap, "div"), count(cheap, "inv")) == (0, 1)
    assert evaluate(cheap, VALUES) == pytest.approx(evaluate(roots, VALUES), rel=1e-15)


def test_of_opposite_exponentials_one_is_computed(symbols):
    a, b, *_ = symbols
    roots = [exp(a - b), exp(b - a)]
    cheap = economise(roots)
    assert (count(cheap, "exp"), count(cheap, "inv")) == (1, 1)
    assert evaluate(cheap, VALUES) == pytest.approx(evaluate(roots, VALUES), rel=1e-15)


def test_a_ratio_goes_through_a_common_state(symbols):
    a, b, c, _ = symbols
    roots = [exp(a - b), exp(c - b), exp(a - c), exp(c - a)]
    cheap = economise(roots)
    assert count(cheap, "exp") == 2
    assert evaluate(cheap, VALUES) == pytest.approx(evaluate(roots, VALUES), rel=1e-14)


def test_unrelated_exponentials_stay(symbols):
    a, b, c, d = symbols
    roots = [exp(a - b), exp(c - d), exp(a)]
    assert [count(economise(roots), op) for op in ("exp", "inv", "mul")] == [3, 0, 0]


def test_derivatives_are_the_same(symbols):
    a, b, c, d = symbols
    formula = a / (b * b + c) + exp(a - d) * expit(exp(d - a) / c)
    seed = a.graph.constant(1.0)
    wanted = evaluate(pullback([formula], [seed], [*VALUES]), VALUES)
    found = evaluate(pullback(economise([formula]), [seed], [*VALUES]), VALUES)
    assert found == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("infusions", [1, 2, 3])
def test_the_unified_model_keeps_its_rates(infusions):
    trace = Trace(bcma.build(infusions, bcma.OPTIONS["real"]), {})
    roots = list(trace.rates.values())
    names = sorted({node.name for node in ordered(roots) if node.op == "leaf"})
    rng = np.random.default_rng(3)
    for _ in range(20):
        values = dict(zip(names, np.exp(0.2 * rng.normal(size=len(names))), strict=True))
        np.testing.assert_allclose(evaluate(economise(roots), values), evaluate(roots, values), rtol=1e-11)
    assert count(economise(roots), "div") == 0
    assert count(economise(roots), "exp") < count(roots, "exp")
