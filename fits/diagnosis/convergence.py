"""Convergence: whether the chains found one distribution, and how well they describe it.

Rank-normalised split R-hat and bulk and tail effective sample sizes (Vehtari, Gelman, Simpson, Carpenter,
Bürkner, Bayesian Analysis 16:667, 2021) for every scalar of the posterior, individual parameters included,
and the divergences of the Hamiltonian sampler. `advise` puts the result into sentences.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from arviz_stats.base import array_stats

from reinfuse.model.parameters import Parameter

from .causes import APART, Cause, find_causes
from .identifiability import judge
from .scalars import Scalar, every_scalar, is_fixed, list_scalars, stack

Array = npt.NDArray[np.float64]

MAX_RHAT: Final = 1.01
MIN_ESS: Final = 400.0
FEWEST_CHAINS: Final = 2
MAX_DIVERGENCE_SHARE: Final = 0.001
TAILS: Final = (0.05, 0.95)
"""Quantiles whose effective sample size, the smaller, is that of the tails."""

FAR: Final = 0.8
"""Distance, in posterior sds, from which divergent draws are said to gather in one place."""

INTERVAL: Final = 0.95
"""Mass of the central interval in summary.csv."""


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """The verdict on a fit and the numbers it rests on; `diagnostics.json` holds these keys."""

    converged: bool
    max_rhat: float
    min_ess_bulk: float
    min_ess_tail: float
    divergences: int | None
    divergence_share: float | None
    solver_failures: int | None
    n_chains: int
    n_draws: int
    n_scalars: int
    sampler: str
    worst: list[dict[str, float | str]]
    limits: dict[str, float] = field(
        default_factory=lambda: {
            "max_rhat": MAX_RHAT,
            "min_ess": MIN_ESS,
            "max_divergence_share": MAX_DIVERGENCE_SHARE,
        }
    )
    advice: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `diagnostics.json`."""
        return asdict(self)


def scalar_table(posterior: xr.Dataset) -> pd.DataFrame:
    """Return R-hat and effective sample sizes of every sampled scalar.

    Parameters
    ----------
    posterior
        The `/posterior` group of a run.

    Returns
    -------
    DataFrame
        Columns `parameter`, `family`, `rhat`, `ess_bulk`, `ess_tail`, worst R-hat first. Scalars that never
        move (given, not sampled) are left out; a scalar with an undefined draw, or whose chains sit still at
        different values, has R-hat infinite and effective sample size 0.
    """
    names, families, draws = every_scalar(posterior)
    moving = [i for i in range(len(names)) if not is_fixed(draws[:, :, i])]
    if not moving:
        return pd.DataFrame({"parameter": [], "family": [], "rhat": [], "ess_bulk": [], "ess_tail": []})
    table = pd.DataFrame(
        {
            "parameter": [names[i] for i in moving],
            "family": [families[i] for i in moving],
            **_measure(draws[:, :, moving]),
        }
    )
    return table.sort_values("rhat", ascending=False, kind="stable", ignore_index=True)


