"""One chain of the block sampler: its warm-up, its draws, and its state, to go on from after whatever happened."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .archive import Archive
from .blocks import PATIENT_LONGEST, SCALE_LONGEST, SHARED_LONGEST, DualAveraging, Sampler, State
from .coordinates import Coordinates, Floats, LogDensity
from .geometry import Posterior

type Tick = Callable[[int], None]
#: Offered the state at every draw and sweep of the warm-up; calls for it when it wants to keep it.
type Save = Callable[[Callable[[], State]], None]

MASS_STATES: Final = 7


@dataclass
class Chain:
    """A sampler on its way.

    Parameters
    ----------
    sampler
        At its start.
    draws, tune, thin
        Kept draws, sweeps of the warm-up, sweeps per kept draw.
    """

    sampler: Sampler
    draws: int
    tune: int
    thin: int
    warmed: int = field(default=0, init=False)
    drawn: int = field(default=0, init=False)
    kept: Floats = field(init=False)
    statistics: dict[str, list[float]] = field(default_factory=dict, init=False)
    _visited: list[Floats] = field(default_factory=list, init=False)  # patients' states, for the archive
    _archived: int = field(default=0, init=False)
    _marks: list[tuple[Floats, Floats]] = field(default_factory=list, init=False)  # states at which to learn the mass

    def __post_init__(self) -> None:
        self.kept = np.empty((self.draws, self.sampler.coordinates.layout.size))

    @property
    def sweeps(self) -> int:
        """Done so far."""
        return self.warmed + self.drawn * self.thin

    def run(self, tick: Tick, save: Save) -> xr.Dataset:
        """All that is left of it; what `sample_chain` returns."""
        if self.sweeps == 0:
            self.sampler.learn_mass([(self.sampler.h, self.sampler.b)])
        while self.warmed < self.tune:
            self._warm()
            tick(1)
            save(self.state)
        while self.drawn < self.draws:
            self._draw()
            tick(self.thin)
            save(self.state)
        columns = {name: (("draw",), np.array(values)) for name, values in self.statistics.items()}
        return xr.Dataset({"x": (("draw", "coordinate"), self.kept)} | columns)

    def _warm(self) -> None:
        """A sweep of the warm-up."""
        chain, sweep, tune = self.sampler, self.warmed, self.tune
        chain.sweep(tune=True)
        if sweep >= tune // 4:
            self._visited.append(chain.b.copy())
        if sweep + 1 in (tune // 2, 3 * tune // 4, tune) and chain.b.size:
            self._archive(len(self._visited))
        if sweep % max(1, tune // 24) == 0:
            self._marks = [*self._marks, (chain.h.copy(), chain.b.copy())][-MASS_STATES:]
        if sweep + 1 in (tune // 6, tune // 2):
            chain.learn_mass(self._marks)
            chain.shared_step = DualAveraging(np.full(1, 0.1), SHARED_LONGEST)
        self.warmed += 1
        if self.warmed == tune:
            chain.steps.settle()
            chain.shared_step.settle()
            chain.scale_step.settle()

    def _archive(self, count: int) -> None:
        """Make the archive of the first states that were visited."""
        self.sampler.archive, self._archived = Archive(np.array(self._visited[:count])), count

    def _draw(self) -> None:
        """The sweeps of a kept draw."""
        chain, lay = self.sampler, self.sampler.coordinates.layout
        swept = [chain.sweep(tune=False) for _ in range(self.thin)]
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
        found["done"] = np.array([self.warmed, self.drawn, self._archived])
        found["kept"] = self.kept[: self.drawn]
        found["visited"] = _stacked(self._visited, self.sampler.b)
        found["marks.h"] = _stacked([h for h, _ in self._marks], self.sampler.h)
        found["marks.b"] = _stacked([b for _, b in self._marks], self.sampler.b)
        return found

    def restore(self, state: State) -> None:
        """Go on from a `state`, bit for bit."""
        self.sampler.restore(_under("sampler.", state))
        self.warmed, self.drawn, archived = (int(x) for x in state["done"])
        self.kept[: self.drawn] = state["kept"]
        self.statistics = {name: values.tolist() for name, values in _under("statistic.", state).items()}
        self._visited = list(state["visited"])
        self._marks = list(zip(state["marks.h"], state["marks.b"], strict=True))
        if archived:
            self._archive(archived)


def sample_chain(
    posterior: Posterior,
    log_density: LogDensity,
    coordinates: Coordinates,
    *,
    draws: int,
    tune: int,
    thin: int = 1,
    seed: int,
    tick: Tick,
    saved: State | None = None,
    save: Save = lambda state: None,
) -> xr.Dataset:
    """One chain from a start near the centre, or from where it was.

    Parameters
    ----------
    posterior, log_density
        The same statistical model, patient by patient and as a whole.
    coordinates
        From `geometry.prepare`.
    draws, tune, seed
        Kept draws, warm-up sweeps; seed of this chain.
    thin
        Sweeps per kept draw.
    tick
        Told of sweeps done, warm-up included.
    saved
        `Chain.state` of the same chain, to go on from: the result is the same to the last bit.
    save
        Offered the state as the chain goes on.

    Returns
    -------
    xarray.Dataset
        ``x`` (draw, coordinate): flat vectors of the statistical model; and the statistics of every draw, of which
        ``diverging`` says that some trajectory's energy error was above `blocks.DIVERGENT`; as a draw takes hundreds
        of trajectories, ``divergent_trajectories`` and ``trajectories`` count them.
    """
    rng = np.random.default_rng(seed)
    lay = coordinates.layout
    x, _ = coordinates.expand(0.5 * rng.standard_normal(lay.size))
    sampler = Sampler(
        posterior,
        coordinates,
        log_density,
        rng,
        x[lay.hyper].copy(),
        x[lay.block].copy(),
        DualAveraging(np.full(lay.block.shape[0], 0.2), PATIENT_LONGEST),
        DualAveraging(np.full(1, 0.05), SHARED_LONGEST),
        DualAveraging(np.full(1, 0.1), SCALE_LONGEST),
    )
    chain = Chain(sampler, draws, tune, thin)
    if saved is not None:
        chain.restore(saved)
        tick(chain.sweeps)
    return chain.run(tick, save)


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
