"""From flat draws to the groups of a posterior file: named, labelled, on natural scales, with predictions."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.equations.bcma import EARLY
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import from_transformed, to_transformed
from reinfuse.model.simulate import solved

from .assays import above_limit, below_limit
from .coordinates import Layout
from .likelihood_op import loglik_and_gradient
from .population import OCCASION_LOG_SD, OCCASION_SD, design, estimated
from .problem import Problem

type Floats = NDArray[np.float64]

PREDICTIVE_DRAWS: Final = 400
CURVE_DRAWS: Final = 100
CURVE_POINTS: Final = 120
PRIOR_DRAWS: Final = 1000
DEGREES: Final = 4.0  # of freedom of the residuals
MAX_STEPS: Final = 5000


def layout(problem: Problem) -> Layout:
    """Where things are in the flat vector of `population.population_model`.

    PyMC's order is that of definition: population, log omega, product effects, deviations and, with several infusions,
    log omega of the occasions and the occasions' deviations. Population part of the layout, as `geometry.Posterior`
    orders it: population, all log-spreads, product effects.
    """
    d, q, e, n = len(estimated(problem)), len(problem.random), len(problem.effects), problem.n
    first = d + q + e
    eta = first + np.arange(n * q).reshape(n, q)
    population, spreads, effects = np.arange(d), d + np.arange(q), d + q + np.arange(e)
    if not problem.occasions:
        return Layout(np.concatenate([population, spreads, effects]), eta, d + np.arange(q))
    after = first + n * q
    occasion = after + 1 + np.arange(n * problem.slots).reshape(n, problem.slots)
    hyper = np.concatenate([population, spreads, [after], effects])
    log_sd = np.concatenate([d + np.arange(q), np.full(problem.slots, d + q)])
    return Layout(hyper, np.concatenate([eta, occasion], axis=1), log_sd)


class Draws:
    """Draws (chain, draw, coordinate) taken apart."""

    def __init__(self, problem: Problem, x: Floats) -> None:
        self.problem, self.design, self.flat = problem, design(problem), x
        lay = layout(problem)
        d, q, o = len(estimated(problem)), len(problem.random), int(problem.occasions)
        h = x[..., lay.hyper]
        self.population, self.log_omega, self.effect = h[..., :d], h[..., d : d + q + o], h[..., d + q + o :]
        self.deviation = x[..., lay.block]

    def hyper(self, chain: int, draw: int) -> Floats:
        """The population vector of one draw, in the order of `geometry.Posterior`."""
        parts = self.population[chain, draw], self.log_omega[chain, draw], self.effect[chain, draw]
        return np.concatenate(parts)

    def hypers(self, count: int | None = None) -> Floats:
        """The population vectors (draws, d) of all draws, or of so many evenly spaced ones."""
        places = thinned(self, self.population.shape[0] * self.population.shape[1] if count is None else count)
        return np.stack([self.hyper(chain, draw) for chain, draw in places])

    def theta(self, chain: int, draw: int) -> Floats:
        """Individual parameters of one draw, (n, columns)."""
        return self.design.theta(self.population[chain, draw], self.effect[chain, draw], self.deviation[chain, draw])


def _named(problem: Problem, population: Floats, omega: Floats, effect: Floats, deviation: Floats) -> xr.Dataset:
    """Variables of a posterior (or prior), from transformed scales; leading dims chain, draw."""
    labels, q = estimated(problem), len(problem.random)
    transforms = [problem.population[label].transform for label in labels]
    lead = ("chain", "draw")
    coords: dict[str, Any] = {"parameter": labels, "effect": list(problem.random), "patient": list(problem.patients)}
    data: dict[str, Any] = {
        "population": ((*lead, "parameter"), from_transformed(population, transform=transforms)),
        "omega": ((*lead, "effect"), omega[..., :q]),
    }
    if problem.effects:
        data["product_effect"] = ((*lead, "contrast"), effect)
        coords["contrast"] = [e.label for e in problem.effects]
    if problem.occasions:
        data["omega_occasion"] = (lead, omega[..., q])
        data["occasion"] = ((*lead, "patient", "infusion"), deviation[..., q:])
        coords["infusion"] = list(range(1, problem.slots + 1))
    individual = np.empty((*population.shape[:2], problem.n, q))
    for k, name in enumerate(problem.random):
        value = _centre(problem, population, effect, name) + deviation[..., k]
        individual[..., k] = from_transformed(value, transform=problem.population[name].transform)
    data["individual"] = ((*lead, "patient", "effect"), individual)
    return xr.Dataset(data, coords=coords)


def _centre(problem: Problem, population: Floats, effect: Floats, name: str) -> Floats:
    """What patients' own values of a random effect scatter around, transformed scale: (chain, draw, 1 or patient)."""
    labels, row = estimated(problem), problem.population[name]
    if name in labels:
        centre = population[..., labels.index(name)][..., None]
    else:
        centre = np.full((*population.shape[:2], 1), float(to_transformed(row.median, transform=row.transform)))
    for e, x in enumerate(problem.effects):
        if x.parameter == name and x.slot_field is None:
            centre = centre + effect[..., e][..., None] * (problem.slot_products[:, 0] == x.product)
    return centre


