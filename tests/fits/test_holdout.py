"""Forecasts: what is withheld stays withheld, and what is predicted is predicted from the rest."""

import dataclasses

import numpy as np
import pytest

from reinfuse.fits.assays import ASSAYS
from reinfuse.fits.diagnosis.scores import mixture_rank_bounds
from reinfuse.fits.holdout import (
    HORIZONS,
    KEPT,
    RISK_DAY,
    conditional_draws,
    early,
    explore,
    forecast,
    late_rows,
    left_out,
)
from reinfuse.fits.likelihood_op import loglik_and_gradient
from reinfuse.fits.results import DEGREES, Draws, observed, simulate_draws
from reinfuse.fits.run import RunFolder, provenance
from reinfuse.model.densities import Family
from reinfuse.model.equations.bcma import IMMUNOFIXATION

from .gaussian_model import EFFECT, LOADING, P1, P2, S1, S2, GaussianModel


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
    def test_a_patient_who_says_nothing_later_leaves_the_draws_as_they_are(self):
        hyper = np.random.default_rng(2).standard_normal((500, 3))
        np.testing.assert_allclose(np.exp(left_out(np.zeros((2, 3)), hyper)), 1 / 500)

    def test_weights_undo_what_the_late_data_did_to_the_population(self):
        """Draws tilted by exp(slope h) come back to the standard normal they were tilted from."""
        rng = np.random.default_rng(4)
        slope = np.array([[0.5, -0.3]])
        hyper = rng.standard_normal((20_000, 2)) + slope  # a tilted normal is a shifted one
        weights = np.exp(left_out(slope, hyper))
        assert weights.sum() == pytest.approx(1.0)
        np.testing.assert_allclose((weights * hyper).sum(axis=0), 0.0, atol=0.04)
        np.testing.assert_allclose((weights * hyper**2).sum(axis=0), 1.0, atol=0.06)


class Patients(GaussianModel):
    """The Gaussian model with complete scores, as `geometry.Posterior` has them."""

    def patients(self, h, b):
        value, slope = self.loglik(h, b)
        by_h, square = np.zeros((self.n, h.size)), b * b * np.exp(-2.0 * h[self.log_sd])
        by_h[:, [P1, P2]], by_h[:, EFFECT] = slope, self.group * slope[:, 0]
        by_h[:, [S1, S2]] = self.covariates * (slope @ LOADING)[:, None]
        by_h[:, self.log_sd] = square - 1.0
        return value - 0.5 * square.sum(axis=1), slope, by_h


def test_the_mean_score_is_the_slope_of_the_integrated_likelihood(monkeypatch):
    """Fisher's identity, against the closed form of a Gaussian model; deviations are those given the population."""
    monkeypatch.setattr("reinfuse.fits.holdout.EXPLORED", 4000)
    model, rng = Patients(), np.random.default_rng(5)
    h = model.draw(1, rng)[0][0]
    found = explore(model, h, rng)

    def integrated(at):
        variance = np.exp(2.0 * at[model.log_sd]) + model.tau**2
        residual = model.y - model.location(at, np.zeros((model.n, 2)))
        return (-0.5 * residual**2 / variance - 0.5 * np.log(variance)).sum(axis=1)

    complete = np.array([model.patients(h, b)[2] for b in found.deviations])
    error = complete.std(axis=0) / np.sqrt(len(complete) / 10)  # draws of one chain, a few trajectories apart
    for k in range(h.size):
        step = 1e-5 * (np.arange(h.size) == k)
        wanted = (integrated(h + step) - integrated(h - step)) / 2e-5
        assert (np.abs(found.score[:, k] - wanted) <= 4.0 * error[:, k] + 1e-6).all()
    omega2 = np.exp(2.0 * h[model.log_sd])
    share = omega2 / (omega2 + model.tau**2)
    residual = model.y - model.location(h, np.zeros((model.n, 2)))
    np.testing.assert_allclose(found.deviations.mean(axis=0), share * residual, atol=0.1)
    np.testing.assert_allclose(found.deviations.std(axis=0), np.sqrt(share) * model.tau, rtol=0.1)


