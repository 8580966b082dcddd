"""All figures of one fit, in the order of the report, each with a name for its file and a caption."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ..diagnosis import progression
from ..diagnosis.findings import Findings
from ..diagnosis.identifiability import WORDS
from ..diagnosis.powerscaling import SENSITIVE
from ..diagnosis.scalars import Scalar, list_scalars, stack
from ..diagnosis.yardsticks import infusion_days
from ..own_model import Description
from . import chains, comparison, forecasts, individual, npde, own_model, parameters, predictive, style, survival, vpc


@dataclass(frozen=True, kw_only=True)
class Plate:
    """One figure of a fit.

    Attributes
    ----------
    section
        Where it belongs: `fits`, `checks`, `parameters`, `progression` or `chains`.
    name
        File name without ending.
    caption
        What to see in it; also the text for readers who cannot.
    figure
        The figure.
    """

    section: str
    name: str
    caption: str
    figure: Figure


def draw_all(findings: Findings) -> Iterator[Plate]:
    """Draw the figures of a fit one by one, leaving out those whose data the run lacks.

    Parameters
    ----------
    findings
        From `diagnosis.findings.examine`.
    """
    if findings.own is not None:
        yield from _own_fits(findings, findings.own)
    else:
        yield from _individual_fits(findings)
        yield from _checks(findings)
        yield from _new_patients(findings)
        yield from _progression(findings)
        yield from _forecasts(findings)
    yield from _parameters(findings)
    yield from _chains(findings)


def count_plates(findings: Findings) -> int:
    """Return about how many figures `draw_all` will draw, for a progress line."""
    scalars = len(list_scalars(findings.posterior, findings.rows))
    assays = findings.observations["dvid"].nunique() if len(findings.observations) else 0
    fits = assays * _pages(findings.cohort.n_patients, individual.PER_PAGE)
    learned = 1 + _pages(scalars, parameters.PER_PAGE) + (len(findings.sensitivity.table) > 0)
    learned += _pages(findings.posterior.sizes["effect"], parameters.COLUMNS)
    new = 0 if findings.new_patients.vpc is None else assays + 1
    return fits + 2 + assays + new + 3 + learned + _pages(scalars, chains.PER_PAGE)


def _pages(items: int, per_page: int) -> int:
    return -(-items // per_page)


def _individual_fits(findings: Findings) -> Iterator[Plate]:
    if len(findings.observations) == 0 or "curves" not in findings.tree.children:
        return
    curves = findings.tree["curves"].to_dataset()
    patients = [str(name) for name in curves["patient"].values]
    course = progression.first_course(findings.cohort)
    progressed = course[course["event"] == progression.PROGRESSED]
    for dvid in ("cart", "transgene", "sbcma", "mprotein"):
        if dvid not in curves or dvid not in set(findings.observations["dvid"]):
            continue
        figures = individual.individual_fits(
            times=curves["time"].values.astype(float),
            curves=curves[dvid].transpose("sample", "patient", "time").values,
            patients=patients,
            observations=findings.observations,
            dvid=dvid,
            products=_first_products(findings),
            infusions=infusion_days(findings.cohort),
            progressions=dict(zip(progressed["patient"], progressed["time"], strict=True)),
            population=findings.new_patients.typical.get(dvid),
        )
        for number, figure in enumerate(figures, start=1):
            yield Plate(
                section="fits",
                name=f"individual_{dvid}_{number}",
                caption=f"Individual fits of {style.assay_name(dvid)}, page {number} of {len(figures)}. "
                "Bands are the curves that the posterior allows, without residual error; triangles lie at "
                "a limit; the thin line is the typical patient with the same dose and course.",
                figure=figure,
            )


def _own_fits(findings: Findings, own: Description) -> Iterator[Plate]:
    """Individual fits and predictions of a user's own model."""
    seen = findings.observations
    if len(seen) == 0 or "curves" not in findings.tree.children:
        return
    curves = findings.tree["curves"].to_dataset()
    labels = {name: (f"{name} ({unit})", log) for name, (unit, log) in own.observables.items()}
    for name, (label, log) in labels.items():
        if name not in curves:
            continue
        figures = own_model.individual_fits(
            times=curves["time"].values.astype(float),
            curves=curves[name].transpose("sample", "patient", "time").values,
            patients=[str(patient) for patient in curves["patient"].values],
            observations=seen[seen["dvid"] == name],
            label=label,
            time=f"time ({own.time_unit})",
            log=log,
        )
        for number, figure in enumerate(figures, start=1):
            yield Plate(
                section="fits",
                name=f"individual_{name}_{number}",
                caption=f"Individual fits of {name}, page {number} of {len(figures)}. Bands are the curves that the "
                "posterior allows, without residual error; triangles lie at a limit.",
                figure=figure,
            )
    yield Plate(
        section="checks",
        name="observed_against_predicted",
        caption="Observed values against the median of their predictions; the line is equality.",
        figure=own_model.observed_against_predicted(seen, labels),
    )


