"""One chain of the block sampler: its warm-up, its draws, and its state, to go on from after whatever happened."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .archive import Archive
from .blocks import JOINT_LONGEST, JOINT_TARGET, PATIENT_LONGEST, WIDER, DualAveraging, Sampler, State
from .coordinates import Coordinates, Floats
from .geometry import Posterior

type Tick = Callable[[int], None]
#: Offered the state at every draw and sweep of the warm-up; calls for it when it wants to keep it.
type Save = Callable[[Callable[[], State]], None]

FEWEST: Final = 40  # patients: a sweep of at most half as many is repeated, for few patients mix worse and cost less
MOST_REPEATS: Final = 2
LEARN: Final = (1 / 6, 1 / 3, 1 / 2, 3 / 4, 1)  # parts of the warm-up after which the chain learns from it


@dataclass
class Chain:
    """A sampler on its way.

    Parameters
    ----------
    sampler
        At its start.
    draws, tune, thin
        Kept draws, sweeps of the warm-up, sweeps per kept draw; each sweep is repeated in small cohorts.
    """

    sampler: Sampler
    draws: int
    tune: int
    thin: int
    warmed: int = field(default=0, init=False)
    drawn: int = field(default=0, init=False)
    kept: Floats = field(init=False)
    statistics: dict[str, list[float]] = field(default_factory=dict, init=False)
    _visited: list[tuple[Floats, Floats]] = field(default_factory=list, init=False)  # populations, patients' z
    _archived: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.kept = np.empty((self.draws, self.sampler.coordinates.layout.size))

    @property
    def sweeps(self) -> int:
        """Done so far."""
        return self.warmed + self.drawn * self.thin

    @property
    def _repeats(self) -> int:
        """How often a sweep is done where one is asked for."""
        return min(max(FEWEST // max(len(self.sampler.b), 1), 1), MOST_REPEATS)

    def run(self, tick: Tick, save: Save) -> None:
        """Do all that is left of it."""
        while self.warmed < self.tune:
            self.warm()
            tick(1)
            save(self.state)
        while self.drawn < self.draws:
            self._draw()
            tick(self.thin)
            save(self.state)

    def found(self) -> xr.Dataset:
        """What `sample_chain` returns."""
        columns = {name: (("draw",), np.array(values)) for name, values in self.statistics.items()}
        counted = {"outcomes": (("status",), self.sampler.posterior.outcomes.copy())}
        return xr.Dataset({"x": (("draw", "coordinate"), self.kept)} | columns | counted)

    def warm(self) -> None:
        """Do a sweep of the warm-up."""
        chain = self.sampler
        for _ in range(self._repeats):
            chain.sweep(tune=True)
        self._visited.append((chain.h.copy(), chain.coordinates.standardised(chain.h, chain.b)))
        self.warmed += 1
        if self.warmed in {round(part * self.tune) for part in LEARN}:
            self._learn()
        if self.warmed == self.tune:
            chain.steps.settle()
            chain.joint_step.settle()

    def _learn(self) -> None:
        """From the states visited so far, the first third left out."""
        chain = self.sampler
        if self.warmed < self.tune:
            chain.joint.weigh(chain.steps.step)
        if 2 * self.warmed < self.tune:
            return
        if self.warmed < self.tune:
            chain.learn_scale(np.array([h for h, _ in self._visited[self.warmed // 3 :]]))
            chain.joint_step = joint_steps(float(chain.joint_step.step[0]))
        if chain.b.size:
            chain.learn_copies()
            self._archive(self.warmed)

    def _archive(self, count: int) -> None:
        """Make the archive of the states visited until then."""
        states = np.array([z for _, z in self._visited[count // 3 : count]])
        self.sampler.archive, self._archived = Archive(states), count

    def _draw(self) -> None:
        """The sweeps of a kept draw."""
        chain, lay = self.sampler, self.sampler.coordinates.layout
        swept = [chain.sweep(tune=False) for _ in range(self.thin * self._repeats)]
        for name in swept[0]:
            values = [s[name] for s in swept]
            self.statistics.setdefault(name, []).append(_over_sweeps(name, values))
        self.kept[self.drawn, lay.hyper] = chain.h
        self.kept[self.drawn, lay.block.ravel()] = chain.b.ravel()
        self.drawn += 1

    # ------------------------------------------------------------------ state

    def state(self) -> State:
        """Everything that a chain needs to go on, and its draws so far."""
        found: dict[str, NDArray[Any]] = {f"sampler.{key}": value for key, value in self.sampler.state().items()}
        found |= {f"statistic.{name}": np.array(values) for name, values in self.statistics.items()}
        found["done"] = np.array([self.warmed, self.drawn, self._archived, self.thin])
        found["kept"] = self.kept[: self.drawn]
        found["outcomes"] = self.sampler.posterior.outcomes.copy()
        found["visited.h"] = _stacked([h for h, _ in self._visited], self.sampler.h)
        found["visited.z"] = _stacked([z for _, z in self._visited], self.sampler.b)
        return found

    def restore(self, state: State) -> None:
        """Go on from a `state`, bit for bit.

        One of fewer sweeps per draw, by a factor of 2 or more of them, has every second draw dropped as often. With an
        even number of draws it is then what it would be had it been drawn so from the start.
        """
        self.sampler.restore(_under("sampler.", state))
        self.warmed, self.drawn, archived = (int(x) for x in state["done"][:3])
        self.kept[: self.drawn] = state["kept"]
        self.sampler.posterior.outcomes[:] = state["outcomes"]
        self.statistics = {name: values.tolist() for name, values in _under("statistic.", state).items()}
        self._visited = list(zip(state["visited.h"], state["visited.z"], strict=True))
        if archived:
            self._archive(archived)
        for _ in range((self.thin // sweeps_per_draw(state)).bit_length() - 1):
            self._drop_every_second()

    def _drop_every_second(self) -> None:
        """Of the draws so far; the last one stays."""
        first = (self.drawn + 1) % 2
        some = self.kept[first : self.drawn : 2].copy()
        for name, values in self.statistics.items():
            pairs = [values[max(k - 1, 0) : k + 1] for k in range(first, self.drawn, 2)]
            self.statistics[name] = [_over_sweeps(name, pair) for pair in pairs]
        self.drawn = len(some)
        self.kept[: self.drawn] = some


def started(
    posterior: Posterior, coordinates: Coordinates, *, draws: int, tune: int, thin: int = 1, seed: int
) -> Chain:
    """A chain at its start, near the centre; what is given is told in `sample_chain`."""
    rng = np.random.default_rng(seed)
    lay = coordinates.layout
    x, _ = coordinates.expand(0.5 * rng.standard_normal(lay.size))
    sampler = Sampler(
        posterior,
        posterior.joint(replace(coordinates, scale=WIDER * coordinates.scale)),
        rng,
        x[lay.hyper].copy(),
        x[lay.block].copy(),
        DualAveraging(np.full(lay.block.shape[0], 0.2), PATIENT_LONGEST),
        joint_steps(0.05),
    )
    return Chain(sampler, draws, tune, thin)


def sample_chain(
    posterior: Posterior,
    coordinates: Coordinates,
    *,
    draws: int,
    tune: int,
    thin: int = 1,
    seed: int,
    tick: Tick,
    saved: State | None = None,
    save: Save = lambda state: None,
    end: Callable[[State], None] = lambda state: None,
) -> xr.Dataset:
    """One chain from a start near the centre, or from where it was.

    Parameters
    ----------
    posterior
        The statistical model.
    coordinates
        From `geometry.prepare`.
    draws, tune, seed
        Kept draws, warm-up sweeps; seed of this chain.
    thin
        Sweeps per kept draw; each is repeated in small cohorts.
    tick
        Told of sweeps done, warm-up included.
    saved
        `Chain.state` of the same chain, to go on from: the result is the same to the last bit.
    save
        Offered the state as the chain goes on.
    end
        Given the last state.

    Returns
    -------
    xarray.Dataset
        ``x`` (draw, coordinate): flat vectors of the statistical model; and the statistics of every draw, of which
        ``diverging`` says that some trajectory's energy error was above `blocks.DIVERGENT`; as a draw takes hundreds
        of trajectories, ``divergent_trajectories`` and ``trajectories`` count them. ``outcomes`` (status,) counts how
        the solver ended, since the chain's very start.
    """
    chain = started(posterior, coordinates, draws=draws, tune=tune, thin=thin, seed=seed)
    if saved is not None:
        chain.restore(saved)
        tick(chain.sweeps)
    chain.run(tick, save)
    end(chain.state())
    return chain.found()


def sweeps_per_draw(state: State) -> int:
    """Of the chain whose state it is."""
    return int(state["done"][3])


def joint_steps(start: float) -> DualAveraging:
    """Step sizes of the joint move that are to settle."""
    return DualAveraging(np.full(1, start), JOINT_LONGEST, JOINT_TARGET, calm=0.25)


def _under(prefix: str, state: State) -> Mapping[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _stacked(arrays: Sequence[Floats], like: Floats) -> Floats:
    """Arrays of one shape along a new first dimension, even if there are none, or nothing is in them."""
    return np.reshape(np.array(arrays, dtype=np.float64), (len(arrays), *like.shape))


def _over_sweeps(name: str, values: list[float]) -> float:
    """A statistic of the sweeps behind one draw."""
    if name == "diverging":
        return max(values)
    return sum(values) if name.endswith("trajectories") else sum(values) / len(values)
