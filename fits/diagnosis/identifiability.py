"""Identifiability: what the data measured, what only partly, and where the prior still speaks.

Contraction compares the width of posterior and prior on the transformed scale; the shift of the median counts
too, since data may move a parameter without narrowing it. Shrinkage of the individual effects and strong
posterior correlations (aliases) complete the picture.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd
import xarray as xr

from reinfuse.model.parameters import Parameter

from .scalars import Scalar, is_fixed, list_scalars, stack

MEASURED: Final = 0.75
"""Contraction from which a parameter is 'measured by the data': posterior sd at most half the prior's."""

PARTLY: Final = 0.25
"""Contraction from which it is 'partly' measured: posterior sd at most 87 % of the prior's."""

MOVED: Final = 1.0
"""Shift of the median, in prior sds, from which a parameter counts as 'partly' whatever its contraction."""

CONFLICT: Final = 2.0
"""Shift of the median, in prior sds, from which prior and data are said to disagree."""

ALIASED: Final = 0.8
"""Absolute posterior correlation from which two scalars are named as a pair."""

SHRUNK: Final = 0.5
"""Shrinkage from which individual values of an effect say more about the population than the patient."""

PARTNERED: Final = 0.4
"""Absolute posterior correlation from which a scalar is named as one that another is aliased with."""

SOURCES: Final[Mapping[str, str]] = {
    "the data": "measured: the posterior is at most half as wide as the prior",
    "partly the data": "narrowed or moved by the data; the prior still matters",
    "aliased": "the data would measure it if the ones it is aliased with were known",
    "the prior": "neither narrowed nor moved: what is shown is the prior",
    "fixed": "given, not fitted",
}
"""Where a parameter's value comes from."""

WORDS: Final[Mapping[str, str]] = {
    "measured by the data": "the posterior is at most half as wide as the prior",
    "partly": "the data narrowed or moved it, and the prior still matters",
    "prior": "the data did not move it: what is shown is the prior",
    "fixed": "given, not fitted",
}


def contraction(prior_variance: float, posterior_variance: float) -> float:
    """Return 1 - posterior variance / prior variance; NaN where the prior has no width.

    1 is a parameter known exactly from the data, 0 one they say nothing about; negative values mean a
    posterior wider than the prior.
    """
    return 1.0 - posterior_variance / prior_variance if prior_variance > 0 else float("nan")


def verdict(contracted: float, shift: float) -> str:
    """Return one of the words of `WORDS` for a contraction and a shift in prior sds."""
    if np.isnan(contracted):
        return "fixed"
    if contracted >= MEASURED:
        return "measured by the data"
    if contracted >= PARTLY or abs(shift) >= MOVED:
        return "partly"
    return "prior"


def judge(tree: xr.DataTree, *, rows: Mapping[str, Parameter] | None = None) -> pd.DataFrame:
    """Return contraction, shift and verdict of every population scalar.

    Parameters
    ----------
    tree
        A run's posterior with its `/prior` group.
    rows
        Parameter table; that of real cohorts when None.

    Returns
    -------
    DataFrame
        `parameter`, `symbol`, `family`, `meaning`, `unit`, `prior_median` (natural scale), `prior_sd`,
        `posterior_sd`, `contraction`, `shift` (posterior minus prior median in prior sds; all on the
        transformed scale), `verdict`, `conflict` (bool), `tag`, `source`.
    """
    posterior, prior = tree["posterior"].to_dataset(), tree["prior"].to_dataset()
    scalars = list_scalars(posterior, rows)
    after, before = stack(posterior, scalars).values, stack(prior, scalars).values
    natural = stack(prior, scalars, transformed=False).values
    lines = []
    for i, scalar in enumerate(scalars):
        x, p = after[:, :, i].ravel(), before[:, :, i].ravel()
        fixed = is_fixed(x) or not np.isfinite(p).all() or is_fixed(p)
        width = float("nan") if fixed else float(p.std(ddof=1))
        gained = float("nan") if fixed else contraction(width**2, float(x.var(ddof=1)))
        shift = 0.0 if fixed else float((np.median(x) - np.median(p)) / width)
        lines.append(
            {
                "parameter": scalar.name,
                "symbol": scalar.symbol,
                "family": scalar.family,
                "meaning": scalar.meaning,
                "unit": scalar.unit,
                "prior_median": float(np.median(natural[:, :, i])),
                "prior_sd": width,
                "posterior_sd": float(x.std(ddof=1)) if x.size > 1 else float("nan"),
                "contraction": gained,
                "shift": shift,
                "verdict": verdict(gained, shift),
                "conflict": abs(shift) >= CONFLICT,
                "tag": scalar.tag,
                "source": scalar.source,
            }
        )
    return pd.DataFrame(lines)


def source_of(contracted: float, alone: float, shift: float, *, partners: bool) -> str:
    """Return one of the words of `SOURCES`.

    Parameters
    ----------
    contracted, alone
        Contraction against the prior: as it is, and if all other scalars were known.
    shift
        Of the median, in prior sds.
    partners
        Whether another scalar is correlated with it by at least `PARTNERED`.
    """
    word = verdict(contracted, shift)
    if word == "fixed":
        return "fixed"
    if word == "measured by the data":
        return "the data"
    if partners and alone >= MEASURED:
        return "aliased"
    return "partly the data" if word == "partly" else "the prior"


