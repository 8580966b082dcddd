import numpy as np
import pandas as pd
import pytest
import xarray as xr

from reinfuse.fits.retreatment.mechanisms import BETTER
from reinfuse.fits.retreatment.virtual_patients import BOUNDS, FROM_PRIOR, OCCASIONS, from_prior, from_run
from reinfuse.fits.run import RunFolder, provenance
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import PRODUCT_EFFECTS, REAL_COHORT, REFERENCE
from reinfuse.model.products import product

PRODUCTS = [product("ide-cel"), product("cilta-cel")]


def prior(n_draws=400, **more):
    return from_prior(rng=np.random.default_rng(0), products=PRODUCTS, n_draws=n_draws, **more)


def test_patients_go_round_the_draws():
    virtual = prior(n_draws=7).sample(20, np.random.default_rng(1), first=5)
    assert virtual.draw.tolist() == [(5 + i) % 7 for i in range(20)]
    assert virtual.occasion.shape == (20, OCCASIONS)


def test_the_prior_is_the_table():
    virtual = prior(options="reference").sample(40_000, np.random.default_rng(1))
    for name in ("rho", "KE", "Q0"):
        row = REFERENCE[name]
        assert np.median(virtual.parameters[name]) == pytest.approx(row.median, rel=0.25 * max(row.log_sd, 0.1))
    # spread of ln(rho): prior sd of the median and spread between patients, independent
    row = REFERENCE["rho"]
    assert np.log(virtual.parameters["rho"]).std() == pytest.approx(np.hypot(row.log_sd, row.iiv), rel=0.1)
    # without a spread in the table, all patients of a draw share the number
    for draw in range(3):
        assert np.unique(virtual.parameters["sline"][virtual.draw == draw]).size == 1


def test_residual_errors_are_no_property_of_a_patient():
    assert not [name for name in prior().rows if name.startswith("sigma_")]


def test_bounds_hold_and_are_counted():
    virtual = prior(options="real").sample(20_000, np.random.default_rng(1))
    low, high = BOUNDS["B0"]
    assert virtual.parameters["B0"].min() >= low
    assert virtual.parameters["B0"].max() == high
    assert 0 < virtual.clipped < 20_000


def test_prior_products_spread_around_their_numbers_and_the_reference_stays():
    reference = prior(options="reference").fields
    assert not [key for key in reference if key[0] == "ide-cel"]
    assert np.median(reference["cilta-cel", "f0"]) == pytest.approx(1.40, rel=0.05)
    assert np.log(reference["cilta-cel", "h"]).std() == pytest.approx(0.3, rel=0.1)
    real = prior(options="real").fields
    effect = PRODUCT_EFFECTS["tg:cilta-cel"]
    assert np.median(real["cilta-cel", "gp"]) == pytest.approx(np.exp(effect.mean), rel=0.1)


def test_a_variant_is_held():
    population = prior(variant="no-exhaustion")
    virtual = population.sample(5, np.random.default_rng(1))
    assert (virtual.parameters["kX"] == 0).all()
    assert (virtual.fields["ide-cel", "fX0"] == 0).all()
    with pytest.raises(KeyError):
        prior(variant="no-such")


def test_the_same_generator_gives_the_same_patients():
    first, second = (prior().sample(50, np.random.default_rng(3)) for _ in range(2))
    for name, values in first.parameters.items():
        np.testing.assert_array_equal(values, second.parameters[name])


# ------------------------------------------------------------------------------------------- from a run


def write_run(path, *, twice=False, posterior=True, occasion=False, variant="no-exhaustion"):
    """Write a run of 2 chains x 5 draws that estimated rho (a random effect too), k, and product effects."""
    run = RunFolder.create(path)
    infusions = [("P1", 0, 1), ("P1", 300, 1)] if twice else [("P1", 0, 1), ("P2", 0, 1)]
    rows = [{"ID": i, "TIME": t, "EVID": e, "PRODUCT": "ide-cel"} for i, t, e in infusions]
    digest = run.write_cohort(pd.DataFrame(rows))
    run.write_provenance(
        provenance(
            seed=1,
            cohort_sha256=digest,
            sampler="none (test)",
            model="bcma",
            options="real",
            variant=variant,
            status="done",
            command=["reinfuse", "fit"],
        )
    )
    if not posterior:
        return RunFolder.open(path)
    rng = np.random.default_rng(5)
    population = np.exp(np.log([1.3, 0.9]) + 0.1 * rng.standard_normal((2, 5, 2)))
    variables = {
        "population": (("chain", "draw", "parameter"), population),
        "omega": (("chain", "draw", "effect"), np.full((2, 5, 1), 0.2)),
        "product_effect": (
            ("chain", "draw", "contrast"),
            np.tile(np.log([1.1, 2.0, 0.5]), (2, 5, 1)),
        ),
        "individual": (("chain", "draw", "patient", "effect"), np.ones((2, 5, 2, 1))),
    }
    if occasion:
        variables["omega_occasion"] = (("chain", "draw"), np.full((2, 5), 0.7))
    coords = {
        "parameter": ["rho", "k"],
        "effect": ["rho"],
        "contrast": ["rho:cilta-cel", "tg:cilta-cel", "B0:cilta-cel"],
    }
    observed = {
        name: ("observation", np.zeros(1, dtype=kind))
        for name, kind in (
            ("patient", "U2"),
            ("time", float),
            ("dvid", "U2"),
            ("value", float),
            ("cens", int),
            ("product", "U2"),
        )
    }
    groups = {
        "/posterior": xr.Dataset(variables, coords=coords),
        "/sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((2, 5), dtype=bool))}),
        "/observed_data": xr.Dataset(observed),
    }
    run.write_posterior(xr.DataTree.from_dict(groups))
    return RunFolder.open(path)


