import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reinfuse.fits.retreatment.statistics import (
    STACKED,
    SUMMARY_COLUMNS,
    between_draws,
    central_counts,
    clopper_pearson,
    median_survival,
    proportion,
    rank_correlation,
    summarise,
    survival_at,
    survival_band,
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
        table[f"best_{course}"] = ["SCR"] + ["CR"] + ["VGPR"] * 2 + ["PR"] * 2 + ["SD"] * 4
        table[f"evaluable_{course}"] = np.arange(n) != 7
        table[f"mrd5_{course}"] = np.arange(n) < 4
        table[f"mrd6_{course}"] = np.arange(n) < 2
        table[f"pfs_days_{course}"] = 100.0 * (1 + np.arange(n))
        table[f"pfs_event_{course}"] = "progression"
    return table


def summary_of(table, **changes):
    ask = {"groups": ("durable", "early-relapse"), "weights": {"as assumed": 1.0}, "rng": np.random.default_rng(0)}
    return summarise([("a", "as assumed", table)], **(ask | changes))


def second_of(summary, world="as assumed", group="all", course=2):
    own = summary[(summary["group"] == group) & (summary["course"] == course) & (summary["world"] == world)]
    return own.set_index("measure")


def test_who_cannot_be_followed_still_has_a_marrow():
    """Without measurable M-protein at the infusion nobody sees progression by it; MRD is read from the marrow."""
    table = outcomes_table()
    table.loc[[0, 1], "pfs_days_2"] = np.nan
    second = second_of(summary_of(table))
    assert second.loc["progression cannot be told", ["value", "n"]].tolist() == [2 / 8, 8]
    assert second.loc["MRD-negative 1e-5", ["value", "n"]].tolist() == [4 / 8, 8]
    assert second.loc["PFS median", "n"] == 6
    first = second_of(summary_of(table), course=1)
    assert first.loc["progression cannot be told", "value"] == 0


def test_a_third_course_counts_who_was_given_it():
    table = outcomes_table()
    for name in ("best", "evaluable", "mrd5", "mrd6", "pfs_event"):
        table[f"{name}_3"] = table[f"{name}_2"]
    table["pfs_days_3"], table["infusion_day_3"] = np.nan, np.nan
    table.loc[:4, "infusion_day_3"] = 900.0
    table.loc[:2, "pfs_days_3"] = 100.0
    third = second_of(summary_of(table), course=3)
    assert third.loc["MRD-negative 1e-5", ["value", "n"]].tolist() == [4 / 5, 5]
    assert third.loc["progression cannot be told", "value"] == 2 / 5


def test_the_summary_counts_who_counts():
    summary = summary_of(outcomes_table())
    assert tuple(summary.columns) == SUMMARY_COLUMNS
    assert list(dict.fromkeys(summary["world"])) == [STACKED, "as assumed"]
    assert set(summary["group"]) == {"all", "durable"}
    second = second_of(summary)
    assert second.loc["ORR", "n"] == 7, "a patient without a class is no denominator of response"
    assert second.loc["ORR", "value"] == pytest.approx(6 / 7)
    assert second.loc[">=VGPR", "value"] == pytest.approx(4 / 7)
    assert second.loc["CR", "value"] == pytest.approx(2 / 7), "a stringent CR is a CR"
    assert second.loc["sCR", "value"] == pytest.approx(1 / 7)
    assert second.loc["MRD-negative 1e-5", "n"] == 8
    assert second.loc["MRD-negative 1e-5", "value"] == 0.5
    assert second.loc["MRD-negative 1e-6", "value"] == 0.25
    assert second.loc["PFS median", "value"] == pytest.approx(400 / DAYS_PER_MONTH)
    assert second.loc["PFS at 12 months", "value"] == pytest.approx(5 / 8)
    assert second.loc["PFS at 24 months", "value"] == pytest.approx(1 / 8)
    mean = np.minimum(100 * np.arange(1, 9) / DAYS_PER_MONTH, 24).mean()
    assert second.loc["restricted mean PFS at 24 months", "value"] == pytest.approx(mean)
    assert (second["low"] <= second["value"]).all()
    assert (second["value"] <= second["high"]).all()


def test_the_only_world_is_the_stack():
    summary = summary_of(outcomes_table())
    stacked, alone = (second_of(summary, world).drop(columns="world") for world in (STACKED, "as assumed"))
    pd.testing.assert_frame_equal(stacked, alone)


def test_categories_are_counted_like_words():
    table = outcomes_table()
    words = summary_of(table)
    for column in ("group", "best_1", "best_2", "pfs_event_1", "pfs_event_2"):
        table[column] = table[column].astype("category")
    pd.testing.assert_frame_equal(summary_of(table), words)


def test_the_order_of_rows_changes_nothing():
    table = big_table(np.random.default_rng(4), n=2000)
    shuffled = table.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(summary_of(table), summary_of(shuffled))


def big_table(rng, n=40_000, draws=400, scale=400.0, chance=0.5):
    """Exponential second PFS of a scale that differs between draws; all else of known distribution."""
    draw = rng.integers(draws, size=n)
    lasting = scale * np.exp(0.3 * np.random.default_rng(5).standard_normal(draws))[draw] * rng.exponential(size=n)
    responds = rng.random(n) < chance
    table = pd.DataFrame({"patient": np.arange(n), "draw": draw, "failed": False, "infused": True})
    table["group"] = np.where(np.arange(n) % 4 == 0, "durable", "early-relapse")
    table["best_2"], table["evaluable_2"] = np.where(responds, "PR", "SD"), True
    table["pfs_days_2"], table["pfs_event_2"] = np.minimum(lasting, 1826.0), np.where(lasting < 1826, "death", "none")
    table["response_days_2"] = np.where(responds, 28.0, np.inf)
    table["dor_days_2"] = np.where(responds, table["pfs_days_2"], np.nan)
    table["cmax_2"] = np.exp(5 + rng.standard_normal(n))
    table["tmax_2"] = np.round(rng.normal(12, 2, n))
    table["crs_proxy_2"] = rng.gamma(4.0, 0.5, n)
    table["cure_chance_2"] = np.nan
    return table


def test_known_distributions_are_found():
    second = second_of(summary_of(big_table(np.random.default_rng(6))))
    assert second.loc["time to response median", "value"] == 28.0
    assert second.loc["time to response median", "n"] == pytest.approx(20_000, rel=0.03)
    # the logarithm of the peak is normal of mean 5 and sd 1: s.e. of a median is 1.2533 sd / root n
    assert second.loc["Cmax median", "value"] == pytest.approx(np.exp(5), rel=0.03)
    assert second.loc["Cmax median", "mc_error"] == pytest.approx(1.2533 * np.exp(5) / 200, rel=0.25)
    assert second.loc["Tmax median", "value"] == 12.0
    assert second.loc["CRS proxy mean", "value"] == pytest.approx(2.0, rel=0.02)
    assert second.loc["CRS proxy mean", "mc_error"] == pytest.approx(1.0 / 200, rel=0.15)
    assert "cure chance mean" not in second.index, "nothing was given"
    assert second.loc["DOR median", "n"] == second.loc["time to response median", "n"]
    limited = second.loc["restricted mean PFS at 24 months"]
    scale = 400 * np.exp(0.3 * np.random.default_rng(5).standard_normal(400)) / DAYS_PER_MONTH
    by_draw = scale * -np.expm1(-24 / scale)
    assert limited["value"] == pytest.approx(by_draw.mean(), rel=0.02)
    assert [limited["low"], limited["high"]] == pytest.approx(np.quantile(by_draw, [0.025, 0.975]), rel=0.05)


def test_a_stack_is_the_mixture_of_its_worlds():
    worlds = {"good": big_table(np.random.default_rng(7), chance=0.9, scale=800), "bad": big_table(
        np.random.default_rng(8), chance=0.2, scale=200
    )}  # fmt: skip
    ask = {"groups": ("durable",), "weights": {"good": 0.25, "bad": 0.75}, "rng": np.random.default_rng(0)}
    summary = summarise([("a", name, table) for name, table in worlds.items()], **ask)
    stacked, good, bad = (second_of(summary, world) for world in (STACKED, "good", "bad"))
    for measure in ("ORR", "PFS at 12 months", "restricted mean PFS at 24 months"):
        mixed = 0.25 * good.loc[measure, "value"] + 0.75 * bad.loc[measure, "value"]
        assert stacked.loc[measure, "value"] == pytest.approx(mixed)
    # the interval reaches into both worlds
    assert stacked.loc["ORR", "low"] == pytest.approx(bad.loc["ORR", "low"], abs=0.02)
    assert stacked.loc["ORR", "high"] == pytest.approx(good.loc["ORR", "high"], abs=0.02)
    days = np.r_[worlds["good"]["pfs_days_2"], worlds["bad"]["pfs_days_2"]]
    weight = np.repeat([0.25, 0.75], 40_000)
    order = np.argsort(days)
    middle = days[order][np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2)] / DAYS_PER_MONTH
    assert stacked.loc["PFS median", "value"] == pytest.approx(middle, abs=0.01)
    assert stacked.loc["PFS median", "low"] == pytest.approx(bad.loc["PFS median", "low"], rel=0.1)
    assert stacked.loc["PFS median", "high"] > good.loc["PFS median", "value"]
    assert stacked.loc["ORR", "n"] == 40_000


