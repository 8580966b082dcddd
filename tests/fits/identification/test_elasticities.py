"""Exact gradients of read-outs and elasticities of outcomes, against central differences of whole simulations."""

import numpy as np
import pytest

from reinfuse.fits.identification.elasticities import OUTCOMES, elasticities, of_patients, tornado, transform_of
from reinfuse.fits.identification.readouts import VALUES, pose
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import product
from reinfuse.model.simulate import simulate_population

STEP = 1e-3
MOVED = ("rho", "tg", "KE", "B0", "dM", "r", "Q0")
COURSE = (Infusion(product="ide-cel"),)


@pytest.fixture(scope="module")
def posed():
    """Four patients: the median one, one who relapses soon, a slow one, one who responds well."""
    values = {"rho": [1.26, 1.05, 1.2, 1.35], "B0": [6.2e10, 2e11, 3e10, 6e10], "KE": [84.0, 200.0, 84.0, 30.0]}
    return pose(course=COURSE, parameters={name: np.array(v) for name, v in values.items()})


def stepped(posed, name: str, size: float):
    """The same patients with a parameter moved on its transformed scale."""
    column = posed.parameters.index(name)
    x = posed.theta[:, column]
    if transform_of(name) == "logit":
        return posed.moved(column, 1.0 / (1.0 + (1.0 - x) / x * np.exp(-size)))
    return posed.moved(column, x * np.exp(size))


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_elasticities_are_those_of_differences(posed, outcome):
    found = elasticities(posed, outcome)
    assert np.isfinite(found.value).all()
    for name in MOVED:
        up, down = (elasticities(stepped(posed, name, side * STEP), outcome).value for side in (1.0, -1.0))
        difference = np.log(up / down) / (2.0 * STEP)
        assert found.of(name) == pytest.approx(difference, rel=5e-3, abs=2e-3), name


@pytest.mark.parametrize("name", [name for name in VALUES if name.startswith(("rate", "cumulative", "hazard"))])
def test_gradients_of_rates_and_hazards_too(posed, name):
    _, slope = posed.read(name, 45.0)
    for parameter in ("rho", "KE", "r"):
        up, down = (stepped(posed, parameter, side * STEP).read(name, 45.0, slope=False)[0] for side in (1.0, -1.0))
        column = posed.parameters.index(parameter)
        found = slope[:, column] * posed.theta[:, column]
        assert found == pytest.approx((up - down) / (2.0 * STEP), rel=5e-3, abs=1e-4), parameter


def test_values_are_the_simulators_own(posed):
    """An independent way to the same numbers: dense simulation, sums by the trapezium rule."""
    days = np.arange(0.0, 365.5, 0.05)
    parameters = {name: posed.theta[:, posed.parameters.index(name)] for name in ("rho", "B0", "KE")}
    off = {"kX": 0.0, "fXQ": 0.0, "fX0_1": 0.0}
    curves = simulate_population(
        course=COURSE,
        times=days,
        parameters=parameters | off,
        options="real",
        readouts=["cart", "Ts", "Tr", "sbcma", "cumhaz"],
        tolerance=1e-6,
    )
    cart, hazard = curves["cart"].to_numpy(), curves["cumhaz"].to_numpy()
    burden = (curves["Ts"] + curves["Tr"]).to_numpy()
    passed = np.where(days < 10.0, 0.0, hazard)
    month = days <= 28.0
    wanted = {
        "Cmax": cart[:, days < 60].max(axis=1),
        "Tmax": days[cart[:, days < 60].argmax(axis=1)],
        "AUC0-28": np.trapezoid(cart[:, month], days[month], axis=1),
        "nadir": burden.min(axis=1),
        "sbcma": curves["sbcma"].sel(time=30.0, method="nearest").to_numpy(),
        "PFS": np.trapezoid(np.exp(-passed)[:, days <= 365.0], days[days <= 365.0], axis=1),
    }
    for name, value in wanted.items():
        assert elasticities(posed, name).value == pytest.approx(value, rel=3e-3), name


def test_a_median_that_is_never_reached_is_missing():
    never = pose(course=COURSE, parameters={"h1": np.array([1e-9, 0.05]), "hbg": np.array([1e-9, 2e-4])})
    found = elasticities(never, "median PFS")
    assert np.isnan(found.value[0])
    assert np.isfinite(found.value[1])


def test_aliases_of_the_equations_have_equal_elasticities(posed):
    """Only the product of dose, engrafted fraction and 1/volume enters: KE against k is another matter."""
    found = elasticities(posed, "AUC0-28")
    assert found.of("dose_1") == pytest.approx(found.of("feng_1"), rel=1e-6)
    assert elasticities(posed, "sbcma").of("h_1") == pytest.approx(elasticities(posed, "sbcma").of("KE"), rel=1e-6)


def test_virtual_patients_can_be_read(posed):
    population = from_prior(
        rng=np.random.default_rng(1), products=[product("ide-cel")], n_draws=5, options="real", variant="no-exhaustion"
    )
    read = of_patients(population.sample(5, np.random.default_rng(2)), COURSE[0], variant="no-exhaustion")
    assert read.n == 5
    assert read.reader.kernel is posed.reader.kernel


def test_a_tornado_lists_the_largest_effects_first(posed):
    found = [elasticities(posed, name) for name in ("Cmax", "AUC0-28")]
    table = tornado(found, {"rho": 0.2, "KE": 1.3, "hbg": 0.7, "absent": 1.0}, most=2)
    assert table.groupby("outcome").size().to_dict() == {"AUC0-28": 2, "Cmax": 2}
    first = table[table["outcome"] == "Cmax"].iloc[0]
    assert first["parameter"] == "rho"
    assert first["effect"] == pytest.approx(0.2 * np.median(found[0].of("rho")))
    assert first["effect_low"] <= first["effect"] <= first["effect_high"]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda p: elasticities(p, "Cmin"), "unknown outcome 'Cmin'; use one of Cmax"),
        (lambda p: elasticities(p, "Cmax", day=3.0), "leave the day out"),
        (lambda p: pose(course=COURSE, parameters={"rh": 1.0}), "unknown parameter 'rh'"),
        (lambda p: pose(course=COURSE, parameters={"rho": np.ones(2)}, n=3), "expected 3"),
        (lambda p: pose(course=COURSE, parameters={}, variant="none"), "unknown variant 'none'"),
    ],
)
def test_what_makes_no_sense_is_refused(posed, ask, words):
    with pytest.raises(ReinfuseError, match=words.replace("(", "\\(")):
        ask(posed)
