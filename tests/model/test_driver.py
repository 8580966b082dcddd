"""The adaptive solver in lanes: order, tolerance, events, dense output, failures; also uncompiled."""

import json
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from reinfuse.model.kernels.lanes import WIDTH, splat
from reinfuse.model.kernels.tableaux import STAGES

from . import small_models as small

SOLVED, STEP_LIMIT, STEP_TOO_SMALL, NOT_FINITE = range(4)
TIMES = np.linspace(0.0, 20.0, 41)


def worst(found, wanted):
    """Largest error in ln N and in W."""
    return max(np.abs(np.log(found.N / wanted.N)).max(), np.abs(found.W - wanted.W).max())


class TestSolution:
    @pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8, 1e-10])
    def test_the_error_follows_the_tolerance(self, tol):
        found = small.simulate(TIMES, cuts=(7.0,), tol=tol)
        assert worst(found, small.exact(TIMES, cuts=(7.0,))) < 20 * tol
        assert found.status == [SOLVED]

    def test_tighter_is_better(self):
        errors = [
            worst(small.simulate(TIMES, cuts=(7.0,), tol=tol), small.exact(TIMES, cuts=(7.0,)))
            for tol in (1e-3, 1e-5, 1e-7, 1e-9)
        ]
        assert np.all(np.diff(np.log10(errors)) < -1)

    def test_the_row_at_the_start_is_the_start(self):
        found = small.simulate([0.0])
        assert (found.N[0, 0], found.W[0, 0], found.t[0, 0]) == (pytest.approx(0.5, rel=1e-15), 0.0, 0.0)

    def test_a_finer_grid_changes_nothing(self):
        coarse = small.simulate(TIMES[::4], cuts=(7.0,))
        fine = small.simulate(np.linspace(0.0, 20.0, 401), cuts=(7.0,))
        np.testing.assert_array_equal(fine.N[:, ::40], coarse.N)
        np.testing.assert_array_equal(fine.W[:, ::40], coarse.W)

    def test_times_need_not_be_even_nor_begin_at_zero(self):
        times = np.array([0.3, 0.30000001, 5.0, 17.3])
        assert worst(small.simulate(times), small.exact(times)) < 1e-7


END = 6.0
X = np.array([0.25, 0.5, 0.75])


@pytest.fixture(scope="module")
def march():
    module = small.compiled().module
    attempt, rates, dense, put, get, prepare = (
        getattr(module, name) for name in ("attempt", "rates", "dense", "put", "get", "prepare")
    )
    states, slots = module.NS, module.NC

    @numba.njit(error_model="numpy")
    def run(y0, theta, steps, end, x, inside, last):
        stages, k = np.zeros(STAGES * states * WIDTH), np.zeros(STAGES * states * WIDTH)
        c, cc, weights = np.zeros(slots * WIDTH), np.zeros(slots), np.zeros(STAGES)
        prepare(np.ones(1), theta, cc)
        for lane in range(WIDTH):
            put(stages, 0, states, lane, y0)
            put(c, 0, slots, lane, cc)
        h = end / steps
        for n in range(steps):
            rates(stages, 0, splat(n * h), c, k, 0)
            attempt(stages, 0, k, c, splat(n * h), splat(h), 1.0)
            for i in range(x.size):
                dense(stages, 0, k, 3, h, x[i], weights, inside[n, i])
            get(stages, (STAGES - 1) * states, states, 3, last)
            for lane in range(WIDTH):
                put(stages, 0, states, lane, last)

    theta = np.array([small.VALUES[name] for name in small.compiled().parameters])
    y0 = np.array([np.log(small.VALUES["n0"]), 0.0])

    def call(steps):
        inside, last = np.empty((steps, X.size, states)), np.empty(states)
        run(y0, theta, steps, END, X, inside, last)
        return inside, last

    return call


