"""The adaptive solver in lanes: order, tolerance, events, dense output, failures; also uncompiled."""

import json
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from reinfuse.model.densities import DENSITIES, Family
from reinfuse.model.kernels.interface import NC, PREPARE, RATES, call
from reinfuse.model.kernels.lanes import WIDTH

from . import small_models as small

SOLVED, STEP_LIMIT, STEP_TOO_SMALL, NOT_FINITE, IMPLICIT = range(5)
TIMES = np.linspace(0.0, 20.0, 41)


def worst(found, wanted):
    """Largest error in ln N and in W."""
    return max(np.abs(np.log(found.N / wanted.N)).max(), np.abs(found.W - wanted.W).max())


class TestSolution:
    @pytest.mark.parametrize("method", ["tsit5", "vern7"])
    @pytest.mark.parametrize("tol", [1e-4, 1e-6, 1e-8, 1e-10])
    def test_the_error_follows_the_tolerance(self, tol, method):
        found = small.simulate(TIMES, cuts=(7.0,), tol=tol, method=method)
        assert worst(found, small.exact(TIMES, cuts=(7.0,))) < 20 * tol
        assert found.status == [SOLVED]

    def test_tighter_is_better(self):
        times = TIMES[::8]
        errors = [
            worst(small.simulate(times, cuts=(7.0,), tol=tol), small.exact(times, cuts=(7.0,)))
            for tol in (1e-3, 1e-5, 1e-7, 1e-9)
        ]
        assert np.all(np.diff(np.log10(errors)) < -1)

    def test_the_row_at_the_start_is_the_start(self):
        found = small.simulate([0.0])
        assert (found.N[0, 0], found.W[0, 0], found.t[0, 0]) == (pytest.approx(0.5, rel=1e-15), 0.0, 0.0)

    def test_a_finer_grid_changes_nothing(self):
        """Where every step would pass several times, it ends on none of them."""
        coarse = small.simulate(np.linspace(0.0, 20.0, 5001), cuts=(7.0,))
        fine = small.simulate(np.linspace(0.0, 20.0, 10001), cuts=(7.0,))
        np.testing.assert_array_equal(fine.N[:, ::2], coarse.N)
        np.testing.assert_array_equal(fine.W[:, ::2], coarse.W)

    def test_a_lonely_time_ends_a_step(self):
        """It is read off the solution, which is more exact than what is interpolated."""
        few, many = np.arange(1.0, 20.0, 4.0), np.arange(1.0, 20.0, 0.01)
        alone, among = small.simulate(few, tol=1e-4), small.simulate(many, tol=1e-4)
        wanted = small.exact(few)
        assert np.abs(np.log(alone.N / wanted.N)).max() < 0.5 * np.abs(np.log(among.N[:, ::400] / wanted.N)).max()

    def test_times_need_not_be_even_nor_begin_at_zero(self):
        times = np.array([0.3, 0.30000001, 5.0, 17.3])
        assert worst(small.simulate(times), small.exact(times)) < 1e-7


END = 6.0
X = np.array([0.25, 0.5, 0.75])
START = np.array([np.log(small.VALUES["n0"]), 0.0])


def exact_states(t):
    wanted = small.exact(t)
    return np.stack([np.log(wanted.N), wanted.W], axis=-1)


def marcher(method: str):
    """A function that takes steps of fixed length: states at fractions X of the steps, and at the end."""
    kernel = small.compiled(method)
    solver, table, stages_, slots = kernel.solver, kernel.table, kernel.solver.STAGES, kernel.solver.SLOTS
    attempt, complete, dense, put, get = (
        getattr(solver, name) for name in ("attempt", "complete", "dense", "put", "get")
    )
    states = len(kernel.states)

    @numba.njit(error_model="numpy")
    def run(table, y0, c, steps, end, x, inside, last):
        stages, k, weights = np.zeros(slots * states * WIDTH), np.zeros(slots * states * WIDTH), np.zeros(slots)
        t, h, times = np.zeros(WIDTH), np.full(WIDTH, end / steps), np.zeros(WIDTH)
        for lane in range(WIDTH):
            put(stages, 0, states, lane, y0)
        for n in range(steps):
            t.fill(n * end / steps)
            call(table[RATES], stages, 0, t, c, k, 0)
            attempt(table, stages, 0, k, c, t, h, 1.0, times)
            complete(table, stages, 0, k, c, t, h, times)
            for i in range(x.size):
                dense(table, stages, 0, k, 3, end / steps, x[i], weights, inside[n, i])
            get(stages, (stages_ - 1) * states, states, 3, last)
            for lane in range(WIDTH):
                put(stages, 0, states, lane, last)

    c = coefficients(kernel)

    def march(steps):
        inside, last = np.empty((steps, X.size, states)), np.empty(states)
        run(table, START, c, steps, END, X, inside, last)
        return inside, last

    return march


