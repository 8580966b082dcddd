"""Tables of a forecast: quantiles of weighted draws, measurements given no progression, chances by month."""

import numpy as np
import pytest

from reinfuse.fits.forecasting.posterior import PatientPosterior
from reinfuse.fits.forecasting.predictions import (
    CURVE,
    MEASUREMENT,
    Predictions,
    days,
    months,
    weighted_quantiles,
)
from reinfuse.fits.results import DEGREES
from reinfuse.model.equations.bcma import EARLY

from .patients import patient, populations, without_data


class TestQuantiles:
    def test_equal_weights_are_ordinary_quantiles(self):
        values = np.random.default_rng(1).standard_normal((4001, 3))
        found = weighted_quantiles(values, np.ones_like(values), [0.1, 0.5, 0.9])
        np.testing.assert_allclose(found, np.quantile(values, [0.1, 0.5, 0.9], axis=0), atol=5e-3)

    def test_a_weight_of_two_is_the_draw_twice(self):
        rng = np.random.default_rng(2)
        values, weights = rng.standard_normal((300, 1)), rng.integers(0, 4, (300, 1)).astype(float)
        twice = np.repeat(values[:, 0], weights[:, 0].astype(int))[:, None]
        found = weighted_quantiles(values, weights, [0.25, 0.5, 0.75])
        np.testing.assert_allclose(found, weighted_quantiles(twice, np.ones_like(twice), [0.25, 0.5, 0.75]), atol=0.03)

    def test_without_weight_there_is_no_answer(self):
        assert np.isnan(weighted_quantiles(np.ones((3, 1)), np.zeros((3, 1)), [0.5])).all()


def test_days_hold_every_month_and_what_is_asked_for():
    assert days(365.0, 401.0).max() == 401.0
    assert set(months(365.0)) <= set(days(365.0))
    assert months(365.0).size == 12
    assert months(365.0)[-1] == 365.0
    assert days(20.0).tolist() == list(range(21))


@pytest.fixture(scope="module")
def posterior(one_infusion):
    """Draws that nothing has weighed."""
    rng = np.random.default_rng(3)
    h = populations(one_infusion, 300, rng, 0.3)
    sd = np.exp(h[:, one_infusion.posterior.log_sd])
    return PatientPosterior(
        patient=patient(without_data(one_infusion), cohort=one_infusion.cohort.__class__(
            table=one_infusion.cohort.table.iloc[:1], name="one", sha256=""
        )),
        hyper=h,
        place=np.arange(300),
        deviation=sd * rng.standard_normal(sd.shape),
        log_weight=np.full(300, -np.log(300.0)),
        pareto_k=float("nan"),
        error=0.0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def predictions(posterior):
    return Predictions(posterior, days(360.0))


class TestForecast:
    def test_intervals_lie_within_each_other_around_the_median(self, predictions):
        table = predictions.forecast()
        columns = ["low_95", "low_80", "low_50", "median", "high_50", "high_80", "high_95"]
        assert (np.diff(table[columns].to_numpy(), axis=1) >= 0).all()
        assert set(table["of"]) == {CURVE, MEASUREMENT}
        assert set(table["assay"]) == {"transgene", "cart", "sbcma", "mprotein"}
        assert not table.isna().any().any()

    def test_a_measurement_is_wider_than_its_curve(self, predictions):
        table = predictions.forecast().query("assay == 'sbcma'").set_index("time")
        curve, measured = (table[table["of"] == of] for of in (CURVE, MEASUREMENT))
        for level in (50, 80, 95):
            widths = (part[f"high_{level}"] / part[f"low_{level}"] for part in (curve, measured))
            assert next(widths).lt(next(widths)).all()

    def test_the_residual_is_students(self, posterior):
        """One draw alone: quantiles of a measurement are those of its residual."""
        only = np.where(np.arange(300) == 4, 0.0, -np.inf)
        one = PatientPosterior(**{**vars(posterior), "log_weight": only})
        found = Predictions(one, np.array([0.0, 20.0, 40.0]))
        centre, sigma = found.centre("sbcma")
        noise = np.random.default_rng(5).standard_t(DEGREES, 400_000)
        levels = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
        wanted = centre[4, 1] + sigma[4, 0] * np.quantile(noise, levels)
        ours = np.log(found.quantiles("sbcma", levels, measured=True)[:, 1])
        np.testing.assert_allclose(ours, wanted, atol=0.03 * sigma[4, 0])

    def test_a_measurement_is_one_without_progression_before(self, predictions):
        at = int(np.searchsorted(predictions.times, 300.0))
        survival = np.exp(-predictions.simulated["H"][:, at])
        np.testing.assert_allclose(predictions.weights[:, at], survival / 300, rtol=1e-12)
        values, weights = predictions.simulated["sbcma"][:, at], survival / survival.sum()
        order = np.argsort(values)
        middle = values[order][np.searchsorted(np.cumsum(weights[order]), 0.5)]
        assert predictions.quantiles("sbcma", [0.5], measured=False)[0, at] == pytest.approx(middle, rel=0.05)


class TestProgression:
    def test_chances_are_means_over_draws(self, predictions):
        table = predictions.progression(360.0)
        month = table.iloc[5]
        at = int(np.searchsorted(predictions.times, month["day"]))
        chance = 1.0 - np.exp(-predictions.simulated["H"][:, at])
        assert month["probability"] == pytest.approx(chance.mean())
        assert month["mc_error"] == pytest.approx(chance.std() / np.sqrt(300), rel=1e-6)
        assert table["probability"].is_monotonic_increasing
        assert (table["low_95"] <= table["low_50"]).all()

    def test_who_is_free_until_a_day_has_no_risk_before_it(self, predictions, monkeypatch):
        free = 100.0
        monkeypatch.setattr(type(predictions.posterior.patient), "free_until", property(lambda _: free))
        later = Predictions(predictions.posterior, days(360.0, free))
        table = later.progression(360.0)
        assert table["day"].min() > free
        since = int(np.searchsorted(later.times, free))
        at = int(np.searchsorted(later.times, table["day"].iloc[-1]))
        last = later.simulated["H"][:, at] - later.simulated["H"][:, since]
        assert table["probability"].iloc[-1] == pytest.approx((1.0 - np.exp(-last)).mean())
        assert later.hazard[:, : since + 1].max() == 0.0

    def test_nobody_is_assessed_in_the_first_days(self, predictions):
        assert (predictions.hazard[:, predictions.times < EARLY] == 0).all()

    def test_who_has_progressed_has(self, predictions, monkeypatch):
        monkeypatch.setattr(type(predictions.posterior.patient), "progressed_on", property(lambda _: 70.0))
        table = Predictions(predictions.posterior, days(360.0)).progression(360.0)
        assert table["month"].min() == 3
        assert (table["probability"] == 1.0).all()
