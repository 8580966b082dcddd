"""Reverse mode: the adjoint of a graph is its exact derivative."""

import math

import numpy as np
import pytest
from hypothesis import assume, given

from reinfuse.model.derive.algebra import EVALUATE, Graph, exp, expit, leaves, log, maximum, step_up
from reinfuse.model.derive.reverse import PULLBACK, pullback

from .generated_python import as_python
from .test_algebra import NAMES, expressions, traced, values

STEP = 1e-30  # of the complex step: its error is far below rounding


def gradient(graph, node, at):
    return as_python(pullback([node], [graph.constant(1.0)], NAMES), NAMES)(*at)


@given(expressions(smooth=True), values)
def test_derivatives_of_smooth_formulas_by_the_complex_step(expression, at):
    graph, node = traced(expression)
    found = gradient(graph, node, at)
    with np.errstate(all="ignore"):
        wanted = [
            float(np.imag(expression(*(np.complex128(v + 1j * STEP * (k == n)) for n, v in enumerate(at)))) / STEP)
            for k in range(len(NAMES))
        ]
    assume(np.isfinite(wanted).all() and np.max(np.abs(wanted)) < 1e60)
    scale = max(1.0, *np.abs(wanted))
    assert found == pytest.approx(wanted, rel=1e-7, abs=1e-9 * scale)


@given(expressions(smooth=True), values)
def test_the_graph_form_is_linear_in_the_seed(expression, at):
    graph, node = traced(expression)
    seed = graph.leaf("seed")
    backs = as_python(pullback([node], [seed], NAMES), (*NAMES, "seed"))
    once, thrice = np.array(backs(*at, 1.0)), np.array(backs(*at, 3.0))
    assume(np.isfinite(once).all() and np.max(np.abs(once)) < 1e100)
    np.testing.assert_allclose(thrice, 3.0 * once, rtol=1e-9, atol=1e-9 * max(1.0, np.max(np.abs(once))))


class TestKinks:
    @pytest.mark.parametrize(("x", "slope"), [(2.0, 6.0), (-2.0, 0.0)])
    def test_maximum_follows_the_larger(self, x, slope):
        g = Graph()
        node = 3.0 * maximum(g.leaf("x"), 0.5) ** 2 / 2.0
        assert as_python(pullback([node], [g.constant(1.0)], ["x"]), ("x",))(x) == [pytest.approx(slope)]

    def test_a_step_has_derivative_zero(self):
        g = Graph()
        x = g.leaf("x")
        assert pullback([step_up(x)], [g.constant(1.0)], ["x"])[0].is_constant(0.0)
        (back,) = pullback([x * step_up(x)], [g.constant(1.0)], ["x"])
        assert as_python([back], ("x",))(3.0) == [1.0]
        assert as_python([back], ("x",))(-3.0) == [0.0]


class TestSeveralOutputs:
    def test_adjoints_of_shared_pieces_add_up(self):
        g = Graph()
        x, y = g.leaf("x"), g.leaf("y")
        shared = exp(x * y)
        outputs = [shared + x, shared * shared, y]
        backs = pullback(outputs, [g.leaf("u"), g.leaf("v"), g.leaf("w")], ["x", "y"])
        a, b, u, v, w = 0.4, -0.7, 1.3, 0.2, 5.0
        e = math.exp(a * b)
        wanted = [u * (b * e + 1) + v * 2 * b * e * e, u * a * e + v * 2 * a * e * e + w]
        assert as_python(backs, ("x", "y", "u", "v", "w"))(a, b, u, v, w) == pytest.approx(wanted)

    def test_the_same_output_twice(self):
        g = Graph()
        x = g.leaf("x")
        (back,) = pullback([x * x, x * x], [g.constant(1.0), g.constant(2.0)], ["x"])
        assert as_python([back], ("x",))(5.0) == [30.0]

    def test_what_does_not_matter_has_adjoint_zero(self):
        g = Graph()
        x, y = g.leaf("x"), g.leaf("y")
        backs = pullback([x * 2.0], [g.constant(1.0)], ["y", "absent", "x"])
        assert [b.is_constant(0.0) for b in backs] == [True, True, False]
        assert y.name not in leaves(backs)

    def test_outputs_and_seeds_must_match(self):
        g = Graph()
        with pytest.raises(ValueError, match="zip"):
            pullback([g.leaf("x")], [g.leaf("u"), g.leaf("v")], ["x"])


def test_a_logistic_is_differentiated_without_overflow():
    g = Graph()
    (back,) = pullback([expit(g.leaf("x"))], [g.constant(1.0)], ["x"])
    slope = as_python([back], ("x",))
    assert slope(0.0) == [pytest.approx(0.25)]
    assert slope(30.0) == [pytest.approx(math.exp(-30.0), rel=1e-9)]
    assert slope(-30.0) == [pytest.approx(math.exp(-30.0), rel=1e-9)]


def test_the_adjoint_of_a_ratio_of_states_stays_in_range():
    """M/E of cells near 1e-325: the ratio is the exponential of a difference, and so are its adjoints."""
    g = Graph()
    m, e = g.leaf("m"), g.leaf("e")
    backs = pullback([exp(m) / exp(e)], [g.constant(1.0)], ["m", "e"])
    at = (-750.0, -745.0)
    assert as_python(backs, ("m", "e"))(*at) == pytest.approx([math.exp(-5.0), -math.exp(-5.0)])
    assert as_python([log(exp(m) / exp(e))], ("m", "e"))(*at) == [pytest.approx(-5.0)]


def test_every_operation_has_an_adjoint():
    assert PULLBACK.keys() == EVALUATE.keys()
