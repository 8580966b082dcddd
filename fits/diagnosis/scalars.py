"""The scalars of a fit: what each is called, on which scale it is judged, and where its prior comes from.

The posterior of a run holds four families. Population medians are named by their symbol (`rho`),
between-patient standard deviations `omega:rho`, product effects `rho:cilta-cel` (logarithm of a multiplier),
and individual parameters `rho[patient]`; a variable with no further dimension keeps its name
(`omega_occasion`). Every judgement of width or correlation is made on the transformed
scale (logarithm, logit or identity), the scale on which priors are normal.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import special

from reinfuse.model.parameters import PRODUCT_ASSAY, PRODUCT_EFFECTS, Parameter, table

Array = npt.NDArray[np.float64]

FAMILIES: Final = ("population", "omega", "product_effect")
"""Variables that hold population scalars along one labelled dimension besides chain and draw."""

UNKNOWN: Final = "not in the parameter table"


@dataclass(frozen=True, kw_only=True)
class Scalar:
    """One number that was sampled: its name, family, scale and origin."""

    name: str
    family: str
    symbol: str
    meaning: str
    unit: str
    transform: str
    tag: str
    source: str

    def to_transformed(self, values: npt.ArrayLike) -> Array:
        """Return values on the scale where the prior is normal."""
        x = np.asarray(values, dtype=float)
        if self.transform == "log":
            return np.asarray(np.log(np.maximum(x, np.finfo(float).tiny)))
        if self.transform == "logit":
            return np.asarray(special.logit(np.clip(x, 1e-12, 1 - 1e-12)))
        return x


def list_scalars(posterior: xr.Dataset, rows: Mapping[str, Parameter] | None = None) -> list[Scalar]:
    """Return the population scalars of a posterior, in the order the arrays hold them.

    Parameters
    ----------
    posterior
        The `/posterior` (or `/prior`) group of a run.
    rows
        Parameter table; the one of real cohorts when None. A symbol it does not hold is still listed: its
        scale is the logarithm when every draw is positive, and its source says the table does not know it.
    """
    known = table("real") if rows is None else rows
    found: list[Scalar] = []
    for family in FAMILIES:
        for label, values in labelled(posterior, family).items():
            symbol, _, product = label.partition(":")
            row = PRODUCT_ASSAY.get(product, {}).get(symbol) if family == "population" and product else None
            row = known.get(symbol) if row is None else row
            found.append(_scalar(family, label, symbol, row, positive=bool((values > 0).all())))
    for name, variable in posterior.data_vars.items():
        if set(variable.dims) == {"chain", "draw"}:
            positive = bool((variable.values > 0).all())
            found.append(_scalar("scalar", str(name), str(name), known.get(str(name)), positive=positive))
    return found


def labelled(dataset: xr.Dataset, family: str) -> dict[str, Array]:
    """Return the draws (chain, draw) of each label of one of `FAMILIES`; empty where the group lacks it."""
    if family not in dataset:
        return {}
    (dim,) = (d for d in dataset[family].dims if d not in ("chain", "draw"))
    values = np.asarray(dataset[family].transpose("chain", "draw", dim).values, dtype=float)
    return {str(label): values[:, :, i] for i, label in enumerate(dataset[dim].values)}


def stack(dataset: xr.Dataset, scalars: list[Scalar], *, transformed: bool = True) -> xr.DataArray:
    """Return the draws of scalars as one array (chain, draw, scalar).

    Parameters
    ----------
    dataset
        `/posterior` or `/prior`.
    scalars
        From `list_scalars`; a scalar this group does not hold gives NaN (a prior without product effects).
    transformed
        On the transformed scale, or on the natural one.
    """
    families = {family: labelled(dataset, family) for family in FAMILIES}
    missing = np.full((dataset.sizes["chain"], dataset.sizes["draw"]), np.nan)
    columns = []
    for scalar in scalars:
        if scalar.family == "scalar":
            given = dataset[scalar.name].transpose("chain", "draw").values if scalar.name in dataset else missing
        else:
            given = families[scalar.family].get(scalar.name.removeprefix("omega:"), missing)
        columns.append(scalar.to_transformed(given) if transformed else np.asarray(given, dtype=float))
    names = [scalar.name for scalar in scalars]
    out = np.stack(columns, axis=-1) if columns else np.empty((*missing.shape, 0))
    return xr.DataArray(out, dims=("chain", "draw", "scalar"), coords={"scalar": names})


def every_scalar(posterior: xr.Dataset) -> tuple[list[str], list[str], Array]:
    """Return names, variables and draws (chain, draw, n) of every number in a posterior."""
    names, variables, columns = [], [], []
    for name, variable in posterior.data_vars.items():
        if not {"chain", "draw"} <= set(variable.dims):
            continue
        dims = [str(dim) for dim in variable.dims if dim not in ("chain", "draw")]
        flat = variable.transpose("chain", "draw", *dims).values
        columns.append(flat.reshape(*flat.shape[:2], -1).astype(float))
        labels = itertools.product(*(map(str, posterior[dim].values) for dim in dims))
        names += [_name(str(name), dims, label) for label in labels]
        variables += [str(name)] * columns[-1].shape[-1]
    sizes = posterior.sizes["chain"], posterior.sizes["draw"], 0
    return names, variables, np.concatenate(columns, axis=-1) if columns else np.empty(sizes)


def is_fixed(draws: npt.ArrayLike) -> bool:
    """Say whether draws never move from one value: a parameter that was given, not sampled."""
    values = np.asarray(draws, dtype=float)
    return bool(np.isfinite(values).all() and np.ptp(values) <= 1e-12 * (1.0 + np.abs(values).max()))


def _name(variable: str, dims: list[str], label: tuple[str, ...]) -> str:
    """Return the name of one number: as in the module's docstring, else `variable[label, ...]`."""
    if not label:
        return variable
    if variable == "omega":
        return f"omega:{label[0]}"
    if variable in FAMILIES:
        return label[0]
    if variable == "individual" and set(dims) == {"patient", "effect"}:
        return f"{label[dims.index('effect')]}[{label[dims.index('patient')]}]"
    return f"{variable}[{', '.join(label)}]"


def _scalar(family: str, label: str, symbol: str, row: Parameter | None, *, positive: bool) -> Scalar:
    meaning = row.meaning if row is not None else ""
    tag = row.tag if row is not None else ""
    source = row.source if row is not None else UNKNOWN
    if family == "omega":
        return Scalar(
            name=f"omega:{label}",
            family=family,
            symbol=symbol,
            unit="-",
            transform="log",
            tag="ASSUMED" if row is not None else "",
            source="lognormal around the spread of the parameter table; width ASSUMED" if row is not None else UNKNOWN,
            meaning=f"sd between patients of {symbol}, transformed scale",
        )
    if family == "product_effect":
        effect = PRODUCT_EFFECTS.get(label)
        product = label.partition(":")[2]
        reference = effect.reference if effect is not None else "the reference product"
        return Scalar(
            name=label,
            family=family,
            symbol=symbol,
            unit="ln ratio",
            transform="identity",
            tag=effect.tag if effect is not None else "",
            source=effect.source if effect is not None else UNKNOWN,
            meaning=f"{symbol} of {product} against {reference}",
        )
    transform = row.transform if row is not None else ("log" if positive else "identity")
    unit = row.unit if row is not None else ""
    return Scalar(
        name=label,
        family=family,
        symbol=symbol,
        unit=unit,
        transform=transform,
        tag=tag,
        source=source,
        meaning=meaning,
    )
