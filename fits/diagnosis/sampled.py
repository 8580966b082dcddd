"""Peaks and nadirs as a study samples them: the cohort's own figures among those of simulated studies.

The highest CAR transgene and CAR+ count of a patient and the day of it, the lowest sBCMA and M-protein after the
infusion: of the measurements as they were taken, residual error, visits and limits included.
"""

from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..assays import LOG_OFFSET
from ..problem import Problem
from ..simulated_studies import Studies
from ..study_plan import Plan
from .scores import two_sided
from .vpc import FEWEST, measurements, quantiles

Array = npt.NDArray[np.float64]

PEAKS: Final = ("transgene", "cart")
NADIRS: Final = ("sbcma", "mprotein")
INTERVAL: Final = (0.025, 0.5, 0.975)
COLUMNS: Final = ("dvid", "stratum", "statistic", "n", "observed", "lower", "predicted", "upper", "p_value")


def compare(problem: Problem, made: Plan, studies: Studies) -> pd.DataFrame:
    """Return medians over patients of sampled peaks, their days, and nadirs: observed and simulated.

    Parameters
    ----------
    problem, made
        The posed cohort and its plan.
    studies
        From `simulated_studies.replicate_studies`.

    Returns
    -------
    DataFrame
        `dvid`, `stratum` (product, and infusion where there are several), `statistic`, `n` (courses), `observed`,
        `predicted` with `lower` and `upper` (95 % of the studies; in the assay's unit or in days; NaN: below the
        limit) and the two-sided predictive `p_value`.
    """
    seen = measurements(problem, made)
    limit = seen["ln_lloq"].to_numpy()
    y = np.where(seen["below"], -np.inf, seen["observed"])
    simulated = np.where(studies.y < limit[studies.row], -np.inf, studies.y)
    slots = made.starts.shape[1]
    course = made.patient * slots + made.slot - 1
    copied = studies.place * slots + made.slot[studies.row] - 1
    every = np.zeros(len(seen), dtype=np.int64)
    lines: list[dict[str, object]] = []
    for (dvid, stratum), rows in pd.Series(range(len(seen))).groupby([seen["dvid"], seen["stratum"]], sort=True):
        if dvid not in (*PEAKS, *NADIRS):
            continue
        peak = dvid in PEAKS
        mine = np.zeros(len(seen), dtype=bool)
        mine[rows.to_numpy()] = True
        mine &= (made.since > 0) | peak
        if np.unique(course[mine]).size < FEWEST:
            continue
        copies = np.flatnonzero(mine[studies.row])
        offset = LOG_OFFSET.get(str(dvid), 0.0)
        found = _extremes(y[mine], made.since[mine], course[mine], every[mine], peak)
        many = _extremes(
            simulated[copies], made.since[studies.row[copies]], copied[copies], studies.study[copies], peak
        )
        head = {"dvid": str(dvid), "stratum": str(stratum), "n": int(np.unique(course[mine]).size)}
        for which, name in enumerate(("highest", "day of the highest") if peak else ("lowest",)):
            numbers = np.concatenate([found[which], quantiles(many[which][:, None], INTERVAL)[:, 0]])
            natural = numbers if which else np.where(np.isfinite(numbers), np.exp(numbers) - offset, np.nan)
            lines.append(
                {
                    **head,
                    "statistic": f"{name}, median",
                    **dict(zip(("observed", "lower", "predicted", "upper"), natural.tolist(), strict=True)),
                    "p_value": two_sided(many[which], float(found[which][0])),
                }
            )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _extremes(
    values: Array, since: Array, course: npt.NDArray[np.int64], study: npt.NDArray[np.int64], peak: bool
) -> tuple[Array, Array]:
    """Medians over the courses of each study, (studies,): of the highest (or lowest) value, and of its day."""
    order = np.lexsort((since, -values if peak else values, course, study))
    key = np.stack([study[order], course[order]])
    first = np.flatnonzero(np.any(np.diff(key, axis=1, prepend=-1) != 0, axis=0))
    extreme, day, of = values[order][first], since[order][first], study[order][first]
    bounds = np.append(np.flatnonzero(np.diff(of, prepend=-1)), of.size)
    parts = [slice(low, high) for low, high in pairwise(bounds.tolist())]
    middle = np.array([quantiles(extreme[part][:, None], (0.5,))[0, 0] for part in parts])
    return middle, np.array([np.median(day[part]) for part in parts])
