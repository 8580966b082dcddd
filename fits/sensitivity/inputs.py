"""What is varied: the numbers of a virtual patient, with their marginals and what they know of each other.

An input is a parameter of the patient, a field of a product (``h cilta-cel``), what differs from one infusion to the
next (``occasion 1``) or a patient's luck (``death 1``: the clock of death without relapse in course 1). Inputs are
tabulated from draws of virtual patients, so that a sensitivity analysis varies exactly what the retreatment laboratory
does: marginals as quantiles, dependence as the correlation of normal scores (a Gaussian copula).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import table

from ..retreatment.luck import Luck
from ..retreatment.mechanisms import BETTER, FAVOURABLE
from ..retreatment.virtual_patients import OptionsName, SampledPopulation, VirtualPatients

type Floats = NDArray[np.float64]
type Dependence = Literal["refuse", "independent", "rosenblatt"]
type Spread = Literal["both", "patients", "population"]

#: Draws that the marginals and correlations are tabulated from.
TABULATED: Final = 32_768
#: Nodes of a tabulated quantile function.
NODES: Final = 513
#: Rank correlation from which two inputs count as dependent.
DEPENDENT: Final = 0.1
#: Nodes reach out to so many standard normal deviations; points beyond take the last node.
REACH: Final = 4.0
#: Courses whose luck and occasion are inputs.
#: Luck: when death and progression come, and whether the last cell dies out, each by a standard exponential number.
CLOCKS: Final = ("death", "hazard", "extinct")
COURSES: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """k uncertain numbers, and what is held.

    Attributes
    ----------
    names : tuple of str, length k
    quantiles : ndarray (NODES, k)
        Values at equally spaced standard normal scores from ``-REACH`` to ``REACH``.
    correlation : ndarray (k, k)
        Of the normal scores.
    held : mapping of str to float
        Inputs that do not vary, at their values.
    source : str
        Where the numbers come from, in words.
    favourable : mapping of str to float
        Values of a favourable patient (`reinfuse.fits.retreatment.mechanisms`), whether they vary or not.
    draws : ndarray (m, k), optional
        Rows as they are: of a posterior or a cohort; without them rows are made from marginals and copula.
    """

    names: tuple[str, ...]
    quantiles: Floats
    correlation: Floats
    held: Mapping[str, float]
    source: str
    favourable: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    draws: Floats | None = None

    @property
    def k(self) -> int:
        """Number of inputs."""
        return len(self.names)

    @property
    def dependent(self) -> tuple[tuple[str, str, float], ...]:
        """Pairs whose correlation is at least `DEPENDENT`, strongest first."""
        above = np.argwhere(np.triu(np.abs(self.correlation) >= DEPENDENT, 1))
        pairs = [(self.names[i], self.names[j], float(self.correlation[i, j])) for i, j in above]
        return tuple(sorted(pairs, key=lambda pair: -abs(pair[2])))

    def at(self, scores: Floats) -> Floats:
        """Values of inputs, (n, k), at standard normal scores, (n, k), correlated or not as they come."""
        place = (np.clip(scores, -REACH, REACH) + REACH) * ((NODES - 1) / (2 * REACH))
        low = np.minimum(place.astype(np.int64), NODES - 2)
        part = place - low
        columns = np.arange(self.k)
        return np.asarray(self.quantiles[low, columns] * (1 - part) + self.quantiles[low + 1, columns] * part)

    def slope(self, scores: Floats) -> Floats:
        """Derivatives of the values by the scores, (n, k)."""
        place = (np.clip(scores, -REACH, REACH) + REACH) * ((NODES - 1) / (2 * REACH))
        low = np.minimum(place.astype(np.int64), NODES - 2)
        columns = np.arange(self.k)
        rise = (self.quantiles[low + 1, columns] - self.quantiles[low, columns]) * ((NODES - 1) / (2 * REACH))
        return np.asarray(np.where(np.abs(scores) <= REACH, rise, 0.0))

    def only(self, chosen: Sequence[str]) -> "Inputs":
        """The same with the chosen inputs alone; the others are held at their medians.

        Raises
        ------
        ReinfuseError
            For a name that is no input.
        """
        if not chosen:
            return self
        unknown = [name for name in chosen if name not in self.names]
        if unknown:
            raise ReinfuseError(f"no input {unknown[0]!r} varies here; choose from {', '.join(self.names)}")
        keep = [i for i, name in enumerate(self.names) if name in chosen]
        middle = self.at(np.zeros((1, self.k)))[0]
        held = {name: float(middle[i]) for i, name in enumerate(self.names) if i not in keep}
        return replace(
            self,
            names=tuple(self.names[i] for i in keep),
            quantiles=self.quantiles[:, keep],
            correlation=self.correlation[np.ix_(keep, keep)],
            held={**self.held, **held},
            draws=None if self.draws is None else self.draws[:, keep],
        )

    def uncorrelated(self) -> "Inputs":
        """The same marginals, every input independent of the others."""
        return replace(self, correlation=np.eye(self.k), draws=None)

    def patients(self, values: Floats) -> tuple[VirtualPatients, Floats]:
        """Virtual patients, and their clocks (n, `CLOCKS`, courses), from values (n, k)."""
        n = len(values)
        columns = {name: np.full(n, number) for name, number in self.held.items()}
        columns |= {name: np.ascontiguousarray(values[:, i]) for i, name in enumerate(self.names)}
        clocks = np.full((n, len(CLOCKS), COURSES), np.inf)
        occasion = np.zeros((n, COURSES))
        parameters: dict[str, Floats] = {}
        fields: dict[tuple[str, str], Floats] = {}
        for name, column in columns.items():
            word, _, rest = name.partition(" ")
            if not rest:
                parameters[name] = column
            elif word in CLOCKS:
                clocks[:, CLOCKS.index(word), int(rest) - 1] = column
            elif word == "occasion":
                occasion[:, int(rest) - 1] = column
            else:
                fields[rest, word] = column
        found = VirtualPatients(
            parameters=parameters,
            draw=np.zeros(n, dtype=np.int64),
            fields=fields,
            occasion=occasion,
            favourable={name: np.full(n, value) for name, value in self.favourable.items()},
        )
        return found, clocks


def from_population(
    population: SampledPopulation,
    *,
    rng: np.random.Generator,
    spread: Spread = "both",
    extinction: bool = False,
    n: int = TABULATED,
) -> Inputs:
    """Inputs of virtual patients of a population.

    Parameters
    ----------
    population
        From the prior or a run (`reinfuse.fits.retreatment.virtual_patients`).
    rng
        Draws the patients.
    spread
        What varies: patients and what is not known of their population (``both``), patients of the median population
        alone (``patients``), or the population's numbers alone, for a typical patient (``population``).
    extinction
        Whether the luck of a last cell that dies out is an input, too.
    n
        Draws to tabulate from.

    Returns
    -------
    Inputs
        With rows as drawn if the population comes from data, without if from priors, whose numbers are independent.
    """
    if spread == "population":
        population = population.typical
    elif spread == "patients":
        population = _median_of(population)
    patients = population.sample(n, rng)
    luck = Luck.draw(n, rng)
    columns: dict[str, Floats] = dict(patients.parameters)
    columns |= {f"{field} {product}": values for (product, field), values in patients.fields.items()}
    columns |= {f"occasion {course + 1}": patients.occasion[:, course] for course in range(COURSES)}
    if spread != "population":
        columns |= _clocks(luck, extinction)
    else:  # a typical patient progresses at the median of its hazard, and does not die without relapse
        luckless = ("hazard", "extinct") if extinction else ("hazard",)
        columns |= {
            f"{word} {course}": np.full(n, np.log(2.0)) for word in luckless for course in range(1, COURSES + 1)
        }
    from_data = "B0" not in population.prior_only
    words = {"both": "", "patients": "; the median population alone", "population": "; a typical patient of each draw"}
    return tabulated(
        columns,
        source=population.source + words[spread],
        keep_rows=from_data,
        favourable=None if spread == "population" else favourable_values(columns),
    )


def _median_of(population: SampledPopulation) -> SampledPopulation:
    """The population at the medians of its draws."""

    def middle(values: Floats) -> Floats:
        return np.asarray(np.median(values, axis=0, keepdims=True))

    return replace(
        population,
        centre=middle(population.centre),
        spread=middle(population.spread),
        fields={key: middle(values) for key, values in population.fields.items()},
        occasion_sd=middle(population.occasion_sd),
    )


def _clocks(luck: Luck, extinction: bool) -> dict[str, Floats]:
    """Standard exponential clocks of every course."""
    courses = range(1, COURSES + 1)
    found = {f"death {course}": luck.death(course) for course in courses}
    found |= {f"hazard {course}": luck.hazard(course) for course in courses}
    if extinction:
        found |= {f"extinct {course}": -np.log1p(-luck.extinct[:, course - 1]) for course in courses}
    return found


def from_cohort(path: Path, *, options: OptionsName, rng: np.random.Generator, extinction: bool = False) -> Inputs:
    """Inputs of a virtual cohort: a CSV with one row per virtual patient and parameters as columns.

    Parameters
    ----------
    path
        The table; columns are symbols of the parameter table, an ``ID`` is passed over.
    options
        Which table names them.
    rng
        Draws every patient's luck.
    extinction
        As in `from_population`.

    Raises
    ------
    ReinfuseError
        If a column is no parameter, a cell is no finite number, or there are fewer than 64 patients.
    """
    try:
        rows = pd.read_csv(path)
    except (OSError, ValueError) as fault:
        raise ReinfuseError(f"{path} is no table ({fault}); give a CSV with parameters as columns") from None
    rows = rows[[name for name in rows.columns if str(name).upper() != "ID"]]
    known = table(options)
    for name in rows.columns:
        if name not in known:
            raise ReinfuseError(f"{path}: column {name!r} is no parameter; see `reinfuse models` for the names")
        if not np.isfinite(pd.to_numeric(rows[name], errors="coerce")).all():
            raise ReinfuseError(f"{path}: column {name!r} holds what is no finite number; mend or remove those rows")
    if len(rows) < 64:
        raise ReinfuseError(f"{path} has {len(rows)} virtual patients; give at least 64")
    luck = Luck.draw(len(rows), rng)
    columns = {str(name): rows[name].to_numpy(dtype=np.float64) for name in rows.columns}
    columns |= _clocks(luck, extinction)
    return tabulated(
        columns,
        source=f"virtual cohort {path.name}, {len(rows)} patients",
        keep_rows=True,
        favourable=favourable_values(columns),
    )


def favourable_values(columns: Mapping[str, Floats]) -> dict[str, float]:
    """Values of a favourable one of the patients in columns, (m,) each, by symbol."""
    share = {1: FAVOURABLE, -1: 1 - FAVOURABLE}
    return {name: float(np.quantile(columns[name], share[sign])) for name, sign in BETTER.items() if name in columns}


def tabulated(
    columns: Mapping[str, Floats], *, source: str, keep_rows: bool, favourable: Mapping[str, float] | None = None
) -> Inputs:
    """Inputs from columns of draws, (m,) each; those that do not vary are held.

    Without ``keep_rows`` the draws are known to be independent: correlations are not estimated but zero.
    """
    varying = {name: x for name, x in columns.items() if np.ptp(x) > 1e-9 * np.abs(x).max()}
    if not varying:
        raise ReinfuseError("no input varies; nothing can be said of sensitivity")
    held = {name: float(x[0]) for name, x in columns.items() if name not in varying}
    values = np.column_stack(list(varying.values()))
    levels = ndtr(np.linspace(-REACH, REACH, NODES))
    quantiles = np.quantile(values, levels, axis=0)
    for i, name in enumerate(varying):
        if name.partition(" ")[0] in CLOCKS:
            quantiles[:, i] = -np.log1p(-levels)  # exactly
    correlation = np.eye(len(varying))
    if keep_rows:
        correlation = _nearest(np.corrcoef(normal_scores(values), rowvar=False).reshape(len(varying), -1))
    return Inputs(
        names=tuple(varying),
        quantiles=np.asarray(quantiles),
        correlation=correlation,
        held=MappingProxyType(held),
        source=source,
        favourable=MappingProxyType(dict(favourable or {})),
        draws=values if keep_rows else None,
    )


def normal_scores(values: Floats) -> Floats:
    """Ranks of each column as standard normal numbers, (n, k)."""
    ranks = rankdata(values, axis=0)
    return np.asarray(ndtri((ranks - 0.5) / len(values)))


def _nearest(correlation: Floats) -> Floats:
    """A correlation matrix that has a Cholesky factor."""
    value, vector = np.linalg.eigh(correlation)
    mended = (vector * np.maximum(value, 1e-8)) @ vector.T
    scale = np.sqrt(np.diag(mended))
    return np.asarray(mended / np.outer(scale, scale))
