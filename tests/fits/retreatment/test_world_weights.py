"""Weights of a comparison of fits come to the worlds that stand for them, and to no others."""

import json

import pandas as pd
import pytest

from reinfuse.fits.ranking import TABLE_FILE, WORDS_FILE
from reinfuse.fits.retreatment.mechanisms import MECHANISMS
from reinfuse.fits.retreatment.scenarios import parse
from reinfuse.fits.retreatment.world_weights import NOT_REFITTED, weigh
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import VARIANTS

SCENARIO = '[[scenario]]\nname = "a"\nfirst.product = "ide-cel"\nsecond.product = "cilta-cel"\n'
COHORT = "1" * 64
AS_ASSUMED, NO_DYSFUNCTION, NO_EXHAUSTION = (
    "as assumed",
    "no host T-cell dysfunction",
    "no exhaustion of CAR-T cells",
)


def lacking(variant):
    return [each for each in MECHANISMS if each.absent(VARIANTS[variant].parameters)]


@pytest.fixture
def compared(tmp_path):
    """Write what `reinfuse compare` leaves behind of fits with these weights."""

    def write(weights, *, tie=False, converged=True, cohort=COHORT):
        rows = [
            {
                "run": f"run {i}",
                "variant": name,
                "weight_stacking": float(i == 0),
                "weight_pseudo_bma": weight,
                "tie": tie and i > 0,
                "converged": converged,
            }
            for i, (name, weight) in enumerate(weights)
        ]
        pd.DataFrame(rows).to_csv(tmp_path / TABLE_FILE, index=False)
        (tmp_path / WORDS_FILE).write_text(json.dumps({"cohort_sha256": cohort}))
        return tmp_path

    return write


def test_matched_worlds_share_their_weight_as_the_fits_do_and_the_others_keep_theirs(compared):
    folder = compared([("full", 0.6), ("no-dysfunction", 0.3), ("neither", 0.1)])
    before = parse(SCENARIO)
    after, words = weigh(before, folder, cohort=COHORT, lacking=[])
    assert sum(after.weights.values()) == pytest.approx(1)
    shared = before.weights[AS_ASSUMED] + before.weights[NO_DYSFUNCTION]
    assert after.weights[AS_ASSUMED] == pytest.approx(shared * 2 / 3)
    assert after.weights[NO_DYSFUNCTION] == pytest.approx(shared / 3)
    for world in before.worlds:
        if world.name not in (AS_ASSUMED, NO_DYSFUNCTION):
            assert after.weights[world.name] == pytest.approx(before.weights[world.name])
    assert words == [
        f"Weights by pseudo-BMA+ of the fits compared in {folder.name}: 'as assumed' (full) 19%; "
        "'no host T-cell dysfunction' (no-dysfunction) 10%.",
        "As the scenario file has them, for no fit there is without the same: 'no exhaustion of CAR-T cells' 14%, "
        "'no antigen loss' 14%, 'no anti-CAR immunity' 14%, 'no suppressive microenvironment' 14%, "
        "'no tumour-intrinsic resistance' 0%, 'no short persistence' 0%, 'none of these' 14%.",
        "Not used, for no world stands for it: neither (10% of it).",
        NOT_REFITTED,
    ]


def test_what_the_run_itself_lacks_counts_as_off(compared):
    folder = compared([("no-exhaustion", 0.9), ("neither", 0.1)])
    missing = lacking("no-exhaustion")
    before = parse(SCENARIO).without(missing)
    after, _ = weigh(before, folder, cohort=COHORT, lacking=missing)
    assert after.weights[AS_ASSUMED] == pytest.approx(9 * after.weights[NO_DYSFUNCTION])
    assert NO_EXHAUSTION not in after.weights


def test_runs_of_one_variant_and_worlds_for_one_variant_are_taken_together(compared):
    folder = compared([("full", 0.25), ("no-exhaustion", 0.5), ("full", 0.25)])
    twice = SCENARIO + "".join(
        f'[[world]]\nname = "{name}"\nweight = {weight}\nexhaustion = {on}\n'
        for name, weight, on in (("one", 1, 1), ("two", 3, 1), ("three", 4, 0), ("half", 2, 0.5), ("mute", 0, 1))
    )
    after, _ = weigh(parse(twice), folder, cohort=COHORT, lacking=[])
    assert after.weights == pytest.approx({"one": 0.1, "two": 0.3, "three": 0.4, "half": 0.2, "mute": 0.0})


def test_ties_and_fits_that_did_not_converge_are_said(compared):
    folder = compared([("full", 1.0), ("no-exhaustion", 0.0)], tie=True, converged=False)
    after, words = weigh(parse(SCENARIO), folder, cohort=COHORT, lacking=[])
    assert after.weights[NO_EXHAUSTION] == 0
    assert any("the data do not choose" in said for said in words)
    assert any("converged" in said for said in words)


@pytest.mark.parametrize(
    ("weights", "variant", "message"),
    [
        ([("full", 0.5), ("neither", 0.5)], "full", "'as assumed' for full; two"),
        ([("full", 0.5), ("no-exhaustion", 0.5)], "no-exhaustion", "has no exhaustion of CAR-T cells, and no world"),
        ([("full", 0.0), ("no-exhaustion", 0.0)], "full", "compares full, no-exhaustion"),
    ],
)
def test_nothing_to_weigh_is_refused(compared, weights, variant, message):
    missing = lacking(variant)
    with pytest.raises(ReinfuseError, match=message):
        weigh(parse(SCENARIO).without(missing), compared(weights), cohort=COHORT, lacking=missing)


def test_other_cohorts_and_other_folders_are_refused(compared, tmp_path):
    folder = compared([("full", 0.5), ("no-exhaustion", 0.5)], cohort="2" * 64)
    with pytest.raises(ReinfuseError, match="another cohort"):
        weigh(parse(SCENARIO), folder, cohort=COHORT, lacking=[])
    (folder / TABLE_FILE).write_text("run,variant\nrun,full\n")
    with pytest.raises(ReinfuseError, match="no comparison that can be read"):
        weigh(parse(SCENARIO), folder, cohort=COHORT, lacking=[])
    with pytest.raises(ReinfuseError, match="no comparison that can be read"):
        weigh(parse(SCENARIO), tmp_path / "nowhere", cohort=COHORT, lacking=[])
