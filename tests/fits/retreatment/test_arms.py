import numpy as np
import pytest

from reinfuse.fits.retreatment.arms import (
    HYPOTHESES,
    arm_parameters,
    first_infusion,
    later_infusion,
    next_infusion_day,
    slot_parameters,
    under_hypotheses,
)
from reinfuse.fits.retreatment.scenarios import WORLDS, parse
from reinfuse.fits.retreatment.virtual_patients import VirtualPatients
from reinfuse.model.course import resolve
from reinfuse.model.parameters import REFERENCE
from reinfuse.model.products import product

AS_ASSUMED = WORLDS[0]
HEAD = '[[scenario]]\nname = "a"\nfirst.product = "ide-cel"\nsecond.product = "cilta-cel"\n'


def scenario(more=""):
    file = parse(HEAD + more)
    return file, file.scenarios[0]


def medians(n=3):
    return {name: np.full(n, row.median) for name, row in REFERENCE.items()}


@pytest.mark.parametrize("hypothesis", HYPOTHESES)
def test_a_hypothesis_that_is_off_is_off_and_touches_nothing_else(hypothesis):
    _, off = scenario(f"{hypothesis} = false\n")
    before = medians()
    after = under_hypotheses(before, off.hypotheses(AS_ASSUMED), REFERENCE)
    for name, values in before.items():
        expected = np.zeros(3) if name in HYPOTHESES[hypothesis] else values
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
    assert before["bR"][0] == REFERENCE["bR"].median, "the patients themselves must not change"


def test_a_multiplier_acts_on_the_odds_of_a_share():
    _, more = scenario("microenvironment = 3\n")
    after = under_hypotheses(medians(), more.hypotheses(AS_ASSUMED), REFERENCE)
    odds = REFERENCE["bK"].median / (1 - REFERENCE["bK"].median)
    np.testing.assert_allclose(after["bK"], 3 * odds / (1 + 3 * odds))
    np.testing.assert_allclose(after["bX"], 3 * REFERENCE["bX"].median)


def test_antigen_loss_stays_a_share():
    _, more = scenario("antigen_loss_fraction = 1e8\n")
    parameters = {"fr": np.array([1e-10, 1e-3])}
    np.testing.assert_allclose(under_hypotheses(parameters, more.hypotheses(AS_ASSUMED), REFERENCE)["fr"], [1e-2, 0.5])


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
