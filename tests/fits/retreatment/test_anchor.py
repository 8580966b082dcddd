import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import anchor
from reinfuse.fits.retreatment.statistics import STACKED, trial_counts
from reinfuse.model.errors import ReinfuseError


def outcomes(n=400, vgpr=0.8, mrd=0.6, loss=0.1, draws=40, seed=0):
    """Patients of one draw after another with given shares; second PFS is longer after a long first."""
    rng = np.random.default_rng(seed)
    first = rng.uniform(30, 1000, n)
    return pd.DataFrame(
        {
            "scenario": "sequence",
            "draw": np.arange(n) % draws,
            "failed": False,
            "infused": True,
            "evaluable_2": True,
            "best_1": np.where(np.arange(n) % 4 == 0, "SD", "VGPR"),
            "best_2": np.where(rng.random(n) < vgpr, "VGPR", "PR"),
            "mrd5_2": rng.random(n) < mrd,
            "antigen_loss": rng.random(n) < loss,
            "pfs_days_1": first,
            "pfs_days_2": first + 50 * rng.standard_normal(n) + 200,
        }
    )


def test_the_study_is_what_its_summary_says():
    counts = {published.measure: (published.successes, published.n) for published in anchor.COUNTS}
    assert list(counts.values()) == [(10, 10), (6, 10), (1, 10)]
    assert "Richardson" in anchor.SOURCE
    assert "summary only" in anchor.SOURCE


def test_the_table_sets_exact_intervals_beside_the_model():
    table = anchor.compare(outcomes(), "sequence").set_index("measure")
    assert set(table.reset_index().columns) == set(anchor.TABLE_COLUMNS)
    vgpr = table.loc[">=VGPR to the second product"]
    assert (round(vgpr["observed_low"], 2), vgpr["observed_high"]) == (0.69, 1.0)
    assert vgpr["simulated_share"] == pytest.approx(0.8, abs=0.05)
    # ten of ten with a chance of 0.8: 0.107, twice
    assert vgpr["tail_probability"] == pytest.approx(2 * 0.8**10, abs=0.1)
    mrd = table.loc["MRD-negative after the second product"]
    assert (round(mrd["observed_low"], 2), round(mrd["observed_high"], 2)) == (0.26, 0.88)
    assert mrd["tail_probability"] > 0.5
    assert mrd["trial_low"] <= 6 <= mrd["trial_high"]


def test_only_patients_who_count_are_compared():
    table = outcomes(n=100)
    table.loc[:19, "failed"] = True
    table.loc[20:39, "infused"] = False
    table.loc[40:49, "evaluable_2"] = False
    made = anchor.compare(table, "sequence")
    assert made["n_simulated"].tolist() == [50, 60, 60]
    assert set(made["patients"]) == {anchor.EVERYONE}
    narrowed = anchor.compare(table, "sequence", responders=True)
    assert narrowed["n_simulated"].tolist() == [38, 45, 45], "one in four had not responded"
    assert set(narrowed["patients"]) == {anchor.RESPONDERS}


def test_the_direction_is_found_and_comes_with_its_caution():
    found = anchor.direction(outcomes(), "sequence", rng=np.random.default_rng(1))
    assert found.correlation > 0.9
    assert found.trials_longer > 0.95
    assert "no evidence" in found.sentence
    # all first remissions long: nothing to compare with
    table = outcomes()
    table["pfs_days_1"] = 1000.0
    assert "cannot be told" in anchor.direction(table, "sequence", rng=np.random.default_rng(1)).sentence


def test_words_hold_the_numbers():
    for _, row in anchor.compare(outcomes(), "sequence").iterrows():
        text = anchor.words(row)
        assert f"observed {row['observed']}/10" in text
        assert "expected" in text
    nobody = anchor.compare(outcomes(), "no such scenario")
    assert "no virtual patient" in anchor.words(nobody.iloc[0])


def test_the_counts_of_the_figure_are_those_of_the_table():
    table = anchor.compare(outcomes(), "sequence")
    pairs = anchor.simulated_outcomes(anchor.patients_of(outcomes(), "sequence"))
    for (outcome, draw), (_, row) in zip(pairs, table.iterrows(), strict=True):
        counts = trial_counts(outcome, draw, anchor.SIZE)
        assert counts[int(row["trial_low"]) : int(row["trial_high"]) + 1].sum() >= 0.95


