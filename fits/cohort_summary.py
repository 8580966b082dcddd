"""What is in a cohort: patients, infusions, samples, follow-up; `scripts.check` prints it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from .cohort_terms import ASSAY_TABLE, EVENTS

if TYPE_CHECKING:
    from .cohort import Cohort


@dataclass(frozen=True)
class CohortSummary:
    """Small tables that describe a cohort.

    Parameters
    ----------
    patients
        Per product of the first infusion: `product`, `patients`, `with_samples` (patients with any assay).
    infusions
        `infusions` per patient, and the number of `patients` who got so many.
    assays
        Per assay and product in effect: `assay`, `product`, `unit`, `samples`, `patients`, `blq` (% below the
        limit), `median`, `lowest`, `highest` (of quantified values; NaN if none), `first_day`, `last_day`.
    follow_up
        Per product, over infusion courses: `product`, `courses`, `last_day` (median of the last day known,
        counted from the infusion), `progressions`, `deaths`, `pfs_events` (progression or death in the
        course), `pfs_median` (Kaplan-Meier, days; inf = not reached, NaN = no such rows).
    after_progression
        Per assay and product: `assay`, `product`, `samples` taken after progression and before the next
        infusion.
    """

    patients: pd.DataFrame
    infusions: pd.DataFrame
    assays: pd.DataFrame
    follow_up: pd.DataFrame
    after_progression: pd.DataFrame


def summarise(cohort: "Cohort") -> CohortSummary:
    """Describe a cohort.

    Parameters
    ----------
    cohort
        A checked cohort.

    Returns
    -------
    CohortSummary
        Its tables; products and assays in a fixed order.
    """
    infusions = cohort.infusions
    product_of = {(i, s): p for i, s, p in zip(infusions["ID"], infusions["SLOT"], infusions["PRODUCT"], strict=True)}
    rows = cohort.observations.assign(
        SLOT=cohort.observation_slots,
        PRODUCT=[
            product_of[key] for key in zip(cohort.observations["ID"], cohort.observation_slots.tolist(), strict=True)
        ],
        AFTER=cohort.after_progression,
    )
    samples = rows[~rows["DVID"].isin(EVENTS)]
    return CohortSummary(
        patients=_patients(infusions, samples),
        infusions=_infusions(infusions),
        assays=_assays(samples),
        follow_up=_follow_up(infusions, rows),
        after_progression=_after(samples),
    )


def kaplan_meier_median(times: npt.ArrayLike, events: npt.ArrayLike) -> float:
    """Take the Kaplan-Meier median of right-censored times.

    Parameters
    ----------
    times
        (n,) days.
    events
        (n,) True where the event happened, False where follow-up ended.

    Returns
    -------
    float
        First time at which survival is 0.5 or less; inf if it never is; NaN for no times.
    """
    time = np.asarray(times, dtype=np.float64)
    happened = np.asarray(events, dtype=np.bool_)
    if time.size == 0:
        return float("nan")
    survival = 1.0
    for t in np.unique(time[happened]):
        at_risk = int(np.sum(time >= t))
        survival *= 1.0 - float(np.sum(happened & (time == t))) / at_risk
        if survival <= 0.5 + 1e-12:
            return float(t)
    return float("inf")


def _patients(infusions: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    first = infusions[infusions["SLOT"] == 1]
    sampled = set(samples["ID"])
    records = [
        (product, len(group), int(group["ID"].isin(sampled).sum()))
        for product, group in first.groupby("PRODUCT", sort=True)
    ]
    return pd.DataFrame.from_records(records, columns=["product", "patients", "with_samples"])


def _infusions(infusions: pd.DataFrame) -> pd.DataFrame:
    counts = infusions.groupby("ID")["SLOT"].max().value_counts().sort_index()
    return pd.DataFrame({"infusions": counts.index.to_numpy(), "patients": counts.to_numpy()})


def _assays(samples: pd.DataFrame) -> pd.DataFrame:
    records = []
    for assay, description in ASSAY_TABLE.items():
        for product, group in samples[samples["DVID"] == assay].groupby("PRODUCT", sort=True):
            quantified = group.loc[group["CENS"] == 0, "DV"]
            records.append(
                (
                    assay,
                    product,
                    description.unit,
                    len(group),
                    group["ID"].nunique(),
                    100.0 * float((group["CENS"] == 1).mean()),
                    quantified.median(),
                    quantified.min(),
                    quantified.max(),
                    group["TIME"].min(),
                    group["TIME"].max(),
                )
            )
    return pd.DataFrame.from_records(
        records,
        columns=[
            "assay",
            "product",
            "unit",
            "samples",
            "patients",
            "blq",
            "median",
            "lowest",
            "highest",
            "first_day",
            "last_day",
        ],
    )


def _follow_up(infusions: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Per product over its infusion courses; progression-free survival ends at progression or death."""
    courses = infusions.assign(NEXT=infusions.groupby("ID", sort=False)["TIME"].shift(-1))
    lines = []
    by_patient = {patient: group for patient, group in rows.groupby("ID", sort=False)}
    for product, group in courses.groupby("PRODUCT", sort=True):
        last_days, times, events = [], [], []
        progressions = deaths = 0
        for patient, slot, start, following in zip(
            group["ID"], group["SLOT"], group["TIME"], group["NEXT"], strict=True
        ):
            of_course = by_patient[patient]
            of_course = of_course[of_course["SLOT"] == slot]
            end = max([start, *of_course["TIME"]]) if np.isnan(following) else following
            last_days.append(end - start)
            progression = of_course[of_course["DVID"] == "progression"]
            death = of_course[(of_course["DVID"] == "death") & (of_course["DV"] == 1)]
            progressed = bool((progression["DV"] == 1).any())
            progressions += int(progressed)
            deaths += len(death)
            if progressed:
                times.append(float(progression["TIME"].iloc[0]) - start)
                events.append(True)
            elif len(death):
                times.append(float(death["TIME"].iloc[0]) - start)
                events.append(True)
            elif len(progression):
                times.append(float(progression["TIME"].iloc[0]) - start)
                events.append(False)
        lines.append(
            (
                product,
                len(group),
                float(np.median(last_days)),
                progressions,
                deaths,
                int(sum(events)),
                kaplan_meier_median(times, events),
            )
        )
    return pd.DataFrame.from_records(
        lines,
        columns=["product", "courses", "last_day", "progressions", "deaths", "pfs_events", "pfs_median"],
    )


def _after(samples: pd.DataFrame) -> pd.DataFrame:
    flagged = samples[samples["AFTER"]]
    records = [
        (assay, product, len(group))
        for assay in ASSAY_TABLE
        for product, group in flagged[flagged["DVID"] == assay].groupby("PRODUCT", sort=True)
    ]
    return pd.DataFrame.from_records(records, columns=["assay", "product", "samples"])
