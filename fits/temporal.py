"""A cohort as it was known on a day, and what a fit of it says of the time after.

Harsher than `fits.holdout`, where the other patients' full courses are known: here everybody's data end on the same day
after infusion, so what happens later is known from priors and model alone.
"""

from typing import Final

import numpy as np
import xarray as xr

from reinfuse.model.errors import ReinfuseError

from .cohort import Cohort, cohort_from_frame
from .cohort_terms import EVENTS
from .holdout import HORIZONS, late_rows, predicted, progression, simulated_until
from .problem import Problem
from .results import DEGREES, Draws, thinned

SAMPLES: Final = 800
FIRST: Final = 10.0  # day: before, nobody is assessed for progression


def known_on(cohort: Cohort, day: float) -> Cohort:
    """Return the cohort with everything after a day taken away.

    Whoever was followed longer, or progressed or died later, becomes "free of it" on that day.

    Parameters
    ----------
    cohort
        A checked cohort.
    day
        Days since the first infusion.

    Raises
    ------
    ReinfuseError
        If the day lies before day 10, when progression begins to count.
    """
    if day < FIRST:
        raise ReinfuseError(f"a cohort known on day {day:g} has no progression yet; take a day from {FIRST:g} on")
    table = cohort.table.copy()
    is_event, later = table["DVID"].isin(EVENTS), table["TIME"] > day
    happened = table[is_event & ~later & (table["DV"] == 1)].set_index(["ID", "DVID"]).index
    names = table.set_index(["ID", "DVID"]).index
    moved = is_event & later & ~names.isin(happened)
    moved &= ~table[moved].duplicated(["ID", "DVID"]).reindex(table.index, fill_value=False)
    table.loc[moved, "TIME"], table.loc[moved, "DV"] = day, 0.0
    left = table[~later | moved]
    order = {name: place for place, name in enumerate(cohort.patients)}
    left = left.sort_values(["ID", "TIME"], key=lambda c: c.map(order) if c.name == "ID" else c, kind="stable")
    return cohort_from_frame(left.reset_index(drop=True), name=f"known on day {day:g}")


def forecast_from(full: Problem, draws: Draws, *, day: float, after: float, until: float) -> xr.Dataset:
    """Predictions of later rows and of progression from a fit whose data end on a day.

    Parameters
    ----------
    full
        The whole cohort, posed: what came later.
    draws
        Of the fit to the cohort `known_on` the day.
    day
        The last day of its data.
    after, until
        Rows after one day and up to another are predicted.

    Returns
    -------
    xarray.Dataset
        As `RunFolder.write_forecast` wants it.
    """
    problem = draws.problem
    places = thinned(draws, SAMPLES)
    deviations = np.stack([draws.deviation[c, k] for c, k in places])
    rows = late_rows(full, after, until)
    simulated = simulated_until(problem, draws, places, deviations, rows, day)
    # the fit has seen who was free of progression on the day; what counts is the time from there
    log_weights = np.zeros((len(places), problem.n))
    if "H" not in simulated.curves:
        return predicted(problem, draws, places, rows, simulated, log_weights, day).assign(nu=((), DEGREES))
    log_weights = np.nan_to_num(simulated.at("H", day))
    result = predicted(problem, draws, places, rows, simulated, log_weights, day).assign(nu=((), DEGREES))
    _, free = progression(problem, simulated, log_weights, day)
    return result.assign(free=(("cutoff", "subject", "horizon"), free[None])).assign_coords(
        cutoff=[day], subject=list(problem.patients), horizon=list(HORIZONS)
    )
