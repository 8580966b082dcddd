"""The whole analysis: runs, indices of every outcome, their convergence, what was left out.

Rules. A unit (block, trajectory, replicate, walk, row) with a run that failed is left out whole, for every outcome; an
outcome that only relapsed patients have is looked at in them, with methods that look at rows. When too many units are
left out the indices are not to be trusted, and it is said. A ranking is stable when, between half of the units and all,
no two inputs of clearly different index change places, and when every interval is narrow enough.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from . import campaign
from .campaign import Evaluator, Runs
from .designs import GIVEN_DATA, Design
from .indices import LEVEL, MAIN, RESAMPLES, Index, check_varies, estimate
from .outcomes import CURVES, OUTCOMES, describe, failure_sentence, without_world
from .reader import Reader

type Floats = NDArray[np.float64]

#: Share of units left out above which indices are not to be trusted.
MOST_LEFT_OUT: Final = 0.05
#: Half-width of an interval that is narrow enough: a share of the variance, or of the largest index where it is none.
PRECISION: Final = 0.05
#: Failed runs that are written down with their inputs.
MOST_LOCATED: Final = 1000
#: Methods whose indices are no shares of one.
UNSCALED: Final = ("morris", "dgsm")


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What an analysis found.

    Attributes
    ----------
    indices : DataFrame
        outcome, parameter, index, value, lower, upper, interval (its probability); pairs as ``a × b``.
    convergence : DataFrame
        The ranking index of every outcome at an eighth, a quarter, half and all of the units.
    failures : DataFrame
        Runs that failed: unit, row, reason and the inputs.
    units, runs, left_out : int
        Units, model runs, units left out.
    reasons : dict of str to int
        Runs that failed, by reason.
    unstable : dict of str to str
        Outcomes whose ranking is not stable, and why.
    notes : list of str
    """

    indices: pd.DataFrame
    convergence: pd.DataFrame
    failures: pd.DataFrame
    units: int
    runs: int
    left_out: int
    reasons: dict[str, int]
    unstable: dict[str, str]
    notes: list[str] = field(default_factory=list)

    @property
    def share_left_out(self) -> float:
        """Share of units left out."""
        return self.left_out / self.units


def check_suits(method: str, outcomes: tuple[str, ...]) -> None:
    """Refuse an outcome that a method cannot answer for.

    Raises
    ------
    ReinfuseError
        For outcomes of relapsed patients with a method that needs everybody; and for derivatives of what has none.
    """
    for name in outcomes:
        plain = without_world(name)
        if plain not in OUTCOMES and plain.partition("@")[0] not in CURVES:
            continue
        outcome = describe(plain)
        if (outcome.relapsed_only and method not in GIVEN_DATA) or (outcome.relapsed_only and method == "rbd-fast"):
            raise ReinfuseError(
                f"{name} is known only of patients who relapse, and {method} needs it of all; take "
                "shapley-knn, delta or pawn, or the outcome benefit, which is 0 for who does not relapse"
            )
        if method == "dgsm" and not outcome.smooth:
            raise ReinfuseError(f"{name} has no derivative (it is seen at visits or whole days); take another method")


def _unwatched(_: float) -> AbstractContextManager[Callable[[float], None]]:
    return nullcontext(lambda _: None)


