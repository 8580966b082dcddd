"""The decomposition of the correlation of first and second PFS."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import frailty, recombined, scenarios
from reinfuse.fits.retreatment.block import Block, Work
from reinfuse.fits.retreatment.statistics import rank_correlation
from reinfuse.fits.retreatment.virtual_patients import SampledPopulation, from_prior
from reinfuse.fits.retreatment.within_draws import ByDraw, averaged, within_draws
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import table, to_transformed
from reinfuse.model.products import product
from reinfuse.model.response import Response

TEXT = """
[[scenario]]
name = "twice"
first.product = "ide-cel"
second.product = "cilta-cel"
second.bridging = 0.3

[[scenario]]
name = "once"
first.product = "ide-cel"
no_second = true
"""
FILE = scenarios.parse(TEXT)
TWICE = (0, 0)


def prior(n_draws, options="reference"):
    return from_prior(
        rng=np.random.default_rng(0),
        products=[product("ide-cel"), product("cilta-cel")],
        n_draws=n_draws,
        options=options,
    )


def at_prior_medians(n_draws) -> SampledPopulation:
    """The prior medians again and again: draws that differ by chance alone."""
    population = prior(2)
    rows = population.rows.values()
    middle = [float(to_transformed(row.median, transform=row.transform)) for row in rows]
    return replace(
        population,
        centre=np.tile(middle, (n_draws, 1)),
        spread=np.tile([row.iiv for row in rows], (n_draws, 1)),
        fields={},
        occasion_sd=np.full(n_draws, 0.1),
    )


@pytest.fixture(scope="module", params=["reference", "real"])
def treated(request):
    """Candidates of a block who get a second infusion, and the block's rows of outcomes."""
    work = Work(Block(number=0, seed=1, file=FILE, population=prior(40, request.param), arms=(TWICE,)))
    later = work.later(TWICE)
    return request.param, later.only(later.infused), work.parts()[0][0].columns


def test_with_everything_own_it_is_the_second_course_of_the_experiment(treated):
    _, later, rows = treated
    assert later.rows.size > 300
    kept = rows["infused"]
    np.testing.assert_array_equal(rows["patient"][kept], later.rows)
    np.testing.assert_array_equal(rows["pfs_days_1"][kept], later.outcome.pfs_days)
    other = np.roll(np.arange(later.rows.size), 1)
    patients, state = recombined.recombined(later.virtual, later.before.state, other, recombined.EVERYTHING)
    for again in (later.second(), later.second(patients=patients, state=state)):
        np.testing.assert_array_equal(rows["pfs_days_2"][kept], again.pfs_days)
        np.testing.assert_array_equal(rows["best_2"][kept], again.best)


def test_with_everything_anothers_it_is_the_others_second_course_but_for_chance(treated):
    """Two patients of the same draw on the same day without luck of their own: each gets the other's course."""
    _, later, _ = treated
    draw, at = later.virtual.draw, later.before.day
    pairs = [(i, j) for i in range(at.size) for j in range(i) if draw[i] == draw[j] and at[i] == at[j]][:40]
    assert len(pairs) == 40
    other = np.arange(at.size)
    places = np.arange(at.size)
    for i, j in pairs:
        other[i], places[i] = j, j
    calm = replace(later.virtual, occasion=np.zeros_like(later.virtual.occasion))
    later.death[:] = 1e6
    own = later.second(patients=calm)
    patients, state = recombined.recombined(calm, later.before.state, other, frozenset())
    anothers = later.second(patients=patients, state=state)
    taken = np.array([i for i, _ in pairs])
    np.testing.assert_allclose(anothers.pfs_days[taken], own.pfs_days[places[taken]])
    assert np.ptp(own.pfs_days[taken]) > 100


def test_every_parameter_that_differs_between_patients_is_somebodys():
    named = {name for names in recombined.PARAMETERS_OF.values() for name in names}
    unused = {"fr", "kS", "S0", "sS", "Sbg", "gT"}  # no second course, given its state, depends on these
    for options in ("reference", "real"):
        differing = {name for name, row in table(options).items() if row.iiv > 0}
        assert differing <= named | unused
    assert not named & unused
    assert sum(len(names) for names in recombined.PARAMETERS_OF.values()) == len(named)


