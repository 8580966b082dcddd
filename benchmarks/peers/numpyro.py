"""The statistical model of a fit in numpyro, its equations solved by diffrax: the same priors, effects and records.

Written from `fits.population` and `fits.assays`, not by calling them: what is shared is the table of priors, the
individual parameters' design (numbers only) and the graph of the equations, which is walked node by node as in
`peers.diffrax`. Values and gradients of patients are made together in one solve (a custom derivative rule), in groups
by `vmap`; the population around them is numpyro's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import potential_energy
from system import after_infusion, walk

from reinfuse.fits.population import design, estimated, prior_location
from reinfuse.fits.problem import Problem
from reinfuse.model.densities import DENSITIES, Family
from reinfuse.model.derive.algebra import Graph, Node
from reinfuse.model.derive.trace import Needed, Trace, prune
from reinfuse.model.equations import bcma

from .diffrax import OPERATIONS
from .interface import Floats

ASSESSED = bcma.EARLY  # d, from when on the hazard of progression counts
FARTHEST = 150.0  # logarithms of cells; their cubes stay finite
SAFE = OPERATIONS | {"exp": lambda a: jnp.exp(jnp.clip(a, -2.0 * FARTHEST, 2.0 * FARTHEST))}
PARAMETRISATIONS = {"centred": (), "non-centred": ("eta",)}


@dataclass(frozen=True)
class Solver:
    """How diffrax solves and differentiates.

    Attributes
    ----------
    adjoint
        ``checkpointed``, ``direct`` (reverse mode, steps kept) or ``forward``.
    tolerance
        Relative and absolute, by state as ours.
    width
        Patients solved in step by `vmap`; groups follow each other.
    max_steps
        Of a trajectory.
    checkpoints
        Of the checkpointed adjoint; None: diffrax chooses.
    """

    adjoint: str = "checkpointed"
    tolerance: float = 1e-4
    width: int = 4
    max_steps: int = 1024
    checkpoints: int | None = None

    def made(self) -> Any:
        """The adjoint of diffrax."""
        if self.adjoint == "checkpointed":
            return dfx.RecursiveCheckpointAdjoint(checkpoints=self.checkpoints)
        return {"direct": dfx.DirectAdjoint, "forward": dfx.ForwardMode}[self.adjoint]()


@dataclass(frozen=True, eq=False)
class Peer:
    """A posed cohort's posterior, for numpyro.

    Attributes
    ----------
    problem
        From `fits.problem.pose`: every patient with one infusion.
    solver
        How its equations are solved.
    """

    problem: Problem
    solver: Solver

    def __post_init__(self) -> None:
        if self.problem.slots != 1:
            raise ValueError(f"patients have up to {self.problem.slots} infusions; pose first infusions only")

    @cached_property
    def needed(self) -> Needed:
        """The equations, pruned to what the records need."""
        model = bcma.build(1, bcma.OPTIONS["real"])
        return prune(Trace(model, self.problem.fixed), self.problem.kernel.kinds, ())

    @cached_property
    def linear(self) -> np.ndarray:
        """(states,) which states are not logarithms."""
        return np.array([not self.needed.model.state(s).log for s in self.needed.states])

    @cached_property
    def densities(self) -> list[tuple[int, Family, Node]]:
        """(kind, family, log density by ``location``, ``scale`` and ``value``) of the records that there are."""
        graph = Graph()
        leaves = [graph.leaf(name) for name in ("location", "scale", "value")]
        problem = self.problem
        there = np.arange(problem.ob_kind.shape[1]) < problem.n_ob[:, None]
        pairs = sorted(set(zip(problem.ob_kind[there].tolist(), problem.ob_family[there].tolist(), strict=True)))
        return [(kind, Family(family), DENSITIES[Family(family)](*leaves)) for kind, family in pairs]

    def patient(self, theta: Any, days: Any, kind: Any, family: Any, value: Any, count: Any) -> Any:
        """Log-likelihood of one patient: ``theta`` (columns,), records (M,) of which ``count`` count."""
        needed, solver = self.needed, self.solver
        parameters = {f"p.{name}": theta[k] for k, name in enumerate(self.problem.kernel.parameters)}
        begin = after_infusion(needed, parameters, SAFE)
        start = jnp.stack([jnp.asarray(begin[f"y.{s}"], float) for s in needed.states])
        given = [jnp.asarray(c, float) for c in walk(needed.coefficients, parameters | begin, SAFE)]
        last = days[count - 1]
        real = jnp.arange(days.size) < count
        times = jnp.where(real, days, last)
        controller = dfx.PIDController(
            rtol=jnp.where(self.linear, solver.tolerance, 0.0), atol=solver.tolerance, pcoeff=0.3, icoeff=0.4
        )
        saved = [dfx.SubSaveAt(ts=times), dfx.SubSaveAt(ts=jnp.minimum(ASSESSED, last)[None])]
        solution = dfx.diffeqsolve(
            dfx.ODETerm(self.rates), dfx.Tsit5(), 0.0, last, 0.02, start, jnp.stack(given),
            saveat=dfx.SaveAt(subs=saved), stepsize_controller=controller, adjoint=solver.made(),
            max_steps=solver.max_steps, throw=False,
        )  # fmt: skip
        ys, at_assessment = solution.ys
        symbols = parameters | begin | {"t": times} | {f"y.{s}": ys[:, i] for i, s in enumerate(needed.states)}
        if "H" in needed.states:
            h = needed.states.index("H")
            symbols["y.H"] = ys[:, h] - jnp.where(times >= ASSESSED, at_assessment[0, h], 0.0)
        total = jnp.zeros(())
        for code, family_code, node in self.densities:
            mine = real & (kind == code) & (family == int(family_code))
            name = self.problem.kernel.kinds[code]
            location, scale = walk(needed.observations[name], symbols, SAFE)
            # of other records the density is taken at a harmless place, or its slope would not be a number
            safe = {"location": jnp.where(mine, location, 0.0), "scale": jnp.where(mine, scale, 1.0)}
            density = walk([node], safe | {"value": jnp.where(mine, value, 0.0)}, SAFE)[0]
            total = total + jnp.sum(jnp.where(mine, density, 0.0))
        return jnp.where(solution.result == dfx.RESULTS.successful, total, -jnp.inf)

    def rates(self, t: Any, y: Any, c: Any) -> Any:
        """The right-hand side of one patient.

        Kept where no trajectory leaves, as exponents are: a trial step that overflows is rejected, but its derivative
        is 0 times infinity, which is no number.
        """
        y = jnp.where(self.linear, y, jnp.clip(y, -FARTHEST, FARTHEST))
        symbols = {f"y.{s}": y[i] for i, s in enumerate(self.needed.states)} | {"t": t}
        symbols |= {f"c.{k}": c[k] for k in range(len(self.needed.coefficients))}
        return jnp.stack([jnp.asarray(v, float) for v in walk(self.needed.rates, symbols, SAFE)])

    @cached_property
    def moving(self) -> np.ndarray:
        """Columns of theta that anything sampled moves."""
        made = design(self.problem)
        parts = (made.by_population, made.by_effect, made.by_deviation)
        return np.flatnonzero(sum(np.abs(part).sum(axis=(0, 2)) for part in parts))

    def slopes(self) -> Callable[..., Any]:
        """``f(theta, *records) -> value, gradient`` of one patient by the columns that move."""

        def split(free: Any, theta: Any, *records: Any) -> Any:
            value = self.patient(theta.at[self.moving].set(free), *records)
            return value, value

        if self.solver.adjoint == "forward":

            def both(theta: Any, *records: Any) -> Any:
                gradient, value = jax.jacfwd(split, has_aux=True)(theta[self.moving], theta, *records)
                return value, jnp.zeros_like(theta).at[self.moving].set(gradient)

        else:

            def both(theta: Any, *records: Any) -> Any:
                (value, _), gradient = jax.value_and_grad(split, has_aux=True)(theta[self.moving], theta, *records)
                return value, jnp.zeros_like(theta).at[self.moving].set(gradient)

        return both

    def everyone(self) -> Callable[[Any], Any]:
        """``f(theta) -> (n,)`` log-likelihoods, whose pullback is a product: the gradient is made with the value."""
        problem = self.problem
        width = min(self.solver.width, problem.n)
        groups = -(-problem.n // width)
        rows = problem.order[np.minimum(np.arange(groups * width), problem.n - 1)].reshape(groups, width)
        names = ("ob_time", "ob_kind", "ob_family", "ob_value", "n_ob")
        records = [jnp.asarray(getattr(problem, name)[rows]) for name in names]
        back = np.empty(problem.n, dtype=np.int64)
        back[problem.order] = np.arange(problem.n)
        together = jax.vmap(self.slopes())
        alone = jax.vmap(self.patient)

        def mapped(function: Any, theta: Any) -> Any:
            found = jax.lax.map(lambda group: function(*group), (theta[rows], *records))
            return jax.tree.map(lambda a: a.reshape(groups * width, *a.shape[2:])[back], found)

        @jax.custom_vjp
        def loglik(theta: Any) -> Any:
            return mapped(alone, theta)

        def forward(theta: Any) -> Any:
            return mapped(together, theta)

        def backward(gradient: Any, cotangent: Any) -> Any:
            return (cotangent[:, None] * gradient,)

        loglik.defvjp(forward, backward)
        return loglik

    def model(self, parametrisation: str = "centred") -> Callable[[], None]:
        """The numpyro model; sites ``population``, ``omega``, ``product_effect``, ``eta`` on transformed scales."""
        problem, made, loglik = self.problem, design(self.problem), self.everyone()
        n, q = problem.n, len(problem.random)
        spread = [problem.population[name] for name in problem.random]
        priors = {name: (jnp.asarray(mean), jnp.asarray(sd)) for name, (mean, sd) in self.scales.items()}
        middle, width = (jnp.log(jnp.array([r.iiv for r in spread])), jnp.array([r.iiv_log_sd for r in spread]))
        by_population, by_effect, by_deviation = map(
            jnp.asarray, (made.by_population, made.by_effect, made.by_deviation)
        )

        def hierarchy() -> None:
            population = numpyro.sample("population", dist.Normal(*priors["population"]).to_event(1))
            omega = numpyro.sample("omega", dist.LogNormal(middle, width).to_event(1))
            x = made.offset + by_population @ population
            if problem.effects:
                effect = numpyro.sample("product_effect", dist.Normal(*priors["product_effect"]).to_event(1))
                x = x + by_effect @ effect
            eta = numpyro.sample("eta", dist.Normal(jnp.zeros((n, q)), omega).to_event(2))
            x = x + jnp.einsum("ncq,nq->nc", by_deviation, eta)
            theta = jnp.where(made.log, jnp.exp(jnp.where(made.log, x, 0.0)), x)
            theta = jnp.where(made.logit, jax.nn.sigmoid(x), theta)
            numpyro.factor("loglik", loglik(theta).sum())

        standardised = {name: LocScaleReparam(0.0) for name in self._standardised(parametrisation)}
        return reparam(hierarchy, config=standardised)

    def _standardised(self, parametrisation: str) -> tuple[str, ...]:
        """Sites that numpyro samples as deviations from their means in units of their sds."""
        effects = ("product_effect",) if self.problem.effects else ()
        return ("population", *effects, *PARAMETRISATIONS[parametrisation])

    @cached_property
    def scales(self) -> dict[str, tuple[Floats, Floats]]:
        """Prior means and sds of population values and product effects."""
        labels, effects = estimated(self.problem), self.problem.effects
        return {
            "population": (
                np.array([prior_location(self.problem, label) for label in labels]),
                np.array([self.problem.population[label].log_sd for label in labels]),
            ),
            "product_effect": (np.array([e.mean for e in effects]), np.array([e.sd for e in effects])),
        }

    def sites(self, x: Any, parametrisation: str) -> tuple[dict[str, Any], Any]:
        """A flat vector of `fits.population.population_model` as numpyro's unconstrained values, and ln |dx/dz|."""
        d, q, e, n = (
            len(self.scales["population"][0]),
            len(self.problem.random),
            len(self.problem.effects),
            self.problem.n,
        )
        parts = {"population": x[:d], "product_effect": x[d + q : d + q + e]}
        log_omega, eta = x[d : d + q], x[d + q + e :].reshape(n, q)
        values: dict[str, Any] = {"omega": log_omega}
        log_jacobian = 0.0
        for name, part in parts.items():
            mean, sd = self.scales[name]
            if mean.size:
                values[f"{name}_decentered"] = (part - mean) / sd
                log_jacobian = log_jacobian + np.log(sd).sum()
        if "eta" in PARAMETRISATIONS[parametrisation]:
            values["eta_decentered"] = eta * jnp.exp(-log_omega)
            log_jacobian = log_jacobian + n * log_omega.sum()
        else:
            values["eta"] = eta
        return values, log_jacobian

    def flat(self, sites: dict[str, Any]) -> Floats:
        """Draws of numpyro's unconstrained values (..., shape) as flat vectors (..., coordinates)."""
        log_omega = np.asarray(sites["omega"])
        if "eta_decentered" in sites:
            eta = np.asarray(sites["eta_decentered"]) * np.exp(log_omega)[..., None, :]
        else:
            eta = np.asarray(sites["eta"])
        parts = {
            name: mean + sd * np.asarray(sites[f"{name}_decentered"])
            for name, (mean, sd) in self.scales.items()
            if mean.size
        }
        effects = [parts["product_effect"]] if "product_effect" in parts else []
        return np.concatenate([parts["population"], log_omega, *effects, eta.reshape(*eta.shape[:-2], -1)], axis=-1)

    def log_density(self, parametrisation: str = "non-centred") -> Callable[[Any], Any]:
        """``f(x)``: what this numpyro model says of a flat vector of `fits.population.population_model`."""
        model = self.model(parametrisation)

        def density(x: Any) -> Any:
            values, log_jacobian = self.sites(x, parametrisation)
            return -potential_energy(model, (), {}, values) - log_jacobian

        return density


def evaluated(peer: Peer, parametrisation: str, at: Floats) -> tuple[Floats, Floats]:
    """Log densities and gradients at flat vectors."""
    function = jax.jit(jax.value_and_grad(peer.log_density(parametrisation)))
    found = [function(jnp.asarray(x)) for x in at]
    return np.array([float(value) for value, _ in found]), np.array([np.asarray(slope) for _, slope in found])
