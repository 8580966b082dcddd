"""A small synthetic run folder in the layout of `reinfuse fit`, made from closed formulas, for tests only.

Nothing here is fitted: individual parameters are drawn, curves are Stein-like, draws scatter around the
truth. One parameter (`kX`) is left at its prior and one pair (`k`, `KE`) is aliased, so that the diagnosis
has something to find.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from reinfuse.fits.diagnosis.stein import stein_curve
from reinfuse.fits.run import RunFolder, provenance
from reinfuse.model.parameters import from_transformed, table, to_transformed

CHAINS, DRAWS, SAMPLES = 4, 600, 40
POPULATION = ("rho", "tg", "dE", "eps", "k", "KE", "B0", "Sbg", "kX", "aT", "Bc", "sigma_transgene")
FIXED = "KB"
PRIOR_ONLY = ("kX",)
EFFECTS = ("rho", "tg", "KE", "B0", "Sbg")
PRODUCT_EFFECTS = ("rho:cilta-cel", "tg:cilta-cel")
VISITS = (7.0, 14.0, 30.0, 60.0, 100.0, 180.0)
LIMITS = {"transgene": 50.0, "cart": 0.3, "sbcma": 1.1}
SIGMA = {"transgene": 0.47, "cart": 0.7, "sbcma": 0.6}
TIMES = np.unique(np.concatenate([np.arange(0.0, 40.0, 1.0), np.arange(40.0, 401.0, 5.0)]))


@dataclass
class Fake:
    """What was put into the run, so that tests know the answers."""

    tree: xr.DataTree
    cohort: pd.DataFrame
    patients: list[str]
    products: np.ndarray
    progression: pd.DataFrame
    extra: dict = field(default_factory=dict)


def make(*, n_patients: int = 20, seed: int = 7, chains: int = CHAINS, draws: int = DRAWS) -> Fake:
    """Simulate a cohort and a posterior around it."""
    rng = np.random.default_rng(seed)
    patients = [f"SYN{i + 1:03d}" for i in range(n_patients)]
    products = np.array(["ide-cel" if i % 3 else "cilta-cel" for i in range(n_patients)])
    truth = _truth(rng, products)
    curves = _curves(truth, TIMES)
    progression = _progression(rng, truth, curves, patients, products)
    observed = _observations(rng, truth, patients, products, progression)
    response = _responses(truth)
    tree = _tree(rng, truth, observed, patients, products, chains, draws)
    cohort = _cohort(patients, products, observed, progression, response)
    return Fake(tree, cohort, patients, products, progression)


def write(path: Path, *, fake: Fake | None = None, **changes: object) -> RunFolder:
    """Write the run folder and return it open; `changes` go into run.json."""
    fake = make() if fake is None else fake
    run = RunFolder.create(path)
    digest = run.write_cohort(fake.cohort)
    content = provenance(
        seed=7,
        cohort_sha256=digest,
        sampler="synthetic draws (tests)",
        model="bcma",
        options="real",
        variant="full",
        status="done",
        wall_seconds={"compile": 1.5, "setup": 4.0, "sampling": 60.0, "post": 8.0},
        command=["reinfuse", "fit", "cohort.csv", "--out", "run", "--seed", "7"],
        **{"solver_failures": 0, **changes},
    )
    run.write_provenance(content)
    run.write_posterior(fake.tree)
    return RunFolder.open(path)


def _truth(rng, products):
    n = len(products)
    rows = table("real")
    cilta = products == "cilta-cel"
    typical = {name: rows[name].median for name in EFFECTS}
    scatter = {name: np.exp(min(rows[name].iiv, 0.9) * rng.standard_normal(n)) for name in EFFECTS}
    truth = {name: typical[name] * scatter[name] for name in EFFECTS}
    truth["rho"] = truth["rho"] * np.where(cilta, 1.1, 1.0)
    truth["tg"] = truth["tg"] * np.where(cilta, 1.5, 1.0)
    truth["cilta"] = cilta
    return truth


def _curves(truth, times, scatter=0.0, rng=None):
    """Curves (patient, time); `scatter` jitters the individual parameters to mimic posterior draws."""

    def jitter(values):
        return values * np.exp(scatter * rng.standard_normal(len(values))) if scatter else values

    tmax = jitter(truth["tg"] * 1.25)[:, None]
    peak = (120 * jitter(truth["rho"] / 1.26) ** 4 * (1 + 2 * truth["cilta"]))[:, None]
    cart = stein_curve(times, 2000.0, tmax, peak, 0.12, 0.05, 0.006)
    level = np.where(truth["cilta"], 8.1, 9.1)[:, None]
    power = np.where(truth["cilta"], 0.57, 0.74)[:, None]
    transgene = np.exp(level + power * np.log(cart) + 0.3)
    start = jitter(truth["B0"])[:, None]
    kill = (0.25 * (84 / jitter(truth["KE"])) ** 0.3)[:, None]
    effect = kill * np.clip(times - 5, 0, 25)
    burden = np.minimum(start * np.exp(0.02 * np.clip(times - 30, 0, None) - effect), 5e11)
    sbcma = jitter(truth["Sbg"])[:, None] + 125 * burden / 1e11
    hazard = 2e-4 + 0.02 / (1 + (1.7e10 / burden) ** 2) * (times > 10)
    step = np.diff(times, prepend=times[0])
    return {
        "cart": cart,
        "transgene": transgene,
        "burden": burden,
        "sbcma": sbcma,
        "cumhaz": np.cumsum(hazard * step, axis=-1),
    }


def _progression(rng, truth, curves, patients, products):
    lines = []
    for i, (patient, product) in enumerate(zip(patients, products, strict=True)):
        drawn = np.searchsorted(curves["cumhaz"][i], rng.exponential())
        progressed = float(TIMES[drawn]) if drawn < len(TIMES) else np.inf
        left = float(rng.uniform(250, 395))
        time, event = (progressed, 1) if progressed <= left else (round(left), 0)
        lines.append({"patient": patient, "product": product, "time": max(time, 12.0), "event": event})
    table_ = pd.DataFrame(lines)
    table_.loc[table_.index[table_["event"] == 0][:1], "event"] = 2
    return table_


def _observations(rng, truth, patients, products, progression):
    lines = []
    for i, (patient, product) in enumerate(zip(patients, products, strict=True)):
        end = progression["time"][i]
        for dvid, limit in LIMITS.items():
            for visit in (0.0, *VISITS) if dvid == "sbcma" else VISITS:
                day = visit + (rng.integers(-1, 3) if visit else 0)
                if day > end or rng.uniform() < 0.1:
                    continue
                curve = {key: values[i, 0] for key, values in _curves(truth, np.array([day])).items()}
                value = curve[dvid] * np.exp(SIGMA[dvid] * rng.standard_t(4))
                lines.append(
                    (
                        i,
                        patient,
                        float(day),
                        dvid,
                        max(value, limit),
                        int(value <= limit),
                        product,
                        curve[dvid],
                    )
                )
    names = ["index", "patient", "time", "dvid", "value", "cens", "product", "truth"]
    return pd.DataFrame(lines, columns=names)


def _responses(truth):
    reach = 84 / truth["KE"] * 6e10 / truth["B0"]
    order = np.argsort(np.argsort(reach)) / len(reach)
    return np.select([order < 0.15, order < 0.3, order < 0.55, order < 0.8], ["PD", "SD", "PR", "VGPR"], "CR")


def _tree(rng, truth, observed, patients, products, chains, draws):
    rows = table("real")
    shape = (chains, draws)

    def population(size, *, prior):
        out = np.empty((*size, len(POPULATION) + 1))
        twin = rng.standard_normal(size)
        for j, name in enumerate(POPULATION):
            row = rows[name]
            noise = rng.standard_normal(size)
            if prior or name in PRIOR_ONLY:
                sd, centre = row.log_sd, 0.0
            else:
                sd, centre = 0.3 * row.log_sd, 0.4 * row.log_sd
                if name in ("k", "KE"):
                    noise = 0.95 * twin + np.sqrt(1 - 0.95**2) * noise
            middle = to_transformed(row.median, transform=row.transform)
            out[..., j] = from_transformed(middle + centre + sd * noise, transform=row.transform)
        out[..., -1] = rows[FIXED].median
        return out

    def omega(size, *, prior):
        centre = np.array([min(rows[name].iiv, 0.9) for name in EFFECTS])
        return centre * np.exp((0.5 if prior else 0.15) * rng.standard_normal((*size, len(EFFECTS))))

    def product_effect(size, *, prior):
        scale, centre = (0.3, 0.0) if prior else (0.1, np.log([1.1, 1.5]))
        return centre + scale * rng.standard_normal((*size, len(PRODUCT_EFFECTS)))

    def individual(size):
        base = np.stack([truth[name] for name in EFFECTS], axis=-1)
        return base * np.exp(0.12 * rng.standard_normal((*size, *base.shape)))

    coords = {
        "parameter": [*POPULATION, FIXED],
        "effect": list(EFFECTS),
        "contrast": list(PRODUCT_EFFECTS),
        "patient": patients,
    }

    def group(size, *, prior):
        return xr.Dataset(
            {
                "population": (("chain", "draw", "parameter"), population(size, prior=prior)),
                "omega": (("chain", "draw", "effect"), omega(size, prior=prior)),
                "product_effect": (("chain", "draw", "contrast"), product_effect(size, prior=prior)),
                "individual": (("chain", "draw", "patient", "effect"), individual(size)),
            },
            coords={**coords, "chain": np.arange(size[0]), "draw": np.arange(size[1])},
        )

    centre = np.log(observed["truth"].to_numpy()) + 0.15 * rng.standard_normal((*shape, len(observed)))
    sigma = observed["dvid"].map(SIGMA).to_numpy()
    new = centre + sigma * rng.standard_t(4, centre.shape)
    stack = [_curves(truth, TIMES, scatter=0.12, rng=rng) for _ in range(SAMPLES)]
    return xr.DataTree.from_dict(
        {
            "/posterior": group(shape, prior=False),
            "/prior": group((1, 2000), prior=True),
            "/sample_stats": xr.Dataset(
                {
                    "diverging": (("chain", "draw"), np.zeros(shape, dtype=bool)),
                    "n_steps": (("chain", "draw"), np.full(shape, 31)),
                    "step_size": (("chain", "draw"), np.full(shape, 0.2)),
                }
            ),
            "/posterior_predictive": xr.Dataset(
                {
                    "y": (("chain", "draw", "observation"), new),
                    "prediction": (("chain", "draw", "observation"), centre),
                }
            ),
            "/log_likelihood": xr.Dataset(
                {"patient": (("chain", "draw", "patient_name"), rng.normal(-8, 1, (*shape, len(patients))))}
            ),
            "/observed_data": xr.Dataset(
                {
                    name: ("observation", observed[name].to_numpy(dtype=kind))
                    for name, kind in (
                        ("patient", "U"),
                        ("time", float),
                        ("dvid", "U"),
                        ("value", float),
                        ("cens", int),
                        ("product", "U"),
                    )
                }
            ),
            "/curves": xr.Dataset(
                {
                    name: (("sample", "patient", "time"), np.stack([curves[name] for curves in stack]))
                    for name in ("transgene", "cart", "sbcma", "burden", "cumhaz")
                },
                coords={"time": TIMES, "patient": patients},
            ),
        }
    )


def _cohort(patients, products, observed, progression, response):
    lines = []
    for i, patient in enumerate(patients):
        common = {"ID": patient, "RESP_30D": response[i]}
        lines.append(
            {
                **common,
                "TIME": 0.0,
                "EVID": 1,
                "AMT": 4.5e8 if products[i] == "ide-cel" else 5.5e7,
                "PRODUCT": products[i],
                "LD": 1.0,
            }
        )
        for row in observed[observed["patient"] == patient].itertuples():
            lines.append(
                {
                    **common,
                    "TIME": row.time,
                    "EVID": 0,
                    "DVID": row.dvid,
                    "DV": row.value,
                    "CENS": row.cens,
                    "LLOQ": LIMITS[row.dvid],
                }
            )
        end = progression.iloc[i]
        kinds = [("progression", int(end["event"] == 1))] + ([("death", 1)] if end["event"] == 2 else [])
        for dvid, value in kinds:
            lines.append({**common, "TIME": end["time"], "EVID": 0, "DVID": dvid, "DV": value, "CENS": 0})
    names = ["ID", "TIME", "EVID", "AMT", "PRODUCT", "LD", "DVID", "DV", "CENS", "LLOQ", "RESP_30D"]
    frame = pd.DataFrame(lines)[names]
    kind = frame["EVID"].map({1: 0, 0: 1})
    return frame.assign(_kind=kind).sort_values(["ID", "TIME", "_kind"], kind="stable").drop(columns="_kind")


def settings() -> str:
    """Return settings as text, for tests of the digest."""
    return json.dumps({"model": "bcma", "seed": 7})
