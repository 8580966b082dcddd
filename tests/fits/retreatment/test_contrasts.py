import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinfuse.fits.retreatment import contrasts as paired
from reinfuse.fits.retreatment.statistics import STACKED
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

GROUPS = ("durable", "early-relapse")
WEIGHTS = {"x": 0.75, "y": 0.25}


def arm(months, *, responds=None, group=None, draws=20):
    """Outcomes of an arm whose patients have such second PFS; 60 months of follow-up."""
    months = np.asarray(months, dtype=float)
    n = months.size
    table = pd.DataFrame({"patient": np.arange(n), "draw": np.arange(n) % draws, "failed": False, "infused": True})
    table["group"] = np.where(np.arange(n) % 2 == 0, *GROUPS) if group is None else group
    responds = np.ones(n, dtype=bool) if responds is None else responds
    table["best_2"], table["evaluable_2"] = np.where(responds, "VGPR", "SD"), True
    table["mrd5_2"], table["mrd6_2"] = responds, False
    table["pfs_days_2"] = np.minimum(months, 60.0) * DAYS_PER_MONTH
    table["pfs_event_2"] = np.where(months < 60, "progression", "none")
    return table


def random_arm(seed, n=400, scale=15.0):
    rng = np.random.default_rng(seed)
    return arm(rng.exponential(scale, n), responds=rng.random(n) < 0.6)


def reader(worlds):
    return lambda scenario, world: worlds[world][scenario]


def one_world(**arms):
    return reader({"x": arms})


def compare(read, first="a", second="b", weights=None, **more):
    return paired.contrasts(read, pairs=[(first, second)], groups=GROUPS, weights=weights or {"x": 1.0}, **more)


def of(table, world=STACKED, group="all"):
    return table[(table["world"] == world) & (table["group"] == group)].set_index("measure")


NUMBERS = ["value", "low", "high", "mc_error"]


def test_an_arm_against_itself_is_exactly_nothing():
    table = compare(one_world(a=random_arm(0)), second="a")
    differences = table[~table["measure"].str.contains("gains|loses")]
    assert (differences[NUMBERS] == 0).all(axis=None)
    assert (table[table["measure"].str.contains("gains|loses")]["value"] == 0).all()
    assert tuple(table.columns) == paired.CONTRAST_COLUMNS


def test_swapping_arms_flips_the_sign():
    read = one_world(a=random_arm(0), b=random_arm(1))
    there, back = of(compare(read)), of(compare(read, "b", "a"))
    own = [name for name in there.index if "gains" not in name and "loses" not in name]
    np.testing.assert_allclose(there.loc[own, "value"], -back.loc[own, "value"], atol=1e-12)
    np.testing.assert_allclose(there.loc[own, "low"], -back.loc[own, "high"], atol=1e-9)
    np.testing.assert_allclose(there.loc[own, "mc_error"], back.loc[own, "mc_error"], atol=1e-12)
    gains, loses = (next(name for name in there.index if word in name) for word in ("gains", "loses"))
    np.testing.assert_array_equal(
        there.loc[gains, NUMBERS].to_numpy(dtype=float), back.loc[loses, NUMBERS].to_numpy(dtype=float)
    )


def test_permuting_patients_changes_nothing():
    a, b = random_arm(0), random_arm(1)
    shuffled = one_world(a=a.sample(frac=1, random_state=1), b=b.sample(frac=1, random_state=2))
    read = one_world(a=a, b=b)
    pd.testing.assert_frame_equal(compare(shuffled), compare(read), check_exact=True)
    ask = {"arms": ("a", "b"), "groups": GROUPS, "weights": {"x": 1.0}}
    pd.testing.assert_frame_equal(paired.choices(shuffled, **ask), paired.choices(read, **ask), check_exact=True)
    ask = {"first": "a", "second": "b", "weights": {"x": 1.0}}
    pd.testing.assert_frame_equal(paired.benefit(shuffled, **ask), paired.benefit(read, **ask), check_exact=True)


def test_a_constant_gain_is_found_without_error():
    base = np.random.default_rng(3).uniform(1, 10, 400)
    row = of(compare(one_world(a=arm(base + 3), b=arm(base)))).loc["second PFS to 24 months"]
    assert row["value"] == pytest.approx(3.0)
    assert row["mc_error"] == pytest.approx(0.0, abs=1e-12), "pairing takes away what patients do not share"
    assert [row["low"], row["high"]] == pytest.approx([3.0, 3.0])


