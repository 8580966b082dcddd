"""The empirical curve to beat: Stein 2019, fitted to CAR-T kinetics patient by patient within a population.

Stein et al., CPT Pharmacometrics Syst Pharmacol 8:285 (2019): exponential growth to a peak, then two
exponentials. It knows neither tumour nor product biology, so a mechanistic model that forecasts worse than
this curve has not earned its mechanism on these data.

The fit is empirical Bayes. Individual parameters are Gaussian on the transformed scale around a mean per
product, with one standard deviation per parameter; EM with a Laplace approximation per patient (Gauss-Newton
curvature) maximises the penalised likelihood; censored rows enter as M3. Means are pulled to Stein's typical
values, because few cohorts sample the growth phase. Forecasts draw each patient's parameters by importance
sampling around the Laplace mode; the population is held at its estimate, which flatters it a little.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from reinfuse.model.errors import ReinfuseError

from . import scores

Array = npt.NDArray[np.float64]

NAMES: Final = ("foldx", "tmax", "cmax", "alpha", "fb", "beta")
"""Fold expansion (-), day of the peak, peak (unit of the assay), first decline (1/d), fraction that persists
(-), second decline (1/d)."""

TYPICAL: Final = np.array([3900.0, 9.3, 24000.0, 0.16, 0.0079, 0.0032])
"""Typical values of Stein 2019, tisagenlecleucel (READ: nlmixr2lib Stein_2019_Tisagenlecleucel.R)."""

MEAN_SD: Final = np.array([0.7, 0.3, 10.0, 0.5, 3.0, 1.5])
"""Width of the pull of a product's mean towards the typical value, transformed scale. The peak is free, and
persistence (fb, beta) nearly so: typical values of another disease must not make a straw man (ASSUMED)."""

OMEGA: Final = np.array([0.7, 0.3, 1.2, 0.5, 2.0, 1.0])
"""Where the standard deviations between patients start, and what they are pulled to (ASSUMED; that of fb is
wide for the same reason)."""

OMEGA_WEIGHT: Final = 4.0
"""How many patients' worth of evidence the pull on the standard deviations has (ASSUMED)."""

SIGMA_START: Final = 0.56
"""Residual sd on the ln scale that the fit starts from (READ: Stein 2019, constant on the log scale)."""

NU: Final = 4.0
"""Degrees of freedom of the Student-t residuals, as in the mechanistic fit, so that scores compare."""

_LOGIT: Final = NAMES.index("fb")
_FEW: Final = 6  # Newton steps within one EM step: the modes need not be exact before the population is
_LARGE: Final = 30.0  # exponents beyond this come from stray importance draws and would overflow
_STEPS: Final = np.full(len(NAMES), 1e-5)


def stein_curve(
    t: npt.ArrayLike,
    foldx: npt.ArrayLike,
    tmax: npt.ArrayLike,
    cmax: npt.ArrayLike,
    alpha: npt.ArrayLike,
    fb: npt.ArrayLike,
    beta: npt.ArrayLike,
) -> Array:
    """Return Stein's curve.

    R(t) = (cmax / foldx) exp(ln(foldx) t / tmax) before tmax, and
    cmax [(1 - fb) exp(-alpha (t - tmax)) + fb exp(-beta (t - tmax))] from tmax on.

    Parameters
    ----------
    t
        Days since the infusion.
    foldx, tmax, cmax, alpha, fb, beta
        See `NAMES`; everything broadcasts.

    Returns
    -------
    array
        In the unit of `cmax`.
    """
    return np.asarray(np.exp(log_curve(np.asarray(t, dtype=float), _transform(foldx, tmax, cmax, alpha, fb, beta))))


@dataclass(frozen=True, kw_only=True)
class SteinFit:
    """Stein's curve fitted to one assay of a cohort; parameters on the transformed scale (ln; logit of fb).

    Attributes
    ----------
    products, mean
        Product names, and (product, 6) population means.
    omega, sigma, nu
        (6,) standard deviations between patients; residual sd on the ln scale; degrees of freedom.
    patients, product_of, mode, covariance
        Patients, (p,) index of the product, (p, 6) Laplace modes and (p, 6, 6) covariances.
    time, value, cens
        (p, j) data by patient, ln scale; `value` is NaN where there is none.
    iterations
        EM steps taken.
    """

    products: tuple[str, ...]
    mean: Array
    omega: Array
    sigma: float
    nu: float
    patients: tuple[str, ...]
    product_of: npt.NDArray[np.intp]
    mode: Array
    covariance: Array
    time: Array
    value: Array
    cens: Array
    iterations: int


