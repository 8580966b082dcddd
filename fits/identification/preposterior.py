"""Before a study is done: which sds of parameters, and of a prediction, its schedule may be expected to leave.

Populations are drawn from what is known now (a run's posterior, or the priors), patients from each population, and each
patient's information under every design is computed at its own parameters (`information`). What is known now is taken
as Gaussian on the transformed scales; the information of a design's patients is added to it, and the covariances that
result are averaged over the populations. All designs see the same populations and patients, so that differences between
them are not chance, and a sample more can never widen anything.

A prediction (the mean gain of a second infusion) is linear in the population values as far as a regression over draws
says; the rest of its spread is out of every design's reach and stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import Product, product, register

from ..cohort_terms import EVENTS
from ..reopened import Reopened
from ..tasks import Arrays, Complete, in_turn
from .designs import NONE, Design, DesignFile, allocate, pose_designs
from .information import Lines, of_deviations, of_population, posterior_covariance, shrinkage
from .records import Instrument, Readings, hyper_logs, limits

type Floats = NDArray[np.float64]

POPULATIONS: Final = 40
INFORMED: Final = 0.98  # ratio of sds below which a design tells something of a parameter
SMALLEST: Final = 1e-10  # relative variance that keeps a covariance of few draws invertible


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What is known of the population now: Gaussian on the transformed scales.

    Attributes
    ----------
    names
        Of the population vector.
    mean, covariance
        (d,), (d, d).
    draws
        (D, d) populations.
    logs
        (d,) whether each is a logarithm.
    prior_sd
        (d,) before any data.
    source
        Where it comes from, in words.
    """

    names: tuple[str, ...]
    mean: Floats
    covariance: Floats
    draws: Floats
    logs: tuple[bool, ...]
    prior_sd: Floats
    source: str

    @classmethod
    def of_prior(cls, instrument: Instrument, count: int, rng: np.random.Generator) -> Self:
        """The priors alone."""
        mean, sd = instrument.posterior.prior_mean, instrument.posterior.prior_sd
        draws = mean + sd * rng.standard_normal((count, mean.size))
        logs = tuple(hyper_logs(instrument.problem))
        return cls(tuple(instrument.names), mean, np.diag(sd**2), draws, logs, sd, "the priors, no data")

    @classmethod
    def of_run(cls, instrument: Instrument, run: Reopened, count: int, rng: np.random.Generator) -> Self:
        """The posterior of a run; what it did not estimate has its prior, independent of the rest."""
        prior = cls.of_prior(instrument, count, rng)
        theirs = Instrument(run.problem).names
        everything = run.draws.hypers()
        shared = [name for name in prior.names if name in theirs]
        mine = np.array([prior.names.index(name) for name in shared], dtype=np.int64)
        columns = everything[:, [theirs.index(name) for name in shared]]
        mean, covariance, draws = prior.mean.copy(), prior.covariance.copy(), prior.draws.copy()
        mean[mine] = columns.mean(axis=0)
        found = np.cov(columns, rowvar=False).reshape(mine.size, mine.size)
        covariance[np.ix_(mine, mine)] = found + SMALLEST * np.diag(np.diag(found))
        chosen = np.linspace(0, len(columns) - 1, count).round().astype(np.int64)
        draws[:, mine] = columns[chosen]
        source = f"the posterior of {run.run.path.resolve().name}"
        return cls(prior.names, mean, covariance, draws, prior.logs, prior.prior_sd, source)


