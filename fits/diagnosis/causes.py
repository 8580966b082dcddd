"""Why a fit did not converge: each likely cause by a rule that is stated here, from the draws alone.

``modes``
    The chains stand in two groups: between the means of neighbouring groups lies a gap of more than `GAP` sds within
    a chain, and the chains of both groups move.
``stuck``
    The same, but the smaller group is one chain that moves less than `STILL` times as much as the others.
``switching``
    A slow number that does not split the chains, but whose draws fall into two clusters, more than `WIDE` sds within a
    cluster apart. Most chains change between them, but less than `RARE` times as often as independent draws would, and
    in leaps: a change goes, within one draw, more than `LEAP` of the way from centre to centre. A number with one mode
    that wanders slowly does not leap, however many heaps its draws lie in.
``patient``
    The numbers whose chains disagree belong to patients, not to the population, and more than half to one patient.
``ridge``
    The slowest number belongs to a patient, its chains do not stand in groups nor switch between modes, and more than
    half of the slow numbers of patients are this patient's.
``funnel``
    A slow spread omega whose logarithm reaches far down (its median lies `DEEP` above its 5th percentile), while the
    patients' deviations shrink with it (correlation of the logarithms above `TIED`).
``alias``
    Two scalars, at least one of them slow, that correlate above `ALIASED` *within* chains; between chains that disagree
    everything correlates.
``solver``
    The solver gave up on more than `FAILURES` of the trajectories; and where, if the sampler says so for each draw.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from reinfuse.model.parameters import Parameter

from .identifiability import ALIASED
from .scalars import every_scalar, is_fixed, labelled, list_scalars, stack

Array = npt.NDArray[np.float64]

KINDS: Final = ("modes", "stuck", "switching", "patient", "ridge", "funnel", "alias", "solver")
APART: Final = 1.05
"""R-hat from which chains are asked whether they stand in groups."""

GAP: Final = 2.0
STILL: Final = 0.2
WIDE: Final = 4.0
RARE: Final = 0.2
LEAP: Final = 0.5
LEAST_SHARE: Final = 0.05
"""Part of all draws that a cluster holds at least; fewer are a tail."""

IN_STEP: Final = 0.8
"""Correlation of two numbers' modes from which they are said to change together."""

DEEP: Final = 1.0
TIED: Final = 0.6
FAILURES: Final = 0.01
SHIFTED: Final = 0.8
"""Distance, in posterior sds, from which draws with failures are said to gather in one place."""

MOST_PAIRS: Final = 3


@dataclass(frozen=True)
class Cause:
    """One likely cause.

    Attributes
    ----------
    kind
        One of `KINDS`.
    names
        The numbers or patients concerned, those that show it best first.
    sentence
        What was seen, what it likely means, and what to try.
    """

    kind: str
    names: tuple[str, ...]
    sentence: str


def find_causes(
    tree: xr.DataTree,
    scalars: pd.DataFrame,
    poor: set[str],
    *,
    wanted: float,
    rows: Mapping[str, Parameter] | None = None,
    solver_failures: int | None = None,
) -> list[Cause]:
    """Find the likely causes of a fit's faults; none for a fit without fault.

    Parameters
    ----------
    tree
        The posterior of a run.
    scalars
        From `convergence.scalar_table`.
    poor
        Names of the numbers that miss a limit.
    wanted
        Effective sample size that is enough.
    rows
        Parameter table; that of real cohorts when None.
    solver_failures
        As counted by the run.
    """
    posterior = tree["posterior"].to_dataset()
    grouped = _groups(posterior, scalars)
    switching = _switching(posterior, poor - {split.name for split in grouped})
    explained = {split.name for split in grouped}.union(*(cause.names for cause in switching))
    return [
        *_modes(tree, grouped),
        *switching,
        *_patient(grouped),
        *_ridge(scalars[scalars["parameter"].isin(poor)], explained, wanted),
        *_funnels(posterior, poor, rows),
        *_pairs(posterior, poor, rows),
        *_solver(tree, solver_failures, rows),
    ]


