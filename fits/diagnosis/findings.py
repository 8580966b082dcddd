"""Everything the diagnosis of one run found, gathered once for the command line and for the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr

from reinfuse.model.parameters import Parameter
from reinfuse.model.products import PRODUCTS

from .. import own_model
from ..cohort import Cohort, read_cohort
from ..cohort_files import read_cells
from ..hypotheses import standing
from ..own_model import Description
from ..run import RunFolder
from . import convergence, identifiability, powerscaling, predictive, yardsticks
from .convergence import Diagnostics
from .powerscaling import Sensitivity
from .simulation_checks import NOT_OURS, NewPatientChecks
from .simulation_checks import examine as examine_new_patients
from .vpc import Vpc
from .yardsticks import Yardsticks

NO_YARDSTICKS: Final = (
    "The yardsticks (forecasts of about day 100, progression, response) are those of CAR-T cells; a model of one's own "
    "is not measured by them."
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found; tables are empty where the run lacks what they need.

    Attributes
    ----------
    provenance
        `run.json`.
    own
        Description of the user's own model; None for the built-in one. Then medians by visit window and
        yardsticks, which are those of CAR-T cells, are left out.
    cohort, tree
        The cohort and the draws.
    diagnostics
        The verdict.
    summary
        Content of `summary.csv`.
    judged, shrinkage, aliases
        From `identifiability`.
    observations, coverage, blq, medians
        From `predictive`.
    yardsticks
        From `yardsticks.compute`.
    new_patients
        From `simulation_checks.examine`.
    sensitivity, conclusions
        From `powerscaling`: which priors show, and what a second infusion rests on.
    hypotheses
        From `hypotheses.standing`: what was compared, and what was not.
    """

    provenance: dict[str, Any]
    own: Description | None
    cohort: Cohort
    tree: xr.DataTree
    diagnostics: Diagnostics
    summary: pd.DataFrame
    judged: pd.DataFrame
    shrinkage: pd.DataFrame
    aliases: pd.DataFrame
    observations: pd.DataFrame
    coverage: pd.DataFrame
    blq: pd.DataFrame
    medians: pd.DataFrame
    yardsticks: Yardsticks
    new_patients: NewPatientChecks
    sensitivity: Sensitivity
    conclusions: pd.DataFrame
    hypotheses: list[str]

    @property
    def rows(self) -> Mapping[str, Parameter] | None:
        """Parameter table of the user's own model; None: that of real cohorts."""
        return None if self.own is None else self.own.rows

    @property
    def posterior(self) -> xr.Dataset:
        """The `/posterior` group."""
        return self.tree["posterior"].to_dataset()

    def with_verdict(self, *words: str) -> list[str]:
        """Return the names of the scalars with one of these verdicts, in the order of the table."""
        if len(self.judged) == 0:
            return []
        return self.judged.loc[self.judged["verdict"].isin(words), "parameter"].tolist()


@dataclass(frozen=True)
class _Known:
    """A product that stands in a run's cohort; its reference dose plays no part in a diagnosis."""

    dose: float = float("nan")


def cohort_of(run: RunFolder) -> Cohort:
    """Read the cohort of a run, products of the user's own included.

    The fit has checked the products already, so a name that is not registered here is taken as it stands. The table of
    a model of the user's own is read in that model's terms.

    Raises
    ------
    ReinfuseError
        If the file is not a cohort.
    """
    if (description := own_of(run)) is not None:
        return own_model.cohort_of(read_cells(run.cohort_path), description, name=run.cohort_path.name)
    cells = pd.read_csv(run.cohort_path, dtype=str, keep_default_na=False).rename(columns=str.upper)
    named = {name.strip().lower() for name in cells["PRODUCT"]} - {""} if "PRODUCT" in cells else set()
    own = {name: _Known() for name in named if name not in PRODUCTS}
    return read_cohort(run.cohort_path, products={**PRODUCTS, **own})


def own_of(run: RunFolder) -> Description | None:
    """Description of the user's own model behind a run; None where the model is the built-in one."""
    content = run.provenance.get("own_model")
    return None if content is None else own_model.described(content)


