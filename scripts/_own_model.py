"""`reinfuse simulate --model FILE.py`: one patient of a model of one's own, as a table and a figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from reinfuse.model.errors import ReinfuseError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from reinfuse.model.define import Model


def read_doses(given: Sequence[str]) -> list[tuple[float, float]]:
    """Doses from texts such as `24:100` (time, amount).

    Raises
    ------
    ReinfuseError
        If a text is not TIME:AMOUNT.
    """
    doses = []
    for text in given:
        try:
            time, amount = (float(part) for part in text.split(":"))
        except ValueError:
            raise ReinfuseError(f"--dose {text!r} is not TIME:AMOUNT; write for example --dose 24:100") from None
        doses.append((time, amount))
    return doses


def one_patient(
    model: "Model", doses: Sequence[tuple[float, float]], until: float, every: float, parameters: Mapping[str, float]
) -> "xr.Dataset":
    """One patient from 0 to ``until``, a row every ``every``."""
    import numpy as np

    for name, value in (("--until", until), ("--every", every)):
        if not (np.isfinite(value) and value > 0):
            raise ReinfuseError(f"{name} is {value:g}; give a number above 0")
    return model.simulate(times=np.arange(0.0, until + 1e-9, every), doses=list(doses), parameters=parameters)


def csv(curves: "xr.Dataset") -> str:
    """Time, states and observables as CSV, ten significant digits."""
    names = [str(name) for name in curves.data_vars]
    columns = [curves["time"].to_numpy().tolist(), *(curves[name].to_numpy().tolist() for name in names)]
    lines = [",".join(["time", *names])]
    lines += [",".join(f"{value:.10g}" for value in row) for row in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def picture(curves: "xr.Dataset", model: "Model") -> "Figure":
    """A panel for every state and observable."""
    from reinfuse.fits.figures import style

    names = [str(name) for name in curves.data_vars]

    @style.styled
    def make() -> "Figure":
        figure, panels = style.grid(len(names), min(2, len(names)), 2.0, extra=0.5, sharex=True)
        for panel, name in zip(panels, names, strict=True):
            panel.plot(curves["time"], curves[name], color=style.BLUE)
            panel.set_title(name)
            panel.set_ylabel(model.unit(name))
            panel.set_xlabel(f"time ({model.time_unit})")
        figure.suptitle(model.name)
        return figure

    return make()
