"""Published series beside simulated arms."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reinfuse.fits.retreatment import published_series as published
from reinfuse.fits.retreatment.counts import DAYS, Estimate
from reinfuse.fits.retreatment.published_series import Reading
from reinfuse.fits.retreatment.statistics import STACKED
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

BY_NAME = {series.name: series for series in published.SERIES}
AGAIN = BY_NAME["BCMA CAR-T after BCMA CAR-T"]
CARTITUDE = BY_NAME["cilta-cel after noncellular BCMA therapy"]


def outcomes(first="ide-cel", second="cilta-cel", *, scenario="sequence", months=20.0, orr=0.9, n=4000, seed=0):
    """Patients of 40 draws; second PFS is exponential with a median of so many months."""
    rng = np.random.default_rng(seed)
    days = rng.exponential(months * DAYS_PER_MONTH / np.log(2), n)
    follow_up = 60 * DAYS_PER_MONTH
    return pd.DataFrame(
        {
            "scenario": scenario,
            "first_product": first,
            "second_product": second,
            "draw": np.arange(n) % 40,
            "failed": False,
            "infused": True,
            "evaluable_2": True,
            "best_1": "VGPR",
            "best_2": np.where(rng.random(n) < orr, "SCR", "SD"),
            "mrd5_2": rng.random(n) < 0.5,
            "pfs_days_2": np.minimum(days, follow_up),
            "pfs_event_2": np.where(days < follow_up, "progression", "none"),
            "dor_days_2": np.where(rng.random(n) < orr, np.minimum(0.9 * days, follow_up), np.nan),
        }
    )


def compared(table, series=AGAIN, **options):
    return published.compare(table, series=[series], rng=np.random.default_rng(1), **options)


@pytest.mark.shared
def test_every_number_is_that_of_the_targets(shared: Path):
    rows = pd.read_csv(shared / "data/targets/second_infusion_outcomes.csv")
    text = " | ".join(f"{row.setting} {row.measure} {row.value} {row.ci_or_range}" for row in rows.itertuples())
    for series in published.SERIES:
        for reading in series.readings:
            if series.name.startswith("CT103A"):
                assert "3 sCR + 1 VGPR" in text
            elif reading.measure == "MRD-negative":
                continue  # in the abstract, not in the targets
            elif reading.months:
                assert f"{reading.value:.1f}" in text
            else:
                shown = f"{100 * reading.value:.1f}".removesuffix(".0")
                assert f"{shown}%" in text or f"{shown}.0%" in text or f"{shown} vs 88%" in text, series.name


def test_records_are_whole():
    assert len(BY_NAME) == len(published.SERIES) == 6
    for series in published.SERIES:
        assert series.tag in ("READ", "READ-abs", "secondary")
        assert series.source
        assert series.differs
        assert "RECALLED" not in series.source
        for reading in series.readings:
            assert reading.months or 0 <= reading.value <= 1
            if reading.low is not None:
                assert reading.low <= reading.value <= reading.high
    assert sum(reading.count or 0 for reading in BY_NAME["T-cell-engaging salvage after BCMA CAR-T"].readings) == 32
    assert [reading.count for reading in CARTITUDE.readings] == [12, 7, None, None]
    assert len(published.sources()) == 5, "two series come from one report"
    assert not any("http" in source for source in published.sources())


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("cilta-cel", {AGAIN.name, "CT103A after murine BCMA CAR-T", CARTITUDE.name}),
        ("ide-cel", {AGAIN.name, "ide-cel after BCMA therapy"}),
        ("bispecific antibody", {"BCMA bispecific after BCMA CAR-T"}),
        ("none", set()),
    ],
)
def test_arms_are_set_beside_the_series_they_suit(second, expected):
    either = "T-cell-engaging salvage after BCMA CAR-T"
    table = outcomes(second=second, n=40)
    found = {series.name for series in published.SERIES if published.arms_for(series, table) == ["sequence"]}
    assert found == expected | ({either} if expected else set())


def test_the_published_durations_are_a_named_misfit():
    made = compared(outcomes(months=26.0)).set_index("measure")
    row = made.loc["PFS median"]
    assert row["simulated"] == pytest.approx(26.0, rel=0.08)
    assert "the model is optimistic, though the published interval reaches that far" in row["verdict"]
    assert "published 8.3 months (7.9 months-NR)" in row["verdict"]
    assert np.isnan(row["tail_probability"]), "how many had a second CAR-T was not read"
    named = published.misfits(made.reset_index())
    assert any("PFS median" in sentence and AGAIN.differs in sentence for sentence in named)
    assert len(named) == made["verdict"].str.contains("the model is").sum()


def test_short_durations_are_pessimistic_and_the_published_ones_fit():
    assert (
        "the model is pessimistic" in compared(outcomes(months=2.0)).set_index("measure").loc["PFS median", "verdict"]
    )
    fitting = compared(outcomes(months=8.3)).set_index("measure").loc["PFS median"]
    assert "within what the simulation leaves open" in fitting["verdict"]


def test_a_known_size_gives_virtual_trials():
    made = compared(outcomes(months=9.0, orr=0.6), CARTITUDE).set_index("measure")
    orr = made.loc["ORR"]
    assert orr["trial_low"] <= 0.6 <= orr["trial_high"]
    assert orr["trial_high"] - orr["trial_low"] > 0.3
    assert orr["tail_probability"] > 0.5
    pfs = made.loc["PFS median"]
    assert pfs["trial_low"] < 6 < 12 < pfs["trial_high"]
    assert "no misfit that 20 patients could show" in pfs["verdict"]
    far = compared(outcomes(months=59.0), CARTITUDE).set_index("measure").loc["PFS median"]
    assert far["tail_probability"] < 0.05
    assert "optimistic" in far["verdict"]


def test_the_median_of_virtual_trials_has_its_exact_distribution():
    """Order statistics: the median of an odd number of independent times has a binomial distribution function."""
    table = outcomes(months=10.0, n=20000)
    part = published.tally(table, CARTITUDE, CARTITUDE.readings[2], rng=np.random.default_rng(1))
    below = published.trial_median(part, 21)
    chance = 1 - 0.5 ** (DAYS.coarse / (10 * DAYS_PER_MONTH))
    inside = DAYS.coarse < 60 * DAYS_PER_MONTH
    np.testing.assert_allclose(below[inside], stats.binom.sf(10, 21, chance[inside]), atol=0.03)
    drawn = np.median(np.random.default_rng(2).choice(table["pfs_days_2"], (4000, 21)), axis=1)
    empirical = np.searchsorted(np.sort(drawn), DAYS.coarse, side="right") / drawn.size
    np.testing.assert_allclose(below[inside], empirical[inside], atol=0.03)


def test_worlds_are_compared_one_by_one_and_mixed():
    table = pd.concat([outcomes(months=6.0).assign(world="worn"), outcomes(months=30.0).assign(world="fresh")])
    made = compared(table, CARTITUDE, weights={"worn": 0.5, "fresh": 0.5})
    pfs = made[made["measure"] == "PFS median"].set_index("world")
    assert list(pfs.index) == ["worn", "fresh", STACKED]
    mixed = pfs.loc[STACKED]
    assert pfs.loc["worn", "simulated"] < mixed["simulated"] < pfs.loc["fresh", "simulated"]
    assert mixed["trial_low"] < pfs.loc["fresh", "trial_low"]
    assert mixed["trial_high"] > pfs.loc["worn", "trial_high"]
    tails = 0.5 * (pfs.loc["worn", "tail_probability"] + pfs.loc["fresh", "tail_probability"])
    assert mixed["tail_probability"] >= tails - 1e-9
    with pytest.raises(ReinfuseError, match="dreamt"):
        compared(table, weights={"dreamt": 1.0})


def test_a_series_without_an_arm_says_so():
    made = compared(outcomes(), BY_NAME["BCMA bispecific after BCMA CAR-T"])
    assert made["n_simulated"].tolist() == [0, 0, 0]
    assert made["verdict"].str.contains("nothing to compare with").all()
    nobody = outcomes(n=80)
    nobody["infused"] = False
    assert compared(nobody)["verdict"].eq("nothing simulated to compare with").all()


def test_only_rows_that_count_are_counted():
    table = outcomes(n=400)
    table.loc[:99, "failed"] = True
    table.loc[100:149, "evaluable_2"] = False
    made = compared(table).set_index("measure")
    assert made.loc["ORR", "n_simulated"] == 250
    assert made.loc["PFS median", "n_simulated"] == 300


def test_verdict_words():
    reading = Reading(measure="ORR", value=0.6, n=20)
    figure = Estimate(value=0.9, low=0.8, high=0.95, mc_error=0.01, n=100)
    assert published.verdict(reading, figure, tail=0.01).endswith("the model is optimistic")
    assert published.verdict(reading, figure, tail=0.2).endswith("no misfit that 20 patients could show")
    assert published.verdict(reading, figure).endswith("the model is optimistic")


def test_a_class_that_the_rules_do_not_have_is_no_misfit():
    table = outcomes()
    table["best_2"] = table["best_2"].replace("SCR", "CR")
    made = compared(table, BY_NAME["CT103A after murine BCMA CAR-T"]).set_index("measure")
    assert made.loc["sCR", "verdict"] == "nothing simulated to compare with"
    assert made.loc[">=VGPR", "n_simulated"] == 4000