def test_the_same_world_twice_is_the_world_once():
    table = big_table(np.random.default_rng(9))
    ask = {"groups": (), "rng": np.random.default_rng(0)}
    summary = summarise([("a", "x", table), ("a", "y", table)], weights={"x": 0.5, "y": 0.5}, **ask)
    stacked, alone = second_of(summary, STACKED), second_of(summary, "x")
    for column in ("value", "low", "high", "n"):
        np.testing.assert_allclose(stacked[column], alone[column], rtol=1e-6)
    # 400 draws in 256 clusters: another estimate of the same error
    np.testing.assert_allclose(stacked["mc_error"], alone["mc_error"], rtol=0.06, atol=1e-9)


def test_follow_up_that_is_too_short_gives_no_figure():
    table = outcomes_table()
    table["pfs_days_2"] = np.minimum(table["pfs_days_2"], 500.0)
    table["pfs_event_2"] = np.where(table["pfs_days_2"] < 500, "death", "none")
    second = second_of(summary_of(table))
    assert second.loc["PFS at 12 months", "value"] == pytest.approx(5 / 8)
    assert np.isnan(second.loc["PFS at 24 months", "value"])
    assert second.loc["PFS at 24 months", "n"] == 0
    assert np.isnan(second.loc["restricted mean PFS at 24 months", "value"])


