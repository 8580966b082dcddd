"""A forecast in plain words: `summary.md`."""

from collections.abc import Mapping, Sequence
from typing import Final

import pandas as pd

from reinfuse.model.notice import NOTICE

from ..retreatment.statistics import STACKED
from .benefit import HORIZON_MONTHS, Benefit
from .posterior import PatientPosterior
from .predictions import MEASUREMENT

MONTHS_TOLD: Final = (3, 6, 12, 24, 36)


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
    lines += _section("Measurements", _measurements(posterior, tables["forecast"]))
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


def _measurements(posterior: PatientPosterior, table: pd.DataFrame) -> list[str]:
    limits = posterior.patient.limits
    said = []
    for assay, rows in table[table["of"] == MEASUREMENT].groupby("assay", sort=False):
        last = rows.iloc[-1]
        median, low, high, lowest, highest = (
            value_in_words(float(last[name]), limits.get(str(assay)))
            for name in ("median", "low_80", "high_80", "low_95", "high_95")
        )
        said.append(
            f"{assay} on day {last['time']:g}: {median} {last['unit']}; with 80 % {between(low, high)}, with 95 % "
            f"{between(lowest, highest)}."
        )
    seen = posterior.patient.progressed_on is not None
    without = "other therapy" if seen else "progression and without other therapy"
    return [*said, f"These are measurements, residual error included, of a patient without {without} until then."]


def between(low: str, high: str) -> str:
    """Two ends of an interval, or the one that both are."""
    return low if low == high else f"between {low} and {high}"


def value_in_words(value: float, limit: float | None) -> str:
    """A value of an assay in three figures, or that it is below the limit."""
    return f"<{limit:.3g}" if limit is not None and value < limit else f"{value:.3g}"


def _progression(posterior: PatientPosterior, table: pd.DataFrame | None, until: float) -> list[str]:
    patient = posterior.patient
    if patient.progressed_on is not None:
        return [f"Progression was seen on day {patient.progressed_on:g}; the forecast is without any further therapy."]
    if table is None:
        return ["The run was fitted without progression, so nothing is said of it."]
    if table.empty:
        return [f"No month ends after the last day known to be free of progression and before day {until:g}."]
    if patient.free_until is None:
        said = [
            "The file does not say until when the patient is free of progression, so chances count from the latest "
            "infusion. Add a row with DVID progression, DV 0 and the last day known to be free of it."
        ]
    else:
        said = [f"Known to be free of progression until day {patient.free_until:g}."]
    shown = sorted({*MONTHS_TOLD, int(table["month"].iloc[-1])})
    for row in table[table["month"].isin(shown)].to_dict("records"):
        said.append(
            f"By the end of month {row['month']:.0f}: progression with a chance of {row['probability']:.0%} (Monte "
            f"Carlo error {row['mc_error']:.1%}), the mean over the patient's draws; 80 % of them give between "
            f"{row['low_80']:.0%} and {row['high_80']:.0%}."
        )
    return said


def _options(benefit: Benefit | None, why_not: str | None) -> list[str]:
    if benefit is None:
        return [f"Not computed: {why_not}."] if why_not else []
    said = [
        f"Of the patient's draws {benefit.relapsing:.0%} progress within the laboratory's follow-up of the first "
        f"course. What follows is of these, counted from progression to {HORIZON_MONTHS:g} months, against none."
    ]
    table = benefit.table
    for row in table[table["world"] == STACKED].to_dict("records"):
        name = row["option"]
        if not row["n"]:
            said.append(f"{name}: no draw gets to it.")
            continue
        worlds = table[(table["option"] == name) & (table["world"] != STACKED)]["better"]
        said.append(
            f"{name} ({benefit.about[name].rstrip('.')}): better with a chance of {row['better']:.0%} (by world "
            f"{worlds.min():.0%} to {worlds.max():.0%}), worse with {row['worse']:.0%}; progression-free days "
            f"gained {row['gain_days']:.0f} on average, {row['gain_low']:.0f} to {row['gain_high']:.0f} for 95 % of "
            "draws."
        )
    return said
