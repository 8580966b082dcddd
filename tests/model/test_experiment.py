"""Models of one's own against closed forms: simulation, log-likelihood, gradients, sensitivities."""

import numpy as np
import pytest
from scipy.stats import t as student

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.simulate import Status

from . import own_models
from .own_models import bateman

TIMES = np.linspace(0.0, 48.0, 49)
PK = {"ka": 0.9, "CL": 3.0, "V": 25.0}


def simulated(doses, **changes):
    return own_models.pk().simulate(times=TIMES, doses=doses, parameters=PK | changes)


class TestSimulation:
    def test_an_oral_dose_follows_batemans_function(self):
        found = simulated([(0, 100.0)])
        np.testing.assert_allclose(found["conc"], bateman(TIMES, 100.0, **PK), atol=1e-7)
        np.testing.assert_allclose(found["depot"], 100.0 * np.exp(-PK["ka"] * TIMES), atol=1e-5)

    def test_doses_superpose(self):
        doses = [(0, 100.0), (7.5, 50.0), (24, 100.0), (31, 20.0)]
        wanted = sum(bateman(TIMES - time, amount, **PK) for time, amount in doses)
        np.testing.assert_allclose(simulated(doses)["conc"], wanted, atol=1e-7)

    def test_the_order_in_which_doses_are_named_does_not_matter(self):
        doses = [(24, 100.0), (0, 100.0), (7.5, 50.0)]
        np.testing.assert_array_equal(simulated(doses)["conc"], simulated(sorted(doses))["conc"])

    def test_the_row_at_a_dose_is_after_it(self):
        assert simulated([(0, 100.0)])["depot"][0] == 100.0

    def test_a_split_dose_is_the_whole_dose(self):
        whole, split = simulated([(6, 100.0)]), simulated([(6, 60.0), (6, 40.0)])
        np.testing.assert_allclose(split["conc"], whole["conc"], rtol=0, atol=1e-12)

    def test_a_dose_of_nothing_is_none(self):
        one = simulated([(0, 100.0)])
        np.testing.assert_allclose(simulated([(0, 100.0), (12, 0.0)])["conc"], one["conc"], atol=1e-7)
        assert not simulated([(0, 0.0)])["conc"].any()
        assert not simulated([])["conc"].any()

    def test_doses_and_times_shift_together(self):
        early, late = simulated([(0, 100.0), (12, 50.0)]), simulated([(5, 100.0), (17, 50.0)])
        np.testing.assert_allclose(late["conc"][5:], early["conc"][:-5], atol=1e-7)

    def test_the_cycle_of_prey_and_predators_keeps_its_invariant(self):
        model, p = own_models.lv(), {"alpha": 0.6, "beta": 0.03, "gamma": 0.8, "delta": 0.8}
        found = model.simulate(times=np.linspace(0, 60, 200), parameters=p, tolerance=1e-10)
        prey, predators = found["prey"].to_numpy(), found["predators"].to_numpy()
        conversion = p["delta"] * p["beta"]
        kept = conversion * prey - p["gamma"] * np.log(prey) + p["beta"] * predators - p["alpha"] * np.log(predators)
        np.testing.assert_allclose(kept, kept[0], rtol=1e-7)
        assert prey.max() > 2 * prey.min()

    def test_patients_are_simulated_together_and_each_for_itself(self):
        model = own_models.pk()
        ka, amount, second = np.array([0.5, 1.5, 3.0]), np.array([50.0, 100.0, 0.0]), np.array([24.0, np.inf, 30.0])
        many = model.simulate(times=TIMES, doses=[(0, amount), (second, 70.0)], parameters={**PK, "ka": ka})
        assert dict(many.sizes) == {"patient": 3, "time": 49}
        assert (many["status"] == Status.SOLVED).all()
        for i in range(3):
            doses = [(0, amount[i])] + ([(second[i], 70.0)] if np.isfinite(second[i]) else [])
            wanted = sum(bateman(TIMES - t, a, **PK | {"ka": ka[i]}) for t, a in doses)
            np.testing.assert_allclose(many["conc"][i], wanted, atol=1e-7)

    def test_units_stand_beside_the_numbers(self):
        found = simulated([(0, 100.0)])
        assert found["conc"].attrs["units"] == "mg/L"
        assert found["time"].attrs["units"] == "h"

    def test_equal_doses_share_a_kernel(self):
        """A hundred doses of one amount need no more of the kernel than one."""
        doses = [(float(t), 10.0) for t in range(40)]
        model = own_models.pk()
        before = set(model._kernels)
        found = model.simulate(times=TIMES, doses=doses, parameters=PK)
        assert set(model._kernels) <= before | {(1, False)}
        np.testing.assert_allclose(found["conc"], sum(bateman(TIMES - t, a, **PK) for t, a in doses), atol=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"parameters": {"kA": 1.0}}, "no parameter 'kA'; did you mean 'ka'"),
            ({"parameters": {"ka": -1.0}}, "'ka' is -1"),
            ({"parameters": {"ka": [1.0, 2.0], "CL": [1.0, 2.0, 3.0]}}, "lengths differ"),
            ({"times": [3.0, 1.0]}, "rising, from 0"),
            ({"times": [-1.0, 1.0]}, "rising, from 0"),
            ({"doses": [(-1.0, 100.0)]}, "dose 1 is at -1; give a time from 0 up"),
            ({"doses": [(0.0, float("nan"))]}, "dose 1 has amount nan"),
            ({"doses": [100.0]}, r"give \(time, amount\)"),
            ({"tolerance": 1.0}, "tolerance is 1.0"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments, said):
        with pytest.raises(ReinfuseError, match=said):
            own_models.pk().simulate(**({"times": TIMES} | arguments))

    def test_a_model_without_a_dose_effect_takes_none(self):
        from .test_define import made

        with pytest.raises(ReinfuseError, match="takes no doses"):
            made().simulate(times=[1.0], doses=[(0, 1.0)])
        assert made().simulate(times=[2.0])["x"].item() == pytest.approx(np.exp(-1.0), rel=1e-7)