def diagnose(
    tree: xr.DataTree,
    *,
    sampler: str = "not recorded",
    solver_failures: int | None = None,
    rows: Mapping[str, Parameter] | None = None,
    n_worst: int = 10,
) -> Diagnostics:
    """Judge a fit.

    Parameters
    ----------
    tree
        The posterior of a run.
    sampler
        The sampler that ran, from `run.json`.
    solver_failures
        Counted solver failures, from `run.json`; the sum of `/sample_stats/solver_failures` when None and
        the sampler gave it.
    rows
        Parameter table for the advice; that of real cohorts when None.
    n_worst
        How many scalars to name.

    Returns
    -------
    Diagnostics
        `converged` when the largest R-hat is below `MAX_RHAT`, both effective sample sizes are above
        `MIN_ESS` for every scalar, and the share of divergent draws is below `MAX_DIVERGENCE_SHARE`. One
        chain alone never counts as converged; a sampler that has no divergences to report (None) is not
        judged by them.
    """
    posterior = tree["posterior"].to_dataset()
    statistics = tree["sample_stats"].to_dataset() if "sample_stats" in tree.children else xr.Dataset()
    scalars = scalar_table(posterior)
    rhat = float(scalars["rhat"].max()) if len(scalars) else float("inf")
    bulk = float(scalars["ess_bulk"].min()) if len(scalars) else 0.0
    tail = float(scalars["ess_tail"].min()) if len(scalars) else 0.0
    divergences = share = None
    if "diverging" in statistics:
        flags = statistics["diverging"].values.astype(bool)
        divergences, share = int(flags.sum()), float(flags.mean())
    if "divergent_trajectories" in statistics:  # a sampler that takes many trajectories for each draw
        divergences = int(statistics["divergent_trajectories"].sum())
        share = divergences / max(1.0, float(statistics["trajectories"].sum()))
    if solver_failures is None and "solver_failures" in statistics:
        solver_failures = int(statistics["solver_failures"].sum())
    converged = (
        rhat < MAX_RHAT and bulk > MIN_ESS and tail > MIN_ESS and (share is None or share < MAX_DIVERGENCE_SHARE)
    )
    ordered = scalars.assign(ess=scalars[["ess_bulk", "ess_tail"]].min(axis=1)).sort_values(
        ["rhat", "ess"], ascending=[False, True], kind="stable"
    )
    failing = ordered[(ordered["rhat"] >= MAX_RHAT) | (ordered["ess"] <= MIN_ESS)]
    chosen = pd.concat([failing, ordered]).drop_duplicates("parameter").head(n_worst)
    found = Diagnostics(
        converged=bool(converged),
        max_rhat=rhat,
        min_ess_bulk=bulk,
        min_ess_tail=tail,
        divergences=divergences,
        divergence_share=share,
        solver_failures=solver_failures,
        n_chains=int(posterior.sizes["chain"]),
        n_draws=int(posterior.sizes["draw"]),
        n_scalars=len(scalars),
        sampler=sampler,
        worst=[
            {
                "parameter": str(row.parameter),
                "rhat": _number(row.rhat),
                "ess_bulk": _number(row.ess_bulk),
                "ess_tail": _number(row.ess_tail),
            }
            for row in chosen.itertuples()
        ],
    )
    return Diagnostics(**{**vars(found), "advice": advise(found, tree=tree, scalars=scalars, rows=rows)})


def advise(
    diagnostics: Diagnostics,
    *,
    tree: xr.DataTree,
    scalars: pd.DataFrame | None = None,
    rows: Mapping[str, Parameter] | None = None,
) -> list[str]:
    """Say in sentences what is wrong with a fit, the likely cause, and what to try.

    Parameters
    ----------
    diagnostics
        From `diagnose`.
    tree
        The posterior of the run; divergent draws and correlations are looked up in it.
    scalars
        From `scalar_table`; computed when None.
    rows
        Parameter table; that of real cohorts when None.

    Returns
    -------
    list of str
        Empty for a fit without fault.
    """
    posterior = tree["posterior"].to_dataset()
    if scalars is None:
        scalars = scalar_table(posterior)
    if len(scalars) == 0:
        return ["No parameter was sampled: every draw of every parameter is the same number."]
    chains = int(posterior.sizes["chain"])
    if chains < FEWEST_CHAINS:
        return [
            f"{chains} chain ran: whether chains agree cannot be told. Fit with --chains 4 (2 at least).",
            *(
                cause.sentence
                for cause in find_causes(
                    tree, scalars, set(), wanted=MIN_ESS, rows=rows, solver_failures=diagnostics.solver_failures
                )
            ),
        ]
    apart = scalars[scalars["rhat"] >= MAX_RHAT]
    scarce = scalars[(_least_ess(scalars) <= MIN_ESS) & (scalars["rhat"] < MAX_RHAT)]
    poor = set(apart["parameter"]) | set(scarce["parameter"])
    draws = _enough(diagnostics, scalars)
    causes = find_causes(tree, scalars, poor, wanted=MIN_ESS, rows=rows, solver_failures=diagnostics.solver_failures)
    return [
        *_on_undefined(apart[~np.isfinite(apart["rhat"])]),
        *_on_disagreement(apart[np.isfinite(apart["rhat"])], causes, draws),
        *_on_scarcity(scarce, draws),
        *_on_divergences(diagnostics, tree, list_scalars(posterior, rows)),
        *(cause.sentence for cause in causes),
        *_on_idle(poor, tree, rows),
        *_on_long_paths(tree),
    ]


