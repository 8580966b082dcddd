"""A fit from cohort to run folder: pose, compile, explore, sample, predict, write.

A model of the user's own goes the same way, but for the forecasts of withheld samples: what they count, and when, is
that of CAR-T cells.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.define import Model
from reinfuse.model.errors import ReinfuseError

from .blocks import State
from .cohort import Cohort
from .comparison import POPULATION_DRAWS, Integrals, integrals, leave_one_out
from .converging import Progress, sample_until_converged
from .geometry import Posterior, prepare
from .holdout import CUTOFFS, POPULATIONS, forecast
from .hypotheses import NULL_OF, RECORD, TO_BE_FITTED
from .likelihood_op import LogDensity
from .own_model import describe, pose_model
from .population import population_model
from .problem import Problem, Specification, pose
from .proposals import coordinates_of
from .ranking import enter, rank
from .reopened import tell_apart
from .results import (
    Draws,
    curves,
    layout,
    log_likelihood,
    log_prior,
    observed,
    posterior_draws,
    predictions,
    prior_draws,
)
from .run import MODEL_FILE, PRODUCTS_FILE, RunFolder, provenance, settings_hash, sha256_of
from .sampling import Settings, sampler_name

type Floats = NDArray[np.float64]

LIKELIHOOD_DRAWS: Final = 500
LONGEST_CURVE: Final = 750.0
FORECAST_UNTIL: Final = 130.0
#: Columns of the comparison that a run's record holds; `reinfuse compare` has more.
COMPARED: Final = (
    "variant",
    "elpd",
    "difference",
    "se_difference",
    "mcse_difference",
    "weight_stacking",
    "patients_doubtful",
    "max_rhat",
    "min_ess",
)
SAVE_SECONDS: Final = 5.0  # between saved states of a chain


@dataclass
class Clock:
    """Wall seconds by stage."""

    seconds: dict[str, float]
    _since: float = 0.0

    def start(self) -> None:
        """Begin a stage."""
        self._since = time.perf_counter()

    def stop(self, stage: str) -> None:
        """End it; the next begins."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 2)
        self._since = now


def _flattened(problem: Problem, values: xr.Dataset) -> Floats:
    return np.asarray(values["x"].transpose("chain", "draw", "coordinate").to_numpy(), dtype=np.float64)


def assemble(problem: Problem, sampled: xr.Dataset, rng: np.random.Generator) -> xr.DataTree:
    """The tree of a posterior file from the sampler's flat draws."""
    draws = Draws(problem, _flattened(problem, sampled))
    thin = max(1, sampled.sizes["draw"] // max(1, LIKELIHOOD_DRAWS // sampled.sizes["chain"]))
    few = Draws(problem, _flattened(problem, sampled.isel(draw=slice(None, None, thin))))
    statistics = sampled.drop_vars("x")
    last = float(problem.ob_time.max())
    until = last if problem.own else min(last, LONGEST_CURVE)
    groups = {
        "posterior": posterior_draws(problem, draws),
        "prior": prior_draws(problem, rng),
        "log_prior": log_prior(problem, draws),
        "sample_stats": statistics,
        "posterior_predictive": predictions(problem, draws, rng),
        "log_likelihood": log_likelihood(problem, few),
        "observed_data": observed(problem),
        "curves": curves(problem, draws, until),
    }
    return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})