def test_a_third_course_is_of_those_who_had_it():
    table = outcomes_table()
    for name in ("best", "evaluable", "mrd5", "mrd6", "pfs_event"):
        table[f"{name}_3"] = table[f"{name}_2"]
    had_it = np.arange(10) < 3
    table["infusion_day_3"] = np.where(had_it, 400.0, np.nan)
    table["pfs_days_3"] = np.where(had_it, 50.0, np.nan)
    table.loc[3:, "evaluable_3"] = False
    third = second_of(summary_of(table), course=3)
    assert third.loc["ORR", "n"] == 3
    assert third.loc["PFS median", "n"] == 3
    assert third.loc["PFS median", "value"] == pytest.approx(50 / DAYS_PER_MONTH)


@pytest.mark.parametrize("weights", [{}, {"as assumed": 0.5}, {"as assumed": -1.0, "b": 2.0}, {"as assumed": np.nan}])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ReinfuseError, match="sum to 1"):
        summary_of(outcomes_table(), weights=weights)


def test_a_world_without_a_weight_and_a_scenario_that_returns_are_refused():
    table = outcomes_table()
    with pytest.raises(ReinfuseError, match="no weight"):
        summary_of(table, weights={"another": 1.0})
    parts = [(scenario, "x", table) for scenario in ("a", "b", "a")]
    with pytest.raises(ReinfuseError, match="comes twice"):
        summarise(parts, groups=(), weights={"x": 1.0}, rng=np.random.default_rng(0))


def test_nobody_gives_rows_without_figures():
    summary = summary_of(outcomes_table().head(0))
    assert set(summary["group"]) == {"all"}
    assert (summary["n"] == 0).all()
    assert summary["value"].isna().all()


def test_the_band_of_a_curve_is_that_of_its_shares():
    table = big_table(np.random.default_rng(10))
    columns = table["pfs_days_2"], table["pfs_event_2"] != "none", table["draw"]
    low, high = survival_band(*columns, [6.0, 12.0, 24.0])
    shares = [survival_at(*columns, months) for months in (6.0, 12.0, 24.0)]
    np.testing.assert_allclose(low, [share.low for share in shares])
    np.testing.assert_allclose(high, [share.high for share in shares])