def examine(run: RunFolder) -> Findings:
    """Diagnose a run.

    Parameters
    ----------
    run
        An open run folder.

    Returns
    -------
    Findings
        Nothing is written; see `record`.

    Raises
    ------
    ReinfuseError
        If the run has no readable posterior or cohort.
    """
    written, own = run.provenance, own_of(run)
    rows = None if own is None else own.rows
    tree, cohort = run.posterior(), cohort_of(run)
    failures = written.get("solver_failures")
    diagnostics = convergence.diagnose(
        tree,
        sampler=str(written.get("sampler", "not recorded")),
        solver_failures=None if failures is None else int(failures),
        rows=rows,
    )
    has_prior = "prior" in tree.children
    has_predictions = "posterior_predictive" in tree.children
    observations = coverage = blq = medians = pd.DataFrame()
    if has_predictions:
        observations = predictive.per_observation(tree, yardsticks.infusion_days(cohort))
        coverage = predictive.coverage_table(observations)
    if has_predictions and own is None:
        blq = predictive.blq_table(tree, observations)
        medians = predictive.median_table(tree, observations)
    rng = np.random.default_rng(written.get("seed") or 0)
    sticks = Yardsticks(missing=(NO_YARDSTICKS,))
    if own is None:
        sticks = yardsticks.compute(tree, cohort, forecast=run.forecast(), rng=rng)
    new = NewPatientChecks(missing=(NOT_OURS,))
    if own is None:
        new = examine_new_patients(tree, cohort, written, rng=rng.spawn(1)[0])
    judged = identifiability.judge(tree, rows=rows) if has_prior else pd.DataFrame()
    leaning = powerscaling.sensitivity(tree, rows=rows)
    return Findings(
        provenance=written,
        own=own,
        cohort=cohort,
        tree=tree,
        diagnostics=diagnostics,
        summary=convergence.summarise(tree, rows=rows),
        judged=judged,
        shrinkage=identifiability.shrinkage(tree, rows=rows),
        aliases=identifiability.aliases(tree["posterior"].to_dataset(), rows=rows),
        observations=observations,
        coverage=coverage,
        blq=blq,
        medians=medians,
        yardsticks=sticks,
        new_patients=new,
        sensitivity=leaning,
        conclusions=powerscaling.conclusions(leaning, judged) if own is None else pd.DataFrame(),
        hypotheses=standing(written),
    )


def record(run: RunFolder, findings: Findings) -> None:
    """Write `diagnostics.json` (verdict, identifiability and yardsticks) and `summary.csv` into the run."""
    found, new = findings.yardsticks, findings.new_patients
    run.write_diagnostics(
        {
            **findings.diagnostics.to_json(),
            "identifiability": {
                word: findings.with_verdict(word) for word in identifiability.WORDS if findings.with_verdict(word)
            },
            "shrinkage": dict(zip(findings.shrinkage["effect"], findings.shrinkage["shrinkage"], strict=True)),
            "aliases": findings.aliases.to_dict("records"),
            "coverage": findings.coverage.to_dict("records"),
            "yardsticks": {
                "forecast": found.forecast.to_dict("records"),
                "forecast_differences": found.differences.to_dict("records"),
                "progression_forecast": found.landmark.to_dict("records"),
                "progression_thirds": found.thirds.to_dict("records"),
                "progression": found.survival.to_dict("records"),
                "discrimination": found.discrimination.to_dict("records"),
                "missing": list(found.missing),
            },
            "new_patients": {
                "npde": new.npde_tests.to_dict("records"),
                "sampled": new.sampled.to_dict("records"),
                "published": new.published.to_dict("records"),
                "prior": new.prior.to_dict("records"),
                "vpc": {} if new.vpc is None else _vpc_numbers(new.vpc),
                "missing": list(new.missing),
            },
            "sensitivity": {
                "table": findings.sensitivity.table.to_dict("records"),
                "draws": findings.sensitivity.draws,
                "noise": findings.sensitivity.noise,
                "fit": findings.sensitivity.fit,
                "missing": findings.sensitivity.missing,
            },
            "conclusions": findings.conclusions.to_dict("records"),
            "hypotheses": findings.hypotheses,
        }
    )
    run.write_summary(findings.summary)


def _vpc_numbers(found: Vpc) -> dict[str, Any]:
    outside, of = found.outside
    return {
        "studies": found.studies,
        "percentiles_outside": outside,
        "percentiles": of,
        "share_dropped": found.dropped,
        "patients_left_out": found.failed,
    }