def _checks(findings: Findings) -> Iterator[Plate]:
    if len(findings.observations) == 0:
        return
    yield Plate(
        section="checks",
        name="observed_against_predicted",
        caption="Observed values against the median of their predictions; the line is equality.",
        figure=predictive.observed_against_predicted(findings.observations),
    )
    yield Plate(
        section="checks",
        name="residuals_over_time",
        caption="Quantile residuals over time; under the model they are standard normal at every time.",
        figure=predictive.residuals_over_time(findings.observations),
    )
    array = findings.tree["posterior_predictive"].to_dataset()["y"].transpose("chain", "draw", "observation")
    draws = array.values.reshape(-1, array.sizes["observation"])
    for dvid in sorted(findings.observations["dvid"].unique()):
        figure = predictive.predictive_check(findings.observations, draws, dvid)
        if figure is not None:
            yield Plate(
                section="checks",
                name=f"predictive_check_{dvid}",
                caption=f"Predictive check of {style.assay_name(dvid)}: 10th, 50th and 90th percentile by "
                "visit window with the 95 % band of simulated ones; below, the share under the limit.",
                figure=figure,
            )


def _new_patients(findings: Findings) -> Iterator[Plate]:
    found = findings.new_patients
    if found.vpc is not None:
        percentiles, shares, points = found.vpc.percentiles, found.vpc.blq, found.vpc.points
        for dvid in sorted(percentiles["dvid"].unique()):
            figure = vpc.visual_predictive_check(percentiles, shares, points, dvid)
            if figure is not None:
                yield Plate(
                    section="checks",
                    name=f"vpc_{dvid}",
                    caption=f"Visual predictive check of {style.assay_name(dvid)}, new patients of the same design: "
                    "10th, 50th and 90th percentile of the data with the 95 % band of simulated studies, as measured "
                    "and prediction-corrected; below, the share under the limit. Percentiles that lie under the limit "
                    "are not drawn, bands end at it.",
                    figure=figure,
                )
    if len(found.npde):
        yield Plate(
            section="checks",
            name="npde",
            caption="Normalised prediction distribution errors: standard normal under the model, at every time and "
            "at every prediction.",
            figure=npde.prediction_errors(found.npde),
        )


def _progression(findings: Findings) -> Iterator[Plate]:
    course = progression.first_course(findings.cohort)
    if len(course) == 0:
        return
    curves = findings.tree["curves"].to_dataset() if "curves" in findings.tree.children else None
    if curves is not None and "cumhaz" in curves:
        days, patients = curves["time"].values.astype(float), [str(name) for name in curves["patient"].values]
        restarting = curves["cumhaz"].transpose("sample", "patient", "time").values
        hazard = progression.first_course_hazard(restarting, days, patients, findings.cohort)
    groups = []
    for product, rows in course.groupby("product", sort=True):
        at = middle = low = high = None
        if curves is not None and "cumhaz" in curves:
            at = np.linspace(0.0, min(float(days.max()), 1.05 * float(course["time"].max())), 121)
            members = [patients.index(name) for name in rows["patient"] if name in patients]
            predicted = progression.predicted_survival(hazard[:, members], days, at)
            low, middle, high = np.quantile(predicted, [0.025, 0.5, 0.975], axis=0)
        groups.append(
            survival.Group(
                label=str(product),
                time=rows["time"].to_numpy(dtype=float),
                event=(rows["event"] == progression.PROGRESSED).to_numpy(),
                at=at,
                predicted=middle,
                lower=low,
                upper=high,
                colour=style.product_colour(str(product), sorted(course["product"].unique())),
            )
        )
    yield Plate(
        section="progression",
        name="progression",
        caption="Progression after the first infusion: Kaplan-Meier steps and the mean of the patients' "
        "predicted curves. The patients' own outcomes shaped the prediction; deaths without progression "
        "end follow-up; at a second infusion a patient's predicted curve stays where it is.",
        figure=survival.survival_curves(groups, title="Progression: observed against predicted"),
    )


