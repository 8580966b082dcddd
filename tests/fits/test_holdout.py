"""Forecasts: what is withheld stays withheld, and what is predicted is predicted from the rest."""

import dataclasses

import numpy as np
import pytest

from reinfuse.fits.assays import ASSAYS
from reinfuse.fits.comparison import integrated_loglik
from reinfuse.fits.holdout import CUTOFF, RISK_DAY, _conditional_draw, _left_out, early, forecast
from reinfuse.fits.likelihood_op import loglik_and_gradient
from reinfuse.fits.results import DEGREES, Draws, observed, simulate_draws
from reinfuse.fits.run import RunFolder, provenance
from reinfuse.model.equations.bcma import IMMUNOFIXATION

from .gaussian_model import GaussianModel


def kept(problem, i):
    """Records of a patient: day, kind, family, value."""
    arrays = (problem.ob_time, problem.ob_kind, problem.ob_family, problem.ob_value)
    return [tuple(a[i, j] for a in arrays) for j in range(problem.n_ob[i])]


class TestEarly:
    @pytest.mark.parametrize("cutoff", [0.0, 20.0, 40.0, 1e4])
    def test_only_assays_up_to_the_day_are_left(self, either, cutoff):
        problem, found = either.problem, early(either.problem, cutoff)
        events = [problem.kernel.kinds.index(name) for name in ("progression", "death")]
        for i in range(problem.n):
            wanted = [r for r in kept(problem, i) if r[0] <= cutoff and r[1] not in events]
            assert kept(found, i) == wanted
        assert found.n_ob.sum() < problem.n_ob.sum()

    def test_the_problem_itself_is_left_alone(self, one_infusion):
        before = one_infusion.problem.ob_time.copy()
        found = early(one_infusion.problem, 20.0)
        np.testing.assert_array_equal(one_infusion.problem.ob_time, before)
        assert found.kernel is one_infusion.problem.kernel
        assert found.patients == one_infusion.problem.patients

    def test_a_late_value_no_longer_matters(self, one_infusion):
        problem = one_infusion.problem
        posterior = one_infusion.posterior
        h, b = one_infusion.point(np.random.default_rng(1))
        theta = posterior.design.theta(h[: posterior.d], h[posterior.d + posterior.spreads :], b)
        changed = early(problem, 40.0)
        late = problem.ob_time > 40.0
        values = problem.ob_value.copy()
        values[late] += 5.0
        other = early(dataclasses.replace(problem, ob_value=values), 40.0)
        np.testing.assert_array_equal(loglik_and_gradient(theta, changed)[0], loglik_and_gradient(theta, other)[0])
        assert (loglik_and_gradient(theta, changed)[0] != loglik_and_gradient(theta, problem)[0]).all()


class TestLeftOut:
    def test_a_patient_who_says_nothing_leaves_the_draws_as_they_are(self):
        loglik = np.full((500, 2), -4.0) + 1e-9 * np.random.default_rng(2).standard_normal((500, 2))
        places = _left_out(loglik, 500, np.random.default_rng(3))
        for column in places.T:
            assert np.abs(np.sort(column) - np.arange(500)).max() <= 1

    def test_draws_that_a_patient_drew_in_are_weighed_down(self):
        """A draw that makes the patient e times likelier is taken e times less often."""
        rng = np.random.default_rng(4)
        high = rng.uniform(size=2000) < 0.5
        loglik = (1.0 * high)[:, None] + 1e-9 * rng.standard_normal((2000, 1))
        places = _left_out(loglik, 2000, np.random.default_rng(5))[:, 0]  # smoothing changes the tail alone
        share = high[places].mean()
        before = high.mean()
        wanted = before / np.e / (before / np.e + 1.0 - before)
        assert share == pytest.approx(wanted, abs=0.02)

    def test_few_draws_are_weighed_without_smoothing(self):
        loglik = np.log([[1.0], [2.0], [4.0], [4.0]])
        places = _left_out(loglik, 4000, np.random.default_rng(6))[:, 0]
        np.testing.assert_allclose(np.bincount(places, minlength=4) / 4000, [0.5, 0.25, 0.125, 0.125], atol=1e-3)


def test_conditional_draws_leave_the_conditional_as_it_is():
    """Started in exact draws of the deviations given the population, trajectories end in such draws."""
    model = GaussianModel()
    rng = np.random.default_rng(6)
    h, b = model.draw(400, rng)
    coordinates = model.coordinates(wrong=0.3)
    after = np.array([_conditional_draw(model, coordinates, a, c, rng) for a, c in zip(h, b, strict=True)])
    omega2 = np.exp(2.0 * h[:, None, model.log_sd])
    residual = np.array([model.y - model.location(a, np.zeros_like(c)) for a, c in zip(h, b, strict=True)])
    share = omega2 / (omega2 + model.tau**2)
    z = (after - share * residual) / (np.sqrt(share) * model.tau)
    assert z.mean() == pytest.approx(0.0, abs=4.0 / np.sqrt(z.size))
    assert z.std() == pytest.approx(1.0, abs=4.0 / np.sqrt(2 * z.size))
    # and they move: an end has nothing of its start
    start = (b - share * residual) / (np.sqrt(share) * model.tau)
    assert np.corrcoef(z.ravel(), start.ravel())[0, 1] < 0.3


