"""The implicit solver: the classic stiff problems to their tolerance, its own gradient, events, failures."""

import numpy as np
import pytest

from reinfuse.model.simulate import Status

from . import stiff_problems
from .test_gradient import pose

BUDGET = 20_000
problems = pytest.mark.parametrize("problem", stiff_problems.PROBLEMS, ids=lambda p: p.name)


def size(problem):
    return np.abs(problem.solution) + np.array(problem.scales)


class TestStiffProblems:
    @problems
    @pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8, 1e-10])
    def test_the_error_is_below_the_tolerance(self, problem, tolerance):
        found, status = stiff_problems.solve(problem.kernel(), [problem.end], tolerance=tolerance, max_steps=BUDGET)
        assert np.max(np.abs(found[0] - problem.solution) / size(problem)) < tolerance
        # HIRES is only mildly stiff: within this budget the explicit method solves it
        assert status == (Status.SOLVED if problem.name == "hires" else Status.IMPLICIT)

    @problems
    def test_the_budget_decides_which_method_runs(self, problem):
        found, status = stiff_problems.solve(problem.kernel(), [problem.end], tolerance=1e-4, max_steps=500)
        assert status == Status.IMPLICIT
        assert np.max(np.abs(found[0] - problem.solution) / size(problem)) < 1e-4

    def test_a_finer_report_changes_the_answer_no_more_than_the_tolerance(self):
        problem = stiff_problems.PROBLEMS[1]
        times = np.linspace(0.0, problem.end, 101)
        found, _ = stiff_problems.solve(problem.kernel(), times, tolerance=1e-6, max_steps=BUDGET)
        assert np.max(np.abs(found[-1] - problem.solution) / size(problem)) < 1e-6

    def test_too_small_a_budget_for_both_is_a_failure(self):
        problem = stiff_problems.PROBLEMS[0]
        found, status = stiff_problems.solve(problem.kernel(), [problem.end], tolerance=1e-6, max_steps=20)
        assert status == Status.STEP_LIMIT
        assert np.isnan(found[0]).all()

    @problems
    def test_its_gradient_is_that_of_its_solution(self, problem):
        """d(last state)/d(factor): the adjoint against central differences."""
        kernel, end, none = problem.kernel(), 0.3 * problem.end, (np.zeros((1, 1)), np.zeros((1, 1), dtype=np.int64))

        def evaluate(factor):
            values = {"factor": factor, "sd": 1.0}
            theta = np.array([[values[name] for name in kernel.parameters]])
            loglik, grad, status = np.zeros(1), np.zeros(theta.shape), np.zeros(1, dtype=np.int64)
            kind = np.zeros((1, 1), dtype=np.int64)
            kernel.loglik_grad(
                np.arange(1), theta, *none, np.zeros(1, dtype=np.int64), np.array([[end]]), kind, kind,
                np.array([[1.0 + problem.solution[-1]]]), np.ones(1, dtype=np.int64),
                1e-10, BUDGET, True, loglik, grad, status,
            )  # fmt: skip
            assert status[0] in (Status.SOLVED, Status.IMPLICIT)
            return loglik[0], grad[0, kernel.parameters.index("factor")]

        step = 1e-4
        numerical = (
            8 * (evaluate(1 + step)[0] - evaluate(1 - step)[0])
            - (evaluate(1 + 2 * step)[0] - evaluate(1 - 2 * step)[0])
        ) / (12 * step)
        assert evaluate(1.0)[1] == pytest.approx(numerical, rel=1e-4, abs=1e-9)


STIFF = 2


@pytest.fixture(scope="module")
def posed():
    """Patients with up to three infusions; one whose soluble BCMA follows the burden within seconds."""
    problem = pose(3, seed=11)
    problem.theta[STIFF, problem.column("kS")] = 1e5
    return problem


class TestUnifiedModel:
    def test_it_takes_over_for_the_stiff_patient_alone(self, posed):
        _, _, status = posed.evaluate(tol=1e-6, max_steps=1500)
        wanted = np.full(posed.n, Status.SOLVED)
        wanted[STIFF] = Status.IMPLICIT
        np.testing.assert_array_equal(status, wanted)

    def test_both_methods_agree_where_both_can(self, posed):
        """The same patient with a budget that the explicit method can and cannot keep, not quite as stiff."""
        theta = posed.theta.copy()
        theta[STIFF, posed.column("kS")] = 30.0
        easy = posed.evaluate(theta, tol=1e-9, max_steps=30_000)
        hard = posed.evaluate(theta, tol=1e-9, max_steps=5000)
        assert easy[2][STIFF] == Status.SOLVED
        assert hard[2][STIFF] == Status.IMPLICIT
        assert hard[0][STIFF] == pytest.approx(easy[0][STIFF], rel=1e-7)
        scale = np.abs(theta[STIFF]) + 1e-12
        np.testing.assert_allclose(hard[1][STIFF] * scale, easy[1][STIFF] * scale, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", ["rho", "tg", "kS", "B0", "KE", "sS", "f0_2", "bridge_3", "hD"])
    def test_its_gradient_across_infusions_and_censoring(self, posed, name):
        def at(step):
            theta = posed.theta.copy()
            theta[STIFF, posed.column(name)] *= 1.0 + step
            loglik, grad, status = posed.evaluate(theta, tol=1e-9, max_steps=5000)
            assert status[STIFF] == Status.IMPLICIT
            return loglik[STIFF], grad[STIFF, posed.column(name)] * posed.theta[STIFF, posed.column(name)]

        step = 3e-4
        numerical = (8 * (at(step)[0] - at(-step)[0]) - (at(2 * step)[0] - at(-2 * step)[0])) / (12 * step)
        assert at(0.0)[1] == pytest.approx(numerical, rel=1e-5, abs=1e-5)
