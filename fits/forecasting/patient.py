"""Which patient is forecast: read from a cohort file, and posed in the terms of a run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError

from ..cohort import COLUMNS, Cohort, read_cohort
from ..cohort_terms import EVENTS
from ..population import estimated
from ..problem import Problem, pose, several
from ..reopened import Reopened
from ..temporal import known_on

#: What the patient is called among the run's own; no file can hold such an ID.
NEWCOMER: Final = "\N{SYMBOL FOR NULL}"
#: Columns in which rows are the same.
COMPARED: Final = ("TIME", "EVID", "AMT", "PRODUCT", "LD", "DVID", "DV", "CENS", "LIMIT")


def one_patient(cohort: Cohort, patient: str | None = None) -> Cohort:
    """The one patient of a file, or the one that is named.

    Raises
    ------
    ReinfuseError
        If there are several and none is named, the named one is absent, or it died.
    """
    known = cohort.patients
    shown = ", ".join(known[:5]) + (" …" if len(known) > 5 else "")
    if patient is None and len(known) > 1:
        raise ReinfuseError(
            f"{cohort.name} has {len(known)} patients ({shown}), and a forecast is of one. Name it with --patient ID, "
            "or give a file with its rows alone."
        )
    chosen = known[0] if patient is None else patient
    if chosen not in known:
        raise ReinfuseError(f"--patient is {patient!r}; {cohort.name} has {shown}. Name one of them.")
    table = cohort.table[cohort.table["ID"] == chosen].reset_index(drop=True)
    if ((table["DVID"] == "death") & (table["DV"] == 1)).any():
        raise ReinfuseError(f"patient {chosen} died; there is nothing to forecast")
    return replace(cohort, table=table)


@dataclass(frozen=True, eq=False)
class NewPatient:
    """A patient in the terms of a run.

    Attributes
    ----------
    name : str
    cohort : Cohort
        The patient's rows.
    problem : Problem
        Of this patient alone: the run's parameters, the patient's course and records.
    known : Problem or None
        The same for the rows that the run was fitted to, where it has this patient already; None: it has not.
    left_out : tuple of str
        Assays of the file that the run has no model of.
    limits : dict of str to float
        Lowest limit of quantification of each assay: the patient's own, else the run's.
    alike : bool
        Whether the run has seen all these rows and no others of the patient.
    """

    name: str
    cohort: Cohort
    problem: Problem
    known: Problem | None
    left_out: tuple[str, ...]
    limits: dict[str, float]
    alike: bool

    @property
    def rows(self) -> int:
        """How many records count."""
        return int(self.problem.n_ob[0])

    @property
    def last_day(self) -> float:
        """Day of the last record that counts; 0 without any."""
        return float(self.problem.ob_time[0, : self.rows].max(initial=0.0))

    @property
    def last_infusion(self) -> float:
        """Day of the latest infusion; progression is counted anew from there."""
        return float(self.cohort.infusions["TIME"].max())

    @property
    def progressed_on(self) -> float | None:
        """Day on which progression was seen after the latest infusion; None: it was not."""
        day = self._events(1.0).min()
        return None if np.isnan(day) else float(day)

    @property
    def free_until(self) -> float | None:
        """Last day after the latest infusion known to be without progression; None: the file does not say."""
        day = self._events(0.0).max()
        return None if np.isnan(day) or self.progressed_on is not None else float(day)

    def _events(self, value: float) -> "pd.Series[float]":
        table = self.cohort.table
        progression = (table["DVID"] == "progression") & (table["TIME"] > self.last_infusion)
        return table.loc[progression & (table["DV"] == value), "TIME"]

    @property
    def summary(self) -> str:
        """What the run knows of this patient, in words."""
        if self.known is None:
            return f"The run has not seen patient {self.name}."
        if self.alike:
            return (
                f"The run has already seen patient {self.name}, with these very rows: they count once, and this is the "
                "patient's own posterior in the run."
            )
        return (
            f"The run has already seen patient {self.name}, with other rows: those are taken out of the population "
            "again, and the rows of this file count in their place."
        )


def pose_patient(run: Reopened, one: Cohort, *, same: bool | None = None) -> NewPatient:
    """Pose a patient in the terms of a run.

    The patient is posed together with the run's own cohort, so that every number that does not vary there, and the
    compiled model, are those of the fit.

    Parameters
    ----------
    run
        A finished run.
    one
        From `one_patient`.
    same
        Whether the run's patient of that ID, if any, is the same person; None: if the first infusion and a measurement
        agree.

    Raises
    ------
    ReinfuseError
        If the run is of a model of one's own, or it cannot say anything of such a patient: another product, more
        infusions, no assay in common.
    """
    problem = run.problem
    if problem.own:
        raise ReinfuseError(
            f"{run.run.path} is a fit of a model of one's own; forecasts of new patients are of CAR-T cells alone"
        )
    theirs = read_cohort(run.run.cohort_path)
    name = one.patients[0]
    _comparable(theirs, one, run)
    measured = set(problem.kernel.kinds)
    mine = one.table["DVID"]
    lacking, kept = one.table[~mine.isin([*measured, ""])], one.table[mine.isin([*measured, ""])]
    assays = {name for name in mine if name and name not in EVENTS}
    if assays and not assays & measured:
        raise ReinfuseError(
            f"patient {name} has {', '.join(sorted(assays))}, and the run was fitted to "
            f"{', '.join(sorted(measured))}: no assay in common. Forecast from a run of a cohort with the same assays."
        )
    columns = list(COLUMNS)
    own = kept.assign(ID=NEWCOMER).reindex(columns=columns)
    both = pd.concat([theirs.table.reindex(columns=columns), own], ignore_index=True).astype(own.dtypes.to_dict())
    together = pose(replace(theirs, table=both), problem.specification, tolerance=problem.tolerance)
    if estimated(together) != estimated(problem) or together.random != problem.random:
        raise ReinfuseError(
            f"patient {name} cannot be posed in the terms of {run.run.path}; fit it anew with this patient"
        )
    before = theirs.table[(theirs.table["ID"] == name) & theirs.table["DVID"].isin([*measured, ""])]
    if same is None:
        same = _shared(before, kept)
    return NewPatient(
        name=name,
        cohort=one,
        problem=alone(together, together.n - 1, name),
        known=alone(together, theirs.patients.index(name), name) if same else None,
        left_out=tuple(sorted(set(lacking["DVID"]))),
        limits=_limits(theirs.table) | _limits(kept),
        alike=same and _keys(before) == _keys(kept),
    )


def _limits(table: pd.DataFrame) -> dict[str, float]:
    """Lowest limit of quantification by assay, of those that have one."""
    found = table[table["LLOQ"] > 0].groupby("DVID")["LLOQ"].min()
    return {str(assay): float(limit) for assay, limit in found.items()}


def _comparable(theirs: Cohort, one: Cohort, run: Reopened) -> None:
    """Refuse a patient whom the run's population does not stand for."""
    name = one.patients[0]
    for product in one.products:
        if product not in theirs.products:
            raise ReinfuseError(
                f"patient {name} got {product}; the run {run.run.path} knows {', '.join(theirs.products)}. Forecast "
                "from a run whose cohort has that product."
            )
    if one.max_infusions > theirs.max_infusions:
        raise ReinfuseError(
            f"patient {name} had {one.max_infusions} infusions, and nobody in the run {run.run.path} had more than "
            f"{theirs.max_infusions}. Forecast from a run whose cohort has as many."
        )


