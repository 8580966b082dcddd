"""What must not change an answer: nothing infused, a dose in two halves, another clock, another order."""

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import engine, scenarios
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.model.course import Engager, Infusion
from reinfuse.model.ensemble import prior_draw
from reinfuse.model.simulate import simulate_population

PATIENTS = 12
DAYS = np.concatenate([np.arange(0.0, 61.0, 3.0), np.arange(84.0, 400.0, 28.0)])
SEEN = ("Ts", "Tr", "Q", "A", "mprotein", "cart", "cumhaz")


@pytest.fixture(scope="module")
def parameters():
    drawn = prior_draw("real")(np.random.default_rng(1), PATIENTS)
    # what a further line costs is no property of the cells: it would count twice
    return {**drawn, "qLD": 0.0, "sline": 0.0, "sres": 0.0}


@pytest.fixture(scope="module")
def day():
    return np.ceil(np.random.default_rng(2).uniform(100.0, 500.0, PATIENTS))


def follow(course, parameters, **more):
    return simulate_population(
        course=course, times=DAYS, parameters=parameters, options="real", tolerance=1e-9, land=False, **more
    )


def second(day, **more):
    return Infusion(product="cilta-cel", day=day, **{"bridging": 0.3, **more})


FIRST = Infusion(product="ide-cel")


def test_two_halves_of_a_dose_at_once_are_the_whole(parameters, day):
    """Where killing does not saturate, and nobody is immune: both are of each infusion apart (docs/limits.md)."""
    parameters = {**parameters, "KE": 1e9 * parameters["KE"], "k": 4e6, "alA": 0.0}
    whole = follow([FIRST, second(day, dose=5e7)], parameters, since=day)
    halves = [second(day, dose=2e7), second(day + 1e-9, dose=3e7, bridging=1.0, apheresis_day=day - 35.0)]
    # both halves come after the same lymphodepletion
    split = follow([FIRST, *halves], {**parameters, "survive_3": 1.0}, since=day + 1e-9)
    for name in (name for name in SEEN if name != "A"):
        np.testing.assert_allclose(split[name], whole[name], rtol=1e-5, atol=1e-9, err_msg=name)


def test_a_clock_of_ones_own_changes_nothing(parameters, day):
    shifted = follow([FIRST, second(day)], parameters, since=day)
    for i in (0, 5, 11):
        own = {name: value[i] if np.ndim(value) else value for name, value in parameters.items()}
        alone = simulate_population(
            course=[FIRST, second(float(day[i]))],
            times=day[i] + DAYS,
            parameters=own,
            options="real",
            tolerance=1e-9,
            land=False,
        )
        for name in SEEN:
            np.testing.assert_array_equal(alone[name][0], shifted[name][i], err_msg=name)


def test_no_cells_after_no_lymphodepletion_are_no_infusion(parameters, day):
    nothing = follow([FIRST, second(day, dose=0.0, lymphodepletion=0.0, bridging=1.0)], parameters, since=day)
    none = follow([FIRST], parameters, since=day)
    for name in ("Ts", "Tr", "mprotein"):
        np.testing.assert_allclose(nothing[name], none[name], rtol=1e-5, err_msg=name)


def test_an_antibody_that_kills_nothing_is_none(parameters, day):
    idle = follow([FIRST], parameters, since=day, engager=Engager(day=day, killing=0.0))
    never = follow([FIRST], parameters, since=day, engager=Engager(day=np.inf, killing=2.0))
    none = follow([FIRST], parameters, since=day)
    for name in SEEN:
        np.testing.assert_allclose(idle[name], none[name], rtol=1e-6, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(never[name], none[name], rtol=1e-6, atol=1e-12, err_msg=name)


def test_worn_t_cells_make_an_antibody_weak(parameters, day):
    def burden(dysfunction):
        found = follow(
            [FIRST],
            {**parameters, "Q0": dysfunction, "kQon": 0.0, "kQoff": 0.0},
            since=day,
            engager=Engager(day=day, killing=0.5, power=2.0),
        )
        return found["Ts"].to_numpy()[:, -1]

    assert (burden(0.9) > burden(0.1)).all()


def test_arms_of_the_model_commute(tmp_path):
    head = '[settings]\nsecond_horizon_months = 24\n[[world]]\nname = "as assumed"\n'
    arm = '[[scenario]]\nname = "{}"\nfirst.product = "ide-cel"\nsecond.product = "{}"\nsecond.bridging = 0.3\n'
    arms = [
        arm.format("a", "cilta-cel"),
        arm.format("b", "ide-cel"),
        arm.format("c", "cilta-cel") + "second.dose = 2e7\n",
    ]
    products = [scenarios.parse(head + arms[0]).product(name) for name in ("ide-cel", "cilta-cel")]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=10, options="real")
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        file = scenarios.parse(head + "".join(arms[k] for k in order))
        path = tmp_path / f"{order[0]}.parquet"
        found.append(engine.run(file, population, patients=40, seed=5, path=path).outcomes)
    for name in "abc":
        one, other = (
            table.read(name, "as assumed").astype({"scenario": str, "second_product": str}) for table in found
        )
        pd.testing.assert_frame_equal(one, other, check_categorical=False)