def test_conditional_draws_leave_the_conditional_as_it_is():
    """Started in exact draws of the deviations given the population, trajectories end in such draws."""
    model = GaussianModel()
    rng = np.random.default_rng(6)
    h, b = model.draw(400, rng)
    coordinates = model.coordinates(wrong=0.3)
    step = np.full(b.shape[1], 0.5)
    after = np.array(
        [
            conditional_draws(model.conditional(a), coordinates.roots(a), step, c, rng)[-1]
            for a, c in zip(h, b, strict=True)
        ]
    )
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
    CUTOFFS = (14.0, 40.0)
    COUNT = 40

    @pytest.fixture(scope="class")
    @classmethod
    def draws(cls, one_infusion):
        rng = np.random.default_rng(8)
        points = [one_infusion.flat(*one_infusion.point(rng, spread=0.2)) for _ in range(cls.COUNT)]
        return Draws(one_infusion.problem, np.array(points)[None])

    @classmethod
    def made(cls, problem, draws):
        return forecast(problem, draws, np.random.default_rng(10), until=cls.UNTIL, cutoffs=cls.CUTOFFS)

    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, one_infusion, draws):
        return cls.made(one_infusion.problem, draws)

    def test_rows_are_the_late_assays_of_the_cohort_the_same_from_every_cutoff(self, one_infusion, found):
        rows = observed(one_infusion.problem)
        late = (rows["time"].values > max(self.CUTOFFS)) & (rows["time"].values <= self.UNTIL)
        for cutoff in self.CUTOFFS:
            own = found.isel(row=found["cutoff_day"].values == cutoff)
            assert own.sizes["row"] == int(late.sum()) > 5
            for name in ("patient", "time", "dvid", "value", "cens", "product"):
                np.testing.assert_array_equal(own[name].values, rows[name].values[late])

    def test_rows_after_a_second_infusion_are_not_forecast(self, two_infusions):
        problem = two_infusions.problem
        rows = late_rows(problem, 0.0, 1e4)
        second = dict(zip(problem.patients, problem.base[:, problem.column("day_2")], strict=True))
        assert all(day < second[name] for name, day in zip(rows["patient"].values, rows["time"].values, strict=True))
        assert 0 < rows.sizes["row"] < observed(problem).sizes["observation"]

    def test_predictions_are_finite_and_carry_their_error(self, found):
        assert found["prediction"].dims == ("sample", "row")
        assert found.sizes["sample"] == self.COUNT * KEPT
        assert np.isfinite(found["prediction"]).all()
        assert np.isfinite(found["log_weight"]).all()
        assert (found["sigma"] > 0).all()
        assert float(found["nu"]) == DEGREES

    def test_predictions_are_the_curves_of_the_draws_given_that_the_sample_is_taken(self, one_infusion):
        """On the scale of the residuals: 0.05 g/dL is added to M-protein before its logarithm."""
        problem = one_infusion.problem
        x = np.repeat(one_infusion.flat(*one_infusion.point(np.random.default_rng(11)))[None, None], 30, axis=1)
        same = Draws(problem, x)
        with pytest.MonkeyPatch.context() as patch:
            kept = np.repeat(same.deviation[0, 0][None], KEPT, axis=0)
            patch.setattr("reinfuse.fits.holdout.conditional_draws", lambda *_: kept)
            found = self.made(problem, same)
        times = np.unique([*found["time"].values, *self.CUTOFFS, *HORIZONS])
        curve = simulate_draws(problem, same.theta(0, 0)[None], times)
        seen = set()
        for row in range(found.sizes["row"]):
            name, patient = str(found["dvid"].values[row]), str(found["patient"].values[row])
            at = 0, problem.patients.index(patient), int(np.searchsorted(times, found["time"].values[row]))
            wanted = np.log(curve[name][at] + (IMMUNOFIXATION if name == "mprotein" else 0.0))
            np.testing.assert_allclose(found["prediction"].values[:, row], wanted, atol=1e-6)
            # equal populations have equal weights, times the chance of having come so far
            np.testing.assert_allclose(
                found["log_weight"].values[:, row], -np.log(30) - curve["H"][at], rtol=1e-5, atol=1e-6
            )
            seen.add(name)
        assert seen == {"transgene", "cart", "sbcma", "mprotein"}
        hazard = {day: curve["H"][0, :, int(np.searchsorted(times, day))] for day in (*self.CUTOFFS, *HORIZONS)}
        for cutoff in self.CUTOFFS:
            np.testing.assert_allclose(found["risk"].sel(cutoff=cutoff), hazard[RISK_DAY], rtol=1e-5)
            for day in HORIZONS:
                wanted = np.exp(hazard[cutoff] - hazard[day])
                np.testing.assert_allclose(found["free"].sel(cutoff=cutoff, horizon=day), wanted, rtol=1e-5)

    def test_chances_of_being_free_are_chances_and_fall(self, one_infusion, found):
        assert found["subject"].values.tolist() == list(one_infusion.problem.patients)
        free = found["free"].values
        assert ((free > 0) & (free <= 1)).all()
        assert (np.diff(free, axis=-1) <= 0).all()

    @pytest.mark.parametrize("cutoff", CUTOFFS)
    def test_what_was_withheld_has_no_influence_but_through_the_population(self, one_infusion, draws, found, cutoff):
        """Other late values, other outcomes: the same predictions, bit for bit; only weights of populations move."""
        problem = one_infusion.problem
        values, family = problem.ob_value.copy(), problem.ob_family.copy()
        values[problem.ob_time > cutoff] -= 3.0
        progression = problem.kernel.kinds.index("progression")
        family[problem.ob_kind == progression] = 7 - family[problem.ob_kind == progression]  # event and no event
        again = self.made(dataclasses.replace(problem, ob_value=values, ob_family=family), draws)
        mine = found["cutoff_day"].values == cutoff
        np.testing.assert_array_equal(again["prediction"].values[:, mine], found["prediction"].values[:, mine])
        assert (again["log_weight"].values[:, mine] != found["log_weight"].values[:, mine]).any()

    def test_starts_do_not_matter(self, one_infusion, draws, found):
        """The fit's own deviations, which saw the late data, are not used at all."""
        moved = np.full_like(draws.deviation[0, 0], 9.0)
        points = [one_infusion.flat(draws.hyper(0, k), moved) for k in range(self.COUNT)]
        other = Draws(one_infusion.problem, np.array(points)[None])
        again = self.made(one_infusion.problem, other)
        np.testing.assert_array_equal(again["prediction"], found["prediction"])

    def test_an_early_value_has_an_influence(self, one_infusion, draws, found):
        problem = one_infusion.problem
        values = problem.ob_value.copy()
        assay = problem.ob_kind < ASSAYS.index("progression")
        values[assay & (problem.ob_time <= min(self.CUTOFFS))] -= 3.0
        again = self.made(dataclasses.replace(problem, ob_value=values), draws)
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


