"""What is left out cannot change a judgement, and cells never outgrow their bound."""

import numpy as np
import pytest

from reinfuse.model.course import Infusion
from reinfuse.model.ensemble import prior_draw
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.judgement import PEAK_DAYS, Columns, judge, judge_plainly, judgement_days
from reinfuse.model.response import ResponseRules
from reinfuse.model.simulate import simulate_population
from reinfuse.model.stopping import Stopping

N, FOLLOW_UP = 400, 731.0
READ = ("mprotein", "Ts", "Tr", "cart")


@pytest.fixture(scope="module")
def patients():
    """A random population, each with a second infusion on a day of its own."""
    rng = np.random.default_rng(5)
    second = np.round(rng.uniform(120.0, 700.0, N))
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=second, bridging=0.3)]
    # some die, some long before the follow-up ends
    return course, dict(prior_draw("real")(rng, N)), second, rng.exponential(900.0, N)


def trajectories(patients, rules, stopping=None, times=None):
    course, parameters, second, _ = patients
    found = simulate_population(
        course=course,
        times=judgement_days(follow_up=FOLLOW_UP, rules=rules) if times is None else times,
        parameters=parameters,
        options="real",
        readouts=READ,
        tolerance=1e-4,
        land=False,
        since=second,
        stopping=stopping,
    )
    return np.stack([found[name].to_numpy() for name in READ], axis=-1)


def judged(patients, rules, values, by=judge):
    values = values.copy()
    values[:, :, 1] += values[:, :, 2]
    return by(
        trajectories=values,
        columns=Columns(mprotein=0, burden=1, low=2, cart=3),
        since=judgement_days(follow_up=FOLLOW_UP, rules=rules),
        follow_up=FOLLOW_UP,
        death_days=patients[3],
        rules=rules,
    )


@pytest.mark.parametrize(
    "rules",
    [
        ResponseRules(),
        ResponseRules(confirm_progression=True, confirm_response=True),
        ResponseRules(visit_interval=50.0, visit_days=(10.0, 33.0)),
        ResponseRules(flow_limit=1e-3),
    ],
    ids=["default", "confirmed", "other visits", "cells seen for long"],
)
def test_nothing_judged_changes_by_a_bit(patients, rules):
    whole = trajectories(patients, rules)
    stopped = trajectories(patients, rules, Stopping(death_days=patients[3], follow_up=FOLLOW_UP, rules=rules))
    left_out = (stopped[:, -1] != whole[:, -1]).any(axis=1)
    assert left_out.mean() > 0.25, "most who relapse are not simulated to the end"
    wanted, found = judged(patients, rules, whole), judged(patients, rules, stopped)
    plainly = judged(patients, rules, stopped, judge_plainly)
    for name, values in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)
        if values.dtype != np.float32:
            np.testing.assert_array_equal(getattr(plainly, name), values, err_msg=name)


def test_what_is_simulated_is_the_same_and_the_last_value_stays(patients):
    rules = ResponseRules()
    whole = trajectories(patients, rules)
    stopped = trajectories(patients, rules, Stopping(death_days=patients[3], follow_up=FOLLOW_UP, rules=rules))
    for i in range(N):
        same = (stopped[i] == whole[i]).all(axis=1)
        end = same.size if same.all() else int(np.argmin(same))
        assert same[:end].all()
        assert (stopped[i, end:] == stopped[i, end - 1]).all()


def test_death_alone_ends_a_course_where_progression_is_not_by_mprotein(patients):
    rules = ResponseRules()
    times = judgement_days(follow_up=FOLLOW_UP, rules=rules)
    whole = trajectories(patients, rules)
    stopped = trajectories(patients, rules, Stopping(death_days=patients[3], follow_up=FOLLOW_UP))
    ends = np.searchsorted(times, np.maximum(patients[3], PEAK_DAYS))
    for i, end in enumerate(ends):
        np.testing.assert_array_equal(stopped[i, : end + 1], whole[i, : end + 1])
        assert (stopped[i, end:] == stopped[i, min(end, times.size - 1)]).all()


def test_nothing_is_left_out_up_to_a_day_asked_for(patients):
    rules, times = ResponseRules(), judgement_days(follow_up=FOLLOW_UP, rules=ResponseRules())
    whole = trajectories(patients, rules)
    stopping = Stopping(death_days=patients[3], follow_up=FOLLOW_UP, rules=rules, whole_until=336.0)
    stopped, early = trajectories(patients, rules, stopping), times <= 336.0
    np.testing.assert_array_equal(stopped[:, early], whole[:, early])
    assert (stopped[:, -1] != whole[:, -1]).any(axis=1).mean() > 0.2
    by_death = trajectories(patients, rules, Stopping(death_days=patients[3], follow_up=FOLLOW_UP, whole_until=336.0))
    np.testing.assert_array_equal(by_death[:, early], whole[:, early])


def test_cells_never_outgrow_their_bound(patients):
    # a watch whose rule nobody meets hands its bound over
    from reinfuse.model.course import resolve
    from reinfuse.model.parameters import table
    from reinfuse.model.schedule import slot_parameters
    from reinfuse.model.simulate import _growth

    course, parameters, second, _ = patients
    resolved = resolve(course)
    values = {name: np.asarray(row.median) for name, row in table("real").items()}
    values |= {name: np.asarray(value) for name, value in slot_parameters(resolved, "real").items()}
    growth = _growth(values | parameters, resolved, None, second)
    times = np.concatenate([[0.0], np.arange(PEAK_DAYS, 1500.0, 5.0)])
    cells = np.log(np.maximum(trajectories(patients, ResponseRules(), times=times)[:, 1:, 3], 1e-200))
    fastest = np.diff(cells, axis=1).max(axis=1) / 5.0
    assert (growth >= 0).all()
    assert (fastest <= growth + 1e-3).all()
    assert (fastest > 0).any(), "some cells grow again"


def test_what_is_missing_is_told(patients):
    rules = ResponseRules()
    stopping = Stopping(death_days=patients[3], follow_up=FOLLOW_UP, rules=rules)
    with pytest.raises(ReinfuseError, match="a visit is not among the times"):
        trajectories(patients, rules, stopping, times=np.array([0.0, 100.0]))
    with pytest.raises(ReinfuseError, match="cart is not among the read-outs"):
        stopping.watch(judgement_days(follow_up=FOLLOW_UP, rules=rules), ("mprotein",), np.zeros(N))
    with pytest.raises(ReinfuseError, match="one day for each of 400 patients"):
        trajectories(patients, rules, Stopping(death_days=np.zeros(3), follow_up=FOLLOW_UP))