def fit_stein(
    *,
    patient: Sequence[str] | npt.NDArray[np.str_],
    product: Sequence[str] | npt.NDArray[np.str_],
    time: npt.ArrayLike,
    value: npt.ArrayLike,
    cens: npt.ArrayLike,
    nu: float = NU,
    max_iterations: int = 200,
    tolerance: float = 1e-3,
) -> SteinFit:
    """Fit Stein's curve to one assay.

    Parameters
    ----------
    patient, product
        (n,) names by row.
    time
        (n,) days since the infusion; rows at or before 0 are left out.
    value
        (n,) assay or its limit, natural scale, > 0.
    cens
        (n,) 0 quantified, 1 at or below the limit, -1 above it.
    nu
        Degrees of freedom of the residuals.
    max_iterations, tolerance
        EM stops when no mean (in units of omega), omega or sigma moves more than this.

    Returns
    -------
    SteinFit

    Raises
    ------
    ReinfuseError
        If fewer than two rows are left, or a value is not above zero.
    """
    data = pd.DataFrame(
        {
            "patient": np.asarray(patient, dtype=str),
            "product": np.asarray(product, dtype=str),
            "time": np.asarray(time, dtype=float),
            "value": np.asarray(value, dtype=float),
            "cens": np.asarray(cens, dtype=float),
        }
    )
    data = data[data["time"] > 0]
    if len(data) < 2:
        raise ReinfuseError(f"Stein's curve needs at least 2 rows after the infusion, got {len(data)}.")
    if not (data["value"] > 0).all():
        raise ReinfuseError(f"Stein's curve needs values above 0, got {data['value'].min()}; mark them as censored.")
    names = tuple(data["patient"].drop_duplicates())
    products = tuple(sorted(data["product"].unique()))
    row = data["patient"].map({name: i for i, name in enumerate(names)}).to_numpy()
    column = data.groupby("patient").cumcount().to_numpy()
    shape = len(names), int(column.max()) + 1
    days, logs, flags = np.ones(shape), np.full(shape, np.nan), np.zeros(shape)
    days[row, column], logs[row, column] = data["time"], np.log(data["value"])
    flags[row, column] = data["cens"]
    first = data.drop_duplicates("patient")["product"]
    product_of = np.array([products.index(name) for name in first], dtype=np.intp)

    typical = _transform(*TYPICAL)
    typical[2] = _typical_peak(logs)
    mean, omega, sigma = np.tile(typical, (len(products), 1)), OMEGA.copy(), SIGMA_START
    mode = mean[product_of].copy()
    iterations = 0
    while iterations < max_iterations:
        iterations += 1
        mode, covariance, jacobian = _laplace(mode, mean[product_of], omega, sigma, nu, days, logs, flags, steps=_FEW)
        new_mean = np.empty_like(mean)
        for p in range(len(products)):
            own = mode[product_of == p]
            new_mean[p] = (own.sum(axis=0) / omega**2 + typical / MEAN_SD**2) / (len(own) / omega**2 + 1 / MEAN_SD**2)
        scatter = (mode - new_mean[product_of]) ** 2 + np.einsum("pkk->pk", covariance)
        new_omega = np.sqrt((scatter.sum(axis=0) + OMEGA_WEIGHT * OMEGA**2) / (len(names) + OMEGA_WEIGHT))
        new_sigma = _residual_sd(sigma, mode, covariance, jacobian, nu, days, logs, flags)
        moved = max(
            float(np.abs((new_mean - mean) / omega).max()),
            float(np.abs(np.log(new_omega / omega)).max()),
            abs(float(np.log(new_sigma / sigma))),
        )
        mean, omega, sigma = new_mean, new_omega, new_sigma
        if moved < tolerance:
            break
    mode, covariance, _ = _laplace(mode, mean[product_of], omega, sigma, nu, days, logs, flags)
    return SteinFit(
        products=products,
        mean=mean,
        omega=omega,
        sigma=sigma,
        nu=nu,
        patients=names,
        product_of=product_of,
        mode=mode,
        covariance=covariance,
        time=days,
        value=logs,
        cens=flags,
        iterations=iterations,
    )


