"""The compiled reader: equal to its readable twin and to the hand-made answers of every rule at its limit."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.judgement import Columns, Event, Judgement, judge, judge_plainly, judgement_days
from reinfuse.model.kernels import judge as kernel
from reinfuse.model.response import Response, ResponseRules

RULES = ResponseRules()
UNCONFIRMED = ResponseRules(confirm_response=False)
STRICT = ResponseRules(confirm_progression=True)
COLUMNS = Columns(mprotein=4, burden=1, low=0, cart=5, cumhaz=2)  # not in order, one column of others
WIDTH = 7
FOLLOW_UP = 224.0
NEVER = np.inf
TINY = 1e-6
FEW, SOME, MANY = 1e6, 1e9, 1e11
NUMBERS = tuple(f.name for f in fields(Judgement))


def block(since, *, mprotein, burden=MANY, low=0.0, cart=1.0, cumhaz=0.0):
    """Trajectories (n, T, WIDTH) from arrays that broadcast to (n, T); `low` is the share of BCMA-low cells."""
    protein = np.atleast_2d(np.asarray(mprotein, dtype=float))
    out = np.full((*np.broadcast_shapes(protein.shape, (1, since.size)), WIDTH), np.nan)
    out[:, :, COLUMNS.mprotein] = protein
    out[:, :, COLUMNS.burden] = burden
    out[:, :, COLUMNS.low] = np.asarray(low) * out[:, :, COLUMNS.burden]
    out[:, :, COLUMNS.cart] = cart
    out[:, :, COLUMNS.cumhaz] = cumhaz
    return out


def both(trajectories, since, *, rules=RULES, follow_up=FOLLOW_UP, death=NEVER, **more):
    """Judge by both readers, hold them equal, and give the compiled one's answer."""
    task = {
        "trajectories": trajectories, "columns": COLUMNS, "since": since, "follow_up": follow_up,
        "death_days": death, "rules": rules, **more,
    }  # fmt: skip
    compiled = judge(**task)
    equal(compiled, judge_plainly(**task))
    return compiled


def equal(one, other, patients=slice(None)):
    for name in NUMBERS:
        here, there = getattr(one, name)[patients], getattr(other, name)
        assert here.dtype == there.dtype, name
        # single precision; sums in another order differ in the last digit of double
        np.testing.assert_allclose(here, there, rtol=2e-7, atol=1e-37, err_msg=name)


