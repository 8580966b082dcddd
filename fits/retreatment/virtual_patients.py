"""Virtual patients: individual parameters drawn from a run's posterior, or from the prior table.

Three layers of chance are kept apart, because the statistics need them apart: the *draw* (one possible
population: medians, spreads, product effects), the *patient* within a draw (random effects), and the
*occasion* within a patient (one infusion against the next, and the events of death and progression).

From a run, a number comes from one of three places. What the fit estimated is taken from the posterior,
correlations included. What only a second course, M-protein or the mechanisms of relapse depend on
(`FROM_PRIOR`) is drawn from its prior, once per draw, and then per patient if the table gives it a spread.
All else keeps the constant that the fit was conditioned on: to draw it too would undo the fit, since the
estimated numbers have taken up its share of the scatter between patients.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, Protocol, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import (
    PRODUCT_EFFECTS,
    VARIANTS,
    Parameter,
    Variant,
    from_transformed,
    table,
    to_transformed,
)
from reinfuse.model.products import Product

from ..run import RunFolder
from ..streams import Stream, generator
from .mechanisms import BETTER, FAVOURABLE_SCORE, MECHANISMS, Mechanism

if TYPE_CHECKING:
    from .real_patient import Observed

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]
type OptionsName = Literal["reference", "real"]

#: Which field of a product a fitted product effect stands for; effects on anything else belong to patients.
FIELD_OF_EFFECT: Final[Mapping[str, str]] = MappingProxyType(
    {"rho": "f0", "k": "m0", "KE": "h", "tg": "gp", "feng": "feng"}
)
#: Fields of a product that are uncertain under the prior, and the log-sd of that uncertainty (ASSUMED).
PRIOR_FIELDS: Final = ("f0", "m0", "h", "gp")
PRIOR_FIELD_LOG_SD: Final = 0.3
#: The product whose multipliers are 1 by definition.
REFERENCE_PRODUCT: Final = "ide-cel"
#: Bounds of what a patient can be (ASSUMED); draws beyond them are set to the bound and counted.
BOUNDS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"B0": (1e8, 2e12), "fr": (1e-13, 1e-2), "crt": (0.5, 1.1)}
)
#: Parameters that only a second infusion, or only M-protein, can inform.
SECOND_INFUSION_ONLY: Final = ("bR", "bXQ", "sline", "sres", "qLD")
MPROTEIN_ONLY: Final = ("P0", "kP")
#: Parameters drawn from their prior where a fit did not estimate them. They hardly touch what one course
#: shows: around the real-cohort medians the first ORR is 0.60 with constants, 0.57 with these drawn, 0.54
#: with all drawn.
FROM_PRIOR: Final = (
    *SECOND_INFUSION_ONLY,
    *MPROTEIN_ONLY,
    *("Q0", "kQon", "kQoff"),
    *("fr", "u", "crt", "by"),
    *("kA", "KAC", "dA", "alA"),
    *("bX", "bK", "KQ"),
    *("r", "hD"),
)
#: Infusions for which occasion noise is drawn, whatever the scenario uses, so that pairing never breaks.
OCCASIONS: Final = 8
#: Sd of ln(proliferation) from one infusion to the next in the same patient, and the log-sd of its prior
#: (ASSUMED).
OCCASION_SD: Final = 0.1
OCCASION_LOG_SD: Final = 0.4


@dataclass(frozen=True, kw_only=True, eq=False)
class VirtualPatients:
    """A group of n virtual patients.

    Attributes
    ----------
    parameters : dict of str to ndarray (n,)
        Individual parameters, natural scale.
    draw : ndarray of int (n,)
        Which draw of the population each came from.
    fields : dict of (product, field) to ndarray (n,)
        Values of product fields where they are uncertain or fitted; the others are the `Product`'s own.
    occasion : ndarray (n, 8)
        Deviations of ln(proliferation), one per infusion slot.
    favourable : dict of str to ndarray (n,)
        Values of a favourable patient of the same population, of the parameters in `mechanisms.BETTER`; without one, a
        hypothesis that is measured against it changes nothing.
    clipped : int
        How many numbers were set to a bound of `BOUNDS`.
    """

    parameters: dict[str, Floats]
    draw: Ints
    fields: dict[tuple[str, str], Floats]
    occasion: Floats
    favourable: dict[str, Floats] = field(default_factory=dict)
    clipped: int = 0

    @property
    def n(self) -> int:
        """Number of patients."""
        return int(self.draw.size)

    def subset(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Take some of the patients, by position or by flag."""
        return type(self)(
            parameters={name: values[rows] for name, values in self.parameters.items()},
            draw=self.draw[rows],
            fields={key: values[rows] for key, values in self.fields.items()},
            occasion=self.occasion[rows],
            favourable={name: values[rows] for name, values in self.favourable.items()},
            clipped=self.clipped,
        )


