"""Hand-made trajectories for what comes on top of `model.response`: groups, death, hazards, antigen loss."""

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits.retreatment.outcomes import CourseOutcome, classify, read_course, responded, selected
from reinfuse.fits.retreatment.scenarios import GROUPS, parse
from reinfuse.model.judgement import Event
from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.response import Response, ResponseRules

DAYS = np.arange(0.0, 1401.0, 1.0)
NEVER = 1e9


def trajectory(protein, *, low=0.0, cumhaz=None, cart=None):
    """Build a data set, one patient per row of `protein`; burden 1e11 times it, a share `low` BCMA-low."""
    protein = np.atleast_2d(protein)
    burden = 1e11 * protein
    dims = ("patient", "time")
    data = {
        "Ts": (dims, burden * (1 - low)),
        "Tr": (dims, burden * low),
        "mprotein": (dims, protein),
        "cart": (dims, np.ones_like(protein) if cart is None else np.atleast_2d(cart)),
    }
    if cumhaz is not None:
        data["cumhaz"] = (dims, np.atleast_2d(cumhaz))
    return xr.Dataset(data, coords={"time": DAYS})


def names(group):
    return [GROUPS[place] for place in group]


def relapse_at(day, depth=0.1):
    """M-protein 3 g/dL, `depth` of it from day 20, and 3 again from `day`."""
    return np.where((DAYS < 20) | (DAYS >= day), 3.0, 3.0 * depth)


def judge(data, death=NEVER, follow_up=1200.0, **more):
    n = data.sizes["patient"]
    return read_course(
        data,
        follow_up=follow_up,
        death_days=np.broadcast_to(np.asarray(death, dtype=float), (n,)),
        rules=ResponseRules(),
        **more,
    )


def test_a_course_is_read():
    course = judge(trajectory(relapse_at(300.0, depth=0.05)))
    assert (course.best[0], course.pfs_event[0]) == (Response.VGPR, Event.PROGRESSION)
    # visits every 28 days: the relapse of day 300 is found on day 308
    assert (course.progression_days[0], course.pfs_days[0]) == (308.0, 308.0)
    assert (course.response_days[0], course.dor_days[0]) == (28.0, 280.0)


def test_death_ends_a_course_and_what_follows_it_does_not_count():
    course = judge(trajectory(np.vstack([relapse_at(300.0)] * 3)), death=[NEVER, 200.0, 10.0])
    assert course.pfs_event.tolist() == [Event.PROGRESSION, Event.DEATH, Event.DEATH]
    assert course.pfs_days.tolist() == [308.0, 200.0, 10.0]
    assert course.evaluable.tolist() == [True, True, False]
    assert course.dor_days[1] == 172.0
    assert np.isnan(course.dor_days[2])


def test_end_of_follow_up_is_no_event():
    course = judge(trajectory(relapse_at(1300.0)), follow_up=700.0)
    assert (course.pfs_event[0], course.pfs_days[0]) == (Event.NONE, 700.0)


def test_a_patient_who_failed_has_no_outcome():
    protein = relapse_at(300.0)
    protein[5] = np.nan
    course = judge(trajectory(protein))
    assert not course.evaluable[0]
    assert np.isnan(course.progression_days[0])
    assert np.isnan(course.pfs_days[0])


def test_progression_by_hazard_is_found_at_the_next_visit_and_forgets_the_first_days():
    # 0.01 per day, and 5 within the first ten days, which must not count; the model resets at day 10
    cumhaz = np.where(DAYS < 10, 0.5 * DAYS, 0.01 * (DAYS - 10))
    data = trajectory(np.vstack([relapse_at(5000.0)] * 2), cumhaz=np.vstack([cumhaz] * 2))
    course = judge(data, hazard_threshold=np.array([1.0, 50.0]))
    # the threshold is crossed on day 110; visits on 84, 112
    assert course.progression_days.tolist() == [112.0, np.inf]
    assert course.pfs_event.tolist() == [Event.PROGRESSION, Event.NONE]


def test_progression_by_hazard_at_the_first_visit_is_pd():
    data = trajectory(relapse_at(5000.0), cumhaz=np.where(DAYS < 10, 0.0, DAYS))
    course = judge(data, hazard_threshold=np.array([0.5]))
    assert (course.best[0], course.evaluable[0], course.progression_days[0]) == (Response.PD, True, 28.0)


@pytest.mark.parametrize(
    ("months", "group"),
    [
        (5.0, "early-relapse"),
        (6.0, "early-relapse"),
        (6.01, "intermediate"),
        (12.0, "intermediate"),
        (12.01, "durable"),
    ],
)
def test_groups_at_their_boundaries(months, group):
    course = judge(trajectory(relapse_at(300.0)))
    course.pfs_days[:] = months * DAYS_PER_MONTH
    assert names(classify(course)) == [group]


def test_antigen_loss_goes_before_durations_but_not_before_non_response():
    late = judge(trajectory(relapse_at(600.0), low=0.51))
    assert names(classify(late)) == ["antigen-loss"]
    assert names(classify(judge(trajectory(relapse_at(600.0), low=0.5)))) == ["durable"]
    refractory = judge(trajectory(relapse_at(600.0, depth=0.9), low=0.9))
    assert names(classify(refractory)) == ["non-responder"]


def test_limits_choose_patients():
    course = judge(trajectory(np.vstack([relapse_at(d, depth) for d, depth in ((100, 0.6), (300, 0.3), (500, 0.05))])))
    group = classify(course)
    assert names(group) == ["non-responder", "intermediate", "durable"]

    def kept(more):
        text = f'[[scenario]]\nname = "a"\nfirst.product = "ide-cel"\nno_second = true\n{more}\n'
        return selected(course, group, parse(text).scenarios[0]).tolist()

    assert kept("") == [True, True, True]
    assert kept('first.response = ["durable", "intermediate"]') == [False, True, True]
    assert kept("first.pfs_months = [0, 12]") == [True, True, False]
    assert kept('first.best_at_least = "VGPR"') == [False, False, True]
    assert kept('first.best_at_most = "PR"') == [True, True, False]


def test_classes_are_ordered():
    course = CourseOutcome.nobody(len(Response)).take(np.arange(len(Response)))
    course.best[:] = sorted(Response)
    assert responded(course).tolist() == [False] * 5 + [True] * 4
    assert responded(course, "VGPR").tolist() == [False] * 6 + [True] * 3
    assert responded(course, "CR").tolist() == [False] * 7 + [True] * 2


def test_who_is_cured_by_chance_never_progresses():
    course = judge(trajectory(np.vstack([relapse_at(300.0)] * 3)), death=[NEVER, NEVER, 500.0])
    cured = course.or_cured(
        np.array([0.2, 0.2, 0.2]),
        np.array([0.3, 0.1, 0.1]),
        death_days=np.array([NEVER, NEVER, 500.0]),
        follow_up=1200.0,
    )
    assert cured.pfs_event.tolist() == [Event.PROGRESSION, Event.NONE, Event.DEATH]
    assert cured.pfs_days.tolist() == [308.0, 1200.0, 500.0]
    assert cured.dor_days.tolist() == [280.0, 1172.0, 472.0]
    assert np.isnan(cured.antigen_low[1:]).all()


def test_who_has_no_course_has_nothing():
    course = judge(trajectory(relapse_at(300.0))).scattered(np.array([1]), 3)
    assert course.pfs_event.tolist() == [Event.NONE, Event.PROGRESSION, Event.NONE]
    assert course.evaluable.tolist() == [False, True, False]
    assert np.isnan(course.pfs_days[[0, 2]]).all()
