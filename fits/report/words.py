"""Findings put into sentences: what may be said, and what may not.

Two rules hold everywhere. A number that is only RECALLED (never checked against a source) is not printed as
if it were known. And the name of a mechanism stands in a conclusion only if the data moved one of its
parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from ..diagnosis.convergence import MAX_DIVERGENCE_SHARE, MAX_RHAT, MIN_ESS
from ..diagnosis.findings import Findings
from ..diagnosis.forecasts import MODEL
from ..diagnosis.identifiability import SHRUNK

EXHAUSTION_SYMBOLS: Final = ("kX", "rX", "dX", "xi", "bX", "bXQ", "fXQ")
"""Parameters of the exhausted state; only data that move one of the first three groups speak about it."""

TIE: Final = 2.0
"""Differences of predictive density below so many standard errors are called a tie."""

SMALL_ELPD: Final = 4.0
"""Differences of elpd below which two models predict alike, whatever their standard error."""

SURPRISING: Final = 0.05

WITHHELD: Final = "recalled and unchecked, not shown"


def verdict(findings: Findings) -> str:
    """Say in a sentence whether the fit may be trusted as a description of its posterior."""
    found = findings.diagnostics
    numbers = (
        f"largest R-hat {found.max_rhat:.3f} (below {MAX_RHAT} is wanted), smallest effective sample size "
        f"{found.min_ess_bulk:.0f} in the bulk and {found.min_ess_tail:.0f} in the tails (above "
        f"{MIN_ESS:.0f}), "
    )
    if found.divergence_share is None:
        numbers += "divergences not recorded by the sampler"
    else:
        numbers += f"{found.divergences} divergent trajectories (below {percent(MAX_DIVERGENCE_SHARE, 1)})"
    if found.converged:
        return f"The fit converged: {numbers}."
    return f"The fit did not converge; do not use its numbers yet: {numbers}."


def summary(findings: Findings) -> list[str]:
    """Return the sentences that open the report."""
    cohort, found = findings.cohort, findings.diagnostics
    if findings.own is not None:
        who = f"Model {findings.own.name}: {cohort.n_patients} patients, {len(cohort.infusions)} doses"
    else:
        counts = cohort.infusions[cohort.infusions["SLOT"] == 1]["PRODUCT"].value_counts()
        products = ", ".join(f"{number} {product}" for product, number in counts.items())
        again = int((cohort.infusions.groupby("ID")["SLOT"].max() > 1).sum())
        who = f"{cohort.n_patients} patients ({products} at the first infusion; {again} with a second infusion)"
    said = [
        f"{who}, {len(findings.observations)} measurements, {found.n_chains} chains of {found.n_draws} draws with "
        f"{found.sampler}.",
        verdict(findings),
    ]
    if len(findings.judged):
        said.append(
            f"Of {int((findings.judged['verdict'] != 'fixed').sum())} population parameters the data "
            f"measured {len(findings.with_verdict('measured by the data'))}, measured "
            f"{len(findings.with_verdict('partly'))} partly, and left {len(findings.with_verdict('prior'))} "
            "at their priors."
        )
    if len(findings.coverage):
        worst = findings.coverage.iloc[int((findings.coverage["inside_95"] - 0.95).abs().argmax())]
        said.append(
            f"Of all measurements, {_share(findings, 'inside_50')} lie in their 50 % and "
            f"{_share(findings, 'inside_95')} in their 95 % predictive interval (furthest from it: "
            f"{worst['dvid']}, {percent(worst['inside_95'])})."
        )
    said += progression_sentences(findings)
    if findings.own is None:
        said.append(on_exhaustion(findings.judged))
    return [sentence for sentence in said if sentence]


def progression_sentences(findings: Findings) -> list[str]:
    """Say how predicted progression compares with the observed."""
    table = findings.yardsticks.survival
    said = []
    for product, rows in table.groupby("product", sort=True) if len(table) else ():
        seen = rows[np.isfinite(rows["observed"]) & np.isfinite(rows["predicted"])]
        if len(seen):
            pairs = "; ".join(
                f"day {row['day']:.0f}: {row['observed']:.2f} against {row['predicted']:.2f}"
                for _, row in seen.iterrows()
            )
            said.append(f"Free of progression after {product}, observed against predicted: {pairs}.")
    return said


def on_exhaustion(judged: pd.DataFrame) -> str:
    """Say what the run has to say about the exhausted state, naming it only if the data moved a parameter."""
    if len(judged) == 0:
        return ""
    own = judged[judged["symbol"].isin(EXHAUSTION_SYMBOLS) & (judged["verdict"] != "fixed")]
    moved = own[own["verdict"] != "prior"]
    if len(moved):
        parts = ", ".join(
            f"{row['parameter']} (contraction {percent(row['contraction'])}, {row['verdict']})"
            for _, row in moved.iterrows()
        )
        return (
            f"Parameters of exhaustion that the data moved: {parts}. Read this as a statement about this "
            "model; compare it with the fit without these terms before building on it."
        )
    idle = f" ({', '.join(own['parameter'])})" if len(own) else ""
    return (
        f"These data do not inform the model's terms for loss of function under antigen{idle}: the fit is no "
        "evidence for them and none against them."
    )


def unmoved(findings: Findings) -> list[dict[str, str]]:
    """Return the parameters the data did not move: name, meaning, tag."""
    if len(findings.judged) == 0:
        return []
    rows = findings.judged[findings.judged["verdict"] == "prior"]
    return [
        {"parameter": row["parameter"], "meaning": row["meaning"], "tag": row["tag"] or "-"}
        for _, row in rows.iterrows()
    ]


def conflicts(findings: Findings) -> list[str]:
    """Name the parameters whose posterior lies far from the prior."""
    if len(findings.judged) == 0:
        return []
    rows = findings.judged[findings.judged["conflict"]]
    return [
        f"{row['parameter']}: the posterior median lies {abs(row['shift']):.1f} prior sds "
        f"{'above' if row['shift'] > 0 else 'below'} the prior's. Either the prior was wrong for this "
        "cohort, or the model bends this parameter to make up for something else."
        for _, row in rows.iterrows()
    ]


def shrinkage(findings: Findings) -> list[str]:
    """Name the effects whose individual values lean on the population."""
    rows = findings.shrinkage[findings.shrinkage["shrinkage"] >= SHRUNK]
    if len(rows) == 0:
        return []
    names = ", ".join(f"{row['effect']} ({percent(row['shrinkage'])})" for _, row in rows.iterrows())
    return [
        f"Individual values of {names} are shrunk by half or more: they say more about the population than "
        "about the patient, and a correlation between them and anything else is not to be trusted."
    ]


def medians(findings: Findings) -> list[str]:
    """Say how many visit windows have a median that the model would rarely produce."""
    table = findings.medians
    if len(table) == 0:
        return []
    odd = table[table["p_value"] < SURPRISING]
    said = f"{len(odd)} of {len(table)} visit windows have a median with a predictive p-value below {SURPRISING}"
    if len(odd) == 0:
        return [f"{said}."]
    names = "; ".join(f"{row['dvid']}, {row['product']}, {row['window']}" for _, row in odd.iterrows())
    return [f"{said}: {names}."]


def percentiles(findings: Findings) -> list[str]:
    """Say how the visual predictive check came out."""
    found = findings.new_patients.vpc
    if found is None:
        return []
    outside, of = found.outside
    return [
        f"Visual predictive check: {outside} of {of} observed percentiles lie outside the 95 % band of {found.studies} "
        f"simulated studies; dropout took {percent(found.dropped)} of the planned measurements; {found.failed} "
        f"simulated patients were left out, in all studies together."
    ]


def new_patients(findings: Findings) -> list[str]:
    """Say what the checks with new patients found, and what could not be made."""
    found = findings.new_patients
    said = percentiles(findings)
    for _, row in found.npde_tests.iterrows():
        word = "not those of" if row["global_p"] < SURPRISING else "compatible with"
        said.append(
            f"Prediction errors of {row['dvid']} are {word} the model "
            f"(p {number(row['global_p'])}, Bonferroni of three)."
        )
    odd = found.published[found.published["p_value"] < SURPRISING] if len(found.published) else found.published
    for _, row in odd.iterrows():
        scale = "" if row["comparable"] else " (on the scale of another laboratory)"
        said.append(
            f"{row['study']}, {row['product']}, {row['statistic']}{scale}: published {number(row['published'])}, "
            f"simulated {number(row['simulated'])} ({number(row['lower'])} to {number(row['upper'])}) {row['unit']}."
        )
    return [*said, *found.missing]


def sources(findings: Findings) -> list[dict[str, str]]:
    """Return the sources of the priors, each once, with the parameters that rest on it."""
    rows: dict[str, list[str]] = {}
    for _, row in findings.summary.iterrows():
        rows.setdefault(printable_source(str(row["source"])), []).append(str(row["parameter"]))
    return [{"source": source, "parameters": ", ".join(names)} for source, names in rows.items()]


def forecast(findings: Findings) -> list[str]:
    """Say how the model's forecasts compare with those of simple rivals, and where a rival does better."""
    said = []
    for _, row in findings.yardsticks.differences.iterrows():
        gap, spread = float(row["difference"]), float(row["difference_se"])
        if not np.isfinite(spread) or abs(gap) < TIE * spread:
            word = "no clear difference"
            if gap < 0 and float(row["crps_difference"]) < 0:
                word += ", but the simpler one has the better figures"
        else:
            word = "the model forecasts better" if gap > 0 else "the simpler one forecasts better"
        said.append(
            f"{row['dvid']} from day {row['cutoff']:.0f}, {row['n']:.0f} withheld rows: elpd of the model less that of "
            f"“{row['rival']}” {gap:+.1f} (standard error {spread:.1f}): {word}."
        )
    landmark = findings.yardsticks.landmark
    for _, row in landmark[landmark["model"] == MODEL].iterrows() if len(landmark) else ():
        clear = abs(row["gain"]) > TIE * row["gain_se"]
        word = "no clear difference" if not clear else "the model" if row["gain"] > 0 else "Kaplan-Meier"
        said.append(
            f"Progression by day 180 from day {row['cutoff']:.0f}, {row['n']} patients at risk: Brier score of the "
            f"model {row['brier']:.3f}, better than Kaplan-Meier by {row['gain']:+.3f} (standard error "
            f"{row['gain_se']:.3f}): {word + ' is better' if clear else word}."
        )
    return said