def rows(**changes):
    """Two patients: doses, quantified values, and values below and above a limit."""
    table = {
        "ID": ["a", "a", "a", "a", "a", "a", "b", "b", "b", "b"],
        "TIME": [0.0, 1.0, 12.0, 13.0, 40.0, 47.0, 2.0, 4.0, 4.0, 30.0],
        "EVID": [1, 0, 1, 0, 0, 0, 1, 0, 1, 0],
        "AMT": [100.0, np.nan, 50.0, np.nan, np.nan, np.nan, 80.0, np.nan, 80.0, np.nan],
        "DV": [np.nan, 1.7, np.nan, 3.0, 0.2, 0.2, np.nan, 2.9, np.nan, 0.9],
        "CENS": [0, 0, 0, 0, 1, 1, 0, -1, 0, 0],
    }
    return table | changes


class TestLogLikelihood:
    def test_it_is_that_of_residuals_by_students_t(self):
        found = own_models.pk().log_likelihood(data=rows(), parameters=PK | {"sigma": 0.3})
        a = [bateman(t, 100.0, **PK) + bateman(t - 12, 50.0, **PK) for t in (1.0, 13.0, 40.0, 47.0)]
        b = [bateman(2.0, 80.0, **PK) + 80.0 * 0, bateman(28.0, 80.0, **PK) + bateman(26.0, 80.0, **PK)]
        z = [np.log(v / m) / 0.3 for v, m in zip([1.7, 3.0, 0.2, 0.2, 2.9, 0.9], [*a, *b], strict=True)]
        quantified = [student.logpdf(x, 4) - np.log(0.3) for x in (z[0], z[1], z[5])]
        wanted_a = quantified[0] + quantified[1] + student.logcdf(z[2], 4) + student.logcdf(z[3], 4)
        wanted_b = student.logsf(z[4], 4) + quantified[2]
        np.testing.assert_allclose(found["log_likelihood"], [wanted_a, wanted_b], atol=1e-5)
        assert found["patient"].values.tolist() == ["a", "b"]

    def test_absolute_errors_are_compared_as_they_are(self):
        model = own_models.decay()
        table = {"ID": [1, 1], "TIME": [1.0, 3.0], "DV": [0.4, -0.7]}
        mean = -1.0 + 3.0 * np.exp(-0.5 * np.array(table["TIME"]))
        wanted = student.logpdf((np.array(table["DV"]) - mean) / 0.3, 4).sum() - 2 * np.log(0.3)
        found = model.log_likelihood(data=table)["log_likelihood"].item()
        assert found == pytest.approx(wanted, abs=1e-6)

    @pytest.mark.parametrize("name", ["ka", "CL", "V", "sigma"])
    def test_gradient_across_doses_and_censoring(self, name):
        model, at = own_models.pk(), PK | {"sigma": 0.3}

        def value(x):
            return model.log_likelihood(data=rows(), parameters=at | {name: x}, tolerance=1e-12)["log_likelihood"]

        h = 1e-3 * at[name]
        x = at[name]
        wanted = (8 * (value(x + h) - value(x - h)) - (value(x + 2 * h) - value(x - 2 * h))) / (12 * h)
        found = model.log_likelihood(data=rows(), parameters=at, tolerance=1e-12)["gradient"].sel(parameter=name)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)

    def test_gradient_of_logit_and_identity_parameters_and_of_absolute_errors(self):
        model, at = own_models.decay(), {"k": 0.4, "level": -0.5, "share": 0.3, "sigma": 0.4}
        table = {
            "ID": [1] * 4,
            "TIME": [0.5, 1.0, 2.0, 6.0],
            "EVID": [0, 1, 0, 0],
            "AMT": [0, 3.0, 0, 0],
            "DV": [1.0, 0, 0.4, -0.4],
            "CENS": [0, 0, 0, 1],
        }
        found = model.log_likelihood(data=table, parameters=at, tolerance=1e-12)["gradient"][0]
        for k, (name, x) in enumerate(at.items()):
            h = 1e-3 * abs(x)
            f = [
                model.log_likelihood(data=table, parameters=at | {name: x + s * h}, tolerance=1e-12)["log_likelihood"]
                for s in (1, -1, 2, -2)
            ]
            wanted = (8 * (f[0] - f[1]) - (f[2] - f[3])) / (12 * h)
            np.testing.assert_allclose(found[k], wanted.item(), rtol=1e-5, atol=1e-7)

    def test_a_sample_before_the_first_dose_below_the_limit_says_nothing(self):
        before = {"ID": [1, 1], "TIME": [0.0, 1.0], "EVID": [0, 1], "AMT": [0, 100.0], "DV": [0.1, 0], "CENS": [1, 0]}
        found = own_models.pk().log_likelihood(data=before)
        assert found["log_likelihood"].item() == pytest.approx(0.0, abs=1e-6)
        assert (found["status"] == Status.SOLVED).all()
        assert np.abs(found["gradient"]).max() < 1e-6

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"DVID": ["x"] * 10}, "DVID is 'x'; model 'oral-pk' has the observables conc"),
            ({"DV": [0.0] * 10}, r"DV of conc is 0 in row 2; give a value above 0"),
            ({"TIME": [-1.0] * 10}, "TIME is -1 in row 1"),
            ({"AMT": [np.nan] * 10}, "a dose at TIME 0 has no AMT"),
        ],
    )
    def test_data_that_make_no_sense_are_refused(self, changes, said):
        with pytest.raises(ReinfuseError, match=said):
            own_models.pk().log_likelihood(data=rows(**changes))

    def test_a_missing_column_is_named(self):
        table = {name: column for name, column in rows().items() if name != "DV"}
        with pytest.raises(ReinfuseError, match="no column DV"):
            own_models.pk().log_likelihood(data=table)