class TestForecast:
    UNTIL = 130.0
    COUNT = 40

    @pytest.fixture(scope="class")
    @classmethod
    def draws(cls, one_infusion):
        rng = np.random.default_rng(8)
        points = [one_infusion.flat(*one_infusion.point(rng, spread=0.2)) for _ in range(cls.COUNT)]
        return Draws(one_infusion.problem, np.array(points)[None])

    @pytest.fixture(scope="class")
    @classmethod
    def loglik(cls, one_infusion, draws):
        rng = np.random.default_rng(9)
        return integrated_loglik(one_infusion.posterior, one_infusion.coordinates, draws, rng)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, one_infusion, draws, loglik):
        rng = np.random.default_rng(10)
        return forecast(one_infusion.problem, one_infusion.coordinates, draws, loglik, rng, until=cls.UNTIL)

    def test_rows_are_the_late_assays_of_the_cohort(self, one_infusion, found):
        rows = observed(one_infusion.problem)
        late = (rows["time"].values > CUTOFF) & (rows["time"].values <= self.UNTIL)
        assert found.sizes["row"] == int(late.sum()) > 5
        for name in ("patient", "time", "dvid", "value", "cens", "product"):
            np.testing.assert_array_equal(found[name].values, rows[name].values[late])

    def test_predictions_are_finite_and_carry_their_error(self, found):
        assert found["prediction"].dims == ("sample", "row")
        assert np.isfinite(found["prediction"]).all()
        assert (found["sigma"] > 0).all()
        assert float(found["nu"]) == DEGREES
        assert found.attrs["cutoff_day"] == CUTOFF

    def test_predictions_are_the_curves_of_the_draws(self, one_infusion):
        """On the scale of the residuals: 0.05 g/dL is added to M-protein before its logarithm."""
        problem = one_infusion.problem
        x = np.repeat(one_infusion.flat(*one_infusion.point(np.random.default_rng(11)))[None, None], 30, axis=1)
        rng = np.random.default_rng(12)
        same = Draws(problem, x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("reinfuse.fits.holdout._conditional_draw", lambda posterior, c, h, start, rng: start)
            nothing = np.zeros((30, problem.n))
            found = forecast(problem, one_infusion.coordinates, same, nothing, rng, until=self.UNTIL)
        times = np.unique([*found["time"].values, RISK_DAY])
        curve = simulate_draws(problem, same.theta(0, 0)[None], times)
        seen = set()
        for row in range(found.sizes["row"]):
            name, patient = str(found["dvid"].values[row]), str(found["patient"].values[row])
            at = int(np.searchsorted(times, found["time"].values[row]))
            value = curve[name][0, problem.patients.index(patient), at]
            wanted = np.log(value + (IMMUNOFIXATION if name == "mprotein" else 0.0))
            np.testing.assert_allclose(found["prediction"].values[:, row], wanted, atol=1e-6)
            seen.add(name)
        assert seen == {"transgene", "cart", "sbcma", "mprotein"}
        hazard = curve["H"][0, :, int(np.searchsorted(times, RISK_DAY))]
        np.testing.assert_allclose(found["risk"], hazard, rtol=1e-6)

    def test_risk_is_a_probability_like_number_for_every_patient(self, one_infusion, found):
        assert found["subject"].values.tolist() == list(one_infusion.problem.patients)
        assert (found["risk"] > 0).all()
        assert np.isfinite(found["risk"]).all()

    def test_what_was_withheld_has_no_influence(self, one_infusion, draws, loglik, found):
        """Other late values, other outcomes: the same forecast, bit for bit."""
        problem = one_infusion.problem
        values, family = problem.ob_value.copy(), problem.ob_family.copy()
        late = problem.ob_time > CUTOFF
        values[late] -= 3.0
        progression = problem.kernel.kinds.index("progression")
        family[problem.ob_kind == progression] = 7 - family[problem.ob_kind == progression]  # event and no event
        other = dataclasses.replace(problem, ob_value=values, ob_family=family)
        again = forecast(other, one_infusion.coordinates, draws, loglik, np.random.default_rng(10), until=self.UNTIL)
        np.testing.assert_array_equal(again["prediction"], found["prediction"])
        np.testing.assert_array_equal(again["risk"], found["risk"])

    def test_an_early_value_has(self, one_infusion, draws, loglik, found):
        problem = one_infusion.problem
        values = problem.ob_value.copy()
        assay = problem.ob_kind < ASSAYS.index("progression")
        values[assay & (problem.ob_time <= CUTOFF)] -= 3.0
        other = dataclasses.replace(problem, ob_value=values)
        again = forecast(other, one_infusion.coordinates, draws, loglik, np.random.default_rng(10), until=self.UNTIL)
        assert (again["prediction"] != found["prediction"]).mean() > 0.3

    def test_a_run_takes_it(self, found, tmp_path):
        run = RunFolder.create(tmp_path / "run")
        run.write_provenance(
            provenance(
                seed=1,
                cohort_sha256="0" * 64,
                sampler="none",
                model="bcma",
                options="real",
                variant="full",
                status="done",
                command=["fit"],
            )
        )
        run.write_forecast(found)
        back = RunFolder.open(run.path).forecast()
        np.testing.assert_array_equal(back["prediction"], found["prediction"])
        assert back["dvid"].values.tolist() == found["dvid"].values.tolist()