def forecast_stein(
    fit: SteinFit,
    *,
    patient: Sequence[str] | npt.NDArray[np.str_],
    product: Sequence[str] | npt.NDArray[np.str_],
    time: npt.ArrayLike,
    rng: np.random.Generator,
    draws: int = 2000,
) -> tuple[Array, Array]:
    """Return predictions of further rows, given what the fit saw of each patient.

    Parameters
    ----------
    fit
        From `fit_stein`.
    patient, product, time
        (n,) rows to predict. A patient the fit did not see is drawn from the population of the product.
    rng
        Source of the draws.
    draws
        Draws per patient.

    Returns
    -------
    tuple
        (draws, n) ln predictions without residual error, and (draws, n) log weights of the draws.

    Raises
    ------
    ReinfuseError
        For a product the fit did not see.
    """
    days = np.asarray(time, dtype=float)
    names, kinds = np.asarray(patient, dtype=str), np.asarray(product, dtype=str)
    known = {name: i for i, name in enumerate(fit.patients)}
    centre, weight = np.empty((draws, len(days))), np.empty((draws, len(days)))
    for name in dict.fromkeys(names.tolist()):
        rows = np.flatnonzero(names == name)
        if name in known:
            theta, log_weight = _posterior_draws(fit, known[name], rng, draws)
        else:
            kind = str(kinds[rows[0]])
            if kind not in fit.products:
                raise ReinfuseError(f"The curve was not fitted to product '{kind}', only to {', '.join(fit.products)}.")
            theta = fit.mean[fit.products.index(kind)] + fit.omega * rng.standard_normal((draws, len(NAMES)))
            log_weight = np.zeros(draws)
        centre[:, rows] = log_curve(days[rows], theta[:, None, :])
        weight[:, rows] = log_weight[:, None]
    return centre, weight


def forecast_by_fold(
    *,
    patient: Sequence[str] | npt.NDArray[np.str_],
    product: Sequence[str] | npt.NDArray[np.str_],
    time: npt.ArrayLike,
    value: npt.ArrayLike,
    cens: npt.ArrayLike,
    cutoff: float,
    until: float = float("inf"),
    folds: int = 5,
    rng: np.random.Generator,
    draws: int = 2000,
) -> tuple[npt.NDArray[np.intp], Array, Array, Array]:
    """Forecast the later rows of every patient from the rows up to a day.

    Patients are dealt into folds. For each fold the curve is fitted to all rows of the other patients and to
    the early rows of its own, so the population has seen full courses; with one fold nobody's later rows are
    seen, and persistence is known from the priors only. Compare models under the same number of folds.

    Parameters
    ----------
    patient, product, time, value, cens
        (n,) rows of one assay, as for `fit_stein`.
    cutoff
        Last day that is seen of a patient whose later rows are forecast.
    until
        Last day that is forecast.
    folds
        Number of folds.
    rng
        Deals the patients and draws the parameters.
    draws
        Draws per patient.

    Returns
    -------
    tuple
        Indices (m,) of the rows forecast, ln predictions (draws, m), log weights (draws, m), and residual sds
        (m,) of the fold's fit. Patients without a row up to `cutoff` are not forecast.
    """
    names, kinds = np.asarray(patient, dtype=str), np.asarray(product, dtype=str)
    days, values, flags = np.asarray(time, dtype=float), np.asarray(value, dtype=float), np.asarray(cens)
    seen = np.unique(names[(days > 0) & (days <= cutoff)])
    dealt = rng.permutation(seen)
    rows: list[npt.NDArray[np.intp]] = []
    parts: list[tuple[Array, Array, Array]] = []
    for fold in range(folds):
        mine = np.isin(names, dealt[fold::folds])
        wanted = np.flatnonzero(mine & (days > cutoff) & (days <= until))
        if len(wanted) == 0:
            continue
        shown = (~mine if folds > 1 else np.zeros_like(mine)) | (days <= cutoff)
        fit = fit_stein(
            patient=names[shown],
            product=kinds[shown],
            time=days[shown],
            value=values[shown],
            cens=flags[shown],
        )
        centre, weight = forecast_stein(
            fit, patient=names[wanted], product=kinds[wanted], time=days[wanted], rng=rng, draws=draws
        )
        rows.append(wanted)
        parts.append((centre, weight, np.full(len(wanted), fit.sigma)))
    if not rows:
        empty = np.empty((draws, 0))
        return np.empty(0, dtype=np.intp), empty, empty, np.empty(0)
    order = np.concatenate(rows)
    sort = np.argsort(order)
    centre, weight, sigma = (np.concatenate(part, axis=-1)[..., sort] for part in zip(*parts, strict=True))
    return order[sort], centre, weight, sigma


