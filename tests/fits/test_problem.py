"""From a cohort to the kernel's arrays: censoring, competing death, courses, what is estimated."""

from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.assays import ASSAYS, records
from reinfuse.fits.cohort import cohort_from_frame
from reinfuse.fits.problem import Specification, competing_deaths, courses, pose
from reinfuse.model.densities import Family
from reinfuse.model.derive.build import Kernel
from reinfuse.model.derive.source import generate
from reinfuse.model.derive.trace import Trace
from reinfuse.model.equations.bcma import IMMUNOFIXATION
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import PRODUCT_ASSAY, REAL_COHORT
from reinfuse.model.products import PRODUCTS
from reinfuse.model.schedule import FAR


def frame(rows):
    """A cohort table from (ID, TIME, PRODUCT or DVID, DV[, CENS]); infusions have a product and a dose or None."""
    columns = ["ID", "TIME", "EVID", "AMT", "PRODUCT", "LD", "DVID", "DV", "CENS"]
    made = []
    for row in rows:
        name, time, what, value = row[:4]
        infusion = what in PRODUCTS
        more = row[4:]
        made.append(
            {
                "ID": name,
                "TIME": time,
                "EVID": int(infusion),
                "AMT": value if infusion else None,
                "PRODUCT": what if infusion else "",
                "LD": more[0] if infusion and more else None,
                "DVID": "" if infusion else what,
                "DV": None if infusion else value,
                "CENS": 0 if infusion or not more else more[0],
            }
        )
    return pd.DataFrame(made, columns=columns)


def death_of(*events):
    """Family and day of one patient's record of death, from (day, kind, DV)."""
    rows = [("P", 0, "ide-cel", None), ("P", 7, "cart", 20.0)]
    rec = records(cohort_from_frame(frame([*rows, *(("P", day, kind, dv) for day, kind, dv in events)])))
    made = competing_deaths(rec)
    time, family = made.time, made.family
    (row,) = np.flatnonzero(rec.kind == ASSAYS.index("death"))
    untouched = rec.kind != ASSAYS.index("death")
    np.testing.assert_array_equal(time[untouched], rec.time[untouched])
    np.testing.assert_array_equal(family[untouched], rec.family[untouched])
    return Family(family[row]), float(time[row])


class TestCompetingDeaths:
    def test_death_after_progression_is_censored_at_progression(self):
        found = death_of((120, "progression", 1), (200, "death", 1))
        assert found == (Family.NO_EVENT, 120.0)

    def test_survival_after_progression_is_censored_at_progression(self):
        found = death_of((120, "progression", 1), (500, "death", 0))
        assert found == (Family.NO_EVENT, 120.0)

    def test_death_on_the_day_of_progression_is_progression(self):
        found = death_of((120, "progression", 1), (120, "death", 1))
        assert found == (Family.NO_EVENT, 120.0)

    def test_death_without_progression_is_an_event(self):
        found = death_of((120, "progression", 0), (120, "death", 1))
        assert found == (Family.EVENT, 120.0)

    def test_follow_up_without_either_is_no_event(self):
        found = death_of((300, "progression", 0), (300, "death", 0))
        assert found == (Family.NO_EVENT, 300.0)

    def test_death_long_after_the_last_look_is_censored_at_the_look(self):
        """What happened in between is not known: it may have been a relapse."""
        found = death_of((100, "progression", 0), (400, "death", 1))
        assert found == (Family.NO_EVENT, 100.0)

    @pytest.mark.parametrize(("dv", "family"), [(1, Family.EVENT), (0, Family.NO_EVENT)])
    def test_without_any_record_of_progression_death_stays_as_it_is(self, dv, family):
        assert death_of((90, "death", dv)) == (family, 90.0)

    def test_after_two_courses_the_last_record_of_progression_counts(self):
        rows = [
            ("P", 0, "ide-cel", None),
            ("P", 80, "progression", 1),
            ("P", 150, "cilta-cel", None),
            ("P", 400, "progression", 0),
            ("P", 400, "death", 1),
        ]
        rec = records(cohort_from_frame(frame(rows)))
        made = competing_deaths(rec)
        time, family = made.time, made.family
        (row,) = np.flatnonzero(rec.kind == ASSAYS.index("death"))
        assert (family[row], time[row]) == (Family.EVENT, 400.0)


