"""Eight doubles at once: arithmetic, the exponential and the logarithm, comparisons, memory."""

import math
from types import SimpleNamespace

import numba
import numpy as np
import pytest

from reinfuse.model.kernels.lanes import (
    EXP_LIMIT,
    WIDTH,
    lane_abs,
    lane_exp,
    lane_log,
    lane_max,
    lane_min,
    lane_where_less,
    lanes_less,
    load,
    lowest_bit,
    splat,
    store,
)

NAN, INF = math.nan, math.inf


def of_one(function):
    """A compiled map over a flat array whose length is a multiple of eight."""

    @numba.njit(error_model="numpy")
    def loop(x, out):
        for i in range(0, x.size, WIDTH):
            store(out, i, function(load(x, i)))

    def call(x):
        x = np.atleast_1d(np.asarray(x, dtype=float))
        padded = np.resize(x, -(-x.size // WIDTH) * WIDTH)
        out = np.empty_like(padded)
        loop(padded, out)
        return out[: x.size]

    return call


def ulps(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest error in units of the last place."""
    return float(np.max(np.abs(found - wanted) / np.spacing(np.abs(wanted.astype(float)))))


@pytest.fixture(scope="module")
def lanes():
    return SimpleNamespace(exp=of_one(lane_exp), log=of_one(lane_log))


@pytest.fixture(scope="module")
def arithmetic():
    @numba.njit(error_model="numpy")
    def run(a, b, out):
        x, y = load(a, 0), load(b, 0)
        results = (x + y, x - y, x * y, x / y, -x, 2.0 * x, x - 1.0, 3.0 / x)
        k = 0
        for result in results:
            store(out, k * WIDTH, result)
            k += 1
        store(out, k * WIDTH, lane_abs(x))
        store(out, (k + 1) * WIDTH, lane_max(x, y))
        store(out, (k + 2) * WIDTH, lane_min(x, y))
        store(out, (k + 3) * WIDTH, lane_where_less(x, y, splat(1.0), splat(0.0)))

    def call(a, b):
        out = np.full(12 * WIDTH, NAN)
        run(np.asarray(a, dtype=float), np.asarray(b, dtype=float), out)
        names = "add sub mul div neg twice less_one three_by abs max min less".split()
        return dict(zip(names, out.reshape(12, WIDTH), strict=True))

    return call


class TestArithmetic:
    A = np.array([1.5, -2.0, 0.1, 7.0, 1e200, -1e-200, 3.0, -4.25])
    B = np.array([2.0, -0.5, 0.3, 7.0, 1e10, 1e-10, -3.0, 8.0])

    def test_lanes_do_not_mix(self, arithmetic):
        found = arithmetic(self.A, self.B)
        wanted = {
            "add": self.A + self.B,
            "sub": self.A - self.B,
            "mul": self.A * self.B,
            "div": self.A / self.B,
            "neg": -self.A,
            "twice": 2.0 * self.A,
            "less_one": self.A - 1.0,
            "three_by": 3.0 / self.A,
            "abs": np.abs(self.A),
            "max": np.maximum(self.A, self.B),
            "min": np.minimum(self.A, self.B),
            "less": (self.A < self.B).astype(float),
        }
        assert found.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-15, err_msg=name)

    def test_nan_and_infinity(self, arithmetic):
        a = np.array([NAN, 1.0, NAN, INF, -INF, INF, 0.0, 1.0])
        b = np.array([1.0, NAN, NAN, INF, INF, -INF, 0.0, 0.0])
        found = arithmetic(a, b)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(found["add"], a + b)
            np.testing.assert_array_equal(found["div"], a / b)
        # larger and smaller pass over a NaN: the step control relies on that
        np.testing.assert_array_equal(found["max"][:2], [1.0, 1.0])
        np.testing.assert_array_equal(found["min"][:2], [1.0, 1.0])
        # a comparison with NaN is false: a step whose error is NaN is never accepted
        np.testing.assert_array_equal(found["less"][:3], [0.0, 0.0, 0.0])


class TestBits:
    def test_the_lanes_in_which_less(self):
        @numba.njit
        def run(a, b):
            return lanes_less(load(a, 0), load(b, 0))

        a = np.array([0.0, 2.0, NAN, 1.0, -INF, 3.0, INF, -1.0])
        b = np.array([1.0, 1.0, 1.0, NAN, 0.0, 3.0, INF, 0.0])
        assert run(a, b) == 0b10010001

    @pytest.mark.parametrize(("bits", "place"), [(1, 0), (0b10100, 2), (1 << 7, 7), (255, 0)])
    def test_the_lowest_bit(self, bits, place):
        assert numba.njit(lambda x: lowest_bit(x))(bits) == place


class TestExponential:
    def test_accuracy(self, lanes):
        x = np.random.default_rng(1).uniform(-EXP_LIMIT, EXP_LIMIT, 200_000)
        wanted = np.exp(x.astype(np.longdouble))
        assert np.all(np.abs(lanes.exp(x) / wanted - 1.0) < 4e-16 + 4e-17 * np.abs(x))

    def test_accuracy_near_zero(self, lanes):
        x = np.random.default_rng(2).uniform(-1.0, 1.0, 200_000) ** 3
        assert ulps(lanes.exp(x), np.exp(x.astype(np.longdouble))) < 4
        assert lanes.exp(0.0)[0] == 1.0
        assert lanes.exp(1e-18)[0] == 1.0

    @pytest.mark.parametrize("x", [700.0, 701.0, 1e5, 1e308, INF])
    def test_it_saturates(self, lanes, x):
        assert lanes.exp(x)[0] == pytest.approx(math.exp(EXP_LIMIT), rel=3e-14)
        assert lanes.exp(-x)[0] == pytest.approx(math.exp(-EXP_LIMIT), rel=3e-14)

    def test_a_nan_stays_in_its_lane(self, lanes):
        found = lanes.exp([0.0, NAN, 1.0, 2.0, NAN, -800.0, 800.0, 3.0])
        np.testing.assert_array_equal(np.isnan(found), [0, 1, 0, 0, 1, 0, 0, 0])
        assert found[2] == pytest.approx(math.e, rel=1e-15)


class TestLogarithm:
    def test_accuracy_over_the_range(self, lanes):
        x = np.exp(np.random.default_rng(3).uniform(-EXP_LIMIT, EXP_LIMIT, 200_000))
        assert ulps(lanes.log(x), np.log(x.astype(np.longdouble))) < 4

    def test_accuracy_near_one(self, lanes):
        x = 1.0 + 0.4 * np.random.default_rng(4).uniform(-1.0, 1.0, 200_000) ** 5
        assert ulps(lanes.log(x), np.log(x.astype(np.longdouble))) < 4
        assert lanes.log(1.0)[0] == 0.0

    def test_outside_its_domain(self, lanes):
        found = lanes.log([0.0, -0.0, -1.0, -INF, INF, NAN, 1.0, math.e])
        np.testing.assert_array_equal(found[:7], [-INF, -INF, NAN, NAN, INF, NAN, 0.0])

    def test_it_undoes_the_exponential(self, lanes):
        x = np.linspace(-690.0, 690.0, 1001)
        np.testing.assert_allclose(lanes.log(lanes.exp(x)), x, rtol=1e-14, atol=2e-15)


def test_memory_is_read_and_written_where_asked():
    @numba.njit
    def shift(x, out):
        store(out, 3, load(x, 5))

    x, out = np.arange(20.0), np.full(20, -1.0)
    shift(x, out)
    np.testing.assert_array_equal(out, [-1.0] * 3 + [*np.arange(5.0, 13.0)] + [-1.0] * 9)