@dataclass(frozen=True, eq=False)
class Expected:
    """What designs may be expected to leave.

    Attributes
    ----------
    designs
        Names; the first is `NONE`.
    knowledge
        Before the study.
    covariance
        (designs, D, d, d) posterior covariances by population.
    effects
        Names of the random effects.
    shrinkage
        (designs, D, q) expected eta-shrinkage.
    failed
        Share of patients whose simulation failed at some sample; they count as not sampled.
    """

    designs: tuple[str, ...]
    knowledge: Knowledge
    covariance: Floats
    effects: tuple[str, ...]
    shrinkage: Floats
    failed: float

    def shrinkage_table(self) -> pd.DataFrame:
        """Expected eta-shrinkage by design and random effect, with Monte Carlo errors: of patients' own values."""
        rows = []
        for k, design in enumerate(self.designs):
            for q, effect in enumerate(self.effects):
                values = self.shrinkage[k, :, q]
                error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")
                rows.append((design, effect, float(values.mean()), error))
        return pd.DataFrame(rows, columns=["design", "effect", "shrinkage", "mc_error"])

    def table(self) -> pd.DataFrame:
        """Expected posterior sds by design and parameter, with Monte Carlo errors.

        Columns: ``design``, ``parameter``, ``sd_now``, ``sd`` (root of the expected posterior variance), ``mc_error``,
        ``ratio`` to now, ``contraction`` against the prior before any data.
        """
        rows = []
        for k, design in enumerate(self.designs):
            variance = np.einsum("sii->si", self.covariance[k])
            for i, name in enumerate(self.knowledge.names):
                sd, error = root_mean(variance[:, i])
                now = float(np.sqrt(self.knowledge.covariance[i, i]))
                gained = 1.0 - (sd / float(self.knowledge.prior_sd[i])) ** 2
                rows.append((design, name, now, sd, error, sd / now, gained))
        columns = ["design", "parameter", "sd_now", "sd", "mc_error", "ratio", "contraction"]
        return pd.DataFrame(rows, columns=columns)


def root_mean(variance: Floats) -> tuple[float, float]:
    """Root of a mean variance (S,), and its Monte Carlo error."""
    mean = float(variance.mean())
    error = float(variance.std(ddof=1) / np.sqrt(variance.size)) if variance.size > 1 else float("nan")
    root = float(np.sqrt(mean))
    return root, 0.5 * error / root if root > 0 else 0.0


@dataclass(frozen=True, eq=False)
class PopulationTask:
    """What another process needs to see one population's patients under every design.

    Attributes
    ----------
    file, products, variant
        To pose the designs.
    hyper, deviations
        The population (d,), and its patients (most, q) in units of their spreads.
    """

    file: DesignFile
    products: tuple[Product, ...]
    variant: str
    hyper: Floats
    deviations: Floats


def expect(
    file: DesignFile,
    instrument: Instrument,
    knowledge: Knowledge,
    rng: np.random.Generator,
    *,
    variant: str,
    complete: Complete = in_turn,
) -> Expected:
    """Expected posterior covariances of the population under every design of a file.

    Parameters
    ----------
    file
        The designs.
    instrument
        Of `designs.pose_designs`.
    knowledge
        What is known now; its draws are the populations.
    rng
        For the patients' deviations.
    variant
        That the instrument was posed with.
    complete
        Does the tasks, one for each population: in turn, or as `tasks.TaskFolder.complete` does.
    """
    most, effects = max(file.patients(design) for design in file.design), tuple(instrument.problem.random)
    products = tuple(product(name) for name in file.allocation[0])
    tasks = {
        number: PopulationTask(file, products, variant, h, rng.standard_normal((most, len(effects))))
        for number, h in enumerate(knowledge.draws)
    }
    found = complete(see_population, tasks)
    information = np.stack([one["information"] for one in found], axis=1)
    covariance = posterior_covariance(information, knowledge.covariance)
    failed = sum(int(one["failed"]) for one in found) / (most * len(found))
    shrunk = np.stack([one["shrinkage"] for one in found], axis=1)
    return Expected((NONE, *(design.name for design in file.design)), knowledge, covariance, effects, shrunk, failed)


