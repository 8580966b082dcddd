"""Patients whom weights cannot leave out, for they pull the population too far: draws moved, or a fit without them.

*Moment matching* (Paananen, Piironen, Bürkner & Vehtari 2021, by arviz-stats): the draws of the population are shifted
and scaled, in the directions in which the patient pulls, until they resemble the population without the patient, and
weighted by the exact densities. The other patients' deviations move along, as `coordinates` has them; the left-out
patient's own are integrated out, so that the weights are those of a whole patient. *Refit*: what stays out of reach is
sampled without the patient's data.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from arviz_stats import loo, loo_moment_match
from arviz_stats.base import array_stats
from numpy.typing import NDArray
from scipy.special import logsumexp

from .comparison import TINY, in_halves, leave_one_out, points
from .coordinates import Coordinates, Sites
from .geometry import Posterior
from .likelihood_op import LogDensity
from .population import population_model
from .problem import Problem, several
from .proposals import SITE_FLOOR, Mixture, centres, coordinates_of, pairs
from .results import Draws, thinned
from .sampling import Settings, sample

type Floats = NDArray[np.float64]
#: Log-likelihood of one patient given a population, its deviations integrated out, and its relative variance.
type Integral = Callable[[Floats], tuple[float, float]]

MATCHED_DRAWS: Final = 1000
FEWEST_TO_MATCH: Final = 100  # draws
AIM: Final = 0.5  # Pareto k at which matching stops
TRUSTED: Final = 0.55  # and up to which its result is trusted: above, it was still off (docs/criticism.md)
REFIT_DRAWS: Final = 400
INTEGRAL_DRAWS: Final = 32
DIRECTIONS: Final = 2  # in which draws of the population are moved: more would add noise, not agreement
MOST_RHAT: Final = 1.05  # of a refit's population values: enough for a mean over its draws


@dataclass(frozen=True)
class Outcome:
    """What leaving one patient out gave.

    Attributes
    ----------
    elpd, mcse
        Log predictive density of the patient given the others, and its Monte Carlo standard error.
    pareto_k
        Of the weights; NaN for a refit, which has none.
    how
        ``more draws`` (of the same fit than at first), ``moment matching`` or ``refit``.
    rhat
        Largest of a refit's population values; NaN elsewhere.
    """

    elpd: float
    mcse: float
    pareto_k: float
    how: str
    rhat: float = float("nan")

    @property
    def good(self) -> bool:
        """Whether it is to be trusted."""
        return self.rhat < MOST_RHAT if self.how == "refit" else self.pareto_k <= TRUSTED

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


class OnePatient:
    """The integral of one patient: the same patient many times over, so that one call of the kernel takes many draws.

    Parameters
    ----------
    problem
        The cohort.
    coordinates, mixture
        To propose the patient's deviations from.
    patient
        Its place in the cohort.
    rng
        Of the quasi-random points.
    copies
        Draws of an integral, in two halves.
    """

    def __init__(
        self,
        problem: Problem,
        coordinates: Coordinates,
        mixture: Mixture,
        patient: int,
        rng: np.random.Generator,
        copies: int = INTEGRAL_DRAWS,
    ) -> None:
        self.rng, self.copies = rng, copies
        rows = np.full(copies, patient)
        self.posterior = Posterior(several(problem, rows))
        sites = coordinates.sites
        self.coordinates = Coordinates(
            coordinates.layout,
            coordinates.centre,
            coordinates.scale,
            Sites(sites.precision[rows], sites.linear[rows], sites.cross[rows]),
        )
        self.mixture = mixture.of(rows)

    def __call__(self, h: Floats) -> tuple[float, float]:
        """Log-likelihood of the patient given a population, and its relative variance."""
        mean, root = centres(self.coordinates, h)
        n, q = mean.shape
        shift = np.repeat(self.rng.uniform(size=(2, self.mixture.inputs)), n // 2, axis=0)
        z = self.mixture.draw(
            np.clip((np.tile(points(self.mixture.inputs, n // 2), (2, 1)) + shift) % 1.0, TINY, 1 - TINY)
        )
        b = mean + np.einsum("nqr,nr->nq", root, z)
        density = self.posterior.conditional(h)
        # `value` leaves out the constant of the normal prior
        weights = density.value(b, density.loglik(b)) - 0.5 * q * np.log(2.0 * np.pi)
        weights += np.linalg.slogdet(root)[1] - self.mixture.log_density(z)
        loglik, variance = in_halves(np.where(np.isnan(weights), -np.inf, weights).reshape(2, -1, 1))
        return float(loglik[0]), float(variance[0])


def without(problem: Problem, patient: int) -> Problem:
    """The cohort with one patient's data withheld: its deviations are then those of the prior, and say nothing."""
    n_ob = problem.n_ob.copy()
    n_ob[patient] = 0
    return replace(problem, n_ob=n_ob)


