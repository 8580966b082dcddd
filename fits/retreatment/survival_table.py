"""`survival.csv`: what the first duration foretells of the second, in every scenario and world, and in their mixture.

Hazard ratios, concordance and AUC of a mixture are not averages of those of its worlds: patients of different worlds
make pairs too. So each virtual patient is put in one world, by the worlds' weights, and the figures are of these
patients together. A virtual trial happens in one world; trials are not mixed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd

from reinfuse.model.parameters import DAYS_PER_MONTH

from .counts import Estimate
from .statistics import STACKED, proportion
from .survival import AT_MOST, AUC_MONTHS, Pairs, auc_at, concordance, durable_against_early, pairs_of
from .virtual_trials import ALPHA, Trials, virtual_trials

#: Columns of `survival.csv`.
SURVIVAL_COLUMNS: Final = ("scenario", "world", "measure", "months", "n", "value", "low", "high", "mc_error", "remark")


def survival_table(
    parts: Iterable[tuple[str, str, pd.DataFrame]],
    *,
    rng: np.random.Generator,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
    trial_size: int = 10,
    follow_up_months: float | None = None,
    at_most: int = AT_MOST,
) -> pd.DataFrame:
    """How the first duration goes with second PFS, in every scenario and world, and what trials of ten would find.

    Parameters
    ----------
    parts
        Scenario, world and its outcomes, read one at a time.
    rng
        Draws subsamples and trials.
    weights
        Of worlds; with them, and with all these worlds, the rows of a scenario's mixture come last, in world `STACKED`.
    level
        Of the intervals.
    trial_size
        Patients of a virtual trial.
    follow_up_months
        End of follow-up, if it is to be earlier than simulated.
    at_most
        Patients that Cox, failure-time models and concordance see (`subsample`).

    Returns
    -------
    DataFrame
        Columns `SURVIVAL_COLUMNS`; what a table is too small, or followed too shortly, to tell has no row. The rows of
        virtual trials give the median trial and the central interval over trials.
    """
    rows: list[dict[str, object]] = []
    mixtures: dict[str, dict[str, pd.DataFrame]] = {}

    def add(scenario: str, world: str, frame: pd.DataFrame, size: int) -> None:
        pairs = pairs_of(frame, follow_up_months=follow_up_months)
        for measure, months, figure, remark in _figures(pairs, rng, level, size, at_most):
            row = {"scenario": scenario, "world": world, "measure": measure, "months": months}
            rows.append(row | {**asdict(figure), "remark": remark})

    shares = _shares(weights or {})
    for scenario, world, frame in parts:
        add(scenario, world, frame, trial_size)
        if world in shares:
            mixtures.setdefault(scenario, {})[world] = of_share(frame, *shares[world])
    for scenario, worlds in mixtures.items():
        if len(worlds) == len(shares) > 1:
            add(scenario, STACKED, pd.concat(worlds.values(), ignore_index=True), 0)
    return pd.DataFrame(rows, columns=list(SURVIVAL_COLUMNS))


def _shares(weights: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Consecutive parts of [0, 1) as long as the weights, by world; none for a weight of 0."""
    some = {world: weight for world, weight in weights.items() if weight > 0}
    ends = np.cumsum([0.0, *some.values()]) / max(sum(some.values()), np.finfo(float).tiny)
    ends[-1] = 1.0
    return dict(zip(some, pairwise(ends.tolist()), strict=True)) if some else {}


def of_share(frame: pd.DataFrame, low: float, high: float) -> pd.DataFrame:
    """Patients whose number, hashed to [0, 1), is in a part of it: the same patients in every world."""
    place = pd.util.hash_array(frame["patient"].to_numpy(dtype=np.uint64)) / 2.0**64
    return frame[(place >= low) & (place < high)]


def _figures(
    pairs: Pairs, rng: np.random.Generator, level: float, trial_size: int, at_most: int
) -> Iterator[tuple[str, float, Estimate, str]]:
    ends = pairs.days[~pairs.event].min(initial=np.inf) / DAYS_PER_MONTH * (1 + 1e-6)
    reached = [months for months in AUC_MONTHS if months <= ends]
    longest = max(reached, default=float(ends))
    if pairs.days.size == 0:
        return
    found = durable_against_early(pairs, rng=rng, rmst_months=longest, level=level, at_most=at_most)
    if found is not None:
        told = "spread between draws not known" if np.isnan(found.between) else f"sd {found.between:.2f} between draws"
        yield "hazard ratio, durable to early", float("nan"), found.hazard_ratio, f"Cox, {found.fitted} fitted, {told}"
        aic = ", ".join(f"AIC {value:.1f} {name}" for name, value in found.aic.items())
        yield f"time ratio, durable to early ({found.model})", float("nan"), found.time_ratio, aic
        yield "RMST difference, durable less early", longest, found.rmst_difference, "months"
    sampled = f"of {min(at_most, pairs.days.size)} patients"
    yield (
        "concordance of first duration",
        float("nan"),
        concordance(pairs, rng=rng, level=level, at_most=at_most),
        sampled,
    )
    for months in reached:
        yield "AUC of first duration", months, auc_at(pairs, months=months, level=level), "cumulative/dynamic"
    if 0 < trial_size <= pairs.days.size:
        trials = virtual_trials(pairs, rng=rng, size=trial_size, rmst_months=longest)
        yield from _trial_figures(trials, level)


def _trial_figures(trials: Trials, level: float) -> Iterator[tuple[str, float, Estimate, str]]:
    of_size, whose = f"trials of {trials.size}", "" if trials.shared else "patients of a trial do not share a draw"
    many = trials.p_value.size
    for measure, months, values in (
        ("hazard ratio, durable to others", float("nan"), trials.hazard_ratio),
        ("RMST difference, durable less others", trials.rmst_months, trials.rmst_difference),
    ):
        low, high = trials.interval(values, level)
        middle = trials.interval(values, 0.0)[0]
        figure = Estimate(value=middle, low=low, high=high, mc_error=float("nan"), n=many)
        yield f"{of_size}: {measure}", months, figure, whose
    for measure, flags in (
        ("both groups present and events to compare", np.arange(trials.repeats) < many),
        (f"log-rank p < {ALPHA:g}", trials.p_value < ALPHA),
        ("hazard ratio above 1", trials.hazard_ratio > 1),
    ):
        yield f"{of_size}: {measure}", float("nan"), proportion(flags, np.arange(flags.size), level), whose
