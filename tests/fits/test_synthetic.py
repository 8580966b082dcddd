"""The synthetic cohort: reproducible, honest about itself, and drawn from the model that its truth names."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reinfuse.fits import synthetic
from reinfuse.fits.cohort import Cohort, cohort_from_frame, read_cohort
from reinfuse.fits.synthetic import (
    BUNDLED,
    BUNDLED_TRUTH,
    CART_LLOQ,
    FOLLOW_UP,
    LLOQ,
    MULTIPLIERS,
    OCCASION_SD,
    SAMPLED,
    TO_SECOND,
    VISITS,
    synthetic_cohort,
)
from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import PRODUCT_EFFECTS, RANDOM_EFFECTS, REAL_COHORT
from reinfuse.model.simulate import simulate

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_synthetic_cohort.py"

#: Medians of the Fandrei 2024 cohort by assay, product and visit, rounded; where it has 5 patients or more.
REAL_MEDIANS = {
    ("transgene", "ide-cel"): {7: 2.4e5, 14: 1.3e5, 30: 4.3e4, 100: 1.7e4},
    ("transgene", "cilta-cel"): {7: 8.7e3, 14: 9.3e4, 30: 2.2e4},
    ("cart", "ide-cel"): {7: 25.0, 14: 74.0, 30: 16.0, 100: 0.47},
    ("cart", "cilta-cel"): {7: 3.1, 14: 820.0, 30: 39.0, 100: 5.8},
    ("sbcma", "ide-cel"): {0: 89.0, 7: 41.0, 30: 10.0, 100: 7.9},
    ("sbcma", "cilta-cel"): {0: 21.0, 30: 5.0, 100: 4.0},
}
SUMMARY_NAMES = {"transgene": "car_transgene", "cart": "car_t_flow", "sbcma": "sbcma"}


def times_off(visit: int) -> float:
    """How many times a median may be off; at day 100 those who progressed are missing from ours only."""
    return 4.0 if visit < 100 else 5.0


@pytest.fixture(scope="module")
def bundled() -> Cohort:
    return read_cohort(BUNDLED)


@pytest.fixture(scope="module")
def truth() -> dict:
    return json.loads(BUNDLED_TRUTH.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def large() -> tuple[Cohort, dict]:
    table, truth = synthetic_cohort(patients=600, second_infusions=0.5, seed=11)
    return cohort_from_frame(table), truth


def slots(cohort: Cohort) -> pd.DataFrame:
    """Observations with their infusion's slot, product and day, and the days since."""
    rows = cohort.observations.assign(SLOT=cohort.observation_slots)
    infusions = cohort.infusions.rename(columns={"TIME": "START"})[["ID", "SLOT", "START", "PRODUCT"]]
    rows = rows.merge(infusions, on=["ID", "SLOT"], how="left", validate="many_to_one")
    return rows.assign(AFTER=rows["TIME"] - rows["START"])


# ---- the bundled files


def test_the_script_makes_the_bundled_files_bit_for_bit(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path / BUNDLED.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    remedy = f"python scripts/{SCRIPT.name} --out fits/data/{BUNDLED.name}"
    for path in (BUNDLED, BUNDLED_TRUTH):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), f"{path.name} is out of date: {remedy}"


def test_it_says_on_its_face_that_it_is_synthetic(bundled, truth):
    assert bundled.patients == [f"SYN-{i:03d}" for i in range(1, 25)]
    assert (bundled.covariates["synthetic"] == 1).all()
    assert truth["synthetic"] is True
    assert truth["what"].startswith("Synthetic")


def test_its_size(bundled):
    infusions = bundled.infusions
    assert (infusions["SLOT"] == 1).sum() == 24
    assert (infusions["SLOT"] == 2).sum() == 6
    assert infusions.loc[infusions["SLOT"] == 1, "PRODUCT"].value_counts().to_dict() == {
        "ide-cel": 16,
        "cilta-cel": 8,
    }
    assert set(bundled.observations["DVID"]) == {*SAMPLED, "mprotein", "progression", "death"}
    assert (bundled.observations["CENS"] == 1).mean() > 0.05


def test_the_csv_holds_whole_numbers_as_such():
    text = BUNDLED.read_text(encoding="utf-8")
    assert text.splitlines()[0].endswith(",synthetic")
    assert text.splitlines()[1] == "SYN-001,0,1,450000000,ide-cel,1,,,0,,1"


# ---- what every cohort keeps to


@pytest.fixture(params=["bundled", "large"])
def cohort(request, bundled, large) -> Cohort:
    return bundled if request.param == "bundled" else large[0]


