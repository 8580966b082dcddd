"""Where to start, and the coordinates in which to sample: exploration of the patients, sites, whitening.

1. *Search*: from the prior medians, an L-BFGS search over deviations and population, spreads and residual sds held.
2. *Particles*: the search finds one mode of each patient, and for some the wrong one. Draws from the prior, tempered to
   the posterior given the population (`tempered`), put every patient where its mass is; once more after 3.
3. *Exploration*: Hamiltonian Monte Carlo of every patient's deviations given the population, all patients in one kernel
   call, each with its own step and mass. Between rounds the population moves by a Newton step on its marginal posterior
   (Fisher's identity: the marginal score is the posterior mean of the complete one; its information is estimated by the
   outer products of the patients' scores). This is stochastic approximation EM in spirit.
4. *Sites*: each patient's posterior, by the covariances of its deviations and of their scores, becomes a Gaussian site,
   also where its likelihood is one-sided (a mode at the edge of a plateau says nothing of the plateau). A population
   value that shifts the patient's own value as its deviation does has the same curvature; the response to the others
   is the covariance of the deviations with their scores.
5. *Whitening*: the curvature of the target in the coordinates so made, averaged over a few standard normal ``z``.

Whatever the quality of all this, the target is exact (see `coordinates`): it only decides how fast sampling is.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from reinfuse.model.simulate import Status

from .conditional import Conditional, KernelConditional
from .coordinates import Coordinates, Floats, Layout, LogDensity, Sites
from .joint import Joint, KernelJoint
from .likelihood_op import loglik_and_gradient
from .population import OCCASION_LOG_SD, OCCASION_SD, Design, design, estimated, prior_location
from .problem import Problem
from .tempered import particles

ROUNDS: Final = 8
ROUND_DRAWS: Final = 25
LAST_DRAWS: Final = 400
LEAPFROGS: Final = 8
SEARCH_STEPS: Final = 150
TINY: Final = 1e-12  # smallest eigenvalue taken as positive
SITE_FLOOR: Final = 1e-2  # smallest precision that the data add in a site, in units of the prior's
WHITENING_DRAWS: Final = 6
STEP: Final = 1e-4


class Posterior:
    """The statistical model patient by patient, in numbers: population vector ``h`` and deviations ``b`` (n, q).

    ``h`` is population values, log-spreads and product effects, in the order of `layout`.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.design: Design = design(problem)
        labels = estimated(problem)
        self.d, self.e = len(labels), len(problem.effects)
        self.spreads = len(problem.random) + int(problem.occasions)
        effects = np.arange(len(problem.random))
        occasions = np.full(problem.slots if problem.occasions else 0, len(problem.random))
        self.log_sd = (self.d + np.concatenate([effects, occasions])).astype(np.int64)
        rows = [problem.population[name] for name in problem.random]
        occasion = [np.log(OCCASION_SD)] if problem.occasions else []
        self.prior_mean = np.array(
            [prior_location(problem, label) for label in labels]
            + [np.log(row.iiv) for row in rows]
            + occasion
            + [x.mean for x in problem.effects]
        )
        self.prior_sd = np.array(
            [problem.population[label].log_sd for label in labels]
            + [row.iiv_log_sd for row in rows]
            + [OCCASION_LOG_SD] * len(occasion)
            + [x.sd for x in problem.effects]
        )
        self.residual = np.array([k for k, label in enumerate(labels) if label in problem.residual], dtype=np.int64)
        self.outcomes: NDArray[np.int64] = np.zeros(len(Status), dtype=np.int64)

    @property
    def q(self) -> int:
        """Deviations per patient."""
        return int(self.log_sd.size)

    @cached_property
    def by_hyper(self) -> Floats:
        """What population values add to individual parameters on their transformed scales, (n, columns, values)."""
        made = self.design
        spreads = np.zeros((*made.offset.shape, self.spreads))
        return np.concatenate([made.by_population, spreads, made.by_effect], axis=2)

    def conditional(self, h: Floats, order: NDArray[np.int64] | None = None) -> Conditional:
        """The patients given a population; ``order`` restricts it to some of them."""
        made = self.design
        offset = made.offset + self.by_hyper @ h
        return KernelConditional(
            self.problem, offset, made.by_deviation, made.log, made.logit, h[self.log_sd], order, self.outcomes
        )

    def joint(self, coordinates: Coordinates) -> Joint:
        """Trajectories of patients and population at once."""
        made = self.design
        return KernelJoint(
            self,
            coordinates,
            self.problem,
            offset=made.offset,
            by_hyper=self.by_hyper,
            by_deviation=made.by_deviation,
            log=made.log,
            logit=made.logit,
            outcomes=self.outcomes,
        )

    def likelihood(self, h: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """Log-likelihood (n,), its slope by ``b`` (n, q) and, summed over patients, by ``h``."""
        loglik, grad = self._by_column(h, b)
        by_b = np.einsum("nc,ncq->nq", grad, self.design.by_deviation)
        return loglik, by_b, np.einsum("nc,ncd->d", grad, self.by_hyper)

    def patients(self, h: Floats, b: Floats) -> tuple[Floats, Floats, Floats]:
        """Each patient's log density of data and deviations (n,), its gradient by ``b`` (n, q) and by ``h`` (n, d)."""
        loglik, grad = self._by_column(h, b)
        precision = np.exp(-2.0 * h[self.log_sd])
        square = b * b * precision
        value = loglik - 0.5 * square.sum(axis=1) - h[self.log_sd].sum()
        by_b = np.einsum("nc,ncq->nq", grad, self.design.by_deviation) - b * precision
        by_h = np.einsum("nc,ncd->nd", grad, self.by_hyper)
        for k, place in enumerate(self.log_sd):
            by_h[:, place] += square[:, k] - 1.0
        return value, by_b, by_h

    def _by_column(self, h: Floats, b: Floats) -> tuple[Floats, Floats]:
        """Log-likelihood (n,) and its slope by individual parameters on their transformed scales, (n, columns)."""
        made, d = self.design, self.d
        theta = made.theta(h[:d], h[d + self.spreads :], b)
        loglik, grad, _ = loglik_and_gradient(theta, self.problem)
        with np.errstate(over="ignore", invalid="ignore"):  # an absurd proposal: rejected by its value
            return loglik, np.nan_to_num(grad * made.slope(theta), nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class Regression:
    """Patients' own values of one effect: ``X gamma + deviation``; ``columns`` are places of gamma in ``h``."""

    effect: int
    columns: NDArray[np.int64]
    matrix: Floats


def regressions(posterior: Posterior) -> list[Regression]:
    """For each random effect, the population values and product effects that shift it.

    Where every patient has one infusion, a product effect on an infusion's multiplier (fitness on rho, gate on tg,
    potency on KE) shifts the patient's own value just the same: the model knows only the product of the two.
    """
    problem, made = posterior.problem, posterior.design
    found = []
    for k, name in enumerate(problem.random):
        c = problem.column(name)
        if c is None:
            continue
        columns = [d for d in range(posterior.d) if made.by_population[:, c, d].any()]
        matrix = [made.by_population[:, c, d] for d in columns]
        for e, effect in enumerate(problem.effects):
            slot = problem.column(f"{effect.slot_field}_1")
            if effect.parameter == name and effect.slot_field is None:
                x = made.by_effect[:, c, e]
            elif effect.parameter == name and problem.slots == 1 and slot is not None:
                x = made.by_effect[:, slot, e]
            else:
                continue
            columns.append(posterior.d + posterior.spreads + e)
            matrix.append(x)
        found.append(Regression(k, np.array(columns, dtype=np.int64), np.array(matrix).reshape(-1, problem.n).T))
    return found


@dataclass(frozen=True)
class Round:
    """Draws of the deviations (draws, n, q) given a population, and the scores of the complete density there.

    ``by_deviation`` is (draws, n, q), ``by_hyper`` (draws, n, d).
    """

    draws: Floats
    by_deviation: Floats
    by_hyper: Floats


@dataclass
class Explorer:
    """Per-patient Hamiltonian Monte Carlo, all patients at once."""

    posterior: Posterior
    b: Floats
    mass_root: Floats
    step: Floats

    def round(self, h: Floats, draws: int, rng: np.random.Generator) -> Round:
        """Draws of the deviations, each patient's given ``h``; steps adapt."""
        n, q = self.b.shape
        kept, scores_b, scores_h = np.empty((draws, n, q)), np.empty((draws, n, q)), np.empty((draws, n, h.size))
        _, by_b, by_h = self.posterior.patients(h, self.b)
        density = self.posterior.conditional(h)
        loglik, slope = density.likelihood(self.b)
        for draw in range(draws):
            momentum = rng.standard_normal((n, q))
            step = self.step * rng.uniform(0.8, 1.2, n)
            x, p, new, s = density.trajectory(self.b, slope, momentum, step, self.mass_root, LEAPFROGS)
            error = density.energy_error((self.b, momentum, loglik), (x, p, new))
            chance = np.exp(np.minimum(-error, 0.0))
            taken = rng.uniform(size=n) < chance
            self.b = np.where(taken[:, None], x, self.b)
            loglik, slope = np.where(taken, new, loglik), np.where(taken[:, None], s, slope)
            _, by_b, by_h = self.posterior.patients(h, self.b)
            self.step = np.clip(self.step * np.exp(0.15 * (chance - 0.75)), 1e-3, 1.2)
            kept[draw], scores_b[draw], scores_h[draw] = self.b, by_b, by_h
        return Round(kept, scores_b, scores_h)

    def scatter(self, h: Floats, rng: np.random.Generator) -> None:
        """Put every patient at its most typical particle, unless all of them are far worse than where it is."""
        if not self.posterior.q:  # nothing differs between patients
            return
        density, sd = self.posterior.conditional(h), np.exp(h[self.posterior.log_sd])
        found = particles(density, sd, rng)
        best = np.fmax.reduce([density.value(b, density.loglik(b)) for b in found])
        worse = best + self.posterior.q < density.value(self.b, density.loglik(self.b))
        # in the mode with most of the mass: nearest to the median
        typical = np.abs((found - np.median(found, axis=0)) / sd).sum(axis=2).argmin(axis=0)
        self.b = np.where(worse[:, None], self.b, found[typical, np.arange(len(self.b))])
        self.learn_mass(found, sd)

    def learn_mass(self, draws: Floats, prior_sd: Floats) -> None:
        """Take the patients' covariances as inverse masses, shrunk towards a small multiple of the prior's."""
        count = draws.shape[0]
        centred = draws - draws.mean(axis=0)
        covariance = np.einsum("snq,snr->nqr", centred, centred) / count
        weight = count / (count + 5.0)
        diagonal = np.einsum("nqq->nq", covariance)
        target = np.einsum("nq,qr->nqr", np.maximum(diagonal, (0.02 * prior_sd) ** 2), np.eye(prior_sd.size))
        self.mass_root = np.linalg.cholesky(
            weight * covariance + (1.0 - weight) * target + 1e-8 * np.eye(prior_sd.size)
        )
        self.step = np.maximum(self.step, 0.1)


def _search(posterior: Posterior, h: Floats, b: Floats) -> tuple[Floats, Floats]:
    """L-BFGS over deviations and population; spreads and residual sds stay, for a joint mode drives them to zero."""
    held = np.concatenate([np.unique(posterior.log_sd), posterior.residual])
    free = np.setdiff1d(np.arange(h.size), held)

    def negative(x: Floats) -> tuple[float, Floats]:
        now = h.copy()
        now[free] = x[: free.size]
        value, by_b, by_h = posterior.patients(now, x[free.size :].reshape(b.shape))
        score = (now - posterior.prior_mean) / posterior.prior_sd
        total = value.sum() - 0.5 * float((score**2).sum())
        if not np.isfinite(total):
            return 1e10, np.zeros(x.size)
        slope = by_h.sum(axis=0) - score / posterior.prior_sd
        return -float(total), -np.concatenate([slope[free], by_b.ravel()])

    start = np.concatenate([h[free], b.ravel()])
    found = minimize(negative, start, jac=True, method="L-BFGS-B", options={"maxiter": SEARCH_STEPS, "maxcor": 30})
    result = h.copy()
    result[free] = found.x[: free.size]
    return result, found.x[free.size :].reshape(b.shape)


def _newton(posterior: Posterior, h: Floats, scores: Floats) -> Floats:
    """A step of the population on its marginal posterior, at most one posterior sd in any direction."""
    marginal = scores.mean(axis=0)
    precision = np.diag(posterior.prior_sd**-2)
    information = np.einsum("nd,ne->de", marginal, marginal) + precision
    slope = marginal.sum(axis=0) - precision @ (h - posterior.prior_mean)
    move = np.linalg.solve(information, slope)
    length = float(np.sqrt(move @ information @ move / h.size))
    return h + move * min(1.0, 1.0 / max(length, 1e-12))


def _sites(posterior: Posterior, h: Floats, found: Round) -> Sites:
    """Each patient's Gaussian site, from what was explored given a population, and its response to the population.

    The covariance of the deviations says how wide a patient's posterior is, that of their scores how sharp (it is the
    mean curvature); where the posterior is no Gaussian the two differ, and the site is their geometric mean. A
    population value that shifts the patient's own value, as its deviation does, has that deviation's curvature.
    """
    draws, log_sd = found.draws, posterior.log_sd
    count, _, q = draws.shape
    prior = np.exp(-2.0 * h[log_sd])
    unit = np.sqrt(prior)
    width = _shrunk_covariance(draws * unit)
    sharpness = _shrunk_covariance(found.by_deviation / unit)
    root, back = _powers(np.linalg.inv(width))
    total = root @ _powers(back @ sharpness @ back)[0] @ root
    values, vectors = np.linalg.eigh(total - np.eye(q))
    added = (vectors * np.maximum(values, SITE_FLOOR)[:, None, :]) @ vectors.transpose(0, 2, 1)
    precision = added * unit[:, None] * unit[None, :]
    total = precision + np.diag(prior)
    response = np.einsum("snq,snd->nqd", draws - draws.mean(axis=0), found.by_hyper - found.by_hyper.mean(axis=0))
    cross = -np.einsum("nqr,nrd->nqd", total, response / (count - 1))
    for model in regressions(posterior):
        cross[:, :, model.columns] = precision[:, :, model.effect, None] * model.matrix[:, None, :]
    cross[:, :, np.unique(log_sd)] = 0.0  # the spreads act through the prior's precision itself
    return Sites(precision, np.einsum("nqr,nr->nq", total, draws.mean(axis=0)), cross)


def _shrunk_covariance(draws: Floats) -> Floats:
    """Covariances (n, q, q) of draws (count, n, q), shrunk towards their diagonals."""
    count, _, q = draws.shape
    centred = draws - draws.mean(axis=0)
    covariance = np.einsum("snq,snr->nqr", centred, centred) / (count - 1)
    weight = count / (count + 2.0 * q)
    return np.asarray(weight * covariance + (1.0 - weight) * np.einsum("nqq,qr->nqr", covariance, np.eye(q)))


def _powers(matrices: Floats) -> tuple[Floats, Floats]:
    """Square roots of symmetric positive matrices (n, q, q), and their inverses."""
    values, vectors = np.linalg.eigh(matrices)
    root = np.sqrt(np.maximum(values, TINY))[:, None, :]
    return (vectors * root) @ vectors.transpose(0, 2, 1), (vectors / root) @ vectors.transpose(0, 2, 1)


def _whiten(raw: Coordinates, log_density: LogDensity, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Centre and scale of the population: averaged curvature in the new coordinates, one Newton step."""
    d, size = raw.layout.hyper.size, raw.layout.size
    target = raw.density(log_density)
    curvature, slope = np.zeros((d, d)), np.zeros(d)
    for _ in range(WHITENING_DRAWS):
        w = np.concatenate([np.zeros(d), rng.standard_normal(size - d)])
        for sign in (1.0, -1.0):
            at = w * sign
            slope += target(at)[1][:d]
            for k in range(d):
                e = np.zeros(size)
                e[k] = STEP
                curvature[:, k] -= (target(at + e)[1][:d] - target(at - e)[1][:d]) / (2 * STEP)
    curvature /= 2 * WHITENING_DRAWS
    values, vectors = np.linalg.eigh(0.5 * (curvature + curvature.T))
    positive = np.maximum(np.abs(values), 1e-2)
    move = (vectors / np.maximum(positive, 1.0)) @ (vectors.T @ slope) / (2 * WHITENING_DRAWS)
    largest = float(np.abs(vectors.T @ move * np.sqrt(positive)).max())
    return raw.centre + move * min(1.0, 1.0 / max(largest, 1e-12)), vectors / np.sqrt(positive)


def prepare(problem: Problem, log_density: LogDensity, layout: Layout, rng: np.random.Generator) -> Coordinates:
    """Find where to start and the coordinates in which to sample.

    Parameters
    ----------
    problem
        The posed cohort.
    log_density
        The statistical model: value and gradient at a flat vector of ``layout``.
    layout
        Of that vector; its population part is in the order of `Posterior`.
    rng
        For the exploration.

    Returns
    -------
    Coordinates
        In which the target is close to standard normal; sampling starts near 0.
    """
    posterior = Posterior(problem)
    h = posterior.prior_mean.copy()
    b = np.zeros((problem.n, posterior.q))
    h, b = _search(posterior, h, b)
    prior_sd = np.exp(h[posterior.log_sd])
    explorer = Explorer(posterior, b, np.tile(np.diag(0.2 * prior_sd), (problem.n, 1, 1)), np.full(problem.n, 0.3))
    explorer.scatter(h, rng)
    for _ in range(ROUNDS):
        found = explorer.round(h, ROUND_DRAWS, rng)
        h = _newton(posterior, h, found.by_hyper[ROUND_DRAWS // 3 :])
        explorer.learn_mass(found.draws[ROUND_DRAWS // 3 :], np.exp(h[posterior.log_sd]))
    explorer.scatter(h, rng)
    explorer.round(h, ROUND_DRAWS, rng)
    sites = _sites(posterior, h, explorer.round(h, LAST_DRAWS, rng))
    raw = Coordinates(layout, h, np.eye(h.size), sites)
    centre, scale = _whiten(raw, log_density, rng)
    sites = Sites(sites.precision, sites.linear - sites.cross @ (centre - h), sites.cross)
    return Coordinates(layout, centre, scale, sites)
