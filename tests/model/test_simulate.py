"""One virtual patient and populations: against the twin, closed forms, and changes that must not matter."""

import time
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import table
from reinfuse.model.products import product
from reinfuse.model.simulate import Status, simulate, simulate_population

from . import twin

IDE = Infusion(product="ide-cel")
EARLY = (0.0, 0.5, 1.0, 3.0, 5.0, 7.0, 9.5, 10.0, 12.0, 20.0, 60.0, 150.0, 225.0, 259.9)
LATE = (260.0, 260.5, 263.0, 267.0, 270.0, 275.0, 290.0, 330.0, 450.0, 600.0)
TIMES = np.array([*EARLY, *LATE])


def cilta(**changes) -> Infusion:
    return Infusion(**{"product": "cilta-cel", "day": 260.0, **changes})


def draws(n: int = 24) -> dict[str, np.ndarray]:
    """Parameters of `n` different patients."""
    rng = np.random.default_rng(1)
    medians = {"rho": 1.17, "tg": 9.0, "KE": 220.0, "B0": 1e11, "dM": 0.012, "k": 0.8}
    return {name: value * np.exp(0.3 * rng.normal(size=n)) for name, value in medians.items()}


def population(course=(IDE,), *, parameters=None, **settings) -> xr.Dataset:
    return simulate_population(course=course, times=TIMES, parameters=parameters or draws(), **settings)


def same_bits(one: xr.Dataset, other: xr.Dataset) -> None:
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=str(name))


class TestAgainstTheTwin:
    """The same text on floats with SciPy's DOP853 at 1e-10."""

    @pytest.mark.parametrize("options", ["reference", "real"])
    @pytest.mark.parametrize(
        "second",
        [
            {"bridging": 0.3, "lymphodepletion": 0.8},
            {"product": "ide-cel", "apheresis_day": 0.0, "dose": 9e8},
        ],
        ids=["cilta-cel", "banked ide-cel"],
    )
    def test_two_infusions(self, options, second):
        course, changed = [IDE, cilta(**second)], {"kX": 0.06, "B0": 2e11}
        wanted = twin.simulate(course=course, times=TIMES, options=options, parameters=changed)
        found = simulate(course=course, until=600.0, times=TIMES, options=options, parameters=changed, tolerance=1e-10)
        wanted["cumhaz"] = wanted.pop("H")
        compared = set(wanted) - {"on1", "on2"}
        assert compared == set(found)
        for name in compared:
            values = found[name].to_numpy()
            given = ~np.isnan(values)
            assert np.array_equal(given, TIMES >= 260.0) if name in ("E2", "M2", "X2") else given.all()
            size = np.abs(wanted[name]).max()
            np.testing.assert_allclose(values[given], wanted[name][given], rtol=1e-6, atol=1e-12 * size, err_msg=name)

    def test_the_default_tolerance_is_good_to_six_digits(self):
        course = [IDE, cilta()]
        wanted = twin.simulate(course=course, times=TIMES)
        found = simulate(course=course, until=600.0, times=TIMES)
        for name in ("E1", "X1", "Ts", "Tr", "P", "S", "cart"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, err_msg=name)


