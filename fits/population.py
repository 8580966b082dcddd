"""The statistical model: priors, random effects, product effects and the likelihood, as a PyMC model.

Every population parameter is Gaussian on its transformed scale (logarithm, logit or identity); every patient's
deviation is Gaussian there with sd omega; omega has a lognormal prior around a published or assumed spread, which keeps
it off zero (the funnel's neck is prior mass at 0). Product effects are log multipliers. Where patients have several
infusions, each infusion's fitness has its own deviation (inter-occasion variability).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from reinfuse.model.parameters import to_transformed
from reinfuse.model.simulate import Status

from .likelihood_op import cohort_loglik
from .problem import BY_PRODUCT, Problem

type Floats = NDArray[np.float64]

OCCASION_SD: Final = 0.1  # between the infusions of a patient, on ln(fitness); ASSUMED
OCCASION_LOG_SD: Final = 0.4


def estimated(problem: Problem) -> list[str]:
    """Labels of the population parameters that have a prior (a definition, such as the median of gT, has none)."""
    return [label for label, row in problem.population.items() if row.log_sd > 0]


def prior_location(problem: Problem, label: str) -> float:
    """Prior mean of a population parameter on its transformed scale."""
    row = problem.population[label]
    return float(to_transformed(row.median, transform=row.transform))


@dataclass(frozen=True)
class Design:
    """How individual parameters are made: linear on the transformed scale.

    ``theta = back(offset + by_population @ population + by_effect @ product_effect + by_deviation @ deviation)``.

    Attributes
    ----------
    log, logit
        (columns,) whether a column of theta is on a logarithmic or logit scale; identity otherwise.
    offset
        (n, columns).
    by_population, by_effect, by_deviation
        (n, columns, parameters), (n, columns, product effects), (n, columns, deviations): a patient's deviations are
        its random effects and, with several infusions, one for the fitness of each.
    """

    log: NDArray[np.bool_]
    logit: NDArray[np.bool_]
    offset: Floats
    by_population: Floats
    by_effect: Floats
    by_deviation: Floats

    def theta(self, population: Floats, effect: Floats, deviation: Floats) -> Floats:
        """Individual parameters, (..., n, columns), on the natural scale."""
        x = self.offset + np.einsum("ncd,...d->...nc", self.by_population, population)
        x += np.einsum("nce,...e->...nc", self.by_effect, effect)
        x += np.einsum("ncq,...nq->...nc", self.by_deviation, deviation)
        return self.back(x)

    def back(self, x: Floats) -> Floats:
        """From the transformed scale to the natural one."""
        with np.errstate(over="ignore"):  # an absurd proposal: the solver will reject it
            natural = np.where(self.log, np.exp(np.where(self.log, x, 0.0)), x)
            if self.logit.any():
                natural = np.where(self.logit, 1.0 / (1.0 + np.exp(-x)), natural)
        return natural

    def slope(self, theta: Floats) -> Floats:
        """Derivative of `back`, at its result."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(self.log, theta, np.where(self.logit, theta * (1.0 - theta), 1.0))


