"""Progression from a cut-off day on: closed forms of the scores, and rivals that see no outcome of their own."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reinfuse.fits.diagnosis import forecasts, landmark, progression, scores


def course(n=60, seed=1):
    rng = np.random.default_rng(seed)
    risk = rng.standard_normal(n)
    time = 40.0 + rng.exponential(200.0 * np.exp(-risk))
    followed = 40.0 + rng.uniform(50.0, 400.0, n)
    table = pd.DataFrame(
        {
            "patient": [f"P{i}" for i in range(n)],
            "product": np.where(np.arange(n) % 3 == 0, "cilta-cel", "ide-cel"),
            "time": np.minimum(time, followed),
            "event": (time <= followed).astype(int),
        }
    )
    return table, risk, time


class TestBrier:
    def test_without_censoring_it_is_the_mean_squared_error(self):
        time, event = np.array([50.0, 100.0, 200.0, 300.0]), np.ones(4, dtype=bool)
        free = np.array([0.1, 0.4, 0.7, 0.9])
        np.testing.assert_allclose(landmark.brier(time, event, free, 180.0), [0.01, 0.16, 0.09, 0.01])

    def test_censoring_does_not_bias_it(self):
        _, _, time = course(4000)
        rng = np.random.default_rng(3)
        free = rng.uniform(size=time.size)
        followed = 40.0 + rng.exponential(300.0, time.size)
        whole = landmark.brier(time, np.ones(time.size, bool), free, 180.0).mean()
        seen = landmark.brier(np.minimum(time, followed), time <= followed, free, 180.0)
        assert seen.mean() == pytest.approx(whole, abs=4.0 * seen.std() / np.sqrt(seen.size))


class TestRivals:
    def test_nobodys_own_outcome_is_seen(self):
        table, _, _ = course()
        before = landmark.by_kaplan_meier(table, 40.0, 180.0)
        changed = table.copy()
        changed.loc[7, ["time", "event"]] = [45.0, 1]
        after = landmark.by_kaplan_meier(changed, 40.0, 180.0)
        assert after[7] == before[7]
        others = (table["product"] == table["product"][7]) & (table.index != 7)
        assert (after[others] != before[others]).all()

    def test_a_cox_model_finds_the_risk_that_drives_progression(self):
        table, risk, _ = course(120)
        free = landmark.by_cox(table, risk, 40.0, 180.0)
        truth = np.exp(-140.0 / (200.0 * np.exp(-risk)))
        assert np.corrcoef(free, truth)[0, 1] > 0.95
        assert np.abs(free - truth).mean() < 0.12

    def test_who_left_before_the_cutoff_is_not_forecast(self):
        table, _, _ = course()
        left = landmark.at_risk(table, 100.0)
        assert (left["time"] > 100.0).all()
        assert 0 < len(left) < len(table)


def test_thirds_of_a_true_forecast_lie_on_the_line():
    table, risk, _ = course(3000)
    truth = np.exp(-140.0 / (200.0 * np.exp(-risk)))
    found = landmark.thirds(table, truth, cutoff=40.0, day=180.0)
    assert found["n"].sum() == 3000
    np.testing.assert_allclose(found["predicted"], found["observed"], atol=0.05)
    assert found["predicted"].is_monotonic_increasing


def test_a_third_without_an_event_by_the_day_has_the_width_of_the_exact_binomial():
    """Events after the day do not make Greenwood's interval any wider."""
    table = pd.DataFrame({"patient": list("abcdef"), "time": 250.0, "event": progression.PROGRESSED, "product": "x"})
    found = landmark.thirds(table, np.linspace(0.9, 0.4, 6), cutoff=40.0, day=180.0)
    assert (found["observed"] == 0).all()
    np.testing.assert_allclose(found["upper"], 1.0 - 0.025**0.5)


class TestRankedProbability:
    def test_of_a_normal_forecast_it_is_the_closed_form(self):
        """Gneiting and Raftery 2007, equation 5, by a finely drawn normal."""
        z, shares = np.array([-1.0, 0.2, 2.5]), (np.arange(400) + 0.5) / 400
        centre = np.repeat(stats.norm.ppf(shares)[:, None] * 0.6, 3, axis=1)
        found = scores.ranked_probability(z, np.zeros(3), centre=centre, sigma=0.8, nu=np.inf)
        wanted = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
        np.testing.assert_allclose(found, wanted, atol=0.01)

    def test_a_censored_value_and_a_forecast_below_its_limit_agree(self):
        centre = np.full((5, 2), [-8.0, 3.0])
        found = scores.ranked_probability(np.zeros(2), np.ones(2), centre=centre, sigma=0.3, nu=4.0)
        assert found[0] < 1e-3
        assert found[1] > 2.0

    def test_weights_count(self):
        centre = np.array([[0.0], [5.0]])
        weights = np.log(np.array([[1.0], [1e-12]]))
        one = scores.ranked_probability(np.array([0.3]), [0], centre=centre, sigma=0.5, nu=4.0, log_weights=weights)
        other = scores.ranked_probability(np.array([0.3]), [0], centre=centre[:1], sigma=0.5, nu=4.0)
        np.testing.assert_allclose(one, other, rtol=1e-6)


class TestLastValue:
    @pytest.mark.parametrize("change", [False, True])
    def test_the_spread_of_changes_is_recovered_with_censored_ones(self, change):
        rng = np.random.default_rng(5)
        centre = -1.0 if change else 0.0
        changes = centre + 0.8 * rng.standard_t(4.0, 2000)
        limit = -1.5
        cens = (changes < limit).astype(int)
        location, scale = forecasts.spread(np.maximum(changes, limit), cens, change=change)
        assert location == pytest.approx(centre, abs=0.08)
        assert scale == pytest.approx(0.8, rel=0.08)

    def test_a_patients_own_later_value_does_not_shape_the_forecast_of_it(self):
        rng = np.random.default_rng(6)
        rows = pd.DataFrame(
            [
                {"patient": f"P{i}", "product": "ide-cel", "dvid": "cart", "cens": 0, "time": day, "value": value}
                for i in range(12)
                for day, value in ((28.0, np.exp(rng.normal(2.0))), (100.0, np.exp(rng.normal(0.5))))
            ]
        )
        other = rows.copy()
        other.loc[1, "value"] *= 50.0
        one, two = (forecasts.by_last_value(table, 40.0, change=True) for table in (rows, other))
        # the prediction is what the observation misses by the error: the same from both
        assert two["rank"][0] > one["rank"][0]
        shift = np.log(50.0)
        signed = [np.sign(t["rank"][0] - 0.5) * t["error_in_ln"][0] for t in (one, two)]
        assert signed[1] - signed[0] == pytest.approx(shift)