class TestClosedForms:
    def test_the_limit_of_stein(self):
        """Antigen constant, a step for a gate, no capacity: growth until tg, then a biexponential decline."""
        p = {"KA": 1e10, "r": 0.0, "k": 0.0, "hg": 3000.0, "psi": 0.0, "KC": 1e30, "bR": 0.0}
        p |= dict.fromkeys(("kX", "eta", "rM", "alA", "rX", "fXQ", "fX0_1"), 0.0)
        rho, tg, alpha, eps, beta, q0 = 1.17, 9.0, 0.16, 0.02, 0.012, 0.55
        t = np.array([0.0, 1.0, 4.0, 8.0, 8.9, 9.1, 12.0, 20.0, 40.0, 90.0, 200.0, 365.0])
        found = simulate(course=[IDE], until=365.0, times=t, parameters=p, tolerance=1e-10)
        antigen = 1e11 * (1 - 1e-10 - 2e-11)
        a = antigen / (1e10 + antigen)
        forming, loss = eps * (1 - a), alpha + eps * (1 - a)
        growth = rho * a - loss
        cells = 4.5e8 * 0.3 / 2.5e8
        e0, m0 = cells * (1 - 0.1 * (1 - q0)), cells * 0.1 * (1 - q0)

        def memory(m, e, rate, since):  # of M' = forming e exp(rate s) - beta M
            return m * np.exp(-beta * since) + forming * e * (np.exp(rate * since) - np.exp(-beta * since)) / (
                rate + beta
            )

        peak, at_peak = e0 * np.exp(growth * tg), memory(m0, e0, growth, tg)
        up, since = t <= tg, t - tg
        effectors = np.where(up, e0 * np.exp(growth * t), peak * np.exp(-loss * since))
        memories = np.where(up, memory(m0, e0, growth, t), memory(at_peak, peak, -loss, since))
        np.testing.assert_allclose(found["E1"], effectors, rtol=1e-4)
        np.testing.assert_allclose(found["M1"], memories, rtol=1e-4)
        np.testing.assert_allclose(found["cart"], effectors + memories, rtol=1e-4)
        np.testing.assert_allclose(found["Ts"], antigen, rtol=1e-9)

    def test_untreated_myeloma_grows_logistically(self):
        nothing = {"k": 0.0, "u": 0.0, "fr": 1e-30, "dose_1": 0.0}
        t = np.array([0.0, 50.0, 200.0, 1000.0, 2000.0])
        found = simulate(course=[IDE], until=2000.0, times=t, parameters=nothing, tolerance=1e-10)
        b0, kb, r = 1e11, 3e12, 0.013
        np.testing.assert_allclose(found["Ts"], kb / (1 + (kb / b0 - 1) * np.exp(-r * t)), rtol=1e-7)

    def test_biomarkers_rest_where_the_tumour_rests(self):
        still = {"k": 0.0, "r": 0.0, "u": 0.0}
        found = simulate(course=[IDE], until=100.0, parameters=still)
        np.testing.assert_allclose(found["P"], 3.0, rtol=1e-6)
        np.testing.assert_allclose(found["S"], 505.0, rtol=1e-6)


class TestWhatMustNotMatter:
    def test_an_empty_second_infusion(self):
        """No cells, no lymphodepletion, no bridging: only the dysfunction of the T-cell pool jumps."""
        t = np.array([0.0, 5.0, 12.0, 60.0, 200.0, 259.0, 261.0, 280.0, 350.0, 500.0])
        alone = simulate(course=[IDE], until=500.0, times=t, tolerance=1e-10)
        empty = cilta(dose=0.0, lymphodepletion=0.0)
        both = simulate(course=[IDE, empty], until=500.0, times=t, tolerance=1e-10)
        for name in ("E1", "M1", "X1", "Ts", "Tr", "P", "S", "A", "cart", "transgene"):
            np.testing.assert_allclose(both[name], alone[name], rtol=1e-6, err_msg=name)
        assert float(both["cart"][-1] - both["E1"][-1] - both["M1"][-1] - both["X1"][-1]) == pytest.approx(
            0.0, abs=1e-20
        )
        before = t < 260.0
        np.testing.assert_allclose(both["Q"][before], alone["Q"][before], rtol=1e-9)
        assert np.all(both["Q"][~before] > alone["Q"][~before] + 0.05)

    def test_the_day_of_an_infusion_into_a_system_at_rest(self):
        rest = dict.fromkeys(("r", "k", "kQon", "kQoff", "qLD", "kA", "dose_1"), 0.0)
        after = np.array([0.0, 1.0, 3.0, 8.0, 15.0, 30.0, 90.0])
        curves = [
            simulate(
                course=[IDE, cilta(day=day)],
                until=day + 90.0,
                times=day + after,
                parameters=rest,
                tolerance=1e-10,
            )
            for day in (20.0, 100.0, 407.25)
        ]
        for later in curves[1:]:
            for name in ("E2", "M2", "X2", "transgene"):
                np.testing.assert_allclose(later[name], curves[0][name], rtol=1e-7, err_msg=name)

    def test_the_order_of_patients(self):
        days = np.where(np.arange(24) % 3 == 0, np.inf, 200.0 + 5.0 * np.arange(24))
        order = np.random.default_rng(2).permutation(24)
        forth = population([IDE, cilta(day=days)])
        changed = {name: values[order] for name, values in draws().items()}
        back = population([IDE, cilta(day=days[order])], parameters=changed)
        for name in forth:
            np.testing.assert_array_equal(back[name], forth[name][order], err_msg=str(name))

    @pytest.mark.parametrize("chunk", [1, 5, 8, 100])
    def test_the_size_of_chunks(self, chunk):
        same_bits(population([IDE, cilta()], max_chunk=chunk), population([IDE, cilta()]))

    def test_a_patient_alone(self):
        together = population().isel(patient=[7])
        alone = population(parameters={name: values[7] for name, values in draws().items()})
        same_bits(together, alone)

    def test_the_grid_of_times(self):
        coarse = simulate(course=[IDE, cilta()], until=600.0, every=20.0)
        fine = simulate(course=[IDE, cilta()], until=600.0, every=0.5)
        shared = fine.sel(time=coarse["time"])
        assert set(coarse) == set(fine)
        for name in coarse:
            np.testing.assert_allclose(shared[name], coarse[name], rtol=1e-9, atol=0, err_msg=str(name))

    def test_other_times_where_steps_do_not_end_on_them(self):
        other = np.union1d(TIMES, np.arange(0.0, 600.0, 7.3))
        few, many = (
            simulate_population(course=(IDE, cilta()), times=times, parameters=draws(), land=False)
            for times in (TIMES, other)
        )
        same_bits(few, many.sel(time=TIMES))

    def test_the_number_of_slots(self):
        never = [IDE, cilta(day=np.inf)]
        one, two = simulate(course=[IDE], until=300.0), simulate(course=never, until=300.0)
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-7, err_msg=str(name))
        assert np.isnan(two["E2"]).all()

    def test_how_times_and_parameters_are_stored(self):
        grid = np.arange(0.0, 60.0, 0.5)
        grid.setflags(write=False)
        found = simulate(course=[IDE], until=1.0, times=grid[::4], parameters={"rho": np.float32(1.25)})
        wanted = simulate(course=[IDE], until=1.0, times=list(grid[::4]), parameters={"rho": 1.25})
        same_bits(found, wanted)


