import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import engine, scenarios
from reinfuse.fits.retreatment.block import BLOCK
from reinfuse.fits.retreatment.outcome_table import column_names
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .conftest import TEXT, toy, toy_population

ONE_WORLD = '[[world]]\nname = "as assumed"\n'
HEAD = '[[scenario]]\nname = "a"\nfirst.product = "ide-cel"\nsecond.product = "cilta-cel"\n'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An experiment on the toy, in one world unless the text names others; its table is read as a whole."""

    def call(file, population, patients=150, seed=1, simulate=toy, **more):
        if isinstance(file, str):
            file = scenarios.parse(file if "[[world]]" in file else file + ONE_WORLD)
        path = tmp_path_factory.mktemp("engine") / "outcomes.parquet"
        return engine.run(file, population, patients=patients, seed=seed, path=path, simulate=simulate, **more)

    return call


def arm(experiment, name, world="as assumed"):
    return experiment.outcomes.read(name, world)


@pytest.fixture(scope="module")
def experiment(run):
    return run(TEXT, toy_population())


def test_outcomes_have_the_promised_columns(experiment):
    assert experiment.outcomes.names == column_names(scenarios.parse(TEXT))
    assert [len(rows) for _, _, rows in experiment.outcomes.parts()] == [150] * 3
    assert experiment.failures == 0


def test_arms_are_paired(experiment):
    two, none = arm(experiment, "two"), arm(experiment, "none")
    shared = ["patient", "draw", "group", "infusion_day", "infused", *(c for c in two if c.endswith("_1"))]
    for column in shared:
        np.testing.assert_array_equal(two[column].to_numpy(), none[column].to_numpy(), err_msg=column)
    # the second infusion does something
    assert two["pfs_days_2"].mean() > 1.5 * none["pfs_days_2"].mean()


def test_a_second_infusion_of_nothing_is_none(experiment):
    nothing, none = arm(experiment, "nothing given"), arm(experiment, "none")
    for column in ("best_2", "mrd5_2", "pfs_days_2", "pfs_event_2", "antigen_low_2"):
        np.testing.assert_array_equal(nothing[column].to_numpy(), none[column].to_numpy(), err_msg=column)


def test_the_comparator_has_no_product_and_no_exposure(experiment):
    none = arm(experiment, "none")
    assert set(none["second_product"]) == {"none"}
    assert none[["cmax_2", "tmax_2", "auc28_2", "q_apheresis"]].isna().all(axis=None)
    two = arm(experiment, "two")
    assert (two["tmax_2"] == 10).all(), "the toy's second peak comes ten days after the second infusion"
    assert two["q_apheresis"].notna().all()


def test_everyone_kept_progressed_alive_within_the_horizon(experiment):
    kept = experiment.outcomes.frame()
    assert (kept["pfs_event_1"] == "progression").all()
    assert (kept["pfs_days_1"] <= 60 * DAYS_PER_MONTH + 1).all()
    assert (kept["infusion_day"] == np.ceil(kept["pfs_days_1"] + 60)).all()


def test_acceptance_adds_up(experiment):
    for seen in experiment.acceptance.values():
        assert seen.kept == 150
        assert seen.candidates % BLOCK == 0
        out = seen.not_simulated + seen.not_judged + seen.died + seen.not_progressed + seen.other_group
        assert seen.candidates - out >= seen.kept
        assert 0 < seen.share < 1


def test_a_candidate_is_the_same_in_every_experiment(run, experiment):
    fewer = arm(run(HEAD + "second.bridging = 0.5\n", toy_population(), patients=40), "a")
    more = arm(experiment, "two").head(40)
    for column in fewer.columns.drop("scenario"):
        np.testing.assert_array_equal(fewer[column].to_numpy(), more[column].to_numpy(), err_msg=column)
    other = arm(run(HEAD, toy_population(), patients=40, seed=2), "a")
    assert (other["pfs_days_1"].to_numpy() != more["pfs_days_1"].to_numpy()).any()


def test_conditioning_selects_and_never_edits(run, experiment):
    text = HEAD + 'second.bridging = 0.5\nfirst.response = ["durable"]\n'
    durable = run(text, toy_population(), patients=60)
    rows = durable.outcomes.frame()
    assert set(rows["group"]) == {"durable"}
    assert durable.acceptance["a", "as assumed"].other_group > 0
    assert durable.acceptance["a", "as assumed"].share < experiment.acceptance["two", "as assumed"].share
    # the same candidates, unedited, are among those of the experiment without conditions
    both = rows.merge(arm(experiment, "two"), on="patient", suffixes=("", "_all"))
    assert len(both) >= 3
    for column in ("pfs_days_1", "pfs_days_2", "best_2", "infusion_day"):
        np.testing.assert_array_equal(both[column].to_numpy(), both[f"{column}_all"].to_numpy())


def test_explicit_limits_select(run):
    rows = run(HEAD + "first.pfs_months = [6, 9]\n", toy_population(), patients=50).outcomes.frame()
    months = rows["pfs_days_1"] / DAYS_PER_MONTH
    assert months.between(6, 9, inclusive="right").all()


def test_worlds_share_patients_and_switch_one_thing(run):
    text = HEAD + '[[world]]\nname = "as assumed"\n[[world]]\nname = "null"\nhost_dysfunction = false\n'
    experiment = run(text, toy_population())
    assert experiment.outcomes.arms == (("a", "as assumed"), ("a", "null"))
    with_it, without = arm(experiment, "a"), arm(experiment, "a", "null")
    np.testing.assert_array_equal(with_it["patient"], without["patient"])
    assert (without["pfs_days_2"] >= with_it["pfs_days_2"]).all()
    # a world multiplies what a scenario says: off twice is off once
    both = run(
        text.replace('second.product = "cilta-cel"', 'second.product = "cilta-cel"\nhost_dysfunction = 0'),
        toy_population(),
    )
    columns = [c for c in without if c.endswith("_2") and without[c].dtype == np.float32]
    for world in ("as assumed", "null"):
        np.testing.assert_array_equal(arm(both, "a", world)[columns], without[columns])


def test_a_third_infusion_follows_the_second_progression(run):
    text = HEAD + '[[scenario.then]]\nproduct = "ide-cel"\ndays_after_progression = 30\n' + HEAD.replace('"a"', '"b"')
    experiment = run(text, toy_population())
    three, two = arm(experiment, "a"), arm(experiment, "b")
    same = [c for c in two if not c.endswith("_3") and c not in ("scenario", "courses")]
    pd.testing.assert_frame_equal(three[same], two[same])
    again = three[three["courses"] == 3]
    assert 0 < len(again) < len(three) + 1
    assert (again["pfs_event_2"] == "progression").all()
    assert (again["tmax_3"] == 10).all()
    relapse = again["infusion_day"] + again["pfs_days_2"]
    np.testing.assert_array_equal(again["infusion_day_3"], np.ceil(relapse + 30))
    rest = three[three["courses"] < 3]
    assert not rest["evaluable_3"].any() or (rest["pfs_event_2"] == "progression").any()
    assert rest.loc[rest["pfs_event_2"] != "progression", "pfs_days_3"].isna().all()
    assert rest[["infusion_day_3", "pfs_days_3"]].isna().all(axis=None), "not of who died before it"
    assert two[["infusion_day_3", "pfs_days_3"]].isna().all(axis=None), (
        "a scenario without a third infusion has no third course"
    )


def test_who_waits_is_infused_when_the_protein_has_risen(run):
    text = HEAD + "wait_and_see = true\nwait_rise = 2.0\n" + HEAD.replace('"a"', '"b"')
    experiment = run(text, toy_population())
    waits, goes = (arm(experiment, name).set_index("patient") for name in "ab")
    both = waits.index.intersection(goes.index[goes["infused"]])
    delay = (waits.loc[both, "infusion_day"] - goes.loc[both, "infusion_day"]).to_numpy()
    assert (delay[np.isfinite(delay)] >= 0).all()
    # the toy's M-protein doubles in ln 2 / r days, seen at a visit; r is 0.02 +- 30 %
    assert np.median(delay[np.isfinite(delay)]) == pytest.approx(np.log(2) / 0.02, abs=28)


def test_a_bispecific_antibody_stands_between_nothing_and_more_of_it(run):
    text = (
        "[bispecific]\nkilling = 0.03\nkilling_log_sd = 0\n"
        + TEXT
        + '[[scenario]]\nname = "antibody"\nfirst.product = "ide-cel"\nbispecific = true\n'
    )
    experiment = run(text, toy_population())
    antibody, none = arm(experiment, "antibody"), arm(experiment, "none")
    np.testing.assert_array_equal(antibody["patient"], none["patient"])
    assert set(antibody["second_product"]) == {"bispecific"}
    assert (antibody["pfs_days_2"] >= none["pfs_days_2"]).all()
    assert antibody["pfs_days_2"].mean() > 1.5 * none["pfs_days_2"].mean()


def test_a_tumour_of_few_cells_may_die_out(run):
    text = HEAD + "second.bridging = 0.5\nantigen_loss_fraction = 1e-12\n"
    population = toy_population(rho=(24.0, 0.1), sline=(1e-9, 0.0))
    by_chance = arm(run("[settings]\nextinction = true\n" + text, population, patients=400), "a")
    never = arm(run(text, population, patients=400), "a")
    assert never["cure_chance_2"].isna().all()
    assert by_chance["cure_chance_2"].between(0, 1).all()
    both = by_chance.merge(never, on="patient", suffixes=("", "_never"))
    gone = (both["pfs_event_2"] != "progression") & (both["pfs_event_2_never"] == "progression")
    # as many as the chances say, and nobody else is touched
    relapsed = both["pfs_event_2_never"] == "progression"
    assert gone.sum() == pytest.approx(
        both.loc[relapsed, "cure_chance_2"].sum(), abs=3 * np.sqrt(relapsed.sum()) / 2 + 1
    )
    assert gone.any()
    np.testing.assert_array_equal(both.loc[~gone, "pfs_days_2"], both.loc[~gone, "pfs_days_2_never"])


def test_visits_of_ones_own_are_the_days_of_findings(run):
    text = "[settings]\nvisit_every_days = 50\nvisit_days = [10.0, 33.0]\n" + HEAD
    rows = arm(run(text, toy_population()), "a")
    seen = set(rows.loc[rows["pfs_event_2"] == "progression", "pfs_days_2"])
    assert seen <= {10.0, 33.0, *np.arange(83.0, 1900.0, 50.0)}
    assert set(rows["response_days_2"]) & {10.0, 33.0}


def test_time_from_relapse_counts_the_wait(run, experiment):
    two = arm(experiment, "two")
    waited = two["infusion_day"] - two["pfs_days_1"]
    np.testing.assert_allclose(two["pfs_from_relapse_days"], waited + two["pfs_days_2"], rtol=1e-6)


def test_the_order_of_arms_does_not_matter(run, experiment):
    blocks = TEXT.strip().split("\n\n")
    turned = run("\n\n".join(blocks[::-1]) + "\n", toy_population())
    for name in ("two", "nothing given", "none"):
        pd.testing.assert_frame_equal(arm(turned, name), arm(experiment, name), check_categorical=False)


def test_a_hypothesis_that_is_off_changes_its_arm_only(run):
    text = HEAD + HEAD.replace('"a"', '"null"') + "host_dysfunction = false\n"
    experiment = run(text, toy_population())
    with_it, without = arm(experiment, "a"), arm(experiment, "null")
    # in the toy, dysfunction (sline) weakens the second product only
    np.testing.assert_array_equal(with_it["patient"], without["patient"])
    assert (without["pfs_days_2"] >= with_it["pfs_days_2"]).all()
    assert without["pfs_days_2"].mean() > 1.1 * with_it["pfs_days_2"].mean()


def test_who_dies_before_the_second_infusion_is_marked_and_stays_paired(run):
    text = HEAD + "second.days_after_progression = 400\n" + HEAD.replace('"a"', '"b"')
    experiment = run(text, toy_population(hD=(0.001, 0.0)), patients=400)
    late, soon = arm(experiment, "a"), arm(experiment, "b")
    # a hazard of 0.001 per day over 400 days
    assert (~late["infused"]).mean() == pytest.approx(1 - np.exp(-0.4), abs=0.06)
    assert (~soon["infused"]).mean() == pytest.approx(1 - np.exp(-0.06), abs=0.04)
    assert soon["infused"][late["infused"]].all(), "who lives to the late infusion lives to the early one"


def test_courses_that_fail_are_counted_and_left_out(run):
    population = toy_population(kX=(0.03, 0.0))

    def failing(*, course, parameters, **more):
        broken = np.arange(parameters["kX"].size) % 4 == 0
        return toy(course=course, parameters={**parameters, "kX": np.where(broken, -1.0, 0.03)}, **more)

    experiment = run(HEAD, population, patients=100, simulate=failing)
    seen = experiment.acceptance["a", "as assumed"]
    assert seen.not_simulated == seen.candidates / 4
    assert experiment.failures == arm(experiment, "a")["failed"].sum() > 0
    assert any("could not be simulated" in caveat for caveat in experiment.caveats)


def test_too_few_candidates_are_told(run):
    text = HEAD + "first.pfs_months = [18, 20]\n"
    experiment = run(text, toy_population(), patients=25)
    seen = experiment.acceptance["a", "as assumed"]
    assert seen.kept < 25
    assert any(f"only {seen.kept} of 25" in caveat for caveat in experiment.caveats)
    with pytest.raises(ReinfuseError, match=r"none of \d+ virtual patients"):
        run(HEAD + 'first.response = ["antigen-loss"]\n', toy_population(), patients=10)


def test_progress_reaches_the_total(run):
    ticks = []
    run(TEXT, toy_population(), patients=30, progress=ticks.append)
    assert sum(ticks) == 90


@pytest.mark.parametrize("patients", [0, -3])
def test_no_patients_is_refused(run, file, population, patients):
    with pytest.raises(ReinfuseError, match=f"patients is {patients}"):
        run(file, population, patients=patients)


def test_hazards_need_the_model_that_has_them(run, population):
    text = '[settings]\nprogression = "hazard"\n' + HEAD
    with pytest.raises(ReinfuseError, match="use 'mprotein'"):
        run(text, population)


def test_worlds_that_are_bounds_are_named_with_whether_they_count(run):
    text = HEAD + ONE_WORLD + '[[world]]\nname = "no resistance"\nresistance = false\nweight = {}\n'
    for weight, counts in ((0, "none of them"), (1, "'no resistance'")):
        said = [each for each in run(text.format(weight), toy_population(), patients=5).caveats if "Bounds" in each]
        assert [each.partition("counts ")[2] for each in said] == [f"{counts}."]
    assert not any("Bounds" in each for each in run(HEAD, toy_population(), patients=5).caveats)


@pytest.mark.parametrize(("days", "told"), [(60, False), (61, True)])
def test_arms_that_wait_differently_are_said_to(run, days, told):
    arm = '[[scenario]]\nname = "{0}"\nfirst.product = "ide-cel"\nsecond.product = "cilta-cel"\n'
    text = arm.format("soon") + arm.format("later") + f"second.days_after_progression = {days}\n"
    assert any("do not say when to infuse" in each for each in run(text, toy_population(), patients=5).caveats) == told


def test_caveats_say_what_the_figures_rest_on(run, experiment):
    said = " ".join(experiment.caveats)
    for words in (
        "mostly frailty",
        "no evidence",
        "assumptions",
        "(sline) comes from the prior alone",
        "too good",
    ):
        assert words in said
    priors = from_prior(rng=np.random.default_rng(0), products=[], n_draws=3, options="reference")
    assert "priors alone" in " ".join(run(HEAD, priors, patients=5).caveats)


# ------------------------------------------------------------------------------------------ real model


@pytest.mark.parametrize("options", ["reference", "real"])
def test_the_models_own_simulator_runs_and_a_second_infusion_of_nothing_is_none(run, options):
    file = scenarios.parse(TEXT + ONE_WORLD)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=20, options=options)
    experiment = run(file, population, patients=40, seed=3, simulate=None)
    assert experiment.failures == 0
    nothing, none = arm(experiment, "nothing given"), arm(experiment, "none")
    # a slot without cells and lymphodepletion wears the host's T cells (qLD); the tumour does not notice
    for column in ("best_2", "mrd5_2", "pfs_event_2"):
        assert (nothing[column] == none[column]).mean() > 0.95, column
    assert np.median(np.abs(nothing["pfs_days_2"] - none["pfs_days_2"])) == 0
    two = arm(experiment, "two")
    fewer = arm(run(file, population, patients=15, seed=3, simulate=None), "two")
    for column in fewer.columns:
        np.testing.assert_array_equal(fewer[column].to_numpy(), two[column].head(15).to_numpy(), err_msg=column)
    assert two["pfs_days_2"].mean() > none["pfs_days_2"].mean()
    assert two["q_apheresis"].between(0, 1).all()
    assert (two["cmax_2"] > 0).all()


def test_the_tolerance_changes_no_class(run, monkeypatch):
    file = scenarios.parse(HEAD + "second.bridging = 0.3\n" + ONE_WORLD)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=50, options="real")
    loose = arm(run(file, population, patients=800, simulate=None), "a")
    monkeypatch.setattr("reinfuse.fits.retreatment.block.TOLERANCE", 1e-8)
    tight = arm(run(file, population, patients=800, simulate=None), "a")
    same = [
        "patient",
        "group",
        *(f"{name}_{k}" for k in (1, 2) for name in ("best", "mrd5", "mrd6", "pfs_days", "pfs_event")),
    ]
    pd.testing.assert_frame_equal(loose[same], tight[same])
    np.testing.assert_allclose(loose["cmax_2"], tight["cmax_2"], rtol=2e-3)


def test_progression_by_hazard_runs_on_the_real_cohorts_model(run):
    file = scenarios.parse('[settings]\nprogression = "hazard"\n' + TEXT + ONE_WORLD)
    products = [file.product(name) for name in file.product_names]
    population = from_prior(rng=np.random.default_rng(0), products=products, n_draws=20, options="real")
    experiment = run(file, population, patients=40, seed=3, simulate=None)
    two, none = arm(experiment, "two"), arm(experiment, "none")
    assert (two["pfs_event_1"] == "progression").all()
    assert two["pfs_days_2"].mean() > none["pfs_days_2"].mean()