def test_what_a_pair_of_arms_differs_by():
    # four patients: gains 5 to the horizon, loses 2, gains half a month, is the same
    a = arm([30, 8, 10.5, 7], responds=np.array([1, 0, 1, 1], dtype=bool), draws=2)
    b = arm([19, 10, 10, 7], responds=np.array([0, 0, 1, 1], dtype=bool), draws=2)
    table = of(compare(one_world(a=a, b=b)))
    assert table.loc["second PFS to 24 months", "value"] == pytest.approx((5 - 2 + 0.5) / 4)
    assert table.loc["gains more than 1 month of PFS", "value"] == 0.25
    assert table.loc["loses more than 1 month of PFS", "value"] == 0.25
    assert table.loc["ORR", "value"] == 0.25
    assert table.loc["MRD-negative 1e-5", "value"] == 0.25
    durable = of(compare(one_world(a=a, b=b)), group="durable")
    assert durable.loc["second PFS to 24 months", "value"] == pytest.approx((5 + 0.5) / 2)
    no_margin = of(compare(one_world(a=a, b=b), margin_months=0.0))
    assert no_margin.loc["gains PFS", "value"] == 0.5


def test_the_error_is_that_of_a_repeated_experiment():
    def once(seed):
        rng = np.random.default_rng(seed)
        n, draws = 400, 20
        effect = rng.normal(4, 1.5, draws)[np.arange(n) % draws]
        base = rng.uniform(6, 10, n)
        return of(compare(one_world(a=arm(base + effect), b=arm(base + rng.normal(0, 1, n))))).loc[
            "second PFS to 24 months"
        ]

    rows = [once(seed) for seed in range(40)]
    assert np.mean([row["mc_error"] for row in rows]) == pytest.approx(np.std([row["value"] for row in rows]), rel=0.3)
    # between draws the gain has an sd of 1.5
    assert np.mean([row["high"] - row["low"] for row in rows]) == pytest.approx(2 * 1.96 * 1.5, rel=0.15)


def test_worlds_are_stacked_and_shown():
    base = np.full(200, 10.0)
    read = reader({"x": {"a": arm(base + 4), "b": arm(base)}, "y": {"a": arm(base - 4), "b": arm(base)}})
    table = compare(read, weights=WEIGHTS)
    values = [of(table, world).loc["second PFS to 24 months", "value"] for world in (STACKED, "x", "y")]
    assert values == pytest.approx([0.75 * 4 - 0.25 * 4, 4, -4])
    stacked = of(table).loc["second PFS to 24 months"]
    assert (stacked["low"], stacked["high"]) == (pytest.approx(-4, abs=0.01), pytest.approx(4, abs=0.01))
    by_patient = paired.benefit(read, first="a", second="b", weights=WEIGHTS)
    assert (by_patient["benefit"] == 0.75).all()
    assert (by_patient["harm"] == 0.25).all()
    np.testing.assert_allclose(by_patient["difference"], 2.0)


def test_a_patient_who_counts_in_one_world_is_judged_there():
    base = np.full(10, 10.0)
    lost = arm(base - 4)
    lost.loc[0, "infused"] = False
    read = reader({"x": {"a": arm(base + 4), "b": arm(base)}, "y": {"a": lost, "b": arm(base)}})
    by_patient = paired.benefit(read, first="a", second="b", weights=WEIGHTS)
    assert by_patient["benefit"].tolist() == [1.0] + 9 * [0.75]


def test_only_patients_of_both_arms_are_paired():
    a, b = random_arm(0, n=20), random_arm(1, n=20)
    a.loc[3, "failed"], b.loc[5, "infused"] = True, False
    both = paired.pair(a, b.iloc[::-1])
    assert both.patient.tolist() == [k for k in range(20) if k not in (3, 5)]
    assert (both.first["patient"].to_numpy() == both.second["patient"].to_numpy()).all()
    with pytest.raises(ReinfuseError, match="twice"):
        paired.pair(pd.concat([a, a]), b)
    with pytest.raises(ReinfuseError, match="different draws"):
        paired.pair(a, b.assign(draw=0))


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        ({"margin_months": -1.0}, "margin"),
        ({"horizon_months": 0.0}, "horizon"),
        ({"horizon_months": 61.0}, "follow-up ends at 60"),
        ({"weights": {"x": 0.4}}, "sum to 1"),
    ],
)
def test_bad_questions_are_refused(ask, match):
    read = one_world(a=arm(np.full(9, 70.0)), b=arm(np.full(9, 70.0)))
    with pytest.raises(ReinfuseError, match=match):
        compare(read, **ask)