def see_population(task: PopulationTask) -> Arrays:
    """Information (designs, d, d) and shrinkage (designs, q) of one population, no design first; how many failed."""
    for own in task.products:
        register(own)
    file, instrument = task.file, _instrument(task.file.model_dump_json(), task.variant)
    omega = np.exp(task.hyper[instrument.posterior.log_sd])
    _, shares = file.allocation
    place, samples = allocate(shares, len(task.deviations)), file.samples
    theta = individuals(instrument, task.hyper, omega * task.deviations, place)
    readings = {
        until: instrument.planned(theta, place, samples, until)
        for until in sorted({file.follow_up(design) for design in file.design})
    }
    some = [taken(file, design, readings[file.follow_up(design)]) for design in file.design]
    made = [instrument.structure.of(place[: lines.n]) for lines in some]
    pairs = list(zip(some, made, strict=True))
    mine = [of_population(lines, structure, omega).sum(axis=0) for lines, structure in pairs]
    own_values = [shrinkage(of_deviations(lines, structure, omega), omega) for lines, structure in pairs]
    return {
        "information": np.stack([np.zeros_like(mine[0]), *mine]),
        "shrinkage": np.stack([np.ones(omega.size), *own_values]),
        "failed": np.array(next(iter(readings.values())).failed.sum()),
    }


@lru_cache(maxsize=2)
def _instrument(file: str, variant: str) -> Instrument:
    return Instrument(pose_designs(DesignFile.model_validate_json(file), variant=variant))


def individuals(instrument: Instrument, h: Floats, b: Floats, place: NDArray[np.int64]) -> Floats:
    """Individual parameters (m, columns) of a population at deviations (m, q), in the places of patients (m,)."""
    made = instrument.posterior.design
    x = made.offset[place] + instrument.structure.by_hyper[place] @ h
    x = x + np.einsum("mcq,mq->mc", made.by_deviation[place], b)
    return made.back(x)


def taken(file: DesignFile, design: Design, readings: Readings) -> Lines:
    """The records that a design takes, of as many patients as it has."""
    wanted = set(design.samples)
    chosen = np.array(
        [
            getattr(design, str(assay)) if assay in EVENTS else (str(assay), float(day)) in wanted
            for assay, day in zip(readings.assay, readings.day[0], strict=True)
        ],
        dtype=bool,
    )
    some = readings.only(chosen)
    lines, first = some.lines(limits(some, file.lloq(design))), slice(file.patients(design))
    return Lines(lines.slope[first], lines.weight[first], lines.scale[first], lines.sigma[first])


@dataclass(frozen=True, eq=False)
class Prediction:
    """A prediction that depends on the population, at draws of it.

    Attributes
    ----------
    name, unit
        What is predicted.
    value
        (D,) at each draw.
    variance
        (D,) Monte Carlo variance of each, from finitely many patients.
    names
        Of what may explain it.
    explaining
        (D, k) population values of these names at the same draws, on the transformed scales.
    """

    name: str
    unit: str
    value: Floats
    variance: Floats
    names: tuple[str, ...]
    explaining: Floats


@dataclass(frozen=True, eq=False)
class Regression:
    """A prediction as a linear function of the population.

    Attributes
    ----------
    slope
        (d,).
    reliable
        Share of the slope's square that is not the noise of finitely many draws; what it explains is multiplied by it.
    left
        Variance of the prediction that the population values do not explain, Monte Carlo noise taken off.
    """

    slope: Floats
    reliable: float
    left: float

    def variance(self, covariance: Floats) -> Floats:
        """Of the prediction, for covariances (..., d, d) of the population."""
        return np.asarray(self.reliable * np.einsum("i,...ij,j->...", self.slope, covariance, self.slope) + self.left)

    def explained(self, covariance: Floats) -> float:
        """Share of the prediction's variance that the population values explain."""
        total = float(self.variance(covariance))
        return 1.0 - self.left / total if total > 0 else float("nan")