class TestOrder:
    """Steps of fixed length through the driver's own `attempt` and `dense`."""

    def at(self, t):
        wanted = small.exact(t)
        return np.stack([np.log(wanted.N), wanted.W], axis=-1)

    def test_the_solution_has_order_five(self, march):
        steps = np.array([16, 32, 64, 128])
        errors = [np.abs(march(n)[1] - self.at(END)).max() for n in steps]
        slopes = np.diff(np.log(errors)) / np.diff(np.log(END / steps))
        assert slopes == pytest.approx([5.0] * 3, abs=0.3)

    def test_the_dense_output_has_order_four(self, march):
        steps = np.array([8, 16, 32, 64])
        errors = []
        for n in steps:
            h = END / n
            t = h * (np.arange(n)[:, None] + X)
            errors.append(np.abs(march(n)[0] - self.at(t)).max())
        slopes = np.diff(np.log(errors)) / np.diff(np.log(END / steps))
        # order 4 within a step means a local error of order 5
        assert np.all(slopes > 4.5)


class TestEvents:
    def test_the_row_at_an_event_is_after_it(self):
        found = small.simulate([6.999999, 7.0, 7.000001], cuts=(7.0,))
        before = float(small.exact(7.0).N)
        assert found.N[0] == pytest.approx([before, 0.1 * before, 0.1 * before], rel=1e-4)
        assert list(found.speed[0]) == [1.0, 1.5, 1.5]

    @pytest.mark.parametrize("cuts", [(0.0,), (7.0,), (3.0, 9.5), (3.0, 3.0000001), (5.0, 12.0, 20.0)])
    def test_events_anywhere(self, cuts):
        found = small.simulate(TIMES, cuts=cuts, tol=1e-9)
        assert worst(found, small.exact(TIMES, cuts=cuts)) < 1e-7

    def test_events_at_one_time_happen_one_after_the_other(self):
        found = small.simulate([3.0, 4.0], cuts=(3.0, 3.0))
        assert found.N[0, 0] == pytest.approx(0.01 * small.exact(3.0).N, rel=1e-7)
        assert found.speed[0, 0] == pytest.approx(2.25)

    def test_an_event_after_the_last_time_does_not_happen(self):
        np.testing.assert_array_equal(small.simulate(TIMES, cuts=(21.0,)).N, small.simulate(TIMES).N)


