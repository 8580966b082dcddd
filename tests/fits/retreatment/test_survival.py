import warnings
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from scipy import stats

from reinfuse.fits.retreatment import survival, survival_table, virtual_trials
from reinfuse.fits.retreatment.survival import Pairs, pairs_of
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

#: Hazards per month after a durable and after an early-ending first response.
DURABLE, EARLY = 0.04, 0.10
MONTH = DAYS_PER_MONTH


def exponential(n=6000, draws=100, seed=0, apart=0.0, end=60.0, share=0.5):
    """Exponential second PFS; first durations of 3 or 20 months, so the predictor is binary."""
    rng = np.random.default_rng(seed)
    draw = np.sort(rng.integers(draws, size=n))
    durable = rng.random(n) < share
    effect = apart * rng.standard_normal(draws)[draw]
    months = rng.exponential(size=n) / np.where(durable, DURABLE * np.exp(effect), EARLY)
    return Pairs(
        first=np.where(durable, 20.0, 3.0) * MONTH,
        days=np.minimum(months, end) * MONTH,
        event=months < end,
        draw=draw,
    )


def rng():
    return np.random.default_rng(1)


def test_the_curve_is_that_of_lifelines_however_many_patients():
    pairs = exponential(n=30_000)
    few, many = pairs.only(np.arange(15_000)), pairs
    for some in (few, many):
        curve = survival.kaplan_meier(some.days, some.event)
        plain = KaplanMeierFitter().fit(np.ceil(4 * some.days) / 4 / MONTH, some.event)
        at = [3.0, 12.0, 24.0, 48.0]
        np.testing.assert_allclose(curve.predict(at), plain.predict(at), atol=2e-3)
        ends, plain_ends = curve.confidence_interval_, plain.confidence_interval_
        rows = np.searchsorted(ends.index, at)
        plain_rows = np.searchsorted(plain_ends.index, at)
        np.testing.assert_allclose(ends.to_numpy()[rows], plain_ends.to_numpy()[plain_rows], atol=2e-3)
    with pytest.raises(ReinfuseError, match="no patients"):
        survival.kaplan_meier([], [])


def test_the_hazard_ratio_and_time_ratio_of_exponential_times():
    found = survival.durable_against_early(exponential(), rng=rng())
    assert np.log(found.hazard_ratio.value) == pytest.approx(
        np.log(DURABLE / EARLY), abs=3 * found.hazard_ratio.mc_error
    )
    assert found.hazard_ratio.mc_error == pytest.approx(2 / np.sqrt(6000), rel=0.25)
    # exponential is Weibull of shape 1: times stretch by the inverse of the hazard ratio
    assert found.model == "Weibull"
    assert found.aic["Weibull"] < found.aic["log-normal"]
    assert np.log(found.time_ratio.value) == pytest.approx(np.log(EARLY / DURABLE), abs=3 * found.time_ratio.mc_error)
    closed = [-np.expm1(-hazard * 24) / hazard for hazard in (DURABLE, EARLY)]
    difference = found.rmst_difference
    assert difference.value == pytest.approx(closed[0] - closed[1], abs=3 * difference.mc_error)
    assert difference.mc_error < 0.3


def test_draws_that_differ_widen_the_intervals():
    same = survival.durable_against_early(exponential(draws=40), rng=rng())
    apart = survival.durable_against_early(exponential(draws=40, apart=0.6), rng=rng())

    def width(figure):
        return np.log(figure.high / figure.low)

    # forty draws of equal chance look apart by little
    assert width(apart.hazard_ratio) > 2.5 * width(same.hazard_ratio)
    # log hazard ratios differ by an sd of 0.6 (Cox over all draws together is not their mean)
    assert width(apart.hazard_ratio) == pytest.approx(2 * 1.96 * 0.6, rel=0.3)
    spread = apart.rmst_difference.high - apart.rmst_difference.low
    assert spread > 3 * (same.rmst_difference.high - same.rmst_difference.low)


def test_log_normal_times_are_told_from_weibull():
    pairs = exponential()
    months = np.exp(np.where(pairs.durable, 3.0, 2.0) + 0.7 * np.random.default_rng(3).standard_normal(6000))
    found = survival.durable_against_early(
        Pairs(first=pairs.first, days=months * MONTH, event=months > 0, draw=pairs.draw), rng=rng()
    )
    assert found.model == "log-normal"
    assert found.time_ratio.value == pytest.approx(np.e, rel=0.08)


def test_too_few_events_give_no_ratio():
    assert survival.durable_against_early(exponential(n=12), rng=rng()) is None
    assert survival.durable_against_early(exponential(share=1.0), rng=rng()) is None