@dataclass(frozen=True)
class _Split:
    """A number whose chains stand in two groups: the chains of the upper one, and how wide the gap is."""

    name: str
    upper: tuple[int, ...]
    gap: float
    still: int | None


def _groups(posterior: xr.Dataset, scalars: pd.DataFrame) -> list[_Split]:
    """The numbers that split the chains, widest gap first."""
    apart = scalars[(scalars["rhat"] >= APART) & np.isfinite(scalars["rhat"])]["parameter"].tolist()
    names, _, every = every_scalar(posterior)
    place = {name: i for i, name in enumerate(names)}
    found = [split for name in apart if (split := _split(name, every[:, :, place[name]])) is not None]
    return sorted(found, key=lambda split: -split.gap)


def _split(name: str, draws: Array) -> _Split | None:
    x = np.log(draws) if (draws > 0).all() else draws
    means, sds = x.mean(axis=1), x.std(axis=1)
    order = np.argsort(means)
    steps = np.diff(means[order])
    if not steps.size:
        return None
    at = int(steps.argmax())
    typical = float(np.median(sds))
    if steps[at] <= GAP * max(typical, 1e-300):
        return None
    low, high = order[: at + 1], order[at + 1 :]
    few = low if low.size < high.size else high
    still = None
    if few.size == 1 and sds.size > 2 and sds[few[0]] < STILL * float(np.median(np.delete(sds, few[0]))):
        still = int(few[0])
    return _Split(name, tuple(sorted(int(c) for c in high)), float(steps[at] / max(typical, 1e-300)), still)


def _modes(tree: xr.DataTree, splits: list[_Split]) -> list[Cause]:
    """Two groups of chains, or one chain that hardly moves."""
    if not splits:
        return []
    chains = tree["posterior"].sizes["chain"]
    widest = splits[0]
    same = [s.name for s in splits if s.upper in (widest.upper, _others(widest.upper, chains))]
    if widest.still is not None:
        return [
            Cause(
                "stuck",
                tuple(same),
                f"Chain {widest.still} is stuck: it hardly moves in {_few(same)}, away from all others. Its start was "
                "bad, or its step size settled too small. Fit again with another --seed and more tuning (--tune); "
                "the other chains may be sound.",
            )
        ]
    upper, lower = widest.upper, _others(widest.upper, chains)
    odd = upper if len(upper) == 1 else lower if len(lower) == 1 else None
    who = f"Chain {odd[0]} stands apart from the others" if odd and chains > 2 else _apart(lower, upper)
    return [
        Cause(
            "modes",
            tuple(same),
            f"{who} in {_few(same)} (gap of {widest.gap:.1f} sds within a chain), and moves there: the data allow more "
            f"than one explanation.{_heights(tree, lower, upper)} See which of the two is biologically sound; a "
            "narrower, sourced prior on these, or data that tell them apart, decides. More draws of the same will not.",
        )
    ]


def _others(chains: tuple[int, ...], count: int) -> tuple[int, ...]:
    return tuple(c for c in range(count) if c not in chains)


def _apart(lower: tuple[int, ...], upper: tuple[int, ...]) -> str:
    return f"Chains {_few(list(map(str, lower)))} and chains {_few(list(map(str, upper)))} stand apart"


def _heights(tree: xr.DataTree, lower: tuple[int, ...], upper: tuple[int, ...]) -> str:
    """Which of two groups of chains describes the data better, if the run holds likelihoods."""
    if "log_likelihood" not in tree.children:
        return ""
    variables = [v for v in tree["log_likelihood"].to_dataset().data_vars.values() if "chain" in v.dims]
    if not variables:
        return ""
    total = sum(v.sum([d for d in v.dims if d not in ("chain", "draw")]).mean("draw").to_numpy() for v in variables)
    difference = float(np.mean(total[list(upper)]) - np.mean(total[list(lower)]))  # type: ignore[index]
    if not np.isfinite(difference) or abs(difference) < 1.0:
        return " Both describe the data about equally well."
    better = upper if difference > 0 else lower
    names = _few([str(c) for c in better])
    who = f"Chains {names} describe" if len(better) > 1 else f"Chain {names} describes"
    return f" {who} the data better, by {abs(difference):.1f} in log-likelihood."