def test_nothing_is_sampled_after_progression_death_or_follow_up(cohort):
    rows = slots(cohort)
    last = rows[rows["DVID"] == "progression"].set_index(["ID", "SLOT"])["TIME"]
    samples = rows[~rows["DVID"].isin(["progression", "death"])]
    ends = last.reindex(pd.MultiIndex.from_frame(samples[["ID", "SLOT"]])).to_numpy()
    assert len(samples) > 100
    assert (samples["TIME"].to_numpy() <= ends).all()
    assert not cohort.after_progression.any()


def test_each_infusion_ends_with_a_progression_row_and_each_patient_with_a_death_row(cohort):
    rows = slots(cohort)
    progression, death = rows[rows["DVID"] == "progression"], rows[rows["DVID"] == "death"]
    assert len(progression) == len(cohort.infusions)
    assert death["ID"].tolist() == cohort.patients
    assert (progression.loc[progression["DV"] == 1, "AFTER"] > 10).all()
    assert (progression["AFTER"] <= FOLLOW_UP[1]).all()
    assert (rows["TIME"] <= rows["ID"].map(death.set_index("ID")["TIME"])).all()
    # only death ends a course early without progression
    early = progression[(progression["DV"] == 0) & (progression["AFTER"] < FOLLOW_UP[0])]
    dead = death[death["DV"] == 1].set_index("ID")["TIME"]
    assert (early["TIME"] == early["ID"].map(dead)).all()


def test_second_infusions_follow_a_progression_after_ide_cel(cohort):
    infusions = cohort.infusions
    second = infusions[infusions["SLOT"] == 2].set_index("ID")
    first = infusions[infusions["SLOT"] == 1].set_index("ID").loc[second.index]
    rows = slots(cohort)
    progressed = rows[(rows["DVID"] == "progression") & (rows["SLOT"] == 1)].set_index("ID").loc[second.index]
    assert set(first["PRODUCT"]) == {"ide-cel"}
    assert set(second["PRODUCT"]) == {"cilta-cel"}
    assert (progressed["DV"] == 1).all()
    assert (second["TIME"] - progressed["TIME"]).between(*TO_SECOND).all()


def test_censored_values_are_their_limit_and_others_above_it(cohort):
    rows = cohort.observations[~cohort.observations["DVID"].isin(["progression", "death"])]
    below = rows["CENS"] == 1
    assert (rows.loc[below, "DV"] == rows.loc[below, "LLOQ"]).all()
    assert (rows.loc[~below, "DV"] >= rows.loc[~below, "LLOQ"]).all()
    for assay, limit in LLOQ.items():
        assert set(rows.loc[rows["DVID"] == assay, "LLOQ"]) == {limit}
    cart = rows.loc[rows["DVID"] == "cart", "LLOQ"]
    assert cart.nunique() > 10
    assert CART_LLOQ / 1.5 < cart.median() < CART_LLOQ * 1.5


def test_visits_keep_to_the_schedule(cohort):
    rows = slots(cohort)
    rows = rows[rows["DVID"].isin(SAMPLED)]
    windows = [(0, 0), *((low, high) for low, _, high in VISITS.values())]
    assert np.any([rows["AFTER"].between(*window).to_numpy() for window in windows], axis=0).all()


def test_mprotein_is_monthly_in_patients_with_measurable_disease(cohort):
    rows = slots(cohort)
    protein = rows[rows["DVID"] == "mprotein"]
    followed = set(protein["ID"])
    assert 0.1 < len(followed) / cohort.n_patients < 0.7
    base = protein[protein["TIME"] == 0].set_index("ID")["DV"]
    sbcma = rows[(rows["DVID"] == "sbcma") & (rows["TIME"] == 0)].set_index("ID")["DV"]
    assert set(base.index) == followed
    assert (base >= 0.5).all()
    assert (sbcma.reindex(base.index) >= 20).all()
    off = protein["AFTER"] - 28 * (protein["AFTER"] / 28).round()
    assert off.abs().max() <= 3


# ---- it comes from the model, with the parameters that its truth names


def test_individual_parameters_spread_around_the_population(large):
    _, truth = large
    people = pd.DataFrame(truth["individual"]).T
    assert list(people.columns) == [*RANDOM_EFFECTS, "occ_1", "occ_2"]
    for name in RANDOM_EFFECTS:
        spread = truth["omega"][name]
        z = np.log(people[name] / truth["population"][name]).to_numpy() / spread
        if name == "B0":  # a third of the patients have another median
            z = z - np.log(MULTIPLIERS["B0:cilta-cel"]) / 3 / spread
        assert abs(z.mean()) < 4 / np.sqrt(len(people)), name
        assert 0.85 < z.std() < 1.15, name
    assert truth["omega"]["occasion"] == OCCASION_SD
    assert 0.9 < people[["occ_1", "occ_2"]].to_numpy().std() / OCCASION_SD < 1.1