def _keys(rows: pd.DataFrame) -> set[tuple[Any, ...]]:
    """Rows as what can be compared; whatever is missing is the same."""
    text: Callable[[Any], Any] = lambda value: "" if pd.isna(value) else value  # noqa: E731
    return {tuple(text(value) for value in row) for row in rows[list(COMPARED)].itertuples(index=False)}


def _shared(before: pd.DataFrame, now: pd.DataFrame) -> bool:
    """Whether two patients of one ID are the same person: the same first infusion and a measurement in common."""
    first = [_keys(rows[rows["EVID"] == 1].head(1)) for rows in (before, now)]
    measured = [_keys(rows[(rows["EVID"] == 0) & ~rows["DVID"].isin(EVENTS)]) for rows in (before, now)]
    return first[0] == first[1] and bool(measured[0] & measured[1])


def alone(problem: Problem, row: int, name: str) -> Problem:
    """The problem of one of its patients, records included."""
    own = several(problem, np.array([row]))
    rec = problem.observed
    mine: NDArray[np.bool_] = rec.patient == row
    only = rec.only(mine)
    return replace(own, patients=(name,), observed=replace(only, patients=(name,), patient=np.zeros_like(only.patient)))


def read_patient(path: str | Path, patient: str | None = None, *, seen_until: float | None = None) -> Cohort:
    """Read a cohort file by the rules of `reinfuse check`, and take the one patient out of it.

    Parameters
    ----------
    path, patient
        The file, and who, where it has several.
    seen_until
        Forget what came after that day; who progressed or died later is then free of it on that day.
    """
    cohort = read_cohort(path)
    return one_patient(cohort if seen_until is None else known_on(cohort, seen_until), patient)
