"""Hamiltonian Monte Carlo in blocks: everything at once, and every patient with a step size of its own.

NUTS has one step size for everyone, and the oddest patient of a cohort sets it. But given the population, patients are
independent. A sweep has four moves, each of which leaves the posterior invariant:

1. *Joint*: a Hamiltonian trajectory of population and patients (see `joint`).
2. *Patients*: each takes a trajectory of its deviations given the population, with its own step size and its own
   acceptance, and where it is rejected a finer one. The few whose geometry allows only short steps take a long one
   besides, with steps of many sizes, for where a ridge bends or narrows still shorter ones are needed.
3. *Jumps*: each patient jumps by its own states of the warm-up (see `archive`), the more often the less often it gets
   away, and within its prior.
4. *Spread*: given every patient's own parameters (population value plus deviation), the likelihood no longer speaks:
   population values that vary between patients are a Gaussian regression (drawn exactly), the spreads omega one
   dimensional (Metropolis steps from a close approximation). This costs no solve.

The work grows linearly with the number of patients. Step sizes, scales and counts adapt during warm-up only.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.kernels.lanes import WIDTH

from .archive import Archive, independent, within_prior
from .conditional import Conditional
from .coordinates import Coordinates, Floats
from .geometry import Posterior, Regression, regressions
from .joint import Joint

#: Arrays by name, as they go to a file.
type State = Mapping[str, NDArray[Any]]
#: Deviations, momenta (n, q), log-likelihoods (n,) and their slopes (n, q): an end of trajectories.
type Leg = tuple[Floats, Floats, Floats, Floats]

PATIENT_LEAPFROGS: Final = 5
FINER: Final = 4.0  # times shorter are the steps of who rejects those
FINER_LEAPFROGS: Final = 10
LONG_LEAPFROGS: Final = 80  # of slow patients
PER_LANES: Final = 50  # patients to each kernel call's lanes of those
PLACES_BY_STEP: Final = 0.75  # of those lanes; the others are for who rarely jumps
SHORT: Final = 0.8  # of the median step: shorter ones are short
SHORTER: Final = 0.3  # times a patient's own step: the shortest of such a trajectory
PATIENT_LONGEST: Final = 0.6  # of a step, in units of a patient's site
JOINT_STEPS: Final = 25
JOINT_LONGEST: Final = 0.8
JOINT_TARGET: Final = 0.8
TARGET: Final = 0.85  # acceptance of patients
SPREAD_STEPS: Final = 3
JUMPS: Final = 4  # of a patient to earlier states in a sweep, at first
JUMPS_RANGE: Final = (1, 16)  # and later
SUCCESSES: Final = 0.6  # of those, wanted
LOCAL: Final = 2  # jumps along differences, and within the prior
LOCAL_OF_STUCK: Final = 4  # further ones of those who rarely get away
DIVERGENT: Final = 1000.0  # energy error that counts as a divergence, as in Stan
#: That a divergence counts as, where a patient's step is learnt: walls behind plateaus are met rarely.
REJECTIONS: Final = 10.0
WIDER: Final = 2.0  # than the curvature says, population values are taken to be at first
ADAPTED: Final = ("steps", "joint_step")  # step sizes of a sampler
KEPT: Final = ("h", "b", "freed", "copies", "stuck")  # arrays of a sampler's state


@dataclass
class DualAveraging:
    """Step sizes that settle at an acceptance (Hoffman & Gelman 2014, section 3.2); arrays adapt entry by entry."""

    step: Floats
    longest: float
    target: float = TARGET
    calm: float = 0.05  # the larger the less a single acceptance counts
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
        log_step = np.minimum(self._mean - np.sqrt(self._count) / self.calm * self._error, np.log(self.longest))
        log_step = np.maximum(log_step, np.log(1e-4))
        weight = self._count**-0.75
        self._smooth = weight * log_step + (1.0 - weight) * self._smooth
        self.step = np.exp(log_step)

    def settle(self) -> None:
        """Take the averaged step sizes."""
        self.step = np.exp(self._smooth)


@dataclass
class Sampler:
    """One chain: population ``h``, deviations ``b``, and what it has learnt."""

    posterior: Posterior
    joint: Joint
    rng: np.random.Generator
    h: Floats
    b: Floats
    steps: DualAveraging
    joint_step: DualAveraging
    models: list[Regression] = field(init=False)
    archive: Archive | None = field(default=None, init=False)
    freed: Floats = field(init=False)
    tried: int = field(default=0, init=False)
    copies: NDArray[np.int64] = field(init=False)
    stuck: NDArray[np.int64] = field(init=False)
    _known: tuple[Floats, Floats] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.models = regressions(self.posterior)
        self.freed = np.zeros(len(self.b))
        self.copies = np.full(len(self.b), JUMPS)
        self.stuck = np.arange(min(WIDTH, len(self.b)))

    @property
    def coordinates(self) -> Coordinates:
        """In which the chain moves."""
        return self.joint.coordinates

    # ------------------------------------------------------------------ state

    def state(self) -> State:
        """All that changes as the chain goes on, but for the archive, which is made of states that were visited."""
        generator = json.dumps(self.rng.bit_generator.state).encode()
        found: dict[str, NDArray[Any]] = {"rng": np.frombuffer(generator, dtype=np.uint8)}
        found |= {name: getattr(self, name) for name in KEPT}
        found |= {
            "tried": np.array(self.tried),
            "scale": self.coordinates.scale,
            "speed": self.joint.speed,
        }
        if self._known is not None:
            found["known"], found["known_slope"] = self._known
        for name in ADAPTED:
            adapted = getattr(self, name)
            found |= {f"{name}.{f.name}": np.asarray(getattr(adapted, f.name)) for f in fields(adapted)}
        return found

    def restore(self, state: State) -> None:
        """Go on from a `state`, bit for bit."""
        self.rng.bit_generator.state = json.loads(state["rng"].tobytes())
        for name in KEPT:
            setattr(self, name, state[name].copy())
        self.tried = int(state["tried"])
        self._rescale(state["scale"].copy())
        self.joint.speed = state["speed"].copy()
        self._known = (state["known"].copy(), state["known_slope"].copy()) if "known" in state else None
        for name in ADAPTED:
            adapted = getattr(self, name)
            for f in fields(adapted):
                value = state[f"{name}.{f.name}"]
                setattr(adapted, f.name, value.copy() if value.ndim else value.item())

    def place(self, h: Floats, b: Floats) -> None:
        """Go to a state of which nothing is known yet."""
        self.h, self.b, self._known = h, b, None

    def _likelihood(self) -> tuple[Floats, Floats]:
        """Log-likelihood and slope where the chain stands."""
        if self._known is None:
            self._known = self.posterior.conditional(self.h).likelihood(self.b)
        return self._known

    # ------------------------------------------------------------------ joint

    def move_jointly(self, tune: bool) -> tuple[float, int]:
        """A trajectory of population and patients."""
        w = self.coordinates.joined(self.h, self.b)
        momentum = self.rng.standard_normal(w.size)
        step = float(self.joint_step.step[0]) * self.rng.uniform(0.6, 1.1)
        start, end = self.joint.trajectory(w, momentum, step, JOINT_STEPS)
        chance = math.exp(min(-end.error, 0.0))
        if self.rng.uniform() < chance:
            self.h, self.b = self.coordinates.parted(end.w)
            self._known = end.loglik, end.slope
        else:
            self._known = start.loglik, start.slope
        if tune:
            self.joint_step.update(np.array([chance]))
        return chance, int(end.error > DIVERGENT)

    def learn_scale(self, visited: Floats) -> None:
        """Take the population's covariance over states (count, d) as the scale of the joint move, shrunk."""
        u = np.linalg.solve(self.coordinates.scale, (visited - visited.mean(axis=0)).T)
        covariance, weight = u @ u.T / len(visited), len(visited) / (len(visited) + 4.0 * len(u))
        shrunk = weight * covariance + (1.0 - weight) * np.diag(np.diag(covariance))
        self._rescale(self.coordinates.scale @ np.linalg.cholesky(shrunk))

    def _rescale(self, scale: Floats) -> None:
        self.joint.coordinates = replace(self.coordinates, scale=scale)

    # ------------------------------------------------------------------ patients

    def patients(self, tune: bool, finer: int = 0) -> tuple[Floats, int]:
        """A trajectory of every patient's deviations, given the population; ``finer`` steps for who rejects it."""
        step = self.steps.step * self.rng.uniform(0.8, 1.2, len(self.b))
        error, divergent = self._move_patients(None, step, PATIENT_LEAPFROGS, finer)
        chance = np.exp(np.minimum(-error, 0.0))
        if tune:
            self.steps.update(chance - REJECTIONS * (error > DIVERGENT))
        return chance, divergent

    def long_trajectories(self) -> tuple[Floats, int]:
        """Long trajectories of the `slow`: along narrow ridges."""
        who = self.slow
        if not who.size:
            return np.ones(len(self.b)), 0
        step = self.steps.step * np.exp(self.rng.uniform(math.log(SHORTER), 0.0, len(self.b)))
        error, divergent = self._move_patients(who, step, LONG_LEAPFROGS)
        return np.exp(np.minimum(-error, 0.0)), divergent

    @property
    def slow(self) -> NDArray[np.int64]:
        """Patients with short steps or who rarely get away by jumps: the shortest steps first, then the rarest jumps.

        As many as the kernel has lanes at most, more of them in large cohorts.
        """
        step = self.steps.step
        if not step.size:
            return np.empty(0, dtype=np.int64)
        some = np.flatnonzero((step < SHORT * np.median(step)) | (self.copies > JUMPS))
        places = WIDTH * max(1, step.size // PER_LANES)
        first, others = np.split(some[np.argsort(step[some], kind="stable")], [round(PLACES_BY_STEP * places)])
        seldom = others[np.argsort(-self.copies[others], kind="stable")]
        return np.sort(np.concatenate([first, seldom[: places - first.size]]))

    def _move_patients(
        self, who: NDArray[np.int64] | None, step: Floats, count: int, finer: int = 0
    ) -> tuple[Floats, int]:
        """A trajectory of some patients, all if None, of ``count`` steps (n,).

        Who rejects it takes ``finer`` steps of a fraction of that length from the same start with the same momentum.
        Delayed rejection (Modi, Barnett & Carpenter 2024) accepts them as if the first had never been a way back.

        Returns
        -------
        error
            (n,) of the first trajectory's energy.
        divergent
            How many patients diverged, with the finer steps too if there are any.
        """
        n, root = len(self.b), self.coordinates.roots(self.h)
        loglik, slope = self._likelihood()
        start = self.b, self.rng.standard_normal(self.b.shape), loglik, slope

        def go(who: NDArray[np.int64] | None, start: Leg, step: Floats, count: int) -> tuple[Leg, Floats]:
            b, momentum, loglik, slope = start
            density = self.posterior.conditional(self.h, who)
            end = density.trajectory(b, slope, momentum, step, root, count)
            return end, density.energy_error((b, momentum, loglik), end[:3])

        def accept(who: NDArray[np.int64], log_chance: Floats, end: Leg) -> NDArray[np.int64]:
            """Some patients, with their chances, go to where a trajectory ended; who does not."""
            taken = np.log(self.rng.uniform(size=n))[who] < log_chance
            gone = np.zeros(n, dtype=bool)
            gone[who[taken]] = True
            self.b = np.where(gone[:, None], end[0], self.b)
            loglik, slope = self._likelihood()
            self._known = np.where(gone, end[2], loglik), np.where(gone[:, None], end[3], slope)
            return who[~taken]

        end, error = go(who, start, step, count)
        everyone = np.arange(n) if who is None else who
        rest = accept(everyone, np.minimum(-error, 0.0)[everyone], end)
        if not (finer and rest.size):
            return error, int((error[rest] > DIVERGENT).sum())
        end, again = go(rest, start, step / FINER, finer)
        divergent = int(((error > DIVERGENT) & (again > DIVERGENT))[rest].sum())
        rest, (b, momentum, loglik, slope) = rest[np.isfinite(again[rest])], end
        _, back = go(rest, (b, -momentum, loglik, slope), step, count)
        with np.errstate(divide="ignore"):  # whose way back is sure to be the first trajectory stays
            rejected, refused = (np.log(-np.expm1(np.minimum(-x[rest], 0.0))) for x in (error, back))
        accept(rest, refused - rejected - again[rest], end)
        return error, divergent

    def jumps(self, tune: bool) -> None:
        """Metropolis steps of every patient that need no smooth path: along ridges, over plateaus, between modes."""
        if self.archive is None:
            return
        everyone, stuck = self.posterior.conditional(self.h), self.posterior.conditional(self.h, self.stuck)
        mean, root = self.coordinates.given(self.h)
        loglik, _ = self._likelihood()
        loglik = self._to_earlier_states(self.archive, everyone, mean, root, loglik, tune)
        all_of_them = np.arange(len(self.b))
        for density, who, times in ((everyone, all_of_them, LOCAL), (stuck, self.stuck, LOCAL_OF_STUCK)):
            for _ in range(times):
                loglik = self._along_a_difference(self.archive, density, who, mean, root, loglik)
                loglik = self._within_prior(density, who, loglik)
        self._known = None

    def _along_a_difference(
        self, archive: Archive, density: Conditional, who: NDArray[np.int64], mean: Floats, root: Floats, loglik: Floats
    ) -> Floats:
        """Some patients go along a difference of two earlier states; log-likelihoods where they end."""
        z = archive.difference(self.coordinates.standardised(self.h, self.b), self.rng)
        proposal = mean + np.einsum("nqr,nr->nq", root, z)
        new = density.loglik(proposal)
        with np.errstate(invalid="ignore"):
            gain = density.value(proposal, new) - density.value(self.b, loglik)
        return self._accept(who, proposal, new, gain, loglik)

    def _within_prior(self, density: Conditional, who: NDArray[np.int64], loglik: Floats) -> Floats:
        """Some patients move one deviation within its prior; log-likelihoods where they end."""
        proposal = within_prior(self.b, np.exp(self.h[self.posterior.log_sd]), self.rng)
        new = density.loglik(proposal)
        with np.errstate(invalid="ignore"):
            return self._accept(who, proposal, new, new - loglik, loglik)

    def _accept(self, who: NDArray[np.int64], proposal: Floats, new: Floats, gain: Floats, loglik: Floats) -> Floats:
        """Metropolis' choice of some patients, given what each gains in log density; log-likelihoods after it."""
        accepted = np.zeros(len(self.b), dtype=bool)
        accepted[who] = (np.log(self.rng.uniform(size=len(self.b))) < gain)[who]
        self.b = np.where(accepted[:, None], proposal, self.b)
        return np.where(accepted, new, loglik)

    def _to_earlier_states(
        self, archive: Archive, density: Conditional, mean: Floats, root: Floats, loglik: Floats, tune: bool
    ) -> Floats:
        """Each patient goes through `copies` proposals from its archive; log-likelihoods where they end."""
        everyone = np.arange(len(self.b))
        who = np.repeat(everyone, self.copies)
        z = archive.draw(who, self.rng)
        b = mean[who] + np.einsum("mqr,mr->mq", root[who], z)
        new = density.logliks(b, who)
        here = self.coordinates.standardised(self.h, self.b)
        now = density.value(self.b, loglik) - archive.log_density(here, everyone)
        weights = density.value(b, new) - archive.log_density(z, who)
        taken = independent(now, weights, self.copies, np.log(self.rng.uniform(size=who.size)))
        gone = taken >= 0
        if tune:
            self.freed += gone
            self.tried += 1
        self.b = np.where(gone[:, None], b[taken], self.b)
        return np.where(gone, new[taken], loglik)

    def learn_copies(self) -> None:
        """Give each patient so many jumps that `SUCCESSES` of them are expected; find who rarely gets away."""
        if self.tried:
            rate = -np.log1p(-(self.freed + 0.5) / (self.tried + 1.0)) / self.copies  # of one jump
            self.copies = np.clip(np.rint(SUCCESSES / rate), *JUMPS_RANGE).astype(np.int64)
            self.stuck = np.sort(np.argsort(rate, kind="stable")[:WIDTH]).astype(np.int64)
        self.freed, self.tried = np.zeros(len(self.b)), 0

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

    def sweep(self, tune: bool) -> dict[str, float]:
        """All moves."""
        accepted, divergent = self.move_jointly(tune)
        self.spread()
        chance, more = self.patients(tune, FINER_LEAPFROGS)
        divergent += more + self.long_trajectories()[1]
        self.jumps(tune)
        self.spread()
        divergent += self.patients(tune)[1]
        self.spread()
        return {
            "diverging": float(divergent > 0),
            "divergent_trajectories": float(divergent),
            "trajectories": float(1 + 2 * len(self.b) + len(self.slow)),  # a second try is none of its own
            "n_steps": float(JOINT_STEPS + 2 * PATIENT_LEAPFROGS + LONG_LEAPFROGS),
            "step_size": float(self.joint_step.step[0]),
            "mean_tree_accept": accepted,
            "patient_accept": float(chance.mean()) if chance.size else 1.0,
            "smallest_patient_step": float(self.steps.step.min()) if chance.size else 1.0,
        }