def last_value_carried_forward(
    *, patient: Sequence[str] | npt.NDArray[np.str_], time: npt.ArrayLike, value: npt.ArrayLike, cutoff: float
) -> tuple[npt.NDArray[np.intp], Array]:
    """Return the rows after a day and, for each, the patient's last value up to that day.

    Parameters
    ----------
    patient, time, value
        (n,) rows of one assay; a censored value is carried as its limit.
    cutoff
        Last day that may be used.

    Returns
    -------
    tuple
        Indices of the later rows of patients with an earlier value, and the value carried to each.
    """
    names, days, values = (
        np.asarray(patient, dtype=str),
        np.asarray(time, dtype=float),
        np.asarray(value, dtype=float),
    )
    later, carried = [], []
    for row in np.flatnonzero(days > cutoff):
        earlier = np.flatnonzero((names == names[row]) & (days <= cutoff))
        if len(earlier):
            later.append(row)
            carried.append(values[earlier[days[earlier].argmax()]])
    return np.array(later, dtype=np.intp), np.array(carried, dtype=float)


def score_forecast(
    *,
    value: Array,
    cens: npt.ArrayLike,
    centre: Array,
    sigma: npt.ArrayLike,
    nu: float = NU,
    log_weights: Array | None = None,
    lower: Array | None = None,
) -> pd.DataFrame:
    """Score a forecast row by row.

    Parameters
    ----------
    value
        (n,) observed value or limit, ln scale.
    cens
        (n,) 0 quantified, 1 at or below the limit, -1 above it.
    centre
        (s, n) predictions without residual error, ln scale.
    sigma, nu
        Residual scale, broadcast against `centre`, and degrees of freedom.
    log_weights
        (s, n) log weights of the draws; equal when None.
    lower
        (n,) lower ends of intervals, ln scale, NaN elsewhere; none when None.

    Returns
    -------
    DataFrame
        By row: `cens`, `elpd` (ln predictive density, M3 included), `inside_50`, `inside_80`, `inside_95`
        (see `scores.coverage`), `error_in_ln` (|ln observed - ln predicted median|; a censored row counts by
        how far the prediction lies on the wrong side of its limit), `crps` (`scores.ranked_probability`), `rank`
        (predictive distribution at the observation; the middle of the possible ranks where censored).
    """
    flags = np.asarray(cens)
    density = scores.log_density(value, flags, centre=centre, sigma=sigma, nu=nu, lower=lower)
    low, high = scores.mixture_rank_bounds(
        value, flags, centre=centre, sigma=sigma, nu=nu, log_weights=log_weights, lower=lower
    )
    table = pd.DataFrame({"cens": flags, "elpd": scores.expected_log_density(density, log_weights)})
    for level in scores.LEVELS:
        table[f"inside_{level * 100:.0f}"] = scores.coverage(low, high, level)
    table["error_in_ln"] = scores.error_in_log(value, flags, _weighted_median(centre, log_weights))
    table["crps"] = scores.ranked_probability(value, flags, centre=centre, sigma=sigma, nu=nu, log_weights=log_weights)
    table["rank"] = 0.5 * (low + high)
    return table


def forecast_table(scored: pd.DataFrame, dvid: Sequence[str] | npt.NDArray[np.str_], *, model: str) -> pd.DataFrame:
    """Sum up a scored forecast by assay.

    Parameters
    ----------
    scored
        From `score_forecast`.
    dvid
        (n,) assay by row.
    model
        Name written into the table.

    Returns
    -------
    DataFrame
        `model`, `dvid`, `n`, `n_censored`, `elpd` (sum) and `elpd_se`, `inside_50`, `inside_80`, `inside_95`
        (shares), `error_in_ln` (median), `crps` (mean).
    """
    kinds = np.asarray(dvid, dtype=str)
    lines = []
    for kind in dict.fromkeys(kinds.tolist()):
        rows = scored[kinds == kind]
        n = len(rows)
        lines.append(
            {
                "model": model,
                "dvid": kind,
                "n": n,
                "n_censored": int((rows["cens"] != 0).sum()),
                "elpd": float(rows["elpd"].sum()),
                "elpd_se": float(np.sqrt(n) * rows["elpd"].std(ddof=1)) if n > 1 else float("nan"),
                **{column: float(rows[column].mean()) for column in rows if str(column).startswith("inside_")},
                "error_in_ln": float(rows["error_in_ln"].median()),
                "crps": float(rows["crps"].mean()),
            }
        )
    return pd.DataFrame(lines)