def analyse(
    design: Design,
    reader: Evaluator,
    *,
    units: int,
    seed: int,
    folder: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    cores: int | None = None,
    cluster: str | None = None,
    until_stable: bool = False,
    most_runs: int | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    precision: float = PRECISION,
    watch: Callable[[float], AbstractContextManager[Callable[[float], None]]] = _unwatched,
) -> Found:
    """Run a design and find the indices of every outcome.

    Parameters
    ----------
    design, reader
        Points, and what is read out of them.
    units
        Of the design; a power of two for Sobol's sequence to be balanced.
    seed
        Of the intervals.
    folder, recipe, cores, cluster
        As for `campaign.run`.
    until_stable
        Double the units until every ranking is stable, or a round more would be above `most_runs`.
    most_runs
        See there; None: 64 times `units`.
    level, resamples
        Of the intervals.
    precision
        Half-width of a narrow interval.
    watch
        Opened for every round of units with the model runs in it; what it gives is told of these as they are done.

    Raises
    ------
    ReinfuseError
        If a method does not suit an outcome, an outcome is constant, or too few units are complete; if units that are
        to be doubled do not fill their tasks.
    """
    check_suits(design.method, reader.outcomes)
    worth = campaign.runs_of_unit(design)
    limit = min(max(units, most_runs // worth) if most_runs else 64 * units, design.most or 2**62)
    units = min(units, limit)
    each = min(campaign.units_per_task(design), units)
    if until_stable and 2 * units <= limit and units % each:
        raise ReinfuseError(
            f"units is {units}, not a multiple of the {each} of a task; with until_stable give 2, 4, 8 …"
        )
    run = partial(
        campaign.run, design, reader, each=each, folder=folder, recipe=recipe, cores=cores, cluster=cluster
    )  # fmt: skip
    if units > each:
        _check_pilot(design, reader, run(units=each))
    while True:
        with watch(float(units * worth)) as tick:
            runs = run(units=units, tick=tick)
        found = _found(design, reader, runs, seed, level, resamples, precision)
        if not until_stable or not found.unstable or 2 * units > limit:
            return found
        units *= 2


def _check_pilot(design: Design, reader: Evaluator, runs: Runs) -> None:
    """Refuse an outcome that does not vary in the first task, before the others are done."""
    rows = slice(0, 1) if design.method == "dgsm" else slice(None)
    for j, name in enumerate(reader.outcomes):
        y = runs.y[:, rows, j]
        there = (runs.status[:, rows] == 0) & np.isfinite(y)
        if there.any():
            check_varies(name, y[there])


def _found(
    design: Design, reader: Evaluator, runs: Runs, seed: int, level: float, resamples: int, precision: float
) -> Found:
    tables, steps, unstable = [], [], {}
    for j, name in enumerate(reader.outcomes):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9, j)))
        usable = _usable(runs, j)
        check_varies(name, runs.y[usable][:, 0 if design.method == "dgsm" else slice(None), j])
        found = estimate(
            design, runs.y[usable][:, :, j], units=usable, rng=rng, level=level, resamples=resamples,
            second_order=design.second_order,
        )  # fmt: skip
        tables.append(_table(design, name, found, level))
        history = _history(design, runs, j, rng, level)
        history.append((runs.units, found[MAIN[design.method]]))
        steps += [_step(design, name, units, index) for units, index in history]
        if reason := _unstable(design, history, precision):
            unstable[name] = reason
    failed = np.argwhere(runs.status != 0)
    left_out = int((runs.status != 0).any(axis=1).sum())
    codes, counts = np.unique(runs.status[runs.status != 0], return_counts=True)
    per_unit = design.rows if design.method != "dgsm" else 1
    return Found(
        indices=pd.concat(tables, ignore_index=True),
        convergence=pd.concat(steps, ignore_index=True),
        failures=_located(design, runs, failed[:MOST_LOCATED]),
        units=runs.units,
        runs=runs.units * per_unit,
        left_out=left_out,
        reasons={failure_sentence(int(code)): int(count) for code, count in zip(codes, counts, strict=True)},
        unstable=unstable,
        notes=_notes(design, reader),
    )


def _usable(runs: Runs, j: int) -> NDArray[np.int64]:
    """Units without a failed run that have the outcome."""
    complete = (runs.status == 0).all(axis=1) & np.isfinite(runs.y[:, :, j]).all(axis=1)
    return np.flatnonzero(complete)


