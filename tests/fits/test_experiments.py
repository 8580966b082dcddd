"""Arms on the same patients, against closed forms; Sobol's indices of a product of parameters."""

import numpy as np
import pytest

from reinfuse.fits.experiments import compare_arms, fitted_patients, sobol
from reinfuse.model.errors import ReinfuseError

from ..model import own_models
from .test_own_model import pk_run  # noqa: F401  (a fixture)

TIMES = np.linspace(0.0, 200.0, 2001)
ARMS = {"one": [(0, 100.0)], "two": [(0, 100.0), (24, 100.0)], "same": [(0, 100.0)]}


def area(simulated):
    """Area under the curve: amount over clearance, whatever ka and V."""
    return simulated["conc"].integrate("time")


@pytest.fixture(scope="module")
def patients():
    return own_models.pk().patients(n=60, rng=np.random.default_rng(4))


@pytest.fixture(scope="module")
def found(patients):
    """The arms, compared."""
    return compare_arms(own_models.pk(), arms=ARMS, times=TIMES, outcome=area, parameters=patients)


class TestArms:
    def test_differences_are_those_of_the_closed_form(self, found, patients):
        own = 100.0 / patients["CL"]
        np.testing.assert_allclose(found["outcome"].sel(arm="one"), own, rtol=5e-3)
        wanted = found["outcome"].sel(arm="two") - found["outcome"].sel(arm="one")
        assert found["difference"].sel(arm="two") == pytest.approx(wanted.mean().item(), rel=1e-12)
        assert found["difference"].sel(arm="two") == pytest.approx(own.mean(), rel=5e-3)
        assert found["mc_error"].sel(arm="two") == pytest.approx(wanted.std(ddof=1).item() / np.sqrt(60), rel=1e-9)

    def test_patients_are_paired(self, found):
        assert found["difference"].sel(arm="same") == 0.0
        assert found["mc_error"].sel(arm="same") == 0.0
        assert found["benefit"].sel(arm="same") == 0.0
        assert found["benefit"].sel(arm="two") == 1.0
        assert 0.9 < found["benefit_lower"].sel(arm="two") < 1.0
        assert np.isnan(found["benefit"].sel(arm="one"))

    def test_less_may_be_better(self, patients):
        found = compare_arms(
            own_models.pk(), arms=ARMS, times=TIMES, outcome=area, parameters=patients, larger_is_better=False
        )
        assert found["benefit"].sel(arm="two") == 0.0

    def test_patients_of_one_draw_are_one_cluster(self, patients):
        """Ten copies of each patient say no more than one."""
        many = {name: np.repeat(values[:20], 10) for name, values in patients.items()}
        twenty = {name: values[:20] for name, values in patients.items()}
        draw = np.repeat(np.arange(20), 10)
        arguments = {"arms": ARMS, "times": TIMES, "outcome": area}
        copies = compare_arms(own_models.pk(), parameters=many, draw=draw, **arguments)
        alone = compare_arms(own_models.pk(), parameters=twenty, **arguments)
        np.testing.assert_allclose(copies["mc_error"], alone["mc_error"], rtol=1e-9)

    def test_what_makes_no_sense_is_refused(self, patients):
        with pytest.raises(ReinfuseError, match="no arms"):
            compare_arms(own_models.pk(), arms={}, times=TIMES, outcome=area, parameters=patients)
        with pytest.raises(ReinfuseError, match=r"shape \(\); return one number for each of 60"):
            compare_arms(own_models.pk(), arms=ARMS, times=TIMES, outcome=lambda s: 1.0, parameters=patients)


class TestFittedPatients:
    def test_new_ones_follow_the_posterior(self, pk_run):  # noqa: F811
        drawn, draw = fitted_patients(pk_run, own_models.pk(), n=100, rng=np.random.default_rng(1))
        assert set(drawn) == set(own_models.pk().table)
        assert draw.shape == (100,)
        assert len(np.unique(draw)) == 40  # all there are
        assert (np.unique(draw, return_counts=True)[1] >= 2).all()
        assert np.unique(drawn["sigma"]).size <= 40 < np.unique(drawn["CL"]).size

    def test_the_patients_of_the_data_keep_their_parameters_together(self, pk_run):  # noqa: F811
        drawn, draw = fitted_patients(pk_run, own_models.pk(), n=30, rng=np.random.default_rng(1), new=False)
        posterior = pk_run.posterior()["posterior"].to_dataset()
        own = posterior["individual"].stack(sample=("chain", "draw"))
        own = own.transpose("sample", "patient", "effect").to_numpy()
        for i in range(30):
            row = np.array([drawn[name][i] for name in posterior["effect"].values])
            assert (own[draw[i]] == row).all(axis=1).any()

    def test_another_model_is_refused(self, pk_run):  # noqa: F811
        with pytest.raises(ReinfuseError, match="is a fit of 'oral-pk'"):
            fitted_patients(pk_run, own_models.lv(), n=3, rng=np.random.default_rng(1))


class TestSobol:
    def test_of_a_product_the_shares_are_those_of_the_variances(self):
        """ln(area) is ln(dose) - ln(CL): clearance explains everything."""
        found = sobol(
            own_models.pk(),
            outcome=lambda s: np.log(area(s)),
            times=np.linspace(0.0, 600.0, 6001),
            doses=[(0, 100.0)],
            samples=64,
            rng=np.random.default_rng(1),
        )
        assert found["total"].sel(parameter="CL") == pytest.approx(1.0, abs=0.05)
        assert found["first"].sel(parameter="CL") == pytest.approx(1.0, abs=0.05)
        assert found["total"].sel(parameter="ka") < 0.01
        assert found["total"].sel(parameter="sigma") == 0.0

    def test_between_patients_only_those_that_vary_are_asked(self):
        found = sobol(
            own_models.pk(), outcome=area, times=TIMES, doses=[(0, 1.0)], samples=16, prior=False,
            rng=np.random.default_rng(1),
        )  # fmt: skip
        assert found["parameter"].values.tolist() == ["ka", "CL", "V"]

    def test_a_number_of_samples_that_is_no_power_of_2_is_refused(self):
        with pytest.raises(ReinfuseError, match="samples is 100"):
            sobol(own_models.pk(), outcome=area, times=TIMES, samples=100, rng=np.random.default_rng(1))
