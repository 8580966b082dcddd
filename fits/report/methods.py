"""The methods paragraph of a report: what was done in this run, and whose methods they are."""

from typing import Final

from ..diagnosis.convergence import MAX_RHAT, MIN_ESS
from ..diagnosis.findings import Findings

#: Works behind what every fit does, in the order of the paragraph.
WORKS: Final = (
    "Tsitouras 2011, Computers & Mathematics with Applications 62:770 (the solver)",
    "Beal 2001, Journal of Pharmacokinetics and Pharmacodynamics 28:481 (M3, values below a limit)",
    "Vehtari and others 2021, Bayesian Analysis 16:667 (R-hat, effective sample size)",
    "Kallioinen and others 2024, Statistics and Computing 34:57 (power-scaling)",
)
CHECKS: Final = (
    "Bergstrand and others 2011, AAPS Journal 13:143 (prediction-corrected VPC)",
    "Comets and others 2008, Computer Methods and Programs in Biomedicine 90:154 (npde)",
    "Stein and others 2019, CPT: Pharmacometrics & Systems Pharmacology 8:285 (the empirical rival)",
)


def paragraph(findings: Findings) -> str:
    """Say in a paragraph, fit for a paper, how this run came about."""
    found, cohort, made = findings.diagnostics, findings.cohort, findings.provenance
    version = made.get("versions", {}).get("reinfuse", "of a version not recorded")
    model = f"the user's model {findings.own.name}" if findings.own is not None else "the reinfuse model of CAR-T cells"
    variant = "" if findings.own is not None else f" (variant {made.get('variant', 'not recorded')})"
    return (
        f"Measurements of {cohort.n_patients} patients were fitted with {model}{variant} by hierarchical Bayes, in "
        f"reinfuse {version}. "
        "Ordinary differential equations were solved by adaptive Runge-Kutta steps (Tsitouras 2011); gradients came "
        "from the discrete adjoint. Values below a limit of quantification entered as such (M3, Beal 2001); residuals "
        "of quantified values are Student t with 4 degrees of freedom. Parameters vary between patients around a "
        "population median, normally on their transformed scale. "
        f"{found.n_chains} chains of {found.n_draws} kept draws were sampled ({found.sampler}; seed "
        f"{made.get('seed', 'not recorded')}). Convergence asks for R-hat below {MAX_RHAT} and effective sample sizes "
        f"above {MIN_ESS:.0f} (Vehtari and others 2021), and was {'' if found.converged else 'not '}reached. "
        "Sensitivity to the priors is by power-scaling (Kallioinen and others 2024)."
    )


def works(findings: Findings) -> list[str]:
    """Return the works to cite."""
    return [*WORKS, *(CHECKS if findings.own is None else ())]