def course(at_visits, burden=MANY, *, rules=RULES, follow_up=None, **more):
    """Judge one patient from values at day 0 and at visits 28, 56, …; between visits the value before holds."""
    values = np.asarray(at_visits, dtype=float)
    follow_up = 28.0 * (values.size - 1) if follow_up is None else follow_up
    since = judgement_days(follow_up=max(follow_up, 28.0 * (values.size - 1)), rules=rules)
    place = np.minimum((since // 28).astype(int), values.size - 1)
    cells = np.broadcast_to(np.asarray(burden, dtype=float), values.shape)[place]
    return both(block(since, mprotein=values[place], burden=cells), since, rules=rules, follow_up=follow_up, **more)


def best(at_visits, burden=MANY, **more):
    return Response(course(at_visits, burden, **more).best[0])


# ------------------------------------------------------------------------------------- every rule by hand


@pytest.mark.parametrize(
    ("value", "burden", "expected"),
    [
        (2.25 + TINY, FEW, Response.SD),
        (2.25, FEW, Response.MR),
        (2.25 - TINY, FEW, Response.MR),
        (1.5 + TINY, FEW, Response.MR),
        (1.5, FEW, Response.PR),
        (1.5 - TINY, FEW, Response.PR),
        (0.3 + TINY, FEW, Response.PR),
        (0.3, FEW, Response.VGPR),
        (0.3 - TINY, FEW, Response.VGPR),
        (0.05, FEW, Response.VGPR),
        (0.05 - TINY, SOME, Response.CR),
        (0.01, 5e10, Response.VGPR),
        (0.01, 5e10 * (1 - TINY), Response.CR),
        (0.01, 5e10 * (1 + TINY), Response.VGPR),
        (0.01, 1e8, Response.CR),
        (0.01, 1e8 * (1 - TINY), Response.SCR),
        (0.01, 1e8 * (1 + TINY), Response.CR),
        (0.0, 0.0, Response.SCR),
    ],
)
def test_classes_at_their_limits(value, burden, expected):
    seen = course([3.0, value, value], burden)
    assert Response(seen.best[0]) == expected
    assert seen.evaluable[0]
    assert seen.response_days[0] == (28.0 if expected >= Response.PR else np.inf)
    np.testing.assert_allclose(seen.deepest[0], value / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("burden", "mrd5", "mrd6"),
    [
        (1e7 * (1 + TINY), False, False),
        (1e7, False, False),
        (1e7 * (1 - TINY), True, False),
        (1e6 * (1 + TINY), True, False),
        (1e6, True, False),
        (1e6 * (1 - TINY), True, True),
    ],
)
def test_mrd_at_its_limits(burden, mrd5, mrd6):
    seen = course([3.0, 1.0, 1.0], [MANY, MANY, burden])
    assert (seen.mrd5[0], seen.mrd6[0]) == (mrd5, mrd6)
    assert (seen.mrd5_days[0], seen.mrd6_days[0]) == (56.0 if mrd5 else np.inf, 56.0 if mrd6 else np.inf)


@pytest.mark.parametrize(
    ("nadir", "value", "progressed"),
    [
        (1.0, 1.5, True),
        (1.0, 1.5 - TINY, False),
        (1.0, 1.5 + TINY, True),
        (4.0, 5.0, True),
        (4.0, 5.0 - TINY, False),
        (4.0, 5.0 + TINY, True),
        (0.9, 1.4, True),
        (5.0, 6.25, True),
        (5.0, 6.25 - TINY, False),
        (0.0, 0.5, True),
        (0.0, 0.5 - TINY, False),
        (0.01, 0.2, False),
    ],
)
def test_progression_at_its_limits(nadir, value, progressed):
    seen = course([max(2 * nadir, 3.0), nadir, nadir, value], FEW)
    assert seen.progression_days[0] == (84.0 if progressed else np.inf)
    assert Event(seen.pfs_event[0]) == (Event.PROGRESSION if progressed else Event.NONE)
    assert seen.pfs_days[0] == 84.0


@pytest.mark.parametrize(
    ("nadir", "rise", "progressed"),
    [(5.0, 1.0, True), (5.0, 1.0 - TINY, False), (5.0 - TINY, 0.6, True), (5.0, 0.6, False), (5.0, 1.0 + TINY, True)],
)
def test_a_high_nadir_needs_a_whole_gram(nadir, rise, progressed):
    seen = course([9.0, nadir, nadir + rise], rules=replace(RULES, pd_ratio=1.01))
    assert np.isfinite(seen.progression_days[0]) == progressed


def test_an_unmeasurable_baseline_has_no_class_but_a_marrow():
    assert best([0.5, 0.2, 0.2]) == Response.PR
    assert best([0.5 + TINY, 0.2, 0.2]) == Response.PR
    seen = course([0.5 - TINY, 0.2, 2.0], [MANY, FEW / 2, MANY])
    assert Response(seen.best[0]) == Response.UNMEASURABLE
    assert not seen.evaluable[0]
    assert (seen.mrd6_days[0], seen.response_days[0]) == (28.0, np.inf)
    assert np.isnan([seen.progression_days[0], seen.pfs_days[0], seen.dor_days[0], seen.deepest[0]]).all()
    assert Event(seen.pfs_event[0]) == Event.NONE


def test_an_unmeasurable_baseline_hides_death_but_no_progression_by_hazard():
    """By M-protein nobody knows whether progression came before death; a hazard needs no M-protein."""
    dead = course([0.2, 0.1, 0.1], death=40.0)
    assert np.isnan(dead.pfs_days[0])
    assert Event(dead.pfs_event[0]) == Event.NONE
    since = judgement_days(follow_up=112.0)
    by_day = block(since, mprotein=np.full(since.size, 0.2), cumhaz=since / 40.0)  # exceeds 1 after day EARLY + 40
    hazard = both(by_day, since, follow_up=112.0, hazard_threshold=[1.0])
    assert (hazard.pfs_days[0], Event(hazard.pfs_event[0])) == (56.0, Event.PROGRESSION)
    assert Response(hazard.best[0]) == Response.UNMEASURABLE


def test_a_baseline_from_elsewhere_replaces_the_first_value():
    seen = course([1.0, 0.9, 0.9], baseline=[3.0])
    assert (Response(seen.best[0]), seen.deepest[0]) == (Response.PR, np.float32(0.3))
    assert best([1.0, 0.9, 0.9]) == Response.SD


def test_confirmation_missed_on_the_second_visit():
    assert best([3.0, 1.45, 1.6, 1.6]) == Response.MR
    assert best([3.0, 1.45, 1.6, 1.6], rules=UNCONFIRMED) == Response.PR
    assert best([3.0, 0.3, 0.6, 0.6]) == Response.PR
    spike, lasting = [3.0, 1.0, 1.6, 1.0, 1.0], [3.0, 1.0, 1.6, 1.6, 1.6]
    assert course(spike).progression_days[0] == 56.0
    assert course(spike, rules=STRICT).progression_days[0] == np.inf
    assert course(lasting, rules=STRICT).progression_days[0] == 56.0
    assert course([3.0, 1.0, 1.6], rules=STRICT).progression_days[0] == np.inf


def test_progression_at_the_first_visit_is_pd():
    seen = course([3.0, 3.75, 0.1, 0.1], [MANY, MANY, FEW / 2, FEW / 2])
    assert (Response(seen.best[0]), seen.progression_days[0], seen.pfs_days[0]) == (Response.PD, 28.0, 28.0)
    assert seen.response_days[0] == np.inf
    assert not seen.mrd5[0]
    assert seen.deepest[0] == 1.25, "the visit of progression itself counts"


def test_a_response_lost_before_its_confirmation():
    seen = course([3.0, 0.2, 0.7, 0.2, 0.2])
    assert (Response(seen.best[0]), seen.response_days[0], seen.progression_days[0]) == (Response.SD, np.inf, 56.0)
    assert np.isnan(seen.dor_days[0])
    loose = course([3.0, 0.2, 0.7, 0.2, 0.2], rules=UNCONFIRMED)
    assert (Response(loose.best[0]), loose.response_days[0], loose.dor_days[0]) == (Response.VGPR, 28.0, 28.0)


def test_a_visit_on_the_last_day_of_follow_up_counts():
    values = [3.0, 1.0, 1.0, 2.0]
    assert course(values, follow_up=84.0).progression_days[0] == 84.0
    assert course(values, follow_up=83.0).progression_days[0] == np.inf
    seen = course(values, follow_up=83.0)
    assert (seen.pfs_days[0], Event(seen.pfs_event[0]), seen.dor_days[0]) == (83.0, Event.NONE, 55.0)


@pytest.mark.parametrize(
    ("death", "event", "days"),
    [
        (84.0, Event.PROGRESSION, 84.0),
        (83.9, Event.DEATH, 83.9),
        (84.1, Event.PROGRESSION, 84.0),
        (0.0, Event.DEATH, 0),
    ],
)
def test_death_around_the_visit_that_finds_progression(death, event, days):
    seen = course([3.0, 1.0, 1.0, 2.0, 2.0], death=death)
    assert (Event(seen.pfs_event[0]), seen.pfs_days[0]) == (event, np.float32(days))


def test_death_on_a_visit_day_leaves_that_visit_and_no_other():
    assert best([3.0, 1.0, 1.0, 1.0], death=56.0) == Response.PR
    assert best([3.0, 1.0, 1.0, 1.0], death=55.0) == Response.SD, "no second visit to confirm at"
    assert best([3.0, 1.0, 1.0, 1.0], death=27.0) == Response.NOT_EVALUABLE
    at_the_end = course([3.0, 1.0, 1.0, 1.0], death=84.0)
    assert (Event(at_the_end.pfs_event[0]), at_the_end.pfs_days[0], at_the_end.dor_days[0]) == (Event.DEATH, 84.0, 56.0)


def test_without_any_visit_nothing_can_be_judged():
    seen = course([3.0, 0.1], FEW / 2, follow_up=27.0)
    assert Response(seen.best[0]) == Response.NOT_EVALUABLE
    assert (seen.pfs_days[0], Event(seen.pfs_event[0]), seen.mrd5[0]) == (27.0, Event.NONE, False)
    assert np.isnan([seen.progression_days[0], seen.deepest[0], seen.antigen_low[0]]).all()
    short = both(block(np.arange(28.0), mprotein=np.full(28, 3.0)), np.arange(28.0), follow_up=27.0)
    assert (short.cmax[0], np.isnan(short.auc28[0])) == (1.0, True), "an area to day 28 takes 28 days"


# ----------------------------------------------------------------------------- hazard, failures, exposure

SINCE = judgement_days(follow_up=FOLLOW_UP)


def test_progression_by_hazard_is_found_at_the_next_visit_and_forgets_the_first_days():
    # 0.01 a day, and 5 within the first ten days, which must not count
    cumhaz = np.where(SINCE < EARLY, 0.5 * SINCE, 5.0 + 0.01 * (SINCE - EARLY))
    out = block(SINCE, mprotein=np.full((4, SINCE.size), 3.0), cumhaz=cumhaz)
    seen = both(out, SINCE, hazard_threshold=[1.0, 50.0, 0.18 - 1e-9, 0.18 + 1e-9])
    assert seen.progression_days.tolist() == [112.0, np.inf, 28.0, 56.0]
    assert seen.best.tolist() == [Response.SD, Response.SD, Response.PD, Response.SD]


def test_a_hazard_at_its_threshold_has_reached_it():
    out = block(SINCE, mprotein=np.full((3, SINCE.size), 3.0), cumhaz=SINCE / 8)
    seen = both(out, SINCE, hazard_threshold=np.array([46.0, 46.0 - TINY, 46.0 + TINY]) / 8)
    assert seen.progression_days.tolist() == [56.0, 56.0, 84.0]
    rules = ResponseRules(visit_days=(EARLY, 28.0))
    at_early = both(out[:1], SINCE, rules=rules, hazard_threshold=[0.0], follow_up=50.0)
    assert at_early.progression_days.tolist() == [28.0], "a visit on the day the hazard starts is too soon"


@pytest.mark.parametrize(
    ("death", "best", "progression", "event"),
    [
        (28.0, Response.PD, 28.0, Event.PROGRESSION),
        (27.9, Response.NOT_EVALUABLE, np.inf, Event.DEATH),
        (10.0, Response.NOT_EVALUABLE, np.inf, Event.DEATH),
    ],
)
def test_nobody_progresses_after_death(death, best, progression, event):
    out = block(SINCE, mprotein=np.full(SINCE.size, 3.0), cumhaz=SINCE, low=0.4)
    seen = both(out, SINCE, hazard_threshold=[0.5], death=death)
    assert (seen.best[0], seen.progression_days[0], seen.pfs_event[0]) == (best, progression, event)
    assert np.isnan(seen.antigen_low[0]) == np.isinf(progression)


def test_a_hazard_without_m_protein_still_progresses():
    out = block(SINCE, mprotein=np.full(SINCE.size, np.nan), cumhaz=0.01 * SINCE)
    seen = both(out, SINCE, hazard_threshold=[1.0])
    assert (seen.best[0], seen.progression_days[0]) == (Response.NOT_EVALUABLE, 112.0)


def test_visits_from_an_m_protein_progression_on_count_for_nothing_even_where_the_hazard_decides():
    protein = np.where(SINCE < 56, 3.0, np.where(SINCE < 84, 4.0, 0.1))
    out = block(SINCE, mprotein=protein, cumhaz=0.01 * SINCE)
    seen = both(out, SINCE, hazard_threshold=[1.5], rules=UNCONFIRMED)
    assert (seen.best[0], seen.progression_days[0], seen.response_days[0]) == (Response.SD, 168.0, np.inf)


def test_the_antigen_is_read_at_progression():
    protein = np.where(SINCE < 100, 1.0, 3.0)
    low = np.where(SINCE < 112, 0.1, np.where(SINCE < 113, 0.75, 1.0))
    seen = both(block(SINCE, mprotein=protein, low=low), SINCE)
    assert (seen.progression_days[0], seen.antigen_low[0]) == (112.0, 0.75)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("day", [3.0, 56.0, FOLLOW_UP])
def test_a_burden_that_is_not_finite_leaves_nothing_judged(value, day):
    out = block(SINCE, mprotein=np.where(SINCE < 20, 3.0, 0.01), burden=FEW / 2)
    out[0, SINCE == day, COLUMNS.burden] = value
    for more in ({}, {"hazard_threshold": [0.0]}, {"death": 100.0}):
        seen = both(out, SINCE, **more)
        assert (seen.best[0], seen.pfs_event[0]) == (Response.NOT_EVALUABLE, Event.NONE)
        assert [seen.mrd5[0], seen.mrd6[0], seen.evaluable[0]] == [False] * 3
        assert np.isnan([seen.progression_days[0], seen.pfs_days[0], seen.dor_days[0], seen.deepest[0]]).all()
        assert seen.response_days[0] == np.inf
        assert seen.cmax[0] == 1.0


def test_exposure_in_closed_form():
    cart = np.where(SINCE <= 10, 10.0 * SINCE, np.maximum(100.0 - 2.0 * (SINCE - 10), 0.0))
    seen = both(block(SINCE, mprotein=np.full(SINCE.size, 3.0), cart=cart), SINCE)
    assert (seen.cmax[0], seen.tmax[0], seen.auc28[0]) == (100.0, 10.0, 500.0 + 18 * (100 + 64) / 2)
    assert seen.persistence_days[0] == 59.0, "2 cells/µL on day 59, none on day 60"
    np.testing.assert_allclose(seen.crs_proxy[0], 100 / 600, rtol=1e-6)


def test_a_peak_after_sixty_days_is_not_the_peak_but_persists():
    cart = np.where(SINCE > 60, 500.0, np.where(SINCE == 60, 7.0, 5.0))
    seen = both(block(SINCE, mprotein=np.full(SINCE.size, 3.0), cart=cart), SINCE)
    assert (seen.cmax[0], seen.tmax[0], seen.persistence_days[0]) == (7.0, 60.0, FOLLOW_UP)


@pytest.mark.parametrize(("death", "days"), [(100.0, 84.0), (112.0, 112.0), (5.5, 5.0), (0.0, 0.0)])
def test_persistence_ends_in_life(death, days):
    seen = both(block(SINCE, mprotein=np.full(SINCE.size, 3.0)), SINCE, death=death)
    assert seen.persistence_days[0] == days


def test_an_area_between_grid_days_is_cut_there():
    since = np.array([0.0, 20.0, 40.0, 56.0])
    out = block(since, mprotein=np.full(4, 3.0), cart=np.array([0.0, 10.0, 20.0, 0.0]))
    rules = ResponseRules(visit_days=(20.0, 40.0))
    seen = both(out, since, rules=rules, follow_up=50.0)
    assert seen.auc28[0] == np.float32(0.5 * 28 * 14)


def test_the_first_visits_may_have_days_of_their_own():
    rules = ResponseRules(visit_days=(12.0, 30.0), visit_interval=60.0, confirm_response=False)
    days = judgement_days(follow_up=200.0, rules=rules)
    assert {12.0, 30.0, 90.0, 150.0, 200.0} <= set(days.tolist())
    protein = np.where(days < 11, 3.0, np.where(days < 100, 1.0, 3.0))
    seen = both(block(days, mprotein=protein, cumhaz=0.1 * days), days, rules=rules, follow_up=200.0)
    assert (seen.response_days[0], seen.progression_days[0]) == (12.0, 150.0)
    by_hazard = both(
        block(days, mprotein=protein, cumhaz=0.1 * days), days, rules=rules, follow_up=200.0, hazard_threshold=[0.1]
    )
    assert (by_hazard.best[0], by_hazard.progression_days[0]) == (Response.PD, 12.0)


# -------------------------------------------------------------------------- random courses, tame and wild


def walks(rng, n, since, wild):
    """Random courses with values exactly at limits; with `wild`, some zeros, NaN and infinities."""
    spread = np.sqrt(np.diff(since, prepend=-1.0)) * rng.choice([0.02, 0.1, 0.3], (n, 1))
    steps = spread * rng.normal(size=(n, since.size))
    protein = rng.choice([0.5, 1.0, 3.0, 6.0], (n, 1)) * np.exp(steps.cumsum(axis=1))
    protein = np.where(rng.random(protein.shape) < 0.5, np.round(protein * 4) / 4, protein)
    wander = rng.normal(size=(n, since.size)).cumsum(axis=1) * rng.choice([0.1, 1.0], (n, 1))
    burden = 10.0 ** np.clip(9 + wander, 0, 13)
    burden = np.where(rng.random(burden.shape) < 0.2, rng.choice([0.0, 1e6, 1e7, 1e8, 5e10], burden.shape), burden)
    cart = np.exp(rng.normal(size=(n, since.size)).cumsum(axis=1))
    cumhaz = np.cumsum(rng.exponential(rng.choice([0.001, 0.03], (n, 1)), (n, since.size)), axis=1)
    out = block(since, mprotein=protein, burden=burden, low=rng.random((n, since.size)), cart=cart, cumhaz=cumhaz)
    if wild:
        patients = rng.random(n) < 0.5
        spots = patients[:, None, None] & (rng.random(out.shape) < 0.002)
        out[spots] = rng.choice([np.nan, np.inf, 0.0, -1.0, 1e300], np.count_nonzero(spots))
    return out


schedules = st.sampled_from(
    [{}, {"visit_interval": 7.0}, {"visit_interval": 30.5}, {"visit_days": (5.0, 11.0, 28.0), "visit_interval": 84.0}]
)
rules_of_all_kinds = st.builds(
    lambda response, progression, schedule, ratio: ResponseRules(
        confirm_response=response, confirm_progression=progression, pd_ratio=ratio, **schedule
    ),
    st.booleans(),
    st.booleans(),
    schedules,
    st.sampled_from([1.25, 1.01]),
)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    rules=rules_of_all_kinds,
    follow_up=st.sampled_from([9.0, 27.0, 28.0, 56.0, 100.5, 365.0, 728.0]),
    wild=st.booleans(),
    hazard=st.booleans(),
    own_baseline=st.booleans(),
)
@example(seed=1, rules=RULES, follow_up=728.0, wild=True, hazard=True, own_baseline=False)
@example(seed=2, rules=STRICT, follow_up=728.0, wild=False, hazard=False, own_baseline=True)
def test_the_compiled_reader_says_what_its_readable_twin_says(seed, rules, follow_up, wild, hazard, own_baseline):
    rng = np.random.default_rng(seed)
    n = 100
    since = judgement_days(follow_up=follow_up, rules=rules)
    death = np.where(rng.random(n) < 0.3, rng.choice(since, n), rng.exponential(400.0, n))
    more = {"hazard_threshold": rng.exponential(size=n)} if hazard else {}
    if own_baseline:
        more["baseline"] = rng.choice([0.2, 0.5, 3.0, np.nan], n)
    with np.errstate(all="ignore" if wild else None):
        both(walks(rng, n, since, wild), since, rules=rules, follow_up=follow_up, death=death, **more)


def test_the_random_courses_reach_every_class_and_event():
    rng = np.random.default_rng(3)
    since = judgement_days(follow_up=365.0)
    with np.errstate(all="ignore"):
        seen = both(walks(rng, 2000, since, True), since, follow_up=365.0, death=rng.exponential(400.0, 2000))
    assert set(seen.best.tolist()) == {int(r) for r in Response}
    assert set(seen.pfs_event.tolist()) == {int(e) for e in Event}
    assert 0 < seen.mrd6.sum() < seen.mrd5.sum() < 2000


def test_patients_do_not_see_each_other_and_a_part_is_judged_in_place():
    rng = np.random.default_rng(5)
    out = walks(rng, 64, SINCE, True)
    task = {"columns": COLUMNS, "since": SINCE, "follow_up": FOLLOW_UP, "death_days": NEVER}
    before = out.copy()
    whole = judge(trajectories=out, **task)
    np.testing.assert_array_equal(out, before)
    order = rng.permutation(64)
    equal(judge(trajectories=out[order], **task), judge(trajectories=out[order].copy(), **task))
    equal(whole, judge(trajectories=out[10:20], **task), slice(10, 20))
    equal(whole, judge(trajectories=out[::2], **task), slice(None, None, 2))
    none = judge(trajectories=out[:0], **task)
    assert {getattr(none, name).shape for name in NUMBERS} == {(0,)}


# ------------------------------------------------------------------------------------------- grid and faults


def test_the_grid_holds_what_is_needed_and_no_more():
    days = judgement_days(follow_up=100.5)
    assert days.tolist() == [*range(61), 84.0, 100.5]
    assert judgement_days(follow_up=9.0).tolist() == list(range(10))
    assert judgement_days(follow_up=9.5).tolist() == [*range(10), 9.5]
    assert np.all(np.isin(RULES.schedule(1826.0), judgement_days(follow_up=1826.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"since": SINCE + 1}, "since starts on day 1"),
        ({"since": SINCE[::-1]}, "rise strictly from 0"),
        ({"since": [0.0]}, "at least two days"),
        ({"follow_up": 0.0}, "follow_up is 0.0"),
        ({"follow_up": np.nan}, "follow_up is nan"),
        ({"follow_up": 300.0}, "follow_up is 300 days, since ends on day 224"),
        ({"rules": ResponseRules(visit_interval=30.5)}, "the visit of day 30.5 is not in `since`"),
        ({"trajectories": np.zeros((2, 3, WIDTH))}, r"trajectories has shape \(2, 3, 7\)"),
        ({"trajectories": np.zeros((2, SINCE.size, WIDTH), np.float32)}, "of float32"),
        ({"columns": replace(COLUMNS, low=7)}, "columns.low is 7, trajectories has 7 variables"),
        ({"columns": replace(COLUMNS, cart=-1)}, "columns.cart is -1"),
        ({"columns": replace(COLUMNS, cumhaz=None), "hazard_threshold": [1.0, 1.0]}, "columns.cumhaz is not"),
        ({"hazard_threshold": [1.0]}, r"hazard_threshold has shape \(1,\) for 2 patients"),
        ({"death_days": [1.0, -1.0]}, "death_days is -1"),
        ({"death_days": np.nan}, "death_days is nan"),
        ({"baseline": [1.0, 1.0, 1.0]}, r"baseline has shape \(3,\)"),
    ],
)
@pytest.mark.parametrize("reader", [judge, judge_plainly])
def test_bad_input_is_refused(reader, change, message):
    good = {
        "trajectories": np.zeros((2, SINCE.size, WIDTH)), "columns": COLUMNS, "since": SINCE,
        "follow_up": FOLLOW_UP, "death_days": NEVER,
    }  # fmt: skip
    with pytest.raises(ReinfuseError, match=message):
        reader(**{**good, **change})


def test_every_row_of_the_kernel_has_a_field():
    assert len(NUMBERS) == kernel.NUMBERS + kernel.CODES
