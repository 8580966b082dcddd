"""A model of one's own: what is refused, and in which words."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from reinfuse.model.define import Model, State, absolute_error, exp, parameter, relative_error
from reinfuse.model.errors import ReinfuseError

from . import own_models

K = parameter("k", "rate", unit="1/d", median=0.5, log_sd=0.5)
SIGMA = parameter("sigma", "residual sd", median=0.2, log_sd=0.5)


def made(**changes) -> Model:
    """A decaying state, with changes."""
    sound = {
        "name": "decay",
        "time_unit": "d",
        "states": {"x": "mg"},
        "parameters": [K, SIGMA],
        "start": lambda p: {"x": 1.0},
        "rates": lambda t, y, p: {"x": -p.k * y.x},
        "observables": lambda t, y, p: {"seen": relative_error(y.x, p.sigma)},
    }
    return Model(**(sound | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"states": {}}, "states: there are none"),
        ({"states": [State("x", "mg"), State("x", "mg")]}, "states: 'x' stands twice; rename one"),
        ({"states": {"x-1": "mg"}}, "'x-1' is no name"),
        ({"parameters": [K, K, SIGMA]}, "parameters: 'k' stands twice"),
        ({"parameters": [K, SIGMA, parameter("amount_1", "", median=1.0, log_sd=0)]}, "belong to doses"),
        ({"parameters": [K, SIGMA, parameter("ke", "", median=1.0, log_sd=0)]}, "ke stands in no equation"),
        ({"rates": lambda t, y, p: {"x": -p.kk * y.x}}, "rates: there is no parameter 'kk'; did you mean 'k'?"),
        ({"rates": lambda t, y, p: {"x": -p.k * y.xs}}, "rates: there is no state 'xs'; did you mean 'x'?"),
        ({"rates": lambda t, y, p: {"z": -p.k * y.x}}, "rates: 'z' is no state; there are x"),
        ({"rates": lambda t, y, p: {}}, "rates: nothing is returned for x; return a value for every state"),
        ({"rates": lambda t, y, p: -p.k * y.x}, "rates: returned Node; return a dictionary"),
        ({"rates": lambda y, p: {"x": -y.x}}, r"rates: its arguments are \(y, p\); define it as rates\(t, y, p\)"),
        ({"rates": "fast"}, "rates: it is 'fast'; give a function"),
        ({"rates": lambda t, y, p: {"x": -p.k if y.x > 1 else 0.0}}, "no `if`"),
        ({"rates": lambda t, y, p: {"x": np.exp(-y.x) * p.k}}, "use exp, log"),
        ({"start": lambda p: {}}, "start: nothing is returned for x"),
        ({"start": lambda p: {"x": float("nan")}}, "start: 'x' is nan at the prior medians"),
        ({"states": [State("x", "mg")], "start": lambda p: {"x": 0.0}}, "'x' is 0 at the prior medians; start above 0"),
        ({"dose": lambda y, p, amount: {"depot": amount}}, "dose: 'depot' is no state; there are x"),
        ({"dose": lambda y, amount: {"x": amount}}, r"define it as dose\(y, p, amount\)"),
        ({"observables": lambda t, y, p: {}}, "observables: there are none"),
        ({"observables": lambda t, y, p: {"seen": y.x * p.sigma}}, "make it with relative_error or absolute_error"),
        ({"observables": lambda t, y, p: {"x": relative_error(y.x, p.sigma)}}, "'x' is a state, too"),
        ({"observables": lambda t, y, p: {"seen": absolute_error(y.x, -p.sigma)}}, "sd of 'seen' is -0.2"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(changes, said):
    with pytest.raises(ReinfuseError, match=said):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"median": -1.0}, "log transform of -1.0"),
        ({"median": 1.5, "transform": "logit"}, "between 0 and 1"),
        ({"log_sd": -0.1}, "log_sd is -0.1"),
        ({"transform": "square"}, "unknown transform 'square'"),
        ({"tag": "GUESSED"}, "unknown tag 'GUESSED'"),
    ],
)
def test_a_prior_outside_its_domain_is_refused(changes, said):
    with pytest.raises(ReinfuseError, match=said):
        parameter("k", "rate", **{"median": 1.0, "log_sd": 0.5, **changes})


def test_units_and_names_of_what_comes_out():
    model = own_models.pk()
    assert model.outputs == ("depot", "central", "conc")
    assert [model.unit(name) for name in model.outputs] == ["mg", "mg", "mg/L"]
    assert model.table["ka"].tag == "ASSUMED"


def test_a_logarithmic_state_takes_its_derivative_as_it_stands():
    """The user writes dy/dt for either kind of state."""
    linear, logarithmic = made(), made(states=[State("x", "mg")])
    y, p = SimpleNamespace(x=3.0), SimpleNamespace(k=0.5, sigma=0.2)
    assert linear.ode(0).rates(0.0, y, None, p) == {"x": -1.5}
    assert logarithmic.ode(0).rates(0.0, y, None, p) == {"x": -0.5}


def test_the_examples_are_short():
    """A model in under 30 lines of Python: what a user writes, imports and blank lines apart."""
    for name in ("oral_pk", "lotka_volterra"):
        lines = (own_models.EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()
        assert len([line for line in lines if line.strip()]) <= 30, name


def test_functions_of_the_equations_run_on_numbers_too():
    model = made(rates=lambda t, y, p: {"x": -p.k * y.x * exp(-t)})
    p = SimpleNamespace(k=0.5, sigma=0.2)
    assert model.ode(0).rates(1.0, SimpleNamespace(x=2.0), None, p)["x"] == pytest.approx(-np.exp(-1.0))


def test_a_model_is_not_changed():
    with pytest.raises(AttributeError):
        made().name = "other"
    assert replace(made(), name="other").name == "other"