def read(run, n_draws=100):
    return from_run(run, rng=np.random.default_rng(0), products=PRODUCTS, n_draws=n_draws)


def test_what_the_fit_estimated_comes_from_the_posterior(tmp_path):
    run = write_run(tmp_path / "run")
    population = read(run)
    assert (population.n_draws, population.options, population.variant.name) == (10, "real", "no-exhaustion")
    posterior = run.posterior()["posterior"]["population"].to_numpy().reshape(10, 2)
    virtual = population.sample(10_000, np.random.default_rng(1))
    # k has no random effect: every patient of a draw has the draw's median
    np.testing.assert_allclose(virtual.parameters["k"], posterior[virtual.draw, 1])
    rho = np.log(virtual.parameters["rho"] / posterior[virtual.draw, 0])
    assert (rho.mean(), rho.std()) == (pytest.approx(0, abs=0.01), pytest.approx(0.2, rel=0.03))


def test_constants_of_the_fit_stay_and_the_rest_comes_from_the_prior(tmp_path):
    population = read(write_run(tmp_path / "run"))
    virtual = population.sample(200, np.random.default_rng(1))
    for name in ("KC", "eta", "w", "KE"):
        np.testing.assert_allclose(virtual.parameters[name], REAL_COHORT[name].median)
    for name in ("sline", "sres", "Q0", "P0"):
        assert np.unique(virtual.parameters[name]).size > 5
    assert {"sline", "P0"} <= population.prior_only <= set(FROM_PRIOR)
    assert not {"rho", "k", "KC"} & population.prior_only
    assert (virtual.parameters["kX"] == 0).all()


def test_a_fitted_product_effect_replaces_the_products_number(tmp_path):
    fields = read(write_run(tmp_path / "run")).fields
    np.testing.assert_allclose(fields["cilta-cel", "f0"], 1.1)
    np.testing.assert_allclose(fields["cilta-cel", "gp"], 2.0)
    # the difference in burden belongs to the patients; the other fields keep the fit's constants
    assert {field for name, field in fields if name == "cilta-cel"} == {"f0", "gp", "fX0"}


def test_draws_are_thinned_evenly(tmp_path):
    run = write_run(tmp_path / "run")
    posterior = run.posterior()["posterior"]["population"].to_numpy().reshape(10, 2)
    virtual = read(run, n_draws=4).sample(4, np.random.default_rng(1))
    np.testing.assert_allclose(virtual.parameters["k"], posterior[[0, 3, 6, 9], 1])


@pytest.mark.parametrize("twice", [False, True])
def test_it_is_known_whether_the_data_have_second_infusions(tmp_path, twice):
    assert read(write_run(tmp_path / "run", twice=twice)).second_infusions is twice


def test_fitted_occasion_noise_is_used(tmp_path):
    virtual = read(write_run(tmp_path / "run", occasion=True)).sample(5000, np.random.default_rng(1))
    assert virtual.occasion.std() == pytest.approx(0.7, rel=0.05)


def test_a_run_without_posterior_is_refused(tmp_path):
    with pytest.raises(ReinfuseError, match=r"posterior\.nc"):
        read(write_run(tmp_path / "run", posterior=False))


def test_what_patients_lack_is_held_off_or_the_same_in_all_of_them(tmp_path):
    priors = prior(n_draws=7)
    assert priors.lacking == ()
    assert [each.key for each in priors.typical.lacking] == ["resistance", "short_persistence"]
    run = from_run(write_run(tmp_path), rng=np.random.default_rng(1), products=[product("ide-cel")])
    assert [each.key for each in run.lacking] == ["exhaustion", "resistance", "short_persistence"]


def test_patients_stand_beside_the_favourable_of_their_own_draw():
    priors = prior(n_draws=7)
    patients = priors.sample(500, np.random.default_rng(0))
    assert set(patients.favourable) == set(BETTER)
    for name, values in patients.favourable.items():
        np.testing.assert_array_equal(values, priors.favourable[name][patients.draw])
    some = patients.subset(np.array([7, 3]))
    assert some.favourable["KE"].tolist() == patients.favourable["KE"][[7, 3]].tolist()