def _forecasts(findings: Findings) -> Iterator[Plate]:
    found = findings.yardsticks
    if len(found.forecast):
        yield Plate(
            section="progression",
            name="forecast",
            caption="Samples of about day 100 forecast from each cut-off day, by this model and simple rivals: median "
            "error, CRPS (both in ln units, less is better) and the share of samples inside predictive intervals.",
            figure=forecasts.by_cutoff(found.forecast),
        )
    if len(found.thirds):
        yield Plate(
            section="progression",
            name="forecast_progression",
            caption="Progression by day 180 of those free of it at each cut-off, each patient's own outcome withheld: "
            "observed (Kaplan-Meier, 95 % interval) against predicted in thirds of the predicted risk.",
            figure=forecasts.calibration(found.thirds),
        )


def _parameters(findings: Findings) -> Iterator[Plate]:
    posterior = findings.posterior
    scalars = list_scalars(posterior, findings.rows)
    if len(findings.judged):
        yield Plate(
            section="parameters",
            name="contraction",
            caption="Contraction of each population parameter: 100 % is known from the data, 0 % is the prior.",
            figure=parameters.contraction_chart(findings.judged),
        )
        after = stack(posterior, scalars).values.reshape(-1, len(scalars))
        before = stack(findings.tree["prior"].to_dataset(), scalars).values.reshape(-1, len(scalars))
        figures = parameters.prior_against_posterior(
            names=[scalar.name for scalar in scalars],
            units=[scalar.unit for scalar in scalars],
            transforms=[scalar.transform for scalar in scalars],
            prior=before,
            posterior=after,
            contraction=findings.judged["contraction"].tolist(),
            verdict=findings.judged["verdict"].tolist(),
        )
        for number, figure in enumerate(figures, start=1):
            words = "; ".join(f"{word}: {meaning}" for word, meaning in WORDS.items() if word != "fixed")
            yield Plate(
                section="parameters",
                name=f"prior_posterior_{number}",
                caption=f"Prior (grey) against posterior, each scaled to the same height. {words}.",
                figure=figure,
            )
    leaning = findings.sensitivity
    if len(leaning.table) and leaning.table["likelihood"].notna().all():
        yield Plate(
            section="parameters",
            name="prior_sensitivity",
            caption="Power-scaling: how far each posterior moves when the priors, or the data, are given more weight. "
            "Right of the dotted line the data count, above it the priors; the shaded margin is noise.",
            figure=comparison.prior_sensitivity(leaning.table, threshold=SENSITIVE, noise=leaning.noise),
        )
    yield from _individual_effects(findings, {s.symbol: s for s in scalars if s.family == "population"})


def _individual_effects(findings: Findings, known: dict[str, Scalar]) -> Iterator[Plate]:
    individual_parameters = findings.posterior["individual"].transpose("chain", "draw", "patient", "effect")
    effects = [str(name) for name in individual_parameters["effect"].values]
    patients = [str(name) for name in individual_parameters["patient"].values]
    if not effects:
        return
    draws = individual_parameters.values.reshape(-1, len(patients), len(effects))
    products = _first_products(findings)
    figures = parameters.individual_effects(
        draws=draws,
        patients=patients,
        effects=effects,
        units=[known[name].unit if name in known else "" for name in effects],
        positive=[bool((draws[:, :, i] > 0).all()) for i in range(len(effects))],
        products=[products.get(name, "") for name in patients],
    )
    for number, figure in enumerate(figures, start=1):
        yield Plate(
            section="parameters",
            name=f"individual_effects_{number}",
            caption="Individual parameters of the patients; wide bars beside a narrow spread of medians are shrinkage.",
            figure=figure,
        )


def _chains(findings: Findings) -> Iterator[Plate]:
    scalars = list_scalars(findings.posterior, findings.rows)
    rhat = findings.summary.set_index("parameter")["rhat"]
    statistics = findings.tree["sample_stats"].to_dataset()
    divergent = statistics["diverging"].transpose("chain", "draw").values if "diverging" in statistics else None
    figures = chains.traces_and_ranks(
        names=[scalar.name for scalar in scalars],
        draws=stack(findings.posterior, scalars).values,
        rhat=[float(rhat[scalar.name]) for scalar in scalars],
        divergent=divergent,
    )
    for number, figure in enumerate(figures, start=1):
        yield Plate(
            section="chains",
            name=f"chains_{number}",
            caption="Traces should look alike in all chains; ranks should scatter evenly around 1.",
            figure=figure,
        )


def _first_products(findings: Findings) -> dict[str, str]:
    infusions = findings.cohort.infusions
    first = infusions[infusions["SLOT"] == 1]
    return {str(name): str(product) for name, product in zip(first["ID"], first["PRODUCT"], strict=True)}