def _table(design: Design, outcome: str, found: Mapping[str, Index], level: float) -> pd.DataFrame:
    names = np.array(design.inputs.names, dtype=object)
    rows = []
    where: tuple[NDArray[np.int64], ...]
    for name, index in found.items():
        if index.value.ndim == 1:
            labels, where = list(names), (np.arange(names.size),)
        else:
            i, j = np.triu_indices(names.size, 1)
            labels, where = [f"{names[a]} × {names[b]}" for a, b in zip(i, j, strict=True)], (i, j)
        rows.append(
            pd.DataFrame(
                {
                    "outcome": outcome,
                    "parameter": labels,
                    "index": name,
                    "value": index.value[where],
                    "lower": index.lower[where],
                    "upper": index.upper[where],
                    "interval": level,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def _history(design: Design, runs: Runs, j: int, rng: np.random.Generator, level: float) -> list[tuple[int, Index]]:
    """The ranking index at an eighth, a quarter and half of the units, where these are enough."""
    found = []
    for part in (8, 4, 2):
        head = runs.head(runs.units // part)
        usable = _usable(head, j)
        if len(usable) < (64 if design.method in GIVEN_DATA else 16):
            continue
        index = estimate(design, head.y[usable][:, :, j], units=usable, rng=rng, level=level, resamples=10)
        found.append((head.units, index[MAIN[design.method]]))
    return found


def _step(design: Design, outcome: str, units: int, index: Index) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "outcome": outcome,
            "units": units,
            "runs": units * (design.rows if design.method != "dgsm" else 1),
            "parameter": list(design.inputs.names),
            "index": MAIN[design.method],
            "value": index.value,
            "lower": index.lower,
            "upper": index.upper,
        }
    )


def _unstable(design: Design, history: list[tuple[int, Index]], precision: float) -> str:
    """Why a ranking is not stable; empty if it is."""
    last = history[-1][1]
    scale = float(np.max(np.abs(last.value))) if design.method in UNSCALED else 1.0
    widest = int(np.argmax(last.upper - last.lower))
    half = float(last.upper[widest] - last.lower[widest]) / 2
    if half > precision * scale:
        return f"the interval of {design.inputs.names[widest]} is ± {half:.3f}, wider than ± {precision * scale:.3f}"
    if len(history) < 2:
        return "there are too few units to compare with half of them"
    before = history[-2][1]
    names = design.inputs.names
    for i in np.argsort(-last.value):
        for j in np.flatnonzero(last.upper < last.lower[i]):  # clearly smaller now
            if before.value[j] > before.value[i]:
                return f"{names[i]} and {names[j]} change places between half of the units and all"
    return ""


def _located(design: Design, runs: Runs, places: NDArray[np.int64]) -> pd.DataFrame:
    rows = []
    for unit, row in places:
        if design.method == "dgsm" and row > 0:
            continue
        values = design.values(int(unit), 1)[0, row]
        reason = failure_sentence(int(runs.status[unit, row]))
        rows.append({"unit": unit, "row": row, "reason": reason, **dict(zip(design.inputs.names, values, strict=True))})
    return pd.DataFrame(rows, columns=["unit", "row", "reason", *design.inputs.names])


def _notes(design: Design, reader: Evaluator) -> list[str]:
    said = []
    if design.dependence == "independent":
        said.append(
            "The inputs are correlated, and their correlations were cut: the indices are of patients with the same "
            "marginals and no correlation, which is not the population of the run."
        )
    if design.dependence == "rosenblatt":
        said.append(
            "The inputs are correlated: the index of each is of what it adds to those before it (Rosenblatt's "
            "transform of a Gaussian copula), and another order gives other indices."
        )
    if design.method == "shapley" and design.inputs.dependent:
        said.append("Conditional draws come from a Gaussian copula with the inputs' marginals and rank correlations.")
    if design.method == "dgsm":
        exact = isinstance(reader, Reader)
        how = "exact (discrete adjoint of the solver)" if exact else f"forward differences over {campaign.STEP} sd"
        said.append(f"Derivatives are {how}.")
    return said