def _transform(*parts: npt.ArrayLike) -> Array:
    """Natural parameters to the transformed scale, last axis the six of `NAMES`."""
    natural = np.stack(np.broadcast_arrays(*(np.asarray(part, dtype=float) for part in parts)), axis=-1)
    with np.errstate(divide="ignore"):
        out = np.log(natural)
        out[..., _LOGIT] = special.logit(natural[..., _LOGIT])
    return np.asarray(out)


def log_curve(t: Array, theta: Array) -> Array:
    """Return ln R(t) from transformed parameters (..., 6); `t` broadcasts against the leading axes."""
    ln_foldx, ln_tmax, ln_cmax, ln_alpha, logit_fb, ln_beta = (theta[..., k] for k in range(len(NAMES)))
    tmax = np.exp(np.clip(ln_tmax, -_LARGE, _LARGE))
    after = t - tmax
    rising = ln_cmax - ln_foldx * (1.0 - t / tmax)
    waited = np.maximum(after, 0.0)
    fast = special.log_expit(-logit_fb) - np.exp(np.minimum(ln_alpha, _LARGE)) * waited
    slow = special.log_expit(logit_fb) - np.exp(np.minimum(ln_beta, _LARGE)) * waited
    return np.asarray(np.where(after < 0, rising, ln_cmax + np.logaddexp(fast, slow)))


def _typical_peak(logs: Array) -> float:
    """Return a ln peak to start from: the median over patients of the largest value."""
    return float(np.median(np.nanmax(logs, axis=1)))


def _slopes(z: Array, flags: Array, nu: float) -> tuple[Array, Array]:
    """Return d ln p / dz and a non-negative curvature in z = (value - centre) / sigma, with M3."""
    quantified = -z if np.isinf(nu) else -(nu + 1) * z / (nu + z**2)
    below = np.exp(scores.log_pdf(z, nu) - scores.log_cdf(z, nu))
    above = -np.exp(scores.log_pdf(z, nu) - scores.log_cdf(-z, nu))
    slope = np.where(flags == 0, quantified, np.where(flags > 0, below, above))
    expected = 1.0 if np.isinf(nu) else (nu + 1) / (nu + 3)
    return slope, np.where(flags == 0, expected, slope**2)


def _log_posterior(
    theta: Array, mean: Array, omega: Array, sigma: float, nu: float, days: Array, logs: Array, flags: Array
) -> Array:
    """Return ln posterior of each patient's parameters up to a constant: theta (..., p, 6) gives (..., p)."""
    curve = log_curve(days, theta[..., None, :])
    terms = scores.log_density(logs, flags, centre=curve, sigma=sigma, nu=nu)
    data = np.where(np.isfinite(logs), terms, 0.0).sum(axis=-1)
    prior = -0.5 * (((theta - mean) / omega) ** 2).sum(axis=-1)
    return np.asarray(data + prior)


def _laplace(
    start: Array,
    mean: Array,
    omega: Array,
    sigma: float,
    nu: float,
    days: Array,
    logs: Array,
    flags: Array,
    *,
    steps: int = 60,
) -> tuple[Array, Array, Array]:
    """Return mode, covariance and Jacobian by Levenberg-Marquardt, all patients at once.

    The curve has a kink at the peak, so steps are taken only where they improve; damping does the rest.
    """
    seen = np.isfinite(logs)
    theta = start.copy()
    damping = np.full(len(theta), 1e-2)
    value = _log_posterior(theta, mean, omega, sigma, nu, days, logs, flags)
    eye, still = np.eye(len(NAMES)), 0
    for _ in range(steps):
        jacobian, slope, curvature = _linearise(theta, sigma, nu, days, logs, flags, seen)
        gradient = np.einsum("pj,pjk->pk", slope, jacobian) - (theta - mean) / omega**2
        matrix = np.einsum("pj,pjk,pjl->pkl", curvature, jacobian, jacobian) + np.diag(omega**-2.0)
        damped = matrix + damping[:, None, None] * np.einsum("pkk->pk", matrix)[:, :, None] * eye
        step = np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
        trial = theta + step
        after = _log_posterior(trial, mean, omega, sigma, nu, days, logs, flags)
        better = after > value
        theta = np.where(better[:, None], trial, theta)
        gained = np.where(better, after - value, 0.0)
        value = np.where(better, after, value)
        damping = np.clip(np.where(better, damping / 5, damping * 5), 1e-8, 1e8)
        still = still + 1 if gained.max() < 1e-6 else 0
        if still == 4:  # four times more damping in vain: this is the mode, or the kink
            break
    jacobian, _, curvature = _linearise(theta, sigma, nu, days, logs, flags, seen)
    matrix = np.einsum("pj,pjk,pjl->pkl", curvature, jacobian, jacobian) + np.diag(omega**-2.0)
    return theta, np.linalg.inv(matrix), jacobian


