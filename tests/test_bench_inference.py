"""The benchmark against numpyro: what it compares, and what it says of runs that are not comparable."""

import os
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEERS = BENCHMARKS.parent / ".venv-bench" / "bin" / "python"


@pytest.fixture
def benchmark_file(monkeypatch):
    """Import a file of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


@pytest.fixture
def posterior():
    """Draws (chain, draw) of five independent scalars, means 1 to 5 and sds 1 to 5."""

    def draw(seed, *, shift=0.0, scale=1.0):
        rng = np.random.default_rng(seed)
        return {str(k): shift * k + k + scale * k * rng.standard_normal((4, 1000)) for k in range(1, 6)}

    return draw


def test_draws_of_one_posterior_agree(benchmark_file, posterior):
    found = benchmark_file("agreement").draws_agree(posterior(1), posterior(2))
    assert found["agree"]
    assert found["scalars"] == 5
    assert found["mean_sds"]["largest"] < 0.1
    assert found["sd_percent"]["largest"] < 5.0


@pytest.mark.parametrize(("how", "which", "least"), [({"shift": 0.2}, "mean_z", 6.0), ({"scale": 1.2}, "sd_z", 6.0)])
def test_draws_of_another_posterior_do_not(benchmark_file, posterior, how, which, least):
    found = benchmark_file("agreement").draws_agree(posterior(1), posterior(2, **how))
    assert not found["agree"]
    assert found[which]["largest"] > least


def test_a_value_that_is_no_number_never_agrees(benchmark_file):
    difference = benchmark_file("agreement").difference
    assert difference(np.array([1.0, 3.0]), np.array([1.0, 1.0])) == pytest.approx(1.0)
    assert difference(np.array([1.0, np.nan]), np.array([1.0, 1.0])) == np.inf


def test_first_infusions_end_before_the_second(benchmark_file):
    from reinfuse.fits.cohort import cohort_from_frame, read_cohort
    from reinfuse.fits.synthetic import BUNDLED

    cohort = read_cohort(BUNDLED)
    cut = cohort_from_frame(benchmark_file("cases").first_infusions(cohort))
    assert cohort.max_infusions == 2
    assert cut.max_infusions == 1
    assert cut.patients == cohort.patients
    second = cohort.infusions.query("SLOT == 2").set_index("ID")["TIME"]
    once = ~cohort.table["ID"].isin(second.index)
    assert once.sum() > 0
    assert cut.table["ID"].isin(cohort.table[once]["ID"]).sum() == once.sum()
    after = cut.table["TIME"] - cut.table["ID"].map(second)
    assert not (after > 0).any()
    first = cohort.observations[
        (cohort.observation_slots == 1) & cohort.observations["ID"].isin(second.index).to_numpy()
    ]
    assert cut.observations["ID"].isin(second.index).sum() == len(first)


def test_scalars_are_compared_on_the_scale_of_their_priors(benchmark_file):
    import xarray as xr

    rng = np.random.default_rng(3)
    rho, dlt = np.exp(rng.standard_normal((2, 2, 50)))
    population = (("chain", "draw", "parameter"), np.stack([rho, dlt], axis=-1))
    data = xr.Dataset({"population": population}, coords={"parameter": ["rho", "dlt"]})
    found = benchmark_file("sampling").Sampled(posterior=data, row={}).scalars()
    np.testing.assert_allclose(found["rho"], np.log(rho))
    np.testing.assert_array_equal(found["dlt"], dlt)  # may be negative, whether or not a draw is


def test_the_loosest_tolerance_that_is_as_good_is_taken(benchmark_file):
    as_good = benchmark_file("tuning").as_good
    rows = [{"tolerance": t, "gradient": 10.0 * t} for t in (1e-2, 1e-3, 1e-4)]
    assert as_good(rows, {"gradient": 2e-2}) == 1e-3
    assert as_good(rows, {"gradient": 1e-9}) == 1e-4


def test_convergence_comes_before_effective_samples(benchmark_file):
    rank = benchmark_file("sampling").rank
    slow = {"converged": True, "ess_per_s_population": 0.1}
    quick = {"converged": True, "ess_per_s_population": 0.2}
    stuck = {"converged": False, "ess_per_s_population": 9.0, "rhat_population": 1.5}
    still = {"converged": False, "rhat_population": 1.2}
    assert sorted([slow, stuck, quick, still], key=rank) == [stuck, still, slow, quick]


def test_the_best_settings_come_from_the_last_case_that_was_run(benchmark_file):
    sampling = benchmark_file("sampling")

    def row(mass, converged, ess):
        settings = {"parametrisation": "centred", "mass": mass}
        return {"peer": "numpyro", "settings": settings, "converged": converged, "ess_per_s_population": ess}

    mine = {"peer": "reinfuse", "converged": True, "ess_per_s_population": 50.0}
    record = {"a": {"rows": [row("dense", True, 9.0)]}, "b": {"rows": [mine, row("diagonal", True, 1.0)]}}
    record["b"]["rows"].append(row("population", False, 3.0) | {"rhat_population": 1.1})
    assert sampling.best(record, ("a", "b", "c")).mass == "diagonal"
    assert sampling.best(record, ("a",)).mass == "dense"
    assert sampling.best(record, ()) is None


def test_a_run_that_did_not_converge_meets_no_target(benchmark_file):
    page = benchmark_file("inference_page")
    mine = {"method": "reinfuse", "peer": "reinfuse", "converged": True, "ess_per_s_population": 100.0}
    theirs = {"method": "numpyro NUTS, centred", "peer": "numpyro", "ess_per_s_population": 1.0, "rhat_all": 1.3}
    theirs |= {"rhat_population": 1.3, "agreement": {"agree": True}}

    def said(converged, agree):
        rows = [mine, theirs | {"converged": converged, "agreement": {"agree": agree}}]
        return page.target({"12": {"title": "twelve", "rows": rows}}).splitlines()[-1]

    assert "| 100× | yes |" in said(True, True)
    assert "did not converge" in said(False, True)
    assert "disagree" in said(True, False)


@pytest.mark.slow
def test_densities_agree_with_numpyro_and_diffrax():
    if not PEERS.exists():
        pytest.skip("no .venv-bench beside this checkout: numpyro and diffrax are not installed (make bench makes it)")
    missing = subprocess.run([PEERS, "-c", "import numpyro, diffrax"], capture_output=True, text=True)
    if missing.returncode:
        pytest.skip(f".venv-bench lacks a peer: {missing.stderr.strip().splitlines()[-1]}")
    command = [PEERS, str(BENCHMARKS / "bench_inference.py"), "--quick", "--densities"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("gradient_differs_by") == 2
