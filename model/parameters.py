"""The numbers of the model: unit, prior, spread between patients, and where each comes from.

Two tables. `REFERENCE` is the unified CAR-T, exhaustion and myeloma model as first written down;
`REAL_COHORT` is the same model with the changes that a fit to 52 patients asked for (lag, slower sBCMA,
power-law transgene assay, progression as a hazard). Beside them stand the priors of product effects, the
assay constants of single products, and the named restrictions (`VARIANTS`) against which a conclusion has to
hold.

Scales. A parameter is Gaussian on its transformed scale, both in the prior of its population median
(`log_sd`) and across patients (`iiv`). That scale is the natural logarithm as a rule; the logit for numbers
that must stay in (0, 1) (`qLD`, `bK`, `Q0`, `xi`, `feng`, `qref`, `fXQ`); none for coefficients that are
logarithms or exponents themselves. The spreads of the logit parameters were stated as log-sds; we keep the
figure and read it as an sd on the logit scale (ASSUMED). For a small median (`xi` = 0.05) the two agree to
5 %; near 0.5 the logit halves the spread on the natural scale.

Tags, always of the *median value used*:

READ
    taken from the source named (a paper, its published code, a registry file).
READ-abs
    from an abstract or a summary page only.
RECALLED
    general knowledge, unchecked: not to be printed as a fact.
CAL
    a value chosen so that the model reproduces what was read.
ASSUMED
    a modelling choice without a source.

A spread of zero means fixed: a definition of scale, or a number that nothing can move apart from another one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import EllipsisType, MappingProxyType
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import ReinfuseError

type Transform = Literal["log", "logit", "identity"]
type Tag = Literal["READ", "READ-abs", "RECALLED", "CAL", "ASSUMED"]

type _Place = tuple[EllipsisType] | tuple[EllipsisType, int]

TRANSFORMS: Final[tuple[str, ...]] = get_args(Transform.__value__)
TAGS: Final[tuple[str, ...]] = get_args(Tag.__value__)
DAYS_PER_MONTH: Final = 30.4375


@dataclass(frozen=True)
class Parameter:
    """One number of the model: value, prior, spread between patients, provenance.

    Attributes
    ----------
    symbol, meaning, unit
        Name in the equations, what it is, its unit ("-" if none).
    median : float
        Prior median of the population median, natural scale.
    log_sd : float
        Prior sd of the population median on the transformed scale; 0 = fixed.
    iiv : float
        Sd between patients on the transformed scale; 0 = none.
    transform : {"log", "logit", "identity"}
        The scale on which `log_sd` and `iiv` are meant.
    tag, source
        Provenance of `median` (module docstring) and what it rests on.
    iiv_log_sd : float
        Log-sd of a lognormal prior around `iiv`; lognormal, so that it keeps off zero. ASSUMED throughout;
        read only where iiv > 0.

    Raises
    ------
    ReinfuseError
        If the median lies outside the transform's domain, a spread is negative, or the tag is unknown.
    """

    symbol: str
    meaning: str
    unit: str
    median: float
    log_sd: float
    iiv: float
    transform: Transform
    tag: Tag
    source: str
    iiv_log_sd: float = 0.4

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ReinfuseError(
                f"{self.symbol}: unknown transform {self.transform!r}; use one of {', '.join(TRANSFORMS)}"
            )
        if self.tag not in TAGS:
            raise ReinfuseError(f"{self.symbol}: unknown tag {self.tag!r}; use one of {', '.join(TAGS)}")
        for name in ("log_sd", "iiv", "iiv_log_sd"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0):
                raise ReinfuseError(f"{self.symbol}: {name} is {value}; give a finite number >= 0")
        if not np.isfinite(to_transformed(self.median, transform=self.transform)):
            raise ReinfuseError(f"{self.symbol}: median is {self.median}; give a finite number")


@dataclass(frozen=True)
class ProductEffect:
    """Prior of one log multiplier of a product, ln(value / value for `reference`).

    It *replaces* the multiplier in `model.products` (field `product_field`), it does not come on top of it.

    Attributes
    ----------
    parameter, product, reference
        Which parameter is multiplied, for which product, against which.
    mean, sd : float
        Normal prior of the natural logarithm of the multiplier.
    product_field : str or None
        The field of `Product` that the multiplier stands for; None if it belongs to the patients instead.
    """

    parameter: str
    product: str
    reference: str
    mean: float
    sd: float
    product_field: str | None
    tag: Tag
    source: str

    @property
    def label(self) -> str:
        """`parameter:product`, the label in posterior files."""
        return f"{self.parameter}:{self.product}"


@dataclass(frozen=True)
class Variant:
    """A named restriction of the model, to be compared with the full one.

    Attributes
    ----------
    name : str
    parameters : Mapping of str to float
        Parameters held at these values, natural scale, without prior or spread.
    product : Mapping of str to float
        Fields of *every* product held at these values.
    sentence : str
        What the restriction says about biology.
    """

    name: str
    sentence: str
    parameters: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    product: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def describe(self) -> str:
        """One sentence: the restriction and what it means."""
        held = [f"{k} = {v:g}" for k, v in self.parameters.items()]
        held += [f"product {k} = {v:g}" for k, v in self.product.items()]
        return f"{self.name}: {self.sentence}" + (f" ({', '.join(held)})" if held else "")


# ------------------------------------------------------------------------------------------- transforms


def to_transformed(value: ArrayLike, *, transform: str | Sequence[str]) -> NDArray[np.float64]:
    """Map natural values to the transformed scale.

    Parameters
    ----------
    value : array_like, shape (...) or (..., k)
        Natural scale.
    transform : str or sequence of str, length k
        One transform for everything, or one per entry of the last axis.

    Returns
    -------
    ndarray, shape of `value`

    Raises
    ------
    ReinfuseError
        For an unknown transform, a sequence of the wrong length, a value <= 0 under log or outside (0, 1)
        under logit. NaN passes through: it marks a patient without a value.
    """
    x = np.asarray(value, dtype=np.float64)
    out = x.copy()
    for which, kind in _columns(x, transform):
        part = x[which]
        if kind == "log":
            _inside(part, part > 0, "log", "> 0")
            out[which] = np.log(part)
        elif kind == "logit":
            _inside(part, (part > 0) & (part < 1), "logit", "between 0 and 1, both excluded")
            out[which] = np.log(part) - np.log1p(-part)
    return out


def from_transformed(value: ArrayLike, *, transform: str | Sequence[str]) -> NDArray[np.float64]:
    """Map back to the natural scale: the inverse of `to_transformed`, with its shapes and its errors."""
    x = np.asarray(value, dtype=np.float64)
    out = x.copy()
    for which, kind in _columns(x, transform):
        if kind == "log":
            out[which] = np.exp(x[which])
        elif kind == "logit":
            # exp of a non-positive number only: neither tail overflows
            small = np.exp(-np.abs(x[which]))
            out[which] = np.where(x[which] >= 0, 1.0, small) / (1.0 + small)
    return out


def _columns(x: NDArray[np.float64], transform: str | Sequence[str]) -> Iterable[tuple[_Place, str]]:
    if isinstance(transform, str):
        kinds: tuple[str, ...] = (transform,)
        places: list[_Place] = [(...,)]
    else:
        kinds = tuple(transform)
        if x.ndim == 0 or x.shape[-1] != len(kinds):
            raise ReinfuseError(f"{len(kinds)} transforms for shape {x.shape}; give one per entry of the last axis")
        places = [(..., j) for j in range(len(kinds))]
    for kind in kinds:
        if kind not in TRANSFORMS:
            raise ReinfuseError(f"unknown transform {kind!r}; use one of {', '.join(TRANSFORMS)}")
    return zip(places, kinds, strict=True)


def _inside(x: NDArray[np.float64], ok: NDArray[np.bool_], kind: str, domain: str) -> None:
    bad = ~(ok | np.isnan(x))
    if np.any(bad):
        raise ReinfuseError(f"{kind} transform of {x[bad].flat[0]}; the value must be {domain}")


# ---------------------------------------------------------------------------------------- reference table

_STEIN = "Stein 2019, CPT Pharmacometrics Syst Pharmacol 8:285"
_LISO = "liso-cel, Ogasawara 2021"
_KIMMEL = "Kimmel 2021"
_SINGH = "public re-implementation of Singh 2021"
_OWENS = "Owens and Bozic 2021"
_GK = "Gevertz and Kareva, exhaustion model"
_ANCHOR = (
    "CAL to the published summary of 10 patients given cilta-cel after ide-cel (Richardson et al., Blood "
    "Advances): at least VGPR 10/10, MRD-negative 6/10 (exact 95 % interval 26 to 88 %)"
)


def _index(*rows: Parameter) -> Mapping[str, Parameter]:
    table = {row.symbol: row for row in rows}
    if len(table) != len(rows):
        raise ReinfuseError("a symbol stands twice in a parameter table; remove one row")
    return MappingProxyType(table)


# fmt: off
REFERENCE: Final[Mapping[str, Parameter]] = _index(
    # CAR-T expansion and contraction
    Parameter("rho", "maximal antigen-driven proliferation of effectors", "1/d", 1.17, 0.2, 0.11, "log",
              "CAL",
              f"CAL to observed expansion; READ net rates: 0.89/d ({_STEIN}), 0.9/d Leon-Triana, 1.0/d "
              "Chaudhury 2020, "
              f"1.73/d ({_SINGH}); READ-abs 0.92/d (doubling time 0.755 d, {_LISO})"),
    Parameter("KA", "BCMA+ burden for half-maximal stimulation", "cells", 1e9, 1.0, 0.6, "log", "ASSUMED",
              "ASSUMED; READ 1e10 in Leon-Triana 2021 (solid tumours)"),
    Parameter("KC", "CAR-T carrying capacity", "cells/uL", 1e3, 0.7, 0.3, "log", "CAL",
              f"CAL to observed peaks; READ 139 cells/uL in lymphoma ({_KIMMEL})"),
    Parameter("tg", "closing time of the lymphodepletion niche", "d", 9.0, 0.15, 0.15, "log", "CAL",
              f"CAL to a peak at 11 to 12.7 d (READ, product information); READ 9.3 d ({_STEIN}); READ-abs "
              f"9.29 d ({_LISO})"),
    Parameter("hg", "steepness of the niche's gate", "-", 6.0, 0.3, 0.0, "log", "ASSUMED",
              f"ASSUMED; a step in {_STEIN} and Chaudhury 2020, smooth in Li and Cheng (READ-abs, preprint)"),
    Parameter("psi", "residual proliferation after the gate has closed", "-", 0.08, 0.5, 0.3, "log",
              "ASSUMED", "ASSUMED"),
    Parameter("dE", "effector death", "1/d", 0.16, 0.25, 0.3, "log", "READ",
              f"READ alpha 0.16/d ({_STEIN}), k_E 0.16/d (Chaudhury 2020); READ-abs 0.139/d (half-life 5.0 "
              f"d, {_LISO})"),
    Parameter("eps", "effector to memory when antigen is low", "1/d", 0.02, 0.6, 0.6, "log", "CAL",
              f"CAL to observed persistence; READ FB 0.0079 ({_STEIN}), k_EP 0.0012/d (Chaudhury 2020), "
              "0.15/d in mice (Barros 2021)"),
    Parameter("eta", "memory to effector when antigen is high", "1/d", 0.1, 0.7, 0.3, "log", "ASSUMED",
              "ASSUMED; READ aM 1/d (Hardiansyah and Ng 2019)"),
    Parameter("rM", "self-renewal of memory", "1/d", 0.002, 1.0, 0.0, "log", "ASSUMED", "ASSUMED, small"),
    Parameter("dM", "loss of memory", "1/d", 0.012, 0.7, 0.7, "log", "CAL",
              "CAL to cilta-cel half-life 23.5 d and last detection 126 d (READ); READ beta 0.0032/d "
              f"({_STEIN}); "
              f"READ-abs 0.002/d ({_LISO})"),
    # exhaustion
    Parameter("kX", "antigen-driven exhaustion of effectors", "1/d", 0.03, 0.7, 0.5, "log", "ASSUMED",
              f"ASSUMED; READ g1 0.045, g3 0.05 ({_GK}; mouse, their unit 1/h)"),
    Parameter("rX", "recovery of exhausted cells to memory when antigen is low", "1/d", 0.01, 1.0, 0.3, "log",
              "ASSUMED",
              f"ASSUMED; 0 would be irreversible; READ g2 0.01 ({_GK})"),
    Parameter("dX", "loss of exhausted cells", "1/d", 0.08, 0.5, 0.3, "log", "ASSUMED", "ASSUMED"),
    Parameter("xi", "killing by exhausted against effector cells", "-", 0.05, 0.7, 0.0, "logit", "ASSUMED",
              f"ASSUMED; READ c/b 0.11 ({_GK})"),
    # myeloma
    Parameter("r", "net growth of myeloma", "1/d", 0.013, 0.4, 0.6, "log", "ASSUMED",
              "ASSUMED between two values READ: 0.0148/d (doubling time 46.8 +- 27.5 d, Ucci 1987) and "
              f"0.008/d ({_SINGH})"),
    Parameter("KB", "carrying capacity of myeloma", "cells", 3e12, 0.5, 0.0, "log", "RECALLED",
              f"middle of 1e12 to 1e13 cells (RECALLED); READ 2e12 ({_OWENS})"),
    Parameter("k", "maximal killing rate", "1/d", 0.8, 0.35, 0.3, "log", "CAL",
              f"CAL to response rates; READ 1.15/d ({_KIMMEL}), 0.343/d ({_SINGH}), 2.25/d ({_OWENS})"),
    Parameter("KE", "effectors for half-maximal killing", "cells/uL", 220.0, 0.8, 0.9, "log", "CAL",
              f"CAL to response rates; READ 4.05 cells/uL ({_KIMMEL}), where it cannot be told from the "
              "killing rate"),
    Parameter("w", "weight of target crowding (effector-to-target ratio)", "-", 0.24, 0.8, 0.3, "log",
              "ASSUMED",
              f"ASSUMED; 0 gives the killing term of {_KIMMEL}"),
    Parameter("u", "BCMA loss per unit of growth", "-", 1e-12, 2.0, 0.0, "log", "ASSUMED", "ASSUMED"),
    Parameter("fr", "BCMA-low fraction before therapy", "-", 1e-10, 2.5, 3.0, "log", "ASSUMED",
              "ASSUMED, wide"),
    Parameter("crt", "growth of BCMA-low against BCMA+ myeloma", "-", 0.8, 0.15, 0.1, "log", "ASSUMED",
              "ASSUMED"),
    Parameter("by", "bystander killing of BCMA-low myeloma", "-", 0.02, 0.7, 0.0, "log", "ASSUMED",
              "ASSUMED"),
    Parameter("B0", "myeloma cells at the first infusion", "cells", 1e11, 0.5, 1.2, "log", "RECALLED",
              f"lower end of 1e11 to 1e12 cells (RECALLED); READ 9.5e10 in lymphoma ({_KIMMEL})"),
    # host T-cell dysfunction and the product made from it
    Parameter("kQon", "rise of host T-cell dysfunction with burden", "1/d", 0.006, 0.5, 0.3, "log", "ASSUMED",
              "ASSUMED"),
    Parameter("kQoff", "recovery of host T-cell dysfunction", "1/d", 0.003, 0.5, 0.3, "log", "ASSUMED",
              "ASSUMED; half-life 230 d"),
    Parameter("KQ", "burden for half-maximal suppression", "cells", 5e10, 0.7, 0.0, "log", "ASSUMED",
              "ASSUMED"),
    Parameter("Q0", "host dysfunction at the first apheresis", "-", 0.55, 0.3, 0.35, "logit", "ASSUMED",
              "ASSUMED; defines the scale of dysfunction"),
    Parameter("bR", "loss of ln(rho) per unit of dysfunction at apheresis", "-", 0.6, 0.5, 0.0, "log",
              "ASSUMED", "ASSUMED"),
    Parameter("bX", "gain of exhaustion in the full microenvironment", "-", 2.0, 0.5, 0.0, "log", "ASSUMED",
              "ASSUMED"),
    Parameter("bK", "loss of killing in the full microenvironment", "-", 0.4, 0.4, 0.0, "logit", "ASSUMED",
              "ASSUMED"),
    # immunity against the CAR
    Parameter("kA", "build-up of anti-CAR immunity", "1/d", 0.012, 0.7, 0.8, "log", "ASSUMED",
              "ASSUMED; antibodies in about 45 to 50 % after ide-cel and 20 % after cilta-cel (RECALLED from "
              "labels)"),
    Parameter("KAC", "CAR-T for half-maximal immunisation", "cells/uL", 30.0, 0.7, 0.0, "log", "ASSUMED",
              "ASSUMED"),
    Parameter("dA", "waning of anti-CAR immunity", "1/d", 0.002, 0.6, 0.0, "log", "ASSUMED", "ASSUMED"),
    Parameter("alA", "maximal extra clearance of CAR-T by immunity", "1/d", 0.03, 0.9, 1.2, "log", "ASSUMED",
              "ASSUMED"),
    # serum markers
    Parameter("kP", "elimination of M-protein", "1/d", 0.04, 0.3, 0.3, "log", "ASSUMED",
              "ASSUMED between immunoglobulins: IgG half-life about 21 d, 0.033/d (READ), IgA about 6 d, "
              "0.12/d (RECALLED); "
              f"READ 0.117/d ({_SINGH}); free light chains are far faster (half-life 2 to 6 h, READ)"),
    Parameter("P0", "M-protein at the first infusion", "g/dL", 3.0, 0.3, 0.4, "log", "ASSUMED",
              "ASSUMED; measurable disease begins at 0.5 to 1 g/dL (READ, CARTITUDE-4)"),
    Parameter("kS", "elimination of sBCMA", "1/d", 0.55, 0.2, 0.1, "log", "READ-abs",
              f"READ-abs half-life 24 to 36 h (PubMed 36720180), 0.46 to 0.69/d; READ 0.7/d ({_SINGH})"),
    Parameter("S0", "sBCMA of the tumour at the first infusion", "ng/mL", 500.0, 0.5, 0.8, "log", "READ-abs",
              "READ-abs median 508.5 ng/mL before cilta-cel (PubMed 36720180)"),
    Parameter("Sbg", "sBCMA that remains without myeloma", "ng/mL", 5.0, 0.5, 0.3, "log", "ASSUMED",
              "ASSUMED just below the 6.0 ng/mL three months after cilta-cel (READ-abs, PubMed 36720180)"),
    # lines of therapy and dose
    Parameter("qLD", "jump of dysfunction per lymphodepletion and CAR-T line", "-", 0.5, 0.4, 0.0, "logit",
              "ASSUMED", "ASSUMED"),
    Parameter("bXQ", "gain of ln(kX) of a product per unit of dysfunction at apheresis", "-", 1.5, 0.6, 0.0,
              "log", "ASSUMED", "ASSUMED"),
    Parameter("sline", "lasting loss of ln(rho) per earlier CAR-T line", "-", 0.25, 0.7, 0.0, "log", "CAL",
              _ANCHOR),
    Parameter("sres", "lasting loss of ln(k) per earlier CAR-T line", "-", 0.3, 0.7, 0.0, "log", "CAL",
              _ANCHOR),
    Parameter("feng", "engrafted fraction of the dose", "-", 0.3, 0.5, 0.5, "logit", "ASSUMED",
              "ASSUMED; only the product of feng, dose and assay scale is identified"),
    # constants of the equations
    Parameter("qref", "dysfunction at which the reference products are calibrated", "-", 0.55, 0.0, 0.0,
              "logit", "ASSUMED",
              "ASSUMED; a definition, equal to the median of Q0"),
    Parameter("fXQ", "exhausted share of a product per unit of dysfunction at apheresis", "-", 0.5, 0.5, 0.0,
              "logit", "ASSUMED",
              "ASSUMED, value and spread"),
    Parameter("VT", "blood-equivalent volume of all CAR-T", "uL", 2.5e8, 0.0, 0.0, "log", "RECALLED",
              "5e6 uL of blood, 2 % of lymphocytes in blood (RECALLED); fixed, since only its product with "
              "the "
              "assay scale is identified"),
    # what is observed
    Parameter("hD", "hazard of death without progression", "1/d", 0.005 / DAYS_PER_MONTH, 0.5, 0.0, "log",
              "ASSUMED",
              "ASSUMED 0.005 per month, value and spread"),
    Parameter("sigma_transgene", "residual sd of ln(transgene)", "-", 0.5, 0.3, 0.0, "log", "ASSUMED",
              f"ASSUMED; READ 0.56 ({_STEIN})"),
    Parameter("sigma_sbcma", "residual sd of ln(sBCMA)", "-", 0.25, 0.3, 0.0, "log", "ASSUMED",
              "ASSUMED, value and spread"),
    Parameter("sigma_mprotein", "residual sd of ln(M-protein + 0.05 g/dL)", "-", 0.12, 0.3, 0.0, "log",
              "ASSUMED",
              "ASSUMED, value and spread"),
)
# fmt: on

# ------------------------------------------------------------------------------------------ real cohort

_FIT = (
    "CAL: feasibility fit to the Fandrei 2024 cohort (Blood Cancer Discovery 2024), not converged; "
    "the same cohort must not be read as independent evidence"
)


def _moved(symbol: str, median: float, iiv: float | None = None, *, note: str = "") -> Parameter:
    """Give a row of REFERENCE another median (and spread between patients); the prior's width stays."""
    old = REFERENCE[symbol]
    source = f"{_FIT}; prior width as in the reference table (median there {old.median:g})"
    return replace(
        old,
        median=median,
        iiv=old.iiv if iiv is None else iiv,
        tag="CAL",
        source=source + (f"; {note}" if note else ""),
    )