def _linearise(
    theta: Array, sigma: float, nu: float, days: Array, logs: Array, flags: Array, seen: npt.NDArray[np.bool_]
) -> tuple[Array, Array, Array]:
    """Return d curve / d theta (p, j, 6), and slope and curvature of the data term in the curve (p, j)."""
    curve = log_curve(days, theta[:, None, :])
    columns = []
    for k, step in enumerate(_STEPS):
        moved = theta.copy()
        moved[:, k] += step
        columns.append((log_curve(days, moved[:, None, :]) - curve) / step)
    jacobian = np.where(seen[:, :, None], np.stack(columns, axis=-1), 0.0)
    slope, curvature = _slopes(np.where(seen, (logs - curve) / sigma, 0.0), np.where(seen, flags, 0.0), nu)
    return jacobian, np.where(seen, -slope / sigma, 0.0), np.where(seen, curvature / sigma**2, 0.0)


def _residual_sd(
    sigma: float,
    mode: Array,
    covariance: Array,
    jacobian: Array,
    nu: float,
    days: Array,
    logs: Array,
    flags: Array,
) -> float:
    """Return the residual sd of highest expected log-likelihood (7-point Gauss-Hermite over the curve)."""
    seen = np.isfinite(logs)
    spread = np.sqrt(np.einsum("pjk,pkl,pjl->pj", jacobian, covariance, jacobian))[seen]
    curve = log_curve(days, mode[:, None, :])[seen]
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    centre = curve + nodes[:, None] * spread
    grid = sigma * np.exp(np.linspace(-0.3, 0.3, 25))
    expected = [
        float((weights @ scores.log_density(logs[seen], flags[seen], centre=centre, sigma=s, nu=nu)).sum())
        for s in grid
    ]
    best = int(np.argmax(expected))
    if 0 < best < len(grid) - 1:
        left, middle, right = expected[best - 1 : best + 2]
        bend = left - 2 * middle + right
        offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return float(grid[best] * np.exp(offset * np.log(grid[1] / grid[0])))
    return float(grid[best])


def _posterior_draws(fit: SteinFit, i: int, rng: np.random.Generator, draws: int) -> tuple[Array, Array]:
    """Return importance draws (draws, 6) of one patient's parameters from a widened t5 around the mode."""
    root = 1.2 * np.linalg.cholesky(fit.covariance[i])
    normal = rng.standard_normal((draws, len(NAMES)))
    scale = np.sqrt(5.0 / rng.chisquare(5.0, draws))[:, None]
    theta = fit.mode[i] + (normal * scale) @ root.T
    proposal = -0.5 * (5.0 + len(NAMES)) * np.log1p((normal * scale * (normal * scale)).sum(axis=1) / 5.0)
    target = _log_posterior(
        theta[:, None, :],
        fit.mean[fit.product_of[i]],
        fit.omega,
        fit.sigma,
        fit.nu,
        fit.time[i : i + 1],
        fit.value[i : i + 1],
        fit.cens[i : i + 1],
    )[:, 0]
    return theta, target - proposal


def _weighted_median(draws: Array, log_weights: Array | None) -> Array:
    """Return the median over the first axis under weights."""
    if log_weights is None:
        return np.asarray(np.median(draws, axis=0))
    weights = np.broadcast_to(log_weights if log_weights.ndim == 2 else log_weights[:, None], draws.shape)
    order = np.argsort(draws, axis=0)
    share = np.cumsum(special.softmax(np.take_along_axis(weights, order, axis=0), axis=0), axis=0)
    place = (share >= 0.5).argmax(axis=0)
    return np.asarray(np.take_along_axis(np.take_along_axis(draws, order, axis=0), place[None, :], axis=0)[0])