def choose(read, weights=None, arms=("a", "b")):
    return paired.choices(read, arms=arms, groups=GROUPS, weights=weights or {"x": 1.0})


def regret(table, measure="regret of the common choice", world=STACKED, group="all"):
    chosen = table[(table["world"] == world) & (table["group"] == group) & (table["measure"] == measure)]
    return chosen.iloc[0]


def test_the_regret_of_the_common_choice():
    # a is best for even patients (by 6), b for odd (by 2): a is the common choice, odd patients lose 2
    even = np.arange(40) % 2 == 0
    table = choose(one_world(a=arm(np.where(even, 16.0, 8.0)), b=arm(10.0 + 0 * even)))
    row = regret(table)
    assert (row["arm"], row["value"]) == ("a", pytest.approx(1.0))
    assert regret(table, group="durable")["value"] == 0.0
    assert regret(table, group="early-relapse")["value"] == pytest.approx(2.0)
    assert regret(table, group="early-relapse")["arm"] == "a", "the choice is made for everyone"
    group = regret(table, "regret of the group's choice", group="early-relapse")
    assert (group["arm"], group["value"]) == ("b", 0.0)
    share = table[(table["measure"] == "own best arm") & (table["group"] == "all") & (table["world"] == STACKED)]
    assert share.set_index("arm")["value"].to_dict() == {"a": 0.5, "b": 0.5}


def test_an_arm_that_is_best_for_everyone_leaves_no_regret_and_ties_go_to_it():
    base = np.random.default_rng(0).uniform(1, 10, 60)
    table = choose(one_world(a=arm(base), b=arm(base + (np.arange(60) < 30))))
    assert regret(table)["arm"] == "b"
    assert regret(table)["value"] == 0.0
    best = paired.best_arms(one_world(a=arm(base), b=arm(base + 1)), arms=("a", "b"), weights={"x": 1.0})
    assert (best["best"] == "b").all()
    assert (best["regret"] == 0).all()


def test_who_does_not_know_the_world_chooses_on_its_average():
    base = np.full(30, 10.0)
    read = reader({"x": {"a": arm(base + 2), "b": arm(base)}, "y": {"a": arm(base - 8), "b": arm(base)}})
    table = choose(read, weights=WEIGHTS)
    assert regret(table)["arm"] == "b", "three quarters of 2 less one quarter of 8 is below 0"
    assert regret(table)["value"] == 0.0
    assert regret(table, world="x")["arm"] == "a"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_regret_is_never_negative_and_never_more_than_of_another_arm(seed, many):
    rng = np.random.default_rng(seed)
    arms = {f"arm {k}": arm(rng.exponential(12, 50)) for k in range(many)}
    read = one_world(**arms)
    table = choose(read, arms=tuple(arms))
    own = table[(table["world"] == "x") & (table["group"] == "all")]
    means = own[own["measure"].str.startswith("mean PFS")]["value"].to_numpy()
    value = regret(table)["value"]
    assert value >= 0
    assert 0 <= regret(table)["low"] <= value <= regret(table)["high"] <= 24
    top = np.max([np.minimum(frame["pfs_days_2"] / DAYS_PER_MONTH, 24) for frame in arms.values()], axis=0).mean()
    assert value == pytest.approx(top - means.max())
    assert own[own["measure"] == "own best arm"]["value"].sum() == pytest.approx(1)
    best = paired.best_arms(read, arms=tuple(arms), weights={"x": 1.0})
    assert best["regret"].mean() == pytest.approx(value)


def test_one_arm_is_no_choice():
    with pytest.raises(ReinfuseError, match="at least two"):
        choose(one_world(a=random_arm(0)), arms=("a",))
    assert "upper bound" in paired.UPPER_BOUND