def test_a_subsample_is_as_large_as_asked_and_everyone_where_there_are_no_more():
    pairs = exponential()
    some = survival.subsample(pairs, rng=rng(), at_most=100)
    assert some.days.size == 100
    assert survival.subsample(pairs, rng=rng(), at_most=6000) is pairs
    found = survival.durable_against_early(pairs, rng=rng(), at_most=1000)
    assert found.fitted == 1000
    assert found.rmst_difference.n == 6000, "needs no subsample"


def test_concordance_of_a_binary_predictor():
    pairs = exponential(end=1e6)
    figure = survival.concordance(pairs, rng=rng())
    p = pairs.durable.mean()
    closed = (p**2 + (1 - p) ** 2) / 2 + 2 * p * (1 - p) * EARLY / (EARLY + DURABLE)
    assert figure.value == pytest.approx(closed, abs=3 * figure.mc_error)
    assert 0.001 < figure.mc_error < 0.01
    ordered = Pairs(first=pairs.days + 1, days=pairs.days, event=pairs.event, draw=pairs.draw)
    assert survival.concordance(ordered, rng=rng(), at_most=500).value == 1.0


@pytest.mark.parametrize("months", [6.0, 12.0, 24.0])
def test_auc_of_a_binary_predictor(months):
    pairs = exponential()
    figure = survival.auc_at(pairs, months=months)
    p = pairs.durable.mean()
    alive = np.exp(-np.array([DURABLE, EARLY]) * months)
    among_cases = p * (1 - alive[0]) / (p * (1 - alive[0]) + (1 - p) * (1 - alive[1]))
    among_controls = p * alive[0] / (p * alive[0] + (1 - p) * alive[1])
    closed = 0.5 + (among_controls - among_cases) / 2
    assert figure.value == pytest.approx(closed, abs=3.5 * figure.mc_error)
    # the error is that of a repeated experiment
    others = [survival.auc_at(exponential(seed=seed), months=months).value for seed in range(1, 41)]
    assert figure.mc_error == pytest.approx(np.std(others, ddof=1), rel=0.35)


def test_auc_of_a_predictor_that_says_nothing_or_everything():
    pairs = exponential()
    blind = Pairs(first=np.full(6000, 100.0), days=pairs.days, event=pairs.event, draw=pairs.draw)
    assert survival.auc_at(blind, months=12.0).value == 0.5
    seeing = Pairs(first=pairs.days, days=pairs.days, event=pairs.event, draw=pairs.draw)
    assert survival.auc_at(seeing, months=12.0).value == 1.0
    assert survival.auc_at(seeing, months=1e-6).n == 0, "nobody has had an event"


def test_follow_up_that_ends_before_is_refused():
    pairs = exponential(end=18.0)
    with pytest.raises(ReinfuseError, match="second_horizon_months"):
        survival.auc_at(pairs, months=24.0)
    with pytest.raises(ReinfuseError, match="second_horizon_months"):
        virtual_trials.virtual_trials(pairs, rng=rng())


def test_many_log_rank_tests_are_those_of_lifelines():
    random = np.random.default_rng(5)
    days = random.integers(1, 9, size=(40, 10)).astype(float)  # many ties
    event, group = random.random((40, 10)) < 0.7, random.random((40, 10)) < 0.5
    group[0] = True
    ratio, p_value = virtual_trials.log_rank(days, event, group)
    assert np.isnan(p_value[0]), "one group alone cannot be compared"
    for k in range(1, 40):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lifelines calls pandas in a way that is going to end
            there = logrank_test(days[k][group[k]], days[k][~group[k]], event[k][group[k]], event[k][~group[k]])
        assert p_value[k] == pytest.approx(there.p_value, rel=1e-9)
    assert ((ratio[1:] > 0) | ((event & group)[1:].sum(axis=1) == 0)).all()


