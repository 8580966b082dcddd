"""Experiments with a model of one's own: the same virtual patients under several courses of doses; what drives them.

Arms differ in their doses alone: every patient goes through each of them with the same parameters, so that the
difference between arms is the patient's own.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from reinfuse.model.define import Model
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.experiment import Doses
from reinfuse.model.parameters import from_transformed, to_transformed
from reinfuse.model.simulate import solved

from .diagnosis.findings import own_of
from .own_model import describe
from .retreatment.statistics import NOTHING, proportion
from .run import RunFolder

type Floats = NDArray[np.float64]
#: From a simulated population (dims ``patient, time``) to one number per patient.
type Outcome = Callable[[xr.Dataset], Any]

LEVEL: Final = 0.95  # of intervals


def fitted_patients(
    run: RunFolder, model: Model, *, n: int, rng: np.random.Generator, new: bool = True
) -> tuple[dict[str, Floats], NDArray[np.int64]]:
    """Virtual patients from the posterior of a fit.

    Parameters
    ----------
    run
        A finished fit of ``model``.
    model
        The model.
    n
        How many patients.
    rng
        Draws them.
    new
        New patients of the fitted population; else patients of the data, each with one draw of its own parameters.

    Returns
    -------
    parameters : dict
        (n,) each, by symbol, for `Model.simulate`.
    draw : ndarray (n,)
        The posterior draw of each patient; evenly spaced, several patients to a draw where there are few.

    Raises
    ------
    ReinfuseError
        If the run is of another model.
    """
    if own_of(run) != describe(model):
        fitted = run.provenance["model"]
        raise ReinfuseError(f"{run.path} is a fit of {fitted!r}, not of this {model.name!r}; give the model as fitted")
    posterior = run.posterior()["posterior"].to_dataset().stack(sample=("chain", "draw"), create_index=False)
    total = posterior.sizes["sample"]
    draw = np.sort(np.resize(np.linspace(0, total - 1, min(n, total)).round().astype(np.int64), n))
    who = rng.integers(posterior.sizes["patient"], size=n)
    drawn: dict[str, Floats] = {}
    for symbol, row in model.table.items():
        value = np.full(n, row.median)
        if symbol in posterior["parameter"]:
            value = posterior["population"].sel(parameter=symbol).to_numpy()[draw]
        if symbol in posterior["effect"]:
            if new:
                omega = posterior["omega"].sel(effect=symbol).to_numpy()[draw]
                centre = to_transformed(value, transform=row.transform)
                value = from_transformed(centre + omega * rng.standard_normal(n), transform=row.transform)
            else:
                own = posterior["individual"].sel(effect=symbol).transpose("sample", "patient").to_numpy()
                value = own[draw, who]
        drawn[symbol] = value
    return drawn, draw


def compare_arms(
    model: Model,
    *,
    arms: Mapping[str, Doses],
    times: ArrayLike,
    outcome: Outcome,
    parameters: Mapping[str, ArrayLike],
    draw: ArrayLike | None = None,
    larger_is_better: bool = True,
) -> xr.Dataset:
    """Simulate the same patients under several courses of doses, and compare each with the first.

    Parameters
    ----------
    model
        What to simulate.
    arms
        Courses by name; the first is what the others are compared with.
    times
        When to report.
    outcome
        From a simulation (dims ``patient, time``) to one number per patient.
    parameters
        (n,) each: from `fitted_patients`, or `Model.patients`.
    draw
        The posterior draw of each patient, (n,), whose patients share a population: they are clusters of the Monte
        Carlo error. None: patients are independent.
    larger_is_better
        Whether a benefit is a larger outcome, or a smaller one.

    Returns
    -------
    xarray.Dataset
        By ``arm``: ``mean`` outcome; ``difference`` from the first arm (mean over patients, paired) with its
        ``mc_error`` and the interval ``lower`` to ``upper`` that holds 95 % of the patients' own differences; and
        ``benefit``, the share of patients who do better than under the first arm (NaN for itself), with
        ``benefit_lower``, ``benefit_upper`` and ``benefit_mc_error``. By ``arm, patient``: ``outcome``. Patients who
        could not be solved in some arm are left out of all (attribute ``failures``).

    Raises
    ------
    ReinfuseError
        If there are no arms, the outcome is not one number per patient, or nobody could be solved.
    """
    if not arms:
        raise ReinfuseError("there are no arms; give courses of doses by name, the first to compare with")
    n = max((np.size(value) for value in parameters.values()), default=1)
    spread = {name: np.broadcast_to(np.asarray(value, dtype=np.float64), n) for name, value in parameters.items()}
    values, good = [], np.ones(n, dtype=bool)
    for doses in arms.values():
        simulated = model.simulate(times=times, doses=doses, parameters=spread)
        found = np.asarray(outcome(simulated), dtype=np.float64)
        if found.shape != (n,):
            raise ReinfuseError(f"the outcome has shape {found.shape}; return one number for each of {n} patients")
        good &= solved(simulated["status"]) & np.isfinite(found)
        values.append(found)
    if not good.any():
        raise ReinfuseError("no patient could be solved in all arms; look at the parameters, and at the outcome")
    kept = np.stack(values)[:, good]
    cluster = np.arange(n)[good] if draw is None else np.asarray(draw)[good]
    difference = kept - kept[0]
    better = difference > 0 if larger_is_better else difference < 0
    shares = [NOTHING, *(proportion(row, cluster, LEVEL) for row in better[1:])]
    low, high = np.quantile(difference, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    columns = {
        "mean": kept.mean(axis=1),
        "difference": difference.mean(axis=1),
        "mc_error": [_clustered_error(row, cluster) for row in difference],
        "lower": low,
        "upper": high,
        "benefit": [share.value for share in shares],
        "benefit_lower": [share.low for share in shares],
        "benefit_upper": [share.high for share in shares],
        "benefit_mc_error": [share.mc_error for share in shares],
    }
    data: dict[str, Any] = {name: (("arm",), np.asarray(column)) for name, column in columns.items()}
    data["outcome"] = (("arm", "patient"), kept)
    coords = {"arm": list(arms), "patient": np.flatnonzero(good)}
    return xr.Dataset(data, coords=coords, attrs={"failures": int(n - good.sum()), "compared_with": next(iter(arms))})


def _clustered_error(x: Floats, cluster: NDArray[Any]) -> float:
    """Monte Carlo standard error of a mean whose patients share draws."""
    _, place = np.unique(cluster, return_inverse=True)
    excess = np.bincount(place, weights=x - x.mean())
    groups = excess.size
    return float(np.sqrt(groups / (groups - 1) * (excess**2).sum()) / x.size) if groups > 1 else float("nan")


def sobol(
    model: Model,
    *,
    outcome: Outcome,
    times: ArrayLike,
    doses: Doses = (),
    samples: int = 512,
    prior: bool = True,
    rng: np.random.Generator,
) -> xr.Dataset:
    """Which parameters an outcome answers to, over their whole range: Sobol's indices (SALib).

    Parameters
    ----------
    model
        What to simulate.
    outcome
        From a simulation (dims ``patient, time``) to one number per patient.
    times, doses
        As in `Model.simulate`.
    samples
        Base samples, a power of 2; patients simulated are ``samples * (parameters + 2)``.
    prior
        Parameters range over their priors and between patients; else between patients of the median population only.
        Parameters without such a spread stay at their medians.
    rng
        Seeds the sequence and the bootstrap of the intervals.

    Returns
    -------
    xarray.Dataset
        By ``parameter``: ``first``, the share of the outcome's variance that goes when the parameter is known,
        ``total``, the share that stays when all others are; and the half-widths ``first_error`` and ``total_error`` of
        their 95 % intervals.

    Raises
    ------
    ReinfuseError
        If no parameter has a spread, samples is no power of 2, or a patient could not be solved.
    """
    from SALib.analyze import sobol as analysis
    from SALib.sample import sobol as sampling

    if samples < 2 or samples & (samples - 1):
        raise ReinfuseError(f"samples is {samples}; give a power of 2, such as 512")
    spread = {s: float(np.hypot(row.iiv, row.log_sd if prior else 0.0)) for s, row in model.table.items()}
    names = [symbol for symbol, sd in spread.items() if sd > 0]
    if not names:
        raise ReinfuseError(f"no parameter of model {model.name!r} has a spread; give some log_sd or iiv above 0")
    centres = [float(to_transformed(model.table[s].median, transform=model.table[s].transform)) for s in names]
    space = {
        "num_vars": len(names),
        "names": names,
        "bounds": [[centre, spread[s]] for centre, s in zip(centres, names, strict=True)],
        "dists": ["norm"] * len(names),
    }
    seed = int(rng.integers(2**31))
    points = sampling.sample(space, samples, calc_second_order=False, seed=seed)
    parameters = {s: from_transformed(points[:, k], transform=model.table[s].transform) for k, s in enumerate(names)}
    simulated = model.simulate(times=times, doses=doses, parameters=parameters)
    found = np.asarray(outcome(simulated), dtype=np.float64)
    if failed := int((~np.isfinite(found)).sum()):
        raise ReinfuseError(f"{failed} of {found.size} patients have no outcome; narrow priors, or mend the outcome")
    indices = analysis.analyze(space, found, calc_second_order=False, seed=seed)
    named = {"first": "S1", "first_error": "S1_conf", "total": "ST", "total_error": "ST_conf"}
    columns = {name: (("parameter",), np.asarray(indices[key])) for name, key in named.items()}
    return xr.Dataset(columns, coords={"parameter": names})
