"""Hamiltonian Monte Carlo within Gibbs: every patient has a step size of its own.

NUTS has one step size for everyone, and the oddest patient of a cohort sets it. But given the population, patients are
independent. A sweep has four moves, each of which leaves the posterior invariant:

1. *Patients*: each takes a Hamiltonian trajectory of its deviations given the population, all in one kernel call, with
   its own step size and its own acceptance. Patients whose geometry allows only short steps take further ones. Then
   each jumps, by its own states of the warm-up (see `Archive`) or within its prior.
2. *Spread*: given every patient's own parameters (population value plus deviation), the likelihood no longer speaks:
   population values that vary between patients are a Gaussian regression (drawn exactly), the spreads omega one
   dimensional (Metropolis steps from a close approximation). This costs no solve.
3. *Shared*: population values that do not vary between patients take a Hamiltonian trajectory on which each patient's
   own values move along by their linear response (see `geometry`): the mean response moves the population values, the
   rest the deviations; a shear with unit Jacobian.
4. *Scale*: the logarithms of omega take a Hamiltonian trajectory on which each patient's deviations are scaled, the
   less the better its data inform them. With move 2 this mixes for well and for badly informed effects alike
   (interweaving of a sufficient and an ancillary augmentation, Yu & Meng 2011).

Patients and shared values take turns three times a sweep, for they hold each other; the rest once or after each turn.
The work grows linearly with the number of patients. Step sizes and masses adapt during warm-up only.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.lanes import WIDTH

from .archive import Archive, within_prior
from .coordinates import Coordinates, Floats, LogDensity
from .geometry import Posterior

#: Arrays by name, as they go to a file.
type State = Mapping[str, NDArray[Any]]

PATIENT_LEAPFROGS: Final = 5
PATIENT_LONGEST: Final = 0.45  # of a step, in units of a patient's site: a trajectory of about 2
SHARED_LEAPFROGS: Final = 4
SHARED_LONGEST: Final = 0.6
SCALE_LEAPFROGS: Final = 4
SCALE_LONGEST: Final = 0.5
TARGET: Final = 0.85  # acceptance
HARD: Final = 0.3  # patients with shorter steps take further trajectories
FURTHER: Final = 2
SPREAD_STEPS: Final = 3
JUMPS: Final = 2  # of each kind
DIVERGENT: Final = 1000.0  # energy error that counts as a divergence, as in Stan
CURVATURE_STEP: Final = 1e-3
ADAPTED: Final = ("steps", "shared_step", "scale_step")  # step sizes of a sampler


@dataclass
class DualAveraging:
    """Step sizes that settle at an acceptance (Hoffman & Gelman 2014, section 3.2); arrays adapt entry by entry."""

    step: Floats
    longest: float
    target: float = TARGET
    _mean: Floats = field(init=False)
    _error: Floats = field(init=False)
    _smooth: Floats = field(init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._mean = np.log(np.minimum(self.step * 2.0, self.longest))
        self._error, self._smooth = np.zeros_like(self.step), np.log(self.step)

    def update(self, chance: Floats) -> None:
        """Learn from an acceptance probability."""
        self._count += 1
        gain = 1.0 / (self._count + 10.0)
        self._error = (1.0 - gain) * self._error + gain * (self.target - chance)
        log_step = np.minimum(self._mean - np.sqrt(self._count) / 0.05 * self._error, np.log(self.longest))
        log_step = np.maximum(log_step, np.log(1e-4))
        weight = self._count**-0.75
        self._smooth = weight * log_step + (1.0 - weight) * self._smooth
        self.step = np.exp(log_step)

    def settle(self) -> None:
        """Take the averaged step sizes."""
        self.step = np.exp(self._smooth)


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
class Following:
    """What moves with the shared values: population values (moved, shared), patients' deviations (n, q, shared)."""

    population: Floats
    deviations: Floats