class TestExactLogRank:
    def test_groups_that_lie_apart_have_the_least_value_there_is(self):
        days = np.arange(1.0, 11.0)[None]
        group, event = (days > 5), np.ones((1, 10), dtype=bool)
        p_value = virtual_trials.exact_log_rank(days, event, group, rng=rng())
        assert p_value[0] == pytest.approx(2 / 252)

    def test_it_is_the_permutation_test_of_the_log_rank_numerator(self):
        random = np.random.default_rng(6)
        days = random.integers(1, 6, size=(6, 8)).astype(float)
        event, group = random.random((6, 8)) < 0.7, np.arange(8)[None] < random.integers(2, 6, size=(6, 1))
        found = virtual_trials.exact_log_rank(days, event, group, rng=rng())
        for k in range(6):

            def excess(mine, other, k=k):
                labels = np.zeros(8, dtype=bool)
                labels[mine.astype(int)] = True
                at_risk = [days[k] >= time for time in days[k]]
                expected = sum((labels & r).sum() / r.sum() for r, e in zip(at_risk, event[k], strict=True) if e)
                return abs((event[k] & labels).sum() - expected)

            rows = np.arange(8.0)
            there = stats.permutation_test(
                (rows[group[k]], rows[~group[k]]), excess, alternative="greater", n_resamples=np.inf, vectorized=False
            )
            assert found[k] == pytest.approx(there.pvalue, abs=1e-9)

    def test_drawn_exchanges_agree_with_the_approximation_of_large_trials(self):
        random = np.random.default_rng(7)
        days, event = random.exponential(10.0, (30, 60)), random.random((30, 60)) < 0.8
        group = np.tile(np.arange(60) < 25, (30, 1))
        exact = virtual_trials.exact_log_rank(days, event, group, rng=rng())
        np.testing.assert_allclose(exact, virtual_trials.log_rank(days, event, group)[1], atol=0.05)

    def test_nothing_to_compare_has_no_value(self):
        days, event = np.ones((2, 4)), np.zeros((2, 4), dtype=bool)
        group = np.array([[True] * 4, [True, False, True, False]])
        assert np.isnan(virtual_trials.exact_log_rank(days, event, group, rng=rng())).all()


def test_log_rank_ratio_of_a_large_trial_is_the_hazard_ratio():
    pairs = exponential(n=1500)
    ratio, p_value = virtual_trials.log_rank(pairs.days[None], pairs.event[None], pairs.durable[None])
    assert ratio[0] == pytest.approx(DURABLE / EARLY, rel=0.15)
    assert p_value[0] < 1e-10


def test_trials_of_ten_under_no_effect_are_wrong_as_often_as_they_should():
    pairs = exponential()
    nothing = Pairs(first=np.random.default_rng(2).permutation(pairs.first), days=pairs.days, event=pairs.event,
                    draw=pairs.draw)  # fmt: skip
    trials = virtual_trials.virtual_trials(nothing, rng=rng(), repeats=4000)
    assert trials.shared
    error = np.sqrt(0.05 * 0.95 / trials.p_value.size)
    assert 0.01 < trials.significant < 0.05 + 3 * error, "an exact test keeps its size"
    assert trials.wrong_way == pytest.approx(0.5, abs=0.05)
    assert trials.comparable > 0.99
    assert np.median(trials.rmst_difference) == pytest.approx(0.0, abs=0.5)


def test_larger_trials_see_more():
    pairs = exponential(n=8000)
    small, large = (virtual_trials.virtual_trials(pairs, rng=rng(), size=size, repeats=1000) for size in (10, 40))
    assert small.significant < 0.5 * large.significant
    assert large.wrong_way < small.wrong_way
    narrow, wide = large.interval(large.rmst_difference), small.interval(small.rmst_difference)
    assert narrow[1] - narrow[0] < 0.7 * (wide[1] - wide[0])
    closed = [-np.expm1(-hazard * 24) / hazard for hazard in (DURABLE, EARLY)]
    assert np.mean(large.rmst_difference) == pytest.approx(closed[0] - closed[1], abs=0.5)


def test_patients_of_a_trial_share_a_draw_and_are_different():
    draw = np.repeat(np.arange(20), 12)
    rows, shared = virtual_trials._trial_members(draw, 10, 500, rng())
    assert shared
    assert (np.ptp(draw[rows], axis=1) == 0).all()
    assert all(np.unique(trial).size == 10 for trial in rows)
    counts = np.bincount(rows.ravel(), minlength=240)
    assert counts.min() > 5, "everybody is drawn sooner or later"
    rows, shared = virtual_trials._trial_members(np.arange(30), 10, 5, rng())
    assert not shared
    assert all(np.unique(trial).size == 10 for trial in rows)


def test_trials_of_more_patients_than_there_are_are_refused():
    with pytest.raises(ReinfuseError, match="virtual trials"):
        virtual_trials.virtual_trials(exponential(n=8), rng=rng())


def outcomes(pairs):
    """The engine's table of such patients; every third had no first response and has its PFS instead."""
    n = pairs.days.size
    silent = np.arange(n) % 3 == 0
    return pd.DataFrame(
        {
            "patient": np.arange(n),
            "draw": pairs.draw,
            "failed": False,
            "infused": True,
            "dor_days_1": np.where(silent, np.nan, pairs.first),
            "pfs_days_1": np.where(silent, pairs.first, pairs.first + 28),
            "pfs_days_2": pairs.days,
            "pfs_event_2": np.where(pairs.event, "progression", "none"),
        }
    )