def test_donors_are_others_of_the_same_draw():
    draw = np.array([0, 1, 0, 1, 0, 2, 1, 0])
    other = recombined.donors(draw, np.random.default_rng(3))
    assert sorted(other) == list(range(8))
    assert (draw[other] == draw).all()
    assert set(np.flatnonzero(other == np.arange(8))) == {5}, "alone in its draw"


def test_each_part_takes_its_own_states_along(treated):
    _, later, _ = treated
    patients, state = later.virtual, later.before.state
    other = np.roll(np.arange(patients.n), 1)
    low = state["Tr"] / (state["Ts"] + state["Tr"])
    for factor in recombined.FACTORS:
        own = recombined.EVERYTHING - {factor}
        some, theirs = recombined.recombined(patients, state, other, own)
        for name, values in patients.parameters.items():
            whose = other if name in recombined.PARAMETERS_OF[factor] else np.arange(patients.n)
            np.testing.assert_array_equal(some.parameters[name], values[whose])
        burden = theirs["Ts"] + theirs["Tr"]
        np.testing.assert_allclose(burden, np.roll(state["Ts"] + state["Tr"], factor == recombined.BURDEN))
        np.testing.assert_allclose(theirs["Tr"] / burden, np.roll(low, factor == recombined.ANTIGEN))
        np.testing.assert_array_equal(theirs["Q"], np.roll(state["Q"], factor == recombined.DYSFUNCTION))
        np.testing.assert_array_equal(theirs["E1"], np.roll(state["E1"], factor == recombined.T_CELLS))
        np.testing.assert_array_equal(some.occasion, patients.occasion)
    with pytest.raises(ReinfuseError, match="unknown factor 'luck'"):
        recombined.recombined(patients, state, other, frozenset({"luck"}))


def by_draw(values):
    array = np.asarray(values, dtype=float)
    return ByDraw(all=array, odd=array, even=array)


def test_shapley_values_share_out_the_whole_and_know_sums_from_interactions():
    weight = {factor: 2.0**place for place, factor in enumerate(recombined.FACTORS)}
    growth, dysfunction = recombined.GROWTH, recombined.DYSFUNCTION
    worth = {}
    for some in recombined.coalitions():
        together = 6.0 if {growth, dysfunction} <= some else 0.0
        worth[some] = by_draw([sum(weight[factor] for factor in some) + together])
    found = recombined.shapley(worth)
    for factor in recombined.FACTORS:
        extra = 3.0 if factor in (growth, dysfunction) else 0.0
        assert found[factor].all[0] == pytest.approx(weight[factor] + extra)
    whole = worth[recombined.EVERYTHING].all[0] - worth[frozenset()].all[0]
    assert sum(part.all[0] for part in found.values()) == pytest.approx(whole)


def test_correlation_is_taken_within_draws():
    rng = np.random.default_rng(4)
    draw = np.repeat(np.arange(60), 50)
    ignorance = rng.normal(size=60)[draw]
    first, second = ignorance + 0.3 * rng.normal(size=3000), ignorance + 0.3 * rng.normal(size=3000)
    assert rank_correlation(first, second) > 0.8
    figure = averaged(within_draws(first, second, draw, 60))
    assert abs(figure.value) < 4 * figure.mc_error < 0.1
    assert figure.mc_error == pytest.approx(1 / np.sqrt(49 * 60), rel=0.4)
    assert figure.high - figure.low < 0.2, "draws that differ by chance alone have a narrow interval"
    few = within_draws(first[:19], second[:19], draw[:19], 2)
    assert np.isnan(few.all).all()


def test_halves_find_what_differs_between_draws():
    rng = np.random.default_rng(5)
    truth = rng.uniform(-0.6, 0.8, 300)
    draw = np.repeat(np.arange(300), 40)
    first = rng.normal(size=draw.size)
    second = truth[draw] * first + np.sqrt(1 - truth[draw] ** 2) * rng.normal(size=draw.size)
    figure = averaged(within_draws(first, second, draw, 300))
    # 1.96 sd of a uniform number of width 1.4; Spearman's coefficient is a little smaller than Pearson's
    assert figure.high - figure.value == pytest.approx(1.96 * 1.4 / np.sqrt(12), rel=0.15)


