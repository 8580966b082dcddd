import numpy as np
import pandas as pd
import pytest

from reinfuse.fits.retreatment import anchor
from reinfuse.fits.retreatment.statistics import trial_counts


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