def _new(
    symbol: str,
    meaning: str,
    unit: str,
    median: float,
    log_sd: float,
    iiv: float = 0.0,
    *,
    transform: Transform = "log",
    note: str = "prior width ASSUMED",
) -> Parameter:
    """Make a row that only the real-cohort model has; median from the fit."""
    return Parameter(symbol, meaning, unit, median, log_sd, iiv, transform, "CAL", f"{_FIT}; {note}")


_DATA_WIDTH = "the width is that of the fit too, so this prior is informative and borrows from the cohort"

# fmt: off
_CHANGES: Final = (
    _moved("rho", 1.26, 0.27),
    _moved("tg", 8.0, 0.2),
    _moved("hg", 8.6),
    _moved("dE", 0.19, 0.15,
           note="the spread between patients is to be held fixed, or it is bimodal with eps"),
    replace(
        _moved("eps", 0.06, 0.9),
        meaning="E->M once the niche has closed",
        source="CAL: fit of this model to the Fandrei 2024 cohort with eps free, not converged in eps alone (R-hat "
        "1.04); aliased with dM, so held there; the same cohort must not be read as independent evidence",
    ),
    _moved("dM", 0.024, 1.0),
    _moved("k", 0.92),
    _moved("KE", 84.0, 1.3),
    _moved("B0", 6.2e10, 1.6),
    _moved("r", 0.014, 0.3),
    replace(_moved("Sbg", 2.3, 0.9), meaning="patient's floor of sBCMA"),
    _moved("kS", 0.19, note="half-life 3.6 d against 24 to 36 h READ-abs: the two do not agree"),
    replace(REFERENCE["S0"], meaning="sBCMA of the tumour at the first infusion (not used here: see sS)"),
    _new("lag", "delay before proliferation sets in", "d", 2.3, 0.3),
    Parameter("hlag", "steepness of the lag's gate", "-", 8.0, 0.3, 0.0, "log", "ASSUMED",
              "ASSUMED, value and spread"),
    _new("sS", "sBCMA per 1e11 myeloma cells", "ng/mL", 125.0, 0.7, 0.4),
    _new("Bc", "burden at which progression becomes likely", "cells", 1.7e10, 1.0),
    _new("h1", "hazard of progression of a large and growing tumour", "1/d", 0.05, 0.7),
    _new("wB", "width of the burden switch in ln(burden)", "-", 0.5, 0.0, note="fixed there and here"),
    _new("cG", "growth, as a share of r, at which the growth switch is half open", "-", 0.3, 0.0,
         note="fixed there and here"),
    _new("wG", "width of the growth switch, as a share of r", "-", 0.15, 0.0, note="fixed there and here"),
    Parameter("hbg", "background hazard of progression", "1/d", 2e-4, 0.7, 0.0, "log", "ASSUMED",
              "ASSUMED, value and spread"),
    Parameter("gT", "patient's scale of the transgene assay", "-", 1.0, 0.0, 0.27, "log", "CAL",
              f"{_FIT} (spread between patients); the median is 1 by definition, aT holds the level"),
    _new("dlt", "excess of ln(transgene) before day 10", "-", 0.65, 0.2, transform="identity",
         note=f"ascribed to leukopenia after lymphodepletion; {_DATA_WIDTH}"),
    _new("aT", "ln(transgene) at 1 CAR+ cell/uL, ide-cel", "ln(copies/ug)", 9.1, 0.3, transform="identity",
         note=_DATA_WIDTH),
    _new("bT", "power of CAR+ cells/uL in the transgene assay, ide-cel", "-", 0.74, 0.05,
         transform="identity", note=_DATA_WIDTH),
    _new("sigma_transgene", "residual sd of ln(transgene), Student t with 4 degrees of freedom", "-", 0.47,
         0.3),
    _new("sigma_cart", "residual sd of ln(CAR+ cells), Student t with 4 degrees of freedom", "-", 0.71, 0.3),
    _new("sigma_sbcma", "residual sd of ln(sBCMA), Student t with 4 degrees of freedom", "-", 0.62, 0.3),
)
# fmt: on

