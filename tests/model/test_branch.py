"""Going on from a state is the same as simulating the whole, from whatever day."""

from dataclasses import replace

import numpy as np
import pytest

from reinfuse.model.branch import Start, states
from reinfuse.model.course import Engager, Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.simulate import Status, simulate_population

SECOND = np.array([200.0, 230.0, 310.0, 500.0])
N = SECOND.size
READ = ("Ts", "Tr", "mprotein", "cart", "sbcma")
PARAMETERS = {"B0": np.array([1e11, 3e11, 8e11, 2e12]), "rho": np.array([0.9, 1.1, 1.3, 1.0]), "occ_1": np.full(N, 0.2)}
ONE = Infusion(product="ide-cel")
TWO = Infusion(product="cilta-cel", day=SECOND, bridging=0.3)
#: From day 0, before the first assessment of progression, at any odd day, just before the second apheresis.
DAYS = (0.0, 4.5, 61.3, 150.0, SECOND - 35.0)


def simulated(course, times, *, options="real", readouts=READ, tolerance=1e-10, **more):
    found = simulate_population(
        course=course,
        times=times,
        parameters=PARAMETERS,
        options=options,
        readouts=readouts,
        tolerance=tolerance,
        land=False,
        **more,
    )
    assert found.attrs["failures"] == 0
    return found


def start_on(day, course=(ONE,), *, options="real", tolerance=1e-10, **more):
    """Where everybody stands on a day of their own."""
    day = np.broadcast_to(np.asarray(day, dtype=float), (N,)).copy()
    wanted = [*states(len(course)), "S", *(["cumhaz"] if options == "real" else [])]
    found = simulated(course, [0.0], options=options, readouts=wanted, tolerance=tolerance, since=day, **more)
    return Start(day=day, state={name: found[name].to_numpy()[:, 0] for name in wanted})


def assert_same(branched, whole, rtol=2e-6):
    for name in READ:
        np.testing.assert_allclose(branched[name], whole[name], rtol=rtol, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("options", ["reference", "real"])
@pytest.mark.parametrize("day", DAYS)
def test_the_second_course_is_the_same_from_any_earlier_day(day, options):
    times = np.arange(0.0, 721.0, 15.0)
    whole = simulated([ONE, TWO], times, options=options, since=SECOND)
    branched = simulated([ONE, TWO], times, options=options, since=SECOND, start=start_on(day, options=options))
    assert_same(branched, whole)


@pytest.mark.parametrize("day", DAYS)
def test_so_are_hazards_and_dysfunction(day):
    names = ["cumhaz", "Qaph2", "Q", "A"]
    whole = simulated([ONE, TWO], [0.0, 30.0, 300.0], readouts=names, since=SECOND)
    branched = simulated([ONE, TWO], [0.0, 30.0, 300.0], readouts=names, since=SECOND, start=start_on(day))
    for name in names:
        np.testing.assert_allclose(branched[name], whole[name], rtol=1e-6, atol=1e-10, err_msg=name)


def test_a_comparator_branches_too():
    antibody = Engager(day=SECOND, killing=0.4, power=2.0, wear=0.02)
    times = np.arange(0.0, 400.0, 20.0)
    whole = simulated([ONE], times, since=SECOND, engager=antibody)
    # the antibody begins on the day of the start itself
    branched = simulated([ONE], times, since=SECOND, engager=antibody, start=start_on(SECOND))
    assert_same(branched, whole)


def test_a_third_course_goes_on_from_the_second():
    three = replace(ONE, day=SECOND + 300.0)
    times = np.arange(0.0, 400.0, 20.0)
    whole = simulated([ONE, TWO, three], times, since=SECOND + 300.0)
    for day in (SECOND, SECOND + 7.5, SECOND + 180.0):
        branched = simulated([ONE, TWO, three], times, since=SECOND + 300.0, start=start_on(day, (ONE, TWO)))
        assert_same(branched, whole)


def test_from_the_first_course_alone_a_third_can_be_reached():
    three = replace(ONE, day=SECOND + 300.0)
    times = np.arange(0.0, 400.0, 20.0)
    whole = simulated([ONE, TWO, three], times, since=SECOND + 300.0)
    assert_same(simulated([ONE, TWO, three], times, since=SECOND + 300.0, start=start_on(100.0)), whole)


def test_what_a_patient_gets_does_not_depend_on_the_others():
    times = np.arange(0.0, 400.0, 20.0)
    start = start_on(150.0, tolerance=1e-4)
    together = simulated([ONE, TWO], times, since=SECOND, start=start, tolerance=1e-4)
    for i in range(N):
        alone = simulate_population(
            course=[ONE, replace(TWO, day=SECOND[i : i + 1])],
            times=times,
            parameters={name: values[i : i + 1] for name, values in PARAMETERS.items()},
            options="real",
            readouts=READ,
            tolerance=1e-4,
            land=False,
            since=SECOND[i : i + 1],
            start=Start(day=start.day[i : i + 1], state={k: v[i : i + 1] for k, v in start.state.items()}),
        )
        for name in READ:
            np.testing.assert_array_equal(alone[name][0], together[name][i], err_msg=name)


def test_the_implicit_solver_begins_there_too(monkeypatch):
    monkeypatch.setitem(PARAMETERS, "kP", np.full(N, 1000.0))  # too stiff for the explicit method
    times = np.array([0.0, 60.0, 300.0])
    whole = simulated([ONE, TWO], times, since=SECOND, tolerance=1e-6)
    branched = simulated([ONE, TWO], times, since=SECOND, start=start_on(150.0, tolerance=1e-6), tolerance=1e-6)
    assert (branched["status"] == Status.IMPLICIT).all()
    assert_same(branched, whole, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"day": np.full(N, -1.0)}, "day is -1"),
        ({"day": np.zeros(2)}, "day is .* one finite number for each of 4"),
        ({"day": np.full(N, 210.0)}, "infusion 2 was given to 1 of 4"),
        ({"state": {"Ts": np.ones(N)}}, "the state lacks"),
        ({"state": {"Ts": np.full(N, np.nan)}}, "Ts is"),
    ],
)
def test_a_start_that_does_not_fit_is_told(change, message):
    start = Start(**({"day": np.full(N, 100.0), "state": start_on(100.0).state} | change))
    with pytest.raises(ReinfuseError, match=message):
        simulated([ONE, TWO], [0.0, 10.0], since=SECOND, start=start)


def test_times_before_the_start_are_refused():
    with pytest.raises(ReinfuseError, match="before the start on day 100"):
        simulated([ONE, TWO], [0.0, 10.0], since=90.0, start=start_on(100.0))
