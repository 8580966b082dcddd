"""The likelihood in PyTensor: the kernel's own numbers, its gradient, no Python lock, no exceptions."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest
from pytensor.compile.mode import Mode
from pytensor.graph.rewriting.db import RewriteDatabaseQuery
from pytensor.link.numba.dispatch.basic import numba_funcify, numba_funcify_default_op_cache_key

from reinfuse.fits.likelihood_op import CohortLikelihood, UnlockedLinker, loglik_and_gradient
from reinfuse.fits.problem import MAX_STEPS, TOLERANCE, Problem
from reinfuse.model.simulate import Status

DATA = ("order", "ev_time", "ev_code", "n_ev", "ob_time", "ob_kind", "ob_family", "ob_value", "n_ob")


def arrays(problem: Problem) -> list[np.ndarray]:
    return [np.ascontiguousarray(getattr(problem, name)) for name in DATA]


def individual(posed, seed: int, spread: float = 0.3) -> np.ndarray:
    """Individual parameters (n, columns) somewhere around the prior medians."""
    posterior = posed.posterior
    h, b = posed.point(np.random.default_rng(seed), spread)
    return posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)


@pytest.fixture(scope="module")
def compiled(one_infusion):
    """(theta, counter, weights, data) -> loglik, its weighted sum's gradient by theta; compiled as a fit does it."""
    problem = one_infusion.problem
    theta, counter, weights = pt.dmatrix("theta"), pt.lvector("counter"), pt.dvector("weights")
    data = [
        pt.tensor(name=name, dtype=a.dtype, shape=(None,) * a.ndim)
        for a, name in zip(arrays(problem), DATA, strict=True)
    ]
    loglik = CohortLikelihood(problem)(theta, counter, *data)[0]
    gradient = pt.grad((weights * loglik).sum(), theta)
    mode = Mode(UnlockedLinker(), RewriteDatabaseQuery(include=["fast_run", "numba"]))
    return pytensor.function([theta, counter, weights, *data], [loglik, gradient], mode=mode)