def match_moments(
    posterior: Posterior,
    coordinates: Coordinates,
    draws: Draws,
    patient: int,
    integral: Integral,
    *,
    count: int = MATCHED_DRAWS,
) -> Outcome:
    """Leave one patient out by moment matching.

    The draws are those of population values and of the *other* patients' deviations, whose density needs no integral;
    the patient itself enters by its integrated likelihood, which the target does without.

    Parameters
    ----------
    posterior, coordinates, draws
        Of the fit; coordinates from `proposals.coordinates_of`.
    patient
        Its place in the cohort.
    integral
        The patient's integrated likelihood (`OnePatient`).
    count
        Draws to move, evenly spaced over the posterior.
    """
    joint = _Joint(posterior, coordinates, draws, patient, integral, count)
    if joint.u.shape[0] < FEWEST_TO_MATCH:
        return Outcome(float("nan"), float("nan"), float("inf"), "moment matching")
    dims, shape = ("chain", "draw"), (1, joint.u.shape[0])
    loglik, _ = joint(np.zeros((joint.u.shape[0], 0)))
    joint.turn(pulls(joint.u, loglik))
    start = joint.u @ joint.basis
    upars = xr.DataArray(start[None], dims=(*dims, "coordinate"))
    with warnings.catch_warnings():  # what they say is returned as a number, the shape
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        tree = xr.DataTree.from_dict(
            {
                "/posterior": xr.Dataset({"u": upars}),
                "/log_likelihood": xr.Dataset({"y": ((*dims, "subject"), loglik.reshape(*shape, 1))}),
            }
        )
        first: Any = loo(tree, pointwise=True, reff=1.0)
        if float(first.pareto_k.item()) <= AIM:  # more draws than at first, and enough
            left = leave_one_out(loglik[:, None])
            return Outcome(float(left.elpd[0]), float(left.mcse[0]), float(left.pareto_k[0]), "more draws")
        found: Any = loo_moment_match(
            tree,
            first,
            log_prob_upars_fn=lambda u: xr.DataArray(joint(u.to_numpy()[0])[1].reshape(shape), dims=dims),
            log_lik_i_upars_fn=lambda u, _: xr.DataArray(joint(u.to_numpy()[0])[0].reshape(shape), dims=dims),
            upars=upars,
            reff=1.0,
            k_threshold=AIM,
            pointwise=True,
        )
    effective = np.nan if found.n_eff_i is None else float(found.n_eff_i.item())
    return Outcome(
        elpd=float(found.elpd_i.item()),
        mcse=float(1.0 / np.sqrt(effective)) if effective > 0 else float("nan"),
        pareto_k=float(found.pareto_k.item()),
        how="moment matching",
    )


def pulls(u: Floats, loglik: Floats) -> Floats:
    """Orthonormal directions (d, k) in which a patient pulls the population: the slope of its likelihood, and the rest.

    Were the likelihood log-linear, the population without the patient would be shifted along its slope alone. What the
    weighted mean of the draws shows beside it comes second.
    """
    centred = u - u.mean(axis=0)
    slope = np.linalg.solve(centred.T @ centred + np.eye(u.shape[1]), centred.T @ (loglik - loglik.mean()))
    weights = np.exp(loglik.min() - loglik)
    shift = weights @ centred / weights.sum()
    basis, _ = np.linalg.qr(np.stack([slope, shift], axis=1))
    return np.asarray(basis[:, :DIRECTIONS])


