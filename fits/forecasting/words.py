"""A forecast in plain words: `summary.md`."""

from collections.abc import Mapping, Sequence

import pandas as pd

from ..retreatment.statistics import STACKED
from .benefit import HORIZON_MONTHS, Benefit
from .posterior import PatientPosterior
from .predictions import MEASUREMENT

NOTICE = "Research software: not a medical device, never a dosing recommendation."


def summary(
    posterior: PatientPosterior,
    tables: Mapping[str, pd.DataFrame],
    *,
    until: float,
    run: str,
    doubts: Sequence[str],
    changes: Sequence[str],
    benefit: Benefit | None,
    why_not: str | None,
) -> str:
    """The page, in Markdown.

    Parameters
    ----------
    posterior
        Of the patient.
    tables
        `forecast`, `progression` and `benefit`, as far as they were made.
    until
        Day of the forecast.
    run
        Name of the run.
    doubts
        Why it should not be trusted.
    changes
        Since an earlier forecast.
    benefit, why_not
        What the laboratory says, or why it was not asked.
    """
    patient = posterior.patient
    lines = [f"# Patient {patient.name}, forecast to day {until:g}", "", f"**{NOTICE}**", ""]
    if doubts:
        lines += ["**Do not trust this forecast yet:**", "", *(f"- {doubt}." for doubt in doubts), ""]
    lines += _section("What it rests on", _ground(posterior, run))
    lines += _section("What has changed", changes)
    lines += _section("Measurements", _measurements(tables["forecast"], until))
    lines += _section("Progression", _progression(posterior, tables.get("progression"), until))
    lines += _section("Options after progression", _options(benefit, why_not))
    if benefit is not None:
        lines += _section("Before you use these figures", benefit.caveats)
    return "\n".join(lines)


def _section(title: str, sentences: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {sentence}" for sentence in sentences), ""] if sentences else []


def _ground(posterior: PatientPosterior, run: str) -> list[str]:
    patient = posterior.patient
    said = [
        f"{patient.rows} records of this patient until day {patient.last_day:g}, and the population of the run {run}.",
        patient.summary,
        f"{posterior.effective:.0f} effective draws of {posterior.weight.size}.",
    ]
    if patient.left_out:
        said.append(f"Left out, for the run has no model of them: {', '.join(patient.left_out)}.")
    return said


def _measurements(table: pd.DataFrame, until: float) -> list[str]:
    said = []
    for assay, rows in table[(table["of"] == MEASUREMENT) & (table["time"] <= until)].groupby("assay", sort=False):
        last = rows.iloc[-1]
        said.append(
            f"{assay} on day {last['time']:g}: {last['median']:.3g} {last['unit']}; with 80 % between {last['low_80']:.3g} and "
            f"{last['high_80']:.3g}, with 95 % between {last['low_95']:.3g} and {last['high_95']:.3g}."
        )
    said.append(
        "These are measurements, residual error included, of a patient without progression and without other therapy until "
        "then."
    )
    return said


def _progression(posterior: PatientPosterior, table: pd.DataFrame | None, until: float) -> list[str]:
    patient = posterior.patient
    if patient.progressed_on is not None:
        return [f"Progression was seen on day {patient.progressed_on:g}; what follows is without any further therapy."]
    if table is None:
        return ["The run was fitted without progression, so nothing is said of it."]
    if table.empty:
        return [f"The patient is known to be free of progression beyond day {until:g}."]
    if patient.free_until is None:
        since = "The file does not say until when the patient is free of progression, so chances count from the infusion"
        said = [f"{since}. Add a row with DVID progression, DV 0 and the last day known to be free of it."]
    else:
        said = [f"Known to be free of progression until day {patient.free_until:g}."]
    for month in (3, 6, 12, 24, 36, int(table["month"].iloc[-1])):
        rows = table[table["month"] == month]
        if len(rows) and not any(f"month {month}:" in line for line in said):
            row = rows.iloc[0]
            said.append(
                f"By the end of month {month}: progression with a chance of {row['probability']:.0%} (Monte Carlo error "
                f"{row['mc_error']:.1%}). Were the patient known exactly, the chance might lie between {row['low_80']:.0%} and "
                f"{row['high_80']:.0%} (80 %)."
            )
    return said


def _options(benefit: Benefit | None, why_not: str | None) -> list[str]:
    if benefit is None:
        return [f"Not computed: {why_not}."] if why_not else []
    said = [
        f"Of the patient's draws {benefit.relapsing:.0%} progress within the laboratory's follow-up of the first course; what "
        f"follows is of these, counted from progression to {HORIZON_MONTHS:g} months, against no treatment."
    ]
    table = benefit.table
    for row in table[table["world"] == STACKED].to_dict("records"):
        if not row["n"]:
            said.append(f"{row['option']}: no draw gets to it.")
            continue
        worlds = table[(table["option"] == row["option"]) & (table["world"] != STACKED)]["better"]
        said.append(
            f"{row['option']} ({benefit.about[row['option']].rstrip('.')}): better with a chance of {row['better']:.0%} (worlds: "
            f"{worlds.min():.0%} to {worlds.max():.0%}), worse with {row['worse']:.0%}; progression-free days gained "
            f"{row['gain_days']:.0f} on average, 95 % of draws between {row['gain_low']:.0f} and {row['gain_high']:.0f}."
        )
    return said