def regress(prediction: Prediction, knowledge: Knowledge, chosen: NDArray[np.int64] | None = None) -> Regression:
    """Regress a prediction on the population over its draws, or over chosen ones.

    The residuals' variance is taken without what finitely many patients add. A slope from few draws explains too much,
    by the trace of its own covariance: what it explains is shrunk by that share, one factor for all directions, so that
    more information still never means a wider prediction.

    Raises
    ------
    ReinfuseError
        If nothing of the designs' parameters is in the prediction, or draws are too few.
    """
    known = [name for name in prediction.names if name in knowledge.names]
    if not known:
        raise ReinfuseError("none of the prediction's parameters is among those of the designs; nothing can be learnt")
    rows = np.arange(prediction.value.size) if chosen is None else chosen
    if rows.size <= 2 * len(known) + 2:
        raise ReinfuseError(f"{rows.size} draws cannot explain a prediction by {len(known)} parameters; ask for more")
    x = prediction.explaining[np.ix_(rows, [prediction.names.index(name) for name in known])]
    x = x - x.mean(axis=0)
    y = prediction.value[rows] - prediction.value[rows].mean()
    inverse = np.linalg.pinv(x.T @ x)
    slope = inverse @ (x.T @ y)
    freedom = rows.size - len(known) - 1
    residual = float(((y - x @ slope) ** 2).sum() / freedom)
    places = np.array([knowledge.names.index(name) for name in known])
    now = knowledge.covariance[np.ix_(places, places)]
    explained = float(slope @ now @ slope)
    chance = residual * float(np.trace(inverse @ now))
    reliable = max(1.0 - chance / explained, 0.0) if explained > 0 else 0.0
    whole = np.zeros(len(knowledge.names))
    whole[places] = slope
    return Regression(whole, reliable, max(residual - float(prediction.variance[rows].mean()), 0.0))


def predicted(expected: Expected, prediction: Prediction, rng: np.random.Generator, repeats: int = 200) -> pd.DataFrame:
    """Expected posterior sd of a prediction under every design.

    Monte Carlo errors are sds over resampled draws of the prediction and resampled populations of the designs.

    Returns
    -------
    DataFrame
        ``design``, ``prediction``, ``unit``, ``sd_now``, ``sd``, ``mc_error``, ``ratio`` to now, ``ratio_error``,
        ``against_first`` (sd less that of the first design with samples) and its ``against_first_error``, which is
        small where designs differ by little, since they share draws and patients; ``explained`` (share of the
        prediction's variance that the parameters explain linearly).
    """
    knowledge, populations = expected.knowledge, int(expected.covariance.shape[1])
    every = prediction.value.size

    def sds(chosen: NDArray[np.int64] | None, rows: NDArray[np.int64]) -> Floats:
        found = regress(prediction, knowledge, chosen)
        return np.sqrt(found.variance(expected.covariance[:, rows].mean(axis=1)))

    sd = sds(None, np.arange(populations))
    again = np.stack(
        [sds(rng.integers(every, size=every), rng.integers(populations, size=populations)) for _ in range(repeats)]
    )
    error, ratio_error = again.std(axis=0, ddof=1), (again / again[:, :1]).std(axis=0, ddof=1)
    first = min(1, len(expected.designs) - 1)
    apart, apart_error = sd - sd[first], (again - again[:, first : first + 1]).std(axis=0, ddof=1)
    explained = regress(prediction, knowledge).explained(knowledge.covariance)
    rows = [
        (
            *(name, prediction.name, prediction.unit, sd[0], sd[k], error[k], sd[k] / sd[0], ratio_error[k]),
            *(apart[k], apart_error[k], explained),
        )
        for k, name in enumerate(expected.designs)
    ]
    columns = ["design", "prediction", "unit", "sd_now", "sd", "mc_error", "ratio", "ratio_error"]
    return pd.DataFrame(rows, columns=[*columns, "against_first", "against_first_error", "explained"])


def telling(parameters: pd.DataFrame, most: int) -> list[str]:
    """Parameters in which designs differ most, those that one design alone informs last."""
    designs = [name for name in dict.fromkeys(parameters["design"]) if name != NONE]
    wide = parameters.pivot(index="parameter", columns="design", values="ratio")[designs]
    apart = wide.max(axis=1) - wide.min(axis=1)
    alone = (wide < INFORMED).sum(axis=1) < min(2, len(designs))
    order = sorted(wide.index, key=lambda name: (bool(alone[name]), -float(apart[name]), str(name)))
    return [str(name) for name in order[:most]]


def explaining(names: Sequence[str], columns: Mapping[str, Floats]) -> tuple[tuple[str, ...], Floats]:
    """Those of the names that there are columns (D,) of, and these as an array (D, k)."""
    known = tuple(name for name in names if name in columns)
    return known, np.stack([columns[name] for name in known], axis=1) if known else np.empty((0, 0))
