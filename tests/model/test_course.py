from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinfuse.model.course import Infusion, patients, resolve
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import product

FIRST = Infusion(product="ide-cel")


def second(**changes):
    return Infusion(**{"product": "cilta-cel", "day": 260.0, **changes})


def test_a_first_infusion_is_filled_in():
    (only,) = resolve([FIRST])
    assert only.slot == 1
    assert only.product is product("ide-cel")
    assert (only.day, only.dose, only.lymphodepletion, only.bridging) == (0.0, 4.5e8, 1.0, 1.0)
    assert only.apheresis_day == -35.0
    assert only.chi == 1.0
    assert only.day.shape == only.chi.shape == ()
    assert patients([only]) is None


def test_a_second_infusion_of_another_binder():
    _, two = resolve([FIRST, second(bridging=0.3)])
    assert two.slot == 2
    assert (two.day, two.dose, two.bridging, two.apheresis_day) == (260.0, 5.5e7, 0.3, 225.0)
    assert two.chi == 0.1
    assert two.survivors == pytest.approx(0.1)


def test_the_same_binder_meets_immunity_in_full():
    assert resolve([FIRST, second(product="ide-cel")])[1].chi == 1.0
    # any earlier product counts, not only the one before
    third = Infusion(product="ide-cel", day=500.0)
    assert [i.chi for i in resolve([FIRST, second(), third])] == [1.0, 0.1, 1.0]


def test_same_scfv_overrules_the_products():
    assert resolve([FIRST, second(same_scfv=True)])[1].chi == 1.0
    assert resolve([FIRST, second(product="ide-cel", same_scfv=False)])[1].chi == 0.1
    by_patient = resolve([FIRST, second(same_scfv=np.array([True, False]))])[1]
    np.testing.assert_array_equal(by_patient.chi, [1.0, 0.1])


def test_an_own_product_need_not_be_registered():
    mine = replace(product("ide-cel"), name="mine", dose=1e8)
    one, two = resolve([Infusion(product=mine), second(product="ide-cel")])
    assert one.dose == 1e8
    assert two.chi == 1.0, "same binder under another name"


@pytest.mark.parametrize(("intensity", "left"), [(1.0, 0.1), (0.0, 1.0), (0.5, 0.1**0.5)])
def test_older_cells_survive_weaker_lymphodepletion(intensity, left):
    assert resolve([FIRST, second(lymphodepletion=intensity)])[1].survivors == pytest.approx(left)


def test_banked_cells():
    assert resolve([FIRST, second(apheresis_day=-35.0)])[1].apheresis_day == -35.0
    assert resolve([FIRST, second(day=20.0)])[1].apheresis_day == -15.0, "taken before therapy began"


def test_patients_differ_and_some_get_no_second_infusion():
    days = np.array([100.0, np.inf, np.nan])
    _, two = resolve([FIRST, second(day=days, dose=np.array([1e7, np.nan, -5.0]), bridging=np.array([0.5, 9.0, 1.0]))])
    np.testing.assert_array_equal(two.day, [100.0, np.inf, np.inf])
    np.testing.assert_array_equal(two.given, [True, False, False])
    np.testing.assert_array_equal(two.dose, [1e7, 5.5e7, 5.5e7])
    np.testing.assert_array_equal(two.bridging, [0.5, 1.0, 1.0])
    np.testing.assert_array_equal(two.apheresis_day, [65.0, np.inf, np.inf])
    assert patients([two]) == 3
    for name in ("day", "dose", "lymphodepletion", "bridging", "apheresis_day", "chi", "survivors"):
        assert not np.any(np.isnan(getattr(two, name))), name


def test_arrays_of_the_caller_are_neither_kept_nor_changed():
    days, doses = np.array([100.0, np.nan]), np.array([1e7, 2e7])
    _, two = resolve([FIRST, second(day=days, dose=doses)])
    assert np.isnan(days[1])
    doses[0] = 0.0
    assert two.dose[0] == 1e7