def coefficients(kernel):
    """What is constant between events, in every lane."""
    theta = np.array([small.VALUES[name] for name in kernel.parameters])
    single = np.zeros(kernel.table[NC])

    @numba.njit
    def prepare(table, held, theta, out):
        call(table[PREPARE], held, theta, out)

    prepare(kernel.table, np.ones(1), theta, single)
    return np.repeat(single, WIDTH)


@pytest.fixture(scope="module", params=["tsit5", "vern7"])
def march(request):
    function = marcher(request.param)
    function.order = {"tsit5": 5, "vern7": 7}[request.param]
    return function


def slopes(errors, steps):
    return np.diff(np.log(errors)) / np.diff(np.log(END / steps))


class TestOrder:
    """Steps of fixed length through the solver's own functions."""

    def test_the_solution_has_its_order(self, march):
        steps = np.array([16, 32, 64, 128] if march.order == 5 else [24, 32, 48, 64])
        errors = [np.abs(march(n)[1] - exact_states(END)).max() for n in steps]
        assert slopes(errors, steps) == pytest.approx([march.order] * 3, abs=0.4)

    def test_the_dense_output_is_one_order_below(self, march):
        steps = np.array([8, 16, 32, 64]) if march.order == 5 else np.array([6, 8, 12, 16])
        errors = []
        for n in steps:
            t = END / n * (np.arange(n)[:, None] + X)
            errors.append(np.abs(march(n)[0] - exact_states(t)).max())
        # order p - 1 within a step means a local error of order p
        assert np.all(slopes(errors, steps) > march.order - 0.6)

    def test_the_implicit_method_has_order_five(self):
        kernel = small.compiled()
        newton, jacobians, states = kernel.solver.newton, kernel.solver.jacobians, len(kernel.states)

        @numba.njit(error_model="numpy")
        def run(table, y, c, steps, end):
            slope, z, points, k = np.empty((1, 2, 2)), np.empty((3, 2)), np.empty((3, 2)), np.empty((3, 2))
            matrix, pivots, flat = np.empty((6, 6)), np.empty(6, np.int64), np.empty(6)
            a, b, seeds, scratch = np.empty(16), np.empty(16), np.empty(16), np.zeros(c.size)
            row, now = np.empty((1, 2)), np.empty(1)
            h = end / steps
            for n in range(steps):
                now[0] = n * h
                for i in range(2):
                    row[0, i] = y[i]
                jacobians(table, row, now, c, seeds, a, scratch, slope)
                used = newton(table, y, n * h, h, slope[0], 1e-13, c, z, points, k, matrix, pivots, flat, a, b)
                if used < 0:
                    return False
                for i in range(2):
                    y[i] += z[2, i]
            return True

        assert states == 2
        steps, errors, c = np.array([8, 16, 32, 64]), [], coefficients(kernel)
        for n in steps:
            y = START.copy()
            assert run(kernel.table, y, c, n, END)
            errors.append(np.abs(y - exact_states(END)).max())
        assert slopes(errors, steps) == pytest.approx([5.0] * 3, abs=0.3)


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

    def test_a_stiff_patient_is_handed_to_the_implicit_method_alone(self):
        c = np.full(20, small.VALUES["c"])
        c[[3, 11]] = 1e7
        found, good = small.simulate(TIMES, n=20, c=c), small.simulate(TIMES)
        np.testing.assert_array_equal(found.status[[3, 11]], IMPLICIT)
        np.testing.assert_allclose(found.W[3], 2.0 * np.exp(-TIMES) / 1e7 * (TIMES > 0), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found.N[11], good.N[0], rtol=1e-6)
        for i in np.flatnonzero(c < 1.0):
            np.testing.assert_array_equal(found.N[i], good.N[0])

    def test_too_few_steps(self):
        found = small.simulate(TIMES, max_steps=10)
        assert found.status == [STEP_LIMIT]
        assert np.isfinite(found.N[0, 0])
        assert np.isnan(found.N[0, -1])

    def test_a_failure_in_every_lane_ends(self):
        found = small.simulate(TIMES, n=30, n0=np.full(30, -1.0))
        assert np.all(found.status == NOT_FINITE)