# ---------------------------------------------------------------------------------------------- worlds


def several(**share):
    """Outcomes of the same draws in worlds with different shares of >= VGPR."""
    made = [outcomes(vgpr=vgpr, seed=k).assign(world=world) for k, (world, vgpr) in enumerate(share.items())]
    table = pd.concat(made, ignore_index=True)
    return table.astype(dict.fromkeys(("scenario", "world", "best_1", "best_2"), "category"))


WEIGHTS = {"on": 0.25, "off": 0.75}


def test_every_world_is_compared_and_then_their_mixture():
    table = several(on=0.5, off=0.9)
    made = anchor.compare(table, "sequence", weights=WEIGHTS)
    assert list(dict.fromkeys(made["world"])) == ["on", "off", STACKED]
    by_world = made[made["measure"] == ">=VGPR to the second product"].set_index("world")
    alone = anchor.compare(table[table["world"] == "on"], "sequence")
    assert by_world.loc["on", "simulated_share"] == alone.iloc[0]["simulated_share"]
    blend = 0.25 * by_world.loc["on", "simulated_share"] + 0.75 * by_world.loc["off", "simulated_share"]
    assert by_world.loc[STACKED, "simulated_share"] == pytest.approx(blend)
    # a virtual study happens in one world: the tails mix, and the mixture is wider than either
    tail = 0.25 * by_world.loc["on", "tail_probability"] + 0.75 * by_world.loc["off", "tail_probability"]
    assert by_world.loc[STACKED, "tail_probability"] == pytest.approx(tail, abs=1e-9)
    assert by_world.loc["on", "trial_low"] <= by_world.loc[STACKED, "trial_low"] <= by_world.loc["off", "trial_low"]
    assert by_world.loc[STACKED, "simulated_low"] < by_world.loc["off", "simulated_low"]


def test_all_weight_on_one_world_is_that_world():
    made = anchor.compare(several(on=0.5, off=0.9), "sequence", weights={"on": 1.0, "off": 0.0}).set_index("world")
    numbers = [column for column in made.columns if made[column].dtype.kind in "fi"]
    pd.testing.assert_frame_equal(
        made.loc["on", numbers].reset_index(drop=True), made.loc[STACKED, numbers].reset_index(drop=True)
    )


def test_tallies_one_world_at_a_time_give_the_same_table():
    table = several(on=0.5, off=0.9)
    tallies = {str(world): anchor.tally(rows, responders=True) for world, rows in table.groupby("world", observed=True)}
    streamed = anchor.beside_study({w: tallies[w] for w in WEIGHTS}, responders=True, weights=WEIGHTS)
    pd.testing.assert_frame_equal(streamed, anchor.compare(table, "sequence", responders=True, weights=WEIGHTS))


def test_the_best_class_counts_too():
    table = outcomes()
    table["best_2"] = "SCR"
    assert anchor.compare(table, "sequence").iloc[0]["simulated_share"] == 1.0


def test_worlds_must_be_there():
    table = several(on=0.5, off=0.9)
    with pytest.raises(ReinfuseError, match="no outcomes of the world 'dreamt'"):
        anchor.compare(table, "sequence", weights={"on": 0.5, "dreamt": 0.5})
    with pytest.raises(ReinfuseError, match="sum to 1"):
        anchor.compare(table, "sequence", weights={"on": 0.5})
    with pytest.raises(ReinfuseError, match="name one of them"):
        anchor.direction(table, "sequence", rng=np.random.default_rng(1))


def test_directions_of_worlds_are_averaged():
    table = several(on=0.5, off=0.9)
    rng = np.random.default_rng(1)
    worlds = {world: anchor.direction(table, "sequence", rng=rng, world=world) for world in WEIGHTS}
    found = anchor.stacked_direction(worlds, WEIGHTS)
    assert found.trials_longer == pytest.approx(0.25 * worlds["on"].trials_longer + 0.75 * worlds["off"].trials_longer)
    assert "no evidence" in found.sentence
    with pytest.raises(ReinfuseError, match="dreamt"):
        anchor.stacked_direction(worlds, {"dreamt": 1.0})


def test_a_million_patients_are_all_counted():
    table = outcomes(n=1_000_000, draws=1000).astype(dict.fromkeys(("scenario", "best_1", "best_2"), "category"))
    made = anchor.compare(table, "sequence")
    assert made["n_simulated"].tolist() == [1_000_000] * 3