@dataclass(frozen=True)
class _TwoModes:
    """A number with two modes: which draws (chain, draw) lie in the upper one, and how far apart the modes are."""

    name: str
    upper: npt.NDArray[np.bool_]
    distance: float


def _switching(posterior: xr.Dataset, slow: set[str]) -> list[Cause]:
    """Modes that the chains visit in turn; numbers that change together are one cause."""
    names, _, every = every_scalar(posterior)
    left = [two for i, name in enumerate(names) if name in slow and (two := _two_modes(name, every[:, :, i]))]
    left.sort(key=lambda two: -two.distance)
    causes: list[Cause] = []
    while left and len(causes) < MOST_PAIRS:
        first = left[0]
        together = [two for two in left if two is first or _in_step(two.upper, first.upper) > IN_STEP]
        left = [two for two in left if two not in together]
        causes.append(_changing(first, [two.name for two in together]))
    return causes


def _changing(modes: _TwoModes, names: list[str]) -> Cause:
    share, draws = float(modes.upper.mean()), modes.upper.shape[1]
    changes = float(np.median(np.count_nonzero(np.diff(modes.upper, axis=1), axis=1)))
    return Cause(
        "switching",
        tuple(names),
        f"The chains visit two modes of {_few(names)} in turn ({modes.distance:.1f} sds apart, {100 * share:.0f} % of "
        f"the draws in the upper one of {names[0]}), and change only {changes:.0f} times in {draws} draws: they agree, "
        "but how much weight each mode has is hardly known. The data allow more than one explanation. See which of the "
        "two is biologically sound; a narrower, sourced prior, or data that tell them apart, decides. To keep both, "
        "draw much longer (--draws).",
    )


def _two_modes(name: str, draws: Array) -> _TwoModes | None:
    """The modes of one number (chain, draw), if it has two that are visited in turn."""
    if not np.isfinite(draws).all() or is_fixed(draws):
        return None
    x = np.log(draws) if (draws > 0).all() else draws
    upper = x > _between(x)
    low, high = x[~upper], x[upper]
    if min(low.size, high.size) < LEAST_SHARE * x.size:
        return None
    centres = float(high.mean() - low.mean())
    distance = centres / max(float(np.sqrt(0.5 * (low.var() + high.var()))), 1e-300)
    changing = np.diff(upper, axis=1)
    changes, share = np.median(np.count_nonzero(changing, axis=1)), float(upper.mean())
    by_chance = 2.0 * share * (1.0 - share) * changing.shape[1]
    if distance <= WIDE or changes < 1 or changes >= RARE * by_chance:
        return None
    leap = float(np.median(np.abs(np.diff(x, axis=1))[changing]))
    return _TwoModes(name, upper, distance) if leap > LEAP * centres else None