@pytest.mark.slow
def test_forecasts_of_the_model_that_made_the_data_are_calibrated(one_infusion):
    """Patients drawn from the population, seen until day 30; samples exist for those who have not progressed.

    Ranks of the later samples are uniform: mean 1/2, and 80 % of them in the central 80 %.
    """
    problem, rng = one_infusion.problem, np.random.default_rng(13)
    h = one_infusion.posterior.prior_mean
    kinds, assays = problem.kernel.kinds, [k for k in problem.kernel.kinds if k in problem.observables]
    ranks = []
    for _ in range(8):
        b = np.exp(h[one_infusion.posterior.log_sd]) * rng.standard_normal((problem.n, one_infusion.posterior.q))
        draws = Draws(problem, np.tile(one_infusion.flat(h, b), (1, 30, 1)))
        times = np.unique([*problem.ob_time.ravel(), *observed(problem)["time"].values])
        curve = simulate_draws(problem, draws.theta(0, 0)[None], times)
        sd = {name: float(np.exp(h[list(problem.population).index(f"sigma_{name}")])) for name in assays}

        def measured(name, patient, day, curve=curve, times=times, sd=sd):
            value = curve[name][0, patient, int(np.searchsorted(times, day))]
            offset = IMMUNOFIXATION if name == "mprotein" else 0.0
            return np.log(value + offset) + sd[name] * rng.standard_t(DEGREES)

        values, family = problem.ob_value.copy(), problem.ob_family.copy()
        for i in range(problem.n):
            for j in range(problem.n_ob[i]):
                if kinds[problem.ob_kind[i, j]] in assays:
                    values[i, j] = measured(kinds[problem.ob_kind[i, j]], i, problem.ob_time[i, j])
                    family[i, j] = Family.QUANTIFIED
        made = dataclasses.replace(problem, ob_value=values, ob_family=family)
        found = forecast(made, draws, rng, until=130.0, cutoffs=(30.0,))
        endured = rng.exponential(size=problem.n)
        for row in range(found.sizes["row"]):
            patient, day = problem.patients.index(str(found["patient"].values[row])), float(found["time"].values[row])
            name = str(found["dvid"].values[row])
            if endured[patient] < curve["H"][0, patient, int(np.searchsorted(times, day))]:
                continue  # progressed: no sample is taken
            low, _ = mixture_rank_bounds(
                np.array([measured(name, patient, day)]),
                [0],
                centre=found["prediction"].values[:, [row]],
                sigma=found["sigma"].values[:, [row]],
                nu=DEGREES,
                log_weights=found["log_weight"].values[:, [row]],
            )
            ranks.append((patient, float(low[0])))
    value = np.array([rank for _, rank in ranks])
    assert value.size > 100
    # rows of a patient go together: about three rows to a patient are worth one and a half
    error = np.sqrt(2.0 / value.size)
    assert value.mean() == pytest.approx(0.5, abs=3.0 * error * np.sqrt(1 / 12))
    assert (np.abs(value - 0.5) < 0.4).mean() == pytest.approx(0.8, abs=3.0 * error * 0.4)
