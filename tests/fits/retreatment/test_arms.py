from dataclasses import replace

import numpy as np
import pytest

from reinfuse.fits.retreatment.arms import (
    arm_parameters,
    first_infusion,
    later_infusion,
    next_infusion_day,
    slot_parameters,
    under_hypotheses,
)
from reinfuse.fits.retreatment.mechanisms import BETTER, MECHANISMS
from reinfuse.fits.retreatment.scenarios import HYPOTHESIS_NAMES, WORLDS, World, parse
from reinfuse.fits.retreatment.virtual_patients import VirtualPatients
from reinfuse.model.course import resolve
from reinfuse.model.parameters import REFERENCE
from reinfuse.model.products import product

AS_ASSUMED = WORLDS[0]
SHORT = 1.5  # times
HEAD = '[[scenario]]\nname = "a"\nfirst.product = "ide-cel"\nsecond.product = "cilta-cel"\n'


def scenario(more=""):
    file = parse(HEAD + more)
    return file, file.scenarios[0]


def medians(n=3, fields=None):
    """Typical patients, whose killing and persistence are as far below favourable as `SHORT` says."""
    return VirtualPatients(
        parameters={name: np.full(n, row.median) for name, row in REFERENCE.items()},
        draw=np.zeros(n, dtype=np.int64),
        fields={} if fields is None else fields,
        occasion=np.zeros((n, 8)),
        favourable={name: np.full(n, REFERENCE[name].median * SHORT**sign) for name, sign in BETTER.items()},
    )


def after(patients, scenario):
    return under_hypotheses(patients, scenario.hypotheses(AS_ASSUMED), REFERENCE, [product("ide-cel")])


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.key)
def test_a_mechanism_that_is_off_is_off_and_touches_nothing_else(mechanism):
    _, off = scenario(f"{mechanism.key} = false\n")
    before = medians(fields={("ide-cel", "f0"): np.full(3, 1.1)})
    found = after(before, off)
    for name, values in before.parameters.items():
        sign = mechanism.better.get(name)
        off_now = np.zeros(3) if sign is None else REFERENCE[name].median * np.full(3, SHORT**sign)
        expected = off_now if name in mechanism.parameters else values
        np.testing.assert_array_equal(found.parameters[name], expected, err_msg=name)
    assert set(found.fields) == {("ide-cel", name) for name in ("f0", *mechanism.product_fields)}
    for name in mechanism.product_fields:
        np.testing.assert_array_equal(found.fields["ide-cel", name], np.zeros(3))
    assert before.parameters["bR"][0] == REFERENCE["bR"].median, "the patients themselves must not change"
    assert list(before.fields) == [("ide-cel", "f0")]


def test_every_mechanism_has_its_key_in_scenario_files_and_a_world_without_it():
    assert set(HYPOTHESIS_NAMES) < set(World.model_fields)
    for mechanism in MECHANISMS:
        off = [
            world for world in WORLDS if world.multipliers == dict.fromkeys(HYPOTHESIS_NAMES, 1.0) | {mechanism.key: 0}
        ]
        assert [world.name for world in off] == [f"no {mechanism.words}"]
        assert [(world.weight, world.is_bound) for world in off] == [(0, True) if mechanism.better else (1, False)]
    assert WORLDS[-1].multipliers == {each.key: float(bool(each.better)) for each in MECHANISMS}


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("key", ["resistance", "short_persistence"])
def test_a_shortfall_is_multiplied_on_the_log_scale_and_who_has_none_stays(key, factor):
    mechanism = next(each for each in MECHANISMS if each.key == key)
    patients = medians()
    for name, sign in mechanism.better.items():
        patients.favourable[name] *= np.array([1.0, SHORT ** (-2.0 * sign), SHORT**sign])  # short, better, shorter
    found = after(patients, scenario(f"{key} = {factor}\n")[1])
    for name, sign in mechanism.better.items():
        own, goal = patients.parameters[name], patients.favourable[name]
        away = sign * np.log(found.parameters[name] / goal)[[0, 2]]
        np.testing.assert_allclose(away, -factor * np.log([SHORT, SHORT**2]), atol=1e-12)
        assert found.parameters[name][1] == own[1]


def test_patients_without_favourable_ones_beside_them_stay_as_they_are():
    patients = replace(medians(), favourable={})
    found = after(patients, scenario("resistance = 0\nshort_persistence = 2\n")[1])
    for name in BETTER:
        np.testing.assert_array_equal(found.parameters[name], patients.parameters[name])


