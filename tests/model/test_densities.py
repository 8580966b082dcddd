"""The densities of one record against SciPy's Student t, in the middle and in both far tails."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import t as student

from reinfuse.model.densities import (
    DENSITIES,
    RESOLUTION,
    WIDEST,
    Family,
    above,
    below,
    event,
    interval,
    interval_code,
    interval_width,
    no_event,
    quantified,
)
from reinfuse.model.derive.algebra import Graph
from reinfuse.model.derive.reverse import pullback

from .generated_python import as_python

T4 = student(4)
FAR = [-1e8, -1e4, -300.0, -30.0, -5.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 5.0, 30.0, 300.0, 1e4, 1e8]
ASSAYS = (Family.QUANTIFIED, Family.BELOW, Family.ABOVE)
finite = st.floats(-50.0, 50.0)
scales = st.floats(0.05, 5.0)


def log_probability_below(z):
    return np.log(T4.cdf(z)) if z < 0 else np.log1p(-T4.sf(z))


@pytest.fixture(scope="module")
def derivatives():
    """For each family, a function of (location, scale, value) -> derivatives by location and scale."""
    made = {}
    for family, equation in DENSITIES.items():
        g = Graph()
        result = g.lift(equation(g.leaf("a"), g.leaf("b"), g.leaf("value")))
        made[family] = as_python(pullback([result], [g.constant(1.0)], ["a", "b"]), ("a", "b", "value"))
    return made


@given(finite, scales, finite)
def test_a_quantified_value(location, scale, value):
    wanted = T4.logpdf((value - location) / scale) - np.log(scale)
    assert quantified(location, scale, value) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("z", FAR)
@pytest.mark.parametrize(("location", "scale"), [(0.0, 1.0), (3.0, 0.5)])
def test_a_value_below_the_limit_in_both_tails(z, location, scale):
    value = location + scale * z
    wanted = log_probability_below((value - location) / scale)
    assert below(location, scale, value) == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("z", FAR)
def test_a_value_above_the_limit_is_the_mirror_image(z):
    assert above(0.0, 1.0, z) == below(0.0, 1.0, -z)
    assert above(2.0, 0.5, 2.0 + 0.5 * z) == pytest.approx(log_probability_below(-z), rel=1e-9, abs=1e-15)


@given(finite, scales, finite)
def test_below_and_above_share_all_the_probability(location, scale, value):
    total = np.exp(below(location, scale, value)) + np.exp(above(location, scale, value))
    assert total == pytest.approx(1.0, rel=1e-12)


def test_a_quantified_density_integrates_to_the_probability_below():
    area, _ = quad(lambda v: np.exp(quantified(1.0, 0.7, v)), -np.inf, 0.3)
    assert area == pytest.approx(np.exp(below(1.0, 0.7, 0.3)), rel=1e-8)


def test_event_times():
    log_hazard, cumulative = np.log(0.02), 1.3
    assert event(log_hazard, cumulative, 0.0) == pytest.approx(np.log(0.02 * np.exp(-1.3)))
    assert no_event(log_hazard, cumulative, 0.0) == -1.3


@pytest.mark.parametrize("family", ASSAYS)
@given(location=finite, scale=scales, value=finite)
def test_derivatives_by_finite_differences(derivatives, family, location, scale, value):
    density = DENSITIES[family]
    found = derivatives[family](location, scale, value)

    def slope(f, at, h):
        return (8 * (f(at + h) - f(at - h)) - (f(at + 2 * h) - f(at - 2 * h))) / (12 * h)

    h = 1e-3 * scale
    wanted = [
        slope(lambda a: density(a, scale, value), location, h),
        slope(lambda b: density(location, b, value), scale, h),
    ]
    # differences lose digits where the density itself is large
    noise = 1e-12 * (1 + abs(density(location, scale, value))) / h
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-7 / scale + noise)


@pytest.mark.parametrize("z", FAR)
def test_derivatives_in_both_far_tails(derivatives, z):
    ratio = T4.pdf(z) / T4.cdf(z)
    # where nearly all the probability is on the right side the derivative is 0 to rounding
    near = {"rel": 1e-9, "abs": 1e-17 * max(1.0, abs(z))}
    assert derivatives[Family.BELOW](0.0, 1.0, z) == pytest.approx([-ratio, -z * ratio], **near)
    assert derivatives[Family.ABOVE](0.0, 1.0, -z) == pytest.approx([ratio, -z * ratio], **near)
    middle = -5.0 * z / (4.0 + z * z)
    assert derivatives[Family.QUANTIFIED](0.0, 1.0, z)[0] == pytest.approx(-middle, rel=1e-12)


def test_derivatives_of_event_times(derivatives):
    assert derivatives[Family.EVENT](-2.0, 0.4, 0.0) == [1.0, -1.0]
    assert derivatives[Family.NO_EVENT](-2.0, 0.4, 0.0) == [0.0, -1.0]


def test_every_family_has_a_density():
    assert {*DENSITIES, Family.INTERVAL} == set(Family)


def between(low, high):
    """Log probability between two values, from the tail in which the difference keeps its digits."""
    return np.log(T4.sf(low) - T4.sf(high)) if low > 0 else np.log(T4.cdf(high) - T4.cdf(low))


@given(finite, scales, finite, st.floats(1e-2, 30.0))
def test_a_value_in_an_interval(location, scale, value, width):
    wanted = between((value - width - location) / scale, (value - location) / scale)
    assert interval(location, scale, value, width) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("z", FAR)
@pytest.mark.parametrize("width", [1e-9, 1e-3, 1.0, 40.0, 1e5])
def test_an_interval_in_both_tails_is_its_mirror_image(z, width):
    assert interval(0.0, 1.0, z, width) == pytest.approx(interval(0.0, 1.0, width - z, width), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("z", FAR)
def test_a_narrow_interval_is_a_density_and_a_wide_one_a_limit(z):
    narrow = 1e-6 * max(1.0, abs(z))
    density = quantified(0.0, 1.0, z - 0.5 * narrow) + np.log(narrow)
    assert interval(0.0, 1.0, z, narrow) == pytest.approx(density, rel=1e-9, abs=1e-9)
    wide = 1e6 * max(1.0, abs(z))
    assert interval(0.0, 1.0, z, wide) == pytest.approx(below(0.0, 1.0, z), rel=1e-6, abs=1e-12)


@given(location=finite, scale=scales, value=finite, width=st.floats(1e-2, 30.0))
def test_derivatives_of_an_interval(location, scale, value, width):
    g = Graph()
    result = g.lift(interval(*(g.leaf(name) for name in ("a", "b", "value", "width"))))
    derivative = as_python(pullback([result], [g.constant(1.0)], ["a", "b"]), ("a", "b", "value", "width"))
    ends = np.array([value - width - location, value - location]) / scale
    chance = np.exp(between(*ends))
    wanted = [-np.diff(T4.pdf(ends))[0] / chance / scale, -np.diff(ends * T4.pdf(ends))[0] / chance / scale]
    # the differences here lose digits where the interval is narrow or far out
    noise = 1e-14 * T4.pdf(ends).max() * np.array([1.0, abs(ends).max()]) / chance / scale
    assert derivative(location, scale, value, width) == pytest.approx(wanted, rel=1e-6, abs=1e-9 + noise.max())


def test_the_width_travels_in_the_code():
    width = np.array([RESOLUTION, 1e-6, 0.7, np.log(5), WIDEST])
    codes = interval_code(width)
    assert (codes > Family.INTERVAL).all()
    np.testing.assert_allclose(interval_width(codes), width, atol=RESOLUTION)
    for wrong in (0.0, -1.0, np.nan, np.inf, 2 * WIDEST):
        with pytest.raises(ValueError, match="widths of intervals"):
            interval_code(wrong)