class TestManyPatients:
    N0 = np.geomspace(1e-3, 30.0, 150)

    @pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65, 150])
    def test_lanes_and_blocks_of_any_number(self, n):
        found = small.simulate(TIMES, n=n, n0=self.N0[:n])
        assert np.all(found.status == SOLVED)
        for i in (0, n // 2, n - 1):
            assert worst_of(found, i, small.exact(TIMES, n0=self.N0[i])) < 1e-6

    def test_a_patient_does_not_depend_on_the_others(self):
        together = small.simulate(TIMES, n=150, n0=self.N0, cuts=(7.0,))
        for i in (0, 5, 70, 149):
            alone = small.simulate(TIMES, n0=self.N0[i], cuts=(7.0,))
            np.testing.assert_array_equal(together.N[i], alone.N[0])
            np.testing.assert_array_equal(together.W[i], alone.W[0])


def worst_of(found, i, wanted):
    return max(np.abs(np.log(found.N[i] / wanted.N)).max(), np.abs(found.W[i] - wanted.W).max())


class TestFailures:
    @pytest.mark.parametrize(
        ("values", "status"),
        [
            ({"n0": -1.0}, NOT_FINITE),
            ({"n0": 0.0}, NOT_FINITE),
            ({"c": 1e7}, STEP_LIMIT),
            ({"K": 0.0}, STEP_TOO_SMALL),
            ({"r": np.nan}, STEP_TOO_SMALL),
            ({"a": np.inf}, STEP_TOO_SMALL),
        ],
    )
    def test_a_failure_has_its_reason_and_stays_alone(self, values, status):
        (name, value), n = next(iter(values.items())), 20
        mixed = np.full(n, small.VALUES[name])
        mixed[[3, 4, 11]] = value
        found, good = small.simulate(TIMES, n=n, **{name: mixed}), small.simulate(TIMES)
        wanted = np.zeros(n)
        wanted[[3, 4, 11]] = status
        np.testing.assert_array_equal(found.status, wanted)
        for i in np.flatnonzero(wanted == SOLVED):
            np.testing.assert_array_equal(found.N[i], good.N[0])
            np.testing.assert_array_equal(found.W[i], good.W[0])
        assert np.all(np.isnan(found.N[[3, 4, 11], -1]))

    def test_too_few_steps(self):
        found = small.simulate(TIMES, max_steps=10)
        assert found.status == [STEP_LIMIT]
        assert np.isfinite(found.N[0, 0])
        assert np.isnan(found.N[0, -1])

    def test_a_failure_in_every_lane_ends(self):
        found = small.simulate(TIMES, n=30, n0=np.full(30, -1.0))
        assert np.all(found.status == NOT_FINITE)


UNCOMPILED = """
import json, sys, types
import numpy as np
from reinfuse.model import kernels
from reinfuse.model.course import Infusion
from reinfuse.model.kernels import lanes
from reinfuse.model.simulate import simulate

assert lanes.config.DISABLE_JIT
found = {}
course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=2.0, bridging=0.5)]
curves = simulate(course=course, until=3.0, times=[0.0, 1.0, 2.0, 3.0], tolerance=1e-3)
found["bcma"] = {name: curves[name].values.tolist() for name in ("E1", "X1", "Ts", "Q", "S", "transgene")}

# the driver's text by itself solves the model of `stub`: ln y falls at rate p0, twice as fast after event 1
path = __import__("pathlib").Path(kernels.__file__).with_name("driver.py")
stub = types.ModuleType("reinfuse.model.kernels.driver")
text = path.read_text(encoding="utf-8").split("# ---- everything below this line is copied only where")[0]
exec(compile(text, str(path), "exec"), vars(stub))
theta, one = np.array([[0.3, 5.0]]), np.array([1])
events = (np.array([[4.0]]), np.array([[1]]), one)
times = np.array([0.0, 3.0, 4.0, 6.0])
out, status = np.zeros((1, 4, 1)), np.zeros(1, dtype=np.int64)
stub.simulate(theta, *events, times, 1e-8, 1000, out, status)
found["stub"] = out[0, :, 0].tolist()
loglik, grad = np.zeros(1), np.zeros((1, 2))
zeros = np.zeros((1, 2), dtype=np.int64)
stub.loglik_grad(np.zeros(1, dtype=np.int64), theta, *events, np.array([[3.0, 6.0]]), zeros, zeros,
                 np.array([[1.0, 0.0]]), 2 * one, 1e-8, 1000, True, loglik, grad, status)
found["loglik"], found["grad"], found["status"] = loglik[0], grad[0].tolist(), int(status[0])
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def uncompiled():
    """What a process without the compiler computes."""
    done = subprocess.run(
        [sys.executable, "-c", UNCOMPILED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class TestWithoutTheCompiler:
    def test_the_model_gives_the_same_curves(self, uncompiled):
        from reinfuse.model.course import Infusion
        from reinfuse.model.simulate import simulate

        course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=2.0, bridging=0.5)]
        curves = simulate(course=course, until=3.0, times=[0.0, 1.0, 2.0, 3.0], tolerance=1e-3)
        for name, values in uncompiled["bcma"].items():
            np.testing.assert_allclose(curves[name], values, rtol=1e-9, err_msg=name)

    def test_the_driver_solves_its_own_stub(self, uncompiled):
        exponents = -0.3 * np.array([0.0, 3.0, 4.0, 8.0])  # the last two days count twice
        assert uncompiled["stub"] == pytest.approx(5.0 * np.exp(exponents), rel=1e-9)

    def test_the_stub_has_a_likelihood(self, uncompiled):
        z = (np.array([1.0, 0.0]) - (np.log(5.0) - 0.3 * np.array([3.0, 8.0]))) / 0.5
        assert uncompiled["loglik"] == pytest.approx(np.sum(-0.5 * z**2 - np.log(0.5)))
        wanted = [np.sum(z / 0.5 * -np.array([3.0, 8.0])), np.sum(z / 0.5) / 5.0]
        assert uncompiled["grad"] == pytest.approx(wanted)
        assert uncompiled["status"] == 0
