import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reinfuse.fits.retreatment.statistics import (
    between_draws,
    central_counts,
    clopper_pearson,
    median_survival,
    proportion,
    rank_correlation,
    summarise,
    survival_at,
    trial_counts,
    trials_with_longer,
    two_sided_tail,
)
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(10, 10, 0.6915, 1.0), (6, 10, 0.2624, 0.8784), (1, 10, 0.0025, 0.4450), (0, 10, 0.0, 0.3085)],
)
def test_exact_intervals_of_the_study(k, n, low, high):
    assert clopper_pearson(k, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_exact_interval_of_all_has_a_closed_form():
    assert clopper_pearson(10, 10)[0] == pytest.approx(0.025 ** (1 / 10))
    assert clopper_pearson(0, 8, level=0.9)[1] == pytest.approx(1 - 0.05 ** (1 / 8))


@pytest.mark.parametrize(("k", "n", "level"), [(11, 10, 0.95), (-1, 10, 0.95), (0, 0, 0.95), (1, 2, 1.0)])
def test_impossible_counts_are_refused(k, n, level):
    with pytest.raises(ReinfuseError, match="give"):
        clopper_pearson(k, n, level)


def worlds(rng, shapes, draws=2000, each=8):
    chance = rng.beta(*shapes, size=draws)
    draw = np.repeat(np.arange(draws), each)
    return rng.random(draw.size) < chance[draw], draw


def test_the_spread_between_draws_is_recovered():
    # a beta(2, 3) has intra-class correlation 1 / (2 + 3 + 1)
    outcome, draw = worlds(np.random.default_rng(1), (2.0, 3.0))
    spread = between_draws(outcome, draw)
    assert spread.mean == pytest.approx(0.4, abs=0.02)
    assert spread.correlation == pytest.approx(1 / 6, abs=0.02)
    figure = proportion(outcome, draw)
    np.testing.assert_allclose([figure.low, figure.high], stats.beta.ppf([0.025, 0.975], 2, 3), atol=0.03)
    # clusters of 8: the error is larger than that of independent patients
    assert figure.mc_error == pytest.approx(np.sqrt(0.24 / 16000 * (1 + 7 / 6)), rel=0.1)


def test_draws_that_do_not_differ_leave_only_monte_carlo_error():
    rng = np.random.default_rng(2)
    outcome, draw = rng.random(20_000) < 0.3, np.arange(20_000) % 2000
    figure = proportion(outcome, draw)
    assert between_draws(outcome, draw).correlation < 0.01
    assert figure.mc_error == pytest.approx(np.sqrt(0.21 / 20_000), rel=0.1)
    assert figure.high - figure.low < 0.2


def test_a_few_patients_who_agree_are_not_certain():
    figure = proportion(np.ones(11, dtype=bool), np.arange(11))
    assert (figure.value, figure.high) == (1.0, 1.0)
    assert figure.low < 0.9
    assert figure.mc_error > 0.03


def test_no_patients_give_no_figure():
    figure = proportion([], [])
    assert figure.n == 0
    assert np.isnan([figure.value, figure.low, figure.high, figure.mc_error]).all()


def test_the_median_of_exponential_times_is_the_closed_form():
    rng = np.random.default_rng(3)
    draws, each = 200, 20
    scale = 400.0 * np.exp(0.3 * rng.standard_normal(draws))
    draw = np.repeat(np.arange(draws), each)
    days = rng.exponential(scale[draw])
    horizon = 1826.0
    event = days <= horizon
    figure = median_survival(np.minimum(days, horizon), event, draw, rng=rng)
    truth = np.log(2) * 400 / DAYS_PER_MONTH
    assert figure.value == pytest.approx(truth, rel=0.1)
    low, high = np.quantile(np.log(2) * scale / DAYS_PER_MONTH, [0.025, 0.975])
    assert figure.low == pytest.approx(low, rel=0.2)
    assert figure.high == pytest.approx(high, rel=0.2)
    assert 0.01 * truth < figure.mc_error < 0.1 * truth
    at_year = survival_at(np.minimum(days, horizon), event, draw, 12.0)
    assert at_year.value == pytest.approx(np.mean(days > 12 * DAYS_PER_MONTH))


def test_a_median_beyond_follow_up_is_not_reached():
    days = np.r_[np.full(4, 100.0), np.full(6, 1826.0)]
    figure = median_survival(days, days < 1826, np.arange(10), rng=np.random.default_rng(0))
    assert figure.value == np.inf
    assert figure.high == np.inf
    assert np.isnan(figure.mc_error)


def test_survival_beyond_follow_up_is_refused():
    with pytest.raises(ReinfuseError, match="second_horizon_months"):
        survival_at([300.0, 200.0], [False, True], [0, 1], 24.0)


def test_trials_of_one_world_are_binomial_and_of_many_beta_binomial():
    same = np.arange(1000) < 700
    np.testing.assert_allclose(trial_counts(same, np.zeros(1000), 10), stats.binom.pmf(range(11), 10, 0.7))
    outcome, draw = worlds(np.random.default_rng(1), (2.0, 3.0))
    counts = trial_counts(outcome, draw, 10)
    assert counts.sum() == pytest.approx(1)
    np.testing.assert_allclose(counts, stats.betabinom.pmf(range(11), 10, 2, 3), atol=0.01)
    with pytest.raises(ReinfuseError, match="virtual trials"):
        trial_counts([], [], 10)


def test_tails_of_a_fair_coin():
    counts = stats.binom.pmf(range(11), 10, 0.5)
    assert two_sided_tail(counts, 10) == pytest.approx(2 / 1024)
    assert two_sided_tail(counts, 0) == pytest.approx(2 / 1024)
    assert two_sided_tail(counts, 5) == 1.0
    assert central_counts(counts) == (2, 8)
    assert central_counts([0.0, 0.0, 1.0]) == (2, 2)
    with pytest.raises(ReinfuseError, match="observed 11"):
        two_sided_tail(counts, 11)


def test_which_group_lasts_longer():
    days = np.arange(100.0)
    ask = {"size": 10, "repeats": 500}
    assert trials_with_longer(days >= 50, days, **ask, rng=np.random.default_rng(0)) == 1.0
    assert trials_with_longer(days < 50, days, **ask, rng=np.random.default_rng(0)) == 0.0
    assert trials_with_longer(days >= 50, np.ones(100), **ask, rng=np.random.default_rng(0)) == 0.5
    assert np.isnan(trials_with_longer(days >= 0, days, **ask, rng=np.random.default_rng(0)))
    assert rank_correlation(days, days**3) == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 2], [1, 2]))