class TestSensitivity:
    DOSES = ((0.0, 100.0), (24.0, 60.0))

    def test_values_are_those_of_a_simulation(self):
        found = own_models.pk().sensitivity(times=[1.0, 24.0, 30.0], doses=self.DOSES, parameters=PK)
        plain = own_models.pk().simulate(times=[1.0, 24.0, 30.0], doses=self.DOSES, parameters=PK)
        for name in ("depot", "central", "conc"):
            np.testing.assert_allclose(found["value"].sel(output=name), plain[name], rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("name", ["ka", "CL", "V"])
    def test_derivatives_are_those_of_the_closed_form(self, name):
        t, h = np.array([0.5, 6.0, 24.5, 47.0]), 1e-4 * PK[name]

        def conc(x):
            return sum(bateman(t - time, amount, **PK | {name: x}) for time, amount in self.DOSES)

        x = PK[name]
        wanted = (8 * (conc(x + h) - conc(x - h)) - (conc(x + 2 * h) - conc(x - 2 * h))) / (12 * h)
        found = own_models.pk().sensitivity(times=t, doses=self.DOSES, parameters=PK, tolerance=1e-12)
        at = found.sel(output="conc", parameter=name)
        np.testing.assert_allclose(at["derivative"], wanted, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(at["elasticity"], wanted * x / conc(x), rtol=1e-6, atol=1e-8)

    def test_parameters_without_a_say_have_a_derivative_of_0(self):
        found = own_models.pk().sensitivity(times=[5.0], doses=self.DOSES, parameters=PK)
        assert not found["derivative"].sel(parameter="sigma").any()
        assert not found["derivative"].sel(output="depot", parameter="V").any()

    def test_logarithmic_states(self):
        model = own_models.lv()
        found = model.sensitivity(times=[0.0, 7.0], doses=[(3.0, 2.0)], tolerance=1e-11)
        assert found["derivative"].sel(output="prey", time=0.0, parameter="N0") == pytest.approx(1.0)
        beta = 0.03 + 1e-5 * np.array([1.0, -1.0])
        both = model.simulate(times=[7.0], doses=[(3.0, 2.0)], parameters={"beta": beta}, tolerance=1e-12)["lynxes"]
        wanted = (both[0] - both[1]).item() / 2e-5
        assert found["derivative"].sel(output="lynxes", time=7.0, parameter="beta") == pytest.approx(wanted, rel=1e-5)

    def test_only_of_one_patient(self):
        with pytest.raises(ReinfuseError, match="of one patient"):
            own_models.pk().sensitivity(times=[1.0], parameters={"ka": [1.0, 2.0]})


class TestPatients:
    def test_they_are_spread_as_the_table_says(self):
        drawn = own_models.pk().patients(n=20_000, rng=np.random.default_rng(1))
        assert np.median(drawn["CL"]) == pytest.approx(4.0, rel=0.02)
        assert np.log(drawn["CL"]).std() == pytest.approx(0.3, rel=0.03)
        assert (drawn["sigma"] == drawn["sigma"][0]).all()

    def test_with_the_prior_of_the_population(self):
        drawn = own_models.decay().patients(n=20_000, rng=np.random.default_rng(1), prior=True)
        assert np.log(drawn["k"]).std() == pytest.approx(np.hypot(0.5, 0.2), rel=0.03)
        assert drawn["level"].std() == pytest.approx(1.0, rel=0.03)
        assert ((drawn["share"] > 0) & (drawn["share"] < 1)).all()

    def test_nobody_is_refused(self):
        with pytest.raises(ReinfuseError, match="n is 0"):
            own_models.pk().patients(n=0, rng=np.random.default_rng(1))