def _in_step(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Correlation of two numbers' modes, whichever of them is called the upper one."""
    return abs(float(np.corrcoef(one.ravel(), other.ravel())[0, 1]))


def _between(x: Array) -> float:
    """Number that parts draws into two clusters with the least variance within them, neither a mere tail."""
    ranked = np.sort(x, axis=None)
    n, sums = ranked.size, np.cumsum(ranked)
    below = np.arange(1, n)
    lower, upper = sums[:-1] / below, (sums[-1] - sums[:-1]) / (n - below)
    gained = np.where(np.minimum(below, n - below) >= LEAST_SHARE * n, below * (n - below) * (upper - lower) ** 2, -1.0)
    at = int(np.argmax(gained))
    return float(0.5 * (ranked[at] + ranked[at + 1]))


def _patient(splits: list[_Split]) -> list[Cause]:
    """One patient whose chains disagree, while those of the population agree."""
    owners = [_owner(split.name) for split in splits]
    if not splits or not all(owners):
        return []
    patients = list(dict.fromkeys(owners))
    first = max(patients, key=owners.count)
    if owners.count(first) <= 0.5 * len(owners):
        return []
    mine = [split.name for split, owner in zip(splits, owners, strict=True) if owner == first]
    return [
        Cause(
            "patient",
            (first, *mine),
            f"It is patient {first} alone, in {_few(mine)}; the population agrees. Two explanations fit this patient's "
            "data, or a sample contradicts the others. Look at the patient's individual fit and check its rows (unit, "
            "day, censoring); a longer warm-up (--tune) gives the chains more ways from one to the other.",
        )
    ]


def _ridge(slow: pd.DataFrame, explained: set[str], wanted: float) -> list[Cause]:
    """One patient that wanders slowly, in one mode; ``slow`` are the rows of the numbers that miss a limit."""
    sizes = slow.set_index("parameter")[["ess_bulk", "ess_tail"]].min(axis=1).sort_values()
    if sizes.empty or sizes.index[0] in explained or not (owner := _owner(str(sizes.index[0]))):
        return []
    owners = [found for name in sizes.index if (found := _owner(str(name)))]
    if owners.count(owner) <= 0.5 * len(owners) or sizes.iloc[0] <= 0:
        return []
    mine = [str(name) for name in sizes.index if _owner(str(name)) == owner]
    data = _few(mine) if len(mine) > 1 else "its numbers"
    times = int(np.ceil(wanted / sizes.iloc[0]))
    return [
        Cause(
            "ridge",
            (owner, *mine),
            f"The slowest number is {mine[0]}: patient {owner} wanders along a narrow ridge or a long tail, where the "
            f"data fix a combination of {data} and little else. "
            f"{f'About {times} times as many' if times > 1 else 'Somewhat more'} sweeps (--thin, --draws) would do; "
            "what does not hang on this patient is better than the verdict says.",
        )
    ]


def _owner(name: str) -> str:
    """The patient whom a number belongs to; nothing for the population's."""
    return name.partition("[")[2].rstrip("]").split(", ")[0]


def _funnels(posterior: xr.Dataset, poor: set[str], rows: Mapping[str, Parameter] | None) -> list[Cause]:
    """Slow spreads that reach towards zero, and take the patients' deviations along."""
    spreads = labelled(posterior, "omega")
    if "individual" not in posterior or "effect" not in posterior["individual"].dims:
        return []
    individual = posterior["individual"].transpose("chain", "draw", "patient", "effect")
    names = [str(effect) for effect in individual["effect"].values]
    found = []
    for effect, omega in spreads.items():
        if f"omega:{effect}" not in poor or effect not in names or is_fixed(omega) or not (omega > 0).all():
            continue
        own = individual.to_numpy()[..., names.index(effect)]
        if own.shape[-1] < 2 or not np.isfinite(own).all():
            continue
        own = _scale(effect, own, posterior, rows)
        size = 0.5 * np.log(np.maximum(own.var(axis=-1), 1e-300))
        log_omega = np.log(omega)
        reach = float(np.median(log_omega) - np.quantile(log_omega, 0.05))
        if reach > DEEP and _within(log_omega, size) > TIED:
            found.append((reach, f"omega:{effect}"))
    if not found:
        return []
    ordered = tuple(name for _, name in sorted(found, reverse=True))
    effects = _few([name.removeprefix("omega:") for name in ordered])
    return [
        Cause(
            "funnel",
            ordered,
            f"A funnel: {_few(list(ordered))} reaches towards zero and takes the patients' deviations along, where "
            f"chains move slowly. The data hardly say how much patients differ in {effects}. Use a prior on omega that "
            "keeps it from zero, sample the effect non-centred or on the conditional map, or drop the random effect.",
        )
    ]


def _scale(effect: str, own: Array, posterior: xr.Dataset, rows: Mapping[str, Parameter] | None) -> Array:
    """Individual values on the transformed scale."""
    known = {s.symbol: s for s in list_scalars(posterior, rows) if s.family == "population"}
    if effect in known:
        return known[effect].to_transformed(own)
    return np.log(own) if (own > 0).all() else own


def _within(x: Array, y: Array) -> float:
    """Correlation of two scalars (chain, draw) within chains."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / scale) if scale > 0 else 0.0


def _pairs(posterior: xr.Dataset, poor: set[str], rows: Mapping[str, Parameter] | None) -> list[Cause]:
    """Aliased pairs with a slow member, by correlation within chains."""
    scalars = list_scalars(posterior, rows)
    draws = stack(posterior, scalars).to_numpy()
    moving = [i for i in range(len(scalars)) if np.isfinite(draws[:, :, i]).all() and not is_fixed(draws[:, :, i])]
    moving = [i for i in moving if (draws[:, :, i].std(axis=1) > 0).all()]
    if len(moving) < 2:
        return []
    centred = draws[:, :, moving] - draws[:, :, moving].mean(axis=1, keepdims=True)
    matrix: Array = np.asarray(np.corrcoef(centred.reshape(-1, len(moving)), rowvar=False))
    found = []
    for a, b in itertools.combinations(range(len(moving)), 2):
        names = scalars[moving[a]].name, scalars[moving[b]].name
        if abs(matrix[a][b]) > ALIASED and poor & set(names):
            found.append((float(matrix[a][b]), names))
    found.sort(key=lambda pair: -abs(pair[0]))
    return [
        Cause(
            "alias",
            names,
            f"{names[0]} and {names[1]} are aliased (correlation {correlation:+.2f} within chains): the data hold a "
            "combination of the two. Fix one of them, or give it a narrower prior with a stated source.",
        )
        for correlation, names in found[:MOST_PAIRS]
    ]


def _solver(tree: xr.DataTree, failures: int | None, rows: Mapping[str, Parameter] | None) -> list[Cause]:
    """More failures of the solver than a fit can shrug off, and where they gather."""
    statistics = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else xr.Dataset()
    by_draw = None
    if "solver_failures" in statistics and {"chain", "draw"} <= set(statistics["solver_failures"].dims):
        by_draw = statistics["solver_failures"].transpose("chain", "draw").to_numpy()
        failures = int(by_draw.sum()) if failures is None else failures
    tried = _tried(tree, statistics)
    if not failures or failures <= FAILURES * tried:
        return []
    where, names = _gather(tree["posterior"].to_dataset(), by_draw, rows)
    return [
        Cause(
            "solver",
            names,
            f"The solver gave up {failures} times while sampling, {100 * failures / max(tried, 1.0):.1f} for every "
            f"hundred trajectories (up to {100 * FAILURES:.0f} is usual); each was counted as a rejection.{where} The "
            "chains visit parameters at which the model cannot be solved: narrow the priors of these, or loosen the "
            "solver's tolerance.",
        )
    ]


def _tried(tree: xr.DataTree, statistics: xr.Dataset) -> float:
    """How often the solver was asked, at least: trajectories, else steps, else draws."""
    for name in ("trajectories", "n_steps"):
        if name in statistics:
            return float(statistics[name].sum())
    return float(tree["posterior"].sizes["chain"] * tree["posterior"].sizes["draw"])


def _gather(
    posterior: xr.Dataset, by_draw: npt.NDArray[np.generic] | None, rows: Mapping[str, Parameter] | None
) -> tuple[str, tuple[str, ...]]:
    """Where draws with failures lie, against all draws."""
    if by_draw is None:
        return " This sampler does not say at which draws; look at the parameters with the worst R-hat.", ()
    scalars = list_scalars(posterior, rows)
    draws = stack(posterior, scalars).to_numpy()
    weight = by_draw.astype(np.float64)
    weight /= weight.sum()
    spread = draws.std(axis=(0, 1))
    shift = np.einsum("cd,cds->s", weight, draws - draws.mean(axis=(0, 1)))
    shift = np.where(spread > 0, shift / np.where(spread > 0, spread, 1.0), 0.0)
    order = [int(i) for i in np.argsort(-np.abs(shift)) if abs(shift[i]) > SHIFTED]
    if not order:
        return " They have no common place among the population's values.", ()
    said = [f"{scalars[i].name} is {'high' if shift[i] > 0 else 'low'}" for i in order[:3]]
    return f" They gather where {' and '.join(said)}.", tuple(scalars[i].name for i in order)


def _few(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
