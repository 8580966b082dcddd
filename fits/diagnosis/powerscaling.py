"""How much a posterior leans on its priors: power-scaling sensitivity, and the conclusions that are the prior's.

The prior, or the likelihood, is raised to a power near 1 and the draws are reweighted; the distance that a posterior
moves, per doubling of the power, is its sensitivity (Kallioinen, Paananen, Bürkner & Vehtari 2024; by arviz-stats).

Which prior: that of population values, spreads and product effects alone. How patients scatter given a spread is part
of the model, not of its priors, and is not scaled; the patients' deviations are integrated out, so what is scaled as
the likelihood is that of whole patients given the population.

That likelihood is known at some hundred draws, too few for a distance: noise alone would pass for sensitivity. It is
carried to all draws by a regression, whose fit is reported; and what noise alone gives is measured, by weights dealt
out at random, and asked of a sensitivity on top of the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from arviz_stats import psense

from reinfuse.model.parameters import Parameter

from .scalars import FAMILIES, Scalar, list_scalars, stack

Array = npt.NDArray[np.float64]

SENSITIVE: Final = 0.05
"""Sensitivity from which a scalar is called sensitive (the threshold of Kallioinen et al.)."""

ALPHAS: Final = (0.8, 1.25)
"""Powers: a little away from 1, where draws are few."""

FEWEST: Final = 100
"""Draws with integrated likelihoods below which nothing is said."""

LEAST_FIT: Final = 0.5
"""Share of the likelihood's variance that its regression has to explain, out of sample, to be used."""

OUTLYING: Final = 10.0
"""Median absolute deviations from which a likelihood is left out of the regression: an integral that failed."""

RIDGE: Final = 5.0
"""Draws' worth of prior for a log-likelihood that is that of a Gaussian posterior."""

SHUFFLES: Final = 5
NOISE: Final = 0.95
"""Quantile, over scalars and shuffled weights, of what noise alone gives."""

AWAY: Final = 1.0
"""Distance of posterior and prior means, in prior sds, from which two pulls are called a conflict."""

CONFLICT: Final = "prior and data disagree"
BOTH: Final = "prior and data both count"
STRONG: Final = "prior-driven"
WEAK: Final = "neither moves it"
DATA: Final = "data-driven"
LEANS: Final = "leans on its prior"
UNKNOWN: Final = "not on its prior"

GROUPS: Final[Mapping[str, str]] = {
    "population": "population values",
    "omega": "spreads between patients",
    "product_effect": "product effects",
}


@dataclass(frozen=True)
class Conclusion:
    """Something that a simulated second infusion rests on, with the scalars that carry it (patterns)."""

    about: str
    carriers: tuple[str, ...]


CONCLUSIONS: Final = (
    Conclusion("how deep each product kills", ("k", "KE", "KE:*", "omega:KE")),
    Conclusion("how far each product expands, and when it peaks", ("rho", "rho:*", "tg", "tg:*", "omega:rho")),
    Conclusion("how long CAR-T cells persist", ("dM", "eps", "dE", "omega:dM")),
    Conclusion("how soon the tumour is back, and counts as progression", ("r", "Bc", "h1", "hbg")),
    Conclusion("tumour burden, and its difference between the products' patients", ("B0", "B0:*", "omega:B0")),
    Conclusion("host T-cell dysfunction carried to the second product", ("bR", "bXQ", "sline", "sres", "qLD", "Q0")),
    Conclusion("exhaustion of CAR-T cells", ("kX", "rX", "dX", "xi", "bX", "fXQ")),
    Conclusion("immunity against the CAR", ("kA", "KAC", "dA", "alA")),
    Conclusion("loss of the antigen", ("u", "fr", "crt", "by")),
)
"""What retreatment rests on, in the order it is told."""