@pytest.fixture(scope="module")
def decomposed():
    return frailty.decompose(FILE, at_prior_medians(8), scenario="twice", per_draw=110, seed=1)


def test_the_prototypes_order_is_found_again(decomposed):
    """science: 0.63 in full, less without dysfunction, nothing where everything is another's."""
    rungs = decomposed.ladder.set_index("simulation")
    assert list(decomposed.ladder.columns) == list(frailty.LADDER_COLUMNS)
    full, off = rungs.loc[frailty.FULL], rungs.loc[frailty.NO_DYSFUNCTION]
    assert 0.45 < full["correlation"] < 0.8
    assert 0 < -off["change"] < 0.3
    nothing = rungs.loc["everything redrawn"]
    assert abs(nothing["correlation"]) < 4 * nothing["mc_error"] + 0.02
    assert full["change"] == 0
    assert (rungs["draws"] == 8).all()
    assert 300 < decomposed.patients < decomposed.candidates == 1024


def test_the_parts_sum_to_the_correlation(decomposed):
    rungs, parts = decomposed.ladder.set_index("simulation"), decomposed.attribution
    assert tuple(parts["factor"]) == tuple(recombined.FACTORS)
    whole = rungs.loc[frailty.FULL, "correlation"] - rungs.loc["everything redrawn", "correlation"]
    assert parts["shapley"].sum() == pytest.approx(whole)
    alone = parts.set_index("factor").loc[recombined.GROWTH, "alone"]
    there = rungs.loc["everything redrawn but tumour growth", "correlation"]
    assert alone == pytest.approx(there - rungs.loc["everything redrawn", "correlation"])
    assert any("not evidence of exhaustion" in sentence for sentence in decomposed.sentences)


def test_the_same_seed_gives_the_same_answer():
    small = at_prior_medians(4)
    ticks = []
    first, second = (
        frailty.decompose(FILE, small, scenario="twice", per_draw=35, seed=3, responders=False, progress=ticks.append)
        for _ in range(2)
    )
    assert first.ladder.equals(second.ladder)
    assert sum(ticks) == pytest.approx(2.0)
    assert not first.responders


def test_the_full_line_is_the_correlation_of_the_experiments_own_rows(decomposed):
    work = Work(Block(number=0, seed=1, file=FILE, population=at_prior_medians(8), arms=(TWICE,)))
    rows = pd.DataFrame(work.parts()[0][0].columns)
    rows = rows[rows["infused"] & (rows["best_1"] >= Response.PR)]
    by = [rank_correlation(own["pfs_days_1"], own["pfs_days_2"]) for _, own in rows.groupby("draw")]
    full = decomposed.ladder.set_index("simulation").loc[frailty.FULL]
    assert full["n"] == len(rows) - decomposed.failures
    assert decomposed.failures == 0, "who has another's tumour and cannot be judged with it is left out there only"
    assert full["correlation"] == pytest.approx(np.mean(by))


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ReinfuseError, match="per_draw is 3"):
        frailty.decompose(FILE, at_prior_medians(2), scenario="twice", per_draw=3)
    with pytest.raises(ReinfuseError, match="no draw has 20 patients"):
        frailty.decompose(FILE, at_prior_medians(100), scenario="twice", per_draw=20)
    with pytest.raises(ReinfuseError, match="scenario 'once' has no second infusion"):
        frailty.decompose(FILE, at_prior_medians(2), scenario="once")


def test_the_figure_shows_every_line_of_both_tables(decomposed):
    from reinfuse.fits.figures.frailty import decomposition

    figure = decomposition(decomposed.ladder, decomposed.attribution)
    left, right = figure.axes
    shown = [label.get_text().replace("\n", " ") for label in left.get_yticklabels()]
    assert shown == list(decomposed.ladder["simulation"])
    assert [label.get_text() for label in right.get_yticklabels()] == list(recombined.FACTORS)
    widths = [bar.get_width() for bar in right.patches]
    np.testing.assert_allclose(widths, decomposed.attribution["shapley"])
    assert len({bar.get_facecolor() for bar in right.patches}) == 2, "dysfunction has a colour of its own"