def flat_draws(problem: Problem, posterior: xr.Dataset) -> Floats:
    """Flat vectors (chain, draw, coordinate) of a posterior group: what `posterior_draws` undoes, but for rounding.

    Raises
    ------
    ReinfuseError
        If the group is of another problem.
    """
    labels, lay, q = estimated(problem), layout(problem), len(problem.random)
    wanted = {"parameter": labels, "effect": list(problem.random), "patient": list(problem.patients)}
    wanted |= {"contrast": [e.label for e in problem.effects]} if problem.effects else {}
    for dim, names in wanted.items():
        held = [str(x) for x in posterior[dim].values] if dim in posterior.coords else []
        if held != [str(x) for x in names]:
            raise ReinfuseError(
                f"the posterior is of another model: its {dim}s are {', '.join(held[:5]) or 'none'} …, and this "
                f"version of the model has {', '.join(map(str, names[:5])) or 'none'} …. Fit again."
            )
    lead = ("chain", "draw")

    def values(name: str, *dims: str) -> Floats:
        return np.asarray(posterior[name].transpose(*lead, *dims).to_numpy(), dtype=np.float64)

    transforms = [problem.population[label].transform for label in labels]
    population = to_transformed(values("population", "parameter"), transform=transforms)
    x = np.zeros((*population.shape[:2], lay.size))
    effect = values("product_effect", "contrast") if problem.effects else np.empty((*population.shape[:2], 0))
    spreads = [np.log(values("omega", "effect"))]
    deviations = np.empty((*population.shape[:2], problem.n, q))
    individual = values("individual", "patient", "effect")
    for k, name in enumerate(problem.random):
        own = to_transformed(individual[..., k], transform=problem.population[name].transform)
        deviations[..., k] = own - _centre(problem, population, effect, name)
    if problem.occasions:
        spreads.append(np.log(values("omega_occasion"))[..., None])
        deviations = np.concatenate([deviations, values("occasion", "patient", "infusion")], axis=-1)
    x[..., lay.hyper] = np.concatenate([population, *spreads, effect], axis=-1)
    x[..., lay.block] = deviations
    return x


def log_prior(problem: Problem, draws: Draws) -> xr.Dataset:
    """Log density of the priors of population values at every draw, in the shape of the posterior group.

    Of the hyperpriors alone: how deviations scatter given omega is part of the model, not of its priors. Densities are
    those of the transformed scales (of ln omega for the spreads).
    """
    labels = estimated(problem)
    rows, spread = [problem.population[x] for x in labels], [problem.population[x] for x in problem.random]
    lead, q = ("chain", "draw"), len(problem.random)
    medians = [float(to_transformed(r.median, transform=r.transform)) for r in rows]
    data: dict[str, Any] = {
        "population": ((*lead, "parameter"), _normal(draws.population, medians, [r.log_sd for r in rows])),
        "omega": (
            (*lead, "effect"),
            _normal(draws.log_omega[..., :q], [np.log(r.iiv) for r in spread], [r.iiv_log_sd for r in spread]),
        ),
    }
    coords: dict[str, Any] = {"parameter": labels, "effect": list(problem.random)}
    if problem.effects:
        means, sds = [x.mean for x in problem.effects], [x.sd for x in problem.effects]
        data["product_effect"] = ((*lead, "contrast"), _normal(draws.effect, means, sds))
        coords["contrast"] = [e.label for e in problem.effects]
    if problem.occasions:
        occasion = _normal(draws.log_omega[..., q:], [np.log(OCCASION_SD)], [OCCASION_LOG_SD])
        data["omega_occasion"] = (lead, occasion[..., 0])
    return xr.Dataset(data, coords=coords)


def _normal(x: Floats, mean: Sequence[float], sd: Sequence[float]) -> Floats:
    scale = np.asarray(sd, dtype=np.float64)
    score = (x - np.asarray(mean, dtype=np.float64)) / scale
    return np.asarray(-0.5 * score**2 - np.log(scale) - 0.5 * np.log(2.0 * np.pi))