def summarise(tree: xr.DataTree, *, rows: Mapping[str, Parameter] | None = None) -> pd.DataFrame:
    """Return the content of `summary.csv`: one row per population scalar.

    Parameters
    ----------
    tree
        The posterior of a run.
    rows
        Parameter table for unit, tag and source; that of real cohorts when None.

    Returns
    -------
    DataFrame
        `parameter`, `unit`, `median`, `lower`, `upper` (natural scale; central interval of mass `interval`),
        `interval`, `rhat`, `ess_bulk`, `ess_tail`, `prior_median` (natural scale), `prior_sd` and
        `contraction` (transformed scale; 1 - posterior variance / prior variance), `verdict` (of
        `identifiability.judge`), `tag`, `source`. A scalar that was given, not sampled, has no R-hat.
    """
    posterior = tree["posterior"].to_dataset()
    known = list_scalars(posterior, rows)
    natural = stack(posterior, known, transformed=False)
    measured = scalar_table(posterior).set_index("parameter")
    judged = judge(tree, rows=rows).set_index("parameter") if "prior" in tree.children else None
    lines = []
    for i, scalar in enumerate(known):
        draws = natural.values[:, :, i].ravel()
        low, middle, high = np.quantile(draws, [0.5 - INTERVAL / 2, 0.5, 0.5 + INTERVAL / 2])
        row: dict[str, Any] = {
            "parameter": scalar.name,
            "unit": scalar.unit,
            "median": middle,
            "lower": low,
            "upper": high,
            "interval": INTERVAL,
        }
        for column in ("rhat", "ess_bulk", "ess_tail"):
            row[column] = measured[column].get(scalar.name, np.nan)
        for column in ("prior_median", "prior_sd", "contraction", "verdict"):
            row[column] = np.nan if judged is None else judged[column].get(scalar.name, np.nan)
        lines.append({**row, "tag": scalar.tag, "source": scalar.source})
    return pd.DataFrame(lines)


def _measure(values: Array) -> dict[str, Array]:
    """R-hat and effective sample sizes of (chain, draw, n), with undefined ones made the worst possible."""
    array = np.moveaxis(values, -1, 0)  # arviz wants chain and draw last
    found = {
        "rhat": array_stats.rhat(array, method="rank"),
        "ess_bulk": array_stats.ess(array, method="bulk"),
        "ess_tail": array_stats.ess(array, method="tail", prob=TAILS),
    }
    broken = ~np.isfinite(values).all(axis=(0, 1)) | (np.ptp(values, axis=1) == 0).any(axis=0)
    for name, worst in (("rhat", np.inf), ("ess_bulk", 0.0), ("ess_tail", 0.0)):
        found[name] = np.where(broken | ~np.isfinite(found[name]), worst, found[name])
    return found


def _on_undefined(broken: pd.DataFrame) -> list[str]:
    if len(broken) == 0:
        return []
    return [
        f"{_names(broken)}: a chain holds undefined draws or never moved. Look for a failed start: fit again "
        "with another --seed; if it persists, take smaller steps (a higher target acceptance)."
    ]


def _on_disagreement(apart: pd.DataFrame, causes: list[Cause], draws: int) -> list[str]:
    if len(apart) == 0:
        return []
    worst = float(apart["rhat"].iloc[0])
    opening = f"R-hat is {MAX_RHAT} or more for {_names(apart)} (largest {worst:.3f})."
    if {cause.kind for cause in causes} & {"modes", "stuck"}:
        return [f"{opening} The chains explore different regions."]
    if any(cause.kind == "switching" and set(cause.names) & set(apart["parameter"]) for cause in causes):
        return [f"{opening} The chains explore the same two regions, and seldom go from one to the other."]
    if worst < APART:
        return [
            f"{opening} The chains agree roughly but are too short or mix slowly. Draw more (about --draws {draws})."
        ]
    return [
        f"{opening} The chains wander over the same regions, slowly. Look at the trace and rank plots; tune longer "
        f"(--tune), draw more (about --draws {draws}), and fix or narrow what the data do not measure."
    ]