class TestWhatIsReported:
    @pytest.fixture(scope="class")
    @staticmethod
    def curves():
        return simulate(course=[IDE, cilta(bridging=0.3)], until=400.0, times=TIMES[:-2])

    def test_the_row_at_an_infusion_is_after_it(self, curves):
        cells = 5.5e7 * 0.3 / 2.5e8
        new = sum(float(curves[f"{c}2"].sel(time=260.0)) for c in "EMX")
        assert new == pytest.approx(cells, rel=1e-12)
        assert float(curves["Ts"].sel(time=260.0)) == pytest.approx(0.3 * float(curves["Ts"].sel(time=259.9)), rel=1e-2)
        first = sum(float(curves[f"{c}1"].sel(time=0.0)) for c in "EMX")
        assert first == pytest.approx(4.5e8 * 0.3 / 2.5e8, rel=1e-12)

    def test_a_product_is_missing_before_its_infusion(self, curves):
        for cell in ("E2", "M2", "X2"):
            np.testing.assert_array_equal(np.isnan(curves[cell]), curves["time"] < 260.0)
        for other in set(curves) - {"E2", "M2", "X2"}:
            assert np.isfinite(curves[other]).all(), other

    def test_units(self, curves):
        units = {name: curves[name].attrs["units"] for name in curves}
        assert {units[c] for c in ("E1", "M1", "X1", "E2", "M2", "X2", "cart")} == {"cells/µL"}
        assert {units[c] for c in ("Ts", "Tr")} == {"cells"}
        assert (units["transgene"], units["sbcma"], units["S"]) == ("copies/µg DNA", "ng/mL", "ng/mL")
        assert (units["mprotein"], units["P"], units["Q"]) == ("g/dL", "g/dL", "1")
        assert curves["time"].attrs["units"] == "d"

    def test_assays_of_the_reference_configuration(self, curves):
        cells = [sum(np.nan_to_num(curves[f"{c}{j}"]) for c in "EMX") for j in (1, 2)]
        np.testing.assert_allclose(curves["cart"], cells[0] + cells[1])
        np.testing.assert_allclose(curves["transgene"], 450.0 * cells[0] + 75.0 * cells[1])
        np.testing.assert_array_equal(curves["sbcma"], curves["S"])
        np.testing.assert_array_equal(curves["mprotein"], curves["P"])

    def test_which_products_and_no_failures(self, curves):
        assert curves.attrs["products"] == "ide-cel, cilta-cel"
        assert curves.attrs["failures"] == 0
        assert dict(curves.sizes) == {"time": TIMES.size - 2}

    def test_the_grid_from_until_and_every(self):
        found = simulate(course=[IDE], until=10.0, every=2.5)
        np.testing.assert_allclose(found["time"], [0.0, 2.5, 5.0, 7.5, 10.0])

    def test_the_hazard_of_the_real_configuration(self):
        found = simulate(course=[IDE, cilta()], until=400.0, times=TIMES[:-2], options="real")
        assert found["hazard"].attrs["units"] == "1/d"
        counted = found["cumhaz"].sel(time=slice(10.0, 259.9)).to_numpy()
        assert counted[0] == 0.0
        assert np.all(np.diff(counted) > 0)
        assert float(found["cumhaz"].sel(time=270.0)) == 0.0, "counted anew for the second infusion"

    def test_products_of_ones_own(self):
        mine = replace(product("ide-cel"), name="mine", dose=1e8, f0=1.1)
        found = simulate(course=[Infusion(product=mine)], until=5.0)
        wanted = simulate(course=[IDE], until=5.0, parameters={"dose_1": 1e8, "f0_1": 1.1})
        same_bits(found, wanted)

    def test_patients_differ_by_course(self):
        days = np.array([100.0, np.inf, 200.0])
        found = simulate_population(course=[IDE, cilta(day=days)], times=[0.0, 150.0, 250.0])
        np.testing.assert_array_equal(
            np.isfinite(found["E2"]), [[False, True, True], [False, False, False], [False, False, True]]
        )