def sources(tree: xr.DataTree, *, rows: Mapping[str, Parameter] | None = None) -> pd.DataFrame:
    """Return where each population scalar's value comes from: the data, the prior, or aliased with which others.

    Parameters
    ----------
    tree, rows
        As in `judge`.

    Returns
    -------
    DataFrame
        The columns of `judge`, then ``contraction_alone`` (if all other scalars were known: from the precision matrix
        of the draws), ``aliased_with`` (others by correlation, strongest first, such as ``KE (-0.72)``),
        ``value_from`` (a word of `SOURCES`) and ``shrinkage`` (of the individual values, for a spread).
    """
    judged = judge(tree, rows=rows)
    posterior = tree["posterior"].to_dataset()
    scalars = list_scalars(posterior, rows)
    draws = stack(posterior, scalars).values.reshape(-1, len(scalars))
    moving = [i for i in range(len(scalars)) if np.isfinite(draws[:, i]).all() and not is_fixed(draws[:, i])]
    alone, partners = np.full(len(scalars), np.nan), [""] * len(scalars)
    if len(moving) > 1:
        correlation = np.corrcoef(draws[:, moving], rowvar=False)
        share = 1.0 / np.diag(np.linalg.pinv(correlation))  # of the variance that is left when the others are known
        for k, i in enumerate(moving):
            alone[i] = 1.0 - share[k] * (1.0 - float(judged["contraction"].iloc[i]))
            others = [j for j in np.argsort(-np.abs(correlation[k]), kind="stable") if j != k]
            named = [j for j in others if abs(correlation[k, j]) >= PARTNERED]
            partners[i] = ", ".join(f"{scalars[moving[j]].name} ({correlation[k, j]:+.2f})" for j in named)
    shrunk = shrinkage(tree, rows=rows).set_index("effect")["shrinkage"].to_dict()
    judged["contraction_alone"] = alone
    judged["aliased_with"] = partners
    judged["value_from"] = [
        source_of(contracted, own, shift, partners=bool(names))
        for contracted, own, shift, names in zip(judged["contraction"], alone, judged["shift"], partners, strict=True)
    ]
    judged["shrinkage"] = [
        shrunk.get(row.symbol, np.nan) if row.family == "omega" else np.nan for row in judged.itertuples()
    ]
    return judged


def shrinkage(tree: xr.DataTree, *, rows: Mapping[str, Parameter] | None = None) -> pd.DataFrame:
    """Return the eta-shrinkage of every random effect.

    Shrinkage is 1 - sd(posterior means of eta) / omega (Savic and Karlsson, AAPS J 11:558, 2009). Etas are
    taken as the individual parameters on the transformed scale less the mean of the patients with the same
    product, draw by draw, so that product effects do not pass for variation between patients.

    Returns
    -------
    DataFrame
        `effect`, `omega` (posterior median), `sd_of_means`, `shrinkage`, `word`.
    """
    posterior = tree["posterior"].to_dataset()
    groups = _products(tree)
    by_symbol = {s.symbol: s for s in list_scalars(posterior, rows) if s.family == "population"}
    individual = posterior["individual"].transpose("chain", "draw", "patient", "effect")
    lines = []
    for effect in map(str, individual["effect"].values):
        if effect not in set(map(str, posterior["effect"].values)):
            continue
        values = individual.sel(effect=effect).values
        scale = by_symbol.get(effect) or Scalar(
            name=effect,
            family="population",
            symbol=effect,
            meaning="",
            unit="",
            tag="",
            source="",
            transform="log" if bool((values > 0).all()) else "identity",
        )
        eta = scale.to_transformed(values)
        squares, freedom = 0.0, 0
        for product in np.unique(groups):
            members = eta[:, :, groups == product]
            centred = (members - members.mean(axis=2, keepdims=True)).mean(axis=(0, 1))
            squares += float((centred**2).sum())
            freedom += centred.size - 1
        if freedom < 1:
            continue
        spread = float(np.sqrt(squares / freedom))
        omega = float(posterior["omega"].sel(effect=effect).median())
        found = 1.0 - spread / omega if omega > 0 else float("nan")
        word = "individual values lean on the population" if found >= SHRUNK else "individual values are informed"
        lines.append({"effect": effect, "omega": omega, "sd_of_means": spread, "shrinkage": found, "word": word})
    return pd.DataFrame(lines, columns=["effect", "omega", "sd_of_means", "shrinkage", "word"])


def aliases(
    posterior: xr.Dataset, *, rows: Mapping[str, Parameter] | None = None, least: float = ALIASED
) -> pd.DataFrame:
    """Return the pairs of population scalars whose posterior draws are strongly correlated.

    Returns
    -------
    DataFrame
        `first`, `second`, `correlation` (Pearson, transformed scale), strongest first.
    """
    scalars = list_scalars(posterior, rows)
    draws = stack(posterior, scalars).values.reshape(-1, len(scalars))
    moving = [i for i in range(len(scalars)) if np.isfinite(draws[:, i]).all() and not is_fixed(draws[:, i])]
    lines = []
    if len(moving) > 1:
        matrix = np.corrcoef(draws[:, moving], rowvar=False)
        for a, b in zip(*np.triu_indices(len(moving), 1), strict=True):
            if abs(matrix[a, b]) > least:
                lines.append((scalars[moving[a]].name, scalars[moving[b]].name, float(matrix[a, b])))
    lines.sort(key=lambda row: -abs(row[2]))
    return pd.DataFrame(lines, columns=["first", "second", "correlation"])


def _products(tree: xr.DataTree) -> np.ndarray[tuple[int], np.dtype[np.str_]]:
    """Return the first product of each patient of the posterior ('' where no observation tells)."""
    observed = tree["observed_data"].to_dataset()
    order = np.argsort(observed["time"].values, kind="stable")
    first: dict[str, str] = {}
    for i in order:
        first.setdefault(str(observed["patient"].values[i]), str(observed["product"].values[i]))
    patients = tree["posterior"].to_dataset()["patient"].values
    return np.array([first.get(str(patient), "") for patient in patients])
