"""One look for all figures: palette, fonts, axes of days and of logarithms, saving.

Colours are those of Okabe and Ito, told apart by the common forms of colour blindness. Figures are made with
matplotlib's object interface (no pyplot, no global state), 7.2 inches wide: the text width of an A4 report.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    ScalarFormatter,
)

Array = npt.NDArray[np.float64]

WIDTH: Final = 7.2
DPI: Final = 150

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
GREY: Final = "#8A8A8A"
PALE: Final = "#D9D9D9"

SERIES: Final = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
"""Colours of unnamed series (chains, groups), in order."""

PRODUCT_COLOURS: Final[Mapping[str, str]] = {"ide-cel": BLUE, "cilta-cel": VERMILION}

ASSAYS: Final[Mapping[str, tuple[str, str]]] = {
    "transgene": ("CAR transgene", "copies/µg DNA"),
    "cart": ("CAR+ T cells", "cells/µL"),
    "sbcma": ("soluble BCMA", "ng/mL"),
    "mprotein": ("M-protein", "g/dL"),
    "flc": ("free light chains", "mg/L"),
    "burden": ("myeloma burden", "cells"),
}
"""What an assay is called in a figure, and its unit."""

DAYS: Final = (0, 7, 14, 30, 60, 100, 180, 365, 730, 1095)
CLOSEST: Final = 0.06  # distance of two such days on an axis, as a share of it

RC: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "figure.titlesize": 9.5,
    "figure.titleweight": "bold",
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "savefig.facecolor": "white",
    "svg.hashsalt": "reinfuse",
}


def styled[**P, R](draw: Callable[P, R]) -> Callable[P, R]:
    """Run a figure function under the house style, leaving matplotlib's own settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(RC):
            return draw(*args, **kwargs)

    return inside


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of a height in inches whose parts arrange themselves."""
    return Figure(figsize=(width, height), layout="constrained")


def grid(
    panels: int,
    columns: int,
    row_height: float,
    *,
    extra: float = 0.5,
    sharex: bool = False,
    sharey: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels in rows of `columns`, unused places left empty.

    Parameters
    ----------
    panels, columns
        How many panels, and how many side by side.
    row_height, extra
        Inches per row, and for title and legend.
    sharex, sharey
        Whether all panels have one axis of this kind.
    """
    rows = -(-panels // columns)
    figure = new_figure(rows * row_height + extra)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey)
    flat = list(axes.flat)
    for place, unused in enumerate(flat[panels:], start=panels):
        unused.set_visible(False)
        if place >= columns:  # the panel above is now the lowest of its column
            flat[place - columns].xaxis.set_tick_params(labelbottom=True)
    return figure, flat[:panels]


def product_colour(name: str, products: Sequence[str] = ()) -> str:
    """Return the colour of a product; a new one takes the next free colour by its place in `products`."""
    if name in PRODUCT_COLOURS:
        return PRODUCT_COLOURS[name]
    others = [product for product in sorted(set(products)) if product not in PRODUCT_COLOURS]
    return SERIES[2 + others.index(name) % (len(SERIES) - 2)] if name in others else GREY


def assay_name(dvid: str, *, unit: bool = True) -> str:
    """Return what an assay is called, with its unit for an axis or without for a title."""
    if dvid not in ASSAYS:
        return dvid
    name, measure = ASSAYS[dvid]
    return f"{name} ({measure})" if unit else name


def day_axis(axes: Axes, last: float, *, label: str = "days since infusion") -> None:
    """Lay out an axis of days by square root: the first weeks get room, the first day is still on it."""
    axes.set_xscale("function", functions=(_root, _square))
    axes.set_xlim(-float(_square(0.015 * np.sqrt(last))), last)  # a margin, so that day 0 is not cut in half
    shown: list[int] = []
    for day in DAYS:
        if day <= last and (not shown or np.sqrt(day) - np.sqrt(shown[-1]) > CLOSEST * np.sqrt(last)):
            shown.append(day)
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    if label:
        axes.set_xlabel(label)


def log_axis(axes: Axes, which: str = "y") -> None:
    """Lay out a logarithmic axis with few, readable decades."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_minor_locator(LogLocator(numticks=6, subs=(2.0, 5.0)))
    axis.set_minor_formatter(NullFormatter())


def round_numbers(low: float, high: float, most: int = 4) -> list[float]:
    """Return a few round numbers between two positive ones, for the ticks of a logarithmic axis."""
    if high / low < 4:
        return [float(x) for x in MaxNLocator(most).tick_values(low, high) if low <= x <= high and x > 0]
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for digits in ((1, 2, 5), (1, 3), (1,)):
        found = [d * 10.0**k for k in decades for d in digits if low <= d * 10.0**k <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def short(value: float) -> str:
    """Return a number in two figures, large and small ones in e-notation."""
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:.2g}" if abs(value) < 10 else f"{value:.0f}"


def legend_below(figure: Figure, handles: Sequence[Any], *, columns: int = 5) -> None:
    """Put one legend for the whole figure below its panels."""
    if handles:
        figure.legend(handles=list(handles), loc="outside lower center", ncols=min(columns, len(handles)))


def percentile_legend(band: str) -> list[Artist]:
    """Return the handles of a figure of observed percentiles among simulated ones; `band` says what the band holds."""
    tenths = "observed 10th, 90th percentile"
    return [
        Line2D([], [], color=BLACK, marker="o", linestyle="-", label="observed median"),
        Line2D([], [], color=BLACK, marker="_", linestyle="none", markersize=8, label=tenths),
        Patch(color=GREY, alpha=0.45, label=band),
        Line2D([], [], color=GREY, marker="v", markerfacecolor="white", linestyle="none", label="below the limit"),
    ]


def png_bytes(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    with matplotlib.rc_context(RC):
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def data_uri(figure: Figure) -> str:
    """Return a figure as a `data:` address, for a page that asks nothing of the network."""
    return data_address(png_bytes(figure))


def data_address(png: bytes) -> str:
    """Return a PNG as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def save(figure: Figure, folder: Path, name: str, *, svg: bool = False) -> Path:
    """Write a figure as `name.png` (150 dpi), and as `name.svg` too if asked; return the path of the PNG."""
    target = folder / f"{name}.png"
    target.write_bytes(png_bytes(figure))
    if svg:
        with matplotlib.rc_context(RC):
            figure.savefig(folder / f"{name}.svg", format="svg", metadata={"Date": None})
    return target


def _root(values: npt.ArrayLike) -> Array:
    x = np.asarray(values, dtype=float)
    return np.asarray(np.sign(x) * np.sqrt(np.abs(x)))


def _square(values: npt.ArrayLike) -> Array:
    x = np.asarray(values, dtype=float)
    return np.asarray(np.sign(x) * x**2)