def _on_scarcity(scarce: pd.DataFrame, draws: int) -> list[str]:
    if len(scarce) == 0:
        return []
    least = float(_least_ess(scarce).min())
    return [
        f"Too few effective draws ({least:.0f}, wanted more than {MIN_ESS:.0f}) for {_names(scarce)}. Of these the "
        f"chains agree, so longer ones will do: about --draws {draws} per chain."
    ]


def _on_divergences(diagnostics: Diagnostics, tree: xr.DataTree, known: list[Scalar]) -> list[str]:
    """Say where the divergent draws lie: at a small omega (a funnel), at an edge, or nowhere."""
    share = diagnostics.divergence_share or 0.0
    if share < MAX_DIVERGENCE_SHARE:
        return []
    wanted = f"less than {100 * MAX_DIVERGENCE_SHARE:.1f} % is wanted"
    what = "trajectories" if "trajectories" in tree["sample_stats"] else "draws"
    opening = f"{diagnostics.divergences} {what} diverged ({100 * share:.2f} %; {wanted})."
    flags = tree["sample_stats"]["diverging"].transpose("chain", "draw").values.astype(bool)
    draws = stack(tree["posterior"].to_dataset(), known).values
    spread = draws.std(axis=(0, 1))
    moving = np.isfinite(spread) & (spread > 0)
    distance = draws[flags].mean(axis=0) - draws.mean(axis=(0, 1))
    shift = np.where(moving, distance / np.where(moving, spread, 1.0), 0.0)
    small = sorted((shift[i], s.name) for i, s in enumerate(known) if s.family == "omega" and shift[i] < -FAR)
    if small:
        return [
            f"{opening} They gather where {_list([name for _, name in small], 3)} is small: a funnel. Sample "
            "that effect non-centred or on the conditional map, use a prior on omega that keeps it from "
            "zero, or drop the random effect."
        ]
    place = int(np.abs(shift).argmax())
    if abs(shift[place]) > FAR:
        side = "high" if shift[place] > 0 else "low"
        return [
            f"{opening} They gather where {known[place].name} is {side}: a cliff or ridge of the likelihood. "
            "Raise the target acceptance, and see whether a narrower, sourced prior keeps the chains out of "
            "it."
        ]
    return [f"{opening} They have no common place. Raise the target acceptance and tune longer (--tune)."]


def _on_idle(poor: set[str], tree: xr.DataTree, rows: Mapping[str, Parameter] | None) -> list[str]:
    if not poor or "prior" not in tree.children:
        return []
    verdicts = judge(tree, rows=rows).set_index("parameter")["verdict"]
    idle = [name for name in sorted(poor) if verdicts.get(name) == "prior"]
    if not idle:
        return []
    return [
        f"{_list(idle)}: slow to sample, and the data do not move it from its prior. Fixing it costs no "
        "information and makes the posterior easier."
    ]


def _on_long_paths(tree: xr.DataTree, least: float = 0.01) -> list[str]:
    """Warn of draws that used the longest path allowed, 2^k - 1 steps with k of 8 or more."""
    if "sample_stats" not in tree.children or "n_steps" not in tree["sample_stats"]:
        return []
    steps = np.asarray(tree["sample_stats"]["n_steps"].values)
    longest = int(steps.max())
    share = float(np.mean(steps == longest))
    if longest < 255 or (longest + 1) & longest or share < least:
        return []
    return [
        f"{100 * share:.0f} % of the draws used the longest path the sampler allows ({longest} steps): the "
        "posterior "
        "is stretched. More tuning (--tune) helps if the step size is still falling; else cure the aliased "
        "pairs."
    ]


def _least_ess(scalars: pd.DataFrame) -> "pd.Series[float]":
    return scalars[["ess_bulk", "ess_tail"]].min(axis=1)


def _enough(diagnostics: Diagnostics, scalars: pd.DataFrame) -> int:
    """Draws per chain that would give the wanted effective sample size, rounded up to a hundred."""
    least = max(float(scalars[["ess_bulk", "ess_tail"]].min().min()), 1.0)
    factor = float(np.clip(1.2 * MIN_ESS / least, 1.5, 20.0))
    return int(np.ceil(diagnostics.n_draws * factor / 100) * 100)


def _names(table: pd.DataFrame, most: int = 5) -> str:
    return _list([str(name) for name in table["parameter"]], most)


def _list(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _number(value: object) -> float:
    return float(value)  # type: ignore[arg-type]