@pytest.mark.parametrize(
    ("course", "message"),
    [
        ([], "no infusion"),
        (FIRST, "a course is a sequence of Infusion"),
        (["ide-cel"], "a course is a sequence of Infusion"),
        ([Infusion(product="abe-cel")], "unknown product 'abe-cel'"),
        ([Infusion(product=7)], "infusion 1: product is 7"),
        ([Infusion(product="ide-cel", day=3.0)], "infusion 1: day is 3; the first infusion is day 0"),
        ([Infusion(product="ide-cel", day=np.array([0.0, np.inf]))], "infusion 1: day is inf in patient 2"),
        (
            [Infusion(product="ide-cel", same_scfv=True)],
            "infusion 1: same_scfv is True, but no product came before",
        ),
        ([FIRST, second(day=0.0)], "infusion 2: day is 0, infusion 1 is on day 0; list infusions in order"),
        ([FIRST, second(day=-5.0)], "infusion 2: day is -5, infusion 1"),
        ([FIRST, second(day=-np.inf)], "infusion 2: day is -inf"),
        (
            [FIRST, second(), Infusion(product="ide-cel", day=100.0)],
            "infusion 3: day is 100, infusion 2 is on day 260",
        ),
        (
            [FIRST, second(day=np.array([90.0, np.inf])), Infusion(product="ide-cel", day=500.0)],
            "infusion 3: day is 500 in patient 2, infusion 2 is on day inf",
        ),
        ([FIRST, second(dose=-1.0)], "infusion 2: dose is -1; give CAR. cells"),
        ([FIRST, second(dose=np.inf)], "dose is inf"),
        ([FIRST, second(dose=np.nan)], "dose is nan; give a number"),
        ([FIRST, second(dose="lots")], "dose is 'lots'; give a number"),
        ([FIRST, second(bridging=0.0)], "bridging is 0; give the share of tumour left"),
        ([FIRST, second(bridging=1.01)], "bridging is 1.01"),
        ([FIRST, second(bridging=np.array([0.5, -0.5]))], "bridging is -0.5 in patient 2"),
        ([FIRST, second(lymphodepletion=1.5)], "lymphodepletion is 1.5; give an intensity from 0 to 1"),
        ([FIRST, second(lymphodepletion=-0.1)], "lymphodepletion is -0.1"),
        ([FIRST, second(apheresis_day=300.0)], "apheresis_day is 300; cells are taken before"),
        ([FIRST, second(same_scfv="yes")], "same_scfv is 'yes'; give True or False"),
        ([FIRST, second(day=np.zeros((2, 2)))], r"day has shape \(2, 2\)"),
        ([FIRST, second(day=np.full(3, 90.0), dose=np.full(2, 1e7))], "dose and day speak of"),
        (
            [FIRST, second(dose=np.full(2, 1e7), bridging=np.full(3, 0.5))],
            "lengths differ between patients' arrays: dose of infusion 2 has 2, bridging of infusion 2 has 3",
        ),
    ],
)
def test_faults_are_refused_with_the_place_and_the_value(course, message):
    with pytest.raises(ReinfuseError, match=message):
        resolve(course)


@pytest.mark.parametrize("edge", [{"dose": 0.0}, {"bridging": 1.0}, {"lymphodepletion": 0.0}, {"apheresis_day": 260.0}])
def test_edges_are_allowed(edge):
    ((name, value),) = edge.items()
    assert getattr(resolve([FIRST, second(**edge)])[1], name) == value


day = st.one_of(st.floats(0.5, 2000), st.just(np.inf))


@given(st.lists(day, min_size=1, max_size=6), st.floats(0, 1e9), st.floats(0.01, 1), st.floats(0, 1))
def test_a_population_is_its_patients_side_by_side(days, dose, bridging, intensity):
    def of(when):
        return resolve([FIRST, second(day=when, dose=dose, bridging=bridging, lymphodepletion=intensity)])[1]

    together = of(np.array(days))
    for i, when in enumerate(days):
        alone = of(when)
        for name in ("day", "apheresis_day"):
            assert getattr(together, name)[i] == getattr(alone, name)
        for name in ("dose", "bridging", "lymphodepletion", "chi", "survivors"):
            shared = np.broadcast_to(getattr(together, name), together.day.shape)
            assert shared[i] == getattr(alone, name)