@dataclass(frozen=True)
class Sensitivity:
    """What power-scaling found.

    Attributes
    ----------
    table
        One row per scalar: ``parameter``, ``family``, ``prior`` (all priors scaled together), ``own_prior`` (those of
        its family alone), ``likelihood``, ``shift`` (distance of posterior and prior means in prior sds), ``verdict``.
    draws
        How many draws it rests on.
    noise
        What shuffled weights give: less means nothing.
    fit
        Share of the likelihood's variance that its regression explains, out of sample; below `LEAST_FIT` the likelihood
        was not used.
    missing
        Why there is no table, where there is none.
    """

    table: pd.DataFrame
    draws: int
    noise: float = 0.0
    fit: float = float("nan")
    missing: str = ""


def sensitivity(tree: xr.DataTree, *, rows: Mapping[str, Parameter] | None = None) -> Sensitivity:
    """Power-scale the priors and the likelihood of a run.

    Parameters
    ----------
    tree
        A posterior file with the group ``integrated``; its ``log_prior`` is used where it has one, else normal
        densities with the moments of its ``prior`` draws on their transformed scales.
    rows
        Parameter table; that of real cohorts when None.
    """
    posterior = tree["posterior"].to_dataset()
    if "integrated" not in tree.children:
        return _without("this run holds no likelihoods of whole patients, so priors cannot be set against them")
    loglik = tree["integrated"].to_dataset()["loglik"].transpose("population_draw", "subject").to_numpy()
    usable = np.isfinite(loglik).all(axis=1)
    if usable.sum() < FEWEST:
        return _without(f"{int(usable.sum())} draws have likelihoods of whole patients; {FEWEST} are needed")
    scalars = [s for s in list_scalars(posterior, rows) if s.family in FAMILIES or s.name == "omega_occasion"]
    values = stack(posterior, scalars).to_numpy().reshape(-1, len(scalars))
    scalars = [s for s, column in zip(scalars, values.T, strict=True) if np.ptp(column) > 0]
    values = stack(posterior, scalars).to_numpy().reshape(-1, len(scalars))
    prior = _log_prior(tree, scalars, values)
    if prior is None:
        return _without("this run holds neither the density of its priors nor draws of them")
    at = _places(len(values), len(loglik))[usable]
    carried, fit = _carried(values, prior.sum(axis=1), at, loglik[usable].sum(axis=1))
    known = fit >= LEAST_FIT
    names, families = [s.name for s in scalars], [_family(s.family) for s in scalars]
    given = _tree(values, prior, carried if known else np.zeros(len(values)), names, families)
    own = {family: _psense(given, "prior", [family]) for family in dict.fromkeys(families)}
    table = pd.DataFrame(
        {
            "parameter": names,
            "family": families,
            "prior": _psense(given, "prior", None),
            "own_prior": [own[family][i] for i, family in enumerate(families)],
            "likelihood": _psense(given, "likelihood", None) if known else np.nan,
            "shift": _shift(tree, scalars, values),
        }
    )
    noise = _noise(values, prior.sum(axis=1), carried if known else None, names)
    of = zip(table["prior"], table["likelihood"], table["shift"], strict=True)
    table["verdict"] = [verdict(p, d, shift=shift, noise=noise) for p, d, shift in of]
    return Sensitivity(table, len(values), noise, fit)


def verdict(prior: float, likelihood: float, *, shift: float = 0.0, noise: float = 0.0) -> str:
    """What two sensitivities mean together, given how far posterior and prior lie apart and what noise alone gives.

    Only a scalar that follows its prior clearly more than the data, by twice the noise, is called prior-driven.
    Where the likelihood's sensitivity is not known (NaN), only what leans on its prior is told.
    """
    least = max(SENSITIVE, noise)
    if np.isnan(likelihood):
        return LEANS if prior >= least else UNKNOWN
    if prior < least:
        return DATA if likelihood >= least else WEAK
    if likelihood < least and prior - likelihood > 2.0 * noise:
        return STRONG
    return CONFLICT if abs(shift) >= AWAY else BOTH