REAL_COHORT: Final[Mapping[str, Parameter]] = MappingProxyType({**REFERENCE, **{row.symbol: row for row in _CHANGES}})

#: The patient effects that a cohort can carry; all others with iiv > 0 stay at their median. Beside dM, an effect on
#: eps would be aliased: a patient has two or three samples after the peak.
RANDOM_EFFECTS: Final[tuple[str, ...]] = ("rho", "tg", "dM", "KE", "B0", "Sbg", "gT")

#: Transgene assay by product, ln T = aT + bT ln C (+ dlt before day 10); products not named use ide-cel's.
PRODUCT_ASSAY: Final[Mapping[str, Mapping[str, Parameter]]] = MappingProxyType(
    {
        "ide-cel": MappingProxyType({name: REAL_COHORT[name] for name in ("aT", "bT")}),
        "cilta-cel": MappingProxyType(
            {
                "aT": replace(
                    REAL_COHORT["aT"],
                    meaning="ln(transgene) at 1 CAR+ cell/uL, cilta-cel",
                    median=8.1,
                    log_sd=0.5,
                ),
                "bT": replace(
                    REAL_COHORT["bT"],
                    meaning="power of CAR+ cells/uL in the transgene assay, cilta-cel",
                    median=0.57,
                    log_sd=0.08,
                ),
            }
        ),
    }
)