def test_exhausted_cells_of_a_product_are_multiplied_as_odds_of_what_the_patients_have():
    _, more = scenario("exhaustion = 3\n")
    for fields, share in (({}, product("ide-cel").fX0), ({("ide-cel", "fX0"): np.full(3, 0.2)}, 0.2)):
        found = after(medians(fields=fields), more)
        odds = 3 * share / (1 - share)
        np.testing.assert_allclose(found.fields["ide-cel", "fX0"], odds / (1 + odds))
        np.testing.assert_allclose(found.parameters["kX"], 3 * REFERENCE["kX"].median)


def test_a_multiplier_acts_on_the_odds_of_a_share():
    _, more = scenario("microenvironment = 3\n")
    found = after(medians(), more).parameters
    odds = REFERENCE["bK"].median / (1 - REFERENCE["bK"].median)
    np.testing.assert_allclose(found["bK"], 3 * odds / (1 + 3 * odds))
    np.testing.assert_allclose(found["bX"], 3 * REFERENCE["bX"].median)


def test_antigen_loss_stays_a_share():
    _, more = scenario("antigen_loss_fraction = 1e8\n")
    patients = replace(medians(2), parameters={"fr": np.array([1e-10, 1e-3])})
    np.testing.assert_allclose(after(patients, more).parameters["fr"], [1e-2, 0.5])


def test_slots_carry_their_products_numbers():
    patients = VirtualPatients(
        parameters={},
        draw=np.zeros(2, dtype=np.int64),
        fields={("cilta-cel", "f0"): np.array([1.1, 1.2])},
        occasion=np.array([[0.1, 0.2], [0.3, 0.4]]),
    )
    slots = slot_parameters(patients, [product("ide-cel"), product("cilta-cel")])
    assert set(slots) == {"occ_1", "occ_2", "f0_2"}
    np.testing.assert_array_equal(slots["f0_2"], [1.1, 1.2])
    np.testing.assert_array_equal(slots["occ_2"], [0.2, 0.4])


def test_infusions_say_what_the_scenario_says():
    file, arm = scenario(
        "second.dose = 1e8\nsecond.bridging = 0.3\nsecond.lymphodepletion = 0.5\n"
        "first.bridging = 0.8\nsecond.same_scfv = true\n"
    )
    day = np.array([100.0, 388.0])
    first, second = resolve([first_infusion(arm, file), later_infusion(arm.second, file, day)])
    assert (first.product.name, float(first.bridging), float(first.dose)) == ("ide-cel", 0.8, 4.5e8)
    assert (second.product.name, second.day.tolist()) == ("cilta-cel", [100.0, 388.0])
    assert {float(x) for x in np.ravel(second.dose)} == {1e8}
    assert {float(x) for x in np.ravel(second.bridging)} == {0.3}
    assert {float(x) for x in np.ravel(second.chi)} == {1.0}
    np.testing.assert_array_equal(np.broadcast_to(second.apheresis_day, 2), day - 35)


def test_banked_cells_were_taken_before_therapy():
    file, arm = scenario('second.apheresis = "banked"\n')
    second = resolve([first_infusion(arm, file), later_infusion(arm.second, file, np.array([100.0]))])[1]
    assert (np.ravel(second.apheresis_day) <= 0).all()


def test_the_comparator_gets_no_second_infusion():
    file = parse(HEAD.replace('second.product = "cilta-cel"', "no_second = true"))
    assert file.scenarios[0].later == ()


def test_the_second_infusion_falls_on_a_whole_day():
    _, arm = scenario("second.days_after_progression = 30.5\n")
    np.testing.assert_array_equal(next_infusion_day(np.array([28.0, 56.2]), arm.second), [59.0, 87.0])


def test_arm_parameters_hold_patients_hypotheses_and_slots(population):
    file, off = scenario("host_dysfunction = false\n")
    patients = population.sample(4, np.random.default_rng(0))
    made = arm_parameters(patients, off, AS_ASSUMED, [first_infusion(off, file)], population.rows)
    assert set(made) == {*patients.parameters, "occ_1"}
    assert (made["sline"] == 0).all()
    np.testing.assert_array_equal(made["rho"], patients.parameters["rho"])