def retold(cohort: Cohort, truth: dict, patient: str) -> pd.DataFrame:
    """The patient's observations beside the model's values at the truth, from table and truth alone."""
    rows = slots(cohort)
    rows = rows[rows["ID"] == patient]
    infusions = cohort.infusions[cohort.infusions["ID"] == patient]
    products = [*infusions["PRODUCT"], "cilta-cel"][:2]
    days = [*infusions["TIME"], np.inf][:2]
    parameters = {k: v for k, v in truth["population"].items() if ":" not in k} | truth["individual"][patient]
    for slot, product in enumerate(products, start=1):
        parameters |= {f"{name}_{slot}": truth["population"][f"{name}:{product}"] for name in ("aT", "bT")}
        parameters[f"fX0_{slot}"] = 0.0
        for label, effect in PRODUCT_EFFECTS.items():
            if effect.product == product and effect.product_field:
                parameters[f"{effect.product_field}_{slot}"] = np.exp(truth["product_effect"][label])
    times = np.unique(rows["TIME"].to_numpy())
    course = [Infusion(product=p, day=d) for p, d in zip(products, days, strict=True)]
    result = simulate(course=course, until=1.0, times=times, parameters=parameters, options="real")
    at = np.searchsorted(times, rows["TIME"].to_numpy())
    model = {name: result[name].to_numpy()[at] for name in ("transgene", "cart", "sbcma", "mprotein", "cumhaz")}
    return rows.assign(**{f"at_{name}": values for name, values in model.items()})


@pytest.fixture(scope="module")
def told(large) -> pd.DataFrame:
    cohort, truth = large
    return pd.concat([retold(cohort, truth, patient) for patient in cohort.patients[:200]])


@pytest.mark.parametrize(("assay", "offset"), [("transgene", 0), ("cart", 0), ("sbcma", 0), ("mprotein", 0.05)])
def test_residuals_are_student_t(told, assay, offset):
    rows, sigma = told[told["DVID"] == assay], REAL_COHORT[f"sigma_{assay}"].median
    z = np.log((rows["DV"] + offset) / (rows[f"at_{assay}"] + offset)) / sigma
    limit = np.log((rows["LLOQ"] + offset) / (rows[f"at_{assay}"] + offset)) / sigma
    z = z[limit < -4].to_numpy()  # where next to nothing is censored
    assert z.size > 150
    assert abs(np.median(z)) < 4 * 1.33 / np.sqrt(z.size)  # 1.33 = 1/(2 f(0)): standard error of a median
    assert 0.741 * 0.8 < np.median(np.abs(z)) < 0.741 * 1.2  # the quartile of t with 4 degrees of freedom
    assert (np.abs(z) > 2.776).mean() == pytest.approx(0.05, abs=0.04)


def test_progression_follows_the_hazard_after_both_infusions(told):
    rows = told[(told["DVID"] == "progression") & (told["AFTER"] > 10)]
    for slot, least in ((1, 60), (2, 5)):
        mine = rows[rows["SLOT"] == slot]
        events = mine["DV"].sum()
        assert events >= least
        # events minus cumulative hazard is a martingale; its variance is the expected number of events
        assert abs(events - mine["at_cumhaz"].sum()) < 3 * np.sqrt(events), slot


def test_the_bundled_truth_made_the_bundled_cohort(bundled, truth):
    rows = pd.concat([retold(bundled, truth, patient) for patient in bundled.patients])
    rows = rows[(rows["DVID"] == "sbcma") & (rows["CENS"] == 0)]
    z = np.log(rows["DV"] / rows["at_sbcma"]) / truth["population"]["sigma_sbcma"]
    assert len(rows) > 50
    assert 0.45 < np.median(np.abs(z)) < 1.1


# ---- it resembles the real study


def medians(cohort: Cohort, windows: dict[int, tuple[float, float]]) -> dict[tuple[str, str, int], float]:
    rows = slots(cohort)
    rows = rows[rows["SLOT"] == 1]
    return {
        (assay, product, visit): rows.loc[
            (rows["DVID"] == assay) & (rows["PRODUCT"] == product) & rows["AFTER"].between(*windows[visit]),
            "DV",
        ].median()
        for (assay, product), by_visit in REAL_MEDIANS.items()
        for visit in by_visit
    }


WINDOWS = {0: (0, 0), 7: (7, 9), 14: (11, 19), 30: (20, 35), 100: (73, 114)}