def _effect(
    parameter: str, multiplier: float, sd: float, product_field: str | None, tag: Tag, source: str
) -> ProductEffect:
    mean = float(np.log(multiplier))
    return ProductEffect(parameter, "cilta-cel", "ide-cel", mean, sd, product_field, tag, source)


_EFFECTS: Final = (
    _effect("rho", 1.1, 0.3, "f0", "CAL", f"{_FIT}; the reference product has 1.4; width ASSUMED"),
    _effect(
        "tg",
        1.2,
        0.5,
        "gp",
        "CAL",
        "CAL of the reference product to its later peak (12.7 against 11 d, READ); width ASSUMED, wide "
        "enough for the 2.2 of the feasibility fit",
    ),
    _effect("feng", 1.0, 0.5, "feng", "ASSUMED", "ASSUMED equal, width too"),
    _effect(
        "B0",
        1.0,
        0.7,
        None,
        "ASSUMED",
        "ASSUMED equal, width too; a difference between the groups of patients, not an effect of the product",
    ),
    _effect(
        "KE",
        0.15,
        0.8,
        "h",
        "CAL",
        "CAL of the reference product to published response rates; width ASSUMED, and its posterior is mostly prior",
    ),
)

#: Priors of cilta-cel against ide-cel, by label (`rho:cilta-cel`).
PRODUCT_EFFECTS: Final[Mapping[str, ProductEffect]] = MappingProxyType({e.label: e for e in _EFFECTS})