def design(problem: Problem) -> Design:
    """The design of a posed cohort."""
    labels = estimated(problem)
    names = problem.kernel.parameters
    n, c, q = problem.n, len(names), len(problem.random) + (problem.slots if problem.occasions else 0)
    log, logit = np.zeros(c, dtype=bool), np.zeros(c, dtype=bool)
    offset = problem.base.copy()
    by_population, by_effect = np.zeros((n, c, len(labels))), np.zeros((n, c, len(problem.effects)))
    by_deviation = np.zeros((n, c, q))
    for k, name in enumerate(names):
        stem, _, slot = name.rpartition("_")
        if name in problem.population:
            row = problem.population[name]
            log[k], logit[k] = row.transform == "log", row.transform == "logit"
            offset[:, k] = 0.0 if name in labels else prior_location(problem, name)
            if name in labels:
                by_population[:, k, labels.index(name)] = 1.0
            if name in problem.random:
                by_deviation[:, k, problem.random.index(name)] = 1.0
            for e, effect in enumerate(problem.effects):
                if effect.slot_field is None and effect.parameter == name:
                    by_effect[:, k, e] = problem.slot_products[:, 0] == effect.product
            continue
        if problem.own or not slot.isdigit():
            continue
        product = problem.slot_products[:, int(slot) - 1]
        if stem in BY_PRODUCT:
            for d, label in enumerate(labels):
                if label.startswith(f"{stem}:"):
                    mine = product == label.partition(":")[2]
                    offset[mine, k] = 0.0
                    by_population[mine, k, d] = 1.0
        elif stem == "occ" and problem.occasions:
            offset[:, k] = 0.0
            by_deviation[:, k, len(problem.random) + int(slot) - 1] = 1.0
        else:
            mine_effects = [(e, x) for e, x in enumerate(problem.effects) if x.slot_field == stem]
            if mine_effects:
                log[k] = True
                offset[:, k] = np.log(offset[:, k])
            for e, effect in mine_effects:
                mine = product == effect.product
                offset[mine, k] = 0.0
                by_effect[mine, k, e] = 1.0
    return Design(log, logit, offset, by_population, by_effect, by_deviation)


def _coordinates(problem: Problem) -> dict[str, list[Any]]:
    coords: dict[str, list[Any]] = {
        "parameter": estimated(problem),
        "effect": list(problem.random),
        "patient": list(problem.patients),
        "contrast": [e.label for e in problem.effects],
    }
    if problem.occasions:
        coords["infusion"] = list(range(1, problem.slots + 1))
    return coords


def population_model(problem: Problem) -> pm.Model:
    """Build the PyMC model of a posed cohort.

    Parameters
    ----------
    problem
        From `fits.problem.pose`.

    Returns
    -------
    pymc.Model
        Free variables, on transformed scales: ``population`` (parameter), ``omega`` (effect), ``product_effect``
        (contrast), ``eta`` (patient, effect) and, with several infusions, ``omega_occasion`` and ``occasion`` (patient,
        infusion); data ``solver_outcomes`` counts how the solver ended (see `reinfuse.model.simulate.Status`).
    """
    labels, made = estimated(problem), design(problem)
    rows = [problem.population[label] for label in labels]
    spread = [problem.population[name] for name in problem.random]
    with pm.Model(coords=_coordinates(problem)) as model:
        outcomes = pm.Data("solver_outcomes", np.zeros(len(Status), dtype=np.int64))
        population = pm.Normal(
            "population",
            mu=np.array([prior_location(problem, label) for label in labels]),
            sigma=np.array([row.log_sd for row in rows]),
            dims="parameter",
        )
        omega = pm.LogNormal(
            "omega",
            mu=np.log([row.iiv for row in spread]),
            sigma=np.array([row.iiv_log_sd for row in spread]),
            dims="effect",
        )
        x = made.offset + (made.by_population * population).sum(axis=-1)
        if problem.effects:
            effect = pm.Normal(
                "product_effect",
                mu=np.array([e.mean for e in problem.effects]),
                sigma=np.array([e.sd for e in problem.effects]),
                dims="contrast",
            )
            x = x + (made.by_effect * effect).sum(axis=-1)
        deviation = pm.Normal("eta", 0.0, omega, dims=("patient", "effect"))
        if problem.occasions:
            omega_occasion = pm.LogNormal("omega_occasion", np.log(OCCASION_SD), OCCASION_LOG_SD)
            occasion = pm.Normal("occasion", 0.0, omega_occasion, dims=("patient", "infusion"))
            deviation = pt.concatenate([deviation, occasion], axis=1)
        x = x + (made.by_deviation * deviation[:, None, :]).sum(axis=-1)
        theta = pt.where(made.log, pt.exp(pt.where(made.log, x, 0.0)), x)
        if made.logit.any():
            theta = pt.where(made.logit, pt.sigmoid(x), theta)
        pm.Potential("loglik", cohort_loglik(theta, outcomes, problem), dims="patient")
    return model
