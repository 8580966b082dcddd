"""From a course of infusions to what kernels take: event times and codes, and the infusions' parameters."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .course import ResolvedInfusion
from .equations.bcma import EARLY
from .parameters import PRODUCT_ASSAY
from .products import Product

type Floats = NDArray[np.float64]

#: Parameters of an infusion slot that are fields of the product: parameter name -> field.
PRODUCT_FIELDS: Final[Mapping[str, str]] = {
    **{name: name for name in ("f0", "m0", "h", "gp", "feng", "fM0", "fX0")},
    "i": "immunogenicity",
}
FAR: Final = 1e9  # d, stands for "never" where a kernel needs a finite number


def assay_parameters(product: Product, options: str) -> dict[str, float]:
    """Intercept and power of the transgene assay, ``ln T = aT + bT ln C``, for a product.

    The reference model takes the product's own scale and power; real cohorts take the table's values for the
    product, or ide-cel's for a product without its own.
    """
    if options == "reference":
        return {"aT": float(np.log(product.scale)), "bT": product.power}
    rows = PRODUCT_ASSAY.get(product.name, PRODUCT_ASSAY["ide-cel"])
    return {name: row.median for name, row in rows.items()}


def slot_parameters(course: Sequence[ResolvedInfusion], options: str) -> dict[str, float | Floats]:
    """All parameters that carry an infusion's number, such as ``dose_2``; numbers or arrays of shape (n,)."""
    values: dict[str, float | Floats] = {}
    for item in course:
        own: dict[str, float | Floats] = {
            "day": np.minimum(item.day, FAR),
            "dose": item.dose,
            "ld": item.lymphodepletion,
            "bridge": item.bridging,
            "survive": item.survivors,
            "chi": item.chi,
            "occ": 0.0,
        }
        own |= {name: getattr(item.product, field) for name, field in PRODUCT_FIELDS.items()}
        own |= assay_parameters(item.product, options)
        values |= {f"{name}_{item.slot}": value for name, value in own.items()}
    return values


def events(
    course: Sequence[ResolvedInfusion], n: int, names: Sequence[str], engaged: Floats | None = None
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Events of ``n`` patients in order of time.

    Parameters
    ----------
    course
        The infusions.
    n
        Number of patients.
    names
        The kernel's event names; their position is the code. Events that it does not know are left out.
    engaged
        Days on which a bispecific antibody begins, (n,); +inf: not given.

    Returns
    -------
    times : ndarray (n, m)
        Days, rising; unused places hold `FAR`.
    codes : ndarray (n, m)
        Event codes.
    count : ndarray (n,)
        Events per patient.
    """
    columns: list[Floats] = []
    codes: list[int] = []
    following = [*(item.day for item in course[1:]), np.asarray(np.inf)]
    for item, later in zip(course, following, strict=True):
        assessed = item.day + EARLY
        candidates = {
            f"apheresis_{item.slot}": np.where(item.apheresis_day > 0, item.apheresis_day, np.inf),
            f"infusion_{item.slot}": item.day,
            f"assessment_{item.slot}": np.where(assessed < later, assessed, np.inf),
        }
        for name, day in candidates.items():
            if name in names:
                given = np.where(np.isfinite(item.day), day, np.inf)
                columns.append(np.broadcast_to(given, (n,)).astype(np.float64))
                codes.append(names.index(name))
    if engaged is not None:
        columns.append(engaged)
        codes.append(names.index("engagement"))
    times = np.stack(columns, axis=1)
    rank = np.argsort(times, axis=1, kind="stable")
    times = np.take_along_axis(times, rank, axis=1)
    count = np.isfinite(times).sum(axis=1).astype(np.int64)
    return np.where(np.isfinite(times), times, FAR), np.asarray(codes, dtype=np.int64)[rank], count