class _Joint:
    """The patient's integrated log-likelihood and the joint log density, at moved population values."""

    def __init__(
        self,
        posterior: Posterior,
        coordinates: Coordinates,
        draws: Draws,
        patient: int,
        integral: Integral,
        count: int,
    ) -> None:
        self.posterior, self.coordinates, self.patient, self.integral = posterior, coordinates, patient, integral
        lay = coordinates.layout
        self.d = lay.hyper.size
        flat = np.empty(lay.size)
        states = []
        for h, b in zip(*pairs(draws, count), strict=True):
            flat[lay.hyper], flat[lay.block] = h, b
            states.append(coordinates.contract(flat))
        self.u, self.z = np.array(states)[:, : self.d], np.array(states)[:, self.d :]
        self.basis = np.zeros((self.d, 0))
        self._last: tuple[bytes, tuple[Floats, Floats]] = (b"", (np.empty(0), np.empty(0)))

    def turn(self, basis: Floats) -> None:
        """From now on, population coordinates are moved along the columns of a basis (d, k) alone."""
        self.basis = basis

    def __call__(self, moved: Floats) -> tuple[Floats, Floats]:
        """Both at places (draws, k) along the basis; all else is that of the row's own draw."""
        key = moved.tobytes()
        if self._last[0] != key or key == b"":
            # a split moves half of the draws and keeps the order, so a row still belongs to its own deviations
            u = self.u + (moved - self.u @ self.basis) @ self.basis.T
            found = np.array([self._one(*row) for row in zip(u, self.z, strict=True)])
            self._last = key, (found[:, 0], found[:, 1])
        return self._last[1]

    def _one(self, u: Floats, z: Floats) -> tuple[float, float]:
        post, lay = self.posterior, self.coordinates.layout
        x, logdet = self.coordinates.expand(np.concatenate([u, z]))
        h, b = x[lay.hyper], x[lay.block]
        density = post.conditional(h)
        each = density.value(b, density.loglik(b))
        others = float(each.sum() - each[self.patient])
        # the patient's own deviations are integrated out: their share of the Jacobian goes with them
        logdet -= float(np.linalg.slogdet(self.coordinates.roots(h)[self.patient])[1])
        prior = -0.5 * float((((h - post.prior_mean) / post.prior_sd) ** 2).sum())
        loglik, _ = self.integral(h)
        total = others + prior + logdet + loglik
        return (loglik, total) if np.isfinite(total) else (0.0, -np.inf)


def refit(
    problem: Problem,
    draws: Draws,
    patient: int,
    *,
    settings: Settings,
    cores: int = 2,
    tick: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Leave one patient out by sampling without its data.

    Parameters
    ----------
    problem, draws
        Of the fit, which spares the exploration.
    patient
        Its place in the cohort.
    settings
        How to sample.
    cores
        Chains at a time.
    tick
        Told of steps done, `Settings.steps` of each chain.
    """
    fewer = without(problem, patient)
    coordinates = coordinates_of(Posterior(problem), draws)
    mixture = Mixture.learn(coordinates, *pairs(draws), np.random.default_rng([settings.seed, 4]))
    sampled = sample(
        fewer,
        LogDensity(population_model(fewer)),
        blind(coordinates, patient),
        settings,
        cores=cores,
        tick=tick,
    )
    found = Draws(fewer, np.asarray(sampled["x"].transpose("chain", "draw", "coordinate").to_numpy()))
    integral = OnePatient(problem, coordinates, mixture, patient, np.random.default_rng([settings.seed, 5]))
    loglik = np.array([integral(found.hyper(c, k))[0] for c, k in thinned(found, REFIT_DRAWS)])
    elpd = float(logsumexp(loglik) - np.log(loglik.size))
    values = np.concatenate([found.population, found.log_omega, found.effect], axis=-1)
    apart = np.expm1(np.clip(loglik - elpd, -700.0, 700.0))
    return Outcome(
        elpd=elpd,
        mcse=float(np.sqrt((apart**2).sum()) / loglik.size),
        pareto_k=float("nan"),
        how="refit",
        rhat=float(np.max(array_stats.rhat(np.moveaxis(values, -1, 0), method="rank"))),
    )


def blind(coordinates: Coordinates, patient: int) -> Coordinates:
    """Coordinates in which one patient's data say next to nothing."""
    sites = coordinates.sites
    prior = np.exp(-2.0 * coordinates.centre[coordinates.layout.log_sd])
    precision, linear, cross = sites.precision.copy(), sites.linear.copy(), sites.cross.copy()
    precision[patient], linear[patient], cross[patient] = np.diag(SITE_FLOOR * prior), 0.0, 0.0
    return Coordinates(coordinates.layout, coordinates.centre, coordinates.scale, Sites(precision, linear, cross))
