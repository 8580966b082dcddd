"""A toy simulator with the signature of the real one, and the populations that the tests draw from."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits.retreatment import scenarios
from reinfuse.fits.retreatment.virtual_patients import SampledPopulation
from reinfuse.model.course import Engager, Infusion, resolve
from reinfuse.model.parameters import REFERENCE, VARIANTS, to_transformed

KILL_DAYS = 30.0


def toy(
    *,
    course: Sequence[Infusion],
    times: np.ndarray,
    parameters: Mapping[str, np.ndarray],
    options: str = "reference",
    tolerance: float = 1e-6,
    readouts: Sequence[str] | None = None,
    since: np.ndarray | None = None,
    engager: Engager | None = None,
) -> xr.Dataset:
    """ln(burden) falls by `rho` in the 30 days after an infusion and grows at `r`; M-protein follows at once.

    A second product kills `sline` less; BCMA-low cells grow undisturbed. Patients with kX < 0 fail.
    """
    n = next(np.asarray(v).size for v in parameters.values() if np.ndim(v) == 1)
    begin = np.zeros(n) if since is None else np.asarray(since, dtype=float)
    t = np.asarray(times, dtype=float)[None, :] + begin[:, None]

    def value(name: str) -> np.ndarray:
        return np.broadcast_to(np.asarray(parameters[name], dtype=float), (n,))[:, None]

    log_sensitive = np.log(value("B0")) + value("r") * t
    log_low = np.log(value("fr") * value("B0")) + value("r") * t
    cart, cells = np.zeros(t.shape), {}
    for item in resolve(course):
        day = np.broadcast_to(item.day, (n,))[:, None]
        given = np.broadcast_to(item.dose, (n,))[:, None] > 0
        occasion = parameters.get(f"occ_{item.slot}", np.zeros(n))[:, None]
        strength = given * (value("rho") - value("sline") * (item.slot - 1) + occasion)
        since = np.clip((t - day) / KILL_DAYS, 0.0, 1.0)
        bridge = np.where(t >= day, np.log(np.broadcast_to(item.bridging, (n,))[:, None]), 0.0)
        log_sensitive = log_sensitive - strength * since + bridge
        log_low = log_low + bridge
        own = np.where(t >= day, 100.0 * np.exp(-(((t - day - 10.0) / 10.0) ** 2)), 0.0)
        cells |= {f"E{item.slot}": own, f"M{item.slot}": 0.0 * own, f"X{item.slot}": 0.0 * own}
        cart = cart + own
    if engager is not None:
        day, killing = (np.broadcast_to(x, (n,))[:, None] for x in (engager.day, engager.killing))
        log_sensitive = log_sensitive - killing * np.clip(t - day, 0.0, None)
    sensitive, low = np.exp(np.minimum(log_sensitive, 600.0)), np.exp(np.minimum(log_low, 600.0))
    failed = np.broadcast_to(value("kX")[:, 0] < 0, (n,))
    protein = value("P0") * (sensitive + low) / value("B0")
    sensitive = np.where(failed[:, None], np.nan, sensitive)
    dims = ("patient", "time")
    data = {
        "Ts": (dims, sensitive),
        "Tr": (dims, low),
        "mprotein": (dims, protein),
        "cart": (dims, cart),
        **{name: (dims, values) for name, values in cells.items()},
        **{f"Qaph{k}": (dims, np.broadcast_to(value("Q0"), cart.shape)) for k in range(2, len(course) + 1)},
        "cumhaz": (dims, np.broadcast_to(0.001 * t, cart.shape)),
        "status": (("patient",), failed.astype(int)),
    }
    return xr.Dataset(data, coords={"time": np.asarray(times, dtype=float)})


def toy_population(n_draws: int = 20, **changes: tuple[float, float]) -> SampledPopulation:
    """Build a population of the reference table: 0 spread, but `name=(median, sd)` for what is named."""
    rows = dict(REFERENCE)
    rows = {name: row for name, row in rows.items() if not name.startswith("sigma_")}
    centre = np.array([float(to_transformed(r.median, transform=r.transform)) for r in rows.values()])
    centre = np.tile(centre, (n_draws, 1))
    spread = np.zeros_like(centre)
    defaults = {
        "rho": (5.0, 0.3),
        "r": (0.02, 0.3),
        "P0": (3.0, 0.2),
        "fr": (1e-10, 1.0),
        "sline": (0.5, 0.0),
    }
    for name, (median, sd) in {**defaults, **changes}.items():
        j = list(rows).index(name)
        centre[:, j] = to_transformed(median, transform=rows[name].transform)
        spread[:, j] = sd
    return SampledPopulation(
        rows=rows,
        centre=centre,
        spread=spread,
        fields={},
        occasion_sd=np.full(n_draws, 0.1),
        options="reference",
        variant=VARIANTS["full"],
        prior_only=frozenset({"sline"}),
        source="a toy",
    )


TEXT = """
[[scenario]]
name = "two"
first.product = "ide-cel"
second.product = "cilta-cel"
second.bridging = 0.5

[[scenario]]
name = "nothing given"
first.product = "ide-cel"
second.product = "cilta-cel"
second.dose = 0
second.lymphodepletion = 0

[[scenario]]
name = "none"
first.product = "ide-cel"
no_second = true
"""


@pytest.fixture
def file() -> scenarios.ScenarioFile:
    return scenarios.parse(TEXT)


@pytest.fixture
def population() -> SampledPopulation:
    return toy_population()