class TestCompiledGraph:
    def test_value_and_pullback_are_the_kernels_own(self, compiled, one_infusion):
        problem = one_infusion.problem
        theta, weights = individual(one_infusion, 1), np.linspace(-1.0, 2.0, problem.n)
        loglik, gradient = compiled(theta, np.zeros(len(Status), dtype=np.int64), weights, *arrays(problem))
        wanted, slopes, status = loglik_and_gradient(theta, problem)
        assert (status == Status.SOLVED).all()
        np.testing.assert_array_equal(loglik, wanted)
        np.testing.assert_array_equal(gradient, weights[:, None] * slopes)

    def test_it_has_a_numba_implementation_of_its_own(self):
        """Without one PyTensor would fall back to object mode, which takes the lock and warns."""
        for dispatch in (numba_funcify, numba_funcify_default_op_cache_key):
            assert dispatch.dispatch(CohortLikelihood) is not dispatch.dispatch(object)

    def test_other_threads_run_while_it_does(self, compiled, one_infusion):
        """A graph that held Python's lock would stop the main thread for as long as it runs."""
        problem = one_infusion.problem
        many, theta = 800, individual(one_infusion, 2)
        tiled = [np.tile(a, (many,) + (1,) * (a.ndim - 1)) for a in arrays(problem)]
        tiled[0] = np.arange(many * problem.n)
        inputs = (np.tile(theta, (many, 1)), np.zeros(len(Status), dtype=np.int64), np.ones(many * problem.n), *tiled)
        compiled(
            theta, np.zeros(len(Status), dtype=np.int64), np.ones(problem.n), *arrays(problem)
        )  # compilation is not meant
        took = []

        def work():
            began = time.perf_counter()
            compiled(*inputs)
            took.append(time.perf_counter() - began)

        thread = threading.Thread(target=work)
        last, longest = time.perf_counter(), 0.0
        thread.start()
        while thread.is_alive():
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            time.sleep(1e-4)
        assert took[0] > 0.1, "too short a call to see anything"
        assert longest < 0.5 * took[0]

    def test_two_threads_get_what_one_gets(self, one_infusion):
        points = []
        for seed in range(12):
            h, b = one_infusion.point(np.random.default_rng(seed))
            points.append(one_infusion.flat(h, b))
        alone = [one_infusion.density(x) for x in points]
        together: dict[int, list] = {}

        def work(who):
            together[who] = [one_infusion.density(x) for _ in range(5) for x in points]

        threads = [threading.Thread(target=work, args=(who,)) for who in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for found in together.values():
            assert len(found) == 5 * len(points)
            for k, (value, gradient) in enumerate(found):
                wanted_value, wanted_gradient = alone[k % len(points)]
                assert value == wanted_value
                np.testing.assert_array_equal(gradient, wanted_gradient)


PROGRAM = """
import hashlib, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from tests.fits import small_cohorts
posed = small_cohorts.posed(one=4, two=0)
rng, digest = np.random.default_rng(0), hashlib.sha256()
for _ in range(20):
    value, gradient = posed.density(posed.flat(*posed.point(rng)))
    digest.update(np.append(gradient, value).tobytes())
print(digest.hexdigest())
"""


def test_the_first_run_has_the_bits_of_later_ones(tmp_path):
    """A graph that was just compiled, and the same graph from the disk cache."""
    flags = {**os.environ, "PYTENSOR_FLAGS": f"base_compiledir={tmp_path}"}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parents[2])]
    first, later = (
        subprocess.run(command, env=flags, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert len(first.strip()) == 64
    assert first == later


class TestGradient:
    def test_it_is_that_of_differences(self, either):
        """By the logarithm of every column that is not 0, solver and differences both tight."""
        problem = replace(either.problem, tolerance=1e-10, max_steps=20 * MAX_STEPS)
        theta = individual(either, 3)
        _, gradient, status = loglik_and_gradient(theta, problem)
        assert (status == Status.SOLVED).all()
        step = 2e-5
        informed = 0
        for c, name in enumerate(problem.kernel.parameters):
            if name.startswith("day_") or not theta[:, c].any():
                continue
            sides = []
            for sign in (1.0, -1.0):
                moved = theta.copy()
                moved[:, c] *= 1.0 + sign * step
                sides.append(loglik_and_gradient(moved, problem)[0])
            wanted = (sides[0] - sides[1]) / (2.0 * step)
            found = gradient[:, c] * theta[:, c]
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4, err_msg=name)
            informed += int(np.abs(wanted).max() > 1e-3)
        assert informed > 20

    def test_a_fits_tolerance_is_good_enough(self, either):
        """The log-likelihood of a fit is off by far less than the noise of a Metropolis test."""
        theta = individual(either, 4)
        problem = either.problem
        assert problem.tolerance == TOLERANCE
        rough, rough_slopes, _ = loglik_and_gradient(theta, problem)
        fine, fine_slopes, _ = loglik_and_gradient(theta, replace(problem, tolerance=1e-10, max_steps=20 * MAX_STEPS))
        np.testing.assert_allclose(rough, fine, atol=0.02)
        scale = np.abs(fine_slopes * theta).max(axis=1, keepdims=True)
        np.testing.assert_allclose(rough_slopes * theta / scale, fine_slopes * theta / scale, atol=0.01)


class TestFailures:
    def test_an_absurd_patient_is_rejected_alone_and_counted(self, compiled, one_infusion):
        problem, theta = one_infusion.problem, individual(one_infusion, 5)
        absurd = theta.copy()
        absurd[2, problem.column("rho")] = np.nan
        absurd[5, problem.column("KE")] = -1.0
        counter = np.zeros(len(Status), dtype=np.int64)
        loglik, gradient = compiled(absurd, counter, np.ones(problem.n), *arrays(problem))
        wanted, slopes, status = loglik_and_gradient(absurd, problem)
        assert loglik[2] == -np.inf
        assert not gradient[2].any()
        assert status[2] != Status.SOLVED
        np.testing.assert_array_equal(loglik, wanted)
        np.testing.assert_array_equal(gradient, slopes)
        others = [i for i in range(problem.n) if i not in (2, 5)]
        np.testing.assert_allclose(loglik[others], loglik_and_gradient(theta, problem)[0][others], rtol=1e-9)
        np.testing.assert_array_equal(counter, np.bincount(status, minlength=len(Status)))
        assert counter.sum() == problem.n

    def test_a_limit_of_steps_rejects_instead_of_hanging(self, one_infusion):
        problem = replace(one_infusion.problem, max_steps=5)
        loglik, gradient, status = loglik_and_gradient(individual(one_infusion, 6), problem)
        assert (status == Status.STEP_LIMIT).all()
        assert (loglik == -np.inf).all()
        assert not gradient.any()

    @pytest.mark.parametrize("size", [1e3, 1e6, np.inf])
    def test_the_whole_density_is_minus_infinity_and_counts(self, one_infusion, size):
        h, b = one_infusion.point(np.random.default_rng(7))
        x = one_infusion.flat(h, b)
        good, _ = one_infusion.density(x)
        before = one_infusion.density.outcomes.copy()
        x[one_infusion.layout.hyper[0]] = size
        value, _ = one_infusion.density(x)
        counted = one_infusion.density.outcomes - before
        assert np.isfinite(good)
        assert value == -np.inf
        assert counted.sum() == one_infusion.problem.n
        assert counted[Status.SOLVED] < one_infusion.problem.n

    def test_solved_patients_are_counted_too(self, one_infusion):
        h, b = one_infusion.point(np.random.default_rng(8))
        before = one_infusion.density.outcomes.copy()
        one_infusion.density(one_infusion.flat(h, b))
        np.testing.assert_array_equal(one_infusion.density.outcomes - before, [one_infusion.problem.n, 0, 0, 0, 0])


def test_some_patients_alone(either):
    """`order` restricts the kernel; the rows of the others are 0."""
    theta = individual(either, 9)
    everyone, slopes, _ = loglik_and_gradient(theta, either.problem)
    few = np.array([4, 1], dtype=np.int64)
    loglik, gradient, _ = loglik_and_gradient(theta, either.problem, few)
    np.testing.assert_allclose(loglik[few], everyone[few], rtol=1e-6)
    np.testing.assert_allclose(gradient[few], slopes[few], rtol=1e-3, atol=1e-3)
    others = np.setdiff1d(np.arange(either.problem.n), few)
    assert not loglik[others].any()
    assert not gradient[others].any()