def sentences(found: Sensitivity, *, rows: Mapping[str, Parameter] | None = None) -> list[str]:
    """Name what is prior-driven, and what prior and data disagree about."""
    if found.missing:
        return [f"Sensitivity to the priors was not examined: {found.missing}."]
    table, said = found.table, []
    strong, conflict, both, leans = (table[table["verdict"] == x] for x in (STRONG, CONFLICT, BOTH, LEANS))
    if len(strong):
        said.append(
            f"Prior-driven: {_named(strong)}. These posteriors follow the prior when it is made stronger or weaker, "
            "and hardly follow the data."
        )
    if len(conflict):
        said.append(
            f"Prior and data disagree on {_named(conflict)}: both move the posterior, and it lies more than "
            f"{AWAY:.0f} prior sd from the prior. See whether the prior's source fits this cohort."
        )
    if len(both):
        said.append(f"Prior and data both count for {_named(both)}: another prior would change these somewhat.")
    if len(leans):
        said.append(f"Another prior would change {_named(leans)}.")
    if not found.fit >= LEAST_FIT:
        said.append(
            "How far the data move each parameter is not told: the likelihoods of whole patients are too noisy here "
            f"(fit {found.fit:.2f}). `reinfuse fit` of this version makes better ones."
        )
    if not (len(strong) or len(conflict) or len(both) or len(leans)):
        said.append("No population parameter is sensitive to its prior.")
    return said


def conclusions(found: Sensitivity, judged: pd.DataFrame) -> pd.DataFrame:
    """What retreatment rests on, and whether that is the prior.

    Parameters
    ----------
    found
        From `sensitivity`.
    judged
        From `identifiability.judge`; may be empty.

    Returns
    -------
    DataFrame
        ``about``, ``rests_on`` (``data``, ``partly the prior``, ``prior alone``), ``why``.
    """
    verdicts = dict(zip(found.table["parameter"], found.table["verdict"], strict=True)) if len(found.table) else {}
    contracted = dict(zip(judged["parameter"], judged["verdict"], strict=True)) if len(judged) else {}
    known = {**{name: "" for name in contracted}, **verdicts}
    lines = []
    for conclusion in CONCLUSIONS:
        carriers = [name for name in known if any(fnmatch(name, pattern) for pattern in conclusion.carriers)]
        carriers = [name for name in carriers if contracted.get(name) != "fixed"]
        alone = [x for x in carriers if verdicts.get(x) == STRONG or contracted.get(x) == "prior"]
        leaning = [x for x in carriers if x in alone or verdicts.get(x) in (BOTH, CONFLICT, LEANS)]
        if not carriers:
            lines.append((conclusion.about, "prior alone", "nothing of it was fitted to these data"))
        elif len(alone) == len(carriers):
            lines.append((conclusion.about, "prior alone", f"all that was fitted follows its prior: {_few(alone)}"))
        elif leaning:
            lines.append((conclusion.about, "partly the prior", f"{_few(leaning)} among {_few(carriers)}"))
        else:
            lines.append((conclusion.about, "data", _few(carriers)))
    return pd.DataFrame(lines, columns=["about", "rests_on", "why"])


def _without(reason: str) -> Sensitivity:
    names = ["parameter", "family", "prior", "own_prior", "likelihood", "shift", "verdict"]
    return Sensitivity(pd.DataFrame(columns=names), 0, missing=reason)


def _places(total: int, count: int) -> npt.NDArray[np.int64]:
    """Which draws the integrals belong to: evenly spaced, as `results.thinned` has them."""
    return np.linspace(0, total - 1, count).astype(np.int64)


def _family(name: str) -> str:
    return name if name in GROUPS else "omega"


def _log_prior(tree: xr.DataTree, scalars: list[Scalar], values: Array) -> Array | None:
    """Log density of each scalar's prior at each draw, (draws, scalar); None where the run does not tell."""
    if "log_prior" in tree.children:
        return stack(tree["log_prior"].to_dataset(), scalars, transformed=False).to_numpy().reshape(-1, len(scalars))
    if "prior" not in tree.children:
        return None
    before = stack(tree["prior"].to_dataset(), scalars).to_numpy().reshape(-1, len(scalars))
    sd = np.maximum(before.std(axis=0, ddof=1), 1e-12)
    return -0.5 * ((values - before.mean(axis=0)) / sd) ** 2