class TestRecords:
    def test_rectangles_hold_every_record_once_sorted_by_time(self, either):
        problem, rec = either.problem, either.problem.observed
        assert int(problem.n_ob.sum()) == len(rec)
        made = competing_deaths(rec)
        time, family = made.time, made.family
        kinds = [problem.kernel.kinds.index(name) for name in rec.dvid]
        offset = np.where(rec.dvid == "mprotein", IMMUNOFIXATION, 0.0)
        value = np.log(rec.value + offset)
        for i in range(problem.n):
            mine = np.flatnonzero(rec.patient == i)
            count = problem.n_ob[i]
            assert count == mine.size
            assert (np.diff(problem.ob_time[i, :count]) >= 0).all()
            wanted = sorted(zip(time[mine], [kinds[m] for m in mine], family[mine], value[mine], strict=True))
            arrays = (problem.ob_time, problem.ob_kind, problem.ob_family, problem.ob_value)
            found = sorted(zip(*(a[i, :count] for a in arrays), strict=True))
            np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-14)

    def test_values_below_the_limit_stay_censored_at_the_limit(self, one_infusion):
        """M3: the family says "below", the value is the limit itself, never half of it."""
        problem, observed = one_infusion.problem, one_infusion.cohort.observations
        censored = observed[(observed["CENS"] == 1) & (observed["TIME"] > 0)]
        assert len(censored) > 0
        below = problem.ob_family == Family.BELOW
        below &= np.arange(below.shape[1]) < problem.n_ob[:, None]
        limits = np.sort(problem.ob_value[below])
        offset = np.where(censored["DVID"] == "mprotein", IMMUNOFIXATION, 0.0)
        np.testing.assert_allclose(limits, np.sort(np.log(censored["DV"] + offset)))

    def test_patients_who_are_followed_longest_come_first(self, either):
        problem = either.problem
        last = np.array([problem.ob_time[i, problem.n_ob[i] - 1] for i in problem.order])
        assert (np.diff(last) <= 0).all()
        assert sorted(problem.order) == list(range(problem.n))

    def test_a_cohort_without_a_usable_record_is_refused(self):
        cohort = cohort_from_frame(frame([("P", 0, "ide-cel", None), ("P", 7, "flc", 20.0)]))
        with pytest.raises(ReinfuseError, match="nothing can be fitted"):
            pose(cohort)


@pytest.fixture(scope="module")
def found():
    """Courses of three patients who share no sequence of products."""
    rows = (
        ("A", 0, "ide-cel", None),
        ("A", 7, "cart", 10.0),
        ("B", 0, "cilta-cel", 3e7, 0.5),
        ("B", 7, "cart", 10.0),
        ("B", 200, "ide-cel", 4e8),
        ("C", 0, "ide-cel", 2e8),
        ("C", 7, "cart", 10.0),
        ("C", 150, "cilta-cel", None, 0.25),
    )
    return courses(cohort_from_frame(frame(rows)))


class TestCourses:
    def test_products_by_slot(self, found):
        _, product, _ = found
        assert product.tolist() == [["ide-cel", ""], ["cilta-cel", "ide-cel"], ["ide-cel", "cilta-cel"]]

    def test_parameters_of_every_slot_are_the_patients_own(self, found):
        _, product, values = found
        reference = {name: PRODUCTS[name].dose for name in ("ide-cel", "cilta-cel")}
        np.testing.assert_allclose(values["dose_1"], [reference["ide-cel"], 3e7, 2e8])
        np.testing.assert_allclose(values["ld_1"], [1.0, 0.5, 1.0])
        np.testing.assert_allclose(values["day_2"], [FAR, 200.0, 150.0])
        np.testing.assert_allclose(values["dose_2"][1:], [4e8, reference["cilta-cel"]])
        np.testing.assert_allclose(values["ld_2"][1:], [1.0, 0.25])
        for slot in (1, 2):
            for i in range(3):
                if not product[i, slot - 1]:
                    continue
                own = PRODUCTS[str(product[i, slot - 1])]
                for name, attribute in (("f0", "f0"), ("gp", "gp"), ("h", "h"), ("i", "immunogenicity")):
                    assert values[f"{name}_{slot}"][i] == getattr(own, attribute)
                assert values[f"aT_{slot}"][i] == PRODUCT_ASSAY[own.name]["aT"].median

    def test_days_of_the_course(self, found):
        course, _, _ = found
        np.testing.assert_allclose(course[0].day, 0.0)
        np.testing.assert_allclose(course[1].day, [np.inf, 200.0, 150.0])

    def test_events_of_the_kernel_are_the_infusions_of_the_table(self, two_infusions):
        problem, table = two_infusions.problem, two_infusions.cohort.infusions
        code = problem.kernel.events.index("infusion_2")
        for i, patient in enumerate(problem.patients):
            days = table.loc[(table["ID"] == patient) & (table["SLOT"] == 2), "TIME"].tolist()
            live = np.arange(problem.ev_time.shape[1]) < problem.n_ev[i]
            found = problem.ev_time[i, live & (problem.ev_code[i] == code)].tolist()
            assert found == days
            assert (np.diff(problem.ev_time[i, : problem.n_ev[i]]) >= 0).all()


