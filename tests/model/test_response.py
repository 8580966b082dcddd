"""Every rule at, just below and just above its limit, by hand; then laws on random trajectories."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.response import (
    RULE_SOURCES,
    Response,
    ResponseRules,
    assess,
    crs_proxy,
    duration_of_response,
    kinetics,
    persistence,
    progression_free,
    visits,
)

RULES = ResponseRules()
UNCONFIRMED = ResponseRules(confirm_response=False)
TINY = 1e-6
FEW = 1e6  # too few myeloma cells to stand in the way of sCR
SOME = 1e9  # enough to stand in the way of sCR, too few for CR
MANY = 1e11


def course(mprotein, burden=MANY, rules=RULES, **more):
    """Assess one patient from the values at day 0 and at visits 28, 56, …"""
    values = np.asarray(mprotein, dtype=float)
    times = 28.0 * np.arange(values.size)
    cells = np.broadcast_to(np.asarray(burden, dtype=float), values.shape)
    return assess(times=times, mprotein=values, burden=cells, rules=rules, **more)


def best(mprotein, **more):
    return Response(course(mprotein, **more).best[0])


# ---------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3.0, Response.SD),
        (2.25 + TINY, Response.SD),
        (2.25, Response.MR),
        (2.25 - TINY, Response.MR),
        (1.5 + TINY, Response.MR),
        (1.5, Response.PR),
        (1.5 - TINY, Response.PR),
        (0.3 + TINY, Response.PR),
        (0.3, Response.VGPR),
        (0.3 - TINY, Response.VGPR),
        (0.05, Response.VGPR),
        (0.05 - TINY, Response.CR),
        (0.0, Response.CR),
    ],
)
def test_class_by_mprotein_from_a_baseline_of_3(value, expected):
    assert best([3.0, value, value], burden=SOME) == expected
    stringent = Response.SCR if expected == Response.CR else expected
    assert best([3.0, value, value], burden=FEW) == stringent, "a cleaner marrow matters in CR only"


# limits that are not exact in binary must still count as reached
@pytest.mark.parametrize("baseline", [0.7, 1.1, 2.3, 4.1, 5.7, 6.9])
@pytest.mark.parametrize(("ratio", "expected"), [(75, Response.MR), (50, Response.PR), (10, Response.VGPR)])
def test_a_limit_reached_in_decimals_is_reached(baseline, ratio, expected):
    at = float(f"{baseline * ratio / 100:.6f}")
    assert best([baseline, at, at], burden=MANY) == expected
    assert best([baseline, at + TINY, at + TINY], burden=MANY) < expected


@pytest.mark.parametrize(
    ("burden", "expected"),
    [(5e10 * (1 - TINY), Response.CR), (5e10, Response.VGPR), (5e10 * (1 + TINY), Response.VGPR)],
)
def test_cr_needs_a_clear_marrow(burden, expected):
    assert best([3.0, 0.01, 0.01], burden=burden) == expected


@pytest.mark.parametrize(
    ("burden", "expected"),
    [(1e8 * (1 - TINY), Response.SCR), (1e8, Response.CR), (1e8 * (1 + TINY), Response.CR), (0.0, Response.SCR)],
)
def test_a_stringent_cr_needs_a_marrow_clear_by_flow(burden, expected):
    assert best([3.0, 0.01, 0.01], burden=burden) == expected
    other = replace(RULES, scr_marrow=1e-6)
    assert best([3.0, 0.01, 0.01], burden=burden, rules=other) == (Response.CR if burden else Response.SCR)


def test_a_stringent_cr_is_a_cr_and_is_confirmed_as_one():
    seen = course([3.0, 0.01, 0.01, 0.01], burden=[MANY, FEW, SOME, FEW])
    assert Response(seen.best[0]) == Response.CR, "the second visit sees the clone, the third is the last"
    assert seen.at_least(Response.CR)[0]
    assert best([3.0, 0.01, 0.01], burden=FEW) > Response.CR
    assert course([3.0, 0.01, 0.01], burden=FEW).labels.tolist() == ["SCR"]


def test_an_undetectable_protein_of_a_small_baseline_is_vgpr_at_most_with_a_full_marrow():
    assert best([0.5, 0.04, 0.04], burden=MANY) == Response.VGPR
    assert best([0.5, 0.04, 0.04], burden=SOME) == Response.CR
    assert best([0.5, 0.04, 0.04], burden=FEW) == Response.SCR


# ----------------------------------------------------------------------------------------- confirmation


def test_a_class_must_hold_at_two_visits():
    assert best([3.0, 1.45, 1.6, 1.6]) == Response.MR
    assert best([3.0, 1.45, 1.6, 1.6], rules=UNCONFIRMED) == Response.PR
    assert best([3.0, 0.3, 0.6, 0.6]) == Response.PR, "a deeper first visit confirms the shallower class"


def test_the_last_visit_cannot_be_confirmed():
    assert best([3.0, 2.9, 1.0]) == Response.SD
    assert best([3.0, 2.9, 1.0], rules=UNCONFIRMED) == Response.PR


@pytest.mark.parametrize(
    ("second", "response", "day"),
    [
        (1.5 + TINY, Response.MR, np.inf),
        (1.5, Response.PR, 28.0),
        (1.5 - TINY, Response.PR, 28.0),
    ],
)
def test_the_second_visit_confirms_at_the_same_limit(second, response, day):
    seen = course([3.0, 1.4, second, 1.6])
    assert (Response(seen.best[0]), seen.response_day[0]) == (response, day)


def test_a_class_missed_at_its_second_visit_counts_when_reached_again():
    seen = course([3.0, 1.4, 1.6, 1.4, 1.4])
    assert (Response(seen.best[0]), seen.response_day[0]) == (Response.PR, 84.0)
    assert course([3.0, 1.4, 1.6, 1.4, 1.6]).response_day[0] == np.inf, "two visits, but not in a row"


def test_a_response_lost_to_progression_before_its_confirmation_is_none():
    seen = course([3.0, 0.2, 0.7, 0.2, 0.2])
    assert (Response(seen.best[0]), seen.response_day[0], seen.progression_day[0]) == (Response.SD, np.inf, 56.0)
    loose = course([3.0, 0.2, 0.7, 0.2, 0.2], rules=UNCONFIRMED)
    assert (Response(loose.best[0]), loose.response_day[0]) == (Response.VGPR, 28.0)


def test_stable_disease_needs_no_confirmation():
    assert best([3.0, 2.9]) == Response.SD


def test_progression_does_not_confirm_a_response():
    seen = course([3.0, 1.0, 1.6, 1.5])
    assert (seen.best[0], seen.progression_day[0]) == (Response.SD, 56.0)


def test_response_is_dated_at_the_first_of_its_two_visits():
    seen = course([3.0, 2.0, 1.4, 1.3, 0.2, 0.2])
    assert seen.response_day[0] == 56.0
    assert seen.time_to_response[0] == 56.0
    assert course([3.0, 1.45, 1.6, 1.45, 1.4]).response_day[0] == 84.0
    assert course([3.0, 1.45, 1.6, 1.45, 1.4], rules=UNCONFIRMED).response_day[0] == 28.0


def test_no_response_is_never():
    assert course([3.0, 2.0, 2.0]).response_day[0] == np.inf


# ------------------------------------------------------------------------------------------ progression


@pytest.mark.parametrize(
    ("nadir", "value", "progressed"),
    [
        (1.0, 1.5, True),  # +0.5 g/dL is the harder rule here
        (1.0, 1.5 - TINY, False),
        (1.0, 1.5 + TINY, True),
        (4.0, 5.0, True),  # +25 % is
        (4.0, 5.0 - TINY, False),
        (4.0, 5.0 + TINY, True),
        (0.9, 1.4, True),  # 1.4 - 0.9 < 0.5 in binary
        (2.12, 2.65, True),  # and 2.65 < 1.25 * 2.12
        (5.0 - TINY, 6.25, True),  # below a nadir of 5, +25 % is the harder rule
        (5.0, 6.25, True),
        (5.0, 6.25 - TINY, False),
        (0.0, 0.5, True),
        (0.0, 0.5 - TINY, False),
        (0.01, 0.2, False),  # relapse from CR, not progression
    ],
)
def test_progression_needs_a_quarter_and_half_a_gram(nadir, value, progressed):
    seen = course([max(2 * nadir, 3.0), nadir, nadir, value], burden=FEW)
    assert seen.progression_day[0] == (84.0 if progressed else np.inf)


def test_a_high_nadir_needs_a_whole_gram():
    # +25 % alone would always be the harder rule from 5 g/dL on: lower it to see the gram
    easy = replace(RULES, pd_ratio=1.01)
    for nadir, rise, progressed in [
        (5.0, 1.0, True), (5.0, 1.0 - TINY, False), (5.0 - TINY, 0.6, True), (5.0, 0.6, False),
    ]:  # fmt: skip
        assert np.isfinite(course([9.0, nadir, nadir + rise], rules=easy).progression_day[0]) == progressed


def test_progression_without_response_counts_from_the_baseline():
    seen = course([3.0, 3.75])
    assert (seen.progression_day[0], Response(seen.best[0])) == (28.0, Response.PD)
    assert course([3.0, 3.75 - TINY]).best[0] == Response.SD


def test_the_nadir_is_the_lowest_so_far_not_the_last():
    assert course([3.0, 1.0, 1.3, 1.5]).progression_day[0] == 84.0


def test_a_stable_patient_who_progresses_later_keeps_stable_disease():
    seen = course([3.0, 2.8, 2.9, 4.0])
    assert (Response(seen.best[0]), seen.progression_day[0]) == (Response.SD, 84.0)


def test_what_comes_after_progression_does_not_count():
    seen = course([3.0, 4.0, 0.1, 0.1, 0.1], burden=[MANY, MANY, FEW, FEW, FEW])
    assert Response(seen.best[0]) == Response.PD
    assert seen.response_day[0] == np.inf
    assert not seen.mrd5[0]


def test_confirmed_progression():
    strict = replace(RULES, confirm_progression=True)
    spike, lasting = [3.0, 1.0, 1.6, 1.0, 1.0], [3.0, 1.0, 1.6, 1.6, 1.6]
    assert course(spike).progression_day[0] == 56.0
    assert course(spike, rules=strict).progression_day[0] == np.inf
    assert course(lasting, rules=strict).progression_day[0] == 56.0
    assert course([3.0, 1.0, 1.6], rules=strict).progression_day[0] == np.inf, "no second visit to confirm at"


@pytest.mark.parametrize(("second", "day"), [(1.5, 56.0), (1.5 + TINY, 56.0), (1.5 - TINY, np.inf)])
def test_progression_is_confirmed_against_the_nadir_of_its_second_visit(second, day):
    strict = replace(RULES, confirm_progression=True)
    assert course([3.0, 1.0, 1.6, second, 1.4], rules=strict).progression_day[0] == day


def test_a_confirmed_progression_at_the_first_visit_is_pd():
    strict = replace(RULES, confirm_progression=True)
    seen = course([3.0, 3.75, 3.75, 0.1], rules=strict)
    assert (Response(seen.best[0]), seen.progression_day[0]) == (Response.PD, 28.0)
    spared = course([3.0, 3.75, 3.75 - TINY, 0.1, 0.1], burden=MANY, rules=strict)
    assert (Response(spared.best[0]), spared.progression_day[0]) == (Response.VGPR, np.inf)


# -------------------------------------------------------------------------------------------------- MRD


@pytest.mark.parametrize(
    ("burden", "mrd5", "mrd6"),
    [
        (1e7, False, False),
        (1e7 * (1 - TINY), True, False),
        (1e6, True, False),
        (1e6 * (1 - TINY), True, True),
        (0.0, True, True),
    ],
)
def test_mrd_by_burden(burden, mrd5, mrd6):
    seen = course([3.0, 0.2, 0.2], burden=[MANY, MANY, burden])
    assert (seen.mrd5[0], seen.mrd6[0]) == (mrd5, mrd6)
    assert seen.mrd5_day[0] == (56.0 if mrd5 else np.inf)
    assert seen.mrd6_day[0] == (56.0 if mrd6 else np.inf)


def test_mrd_is_looked_for_at_visits_only():
    times = np.arange(57.0)
    burden = np.where(times == 40, 1.0, MANY)
    seen = assess(times=times, mprotein=np.full(57, 3.0), burden=burden)
    assert not seen.mrd5[0]


# ----------------------------------------------------------------------------- who cannot be classified


def test_baseline_at_and_below_the_measurable_limit():
    assert best([0.5, 0.2, 0.2]) == Response.PR
    seen = course([0.5 - TINY, 0.2, 2.0], burden=[MANY, FEW / 2, MANY])
    assert Response(seen.best[0]) == Response.UNMEASURABLE
    assert not seen.evaluable[0]
    assert not seen.at_least(Response.SD)[0]
    assert np.isnan(seen.response_day[0])
    assert np.isnan(seen.progression_day[0])
    assert seen.mrd6[0], "burden can be judged without an M-protein"


@pytest.mark.parametrize("broken", ["mprotein", "burden"])
def test_a_failed_trajectory_is_not_evaluable(broken):
    arrays = {"mprotein": np.array([[3.0, 1.0, 1.0]] * 2), "burden": np.full((2, 3), FEW / 2)}
    arrays[broken][1, 1] = np.nan
    seen = assess(times=[0.0, 28.0, 56.0], **arrays)
    assert seen.labels.tolist() == ["PR", "NOT_EVALUABLE"]
    assert seen.evaluable.tolist() == [True, False]
    assert seen.mrd5.tolist() == [True, False]
    for name in ("response_day", "progression_day", "mrd5_day", "mrd6_day"):
        assert np.isnan(getattr(seen, name)[1]), name


def test_a_patient_without_a_visit_or_an_infusion_is_not_evaluable():
    times, flat = np.arange(101.0), np.full((4, 101), 3.0)
    seen = assess(times=times, mprotein=flat, burden=flat * 1e10, start=[0.0, 90.0, np.inf, np.nan])
    assert seen.labels.tolist() == ["SD", *["NOT_EVALUABLE"] * 3]
    assert np.isnan(seen.baseline[2:]).all()
    assert np.isnan(seen.time_to_progression[2:]).all()


# ------------------------------------------------------------------------------------- starts and ends


def test_a_second_infusion_has_its_own_start_baseline_and_visits():
    times = np.arange(0.0, 401.0)
    protein = np.where(times < 200, 1.0, np.where(times < 215, 3.0, 0.25))
    protein = np.stack([protein, protein])
    seen = assess(times=times, mprotein=protein, burden=np.full_like(protein, MANY), start=[0.0, 210.0])
    assert seen.labels.tolist() == ["PR", "VGPR"]
    assert seen.baseline.tolist() == [1.0, 3.0]
    assert seen.progression_day.tolist() == [np.inf, np.inf], "the peak on days 200 to 214 fell between visits"
    assert seen.response_day.tolist() == [224.0, 238.0]
    assert seen.time_to_response.tolist() == [224.0, 28.0]


def test_a_given_baseline_replaces_the_value_at_the_start():
    assert best([1.0, 0.9, 0.9], baseline=[3.0]) == Response.PR
    assert best([1.0, 0.9, 0.9]) == Response.SD


def test_visits_after_until_do_not_count():
    values = [3.0, 1.0, 1.0, 2.0]
    assert course(values).progression_day[0] == 84.0
    assert course(values, until=84.0).progression_day[0] == 84.0
    assert course(values, until=83.0).progression_day[0] == np.inf
    assert course(values, until=55.0).best[0] == Response.SD, "no second visit to confirm at"


def test_visits_between_grid_points_are_interpolated():
    times = [0.0, 20.0, 36.0, 60.0]
    seen = assess(times=times, mprotein=[3.0, 2.0, 1.0, 1.0], burden=[1e11, 1e8, 1.1e6, 1.1e6], rules=UNCONFIRMED)
    assert seen.response_day[0] == 28.0, "1.5 g/dL half-way between 2 and 1"
    assert seen.mrd5_day[0] == 56.0, "half-way in logarithm between 1e8 and 1.1e6 is just above 1e7"
    deeper = assess(times=times, mprotein=[3.0, 2.0, 1.0, 1.0], burden=[1e11, 1e8, 0.9e6, 0.9e6], rules=UNCONFIRMED)
    assert deeper.mrd5_day[0] == 28.0


@pytest.mark.parametrize(
    ("start", "until", "every", "expected"),
    [
        (0.0, 84.0, 28.0, [28.0, 56.0, 84.0]),
        (0.0, 83.9, 28.0, [28.0, 56.0]),
        (10.0, 66.0, 28.0, [38.0, 66.0]),
        (0.0, 0.3, 0.1, [0.1, 0.2, 0.3]),
        (0.0, 27.0, 28.0, []),
        (50.0, 10.0, 28.0, []),
        (np.inf, 10.0, 28.0, []),
    ],
)
def test_visits(start, until, every, expected):
    np.testing.assert_allclose(visits(start, until, every), expected)


def test_visits_of_several_patients_are_filled_up():
    out = visits([0.0, 30.0, np.nan], 84.0)
    np.testing.assert_array_equal(out, [[28.0, 56.0, 84.0], [58.0, np.nan, np.nan], [np.nan] * 3])


def test_a_schedule_of_ones_own_replaces_the_first_visits():
    rules = ResponseRules(visit_days=(14.0, 28.0, 60.0), visit_interval=90.0)
    assert rules.schedule(330.0).tolist() == [14.0, 28.0, 60.0, 150.0, 240.0, 330.0]
    assert rules.schedule(329.0).tolist() == [14.0, 28.0, 60.0, 150.0, 240.0]
    assert rules.schedule(27.0).tolist() == [14.0]
    assert rules.schedule(13.0).tolist() == []
    assert ResponseRules().schedule(84.0).tolist() == [28.0, 56.0, 84.0]
    np.testing.assert_array_equal(
        visits([0.0, 100.0, np.nan], [60.0, 128.0, 60.0], 90.0, (14.0, 28.0, 60.0)),
        [[14.0, 28.0, 60.0], [114.0, 128.0, np.nan], [np.nan] * 3],
    )


def test_response_is_dated_and_confirmed_at_the_visits_of_the_schedule():
    days = np.arange(301.0)
    protein = np.where(days < 40, 3.0, np.where(days < 200, 1.0, 3.0))

    def judged(**schedule):
        rules = ResponseRules(**schedule)
        seen = assess(times=days, mprotein=protein, burden=np.full(301, MANY), rules=rules)
        return Response(seen.best[0]), seen.response_day[0], seen.progression_day[0]

    assert judged() == (Response.PR, 56.0, 224.0)
    assert judged(visit_days=(30.0, 60.0), visit_interval=90.0) == (Response.PR, 60.0, 240.0)
    assert judged(visit_interval=140.0) == (Response.SD, np.inf, 280.0), "one visit in response, none to confirm it"
    assert judged(visit_interval=140.0, confirm_response=False) == (Response.PR, 140.0, 280.0)


# ------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0.0, 28.0, 28.0]}, "times do not rise"),
        ({"times": [0.0, np.nan, 28.0]}, "times do not rise"),
        ({"times": [0.0]}, "give at least two days"),
        ({"mprotein": np.ones((2, 4))}, r"mprotein has shape \(2, 4\), times has 3 days"),
        ({"burden": np.ones((3, 3))}, "numbers of patients differ: mprotein 2, burden 3"),
        ({"start": [0.0, 1.0, 2.0]}, r"start has shape \(3,\) for 2 patients"),
        ({"start": -1.0}, "start is day -1, the trajectory runs from 0 to 56"),
        ({"until": 57.0}, "until is day 57"),
        ({"until": [56.0, np.nan]}, "until is day nan"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"times": [0.0, 28.0, 56.0], "mprotein": np.ones((2, 3)), "burden": np.ones((2, 3))}
    with pytest.raises(ReinfuseError, match=message):
        assess(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visit_interval": 0.0}, "visit_interval is 0.0"),
        ({"measurable": np.nan}, "measurable is nan"),
        ({"pr_ratio": 0.8}, "each must lie below the next"),
        ({"mr_ratio": 1.0}, "MR below 1"),
        ({"pd_ratio": 1.0}, "pd_ratio is 1.0"),
        ({"mrd_deep": 1e-4}, "swap them"),
        ({"scr_marrow": 0.06}, "scr_marrow 0.06 is above cr_marrow 0.05"),
        ({"visit_days": (28.0, 28.0)}, "visit_days are"),
        ({"visit_days": (0.0, 28.0)}, "visit_days are"),
        ({"visit_days": (28.0, np.nan)}, "visit_days are"),
        ({"flow_limit": 0.0}, "flow_limit is 0.0"),
        ({"crs_cmax": -1.0}, "crs_cmax is -1.0"),
        ({"crs_slope": np.inf}, "crs_slope is inf"),
    ],
)
def test_bad_rules_are_refused(change, message):
    with pytest.raises(ReinfuseError, match=message):
        ResponseRules(**change)


def test_every_rule_has_a_tagged_source():
    assert set(RULE_SOURCES) == {f.name for f in fields(ResponseRules)}
    assert all(text.startswith(("READ", "RECALLED", "ASSUMED")) for text in RULE_SOURCES.values())


@pytest.mark.parametrize("every", [0.0, -1.0, np.nan])
def test_a_bad_visit_interval_is_refused(every):
    with pytest.raises(ReinfuseError, match="visit interval"):
        visits(0.0, 100.0, every)


def test_visits_without_an_end_are_refused():
    with pytest.raises(ReinfuseError, match="give the last day of follow-up"):
        visits(0.0, np.inf)


# -------------------------------------------------------------------------------------------------- laws

T = 12
protein = hnp.arrays(float, (3, T), elements=st.floats(0.0, 12.0, width=32))
cells = hnp.arrays(float, (3, T), elements=st.floats(0.0, 13.0, width=32).map(lambda x: 10.0**x))
times = 28.0 * np.arange(T)
all_rules = st.builds(
    ResponseRules,
    confirm_response=st.booleans(),
    confirm_progression=st.booleans(),
    visit_days=st.sampled_from([(), (14.0, 28.0)]),
)
ANSWERS = ("best", "response_day", "progression_day", "mrd5", "mrd5_day", "mrd6", "mrd6_day")


def same(one, other, patients=slice(None)):
    for name in ANSWERS:
        np.testing.assert_array_equal(getattr(one, name)[patients], getattr(other, name), err_msg=name)


@given(protein, cells, all_rules)
def test_a_falling_protein_never_progresses(values, burden, rules):
    falling = -np.sort(-values, axis=1)
    seen = assess(times=times, mprotein=falling, burden=burden, rules=rules)
    assert not np.any(np.isfinite(seen.progression_day))
    assert not np.any(seen.best == Response.PD)


@given(protein, cells, st.sampled_from([0.25, 2.0, 8.0]))
def test_the_unit_of_mprotein_does_not_matter(values, burden, unit):
    scaled = replace(
        RULES, cr_mprotein=0.05 * unit, pd_rise=0.5 * unit, pd_rise_high=unit, pd_high_nadir=5 * unit,
        measurable=0.5 * unit,
    )  # fmt: skip
    same(
        assess(times=times, mprotein=values, burden=burden),
        assess(times=times, mprotein=values * unit, burden=burden, rules=scaled),
    )


@given(protein, cells, all_rules, st.permutations(range(3)))
def test_patients_do_not_see_each_other(values, burden, rules, order):
    together = assess(times=times, mprotein=values, burden=burden, rules=rules)
    same(together, assess(times=times, mprotein=values[order], burden=burden[order], rules=rules), list(order))
    for i in range(3):
        same(together, assess(times=times, mprotein=values[i], burden=burden[i], rules=rules), slice(i, i + 1))


@given(protein, cells, all_rules)
def test_the_clock_may_be_shifted(values, burden, rules):
    here = assess(times=times, mprotein=values, burden=burden, rules=rules)
    there = assess(times=times + 512.0, mprotein=values, burden=burden, start=512.0, rules=rules)
    np.testing.assert_array_equal(here.best, there.best)
    np.testing.assert_array_equal(here.time_to_progression, there.time_to_progression)
    np.testing.assert_array_equal(here.time_to_response, there.time_to_response)


@given(protein, cells)
def test_confirmation_only_takes_away(values, burden):
    loose = assess(times=times, mprotein=values, burden=burden, rules=UNCONFIRMED)
    strict = assess(times=times, mprotein=values, burden=burden)
    assert np.all(strict.best <= loose.best)
    np.testing.assert_array_equal(strict.progression_day, loose.progression_day)


@given(protein, cells, all_rules)
def test_days_are_in_order_and_classes_agree_with_them(values, burden, rules):
    seen = assess(times=times, mprotein=values, burden=burden, rules=rules)
    judged = seen.evaluable
    responded = seen.at_least(Response.PR)
    assert np.all(np.isfinite(seen.response_day[judged]) == responded[judged])
    assert np.all(seen.response_day[responded] < seen.progression_day[responded])
    assert np.all(seen.mrd6 <= seen.mrd5)
    assert np.all(seen.mrd5_day[seen.mrd6] <= seen.mrd6_day[seen.mrd6])
    assert np.all(seen.progression_day[seen.best == Response.PD] == rules.schedule(28.0)[0])


def by_hand(values, burden):
    """One patient, visit by visit, in plain words: the slow twin of `assess` with its default rules."""
    if values[0] < 0.5:
        return Response.UNMEASURABLE, np.nan
    nadir, classes, progression = values[0], [], np.inf
    for i in range(1, len(values)):
        rise = 1.0 if nadir >= 5 else 0.5
        if values[i] >= 1.25 * nadir and values[i] - nadir >= rise:
            progression = 28.0 * i
            break
        nadir = min(nadir, values[i])
        ratio = values[i] / values[0]
        level = Response.SD
        for limit, name in [(0.75, Response.MR), (0.5, Response.PR), (0.1, Response.VGPR)]:
            if ratio <= limit:
                level = name
        if values[i] < 0.05 and burden[i] < 5e10:
            level = Response.SCR if burden[i] < 1e8 else Response.CR
        classes.append(level)
    if not classes:
        return Response.PD, progression
    pairs = [min(a, b) for a, b in pairwise(classes)]
    return max([Response.SD, *pairs]), progression


# quarters are exact in binary, so that the twin needs no forgiveness for rounding
@given(hnp.arrays(float, T, elements=st.integers(0, 40).map(lambda k: k / 4)), cells)
def test_assess_agrees_with_its_slow_twin(values, burden):
    seen = course(values, burden=burden[0])
    expected, progression = by_hand(values, burden[0])
    assert Response(seen.best[0]) == expected
    np.testing.assert_array_equal(seen.progression_day[0], progression)


# --------------------------------------------------------------------------------------------- durations


@pytest.mark.parametrize(
    ("progression", "death", "follow_up", "time", "event"),
    [
        (100.0, np.inf, 365.0, 100.0, True),
        (np.inf, 50.0, 365.0, 50.0, True),
        (100.0, 50.0, 365.0, 50.0, True),
        (np.inf, np.inf, 365.0, 365.0, False),
        (365.0, np.inf, 365.0, 365.0, True),
        (366.0, np.inf, 365.0, 365.0, False),
        (np.inf, np.inf, np.inf, np.inf, False),
        (np.nan, 50.0, 365.0, np.nan, False),
    ],
)
def test_progression_free(progression, death, follow_up, time, event):
    got_time, got_event = progression_free(progression, death, follow_up)
    np.testing.assert_array_equal(got_time, time)
    assert got_event == event


def test_progression_free_of_several_patients():
    time, event = progression_free([100.0, np.inf], np.inf, 365.0)
    assert time.tolist() == [100.0, 365.0]
    assert event.tolist() == [True, False]


@pytest.mark.parametrize("name", ["progression_day", "death_day", "follow_up"])
def test_negative_days_are_refused(name):
    days = {"progression_day": 1.0, "death_day": 1.0, "follow_up": 1.0, name: -2.0}
    with pytest.raises(ReinfuseError, match=f"{name} is -2"):
        progression_free(**days)


@pytest.mark.parametrize(
    ("response", "progression", "death", "time", "event"),
    [
        (28.0, 128.0, np.inf, 100.0, True),
        (28.0, np.inf, 58.0, 30.0, True),
        (28.0, np.inf, np.inf, 337.0, False),
        (np.inf, 128.0, np.inf, np.nan, False),
        (np.nan, np.nan, np.inf, np.nan, False),
        (56.0, np.inf, 40.0, np.nan, False),
        (365.0, np.inf, np.inf, 0.0, False),
    ],
)
def test_duration_of_response(response, progression, death, time, event):
    got_time, got_event = duration_of_response(response, progression, death, 365.0)
    np.testing.assert_array_equal(got_time, time)
    assert got_event == event


def test_duration_of_response_refuses_a_negative_day():
    with pytest.raises(ReinfuseError, match="response_day is -1"):
        duration_of_response(-1.0, 100.0, np.inf, 365.0)


# ---------------------------------------------------------------------------------------------- kinetics


def test_kinetics_of_a_triangle():
    grid = np.arange(0.0, 41.0)
    curve = np.where(grid <= 10, grid, np.maximum(0.0, 20 - grid))
    got = kinetics(grid, curve, lloq=3.0)
    assert (got.cmax[0], got.tmax[0], got.tlast[0]) == (10.0, 10.0, 17.0)
    assert got.auc[0] == pytest.approx(100.0, rel=1e-14)
    assert kinetics(grid, curve).tlast[0] == 19.0, "without a limit every positive value counts"


def test_auc_ends_exactly_at_its_window():
    # 28 d lies inside the last interval; the curve 2 + t is linear, so the area is exact on any grid
    grid = np.array([0.0, 3.0, 11.0, 25.0, 40.0])
    got = kinetics(grid, 2.0 + grid)
    assert got.auc[0] == pytest.approx(2 * 28 + 28**2 / 2, rel=1e-14)
    assert kinetics(grid, 2.0 + grid, auc_days=40.0).auc[0] == pytest.approx(80 + 800, rel=1e-14)


def test_auc_needs_the_whole_window():
    grid = np.arange(0.0, 28.0)
    assert np.isnan(kinetics(grid, 1.0 + grid).auc[0])
    assert kinetics(grid, 1.0 + grid, auc_days=27.0).auc[0] == pytest.approx(27 + 27**2 / 2)
    whole = kinetics(np.arange(0.0, 29.0), np.ones(29), end=27.5)
    assert np.isnan(whole.auc[0])


def test_the_second_infusion_has_its_own_window():
    grid = np.arange(0.0, 101.0)
    curve = np.where(grid < 50, np.nan, np.exp(-0.1 * np.abs(grid - 60)))
    got = kinetics(grid, curve, start=50.0)
    assert (got.cmax[0], got.tmax[0], got.tlast[0]) == (1.0, 10.0, 50.0)
    assert np.isfinite(got.auc[0])
    first = kinetics(grid, np.where(grid < 50, 2.0, curve), start=0.0, end=49.0)
    assert (first.cmax[0], first.tmax[0], first.tlast[0], first.auc[0]) == (2.0, 0.0, 49.0, 56.0)


def test_an_infusion_between_grid_points_takes_the_next_value():
    grid = np.arange(0.0, 61.0)
    curve = np.where(grid < 10, np.nan, 5.0)
    got = kinetics(grid, curve, start=9.5)
    assert got.auc[0] == pytest.approx(140.0)
    assert got.tmax[0] == 0.5


def test_kinetics_that_cannot_be_told_are_nan():
    grid = np.arange(0.0, 61.0)
    curve = np.ones((4, 61))
    curve[1, 30] = np.nan
    got = kinetics(grid, curve, start=[0.0, 0.0, np.inf, 0.0], lloq=1.0)
    for name in ("cmax", "tmax", "auc", "tlast"):
        assert np.isfinite(getattr(got, name)).tolist() == [True, False, False, True], name
    below = kinetics(grid, curve[0], lloq=1.0 + TINY)
    assert np.isnan(below.tlast[0])
    assert below.cmax[0] == 1.0
    assert kinetics(grid, curve[0], lloq=1.0).tlast[0] == 60.0, "the limit itself is quantified"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lloq": -1.0}, "lloq is -1.0"),
        ({"auc_days": 0.0}, "auc_days is 0.0"),
        ({"start": 99.0}, "start is day 99"),
        ({"end": 99.0}, "end is day 99"),
        ({"cart": [1.0]}, "cart has shape"),
    ],
)
def test_bad_kinetics_input_is_refused(change, message):
    with pytest.raises(ReinfuseError, match=message):
        kinetics(**{"times": [0.0, 30.0], "cart": [1.0, 1.0], **change})


# ------------------------------------------------------------------------------- persistence, CRS proxy


def test_persistence_ends_on_the_last_day_at_the_limit_of_flow():
    grid = np.arange(0.0, 61.0)
    curve = np.array([np.where(grid <= 40, last, 0.0) for last in (1.0, 1.0 - TINY, 1.0 + TINY)])
    assert persistence(grid, curve).tolist() == [40.0, 0.0, 40.0]
    assert persistence(grid, curve, rules=ResponseRules(flow_limit=0.5)).tolist() == [40.0] * 3
    again = np.where((grid < 10) | (grid == 50), 5.0, 0.0)
    assert persistence(grid, again).tolist() == [50.0], "cells that come back count"
    assert persistence(grid, again, end=49.0).tolist() == [9.0]
    assert persistence(grid, again, start=5.0).tolist() == [45.0]


def test_persistence_that_cannot_be_told_is_nan():
    grid = np.arange(0.0, 61.0)
    curve = np.ones((2, 61))
    curve[1, 30] = np.nan
    assert np.isnan(persistence(grid, curve)).tolist() == [False, True]
    assert persistence(grid, curve, end=29.0).tolist() == [29.0, 29.0]
    assert np.isnan(persistence(grid, curve, start=[np.inf, np.nan])).all()


def test_the_crs_proxy_is_a_logistic_of_ln_cmax():
    cmax = np.array([0.0, 5.0, 250.0, 500.0, 1000.0, 1e9, np.nan])
    np.testing.assert_allclose(crs_proxy(cmax), [0.0, 5 / 505, 1 / 3, 0.5, 2 / 3, 1e9 / (1e9 + 500), np.nan])
    steep = ResponseRules(crs_cmax=100.0, crs_slope=2.0)
    np.testing.assert_allclose(crs_proxy([50.0, 100.0, 200.0], rules=steep), [0.2, 0.5, 0.8])


@given(st.floats(0.0, 1e12), st.floats(0.0, 1e12), st.floats(1.0, 1e4), st.floats(0.1, 5.0))
def test_the_crs_proxy_only_rises_and_stays_between_0_and_1(one, other, centre, slope):
    low, high = crs_proxy(sorted([one, other]), rules=ResponseRules(crs_cmax=centre, crs_slope=slope))
    assert 0 <= low <= high <= 1


curves = hnp.arrays(float, (2, 36), elements=st.floats(0.0, 1e6, width=32))


@given(curves, st.floats(0.0, 7.0), st.floats(0.5, 28.0))
def test_auc_is_additive_and_scales(curve, start, cut):
    grid = np.arange(36.0)
    start = float(np.floor(start))
    whole = kinetics(grid, curve, start=start).auc
    np.testing.assert_allclose(kinetics(grid, 8 * curve, start=start).auc, 8 * whole, rtol=1e-12)
    cut = float(np.clip(np.round(cut), 1, 27))
    parts = (
        kinetics(grid, curve, start=start, auc_days=cut).auc
        + kinetics(grid, curve, start=start + cut, auc_days=28.0 - cut).auc
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-9)


@given(curves)
def test_the_peak_lies_above_everything(curve):
    got = kinetics(np.arange(36.0), curve)
    np.testing.assert_array_equal(got.cmax, curve.max(axis=1))
    np.testing.assert_array_equal(curve[[0, 1], got.tmax.astype(int)], got.cmax)
    assert np.all(got.auc <= 28 * got.cmax * (1 + 1e-12))
