import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reinfuse.fits.retreatment.counts import (
    DAYS,
    MAGNITUDES,
    Layout,
    Mean,
    Median,
    Share,
    resamples_of,
    spread,
)


@given(st.floats(0.0, 7280.0))
def test_days_belong_to_the_quarter_that_ends_with_them(days):
    place = int(DAYS.place(np.array([days]))[0])
    assert days <= DAYS.fine[place] + 1e-6
    assert days > DAYS.fine[place] - DAYS.step - 1e-6


@given(st.floats(1e-5, 5e8))
def test_magnitudes_are_kept_to_a_fifth_of_a_percent(value):
    place = int(MAGNITUDES.place(np.array([value]))[0])
    assert value * (1 - 1e-8) <= MAGNITUDES.fine[place] <= value * np.exp(0.0021)


@pytest.mark.parametrize("scale", [DAYS, MAGNITUDES])
def test_what_is_never_reached_lies_beyond_and_nothing_is_first(scale):
    beyond = scale.fine.size
    assert scale.place(np.array([np.inf, np.nan, 1e30, 0.0])).tolist() == [beyond, beyond, beyond, 0]
    coarse = scale.coarse_of_fine
    assert coarse[-1] == scale.coarse.size
    assert (np.diff(coarse) >= 0).all()
    inside = scale.coarse[coarse[:-1]]
    assert (inside >= scale.fine * (1 - 1e-8)).all(), "each coarse edge is at or above its fine ones"


def test_tables_are_the_counts_of_a_loop():
    rng = np.random.default_rng(0)
    draw, group, who = rng.integers(7, size=300), rng.integers(3, size=300), rng.random(300) < 0.6
    layout = Layout(draw, group, 3)
    counts = layout.count(who)
    for k in range(3):
        for d in range(7):
            assert counts[1 + k, d] == np.sum(who & (group == k) & (draw == d))
    np.testing.assert_array_equal(counts[0], np.bincount(draw[who], minlength=7))
    np.testing.assert_array_equal(layout.only(who).count(), counts)
    value = rng.random(300)
    np.testing.assert_allclose(layout.add(value)[0], np.bincount(draw, weights=value))
    place = rng.integers(5, size=300)
    np.testing.assert_array_equal(layout.by_draw(place, 5).sum(axis=1), layout.by_group(place, 5))


def test_draws_need_not_be_small_numbers():
    draw = np.array([-5, 10**9, -5, 3])
    assert sorted(Layout(draw).count()[0].tolist()) == [1, 1, 2]


def test_many_shares_at_once_are_one_after_another():
    rng = np.random.default_rng(1)
    size = rng.integers(0, 9, 40).astype(float)
    hits = rng.binomial(size.astype(int)[:, None], [0.1, 0.5, 0.9]).astype(float)
    together = spread(hits, size)
    for k in range(3):
        alone = spread(hits[:, k], size)
        for name in ("value", "correlation", "error", "a", "b"):
            assert getattr(together, name)[k] == pytest.approx(float(getattr(alone, name)))


def test_a_mixture_of_shares_has_the_quantiles_of_the_mixture():
    size = np.full(500, 20.0)
    rng = np.random.default_rng(2)
    worlds = [Share.of(rng.binomial(20, rng.beta(*ab, 500)).astype(float), size) for ab in ((8, 2), (2, 8))]
    mixed = Share.mixed(worlds, [0.5, 0.5]).estimate(0.9)
    for end, p in ((mixed.low, 0.05), (mixed.high, 0.95)):
        below = 0.5 * stats.beta.cdf(end, 8, 2) + 0.5 * stats.beta.cdf(end, 2, 8)
        assert below == pytest.approx(p, abs=0.01)


def test_a_mixture_of_means_has_the_quantiles_of_the_mixture():
    parts = [
        Mean(value=m, parts=((1.0, m, 1.0),), lean=np.zeros(256), error=0.0, bounds=(-99.0, 99.0), n=10) for m in (0, 6)
    ]
    mixed = Mean.mixed(parts, [0.25, 0.75]).estimate(0.9)
    assert mixed.value == 4.5
    for end, p in ((mixed.low, 0.05), (mixed.high, 0.95)):
        assert 0.25 * stats.norm.cdf(end) + 0.75 * stats.norm.cdf(end, 6) == pytest.approx(p, abs=1e-9)


def test_means_never_leave_their_bounds():
    found = Mean.of(np.array([0.01, 0.0]), np.array([0.0001, 0.0]), np.array([2.0, 1.0]), (0.0, 1.0)).estimate(0.95)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_median_of_one_draw_has_the_error_of_independent_patients():
    rng = np.random.default_rng(3)
    days = rng.exponential(300.0, 4000)
    median, _ = Median.by_group(Layout(np.zeros(4000, dtype=int)), days, DAYS, resamples_of(rng))
    found = median.estimate(0.95)
    assert found.value == pytest.approx(np.median(days), abs=1.0)
    # a median's error is half of 1 / (density root n); the density at an exponential's median is half its rate
    error = 0.5 / (0.5 / 300 * np.sqrt(4000))
    assert found.mc_error == pytest.approx(error, rel=0.15)
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_mixture_of_medians_is_that_of_its_curves_at_every_edge():
    """Curves are kept only where they change; worked out at every edge, the figures are the same."""
    rng = np.random.default_rng(4)
    resamples = resamples_of(rng)
    draw = rng.integers(9, size=400)
    worlds = [np.where(rng.random(400) < 0.9, rng.exponential(mean, 400), np.inf) for mean in (150.0, 900.0)]
    weights = [0.3, 0.7]
    medians = [Median.by_group(Layout(draw), days, DAYS, resamples)[0] for days in worlds]
    found = Median.mixed(medians, weights).estimate(0.95)

    reached = sum(w * (days <= DAYS.fine[:, None]).mean(axis=1) for w, days in zip(weights, worlds, strict=True))
    assert found.value == DAYS.fine[np.argmax(reached >= 0.5)]
    often = resamples[:, :9]
    curves = np.zeros((len(often), DAYS.coarse.size))
    for w, days in zip(weights, worlds, strict=True):
        over = np.array([(days[draw == d] <= DAYS.coarse[:, None]).sum(axis=1) for d in range(9)])
        curves += w * (often @ over) / (often @ np.bincount(draw))[:, None]
    half, crossed = 0.5 - 1e-9, []
    for curve in curves:
        at = int(np.argmax(curve >= half))
        crossed.append(np.interp(half, curve[at - 1 : at + 1], DAYS.coarse[at - 1 : at + 1]))
    assert found.mc_error == pytest.approx(np.std(crossed, ddof=1), rel=1e-9)
    assert found.low < found.value < found.high