def test_medians_resemble_those_of_a_real_study(large):
    for (assay, product, visit), ours in medians(large[0], WINDOWS).items():
        theirs, factor = REAL_MEDIANS[assay, product][visit], times_off(visit)
        assert theirs / factor < ours < theirs * factor, (assay, product, visit, ours)


def test_progression_resembles_a_real_study(large):
    rows = slots(large[0])
    rows = rows[(rows["DVID"] == "progression") & (rows["SLOT"] == 1) & (rows["PRODUCT"] == "ide-cel")]
    free = ((rows["AFTER"] > 180) | (rows["DV"] == 0)).mean()
    assert 0.4 < free < 0.75  # Kaplan-Meier of the real cohort at 180 days: 0.57


@pytest.mark.shared
def test_constants_are_those_of_the_visit_summary(shared, large):
    table = pd.read_csv(shared / "data" / "leipzig_bcma" / "visit_summary.csv")
    table["product"] = table["product"].str.lower()
    table = table.set_index(["assay", "product", "visit"])
    for assay, products in SAMPLED.items():
        for product, by_visit in products.items():
            for visit, share in by_visit.items():
                row = table.loc[(SUMMARY_NAMES[assay], product, visit)]
                assert share == pytest.approx(row["frac_sampled"], abs=0.006)
                if visit:
                    low, planned, high = VISITS[visit]
                    assert low <= row["day_min"]
                    assert row["day_max"] <= high
                    assert abs(planned - row["day_med"]) <= 4
    for key, ours in medians(large[0], WINDOWS).items():
        assay, product, visit = key
        theirs = np.exp(table.loc[(SUMMARY_NAMES[assay], product, visit), "ln50"])
        assert REAL_MEDIANS[assay, product][visit] == pytest.approx(theirs, rel=0.05), key
        assert abs(np.log(ours / theirs)) < np.log(times_off(visit)), key


# ---- choices


def test_effects_of_cilta_cel_are_those_that_a_fit_estimates():
    assert set(MULTIPLIERS) == set(PRODUCT_EFFECTS)


def test_occasions_vary_as_in_the_prior_of_a_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PyMC's own, on import
        from reinfuse.fits import population

    assert OCCASION_SD == population.OCCASION_SD


def test_same_seed_same_cohort_other_seed_another():
    def draw(seed: int) -> tuple[pd.DataFrame, dict]:
        return synthetic_cohort(patients=9, second_infusions=1, seed=seed)

    (one, truth), (again, truth_again), (other, _) = draw(3), draw(3), draw(4)
    pd.testing.assert_frame_equal(one, again)
    assert truth == truth_again
    assert not one.equals(other)


@pytest.mark.parametrize(("second", "expected"), [(0, [0]), (2, [2]), (0.0, [0]), (1.0, range(1, 11))])
def test_number_or_share_of_second_infusions(second, expected):
    table, _ = synthetic_cohort(patients=15, second_infusions=second, seed=5)
    assert int((table["EVID"] == 1).sum()) - 15 in expected


def test_another_variant_and_another_random_effect():
    table, truth = synthetic_cohort(
        patients=30, second_infusions=0, seed=1, variant="full", random_effects=(*RANDOM_EFFECTS, "P0")
    )
    assert truth["population"]["kX"] == REAL_COHORT["kX"].median
    base = table[(table["DVID"] == "mprotein") & (table["TIME"] == 0)].set_index("ID")["DV"]
    given = pd.Series({name: truth["individual"][name]["P0"] for name in base.index})
    assert len(base) > 4
    assert np.log(base / given).abs().max() < 1.0
    assert np.log(given).std() > 0.15


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"patients": 0}, "patients is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"second_infusions": 17}, "second_infusions is 17; give a whole number from 0 to 16"),
        ({"second_infusions": 1.5}, "second_infusions is 1.5; give a share"),
        ({"cilta_share": 2.0, "second_infusions": 0.5}, "cilta_share is 2.0"),
        ({"mprotein_share": -0.1}, "mprotein_share is -0.1"),
        ({"variant": "no-such"}, "unknown variant 'no-such'"),
        ({"random_effects": ("hg",)}, "'hg' has no spread"),
    ],
)
def test_senseless_choices_are_refused(choice, message):
    with pytest.raises(ReinfuseError, match=message):
        synthetic_cohort(**({"seed": 1} | choice))


def test_too_few_progressions_are_said(monkeypatch):
    monkeypatch.setattr(synthetic, "MAX_DRAWS", 2)
    with pytest.raises(ReinfuseError, match=r"in none of 2 cohorts of 12 patients did 12 progress"):
        synthetic_cohort(patients=12, second_infusions=12, cilta_share=0.0, seed=1)