def comparison(provenance: Mapping[str, Any]) -> tuple[list[str], list[list[str]], str]:
    """Return the comparison of variants in `run.json` as columns, rows and a sentence; empty without one."""
    lines: Sequence[Mapping[str, Any]] = provenance.get("comparison") or []
    if not lines:
        return [], [], ""
    columns = list(dict.fromkeys(str(key) for line in lines for key in line))
    rows = [
        [
            f"{line[column]:.3f}" if column == "max_rhat" and column in line else _cell(line.get(column))
            for column in columns
        ]
        for line in lines
    ]
    return (
        columns,
        rows,
        (
            f"A difference of less than {TIE:.0f} standard errors is a tie, and so is one below {SMALL_ELPD:.0f}: the "
            "data do not choose between the variants."
        ),
    )


def limits(findings: Findings) -> list[str]:
    """Return what this run cannot say."""
    cohort = findings.cohort
    said = []
    if findings.own is not None:
        return [
            "The model, its priors and their sources are the user's; nothing here has checked them.",
            "Predictive checks use the patients' own data and are kinder to the model than a forecast of new patients.",
            "Parameters are of this model; another model that describes the data as well may disagree.",
        ]
    if cohort.max_infusions < 2:
        said.append(
            "No patient of this cohort had a second infusion. Everything said about retreatment from this "
            "run rests on the model and the priors, not on observed second infusions."
        )
    if "mprotein" not in set(cohort.observations["DVID"]):
        said.append("There is no serial M-protein: progression enters as a time, response depth only through sBCMA.")
    if cohort.n_patients < 100:
        said.append(
            f"{cohort.n_patients} patients are few: intervals of variation between patients and of product "
            "effects are wide, and patients were not assigned to products at random."
        )
    said += [
        "Predictive checks use the patients' own data and are kinder to the model than a forecast of new patients.",
        "Some priors were set from a fit to real patients (tag CAL): a fit to the same patients is not "
        "independent evidence for them.",
        "Parameters are of this model; another model that describes the data as well may disagree on the mechanism.",
    ]
    return said


def printable_source(source: str) -> str:
    """Return a source with every clause that is only RECALLED taken out, and said to be."""
    clauses = [clause.strip() for clause in source.split(";")]
    kept = [clause for clause in clauses if "RECALLED" not in clause]
    if len(kept) < len(clauses):
        kept.append(WITHHELD)
    return "; ".join(clause for clause in kept if clause)


def percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage, `95 %`."""
    return f"{100 * float(share):.{digits}f} %"


def number(value: object, digits: int = 3) -> str:
    """Return a count in full, another number with three significant digits; an en dash for none."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    x = float(value)  # type: ignore[arg-type]
    if not np.isfinite(x):
        return "–"
    if x != 0 and (abs(x) >= 1e6 or abs(x) < 1e-3):
        mantissa, power = f"{x:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(power)}"
    return f"{float(f'{x:.{digits}g}'):,.0f}" if abs(x) >= 10**digits else f"{x:.{digits}g}"


def _share(findings: Findings, column: str) -> str:
    table = findings.coverage
    return percent(float((table[column] * table["n"]).sum() / table["n"].sum()))


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)