def prior_draws(problem: Problem, rng: np.random.Generator, draws: int = PRIOR_DRAWS) -> xr.Dataset:
    """Draws from the prior, in the shape of a posterior with one chain."""
    labels = estimated(problem)
    rows, spread = (
        [problem.population[label] for label in labels],
        [problem.population[name] for name in problem.random],
    )
    mean = np.array([float(to_transformed(r.median, transform=r.transform)) for r in rows])
    population = mean + rng.standard_normal((1, draws, len(rows))) * np.array([r.log_sd for r in rows])
    omega = np.log([r.iiv for r in spread]) + rng.standard_normal((1, draws, len(spread))) * np.array(
        [r.iiv_log_sd for r in spread]
    )
    omega = np.exp(omega)
    sizes = np.repeat(omega[:, :, None, :], problem.n, axis=2)
    if problem.occasions:
        occasion = np.exp(np.log(OCCASION_SD) + OCCASION_LOG_SD * rng.standard_normal((1, draws, 1)))
        omega = np.concatenate([omega, occasion], axis=-1)
        sizes = np.concatenate([sizes, np.tile(occasion[:, :, None, :], (1, 1, problem.n, problem.slots))], axis=-1)
    effect = np.array([e.mean for e in problem.effects]) + rng.standard_normal(
        (1, draws, len(problem.effects))
    ) * np.array([e.sd for e in problem.effects])
    return _named(problem, population, omega, effect, rng.standard_normal(sizes.shape) * sizes)


def posterior_draws(problem: Problem, draws: Draws) -> xr.Dataset:
    """The posterior group."""
    return _named(problem, draws.population, np.exp(draws.log_omega), draws.effect, draws.deviation)


def restored(problem: Problem, posterior: xr.Dataset) -> Draws:
    """The draws behind a posterior group: the inverse of `posterior_draws`.

    Parameters
    ----------
    problem
        The posed cohort of the run.
    posterior
        Its `/posterior` group.
    """
    lead = ("chain", "draw")
    labels, transforms = estimated(problem), [row.transform for row in problem.population.values() if row.log_sd > 0]
    natural = posterior["population"].transpose(*lead, "parameter").sel(parameter=labels).to_numpy()
    population = to_transformed(natural, transform=transforms)
    spreads = [np.log(posterior["omega"].transpose(*lead, "effect").to_numpy())]
    occasions = [np.log(posterior["omega_occasion"].to_numpy())[..., None]] if problem.occasions else []
    effect = np.zeros((*population.shape[:2], 0))
    if problem.effects:
        effect = posterior["product_effect"].transpose(*lead, "contrast").to_numpy()
    individual = posterior["individual"].transpose(*lead, "patient", "effect").to_numpy()
    lay = layout(problem)
    x = np.zeros((*population.shape[:2], lay.size))
    x[..., lay.hyper] = np.concatenate([population, *spreads, *occasions, effect], axis=-1)
    typical = posterior_draws(problem, Draws(problem, x))["individual"].to_numpy()  # no deviations yet
    deviations = []
    for k, name in enumerate(problem.random):
        transform = problem.population[name].transform
        own, centre = (to_transformed(values[..., k], transform=transform) for values in (individual, typical))
        deviations.append((own - centre)[..., None])
    if problem.occasions:
        deviations.append(posterior["occasion"].transpose(*lead, "patient", "infusion").to_numpy())
    x[..., lay.block] = np.concatenate(deviations, axis=-1)
    return Draws(problem, x)


