"""What the correlation of first and second PFS is made of: how much is frailty, how much dysfunction.

A patient who did well once tends to do well again: the tumour is the same, and so are the T cells. Such frailty
makes first and second PFS correlate without any exhaustion. Here the second course of a virtual patient is
simulated again with parts of it taken from another patient of the same draw (a donor): what the correlation
loses with a part is what that part carried (`recombined`). Correlations are taken within a draw (`within_draws`).

Patients, luck, first and second courses are those of the experiment (`block`). A second course goes on from the last
visit before cells are taken for it; from there on, parameters and states may be another's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from .block import BLOCK, Arm, Block, Work
from .later import Later
from .outcomes import CourseOutcome, responded
from .recombined import (
    ANTIGEN,
    BURDEN,
    DYSFUNCTION,
    EVERYTHING,
    FACTORS,
    GROWTH,
    Coalition,
    coalitions,
    donors,
    recombined,
    shapley,
)
from .scenarios import ScenarioFile
from .statistics import rank_correlation
from .virtual_patients import PopulationDraws
from .within_draws import FEWEST, ByDraw, averaged, within_draws

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]
type Integers = NDArray[np.int64]

FULL: Final = "full"
NO_DYSFUNCTION: Final = "host dysfunction off, both courses"
NO_LOSSES: Final = "lasting losses per line off"
NO_EFFECT: Final = "dysfunction at apheresis without effect"
#: Parameters held at 0 in both courses. The lasting losses are the same for all patients of a draw: they tell patients
#: apart only by making more or less of what tells them apart.
SWITCHED_OFF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        NO_DYSFUNCTION: ("bR", "bXQ", "sline", "sres"),
        NO_LOSSES: ("sline", "sres"),
        NO_EFFECT: ("bR", "bXQ"),
    }
)
BANKED: Final = "second product from cells taken before therapy"
#: What is shown of all coalitions, most of the patient's own first.
LADDER: Final[Mapping[str, Coalition]] = MappingProxyType(
    {
        "T cells and killing redrawn": frozenset({GROWTH, BURDEN, ANTIGEN, DYSFUNCTION}),
        "T cells, killing and dysfunction redrawn": frozenset({GROWTH, BURDEN, ANTIGEN}),
        "everything redrawn but tumour growth": frozenset({GROWTH}),
        "everything redrawn but dysfunction": frozenset({DYSFUNCTION}),
        "everything redrawn": frozenset(),
    }
)
LADDER_COLUMNS: Final = (
    *("simulation", "own", "correlation", "low", "high", "mc_error"),
    *("change", "change_mc_error", "n", "draws"),
)
ATTRIBUTION_COLUMNS: Final = (
    *("factor", "shapley", "low", "high", "mc_error", "share"),
    *("alone", "alone_mc_error", "last", "last_mc_error"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decomposition:
    """What the correlation of first and second PFS is made of.

    Attributes
    ----------
    ladder : DataFrame
        `LADDER_COLUMNS`: correlation with more and more of the second course taken from another patient. `change`
        is against the full simulation, by pairs. `low` and `high` hold what is unknown about the population.
    attribution : DataFrame
        `ATTRIBUTION_COLUMNS`, one row per factor: Shapley's value of the correlation, its share of the full
        correlation, and the two extreme orders: `alone` (added first, to nothing) and `last` (added to all others).
    pooled : float
        Correlation over the patients of all draws together, which holds ignorance about the population too.
    candidates, patients, failures : int
        Virtual patients treated once; those whose correlation is looked at; second courses left out because they
        could not be solved or M-protein was not measurable at the second infusion. Each simulation leaves out its own;
        these are those of the full one.
    responders : bool
        Whether only those count who had responded to the first product.
    """

    ladder: pd.DataFrame
    attribution: pd.DataFrame
    pooled: float
    candidates: int
    patients: int
    failures: int
    responders: bool

    @property
    def sentences(self) -> tuple[str, ...]:
        """The answer in plain words."""
        return _in_words(self)


def decompose(
    file: ScenarioFile,
    population: PopulationDraws,
    *,
    scenario: str,
    per_draw: int = 150,
    seed: int = 1,
    responders: bool = True,
    level: float = 0.95,
    progress: Callable[[float], None] | None = None,
) -> Decomposition:
    """Decompose the correlation of first and second PFS in a scenario's patients, in its first world.

    Parameters
    ----------
    file, population, seed
        Of the experiment: the candidates are its first ones. The same patients, chance events and donors go through
        every simulation.
    scenario
        Name of one with a second infusion.
    per_draw
        Candidates per draw at least, for there are whole blocks of them; about half of them progress after a response.
    responders
        Only those who had responded to the first product (at least PR), as most who are retreated have.
    level
        Of the intervals.
    progress
        Called with the share of the work done since the last call.

    Returns
    -------
    Decomposition

    Raises
    ------
    ReinfuseError
        If the scenario has no second infusion, `per_draw` is too small, or no draw has enough patients who progress.
    """
    place = next(i for i, one in enumerate(file.scenarios) if one.name == scenario)
    if not file.scenarios[place].later:
        raise ReinfuseError(f"scenario {scenario!r} has no second infusion; name one that has")
    if per_draw < FEWEST:
        raise ReinfuseError(f"per_draw is {per_draw}; give at least {FEWEST} candidates per draw")
    tick = progress or (lambda _: None)
    arm, count = (place, 0), -(-per_draw * population.n_draws // BLOCK)
    work = Work(Block(number=0, seed=seed, file=file, population=population, arms=(arm,), count=count))
    steps = len(coalitions()) + 2 + 2 * len(SWITCHED_OFF)

    twice = _treated_twice(work, arm, responders)
    tick(1 / steps)
    most = int(np.bincount(twice.virtual.draw).max(initial=0))
    if most < FEWEST:
        raise ReinfuseError(
            f"no draw has {FEWEST} patients who {'responded, ' if responders else ''}progressed and lived to a second "
            f"infusion (at most {most} of about {work.size // population.n_draws}); raise per_draw or the follow-up"
        )
    own = twice.before.state
    other = donors(twice.virtual.draw, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(count,))))
    pfs: dict[Coalition, Floats] = {}
    for coalition in coalitions():
        patients, state = recombined(twice.virtual, own, other, coalition)
        pfs[coalition] = _days(twice.second(patients=patients, state=state))
        tick(1 / steps)
    before_therapy = _days(twice.second(twice.scenario.later[0].model_copy(update={"apheresis": "banked"})))
    tick(1 / steps)

    def rung(label: str, whose: str, second: Floats, of: Later = twice) -> _Rung:
        # Whose second course can be judged in this one; to be judged in all, own and other parts would have to suit.
        there = np.isfinite(second)
        first, draw = _days(of.outcome)[there], of.virtual.draw[there]
        return _Rung(label, whose, within_draws(first, second[there], draw, population.n_draws), draw)

    rungs = [rung(FULL, "everything", pfs[EVERYTHING])]
    for label, names in SWITCHED_OFF.items():
        without = _treated_twice(work.without(names), arm, responders)
        second = _days(without.second())
        rungs.append(rung(label, "everything", second, without))
        tick(2 / steps)
    rungs.append(rung(BANKED, "everything", before_therapy))
    rungs += [rung(label, _named(coalition), pfs[coalition]) for label, coalition in LADDER.items()]
    known = np.isfinite(pfs[EVERYTHING])
    worth = {coalition: rung("", "", second).correlations for coalition, second in pfs.items()}
    return Decomposition(
        ladder=_ladder(rungs, level),
        attribution=_attribution(worth, level),
        pooled=rank_correlation(_days(twice.outcome)[known], pfs[EVERYTHING][known]),
        candidates=work.size,
        patients=int(known.sum()),
        failures=int((~known).sum()),
        responders=responders,
    )


@dataclass(frozen=True, eq=False)
class _Rung:
    """One line of the ladder: what is done, what stays the patient's own, correlations, and the patients' draws."""

    simulation: str
    own: str
    correlations: ByDraw
    draw: Integers


def _treated_twice(work: Work, arm: Arm, responders: bool) -> Later:
    """Who gets a second infusion."""
    later = work.later(arm)
    return later.only(later.infused & responded(later.outcome) if responders else later.infused)


def _days(course: CourseOutcome) -> Floats:
    """PFS; NaN where it cannot be told."""
    return course.pfs_days.astype(np.float64)


def _named(coalition: Coalition) -> str:
    return ", ".join(factor for factor in FACTORS if factor in coalition) or "nothing"


def _ladder(rungs: Sequence[_Rung], level: float) -> pd.DataFrame:
    full = rungs[0].correlations
    out: list[dict[str, object]] = []
    for rung in rungs:
        counted = np.isfinite(rung.correlations.all)
        n = int(counted[rung.draw].sum())
        figure = averaged(rung.correlations, n=n, level=level)
        change = averaged(rung.correlations - full)
        out.append(
            {
                "simulation": rung.simulation,
                "own": rung.own,
                "correlation": figure.value,
                "low": figure.low,
                "high": figure.high,
                "mc_error": figure.mc_error,
                "change": change.value,
                "change_mc_error": change.mc_error,
                "n": n,
                "draws": int(counted.sum()),
            }
        )
    return pd.DataFrame(out, columns=list(LADDER_COLUMNS))


def _attribution(worth: Mapping[Coalition, ByDraw], level: float) -> pd.DataFrame:
    nothing: Coalition = frozenset()
    full = averaged(worth[EVERYTHING]).value
    out: list[dict[str, object]] = []
    for factor, by_draw in shapley(worth).items():
        figure = averaged(by_draw, level=level)
        alone = averaged(worth[frozenset({factor})] - worth[nothing])
        last = averaged(worth[EVERYTHING] - worth[EVERYTHING - {factor}])
        out.append(
            {
                "factor": factor,
                "shapley": figure.value,
                "low": figure.low,
                "high": figure.high,
                "mc_error": figure.mc_error,
                "share": figure.value / full if full > 0 else float("nan"),
                "alone": alone.value,
                "alone_mc_error": alone.mc_error,
                "last": last.value,
                "last_mc_error": last.mc_error,
            }
        )
    return pd.DataFrame(out, columns=list(ATTRIBUTION_COLUMNS))


def _in_words(found: Decomposition) -> tuple[str, ...]:
    rungs = {str(row["simulation"]): row for row in found.ladder.to_dict("records")}
    parts = {str(row["factor"]): row for row in found.attribution.to_dict("records")}
    full, banked, dysfunction = rungs[FULL], rungs[BANKED], parts[DYSFUNCTION]
    others = ", ".join(f"{factor} {_two(parts[factor]['shapley'])}" for factor in FACTORS if factor != DYSFUNCTION)
    return (
        f"Among {'first responders' if found.responders else 'all who progressed'}, first and second PFS correlate by "
        f"{_two(full['correlation'])} (Spearman, within a draw of the population; Monte Carlo error "
        f"{_two(full['mc_error'])}), and by {_two(rungs['everything redrawn']['correlation'])} when everything but the "
        "first course is another patient's.",
        f"Dysfunction of the host's T cells at the second apheresis carries {_two(dysfunction['shapley'])} of it "
        f"({_two(dysfunction['alone'])} if added first, {_two(dysfunction['last'])} if added last). "
        f"The rest: {others}.",
        "With the second product made from cells taken before therapy the correlation is "
        f"{_two(banked['correlation'])}: what changed in the host's T cells since then accounts for "
        f"{_two(-banked['change'])}.",
        f"With dysfunction off in both courses it is {_two(rungs[NO_DYSFUNCTION]['correlation'])}; without the lasting "
        f"losses per line alone {_two(rungs[NO_LOSSES]['correlation'])}, without effects of dysfunction at apheresis "
        f"alone {_two(rungs[NO_EFFECT]['correlation'])}. The losses are the same for every patient of a draw: they can "
        "make more of what differs between patients, but do not differ themselves.",
        "The same patient has the same tumour and the same T cells twice. That a long first remission goes with a long "
        "second one is not evidence of exhaustion.",
    )


def _two(value: float) -> str:
    """Two decimals, and no minus before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00")
