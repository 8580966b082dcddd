"""From a course to event times, codes and the infusions' parameters."""

import numpy as np
import pytest

from reinfuse.model.course import Infusion, resolve
from reinfuse.model.equations import bcma
from reinfuse.model.parameters import PRODUCT_ASSAY
from reinfuse.model.products import product
from reinfuse.model.schedule import FAR, assay_parameters, events, slot_parameters

NAMES = list(bcma.build(2, bcma.OPTIONS["real"]).events)


def schedule(course, n=1, names=NAMES):
    """Lists of (day, name), one per patient."""
    times, codes, count = events(resolve(course), n, names)
    assert times.shape == codes.shape
    assert np.all(np.diff(times, axis=1) >= 0)
    for row, k in zip(times, count, strict=True):
        assert np.all(row[k:] == FAR)
        assert np.all(row[:k] < FAR)
    return [[(times[i, e], names[codes[i, e]]) for e in range(count[i])] for i in range(n)]


def test_one_infusion():
    assert schedule([Infusion(product="ide-cel")]) == [[(0.0, "infusion_1"), (10.0, "assessment_1")]]


def test_two_infusions_in_order_of_time():
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=260.0)]
    assert schedule(course) == [
        [
            (0.0, "infusion_1"),
            (10.0, "assessment_1"),
            (225.0, "apheresis_2"),
            (260.0, "infusion_2"),
            (270.0, "assessment_2"),
        ]
    ]


def test_an_early_second_infusion_is_made_from_cells_taken_before_the_first():
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=30.0)]
    assert [name for _, name in schedule(course)[0]] == [
        "infusion_1",
        "assessment_1",
        "infusion_2",
        "assessment_2",
    ]


@pytest.mark.parametrize("day", [0.0, -20.0])
def test_banked_cells_have_no_apheresis_event(day):
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=260.0, apheresis_day=day)]
    assert "apheresis_2" not in [name for _, name in schedule(course)[0]]


def test_an_apheresis_may_come_before_the_first_assessment():
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=40.0)]
    assert schedule(course)[0][1:3] == [(5.0, "apheresis_2"), (10.0, "assessment_1")]


@pytest.mark.parametrize(("day", "assessed"), [(9.0, False), (10.0, False), (10.5, True)])
def test_progression_is_not_counted_before_a_second_infusion_that_comes_first(day, assessed):
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=day)]
    assert ("assessment_1" in [name for _, name in schedule(course)[0]]) == assessed


def test_patients_may_have_different_courses():
    days = np.array([260.0, np.inf, 100.0])
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=days)]
    first, second, third = schedule(course, 3)
    assert [name for _, name in second] == ["infusion_1", "assessment_1"]
    assert first[2:] == [(225.0, "apheresis_2"), (260.0, "infusion_2"), (270.0, "assessment_2")]
    assert third[2:] == [(65.0, "apheresis_2"), (100.0, "infusion_2"), (110.0, "assessment_2")]


def test_events_that_the_kernel_lacks_are_left_out():
    names = list(bcma.build(2, bcma.OPTIONS["reference"]).events)
    course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=260.0)]
    assert [name for _, name in schedule(course, names=names)[0]] == [
        "infusion_1",
        "apheresis_2",
        "infusion_2",
    ]


class TestParameters:
    COURSE = (
        Infusion(product="ide-cel"),
        Infusion(product="cilta-cel", day=260.0, bridging=0.3, lymphodepletion=0.5, dose=1e8),
    )

    @pytest.fixture
    def values(self):
        return slot_parameters(resolve(self.COURSE), "reference")

    def test_every_parameter_of_a_slot_is_there(self, values):
        wanted = {f"{name}_{j}" for name in bcma.SLOT_PARAMETERS for j in (1, 2)}
        assert values.keys() == wanted

    def test_the_course(self, values):
        assert (values["day_1"], values["day_2"]) == (0.0, 260.0)
        assert (values["dose_1"], values["dose_2"]) == (4.5e8, 1e8)
        assert (values["bridge_2"], values["ld_2"], values["chi_2"]) == (0.3, 0.5, 0.1)
        assert values["survive_2"] == pytest.approx(0.1**0.5)
        assert (values["occ_1"], values["occ_2"]) == (0.0, 0.0)

    def test_the_product(self, values):
        cilta = product("cilta-cel")
        found = {name: values[f"{name}_2"] for name in ("f0", "m0", "h", "gp", "feng", "fM0", "fX0")}
        assert found == {name: getattr(cilta, name) for name in found}
        assert values["i_2"] == cilta.immunogenicity

    def test_an_infusion_not_given_has_a_finite_day(self):
        course = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=np.array([260.0, np.inf]))]
        values = slot_parameters(resolve(course), "reference")
        np.testing.assert_array_equal(values["day_2"], [260.0, FAR])
        assert all(np.isfinite(v).all() for v in values.values())

    def test_the_transgene_assay_by_configuration(self):
        cilta = product("cilta-cel")
        assert assay_parameters(cilta, "reference") == {"aT": np.log(cilta.scale), "bT": cilta.power}
        rows = PRODUCT_ASSAY["cilta-cel"]
        assert assay_parameters(cilta, "real") == {name: rows[name].median for name in ("aT", "bT")}
        assert assay_parameters(cilta, "real") != assay_parameters(product("ide-cel"), "real")