def _carried(values: Array, prior: Array, at: npt.NDArray[np.int64], loglik: Array) -> tuple[Array, float]:
    """Log-likelihood at all draws (N,) from those at some, and the share of its variance explained out of sample.

    Were the posterior Gaussian in the whitened values ``u``, the log-likelihood would be ``-u'u / 2`` less the log
    prior; what it is besides is taken to be quadratic in each ``u``.
    """
    centred = values - values.mean(axis=0)
    covariance = np.cov(values, rowvar=False).reshape(values.shape[1], -1)
    root = np.linalg.cholesky(covariance + 1e-9 * np.diag(np.diag(covariance)))
    u = np.linalg.solve(root, centred.T).T
    offset = -0.5 * (u**2).sum(axis=1) - prior
    features = np.concatenate([u, (u**2 - 1.0) / np.sqrt(2.0)], axis=1)
    y = loglik - offset[at]
    usual = np.abs(y - np.median(y)) <= OUTLYING * max(float(np.median(np.abs(y - np.median(y)))), 1e-12)
    x, y = features[at][usual], y[usual]
    inner = x - x.mean(axis=0)
    both = inner.T @ inner + RIDGE * np.eye(x.shape[1])
    slope = np.linalg.solve(both, inner.T @ (y - y.mean()))
    leverage = np.einsum("sf,fs->s", inner, np.linalg.solve(both, inner.T)) + 1.0 / len(y)
    out = (y - y.mean() - inner @ slope) / np.maximum(1.0 - leverage, 0.05)  # each draw predicted from the others
    fit = 1.0 - out.var() / loglik[usual].var()
    return offset + y.mean() + (features - x.mean(axis=0)) @ slope, float(fit)


def _noise(values: Array, prior: Array, loglik: Array | None, names: list[str]) -> float:
    """What weights give that have nothing to do with a scalar: those of the draws, dealt out in blocks at random."""
    rng = np.random.default_rng(0)
    block = max(1, len(values) // 200)  # neighbours of a chain stay together, for they are alike
    found = []
    for _ in range(SHUFFLES):
        order = np.argsort(np.repeat(rng.uniform(size=-(-len(values) // block)), block)[: len(values)], kind="stable")
        shuffled = _tree(
            values, prior[order][:, None], (prior if loglik is None else loglik)[order], names, ["population"]
        )
        found += [_psense(shuffled, "prior", None), _psense(shuffled, "likelihood", None)]
    return float(np.quantile(np.array(found), NOISE))


def _shift(tree: xr.DataTree, scalars: list[Scalar], values: Array) -> list[float]:
    """Distance of posterior and prior means, in prior sds; NaN without draws of the prior."""
    if "prior" not in tree.children:
        return [float("nan")] * len(scalars)
    before = stack(tree["prior"].to_dataset(), scalars).to_numpy().reshape(-1, len(scalars))
    away = (values.mean(axis=0) - before.mean(axis=0)) / np.maximum(before.std(axis=0, ddof=1), 1e-12)
    return [float(x) for x in away]


def _tree(values: Array, prior: Array, loglik: Array, names: list[str], families: list[str]) -> xr.DataTree:
    """Draws as arviz-stats wants them: one chain, one variable per scalar, priors by family."""
    dims = ("chain", "draw")
    columns = {name: (dims, values[None, :, i]) for i, name in enumerate(names)}
    groups = {
        family: ((*dims, f"{family}_scalar"), prior[None][:, :, [i for i, f in enumerate(families) if f == family]])
        for family in dict.fromkeys(families)
    }
    return xr.DataTree.from_dict(
        {
            "/posterior": xr.Dataset(columns),
            "/log_prior": xr.Dataset(groups),
            "/log_likelihood": xr.Dataset({"patients": (dims, loglik[None])}),
        }
    )


def _psense(tree: xr.DataTree, group: str, names: list[str] | None) -> Array:
    found: Any = psense(tree, group=group, alphas=ALPHAS, group_var_names=names)
    return np.array([float(found[name]) for name in tree["posterior"].to_dataset().data_vars])


def _named(table: pd.DataFrame) -> str:
    ordered = table.sort_values("prior", ascending=False)
    return _few([f"{row['parameter']} ({row['prior']:.2f})" for _, row in ordered.iterrows()], 8)


def _few(names: list[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