def silent(title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """No progress display."""
    return nullcontext(lambda _: None)


def fit(
    cohort: Cohort,
    *,
    out: str | Path,
    model: Model | None = None,
    model_file: Path | None = None,
    products_file: Path | None = None,
    source: Path | None = None,
    specification: Specification | None = None,
    settings: Settings | None = None,
    cores: int = 2,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
    command: list[str] | None = None,
) -> RunFolder:
    """Fit a cohort and write a run folder.

    Parameters
    ----------
    cohort
        A checked cohort; for a model of one's own from `own_model.read_data`.
    out
        The run folder.
    model
        A model of one's own; None: CAR-T cells against myeloma.
    model_file
        The file it was read from, which is copied into the run.
    products_file
        The file of products of one's own, registered already, which is copied into the run.
    source
        The cohort file; the cohort's table is written where it is left out.
    specification, settings
        What to fit, and how to sample.
    cores
        Chains at a time.
    resume
        Go on with an earlier fit of the same settings that was interrupted or killed: finished chains are kept, others
        go on from their last saved state, and the draws are those of a fit that nothing interrupted.
    overwrite
        Write into a folder that already holds a run.
    progress
        Progress display.
    command
        The command line, for the record.

    Returns
    -------
    RunFolder

    Raises
    ------
    ReinfuseError
        If the folder may not be written, a file that is given lies in a run to be written over, or the cohort cannot be
        fitted.
    """
    specification, settings = specification or Specification(), settings or Settings()
    RunFolder.check(out, resume=resume, overwrite=overwrite)
    files = {MODEL_FILE: model_file, PRODUCTS_FILE: products_file}
    for given in (source, *files.values()) if overwrite and not resume else ():
        if given is not None and given.resolve().parent == Path(out).resolve():
            raise ReinfuseError(f"{given} lies in {out}, which --force would clear first. Name another folder.")
    described = {} if model is None else describe(model).to_json()
    structure = {"model": "bcma", "options": "real", "variant": specification.variant}
    if model is not None:
        structure = {"model": model.name, "options": "as defined", "variant": "as defined"}
    clock = Clock({})
    clock.start()
    with progress("Compiling", 2) as tick:
        # before the folder: a cohort that cannot be fitted leaves nothing behind
        problem = pose(cohort, specification) if model is None else pose_model(cohort, model)
        tick(1)
        run = RunFolder.create(out, resume=resume, overwrite=overwrite)
        record: dict[str, Any] = {
            "seed": settings.seed,
            "cohort_sha256": cohort.sha256,
            "sampler": sampler_name(settings),
            **structure,
            "settings": settings.as_dict(),
            "random_effects": list(specification.random_effects if model is None else problem.random),
            "command": command,
        }
        if model is not None:
            record["own_model"] = described
        run.write_provenance(provenance(status="running", wall_seconds=clock.seconds, **record))
        run.write_cohort(source if source is not None else cohort.table)
        for name, given in files.items():
            if given is not None:
                run.write_copy(name, given)
        with _ending(run):
            log_density = LogDensity(population_model(problem))
            log_density(np.zeros(layout(problem).size))
        tick(1)
    clock.stop("compile")
    with _ending(run):
        identity = settings.as_dict() | asdict(specification)
        compiled = [text.__name__ for text in (problem.kernel.module, problem.kernel.solver)]
        identity |= {"cohort": cohort.sha256, "kernel": compiled, "own_model": described}
        identity |= {"products": sha256_of(products_file)} if products_file else {}
        solver = _fill(run, problem, log_density, settings, settings_hash(identity), clock, cores, resume, progress)
        content = provenance(status="done", wall_seconds=clock.seconds, **(record | solver))
        run.write_provenance(content | {"files": run.provenance.get("files", {})})
        run.clear_chains()
    return run


@contextmanager
def _ending(run: RunFolder) -> Iterator[None]:
    """Record how a run ended that did not end well; finished chains stay where they are."""
    try:
        yield
    except KeyboardInterrupt:
        run.update_provenance(status="interrupted")
        raise
    except BaseException:
        run.update_provenance(status="failed")
        raise


def _fill(
    run: RunFolder,
    problem: Problem,
    log_density: LogDensity,
    settings: Settings,
    identity: str,
    clock: Clock,
    cores: int,
    resume: bool,
    progress: Progress,
) -> dict[str, int]:
    """Explore, sample, predict and write; counts for the record, of what the solver and the sampler did."""
    finished = {k: run.load_chain(k).to_dataset() for k in run.finished_chains(identity)} if resume else {}
    begun = {k: state for k in range(settings.chains) if resume and (state := run.load_state(k, settings=identity))}
    rng = np.random.default_rng([settings.seed, 0])
    with progress("Exploring", 1) as tick:
        coordinates = prepare(problem, log_density, layout(problem), rng)
        tick(1)
    clock.stop("setup")
    sampled = sample_until_converged(
        problem,
        log_density,
        coordinates,
        settings,
        cores=cores,
        progress=progress,
        finished=finished,
        keep=lambda chain, draws: _keep(run, chain, draws, identity),
        begun=begun,
        save=_Saver(run, identity),
        end=lambda chain, state: run.save_state(chain, state, settings=identity),
    )
    clock.stop("sampling")
    with progress("Predicting", 1) as tick:
        tree = assemble(problem, sampled, np.random.default_rng([settings.seed, 1]))
        tick(1)
    draws = Draws(problem, _flattened(problem, sampled))
    found = _left_out(problem, draws, settings.seed, cores, progress)
    tree["integrated"] = xr.DataTree(_integrated(problem, found))
    run.write_posterior(tree)
    if not problem.own:
        run.write_forecast(_withheld(problem, draws, settings.seed, cores, progress))
    clock.stop("post")
    return {
        name: int(sampled.attrs.get(name, 0)) for name in ("solver_failures", "solved_implicitly", "sweeps_per_draw")
    }


def _keep(run: RunFolder, chain: int, draws: xr.Dataset, identity: str) -> None:
    run.save_chain(chain, draws, settings=identity)


class _Saver:
    """Keeps the state of chains on disk as they go on, so that a fit killed at any moment can be resumed."""

    def __init__(self, run: RunFolder, identity: str) -> None:
        self.run, self.identity = run, identity
        self.due: dict[int, float] = {}

    def __call__(self, chain: int, state: Callable[[], State]) -> None:
        """Save now and then: every few seconds, and never for more than a fiftieth of the time."""
        start = time.perf_counter()
        if start < self.due.setdefault(chain, start + SAVE_SECONDS):
            return
        self.run.save_state(chain, state(), settings=self.identity)
        now = time.perf_counter()
        self.due[chain] = now + max(SAVE_SECONDS, 50.0 * (now - start))


def _left_out(problem: Problem, draws: Draws, seed: int, cores: int, progress: Progress) -> Integrals:
    """Log-likelihood of each patient given the population."""
    rng = np.random.default_rng([seed, 2])
    posterior = Posterior(problem)
    with progress("Leaving patients out", POPULATION_DRAWS) as tick:
        return integrals(posterior, coordinates_of(posterior, draws), draws, rng, tick, cores=cores)


def _integrated(problem: Problem, found: Integrals) -> xr.Dataset:
    """Leave-one-patient-out densities of a fit."""
    left = leave_one_out(found.loglik, found.variance)
    each = {"elpd": left.elpd, "pareto_k": left.pareto_k, "mcse": left.mcse, "lpd": left.lpd, "error": found.error}
    return xr.Dataset(
        {"loglik": (("population_draw", "subject"), found.loglik)}
        | {name: (("subject",), values) for name, values in each.items()},
        coords={"subject": list(problem.patients)},
    )


def _withheld(problem: Problem, draws: Draws, seed: int, cores: int, progress: Progress) -> xr.Dataset:
    """Forecasts of what was withheld."""
    rng = np.random.default_rng([seed, 3])
    with progress("Forecasting", POPULATIONS * len(CUTOFFS)) as tick:
        return forecast(problem, draws, rng, until=FORECAST_UNTIL, cores=cores, tick=tick)


def compare_variants(
    run: RunFolder,
    cohort: Cohort,
    settings: Settings,
    *,
    others: tuple[str, ...] = ("full",),
    cores: int = 2,
    progress: Progress,
) -> None:
    """Fit other variants into ``RUN/variants`` and write the comparison into the run's record.

    Parameters
    ----------
    run
        A finished fit.
    cohort, settings, cores, progress
        As in `fit`.
    others
        Variants to compare with the run's own.
    """
    runs = {str(run.provenance["variant"]): run}
    for variant in others:
        if variant not in runs:
            runs[variant] = fit(
                cohort,
                out=run.path / "variants" / variant,
                specification=Specification(variant=variant),
                settings=settings,
                cores=cores,
                overwrite=True,
                progress=progress,
            )
    table = rank([enter(one, name, effort="weights") for name, one in runs.items()]).table
    run.update_provenance(comparison=table[list(COMPARED)].to_dict(orient="records"))


def compare_null(
    run: RunFolder,
    cohort: Cohort,
    settings: Settings,
    *,
    others: tuple[str, ...] = (),
    cores: int = 2,
    progress: Progress,
) -> None:
    """Judge a fit beside its null model, without effects of the host's dysfunction, and beside other variants.

    The null is fitted only where the data can tell it from the run's own model; where they cannot, the run's record
    says so. A model that is a null itself, or one of the user's own, has none.

    Parameters
    ----------
    run
        A finished fit.
    cohort, settings, cores, progress
        As in `fit`.
    others
        Further variants to compare with.
    """
    null = NULL_OF.get(str(run.provenance["variant"])) if run.provenance.get("own_model") is None else None
    if null is not None:
        with progress("The null model", 1) as tick:
            found = tell_apart(run, null)
            tick(1)
        run.update_provenance(**{RECORD: found})
        others = (*others, null) if found["status"] == TO_BE_FITTED else others
    if others:
        compare_variants(run, cohort, settings, others=others, cores=cores, progress=progress)