class TestFailures:
    EXTREME = (
        ("VT", 1e-300, Status.STEP_TOO_SMALL),
        ("KC", 0.0, Status.STEP_TOO_SMALL),
        ("fr", 2.0, Status.NOT_FINITE),
        ("B0", 0.0, Status.NOT_FINITE),
    )

    @pytest.mark.parametrize(("name", "value", "status"), EXTREME)
    def test_an_extreme_patient_fails_in_bounded_time_and_alone(self, name, value, status):
        medians = {"VT": 2.5e8, "KC": 1e3, "fr": 1e-10, "B0": 1e11}
        mixed, n = np.full(20, medians[name]), 20
        mixed[[2, 13]] = value
        begun = time.monotonic()
        found = simulate_population(course=[IDE], times=TIMES, parameters={name: mixed})
        assert time.monotonic() - begun < 20.0, "generous: kernels may be compiled here"
        good = simulate_population(course=[IDE], times=TIMES)
        failed = np.isin(np.arange(n), [2, 13])
        np.testing.assert_array_equal(found["status"], np.where(failed, status, Status.SOLVED))
        assert found.attrs["failures"] == 2
        assert found.attrs["failure_reasons"] == f"2 x {status.sentence}"
        assert np.isnan(found["Ts"][failed]).all()
        assert np.isnan(found["cart"][failed]).all()
        for i in np.flatnonzero(~failed):
            np.testing.assert_array_equal(found["Ts"][i], good["Ts"][0])

    @pytest.mark.parametrize(("name", "value", "status"), EXTREME)
    def test_a_single_patient_that_fails_is_an_error_with_its_reason(self, name, value, status):
        with pytest.raises(ReinfuseError, match="could not be simulated") as caught:
            simulate(course=[IDE], until=100.0, parameters={name: value})
        assert status.sentence in str(caught.value)

    @pytest.mark.parametrize(("name", "median", "value"), [("rho", 1.17, 1e6), ("kS", 0.55, 1e9)])
    def test_a_stiff_patient_is_solved_implicitly_alone(self, name, median, value):
        mixed = np.full(20, median)
        mixed[[2, 13]] = value
        stiff = np.isin(np.arange(20), [2, 13])
        found = simulate_population(course=[IDE], times=TIMES, parameters={name: mixed})
        good = simulate_population(course=[IDE], times=TIMES)
        np.testing.assert_array_equal(found["status"], np.where(stiff, Status.IMPLICIT, Status.SOLVED))
        assert (found.attrs["failures"], found.attrs["implicit"]) == (0, 2)
        for i in np.flatnonzero(~stiff):
            np.testing.assert_array_equal(found["Ts"][i], good["Ts"][0])
        if name == "kS":  # soluble BCMA then is at its equilibrium with the burden, which nothing else notices
            np.testing.assert_allclose(found["Ts"][2], good["Ts"][0], rtol=1e-5)
            burden = (found["Ts"][2] + 0.1 * found["Tr"][2]).to_numpy()
            rows = table("reference")
            wanted = rows["Sbg"].median + rows["S0"].median * burden / rows["B0"].median
            np.testing.assert_allclose(found["S"][2], wanted, rtol=1e-4)

    def test_wide_draws_of_the_prior_are_solved(self):
        rng = np.random.default_rng(3)
        n = 64
        spread = {"rho": 1.17, "tg": 9.0, "KE": 220.0, "B0": 1e11, "dM": 0.012, "k": 0.8, "KA": 1e9}
        drawn = {name: value * np.exp(0.8 * rng.normal(size=n)) for name, value in spread.items()}
        found = simulate_population(course=[IDE, cilta()], times=TIMES, parameters=drawn)
        assert found.attrs["failures"] == 0