def test_pairs_of_a_table_take_the_first_pfs_where_there_is_no_response():
    pairs = exponential(n=300)
    table = outcomes(pairs)
    np.testing.assert_array_equal(pairs_of(table).first, pairs.first)
    table.loc[:9, "failed"] = True
    table.loc[10:19, "infused"] = False
    assert pairs_of(table).days.size == 280
    short = pairs_of(table, follow_up_months=6.0)
    assert short.days.max() <= 6 * MONTH
    np.testing.assert_array_equal(short.event, pairs.event[20:] & (pairs.days[20:] <= 6 * MONTH))
    np.testing.assert_array_equal(pairs_of(table.sample(frac=1, random_state=0)).days, pairs_of(table).days)
    with pytest.raises(ReinfuseError, match="more than 0"):
        pairs_of(table, follow_up_months=0.0)


def test_the_table_names_all_that_can_be_told():
    table = survival_table.survival_table([("a", "x", outcomes(exponential(n=2000)))], rng=rng())
    assert tuple(table.columns) == survival_table.SURVIVAL_COLUMNS
    by_measure = table.set_index("measure")
    assert by_measure.loc["hazard ratio, durable to early", "value"] == pytest.approx(0.4, rel=0.2)
    assert table[table["measure"] == "AUC of first duration"]["months"].tolist() == [6.0, 12.0, 24.0]
    trial = by_measure.loc["trials of 10: hazard ratio, durable to others"]
    assert trial["low"] < 0.4 < trial["high"]
    assert trial["high"] > 1, "ten patients cannot tell"
    short = survival_table.survival_table([("a", "x", outcomes(exponential(n=500, end=13.0)))], rng=rng())
    assert short[short["measure"] == "AUC of first duration"]["months"].tolist() == [6.0, 12.0]
    assert survival_table.survival_table([("a", "x", outcomes(exponential(n=5)).head(0))], rng=rng()).empty


class TestMixture:
    """Worlds together, each patient in one of them."""

    WORLDS: ClassVar = {"dark": 0.25, "bright": 0.75}

    def frame(self, factor: float, seed: int) -> pd.DataFrame:
        """Durations that have nothing to do with each other, but are all longer by a factor."""
        generator = np.random.default_rng(seed)
        first, second = generator.exponential(8.0 * MONTH * factor, size=(2, 4000))
        return outcomes(Pairs(first=first, days=second, event=np.ones(4000, dtype=bool), draw=np.arange(4000) % 50))

    def test_every_patient_is_in_one_world_by_its_weight(self):
        frame, shares = self.frame(1.0, 1), survival_table._shares({**self.WORLDS, "none": 0.0})
        mine = {world: set(survival_table.of_share(frame, *share)["patient"]) for world, share in shares.items()}
        assert set(mine) == {"dark", "bright"}
        assert not mine["dark"] & mine["bright"]
        assert mine["dark"] | mine["bright"] == set(frame["patient"])
        assert len(mine["dark"]) == pytest.approx(1000, abs=4 * np.sqrt(4000 * 0.25 * 0.75))

    def test_worlds_in_which_the_first_says_nothing_make_a_mixture_in_which_it_does(self):
        """Long and long go together where it is not known in which world one is: no average of worlds would show it."""
        parts = [("a", "dark", self.frame(0.3, 2)), ("a", "bright", self.frame(3.0, 3))]
        table = survival_table.survival_table(parts, rng=rng(), weights=self.WORLDS)
        found = table[table["measure"] == "concordance of first duration"].set_index("world")["value"]
        assert found["dark"] == pytest.approx(0.5, abs=0.03)
        assert found["bright"] == pytest.approx(0.5, abs=0.03)
        # pairs of both worlds: 2 w (1 - w), concordant with the chance that both durations are ordered alike
        longer = 3.0 / 3.3  # of two exponentials, that of the bright world is the longer one
        unlike = 2 * 0.25 * 0.75
        assert found["stacked"] == pytest.approx(
            (1 - unlike) * 0.5 + unlike * (longer**2 + (1 - longer) ** 2), abs=0.03
        )
        assert not table[table["world"] == "stacked"]["measure"].str.startswith("trials").any()

    def test_without_one_of_the_worlds_there_is_no_mixture(self):
        table = survival_table.survival_table([("a", "dark", self.frame(1.0, 4))], rng=rng(), weights=self.WORLDS)
        assert set(table["world"]) == {"dark"}
