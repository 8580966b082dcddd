"""The steps written out from the tableau do what the readable loops of `stub` do."""

from types import SimpleNamespace

import numba
import numpy as np
import pytest

from reinfuse.model.kernels import stub
from reinfuse.model.kernels.lanes import WIDTH, store

from . import small_models as small
from .test_driver import START, coefficients


@numba.njit(error_model="numpy")
def attempted(attempt, table, stages, k, c, t, h, times, square):
    """A step from stage 0, whose rates are in ``k``."""
    store(square, 0, attempt(table, stages, 0, k, c, t, h, 1e-3, times))


@pytest.fixture
def arrays():
    """States of eight patients at stage 0, any rates there, times and lengths of their own."""
    rng, kernel = np.random.default_rng(4), small.compiled()
    states, slots = len(kernel.states), stub.SLOTS
    stages, k = np.zeros(slots * states * WIDTH), np.zeros(slots * states * WIDTH)
    stages[: states * WIDTH] = np.repeat(START, WIDTH) + 0.3 * rng.normal(size=states * WIDTH)
    k[: states * WIDTH] = rng.normal(size=states * WIDTH)
    size = slots * states * WIDTH
    return SimpleNamespace(
        kernel=kernel,
        stages=stages,
        k=k,
        c=coefficients(kernel),
        t=rng.uniform(0.0, 5.0, WIDTH),
        h=rng.uniform(0.1, 0.6, WIDTH),
        kb=rng.normal(size=size),
        lam=rng.normal(size=states * WIDTH),
        direct=rng.normal(size=states * WIDTH),
    )


def step_of(module, a):
    stages, k, square = a.stages.copy(), a.k.copy(), np.empty(WIDTH)
    attempted(module.attempt, a.kernel.table, stages, k, a.c, a.t, a.h, np.zeros(WIDTH), square)
    return stages, k, square


def test_a_step_and_its_error(arrays):
    found, wanted = step_of(arrays.kernel.solver, arrays), step_of(stub, arrays)
    for one, other in zip(found, wanted, strict=True):
        assert np.any(other != 0.0)
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_the_interpolant(x):
    found, wanted = np.empty(stub.SLOTS), np.empty(stub.SLOTS)
    small.compiled().solver.weigh(x, found)
    stub.weigh(x, wanted)
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("touched", [False, True])
def test_the_adjoint_of_a_step(arrays, touched):
    stages, *_ = step_of(stub, arrays)
    results = []
    for module in (arrays.kernel.solver, stub):
        kb, yb, lam, cb = arrays.kb.copy(), np.zeros_like(arrays.kb), arrays.lam.copy(), np.zeros_like(arrays.c)
        module.attempt_pullback(
            arrays.kernel.table, stages, 0, kb, yb, lam, arrays.direct.copy(), touched, arrays.c, cb,
            arrays.t, arrays.h, np.zeros(WIDTH),
        )  # fmt: skip
        results.append((lam, cb))
    for one, other in zip(*results, strict=True):
        assert np.any(other != 0.0)
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