_VARIANTS: Final = (
    Variant("full", "every mechanism on"),
    Variant(
        "no-dysfunction",
        "the null: neither the host's T cells at apheresis nor earlier lines change fitness, exhaustion rate "
        "or killing of a product; its mix of effector, memory and exhausted cells still follows the host",
        MappingProxyType({"bR": 0.0, "bXQ": 0.0, "sline": 0.0, "sres": 0.0}),
    ),
    Variant(
        "no-exhaustion",
        "no exhausted cells, neither infused nor arising",
        MappingProxyType({"kX": 0.0, "fXQ": 0.0}),
        MappingProxyType({"fX0": 0.0}),
    ),
    Variant(
        "neither",
        "neither exhausted cells nor effects of the host's dysfunction: the null beside no-exhaustion",
        MappingProxyType({"kX": 0.0, "fXQ": 0.0, "bR": 0.0, "bXQ": 0.0, "sline": 0.0, "sres": 0.0}),
        MappingProxyType({"fX0": 0.0}),
    ),
)

#: The full model and the restrictions that a claim about dysfunction or exhaustion has to beat.
VARIANTS: Final[Mapping[str, Variant]] = MappingProxyType({v.name: v for v in _VARIANTS})

_TABLES: Final[Mapping[str, Mapping[str, Parameter]]] = MappingProxyType({"reference": REFERENCE, "real": REAL_COHORT})


def table(name: str = "reference") -> Mapping[str, Parameter]:
    """Parameter table by name, "reference" or "real" (raises ReinfuseError for another name)."""
    try:
        return _TABLES[name]
    except KeyError:
        raise ReinfuseError(f"no parameter table {name!r}; use one of {', '.join(_TABLES)}") from None


def median(name: str = "reference") -> dict[str, float]:
    """Prior medians of a table by symbol, natural scale (raises as `table`)."""
    return {symbol: row.median for symbol, row in table(name).items()}
