"""From a scenario to what the simulator needs: infusions, and parameters under the scenario's hypotheses.

The same virtual patients go through every arm. Nothing here draws a random number: hypotheses multiply
parameters, products set slot parameters (`f0_2`, `gp_1`, …), and the occasion noise of an infusion comes with
the patient, so that two arms differ only in what the scenario says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.course import Engager, Infusion
from reinfuse.model.parameters import Parameter, from_transformed, to_transformed
from reinfuse.model.products import Product
from reinfuse.model.products import product as known_product

from .mechanisms import MECHANISMS
from .scenarios import Bispecific, Scenario, ScenarioFile, SecondCourse, World
from .virtual_patients import VirtualPatients

type Floats = NDArray[np.float64]

#: Day before therapy: cells taken then come from T cells with the dysfunction Q0.
BEFORE_THERAPY: Final = 0.0
#: Share of BCMA-low cells at or above which the antigen-loss multiplier may not push a patient.
MOST_ANTIGEN_LOW: Final = 0.5


def under_hypotheses(
    patients: VirtualPatients,
    factors: Mapping[str, float],
    rows: Mapping[str, Parameter],
    products: Sequence[Product],
) -> VirtualPatients:
    """Multiply what the hypotheses multiply.

    Parameters
    ----------
    patients
        Before any hypothesis.
    factors
        By the keys of `MECHANISMS`, which say what they act on.
    rows
        Table rows, for the transforms.
    products
        That the patients get.

    Returns
    -------
    VirtualPatients
        Parameters that the patients lack stay absent.
    """
    parameters, fields = dict(patients.parameters), dict(patients.fields)
    for mechanism in MECHANISMS:
        factor = factors[mechanism.key]
        if factor == 1.0:
            continue
        for name in mechanism.parameters:
            if name not in parameters:
                continue
            if mechanism.better:
                favourable, sign = patients.favourable.get(name, parameters[name]), mechanism.better[name]
                parameters[name] = _nearer(parameters[name], favourable, sign, factor, rows[name].transform)
            else:
                parameters[name] = _multiplied(parameters[name], factor, rows[name].transform)
        for name in mechanism.product_fields:
            for product in products:
                own = fields.get((product.name, name), np.full(patients.n, float(getattr(product, name))))
                fields[product.name, name] = _multiplied(own, factor, "logit")
    if factors["antigen_loss_fraction"] > 1.0 and "fr" in parameters:
        parameters["fr"] = np.minimum(parameters["fr"], MOST_ANTIGEN_LOW)
    return replace(patients, parameters=parameters, fields=fields)


def _multiplied(values: Floats, factor: float, transform: str) -> Floats:
    """Multiply natural values, or odds under logit; 0 gives 0."""
    if factor == 0.0 or transform != "logit":
        return values * factor
    # a value that a variant holds at 0 has no logit, and stays 0
    some = values > 0
    out = np.zeros_like(values)
    shifted = to_transformed(values[some], transform=transform) + np.log(factor)
    out[some] = from_transformed(shifted, transform=transform)
    return out


def _nearer(own: Floats, favourable: Floats, sign: int, factor: float, transform: str) -> Floats:
    """Multiply how far each value falls short of a favourable one; 0 gives this one, a better value stays."""
    short = np.asarray(sign * (favourable - own) > 0)
    out = np.where(short, favourable, own)
    if factor != 0.0:
        goal, mine = (to_transformed(values[short], transform=transform) for values in (favourable, own))
        out[short] = from_transformed(goal + factor * (mine - goal), transform=transform)
    return out


def slot_parameters(patients: VirtualPatients, products: Sequence[Product]) -> dict[str, Floats]:
    """Product fields of each infusion slot, for patients of whom each may have its own.

    Parameters
    ----------
    patients
        With the uncertain or fitted fields of the products.
    products
        Product of slot 1, 2, …

    Returns
    -------
    dict of str to ndarray (n,)
        `f0_1` and so on, only for fields that differ from the product's own numbers, and `occ_1` and so on.
    """
    out: dict[str, Floats] = {}
    for slot, product in enumerate(products, start=1):
        for (name, field), values in patients.fields.items():
            if name == product.name:
                out[f"{field}_{slot}"] = values
        out[f"occ_{slot}"] = patients.occasion[:, slot - 1]
    return out


def product_of(infusion: Infusion) -> Product:
    """Product of an infusion that was built here."""
    if isinstance(infusion.product, str):
        return known_product(infusion.product)
    return infusion.product


def first_infusion(scenario: Scenario, file: ScenarioFile) -> Infusion:
    """Build the first infusion of a scenario, on day 0."""
    first = scenario.first
    return Infusion(
        product=file.product(first.product),
        dose=first.dose,
        lymphodepletion=first.lymphodepletion,
        bridging=first.bridging,
    )


def later_infusion(plan: SecondCourse, file: ScenarioFile, day: Floats) -> Infusion:
    """Build a later infusion on each patient's day, shape (n,); +inf for who does not get it."""
    return Infusion(
        product=file.product(plan.product),
        day=day,
        dose=plan.dose,
        lymphodepletion=plan.lymphodepletion,
        bridging=plan.bridging,
        apheresis_day=BEFORE_THERAPY if plan.apheresis == "banked" else None,
        same_scfv=plan.same_scfv,
    )


def engager(antibody: Bispecific, day: Floats, normal: Floats) -> Engager:
    """Build the bispecific antibody of a scenario on each patient's day, shape (n,), as well as it works in each."""
    return Engager(
        day=day,
        killing=antibody.killing * np.exp(antibody.killing_log_sd * normal),
        power=antibody.power,
        wear=antibody.wear,
    )


def next_infusion_day(begin: Floats, plan: Scenario | SecondCourse) -> Floats:
    """Day of an infusion: the first whole day at or after progression (or what is waited for) plus the plan's wait."""
    return np.ceil(begin + plan.days_after_progression)


def arm_parameters(
    patients: VirtualPatients,
    scenario: Scenario,
    world: World,
    course: Sequence[Infusion],
    rows: Mapping[str, Parameter],
) -> dict[str, Floats]:
    """Everything that the simulator gets as `parameters` for one arm."""
    products = [product_of(infusion) for infusion in course]
    some = under_hypotheses(patients, scenario.hypotheses(world), rows, products)
    return {**some.parameters, **slot_parameters(some, products)}