def thinned(draws: Draws, count: int) -> list[tuple[int, int]]:
    """At most ``count`` places (chain, draw), evenly spaced over a posterior."""
    chains, length = draws.population.shape[:2]
    places = np.linspace(0, chains * length - 1, min(count, chains * length)).astype(int)
    return [(int(i) // length, int(i) % length) for i in places]


def simulate_draws(problem: Problem, thetas: Floats, times: Floats, tolerance: float = 1e-5) -> dict[str, Floats]:
    """Read-outs (sample, n, T) of individual parameters (sample, n, columns) at common times."""
    samples, n, columns = thetas.shape
    kernel = problem.kernel
    out = np.full((samples * n, times.size, len(kernel.readouts)), np.nan)
    status = np.zeros(samples * n, dtype=np.int64)
    events = [np.tile(a, (samples,) + (1,) * (a.ndim - 1)) for a in (problem.ev_time, problem.ev_code, problem.n_ev)]
    kernel.simulate(
        np.ascontiguousarray(thetas.reshape(-1, columns)), *events, times, tolerance, MAX_STEPS, out, status
    )
    out[~solved(status)] = np.nan
    shaped = out.reshape(samples, n, times.size, -1)
    return {name: shaped[..., k] for k, name in enumerate(kernel.readouts)}


def _compared(problem: Problem) -> NDArray[np.int64]:
    """Places of the records that are values of assays, and no events."""
    return np.flatnonzero(np.isin(problem.observed.dvid, list(problem.observables)))


def predictions(problem: Problem, draws: Draws, rng: np.random.Generator) -> xr.Dataset:
    """Posterior predictive of every assay record, on the scale of the residuals: the natural logarithm as a rule.

    ``prediction`` is without residual error, ``y`` with it; 0.05 g/dL is added to M-protein before the logarithm.
    """
    rec = problem.observed
    rows = _compared(problem)
    times = np.unique(rec.time[rows])
    chosen = thinned(draws, PREDICTIVE_DRAWS)
    thetas = np.stack([draws.theta(c, k) for c, k in chosen])
    simulated = simulate_draws(problem, thetas, times)
    column = np.searchsorted(times, rec.time[rows])
    prediction = np.empty((len(chosen), rows.size))
    sigma = np.empty_like(prediction)
    labels = estimated(problem)
    for i, row in enumerate(rows):
        name, at = str(rec.dvid[row]), (slice(None), rec.patient[row], column[i])
        how = problem.observables[name]
        value = simulated[name][at]
        prediction[:, i] = how.compared(value)
        if how.sd in simulated:
            sigma[:, i] = simulated[how.sd][at]
        else:
            sigma[:, i] = np.exp([draws.population[c, k, labels.index(how.sd)] for c, k in chosen])
    noise = rng.standard_t(DEGREES, size=prediction.shape)
    y = prediction + sigma * noise
    dims = ("chain", "draw", "observation")
    return xr.Dataset(
        {"y": (dims, y[None]), "prediction": (dims, prediction[None]), "sigma": (dims, sigma[None])},
        coords={"observation": np.arange(rows.size)},
    )


def observed(problem: Problem) -> xr.Dataset:
    """The assay records, as the predictions order them."""
    rec = problem.observed
    rows = _compared(problem)
    cens = np.select([below_limit(rec.family[rows]), above_limit(rec.family[rows])], [1, -1], 0)
    columns: dict[str, Any] = {
        "patient": np.array([rec.patients[i] for i in rec.patient[rows]], dtype=object),
        "time": rec.time[rows],
        "dvid": rec.dvid[rows].astype(object),
        "value": rec.value[rows],
        "cens": cens,
        "lower": rec.lower[rows],
        "lloq": rec.lloq[rows],
        "product": rec.product[rows].astype(object),
    }
    if problem.own:
        columns["log"] = np.array([problem.observables[str(name)].log for name in rec.dvid[rows]], dtype=np.int64)
    return xr.Dataset({k: (("observation",), v) for k, v in columns.items()})


def curves(problem: Problem, draws: Draws, until: float) -> xr.Dataset:
    """Posterior curves of every patient, for figures and for predicted progression."""
    grid = np.linspace(0.0, until, CURVE_POINTS)
    if problem.own:
        doses = problem.ev_time[problem.ev_time <= until]
        times = np.unique(np.concatenate([grid, doses]))
    else:
        times = np.unique(np.concatenate([np.arange(0.0, min(40.0, until), 1.0), grid.round(1)]))
    thetas = np.stack([draws.theta(c, k) for c, k in thinned(draws, CURVE_DRAWS)])
    simulated = simulate_draws(problem, thetas, times)
    dims = ("sample", "patient", "time")
    data: dict[str, Any] = {name: (dims, simulated[name]) for name in problem.observables}
    if not problem.own:
        data["burden"] = (dims, simulated["Ts"] + simulated["Tr"])
    if not problem.own and "H" in simulated:  # counted from the first assessment on
        data["cumhaz"] = (dims, np.where(times < EARLY, 0.0, simulated["H"]))
    return xr.Dataset(data, coords={"time": times, "patient": list(problem.patients)})


def log_likelihood(problem: Problem, draws: Draws, tick: Callable[[int], None] = lambda _: None) -> xr.Dataset:
    """Each patient's log-likelihood at every draw."""
    chains, length = draws.population.shape[:2]
    values = np.empty((chains, length, problem.n))
    for c in range(chains):
        for k in range(length):
            values[c, k], _, _ = loglik_and_gradient(draws.theta(c, k), problem)
            tick(1)
    return xr.Dataset({"patient": (("chain", "draw", "subject"), values)}, coords={"subject": list(problem.patients)})
