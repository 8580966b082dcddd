"""Stein's curve of CAR-T kinetics as a model of one's own, and patients simulated from its published population.

Tisagenlecleucel in blood rises exponentially to a peak and declines with two rates (Stein et al., CPT Pharmacometrics
Syst Pharmacol 8:285, 2019). As an ODE: effector and persisting cells multiply alike until the peak, then each is lost
at its own rate. The change at the peak takes about an hour (`SWITCH`), so that the likelihood is smooth in its day; on
the logarithmic scale that is within 0.03 of the closed form, with a residual sd of 0.56. The patients are simulated
from the closed form itself (`fits.diagnosis.stein`), which shares no code with the solver.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.define import Model, State, expit, log, parameter, relative_error
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import to_transformed

from ..diagnosis.stein import log_curve
from ..own_model import data_from_frame, pose_model
from ..results import DEGREES
from .cohorts import Drawn, names_of

type Floats = NDArray[np.float64]

SWITCH: Final = 0.04  # d
GONE: Final = 1e-30  # copies/µg DNA; below it the loss of cells fades, for the logarithm has no number for none
#: Published population values and sds between patients (logarithm; logit for FPERS). READ-abs: secondary transcription
#: of Table 1; the residual sd is READ.
PUBLISHED: Final[Mapping[str, tuple[float, float]]] = {
    "FOLDX": (3900.0, 2.4),
    "TPEAK": (9.3, 0.38),
    "CPEAK": (24000.0, 0.65),
    "KALPHA": (0.16, 0.91),
    "KBETA": (0.0032, 0.86),
    "FPERS": (0.0079, 0.8),
}
RESIDUAL: Final = 0.56
#: Days of the samples and limit of quantification (copies/µg DNA). ASSUMED.
DAYS: Final = (1, 2, 4, 7, 9, 11, 14, 17, 21, 28, 60, 90, 180, 270, 360, 540, 720)
LIMIT: Final = 50.0


@dataclass(frozen=True, kw_only=True)
class SteinStudy:
    """Patients like those of the publication.

    Attributes
    ----------
    patients
        How many.
    """

    patients: int = 90

    def __post_init__(self) -> None:
        if self.patients < 3:
            raise ReinfuseError(f"patients is {self.patients}; give at least 3")


@cache
def stein_model() -> Model:
    """The curve as a model of one's own, with priors that are wide and not centred on what was published."""

    def start(p: Any) -> dict[str, Any]:
        first = p.CPEAK / p.FOLDX
        return {"effector": first * (1.0 - p.FPERS), "persisting": first * p.FPERS}

    def rates(t: Any, y: Any, p: Any) -> dict[str, Any]:
        before = expit((p.TPEAK - t) / SWITCH)
        growth = before * log(p.FOLDX) / p.TPEAK

        def change(cells: Any, loss: Any) -> Any:
            return cells * (growth - (1.0 - before) * loss * cells / (cells + GONE))

        return {"effector": change(y.effector, p.KALPHA), "persisting": change(y.persisting, p.KBETA)}

    def observables(t: Any, y: Any, p: Any) -> dict[str, Any]:
        return {"transgene": relative_error(y.effector + y.persisting, p.sigma, unit="copies/µg DNA")}

    between: dict[str, Any] = {"iiv": 0.8, "iiv_log_sd": 0.8}
    return Model(
        name="stein-2019",
        time_unit="d",
        states=[State("effector", "copies/µg DNA"), State("persisting", "copies/µg DNA")],
        parameters=[
            parameter("FOLDX", "fold expansion until the peak", median=1000.0, log_sd=1.5, **between),
            parameter("TPEAK", "day of the peak", unit="d", median=12.0, log_sd=0.5, **between),
            parameter("CPEAK", "peak", unit="copies/µg DNA", median=1e4, log_sd=1.0, **between),
            parameter("KALPHA", "rate of the first decline", unit="1/d", median=0.1, log_sd=1.0, **between),
            parameter("KBETA", "rate of the second decline", unit="1/d", median=0.006, log_sd=1.0, **between),
            parameter("FPERS", "share that persists", median=0.02, log_sd=1.0, transform="logit", **between),
            parameter("sigma", "residual sd of ln(transgene)", median=0.4, log_sd=0.5),
        ],
        start=start,
        rates=rates,
        observables=observables,
    )


def draw_stein(study: SteinStudy, rng: np.random.Generator) -> Drawn:
    """Patients simulated from the published population by the closed form, with its residual error and a limit."""
    transforms = ["logit" if name == "FPERS" else "log" for name in PUBLISHED]
    centre = to_transformed([value for value, _ in PUBLISHED.values()], transform=transforms)
    spread = np.array([sd for _, sd in PUBLISHED.values()])
    deviation = spread * rng.standard_normal((study.patients, len(PUBLISHED)))
    named = dict(zip(PUBLISHED, (centre + deviation).T, strict=True))
    theta = np.stack([named[name] for name in ("FOLDX", "TPEAK", "CPEAK", "KALPHA", "FPERS", "KBETA")], axis=-1)
    days = np.array(DAYS, dtype=np.float64)
    seen = np.exp(log_curve(days, theta[:, None, :]) + RESIDUAL * rng.standard_t(DEGREES, (study.patients, days.size)))
    below = seen < LIMIT
    table = pd.DataFrame(
        {
            "ID": np.repeat(np.arange(1, study.patients + 1), days.size),
            "TIME": np.tile(days, study.patients),
            "DV": np.where(below, LIMIT, seen).ravel(),
            "CENS": below.astype(int).ravel(),
        }
    )
    data = data_from_frame(table, model=stein_model(), name="simulated from Stein 2019")
    problem = pose_model(data, stein_model())
    truth = dict(zip(PUBLISHED, centre, strict=True)) | {"sigma": np.log(RESIDUAL)}
    truth |= {f"omega {name}": np.log(sd) for name, (_, sd) in PUBLISHED.items()}
    order = [list(PUBLISHED).index(name) for name in problem.random]
    h = np.array([float(truth[name]) for name in names_of(problem)])
    return Drawn(data, problem, h, deviation[:, order])