@dataclass
class Sampler:
    """One chain: population ``h``, deviations ``b``, and what it has learnt."""

    posterior: Posterior
    coordinates: Coordinates
    log_density: LogDensity
    rng: np.random.Generator
    h: Floats
    b: Floats
    steps: DualAveraging
    shared_step: DualAveraging
    scale_step: DualAveraging
    models: list[Regression] = field(init=False)
    carriers: Floats = field(init=False)
    freedom: Floats = field(init=False)
    archive: Archive | None = field(default=None, init=False)
    shared: NDArray[np.int64] = field(init=False)
    moved: NDArray[np.int64] = field(init=False)
    mass_root: Floats = field(init=False)
    _known: tuple[Floats, Floats] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.models = regressions(self.posterior)
        self.moved = np.concatenate([np.empty(0, dtype=np.int64), *(m.columns for m in self.models)])
        self.shared = np.setdiff1d(np.arange(self.h.size), np.concatenate([self.moved, self.posterior.log_sd]))
        self.carriers = np.zeros((*self.b.shape, self.moved.size))
        at = 0
        for model in self.models:
            self.carriers[:, model.effect, at : at + model.columns.size] = model.matrix
            at += model.columns.size
        self.mass_root = np.eye(self.shared.size)
        prior = np.exp(-2.0 * self.h[self.posterior.log_sd])
        covariance = np.linalg.inv(self.coordinates.sites.precision + np.diag(prior))
        self.freedom = np.clip(np.einsum("nqq->nq", covariance) * prior, 0.0, 1.0)

    # ------------------------------------------------------------------ state

    def state(self) -> State:
        """All that changes as the chain goes on, but for the archive, which is made of states that were visited."""
        generator = json.dumps(self.rng.bit_generator.state).encode()
        found: dict[str, NDArray[Any]] = {"rng": np.frombuffer(generator, dtype=np.uint8)}
        found |= {"h": self.h, "b": self.b, "mass": self.mass_root, "freedom": self.freedom}
        if self._known is not None:
            found["known"], found["known_slope"] = self._known
        for name in ADAPTED:
            adapted = getattr(self, name)
            found |= {f"{name}.{f.name}": np.asarray(getattr(adapted, f.name)) for f in fields(adapted)}
        return found

    def restore(self, state: State) -> None:
        """Go on from a `state`, bit for bit."""
        self.rng.bit_generator.state = json.loads(state["rng"].tobytes())
        self.h, self.b, self.mass_root, self.freedom = (state[k].copy() for k in ("h", "b", "mass", "freedom"))
        self._known = (state["known"].copy(), state["known_slope"].copy()) if "known" in state else None
        for name in ADAPTED:
            adapted = getattr(self, name)
            for f in fields(adapted):
                value = state[f"{name}.{f.name}"]
                setattr(adapted, f.name, value.copy() if value.ndim else value.item())

    # ------------------------------------------------------------------ patients

    def place(self, h: Floats, b: Floats) -> None:
        """Go to a state of which nothing is known yet."""
        self.h, self.b, self._known = h, b, None

    def _likelihood(self) -> tuple[Floats, Floats]:
        """Log-likelihood and slope where the chain stands."""
        if self._known is None:
            self._known = self.posterior.conditional(self.h).likelihood(self.b)
        return self._known

    def patients(
        self, tune: bool, further: NDArray[np.int64] | None = None, root: Floats | None = None
    ) -> tuple[Floats, int]:
        """A trajectory of every patient's deviations (or of some patients'), given the population."""
        n, _ = self.b.shape
        root = self.coordinates.roots(self.h) if root is None else root
        loglik, slope = self._likelihood()
        density = self.posterior.conditional(self.h, further)
        momentum = self.rng.standard_normal(self.b.shape)
        step = self.steps.step * self.rng.uniform(0.8, 1.2, n)
        y, p, new, new_slope = density.trajectory(self.b, slope, momentum, step, root, PATIENT_LEAPFROGS)
        error = density.energy_error((self.b, momentum, loglik), (y, p, new))
        chance = np.exp(np.minimum(-error, 0.0))
        accepted = self.rng.uniform(size=n) < chance
        if further is not None:
            mine = np.zeros(n, dtype=bool)
            mine[further] = True
            accepted &= mine
            error = np.where(mine, error, 0.0)
        self.b = np.where(accepted[:, None], y, self.b)
        self._known = np.where(accepted, new, loglik), np.where(accepted[:, None], new_slope, slope)
        if tune and further is None:
            self.steps.update(chance)
        return chance, int((error > DIVERGENT).sum())

    def jumps(self) -> None:
        """Metropolis steps of every patient that need no smooth path: along ridges, over plateaus, between modes."""
        if self.archive is None:
            return
        n = len(self.b)
        density = self.posterior.conditional(self.h)
        loglik, _ = self._likelihood()
        for propose in (self.archive.jump, self.archive.difference, within_prior) * JUMPS:
            proposal, ratio = propose(self.b, np.exp(self.h[self.posterior.log_sd]), self.rng)
            new = density.loglik(proposal)
            with np.errstate(over="ignore", invalid="ignore"):
                accepted = np.log(self.rng.uniform(size=n)) < new - loglik + ratio
            self.b = np.where(accepted[:, None], proposal, self.b)
            loglik = np.where(accepted, new, loglik)
        self._known = None

    # ------------------------------------------------------------------ spread

    def spread(self) -> None:
        """Population values and spreads of the random effects, given the patients' own values."""
        prior_mean, prior_sd = self.posterior.prior_mean, self.posterior.prior_sd
        for model in self.models:
            place = self.posterior.log_sd[model.effect]
            own = model.matrix @ self.h[model.columns] + self.b[:, model.effect]
            if model.columns.size:
                precision = np.exp(-2.0 * self.h[place])
                information = precision * model.matrix.T @ model.matrix + np.diag(prior_sd[model.columns] ** -2)
                linear = precision * model.matrix.T @ own + prior_mean[model.columns] / prior_sd[model.columns] ** 2
                root = np.linalg.cholesky(information)
                mean = np.linalg.solve(information, linear)
                noise = self.rng.standard_normal(model.columns.size)
                self.h[model.columns] = mean + np.linalg.solve(root.T, noise)
                self.b[:, model.effect] = own - model.matrix @ self.h[model.columns]
        for place in np.unique(self.posterior.log_sd):
            deviations = self.b[:, self.posterior.log_sd == place]
            self.h[place] = self._spread_of(
                float(self.h[place]), float((deviations**2).sum()), deviations.size, prior_mean[place], prior_sd[place]
            )

    def _spread_of(self, now: float, total: float, count: int, mean: float, sd: float) -> float:
        """Metropolis steps of a log-spread, proposed by Student's t around the mode."""

        def log_target(s: float) -> float:
            return -count * s - 0.5 * total * math.exp(min(-2.0 * s, 700.0)) - 0.5 * ((s - mean) / sd) ** 2

        mode = now
        bend = 1.0
        for _ in range(50):
            pull = total * math.exp(-2.0 * mode)
            slope, bend = -count + pull - (mode - mean) / sd**2, 2.0 * pull + 1.0 / sd**2
            move = max(-0.5, min(0.5, slope / bend))
            mode += move
            if abs(move) < 1e-8:
                break
        width = 1.1 / math.sqrt(bend)

        def log_proposal(s: float) -> float:
            return -3.0 * math.log1p(((s - mode) / width) ** 2 / 5.0)

        for _ in range(SPREAD_STEPS):
            new = mode + width * float(self.rng.standard_t(5.0))
            ratio = log_target(new) - log_target(now) + log_proposal(now) - log_proposal(new)
            if math.log(self.rng.uniform()) < ratio:
                now = new
        return now

    # ------------------------------------------------------------------ shared

    def _following(self) -> Following:
        """How everything else follows the shared values, were the posterior Gaussian around the sites.

        Patient ``i`` given the population: ``T_i b_i = -F_i shared - P_i X_i gamma`` with ``T_i = P_i + prior``. The
        population values gamma of the random effects, given the patients: ``sum_i X_i' prior b_i = prior of gamma``.
        """
        sites, moved = self.coordinates.sites, self.moved
        prior = np.exp(-2.0 * self.h[self.posterior.log_sd])
        total = sites.precision + np.diag(prior)
        by_shared = -np.linalg.solve(total, sites.cross[:, :, self.shared])
        by_moved = -np.linalg.solve(total, sites.precision @ self.carriers)
        pull = self.carriers * prior[:, None]
        inner = np.diag(self.posterior.prior_sd[moved] ** -2) - np.einsum("nqc,nqd->cd", pull, by_moved)
        population = np.linalg.solve(inner, np.einsum("nqc,nqs->cs", pull, by_shared))
        return Following(population, by_shared + by_moved @ population)

    def _sheared(self, delta: Floats, following: Following) -> tuple[Floats, Floats]:
        """The state after a step of the shared values."""
        h = self.h.copy()
        h[self.shared] += delta
        h[self.moved] += following.population @ delta
        return h, self.b + following.deviations @ delta

    def _shared_density(self, following: Following) -> Callable[[Floats], tuple[float, Floats]]:
        lay = self.coordinates.layout

        def evaluate(delta: Floats) -> tuple[float, Floats]:
            h, b = self._sheared(delta, following)
            x = np.empty(lay.size)
            x[lay.hyper], x[lay.block] = h, b
            value, gradient = self.log_density(x)
            g_h, g_b = gradient[lay.hyper], gradient[lay.block]
            slope = g_h[self.shared] + following.population.T @ g_h[self.moved]
            return value, slope + np.einsum("nqs,nq->s", following.deviations, g_b)

        return evaluate

    def learn_mass(self, states: list[tuple[Floats, Floats]]) -> None:
        """Mass of the shared move: its curvature, the median over states, for at one of them it may be absurd."""
        size = self.shared.size
        keep = self.h, self.b, self._known
        curvature = np.zeros((len(states), size, size))
        for at, (h, b) in enumerate(states):
            self.place(h, b)
            density = self._shared_density(self._following())
            for k in range(size):
                e = np.zeros(size)
                e[k] = CURVATURE_STEP * min(1.0, float(self.posterior.prior_sd[self.shared[k]]))
                up, down = density(e)[1], density(-e)[1]
                curvature[at, :, k] = (down - up) / (2.0 * e[k])
        self.h, self.b, self._known = keep
        typical = np.median(np.nan_to_num(curvature), axis=0)
        values, vectors = np.linalg.eigh(0.5 * (typical + typical.T))
        floor = 1.0 / float(self.posterior.prior_sd[self.shared].max()) ** 2
        self.mass_root = vectors / np.sqrt(np.maximum(np.abs(values), floor))

    def _trajectory(
        self, density: Callable[[Floats], tuple[float, Floats]], mass_root: Floats, adapt: DualAveraging, count: int
    ) -> tuple[Floats, float, float]:
        """A Hamiltonian trajectory from 0; returns its end, the acceptance probability and the energy error."""
        step = float(adapt.step[0]) * self.rng.uniform(0.5, 1.1)
        momentum: Any = self.rng.standard_normal(mass_root.shape[1])
        value, g = density(np.zeros(mass_root.shape[0]))
        delta: Any = np.zeros(mass_root.shape[0])
        p: Any = momentum
        v = value
        with np.errstate(over="ignore", invalid="ignore"):  # what runs away is rejected by its energy
            for _ in range(count):
                p = p + 0.5 * step * (mass_root.T @ g)
                delta = delta + step * (mass_root @ p)
                v, g = density(delta)
                if not np.isfinite(v):
                    break
                p = p + 0.5 * step * (mass_root.T @ g)
            error = value - 0.5 * float(momentum @ momentum) - v + 0.5 * float(p @ p)
        error = np.inf if np.isnan(error) else error
        return delta, float(np.exp(min(-error, 0.0))), error

    def move_shared(self, tune: bool) -> tuple[float, int]:
        """A trajectory of the shared values; the patients follow."""
        following = self._following()
        density = self._shared_density(following)
        delta, chance, error = self._trajectory(density, self.mass_root, self.shared_step, SHARED_LEAPFROGS)
        if self.rng.uniform() < chance:
            self.place(*self._sheared(delta, following))
        if tune:
            self.shared_step.update(np.array([chance]))
        return chance, int(error > DIVERGENT)

    def move_scale(self, tune: bool) -> tuple[float, int]:
        """A trajectory of the log-spreads; deviations are scaled as far as the prior rules them."""
        lay, log_sd = self.coordinates.layout, self.posterior.log_sd
        if log_sd.size == 0:  # nothing varies between patients
            return 1.0, 0
        places, index = np.unique(log_sd, return_inverse=True)
        jacobian = np.bincount(index, weights=self.freedom.sum(axis=0))

        def state(delta: Floats) -> tuple[Floats, Floats]:
            h = self.h.copy()
            h[places] += delta
            return h, self.b * np.exp(self.freedom * delta[index])

        def density(delta: Floats) -> tuple[float, Floats]:
            h, b = state(delta)
            x = np.empty(lay.size)
            x[lay.hyper], x[lay.block] = h, b
            value, gradient = self.log_density(x)
            by_scale = (gradient[lay.block] * b * self.freedom).sum(axis=0)
            slope = gradient[lay.hyper][places] + np.bincount(index, weights=by_scale) + jacobian
            return value + float(jacobian @ delta), slope

        width = np.diag(1.0 / np.sqrt(2.0 * self.b.shape[0] + self.posterior.prior_sd[places] ** -2))
        delta, chance, error = self._trajectory(density, width, self.scale_step, SCALE_LEAPFROGS)
        if self.rng.uniform() < chance:
            self.place(*state(delta))
        if tune:
            self.scale_step.update(np.array([chance]))
        return chance, int(error > DIVERGENT)

    def sweep(self, tune: bool) -> dict[str, float]:
        """All moves."""
        chance, divergent = self.patients(tune)
        self.spread()
        hard = np.flatnonzero(self.steps.step < HARD)
        worst = hard[np.argsort(self.steps.step[hard])][: 2 * WIDTH].astype(np.int64)
        if worst.size:
            root = self.coordinates.roots(self.h)
            for _ in range(FURTHER):
                divergent += self.patients(False, worst, root)[1]
        self.jumps()
        accepted, more = self.move_shared(tune)
        divergent += more + self.patients(tune)[1]
        self.spread()
        divergent += self.move_scale(tune)[1] + self.move_shared(tune)[1]
        divergent += self.patients(tune)[1]
        self.spread()
        divergent += self.move_shared(tune)[1]
        return {
            "diverging": float(divergent > 0),
            "divergent_trajectories": float(divergent),
            "trajectories": float(3 * self.b.shape[0] + FURTHER * worst.size + 4),
            "n_steps": float(3 * SHARED_LEAPFROGS + SCALE_LEAPFROGS + 3 * PATIENT_LEAPFROGS + 3 * JUMPS),
            "step_size": float(self.shared_step.step[0]),
            "mean_tree_accept": accepted,
            "patient_accept": float(chance.mean()),
            "smallest_patient_step": float(self.steps.step.min()),
        }
