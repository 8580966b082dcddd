"""The decomposition of the correlation of first and second PFS."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits.retreatment import frailty
from reinfuse.fits.retreatment.frailty import ByDraw, TwoCourses
from reinfuse.fits.retreatment.virtual_patients import SampledPopulation, VirtualPatients, from_prior
from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import table, to_transformed
from reinfuse.model.products import product
from reinfuse.model.simulate import simulate_population

PLAN = TwoCourses(first=Infusion(product="ide-cel"), second=Infusion(product="cilta-cel", bridging=0.3))
N = 120


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
    """Candidates who get a second infusion, with the options of their parameters."""
    options = request.param
    candidates = prior(40, options).sample(N, np.random.default_rng(1))
    luck = np.random.default_rng(2).standard_exponential((N, 2))
    first = frailty.first_course(candidates, PLAN, options=options, luck=luck)
    rows = first.again
    assert rows.sum() > N / 2
    return options, candidates.subset(rows), first, rows


def two_infusions(patients, day, options, *, first_survives=None):
    """The second course as it is: two infusions in one simulation, read at visits after the second."""
    visits = frailty._visits(PLAN)
    times = np.unique(np.append(day[:, None] + visits, 0.0))
    slots = {f"occ_{slot}": patients.occasion[:, slot - 1] for slot in (1, 2)}
    for (name, field), values in patients.fields.items():
        slots[f"{field}_{1 if name == 'ide-cel' else 2}"] = values
    if first_survives is not None:
        slots["survive_2"] = np.full(patients.n, first_survives)
    made = simulate_population(
        course=[PLAN.first, Infusion(product="cilta-cel", day=day, bridging=0.3)],
        times=times,
        parameters={**patients.parameters, **slots},
        options=options,
        readouts=("Ts", "Tr", "mprotein"),
        land=False,
    )
    place = np.searchsorted(times, day[:, None] + visits)
    data = {
        name: (("patient", "time"), np.take_along_axis(made[name].to_numpy(), place, axis=1))
        for name in ("Ts", "Tr", "mprotein")
    }
    return xr.Dataset(data, coords={"time": visits})


def test_without_what_is_left_out_the_restart_is_the_same_equation(treated):
    options, patients, _, _ = treated
    immune_free = VirtualPatients(
        parameters={**patients.parameters, "alA": np.zeros(patients.n)},
        draw=patients.draw,
        fields=patients.fields,
        occasion=patients.occasion,
    )
    luck = np.full((patients.n, 2), 1e6)
    first = frailty.first_course(immune_free, PLAN, options=options, luck=luck)
    some = np.flatnonzero(first.again)
    kept, state = immune_free.subset(some), frailty._subset(first.state, some)
    truth = two_infusions(kept, state.day, options, first_survives=1e-200)
    again = frailty.second_course(kept, state, PLAN, options=options)
    for name in ("burden", "Ts", "mprotein"):
        here, there = (made["Ts"] + made["Tr"] if name == "burden" else made[name] for made in (again, truth))
        apart = np.abs(np.log(here.to_numpy() + 1.0) - np.log(there.to_numpy() + 1.0)).max(axis=1)
        assert np.quantile(apart, 0.95) < 1e-3, name
        assert np.median(apart) < 1e-5, name


def test_with_it_the_second_pfs_is_that_of_the_two_infusions(treated):
    options, patients, first, rows = treated
    death = first.death_days[rows]
    state = frailty._subset(first.state, rows)
    truth = frailty._pfs(two_infusions(patients, state.day, options), death, PLAN)
    again = frailty._pfs(frailty.second_course(patients, state, PLAN, options=options), death, PLAN)
    np.testing.assert_array_equal(np.isfinite(truth), np.isfinite(again))
    known = np.isfinite(truth)
    assert known.mean() > 0.97
    truth, again = truth[known], again[known]
    assert np.mean(truth == again) > 0.85
    assert np.mean(np.abs(truth - again) <= PLAN.rules.visit_interval) > 0.93
    mine, theirs = (frailty.rank_correlation(first.pfs_days[rows][known], pfs) for pfs in (again, truth))
    assert mine == pytest.approx(theirs, abs=0.06)


def test_every_parameter_that_differs_between_patients_is_somebodys():
    named = {name for names in frailty.PARAMETERS_OF.values() for name in names}
    # states at the second infusion stand for these, or nothing in the second course depends on them
    states = {"B0", "fr", "P0", "Q0", "kQon", "kQoff"}
    unused = {"kS", "S0", "sS", "Sbg", "gT"}
    for options in ("reference", "real"):
        differing = {name for name, row in table(options).items() if row.iiv > 0}
        assert differing <= named | states | unused
    assert not named & (states | unused)
    assert sum(len(names) for names in frailty.PARAMETERS_OF.values()) == len(named)


def test_donors_are_others_of_the_same_draw():
    draw = np.array([0, 1, 0, 1, 0, 2, 1, 0])
    other = frailty.donors(draw, np.random.default_rng(3))
    assert sorted(other) == list(range(8))
    assert (draw[other] == draw).all()
    assert set(np.flatnonzero(other == np.arange(8))) == {5}, "alone in its draw"


def test_all_parts_own_is_the_patient_and_none_is_the_donor(treated):
    _, patients, first, rows = treated
    state = frailty._subset(first.state, rows)
    other = np.roll(np.arange(patients.n), 1)
    same, same_state = frailty.recombined(patients, state, other, frailty.EVERYTHING)
    for name, values in patients.parameters.items():
        np.testing.assert_array_equal(same.parameters[name], values)
    np.testing.assert_array_equal(same_state.burden, state.burden)
    theirs, their_state = frailty.recombined(patients, state, other, frozenset())
    for name in ("r", "rho", "k", "kP"):
        np.testing.assert_array_equal(theirs.parameters[name], patients.parameters[name][other])
    for name in ("burden", "antigen_low", "mprotein", "secretion", "dysfunction"):
        np.testing.assert_array_equal(getattr(their_state, name), getattr(state, name)[other])
    np.testing.assert_array_equal(theirs.occasion, patients.occasion)
    with pytest.raises(ReinfuseError, match="unknown factor 'luck'"):
        frailty.recombined(patients, state, other, frozenset({"luck"}))


def by_draw(values):
    array = np.asarray(values, dtype=float)
    return ByDraw(all=array, odd=array, even=array)


def test_shapley_values_share_out_the_whole_and_know_sums_from_interactions():
    weight = {factor: 2.0**place for place, factor in enumerate(frailty.FACTORS)}
    growth, dysfunction = frailty.GROWTH, frailty.DYSFUNCTION
    worth = {}
    for some in frailty.coalitions():
        together = 6.0 if {growth, dysfunction} <= some else 0.0
        worth[some] = by_draw([sum(weight[factor] for factor in some) + together])
    found = frailty.shapley(worth)
    for factor in frailty.FACTORS:
        extra = 3.0 if factor in (growth, dysfunction) else 0.0
        assert found[factor].all[0] == pytest.approx(weight[factor] + extra)
    whole = worth[frailty.EVERYTHING].all[0] - worth[frozenset()].all[0]
    assert sum(part.all[0] for part in found.values()) == pytest.approx(whole)


def test_correlation_is_taken_within_draws():
    rng = np.random.default_rng(4)
    draw = np.repeat(np.arange(60), 50)
    ignorance = rng.normal(size=60)[draw]
    first, second = ignorance + 0.3 * rng.normal(size=3000), ignorance + 0.3 * rng.normal(size=3000)
    assert frailty.rank_correlation(first, second) > 0.8
    figure = frailty.averaged(frailty.within_draws(first, second, draw, 60))
    assert abs(figure.value) < 4 * figure.mc_error < 0.1
    assert figure.mc_error == pytest.approx(1 / np.sqrt(49 * 60), rel=0.4)
    assert figure.high - figure.low < 0.2, "draws that differ by chance alone have a narrow interval"
    few = frailty.within_draws(first[:19], second[:19], draw[:19], 2)
    assert np.isnan(few.all).all()


def test_halves_find_what_differs_between_draws():
    rng = np.random.default_rng(5)
    truth = rng.uniform(-0.6, 0.8, 300)
    draw = np.repeat(np.arange(300), 40)
    first = rng.normal(size=draw.size)
    second = truth[draw] * first + np.sqrt(1 - truth[draw] ** 2) * rng.normal(size=draw.size)
    figure = frailty.averaged(frailty.within_draws(first, second, draw, 300))
    # 1.96 sd of a uniform number of width 1.4; Spearman's coefficient is a little smaller than Pearson's
    assert figure.high - figure.value == pytest.approx(1.96 * 1.4 / np.sqrt(12), rel=0.15)


@pytest.fixture(scope="module")
def decomposed():
    return frailty.decompose(at_prior_medians(8), PLAN, per_draw=110, seed=1)


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
    assert 300 < decomposed.patients < decomposed.candidates == 880


def test_the_parts_sum_to_the_correlation(decomposed):
    rungs, parts = decomposed.ladder.set_index("simulation"), decomposed.attribution
    assert tuple(parts["factor"]) == tuple(frailty.FACTORS)
    whole = rungs.loc[frailty.FULL, "correlation"] - rungs.loc["everything redrawn", "correlation"]
    assert parts["shapley"].sum() == pytest.approx(whole)
    alone = parts.set_index("factor").loc[frailty.GROWTH, "alone"]
    there = rungs.loc["everything redrawn but tumour growth", "correlation"]
    assert alone == pytest.approx(there - rungs.loc["everything redrawn", "correlation"])
    assert any("not evidence of exhaustion" in sentence for sentence in decomposed.sentences)


def test_the_same_seed_gives_the_same_answer():
    small = at_prior_medians(2)
    ticks = []
    first, second = (
        frailty.decompose(small, PLAN, per_draw=35, seed=3, responders=False, progress=ticks.append) for _ in range(2)
    )
    assert first.ladder.equals(second.ladder)
    assert sum(ticks) == pytest.approx(2.0)
    assert not first.responders


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(ReinfuseError, match="per_draw is 3"):
        frailty.decompose(at_prior_medians(2), PLAN, per_draw=3)
    with pytest.raises(ReinfuseError, match="no draw has 20 patients"):
        frailty.decompose(at_prior_medians(2), PLAN, per_draw=20)
    with pytest.raises(ReinfuseError, match="follow_up_months is 0"):
        TwoCourses(first=PLAN.first, second=PLAN.second, follow_up_months=0)
    with pytest.raises(ReinfuseError, match="apheresis_day"):
        TwoCourses(first=PLAN.first, second=Infusion(product="cilta-cel", apheresis_day=100.0))


def test_banked_cells_keep_the_dysfunction_of_before():
    candidates = prior(4).sample(40, np.random.default_rng(1))
    luck = np.full((40, 2), 1e6)
    plan = TwoCourses(first=PLAN.first, second=Infusion(product="cilta-cel", apheresis_day=0.0))
    first = frailty.first_course(candidates, plan, options="reference", luck=luck)
    np.testing.assert_array_equal(first.state.dysfunction[first.again], candidates.parameters["Q0"][first.again])


def test_the_figure_shows_every_line_of_both_tables(decomposed):
    from reinfuse.fits.figures.frailty import decomposition

    figure = decomposition(decomposed.ladder, decomposed.attribution)
    left, right = figure.axes
    shown = [label.get_text().replace("\n", " ") for label in left.get_yticklabels()]
    assert shown == list(decomposed.ladder["simulation"])
    assert [label.get_text() for label in right.get_yticklabels()] == list(frailty.FACTORS)
    widths = [bar.get_width() for bar in right.patches]
    np.testing.assert_allclose(widths, decomposed.attribution["shapley"])
    assert len({bar.get_facecolor() for bar in right.patches}) == 2, "dysfunction has a colour of its own"
