"""Who gets the blame for a relapse: causes that were put in come out, and nothing comes out of nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinfuse.fits.retreatment.drivers import (
    NO_RELAPSE,
    NONE_ALONE,
    attribute,
    summarise_drivers,
)
from reinfuse.fits.retreatment.mechanisms import BETTER, MECHANISMS
from reinfuse.fits.retreatment.outcomes import read_course
from reinfuse.fits.retreatment.scenarios import WORLDS, FirstCourse, Scenario
from reinfuse.fits.retreatment.virtual_patients import SampledPopulation, VirtualPatients
from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import REFERENCE, VARIANTS, to_transformed
from reinfuse.model.products import product
from reinfuse.model.response import ResponseRules
from reinfuse.model.simulate import simulate_population

VISIT = 28.0
HORIZON = 1820.0
KEYS = [mechanism.key for mechanism in MECHANISMS]
SCENARIO = Scenario(name="one", first=FirstCourse(product="ide-cel"), no_second=True)
NOTHING = {"bR": 0.0, "bXQ": 0.0, "sline": 0.0, "sres": 0.0, "fr": 0.0, "alA": 0.0, "bX": 0.0, "bK": 0.0, "kX": 0.0}


def healthy(n: int, **changes) -> VirtualPatients:
    """Patients without any mechanism of relapse, all alike, but for what is named; five draws in turn."""
    values = {name: row.median for name, row in REFERENCE.items() if not name.startswith("sigma_")}
    values |= NOTHING | changes
    return VirtualPatients(
        parameters={
            name: np.broadcast_to(np.asarray(value, dtype=float), (n,)).copy() for name, value in values.items()
        },
        draw=np.arange(n) % 5,
        fields={},
        occasion=np.zeros((n, 8)),
    )


def same_for_all(n_draws: int = 5, **values: float) -> dict[str, np.ndarray]:
    """Favourable values that change nobody, but for what is named."""
    own = {name: REFERENCE[name].median for name in BETTER} | values
    return {name: np.full(n_draws, value) for name, value in own.items()}


def plain_course(patients: VirtualPatients) -> SimpleNamespace:
    """A first course in closed form: each mechanism takes its share of 900 days; seen at visits, followed 1820 days.

    The luck of patient i is his number of extra days, by his B0.
    """
    p = patients.parameters
    kept = np.exp(-p["bR"] - p["alA"] * 20 - p["bK"] - p["kX"] * 20 - patients.fields.get(("ide-cel", "fX0"), 0.0))
    killing = p["k"] / REFERENCE["k"].median * REFERENCE["KE"].median / p["KE"]
    stays = REFERENCE["dM"].median / p["dM"]
    days = 900 * kept * killing * stays
    with np.errstate(divide="ignore"):
        escape = np.where(p["fr"] > 0, -60 * np.log(np.maximum(p["fr"], 1e-300)), np.inf)
    days = np.minimum(days, escape) + 7 * np.log10(p["B0"])
    seen = VISIT * np.ceil(days / VISIT)
    return SimpleNamespace(pfs_days=np.minimum(seen, HORIZON), progressed=seen <= HORIZON)


def seen(patients, favourable=None) -> VirtualPatients:
    """Patients beside favourable ones of their draws."""
    values = same_for_all() if favourable is None else favourable
    return replace(patients, favourable={name: value[patients.draw] for name, value in values.items()})


def blame(patients, *, course=plain_course, favourable=None, scenario=SCENARIO, **more):
    return attribute(
        patients=seen(patients, favourable),
        first_course=course,
        factors=scenario.hypotheses(WORLDS[0]),
        rows=REFERENCE,
        product=product("ide-cel"),
        visit_interval=VISIT,
        **more,
    )


CAUSES = {
    "host_dysfunction": ({"bR": 0.8}, {}),
    "exhaustion": ({"kX": 0.04}, {}),
    "antigen_loss_fraction": ({"fr": 1e-3}, {}),
    "anti_car_immunity": ({"alA": 0.04}, {}),
    "microenvironment": ({"bK": 0.6}, {}),
    "resistance": ({"KE": 500.0}, {"KE": 150.0}),
    "short_persistence": ({"dM": 0.03}, {"dM": 0.01}),
}


@pytest.mark.parametrize("key", CAUSES)
def test_the_cause_put_in_is_the_one_found(key):
    changes, favourable = CAUSES[key]
    table = blame(healthy(10, **changes), favourable=same_for_all(**favourable))
    assert (table["main"] == key).all()
    assert (table[f"share_{key}"] == 1).all()
    assert (table[f"gain_{key}"] > VISIT).all()
    others = [f"gain_{other}" for other in KEYS if other != key]
    assert (table[others] == 0).all(axis=None)


def test_without_mechanisms_nobody_is_blamed():
    table = blame(healthy(12))
    assert table["relapsed"].all()
    assert (table["main"] == NONE_ALONE).all()
    assert (table["share_none"] == 1).all()


def test_a_gain_of_one_visit_is_not_enough():
    patients = healthy(2, bR=[0.03, 0.1], B0=1e11)
    table = blame(patients)
    assert table["gain_host_dysfunction"].tolist() == [28.0, 84.0]
    assert table["main"].tolist() == [NONE_ALONE, "host_dysfunction"]


def test_the_larger_gain_leads_and_equal_gains_share():
    table = blame(healthy(2, bR=[0.8, 0.5], bK=[0.3, 0.5]))
    assert table["main"].tolist() == ["host_dysfunction", "host_dysfunction + microenvironment"]
    assert table["share_microenvironment"].tolist() == [0.0, 0.5]
    assert table["share_host_dysfunction"].tolist() == [1.0, 0.5]


def test_who_does_not_relapse_is_not_judged():
    patients = healthy(3, k=[0.8, 5.0, 0.8], bR=0.8)
    patients.parameters["k"][2] = np.nan  # a course that could not be simulated
    table = blame(patients)
    assert table["main"].tolist() == ["host_dysfunction", NO_RELAPSE, NO_RELAPSE]
    assert table["share_none"].isna().tolist() == [False, True, True]
    assert table["gain_host_dysfunction"].isna().tolist() == [False, True, True]
    assert summarise_drivers(table)["n"].eq(1).all()


def test_a_relapse_beyond_follow_up_is_averted():
    table = blame(healthy(1, bR=1.0), favourable=same_for_all(k=0.8 * 8))
    assert table["averted_resistance"].tolist() == [True]
    assert table["averted_host_dysfunction"].tolist() == [False]
    assert table["gain_resistance"][0] == HORIZON - table["pfs_days"][0]
    assert table["main"][0] == "resistance"


def test_own_values_that_are_better_are_kept():
    table = blame(healthy(2, KE=[50.0, 500.0]), favourable=same_for_all(KE=100.0))
    assert table["relapsed"].tolist() == [False, True]
    table = blame(healthy(2, KE=[150.0, 500.0], bK=0.6), favourable=same_for_all(KE=300.0))
    assert table["gain_resistance"].tolist()[0] == 0
    assert table["gain_resistance"].tolist()[1] > 0


def test_a_hypothesis_switched_off_cannot_be_blamed():
    off = SCENARIO.model_copy(update={"host_dysfunction": 0.0})
    table = blame(healthy(4, bR=0.8), scenario=off)
    assert (table["main"] == NONE_ALONE).all()
    doubled = SCENARIO.model_copy(update={"host_dysfunction": 2.0})
    assert (blame(healthy(4, bR=0.4), scenario=doubled)["pfs_days"] == blame(healthy(4, bR=0.8))["pfs_days"]).all()


@given(order=st.permutations(range(9)), seed=st.integers(0, 100))
def test_patients_may_come_in_any_order(order, seed):
    rng = np.random.default_rng(seed)
    changes = {"bR": rng.uniform(0, 1, 9), "bK": rng.uniform(0, 0.9, 9), "fr": 10 ** rng.uniform(-9, -2, 9)}
    patients = healthy(9, **changes, B0=10 ** rng.uniform(10, 12, 9))
    straight = blame(patients, number=np.arange(9))
    shuffled = blame(patients.subset(np.array(order)), number=np.array(order))
    columns = [column for column in straight if column != "draw"]
    again = shuffled.sort_values("patient", ignore_index=True)[columns]
    assert again.equals(straight[columns])
    shares = straight[[f"share_{key}" for key in KEYS] + ["share_none"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)


# -------------------------------------------------------------------------------------------- favourable


def population(**spread: float) -> SampledPopulation:
    rows = {name: row for name, row in REFERENCE.items() if not name.startswith("sigma_")}
    centre = np.tile([float(to_transformed(r.median, transform=r.transform)) for r in rows.values()], (3, 1))
    centre[1, list(rows).index("KE")] += 1.0
    sd = np.zeros_like(centre)
    for name, value in spread.items():
        sd[:, list(rows).index(name)] = value
    return SampledPopulation(
        rows=rows,
        centre=centre,
        spread=sd,
        fields={},
        occasion_sd=np.zeros(3),
        options="reference",
        variant=VARIANTS["full"],
        prior_only=frozenset(),
        source="a toy",
    )


def test_favourable_values_are_quantiles_of_the_population():
    drawn = population(KE=0.9, dM=0.7)
    found = drawn.favourable
    assert set(found) == set(BETTER)
    sample = drawn.sample(60_000, np.random.default_rng(1))
    for draw in range(3):
        mine = sample.draw == draw
        for name, share in (("KE", 0.1), ("dM", 0.1)):
            assert np.mean(sample.parameters[name][mine] <= found[name][draw]) == pytest.approx(share, abs=0.01)
    np.testing.assert_allclose(found["k"], REFERENCE["k"].median)
    np.testing.assert_allclose(found["KE"][1] / found["KE"][0], np.e)


# ------------------------------------------------------------------------------------------------ summary


def test_probabilities_add_up_and_tell_groups_apart():
    n = 200
    cause = np.arange(n) % 4 == 0
    patients = healthy(n, bR=np.where(cause, 0.8, 0.0), alA=np.where(cause, 0.0, 0.04))
    table = blame(patients, group=np.where(cause, "early-relapse", "durable"))
    found = summarise_drivers(table).set_index(["group", "driver"])
    assert found.loc[("all", "host T-cell dysfunction"), "probability"] == pytest.approx(0.25)
    assert found.loc[("early-relapse", "host T-cell dysfunction"), "probability"] == 1
    assert found.loc[("durable", "anti-CAR immunity"), "probability"] == 1
    np.testing.assert_allclose(found["probability"].groupby("group").sum(), 1)
    assert (found["low"] <= found["probability"]).all()
    assert (found["probability"] <= found["high"]).all()
    assert found.loc[("early-relapse", "host T-cell dysfunction"), "low"] > 0.9
    assert found.loc[("all", NONE_ALONE), "probability"] == 0


def test_the_interval_holds_what_draws_disagree_about():
    patients = healthy(500)
    guilty = patients.draw < 2  # two draws of five say so, for all their patients
    patients.parameters["bR"] = np.where(guilty, 0.8, 0.0)
    found = summarise_drivers(blame(patients)).set_index("driver").loc["host T-cell dysfunction"]
    assert found["probability"] == pytest.approx(0.4)
    assert found["low"] < 0.02
    assert found["high"] > 0.95
    assert "disagree" in found["warning"]
    mixed = healthy(500)
    mixed.parameters["bR"] = np.where(np.arange(500) // 5 % 5 < 2, 0.8, 0.0)  # the same share in every draw
    calm = summarise_drivers(blame(mixed)).set_index("driver").loc["host T-cell dysfunction"]
    assert calm["probability"] == pytest.approx(0.4)
    assert calm["high"] - calm["low"] < 0.12
    assert calm["warning"] == ""


def test_warnings_say_where_the_data_cannot_tell():
    patients = healthy(10, bR=0.8, KE=300.0)
    favourable = same_for_all(KE=100.0)
    found = summarise_drivers(
        blame(patients, favourable=favourable),
        prior_only={"bR", "bXQ", "sline", "sres", "KE", "fr"},
        patients=seen(patients, favourable),
    ).set_index("driver")["warning"]
    assert found["host T-cell dysfunction"] == (
        "The data cannot tell: no data have moved bR, bXQ, sline, sres, so this probability is the prior's."
    )
    assert found["tumour-intrinsic resistance"] == (
        "Partly the prior's: no data have moved KE. Through KE alone: these patients are all alike in k."
    )
    assert found["short persistence"].startswith("It could not be found")
    assert found["antigen loss"].startswith("The data cannot tell")
    assert "could not be found" in found["antigen loss"]  # nobody has a BCMA-low clone before therapy
    assert found[NONE_ALONE] == ""


def test_nobody_relapsed_leaves_an_empty_summary():
    assert summarise_drivers(blame(healthy(2, k=5.0))).empty


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"visit_interval": 0.0}, "visit_interval is 0.0"),
        ({"drivers": ()}, "no driver"),
        ({"group": ["all"]}, r"group has shape \(1,\)"),
        ({"number": [1, 2]}, "number has shape"),
        (
            {"first_course": lambda patients: SimpleNamespace(pfs_days=np.zeros(2), progressed=np.zeros(2))},
            "keep their",
        ),
    ],
)
def test_faults_are_named(changes, words):
    good = {"patients": healthy(3), "first_course": plain_course, "factors": SCENARIO.multipliers, "rows": REFERENCE}
    good |= {"visit_interval": VISIT, "product": product("ide-cel")}
    with pytest.raises(ReinfuseError, match=words):
        attribute(**(good | changes))


def test_a_level_out_of_range_is_named():
    with pytest.raises(ReinfuseError, match="level is 1"):
        summarise_drivers(blame(healthy(1)), level=1.0)


# ---------------------------------------------------------------------------------------------- the model


def model_course(patients: VirtualPatients):
    """First courses of ide-cel by the real simulator, five years, nobody dies."""
    times = np.unique(np.r_[np.arange(61.0), np.arange(0.0, HORIZON + 1, VISIT)])
    simulated = simulate_population(
        course=[Infusion(product="ide-cel")], times=times, parameters=patients.parameters, land=False
    )
    return read_course(
        simulated,
        follow_up=HORIZON,
        death_days=np.full(patients.n, np.inf),
        rules=ResponseRules(visit_interval=VISIT),
    )


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("antigen_loss_fraction", {"fr": 1e-3, "k": 2.0, "KE": 30.0}),
        ("anti_car_immunity", {"alA": 3.0, "kA": 0.2}),
        ("microenvironment", {"bK": 0.9, "KQ": 1e9}),
        ("host_dysfunction", {"bR": 2.0, "Q0": 0.8}),
    ],
)
def test_the_model_blames_the_mechanism_that_was_made_the_cause(key, changes):
    patients = healthy(8, **changes, B0=np.geomspace(5e10, 2e11, 8), r=np.linspace(0.01, 0.016, 8))
    table = blame(patients, course=model_course)
    assert table["relapsed"].all()
    assert (table["main"] == key).all()
    assert (table[f"gain_{key}"] > 2 * VISIT).all()


@pytest.mark.parametrize(
    ("key", "own", "better"),
    [
        ("resistance", {"KE": 2000.0}, {"KE": 100.0}),
        ("short_persistence", {"dE": 0.4, "dM": 0.1}, {"dE": 0.12, "dM": 0.005}),
    ],
)
def test_the_model_blames_what_is_far_from_favourable(key, own, better):
    patients = healthy(8, **own, B0=np.geomspace(5e10, 2e11, 8), r=np.linspace(0.01, 0.016, 8))
    table = blame(patients, course=model_course, favourable=same_for_all(**better))
    assert table["relapsed"].all()
    assert (table["main"] == key).all()


def test_the_model_blames_nothing_where_nothing_is():
    patients = healthy(8, B0=np.geomspace(5e10, 2e11, 8), r=np.linspace(0.01, 0.016, 8))
    table = blame(patients, course=model_course)
    assert table["relapsed"].any()
    assert set(table["main"]) <= {NONE_ALONE, NO_RELAPSE}
