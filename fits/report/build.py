"""From a run folder to `report.html`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import jinja2
import pandas as pd

from reinfuse.model.notice import NOTICE

from ..cohort import summarise
from ..diagnosis import powerscaling
from ..diagnosis.convergence import INTERVAL
from ..diagnosis.findings import Findings, examine
from ..diagnosis.identifiability import WORDS
from ..figures import style
from ..figures.plates import Plate, draw_all
from ..run import RunFolder
from . import methods, words
from .retreatment import Retreatment

TEMPLATE: Final = "report.html.j2"

SECTIONS: Final = (
    ("summary", "Summary"),
    ("cohort", "The cohort"),
    ("diagnostics", "Diagnostics in words"),
    ("unmoved", "What the data did not move"),
    ("parameters", "Parameters"),
    ("fits", "Individual fits"),
    ("checks", "Predictive checks"),
    ("yardsticks", "Yardsticks"),
    ("variants", "Comparison of variants"),
    ("retreatment", "Second infusions"),
    ("chains", "Chains"),
    ("limits", "Limits"),
    ("methods", "Methods"),
    ("provenance", "Provenance"),
)


def build_report(
    run: RunFolder,
    findings: Findings | None = None,
    *,
    retreatment: Retreatment | None = None,
    tick: Callable[[], object] = lambda: None,
) -> Path:
    """Write `report.html` into a run: one file with its figures inside, which asks nothing of the network.

    Parameters
    ----------
    run
        An open run folder.
    findings
        From `examine`; computed when None.
    retreatment
        An experiment on this run, to be shown too.
    tick
        Called after each of the `count_plates` figures.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    ReinfuseError
        If the run has no readable posterior or cohort.
    """
    found = examine(run) if findings is None else findings
    return run.write_report(render(found, name=run.path.resolve().name, retreatment=retreatment, tick=tick))


def render(
    findings: Findings,
    *,
    name: str,
    plates: Iterable[Plate] | None = None,
    retreatment: Retreatment | None = None,
    tick: Callable[[], object] = lambda: None,
) -> str:
    """Return the report as HTML text.

    Parameters
    ----------
    findings
        From `examine`.
    name
        What the run is called in the title.
    plates
        Figures drawn already; all of `draw_all` when None.
    retreatment
        An experiment on the run.
    tick
        Called after each figure.
    """
    pictures: dict[str, list[dict[str, str]]] = {key: [] for key, _ in SECTIONS}
    for plate in draw_all(findings) if plates is None else plates:
        section = "yardsticks" if plate.section == "progression" else plate.section
        pictures[section].append({"uri": style.data_uri(plate.figure), "caption": plate.caption})
        tick()
    if retreatment is not None:
        pictures["retreatment"] += retreatment.pictures
    columns, rows, tie = words.comparison(findings.provenance)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = words.number
    environment.filters["percent"] = words.percent
    return environment.get_template(TEMPLATE).render(
        name=name,
        disclaimer=NOTICE,
        sections=SECTIONS,
        plates=pictures,
        converged=findings.diagnostics.converged,
        verdict=words.verdict(findings),
        summary=words.summary(findings),
        retreatment=retreatment,
        retreatment_table=_retreatment_table(retreatment),
        cohort_tables=_cohort_tables(findings),
        diagnostics=findings.diagnostics,
        worst=findings.diagnostics.worst,
        advice=findings.diagnostics.advice,
        shrinkage_words=words.shrinkage(findings),
        conflicts=words.conflicts(findings),
        unmoved=words.unmoved(findings),
        leaning=powerscaling.sentences(findings.sensitivity),
        leaning_table=_table("Sensitivity to priors and data", findings.sensitivity.table, SENSITIVITY_COLUMNS),
        conclusions=findings.conclusions.to_dict("records"),
        hypotheses=findings.hypotheses,
        verdict_words=WORDS,
        interval=INTERVAL,
        parameters=_parameter_rows(findings),
        sources=words.sources(findings),
        medians=words.medians(findings),
        shrinkage=findings.shrinkage.to_dict("records"),
        aliases=findings.aliases.to_dict("records"),
        check_tables=_check_tables(findings),
        new_patient_tables=_new_patient_tables(findings),
        new_patient_words=words.new_patients(findings),
        yardstick_tables=_yardstick_tables(findings),
        forecast_words=words.forecast(findings),
        missing=findings.yardsticks.missing,
        comparison={"columns": columns, "rows": rows, "tie": tie},
        limits=words.limits(findings),
        methods=methods.paragraph(findings),
        works=methods.works(findings),
        provenance=_provenance_rows(findings.provenance),
    )


SENSITIVITY_COLUMNS: Final = {
    "parameter": "parameter",
    "prior": "all priors",
    "own_prior": "its kind's priors",
    "likelihood": "data",
    "shift": "posterior less prior mean (prior sds)",
    "verdict": "verdict",
}

RETREATMENT_COLUMNS: Final = {
    "scenario": "scenario",
    "measure": "read-out",
    "unit": "unit",
    "n": "patients",
    "value": "value",
    "low": "lower",
    "high": "upper",
    "mc_error": "Monte Carlo error",
}

INTERVAL_COLUMNS: Final = {"lower": "lower", "upper": "upper"}
WINDOW_COLUMNS: Final = {"dvid": "assay", "product": "product", "window": "visit window", "n": "n"}
PREDICTED_COLUMNS: Final = {"observed": "observed", "predicted": "predicted", **INTERVAL_COLUMNS}

MEASUREMENT_COLUMNS: Final = {
    "assay": "assay",
    "product": "product",
    "unit": "unit",
    "samples": "samples",
    "patients": "patients",
    "blq": "below limit (%)",
    "median": "median",
    "lowest": "lowest",
    "highest": "highest",
    "first_day": "first day",
    "last_day": "last day",
}

OWN_COLUMNS: Final = {
    "DVID": "observable",
    "unit": "unit",
    "samples": "samples",
    "patients": "patients",
    "blq": "below limit (%)",
}

FOLLOW_UP_COLUMNS: Final = {
    "product": "product",
    "courses": "courses",
    "last_day": "median last day",
    "progressions": "progressions",
    "deaths": "deaths",
    "pfs_events": "PFS events",
    "pfs_median": "PFS median (d)",
}

COVERAGE_COLUMNS: Final = {
    "dvid": "assay",
    "n": "n",
    "n_censored": "censored",
    "inside_50": "in 50 %",
    "inside_80": "in 80 %",
    "inside_95": "in 95 %",
}

NPDE_COLUMNS: Final = {
    "dvid": "assay",
    "n": "n",
    "n_censored": "censored",
    "mean": "mean",
    "mean_p": "p (Wilcoxon)",
    "variance": "variance",
    "variance_p": "p (Fisher)",
    "normality_p": "p (Shapiro-Wilk)",
    "global_p": "p, all three",
}

SAMPLED_COLUMNS: Final = {
    "dvid": "assay",
    "stratum": "product",
    "statistic": "statistic",
    "n": "courses",
    "observed": "observed",
    "predicted": "simulated",
    **INTERVAL_COLUMNS,
    "p_value": "p",
}

PUBLISHED_COLUMNS: Final = {
    "product": "product",
    "study": "study",
    "n": "n",
    "statistic": "statistic",
    "unit": "unit",
    "published": "published",
    "simulated": "simulated",
    **INTERVAL_COLUMNS,
    "p_value": "p",
    "comparable": "comparable scale",
    "tag": "tag",
    "source": "source",
}

PRIOR_COLUMNS: Final = {
    "product": "product",
    "quantity": "quantity",
    "unit": "unit",
    "limit": "limit",
    "outside": "share beyond",
    "median": "median",
    **INTERVAL_COLUMNS,
    "tag": "tag",
    "source": "source",
}

FORECAST_COLUMNS: Final = {
    "cutoff": "seen to day",
    "model": "forecast by",
    "dvid": "assay",
    "n": "rows",
    "n_censored": "censored",
    "elpd": "elpd",
    "elpd_se": "its s.e.",
    "crps": "CRPS (ln)",
    "inside_50": "in 50 %",
    "inside_80": "in 80 %",
    "inside_95": "in 95 %",
    "error_in_ln": "median error in ln",
}

LANDMARK_COLUMNS: Final = {
    "cutoff": "seen to day",
    "model": "forecast by",
    "n": "at risk",
    "progressed": "progressed",
    "concordance": "concordance",
    **INTERVAL_COLUMNS,
    "brier": "Brier",
    "brier_se": "its s.e.",
    "gain": "better than Kaplan-Meier by",
    "gain_se": "its s.e.",
}

THIRDS_COLUMNS: Final = {
    "cutoff": "seen to day",
    "third": "third of risk",
    "n": "n",
    "predicted": "predicted",
    "observed": "observed",
    **INTERVAL_COLUMNS,
}

SURVIVAL_COLUMNS: Final = {
    "product": "product",
    "day": "day",
    "at_risk": "at risk",
    "observed": "observed",
    "observed_lower": "lower",
    "observed_upper": "upper",
    "predicted": "predicted",
    "predicted_lower": "lower",
    "predicted_upper": "upper",
}

DISCRIMINATION_COLUMNS: Final = {
    "measure": "measure",
    "basis": "basis",
    "value": "value",
    **INTERVAL_COLUMNS,
    "n": "n",
    "note": "note",
}


def _cohort_tables(findings: Findings) -> list[dict[str, Any]]:
    if findings.own is not None:
        rows = findings.cohort.observations.assign(BLQ=lambda table: 100.0 * (table["CENS"] == 1))
        of = rows.groupby("DVID", sort=False)
        seen = of.agg(samples=("DV", "size"), patients=("ID", "nunique"), blq=("BLQ", "mean"), last=("TIME", "max"))
        seen = seen.reset_index().assign(unit=[findings.own.observables[name][0] for name in seen.index])
        return [_table("Measurements", seen, OWN_COLUMNS | {"last": f"last time ({findings.own.time_unit})"})]
    found = summarise(findings.cohort)
    medians = found.follow_up["pfs_median"].astype(object)
    follow_up = found.follow_up.assign(pfs_median=medians.replace(float("inf"), "not reached"))
    patients = {"product": "product", "patients": "patients", "with_samples": "with samples"}
    return [
        _table("Patients by first product", found.patients, patients),
        _table("Infusions per patient", found.infusions, {"infusions": "infusions", "patients": "patients"}),
        _table("Measurements", found.assays, MEASUREMENT_COLUMNS),
        _table("Follow-up", follow_up, FOLLOW_UP_COLUMNS),
    ]


def _check_tables(findings: Findings) -> list[dict[str, Any]]:
    blq = findings.blq
    if len(blq):
        blq = blq[(blq["observed"] > 0) | (blq["upper"] > 0)]
    by_window = {**WINDOW_COLUMNS, **PREDICTED_COLUMNS}
    medians = {**by_window, "p_value": "p"}
    return [
        _table("Share of measurements inside predictive intervals", findings.coverage, COVERAGE_COLUMNS),
        _table("Share below the limit of quantification, 95 % interval", blq, by_window),
        _table("Medians by visit window, 95 % interval, predictive p-value", findings.medians, medians),
    ]


def _new_patient_tables(findings: Findings) -> list[dict[str, Any]]:
    found = findings.new_patients
    trials = found.published
    if len(trials):
        trials = trials.assign(comparable=trials["comparable"].map({True: "yes", False: "no"}))
    return [
        _table("Normalised prediction distribution errors: tests", found.npde_tests, NPDE_COLUMNS),
        _table("Peaks and nadirs as sampled, 95 % of simulated studies", found.sampled, SAMPLED_COLUMNS),
        _table("Published figures among simulated studies of the same size", trials, PUBLISHED_COLUMNS),
        _table("Patients drawn from the prior beyond the limits of physiology", found.prior, PRIOR_COLUMNS),
    ]


def _yardstick_tables(findings: Findings) -> list[dict[str, Any]]:
    found = findings.yardsticks
    forecast = "Forecast of the visits of about day 100 from the first weeks"
    survival = "Free of progression, Kaplan-Meier against prediction (95 % intervals)"
    discrimination = "Who progresses, who responds (95 % bootstrap intervals)"
    return [
        _table(forecast, found.forecast, FORECAST_COLUMNS),
        _table("Progression by day 180 forecast for those at risk at a cut-off day", found.landmark, LANDMARK_COLUMNS),
        _table("The same in thirds of the predicted risk (95 % intervals)", found.thirds, THIRDS_COLUMNS),
        _table(survival, found.survival, SURVIVAL_COLUMNS),
        _table(discrimination, found.discrimination, DISCRIMINATION_COLUMNS),
    ]


def _retreatment_table(found: Retreatment | None) -> dict[str, Any]:
    frame = pd.DataFrame(columns=list(RETREATMENT_COLUMNS)) if found is None else found.summary
    return _table("Second course of all patients, by scenario", frame, RETREATMENT_COLUMNS)


def _table(title: str, frame: pd.DataFrame, columns: dict[str, str]) -> dict[str, Any]:
    """Return a table as the template takes it; columns that the frame lacks are left out."""
    shown = [name for name in columns if name in frame]
    rows = [[words.number(value) for value in row] for row in frame[shown].itertuples(index=False)]
    numeric = [not isinstance(frame[name].iloc[0], str) if len(frame) else False for name in shown]
    return {"title": title, "heads": [columns[name] for name in shown], "rows": rows, "numeric": numeric}


def _parameter_rows(findings: Findings) -> list[dict[str, Any]]:
    meanings = (
        dict(zip(findings.judged["parameter"], findings.judged["meaning"], strict=True)) if len(findings.judged) else {}
    )
    rows = []
    for record in findings.summary.to_dict("records"):
        row: dict[str, Any] = {str(name): value for name, value in record.items()}
        row["meaning"] = meanings.get(row["parameter"], "")
        row["tag"] = row["tag"] or "–"
        row["verdict"] = row["verdict"] if isinstance(row["verdict"], str) else "–"
        rows.append(row)
    return rows


def _provenance_rows(written: dict[str, Any]) -> list[tuple[str, str]]:
    """Return run.json as rows, nested tables in one line each."""
    rows = []
    for key, value in written.items():
        if key in ("comparison", "own_model"):
            continue
        text = str(value)
        if isinstance(value, dict):
            parts = {name: words.number(item) if isinstance(item, float) else item for name, item in value.items()}
            text = ", ".join(f"{name} {item}" for name, item in parts.items())
        rows.append((key.replace("_", " "), text))
    return rows