def outcomes_table():
    """Ten patients of one scenario: eight count, one failed, one died before the second infusion."""
    n = 10
    table = pd.DataFrame({"scenario": "a", "patient": range(n), "draw": np.arange(n) % 5, "group": "durable"})
    table["failed"] = np.arange(n) == 8
    table["infused"] = np.arange(n) != 9
    for course in (1, 2):
        table[f"best_{course}"] = ["SCR", "CR"] + ["VGPR"] * 2 + ["PR"] * 2 + ["SD"] * 4
        table[f"evaluable_{course}"] = np.arange(n) != 7
        table[f"mrd5_{course}"] = np.arange(n) < 4
        table[f"mrd6_{course}"] = np.arange(n) < 2
        table[f"pfs_days_{course}"] = 100.0 * (1 + np.arange(n))
        table[f"pfs_event_{course}"] = "progression"
    return table


def test_the_summary_counts_who_counts():
    summary = summarise(outcomes_table(), groups=("durable", "early-relapse"), rng=np.random.default_rng(0))
    assert set(summary["group"]) == {"all", "durable"}
    second = summary[(summary["group"] == "all") & (summary["course"] == 2)].set_index("measure")
    assert second.loc["ORR", "n"] == 7, "a patient without a class is no denominator of response"
    assert second.loc["ORR", "value"] == pytest.approx(6 / 7)
    assert second.loc[">=VGPR", "value"] == pytest.approx(4 / 7)
    assert second.loc["CR", "value"] == pytest.approx(2 / 7)
    assert second.loc["MRD-negative 1e-5", "n"] == 8
    assert second.loc["MRD-negative 1e-5", "value"] == 0.5
    assert second.loc["MRD-negative 1e-6", "value"] == 0.25
    assert second.loc["PFS median", "value"] == pytest.approx(400 / DAYS_PER_MONTH)
    assert second.loc["PFS at 12 months", "value"] == pytest.approx(5 / 8)
    assert second.loc["PFS at 24 months", "value"] == pytest.approx(1 / 8)
    assert (second["low"] <= second["value"]).all()
    assert (second["value"] <= second["high"]).all()