class TestRefusals:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"parameters": {"rhoo": 1.0}}, r"'rhoo'; did you mean .*rho"),
            ({"parameters": {"zzzz": 1.0}}, r"'zzzz'; see `reinfuse models`"),
            ({"parameters": {"lag": 2.0}}, r"unknown parameter 'lag'"),
            ({"parameters": {"f0_2": 2.0}}, r"unknown parameter 'f0_2'"),
            ({"parameters": {"day_1": 2.0}}, r"'day_1' is the day of an infusion; set it in the course"),
            ({"parameters": {"rho": np.nan}}, r"'rho' is nan; give a number from 0 up"),
            ({"parameters": {"tg": -1.0}}, r"'tg' is -1; give a number from 0 up"),
            ({"parameters": {"Q0": 1.5}}, r"'Q0' is 1.5; give a number from 0 to 1"),
            ({"parameters": {"ld_1": 2.0}}, r"'ld_1' is 2; give a number from 0 to 1"),
            ({"parameters": {"aT_1": np.inf}}, r"'aT_1' is inf; give a finite number"),
            ({"parameters": {"rho": "fast"}}, r"'rho' is 'fast'; give a number"),
            ({"parameters": {"rho": np.ones((2, 2))}}, r"'rho' has shape \(2, 2\)"),
            ({"parameters": {"rho": np.ones(3)}}, r"number of patients is 3; use simulate_population"),
            ({"until": 0.0}, r"until is 0.0; give a day above 0"),
            ({"until": np.inf}, r"until is inf"),
            ({"every": -1.0}, r"every is -1.0; give a spacing above 0"),
            ({"times": [0.0, 5.0, 5.0]}, r"times are .*rising, from 0"),
            ({"times": [-1.0, 5.0]}, r"times are .*rising, from 0"),
            ({"times": [0.0, np.nan]}, r"times are .*finite days"),
            ({"times": []}, r"times are .*give finite days"),
            ({"tolerance": 1.0}, r"tolerance is 1.0; choose a number from"),
            ({"tolerance": np.nan}, r"tolerance is nan"),
            ({"options": "best"}, r"options is 'best'; use one of reference, real"),
            ({"course": []}, r"no infusion"),
            ({"course": [Infusion(product="ide-cell")]}, r"ide-cell"),
            ({"course": [IDE, cilta(day=-3.0)]}, r"day is -3"),
        ],
    )
    def test_bad_input_is_told_with_value_and_remedy(self, settings, message):
        with pytest.raises(ReinfuseError, match=message):
            simulate(**{"course": [IDE], "until": 10.0, **settings})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"parameters": {"rho": np.ones(3), "KE": np.ones(4)}},
                r"differ in length: .*give one value per",
            ),
            ({"parameters": {"rho": np.array([1.0, -2.0])}}, r"'rho' is -2 in patient 2"),
            ({"course": [IDE, cilta(day=np.full(5, 99.0))], "parameters": {"rho": np.ones(3)}}, r"'rho': 3"),
            ({"max_chunk": 0}, r"max_chunk is 0"),
        ],
    )
    def test_bad_populations(self, settings, message):
        with pytest.raises(ReinfuseError, match=message):
            simulate_population(**{"course": [IDE], "times": [0.0, 1.0], **settings})


def test_every_status_has_a_sentence():
    assert len({status.sentence for status in Status}) == len(Status)