UNCOMPILED = """
import json, sys
import numpy as np
from reinfuse.model.course import Infusion
from reinfuse.model.kernels import lanes
from reinfuse.model.simulate import simulate

assert lanes.config.DISABLE_JIT
found = {}
course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=2.0, bridging=0.5)]
curves = simulate(course=course, until=3.0, times=[0.0, 1.0, 2.0, 3.0], tolerance=1e-3)
found["bcma"] = {name: curves[name].values.tolist() for name in ("E1", "X1", "Ts", "Q", "S", "transgene")}

# the one-state model of the test below, through the solvers' own texts
from reinfuse.model.derive.algebra import log
from reinfuse.model.derive.build import build
from reinfuse.model.equations.definition import OdeModel, State

decay = OdeModel(
    "decay", (State("N", "-"),), ("speed",),
    lambda p: ({"N": p.n0}, {"speed": 1.0}),
    lambda t, y, h, p: {"N": -p.k * h.speed},
    lambda t, y, h, p: {"N": y.N},
    {"faster": lambda y, h, p: ({}, {"speed": 2.0 * h.speed})},
    lambda t, y, h, p: {"N": (log(y.N), 0.5)},
)
kernel = build(decay, kinds=("N",))
values = {"k": 0.3, "n0": 5.0}
theta, one = np.array([[values[name] for name in kernel.parameters]]), np.array([1])
events = (np.array([[4.0]]), np.array([[0]]), one)
out, status = np.zeros((1, 4, 1)), np.zeros(1, dtype=np.int64)
kernel.simulate(theta, *events, np.array([0.0, 3.0, 4.0, 6.0]), 1e-8, 1000, out, status)
found["decay"] = out[0, :, 0].tolist()
for steps in (1000,):
    loglik, grad = np.zeros(1), np.zeros((1, 2))
    zeros = np.zeros((1, 2), dtype=np.int64)
    kernel.loglik_grad(np.zeros(1, dtype=np.int64), theta, *events, np.array([[3.0, 6.0]]), zeros, zeros,
                       np.array([[1.0, 0.0]]), 2 * one, 1e-8, steps, True, loglik, grad, status)
    found[f"loglik {steps}"] = loglik[0]
    found[f"grad {steps}"] = dict(zip(kernel.parameters, grad[0].tolist()))
    found[f"status {steps}"] = int(status[0])
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

    def test_a_model_of_ones_own_gives_its_solution(self, uncompiled):
        exponents = -0.3 * np.array([0.0, 3.0, 4.0, 8.0])  # the last two days count twice
        assert uncompiled["decay"] == pytest.approx(5.0 * np.exp(exponents), rel=1e-9)

    def test_it_has_a_likelihood(self, uncompiled):
        days, step = np.array([3.0, 8.0]), 1e-5

        def density(k, n0):
            locations = np.log(n0) - k * days
            quantified = DENSITIES[Family.QUANTIFIED]
            return sum(float(quantified(a, 0.5, value)) for a, value in zip(locations, (1.0, 0.0), strict=True))

        assert uncompiled["loglik 1000"] == pytest.approx(density(0.3, 5.0))
        wanted = {
            "k": (density(0.3 + step, 5.0) - density(0.3 - step, 5.0)) / (2 * step),
            "n0": (density(0.3, 5.0 + step) - density(0.3, 5.0 - step)) / (2 * step),
        }
        assert uncompiled["grad 1000"] == pytest.approx(wanted, rel=1e-6)
        assert uncompiled["status 1000"] == SOLVED