class PopulationDraws(Protocol):
    """Where virtual patients come from."""

    @property
    def n_draws(self) -> int:
        """Number of draws of the population."""

    @property
    def options(self) -> OptionsName:
        """Options of the model that the numbers belong to."""

    @property
    def variant(self) -> Variant:
        """Restriction of the model that the numbers belong to."""

    @property
    def prior_only(self) -> frozenset[str]:
        """Parameters that no data have moved."""

    @property
    def second_infusions(self) -> bool:
        """Whether the data behind the draws have second infusions."""

    @property
    def lacking(self) -> tuple[Mechanism, ...]:
        """Mechanisms of relapse that these patients have none of."""

    @property
    def source(self) -> str:
        """Say in words where the numbers come from."""

    @property
    def observed(self) -> "Observed | None":
        """What was seen of the one real patient whose continuations these are; None: nobody's."""

    def sample(self, n: int, rng: np.random.Generator, *, first: int = 0) -> VirtualPatients:
        """Draw n virtual patients; patient i belongs to draw (first + i) modulo `n_draws`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledPopulation:
    """D draws of a population; implements `PopulationDraws`.

    Attributes
    ----------
    rows : dict of str to Parameter
        Table rows of the parameters, for their transforms; the keys give the order of the arrays.
    centre : ndarray (D, P)
        Population medians on the transformed scale.
    spread : ndarray (D, P)
        Sds between patients on the transformed scale.
    fields : dict of (product, field) to ndarray (D,)
        Product fields, natural scale.
    occasion_sd : ndarray (D,)
        Sd of ln(proliferation) from one infusion to the next in the same patient.
    fixed : dict of str to float
        Parameters held at one value by the variant.
    options, variant, prior_only, source
        See `PopulationDraws`.
    second_infusions : bool
        Whether the data behind the draws have second infusions.
    """

    rows: dict[str, Parameter]
    centre: Floats
    spread: Floats
    fields: dict[tuple[str, str], Floats]
    occasion_sd: Floats
    options: OptionsName
    variant: Variant
    prior_only: frozenset[str]
    source: str
    second_infusions: bool = False
    observed: "Observed | None" = None
    fixed: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def n_draws(self) -> int:
        """Number of draws of the population."""
        return int(self.centre.shape[0])

    @property
    def typical(self) -> "SampledPopulation":
        """The same draws without any difference between patients or infusions: the typical patient of each."""
        return replace(self, spread=np.zeros_like(self.spread), occasion_sd=np.zeros_like(self.occasion_sd))

    @property
    def favourable(self) -> dict[str, Floats]:
        """Values of a favourable patient of each draw (`mechanisms.FAVOURABLE`), by symbol, (D,) each, natural scale.

        Parameters that the variant holds are left out.
        """
        found = {}
        for j, (name, row) in enumerate(self.rows.items()):
            if name in BETTER:
                scaled = self.centre[:, j] + BETTER[name] * FAVOURABLE_SCORE * self.spread[:, j]
                found[name] = from_transformed(scaled, transform=row.transform)
        return found

    @property
    def lacking(self) -> tuple[Mechanism, ...]:
        """Mechanisms that the variant switches off, or in whose parameters all patients of a draw are alike."""
        alike = {name: 1.0 for j, name in enumerate(self.rows) if name in BETTER and not self.spread[:, j].any()}
        return tuple(mechanism for mechanism in MECHANISMS if mechanism.absent({**self.fixed, **alike}))

    def sample(self, n: int, rng: np.random.Generator, *, first: int = 0) -> VirtualPatients:
        """Draw n virtual patients.

        Parameters
        ----------
        n
            How many.
        rng
            Used for the patients' random effects and occasions only: the draws are already made.
        first
            Number of the first patient; patient i belongs to draw (first + i) modulo `n_draws`.

        Returns
        -------
        VirtualPatients
        """
        draw = (first + np.arange(n, dtype=np.int64)) % self.n_draws
        # one row of random numbers per patient: a patient's numbers do not depend on how many follow
        normal = rng.standard_normal((n, len(self.rows) + OCCASIONS))
        effects, occasion = normal[:, : len(self.rows)], normal[:, len(self.rows) :]
        scaled = self.centre[draw] + self.spread[draw] * effects
        natural = from_transformed(scaled, transform=[row.transform for row in self.rows.values()])
        parameters = {name: natural[:, j] for j, name in enumerate(self.rows)}
        clipped = 0
        for name, (low, high) in BOUNDS.items():
            if name in parameters:
                inside = np.clip(parameters[name], low, high)
                clipped += int(np.count_nonzero(inside != parameters[name]))
                parameters[name] = inside
        for name, value in self.fixed.items():
            parameters[name] = np.full(n, value)
        return VirtualPatients(
            parameters=parameters,
            draw=draw,
            fields={key: values[draw] for key, values in self.fields.items()},
            occasion=self.occasion_sd[draw, None] * occasion,
            favourable={name: values[draw] for name, values in self.favourable.items()},
            clipped=clipped,
        )


# ---------------------------------------------------------------------------------------------- sources


def population_rng(seed: int) -> np.random.Generator:
    """Of the draws of an experiment's population."""
    return generator(seed, Stream.POPULATION)


