"""A hierarchical model whose posterior is known: what the samplers of `reinfuse.fits` see, without any kernel.

Patient ``i`` has own values ``p1 + group_i * effect + b_i1`` and ``p2 + b_i2``, and two measurements

    y_ik ~ N(own_ik + (s1 * u_i + s2 * v_i) * c_k, tau_ik^2),        b_ik ~ N(0, omega_k^2).

Given the spreads omega everything is Gaussian; the two log-spreads are summed over a fine grid.
"""

from types import SimpleNamespace

import numpy as np

from reinfuse.fits.conditional import Conditional
from reinfuse.fits.coordinates import Coordinates, Layout, Sites
from reinfuse.fits.joint import Joint

LABELS = ("p1", "p2", "s1", "s2")
D, SPREADS, Q = len(LABELS), 2, 2
H = D + SPREADS + 1
P1, P2, S1, S2, LOG_1, LOG_2, EFFECT = range(H)
LOADING = np.array([1.0, -0.7])
MEAN_COLUMNS = [P1, P2, S1, S2, EFFECT]
GRID = 160


class GaussianModel:
    """Stands in for `geometry.Posterior` and for the log density of the whole."""

    def __init__(self, n: int = 9, seed: int = 4, narrow: float | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.d, self.e, self.spreads, self.q = n, D, 1, SPREADS, Q
        self.group = (np.arange(n) % 3 == 0).astype(float)
        self.covariates = rng.standard_normal((n, 2))
        self.tau = rng.uniform(0.3, 0.8, (n, Q))
        if narrow is not None:  # a patient whose measurements say far more than the others'
            self.tau[1] = narrow
        self.log_sd = np.array([LOG_1, LOG_2], dtype=np.int64)
        self.prior_mean = np.array([0.2, -0.1, 0.0, 0.3, np.log(0.4), np.log(0.7), 0.1])
        self.prior_sd = np.array([0.6, 0.8, 0.5, 0.4, 0.4, 0.3, 0.5])
        truth = np.array([0.5, 0.3, -0.4, 0.5, np.log(0.5), np.log(0.6), 0.6])
        own = rng.standard_normal((n, Q)) * np.exp(truth[self.log_sd])
        self.y = self.location(truth, own) + self.tau * rng.standard_normal((n, Q))
        columns = ("p1", "p2", "s1", "s2")
        self.problem = SimpleNamespace(
            n=n,
            slots=1,
            random=("p1", "p2"),
            effects=(SimpleNamespace(parameter="p1", slot_field=None, product="B"),),
            column=lambda name: columns.index(name) if name in columns else None,
        )
        by_population = np.zeros((n, 4, D))
        for k in range(D):
            by_population[:, k, k] = 1.0
        by_effect = np.zeros((n, 4, 1))
        by_effect[:, 0, 0] = self.group
        self.design = SimpleNamespace(by_population=by_population, by_effect=by_effect)
        self.outcomes = np.zeros(3, dtype=np.int64)  # of a solver; nothing is solved here
        self.layout = Layout(np.arange(H), H + np.arange(n * Q).reshape(n, Q), self.log_sd)

    # ---------------------------------------------------------------- the model

    def location(self, h: np.ndarray, b: np.ndarray) -> np.ndarray:
        own = np.stack([h[P1] + self.group * h[EFFECT] + b[:, 0], h[P2] + b[:, 1]], axis=1)
        return own + (self.covariates @ h[[S1, S2]])[:, None] * LOADING

    def loglik(self, h: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each patient's measurements, and its slope by their location."""
        z = (self.y - self.location(h, b)) / self.tau
        value = (-0.5 * z**2 - np.log(self.tau) - 0.5 * np.log(2.0 * np.pi)).sum(axis=1)
        return value, z / self.tau

    def conditional(self, h, order=None):
        mine = np.ones(self.n) if order is None else np.isin(np.arange(self.n), order).astype(float)

        def likelihood(b):
            value, slope = self.loglik(h, b)
            return mine * value, mine[:, None] * slope

        return Conditional(likelihood, h[self.log_sd], self.n)

    def likelihood(self, h, b):
        value, slope = self.loglik(h, b)
        return value, slope, self._by_h(slope)

    def joint(self, coordinates):
        return Joint(self, coordinates)

    def _by_h(self, slope: np.ndarray) -> np.ndarray:
        by_h = np.zeros(H)
        by_h[[P1, P2]] = slope.sum(axis=0)
        by_h[EFFECT] = self.group @ slope[:, 0]
        by_h[[S1, S2]] = self.covariates.T @ (slope @ LOADING)
        return by_h

    def log_density(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        h, b = x[self.layout.hyper], x[self.layout.block]
        precision = np.exp(-2.0 * h[self.log_sd])
        loglik, slope = self.loglik(h, b)
        score = (h - self.prior_mean) / self.prior_sd
        value = loglik.sum() - 0.5 * (b * b * precision).sum() - self.n * h[self.log_sd].sum() - 0.5 * score @ score
        gradient = np.empty(x.size)
        by_h = self._by_h(slope) - score / self.prior_sd
        by_h[self.log_sd] += (b * b * precision - 1.0).sum(axis=0)
        gradient[self.layout.hyper], gradient[self.layout.block] = by_h, slope - b * precision
        return float(value), gradient

    def coordinates(self, seed: int = 8, wrong: float = 0.5) -> Coordinates:
        """Sites that are off by ``exp(+-wrong)``: samplers have to be right whatever their quality."""
        rng = np.random.default_rng(seed)
        n = self.n
        tau = np.maximum(self.tau, 0.3) * np.exp(wrong * rng.uniform(-1.0, 1.0, (n, Q)))
        precision = np.zeros((n, Q, Q))
        precision[:, 0, 0], precision[:, 1, 1] = tau[:, 0] ** -2, tau[:, 1] ** -2
        precision[:, 0, 1] = precision[:, 1, 0] = 0.3 * wrong / tau.prod(axis=1)
        by_h = np.zeros((n, Q, H))
        by_h[:, 0, P1] = by_h[:, 1, P2] = 1.0
        by_h[:, 0, EFFECT] = self.group
        by_h[:, :, [S1, S2]] = LOADING[:, None] * self.covariates[:, None, :]
        residual = self.y - self.location(self.prior_mean, np.zeros((n, Q)))
        cross = by_h * tau[:, :, None] ** -2 * np.exp(wrong * rng.uniform(-1.0, 1.0, by_h.shape))
        return Coordinates(
            self.layout, self.prior_mean, np.diag(0.5 * self.prior_sd), Sites(precision, residual * tau**-2, cross)
        )

    # ---------------------------------------------------------------- its posterior

    def _given_spreads(self, log_1: np.ndarray, log_2: np.ndarray):
        """Weights (unnormalised, log), means (..., 5) and covariances of the population values given the spreads."""
        design = np.zeros((2 * self.n, 5))
        design[: self.n, 0], design[self.n :, 1] = 1.0, 1.0
        design[: self.n, 4] = self.group
        for k in range(Q):
            design[k * self.n : (k + 1) * self.n, 2:4] = self.covariates * LOADING[k]
        y = self.y.T.ravel()
        spread = np.stack([np.exp(2 * log_1), np.exp(2 * log_2)], axis=-1)
        variance = np.repeat(spread, self.n, axis=-1) + (self.tau**2).T.ravel()
        mean, sd = self.prior_mean[MEAN_COLUMNS], self.prior_sd[MEAN_COLUMNS]
        information = np.einsum("jk,...j,jl->...kl", design, 1.0 / variance, design) + np.diag(sd**-2)
        linear = np.einsum("jk,...j->...k", design, y / variance) + mean / sd**2
        covariance = np.linalg.inv(information)
        centre = np.einsum("...kl,...l->...k", covariance, linear)
        log_weight = (
            -0.5 * np.log(variance).sum(axis=-1)
            - 0.5 * (y**2 / variance).sum(axis=-1)
            - 0.5 * np.linalg.slogdet(information)[1]
            + 0.5 * (linear * centre).sum(axis=-1)
        )
        for log_spread, place in ((log_1, LOG_1), (log_2, LOG_2)):
            log_weight = log_weight - 0.5 * ((log_spread - self.prior_mean[place]) / self.prior_sd[place]) ** 2
        return log_weight, centre, covariance

    def draw(self, count: int, rng: np.random.Generator, grid: int = GRID) -> tuple[np.ndarray, np.ndarray]:
        """Independent draws of the posterior: population (count, H) and deviations (count, n, Q)."""
        axes = [self.prior_mean[p] + self.prior_sd[p] * np.linspace(-5.0, 5.0, grid) for p in (LOG_1, LOG_2)]
        first, second = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
        log_weight, centre, covariance = self._given_spreads(first, second)
        weight = np.exp(log_weight - log_weight.max())
        cell = rng.choice(weight.size, size=count, p=weight / weight.sum())
        h = np.empty((count, H))
        width = [axis[1] - axis[0] for axis in axes]
        h[:, LOG_1] = first[cell] + width[0] * rng.uniform(-0.5, 0.5, count)
        h[:, LOG_2] = second[cell] + width[1] * rng.uniform(-0.5, 0.5, count)
        root = np.linalg.cholesky(covariance[cell])
        h[:, MEAN_COLUMNS] = centre[cell] + np.einsum("ckl,cl->ck", root, rng.standard_normal((count, 5)))
        own = np.zeros((count, self.n, Q))
        residual = np.stack([self.y - self.location(one, zero) for one, zero in zip(h, own, strict=True)])
        omega2 = np.exp(2.0 * h[:, None, [LOG_1, LOG_2]])
        share = omega2 / (omega2 + self.tau**2)
        own = share * residual + np.sqrt(share) * self.tau * rng.standard_normal(residual.shape)
        return h, own

    def marginal_loglik(self, h: np.ndarray) -> np.ndarray:
        """Of each patient's measurements given the population, deviations integrated out, (n,)."""
        variance = self.tau**2 + np.exp(2.0 * h[self.log_sd])
        residual = self.y - self.location(h, np.zeros((self.n, Q)))
        return (-0.5 * residual**2 / variance - 0.5 * np.log(2.0 * np.pi * variance)).sum(axis=1)