def traced(model, *, fixed, kinds, readouts):
    """A kernel's names, from the model's text, without compiling anything."""
    _, names = generate(Trace(model, fixed), kinds, readouts)
    return Kernel(name=model.name, module=ModuleType("none"), solver=ModuleType("none"), **names)


class TestWhatIsEstimated:
    def test_products_have_assay_parameters_of_their_own(self, one_infusion):
        population = one_infusion.problem.population
        for product in ("ide-cel", "cilta-cel"):
            for name in ("aT", "bT"):
                assert population[f"{name}:{product}"] == PRODUCT_ASSAY[product][name]
        assert "aT" not in population

    def test_a_variant_leaves_out_what_it_switches_off(self, one_infusion):
        """Without exhaustion no exhausted cells are infused or arise, and nothing of them is estimated."""
        problem = one_infusion.problem
        assert problem.specification.variant == "no-exhaustion"
        assert {name: problem.fixed[name] for name in ("kX", "fXQ", "fX0_1")} == {"kX": 0, "fXQ": 0, "fX0_1": 0}
        assert not {"kX", "fXQ"} & set(problem.population)

    def test_the_rest_is_at_its_median(self, either):
        problem = either.problem
        for name, value in problem.fixed.items():
            if name in REAL_COHORT and name not in ("kX", "fXQ"):
                assert value == REAL_COHORT[name].median
        assert not set(problem.fixed) & set(problem.population)
        assert not set(problem.fixed) & set(problem.kernel.parameters)

    def test_effects_compare_products_that_are_there(self, one_infusion, two_infusions):
        wanted = {"rho:cilta-cel", "tg:cilta-cel", "B0:cilta-cel", "KE:cilta-cel"}
        assert {e.label for e in one_infusion.problem.effects} == wanted
        assert {e.label for e in two_infusions.problem.effects} == wanted

    def test_occasions_come_with_several_infusions(self, one_infusion, two_infusions):
        assert not one_infusion.problem.occasions
        assert two_infusions.problem.occasions
        assert {"occ_1", "occ_2"} <= set(two_infusions.problem.kernel.parameters)
        assert one_infusion.problem.fixed["occ_1"] == 0.0

    def test_assays_that_are_absent_bring_no_parameters(self, monkeypatch):
        monkeypatch.setattr("reinfuse.fits.problem.compile_model", traced)  # names are wanted here, not numbers
        cohort = cohort_from_frame(frame([("P", 0, "ide-cel", None), ("P", 7, "flc", 3.0), ("P", 7, "cart", 20.0)]))
        problem = pose(cohort)
        assert set(problem.population) == {"rho", "tg", "hg", "dM", "sigma_cart"}
        assert problem.kernel.kinds == ("cart",)
        assert problem.effects == ()
        assert set(problem.random) == {"rho", "tg", "dM"}

    def test_an_unknown_variant_is_refused_with_the_known_ones(self):
        with pytest.raises(ReinfuseError, match=r"unknown variant 'half'; use one of full, no-dysfunction"):
            Specification(variant="half")

    @pytest.mark.parametrize("name", ["nonsense", "hD"])
    def test_a_random_effect_needs_a_spread(self, name):
        with pytest.raises(ReinfuseError, match=f"'{name}' has no spread between patients"):
            Specification(random_effects=("rho", name))