def from_prior(
    *,
    rng: np.random.Generator,
    products: Iterable[Product],
    n_draws: int = 100,
    options: OptionsName = "real",
    variant: str = "full",
) -> SampledPopulation:
    """Make a population from the prior table alone.

    Parameters
    ----------
    rng
        Draws the populations.
    products
        Every product a scenario uses.
    n_draws
        Number of populations.
    options
        Which table: `reference` or `real`.
    variant
        Name of a restriction in `model.parameters.VARIANTS`.

    Raises
    ------
    KeyError
        For an unknown variant.
    """
    restriction = VARIANTS[variant]
    rows = _individual_rows(options, restriction)
    centre, spread = _from_table(rows, n_draws, rng)
    return SampledPopulation(
        rows=rows,
        centre=centre,
        spread=spread,
        fields=_product_fields(products, options, restriction, {}, n_draws, rng),
        occasion_sd=_occasion_sd(n_draws, rng),
        options=options,
        variant=restriction,
        prior_only=frozenset(rows),
        source=f"priors of the {options} parameter table, no data",
        fixed=restriction.parameters,
    )


def from_run(
    run: RunFolder,
    *,
    rng: np.random.Generator,
    products: Iterable[Product],
    n_draws: int = 100,
    rows: Ints | None = None,
) -> SampledPopulation:
    """Make a population from the posterior of a run.

    Parameters
    ----------
    run
        A run folder with `posterior.nc`.
    rng
        Draws what the fit did not hold.
    products
        Every product a scenario uses.
    n_draws
        Number of populations; evenly spaced draws of the posterior, all of them if it has fewer.
    rows
        Which draws instead, chains one after the other; one may be named more than once.

    Raises
    ------
    ReinfuseError
        If the run has no posterior, it is damaged, or it is of a model of one's own.
    """
    if (own := run.provenance.get("own_model")) is not None:
        raise ReinfuseError(
            f"{run.path} is a fit of the model {own['name']!r}; the scenarios are of CAR-T cells. Compare doses of a "
            "model of your own with reinfuse.fits.experiments.compare_arms."
        )
    posterior, chosen = posterior_rows(run, n_draws)
    chosen = chosen if rows is None else rows
    total = posterior.sizes["sample"]
    written = run.provenance
    options: OptionsName = "reference" if _options_name(written.get("options")) == "reference" else "real"
    variant = VARIANTS.get(str(written.get("variant", "full")), VARIANTS["full"])

    table_rows = _individual_rows(options, variant)
    centre, spread = _from_table(table_rows, chosen.size, rng)
    held = _fill_from_posterior(table_rows, centre, spread, posterior, chosen)
    effects = _labelled(posterior, "product_effect", chosen)
    occasion = _occasion_sd(chosen.size, rng)
    if "omega_occasion" in posterior:
        occasion = posterior["omega_occasion"].to_numpy()[chosen].astype(np.float64)
    return SampledPopulation(
        rows=table_rows,
        centre=centre,
        spread=spread,
        fields=_product_fields(products, options, variant, effects, chosen.size, rng),
        occasion_sd=occasion,
        options=options,
        variant=variant,
        prior_only=frozenset(FROM_PRIOR) & table_rows.keys() - held,
        source=f"posterior of the run {run.path.resolve().name}, {chosen.size} of its {total} draws",
        second_infusions=_has_second_infusions(run),
        fixed=variant.parameters,
    )


def posterior_rows(run: RunFolder, n_draws: int) -> tuple[xr.Dataset, Ints]:
    """The posterior of a run, chains stacked as ``sample``, and which samples make up so many draws, evenly spaced."""
    posterior = run.posterior()["posterior"].to_dataset().stack(sample=("chain", "draw"), create_index=False)
    total = posterior.sizes["sample"]
    return posterior, np.unique(np.linspace(0, total - 1, min(n_draws, total)).round().astype(np.int64))


def _individual_rows(options: OptionsName, variant: Variant) -> dict[str, Parameter]:
    """Rows of the table that describe a patient: no residual errors, nothing that the variant holds."""
    return {
        name: row
        for name, row in table(options).items()
        if not name.startswith("sigma_") and name not in variant.parameters
    }


def _from_table(rows: Mapping[str, Parameter], n_draws: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw medians from their priors and spreads from theirs; arrays (D, P) on the transformed scale."""
    middle = np.array([to_transformed(row.median, transform=row.transform) for row in rows.values()])
    width = np.array([row.log_sd for row in rows.values()])
    centre = middle + width * rng.standard_normal((n_draws, len(rows)))
    iiv = np.array([row.iiv for row in rows.values()])
    iiv_width = np.array([row.iiv_log_sd for row in rows.values()])
    spread = iiv * np.exp(iiv_width * rng.standard_normal((n_draws, len(rows))))
    return centre, spread


def _occasion_sd(n_draws: int, rng: np.random.Generator) -> Floats:
    return OCCASION_SD * np.exp(OCCASION_LOG_SD * rng.standard_normal(n_draws))


def _labelled(posterior: xr.Dataset, variable: str, chosen: Ints) -> dict[str, Floats]:
    """Draws of a labelled variable by label, each (D,); none if the posterior does not hold it."""
    if variable not in posterior:
        return {}
    array = posterior[variable]
    dim = next(str(name) for name in array.dims if name != "sample")
    values = array.transpose("sample", dim).to_numpy()[chosen]
    return {str(label): values[:, j].astype(np.float64) for j, label in enumerate(array[dim].to_numpy())}


def _fill_from_posterior(
    rows: Mapping[str, Parameter], centre: Floats, spread: Floats, posterior: xr.Dataset, chosen: Ints
) -> frozenset[str]:
    """Put what the fit estimated, and the constants it used, into the arrays; return what it estimated."""
    medians = _labelled(posterior, "population", chosen)
    omegas = _labelled(posterior, "omega", chosen)
    estimated = frozenset((medians.keys() | omegas.keys()) & rows.keys())
    for j, (name, row) in enumerate(rows.items()):
        if name not in estimated and name in FROM_PRIOR:
            continue
        # the constant, where the fit estimated no median; no spread, where it let all patients share it
        centre[:, j] = to_transformed(medians.get(name, row.median), transform=row.transform)
        spread[:, j] = omegas.get(name, 0.0)
    return estimated


def _product_fields(
    products: Iterable[Product],
    options: OptionsName,
    variant: Variant,
    effects: Mapping[str, Floats],
    n_draws: int,
    rng: np.random.Generator,
) -> dict[tuple[str, str], Floats]:
    """Draw product fields, (D,) each: as fitted, else from their priors.

    A fitted effect is the logarithm of the field itself (it replaces the product's own number), and the other
    fields of a fitted product keep the constants of the fit. Effects that belong to the patients who got a
    product (B0) are left out: a second product does not change whom we treat.
    """
    out: dict[tuple[str, str], Floats] = {}
    for product in products:
        fitted = any(label.endswith(f":{product.name}") for label in effects)
        for parameter, name in FIELD_OF_EFFECT.items():
            label = f"{parameter}:{product.name}"
            noise = rng.standard_normal(n_draws)  # always drawn: one field's numbers leave the others alone
            prior = PRODUCT_EFFECTS.get(label) if options == "real" else None
            if label in effects:
                out[product.name, name] = np.exp(effects[label])
            elif fitted or product.name == REFERENCE_PRODUCT:
                continue
            elif prior is not None:
                out[product.name, name] = np.exp(prior.mean + prior.sd * noise)
            elif name in PRIOR_FIELDS:
                out[product.name, name] = getattr(product, name) * np.exp(PRIOR_FIELD_LOG_SD * noise)
        for name, value in variant.product.items():
            out[product.name, name] = np.full(n_draws, value)
    return out


def _options_name(options: object) -> str:
    """Name of the options in `run.json`: a name, or a table that holds one."""
    if isinstance(options, Mapping):
        return str(options.get("name", "real"))
    return str(options)


def _has_second_infusions(run: RunFolder) -> bool:
    """Whether a patient of the run's cohort was infused more than once."""
    rows = pd.read_csv(run.cohort_path, dtype=str).rename(columns=str.upper)
    infused = rows[pd.to_numeric(rows["EVID"], errors="coerce") == 1]
    return bool((infused["ID"].value_counts() > 1).any())
