"""What a run says of hypotheses that were compared, could not be told, or were left out."""

import pytest

from reinfuse.fits.hypotheses import HYPOTHESES, NULL_OF, RECORD, SAME_LIKELIHOOD, TO_BE_FITTED, standing
from reinfuse.model.parameters import VARIANTS

HOST, EXHAUSTION = "host T-cell dysfunction: ", "exhaustion of CAR-T cells: "


def of(said: list[str], start: str) -> str:
    (found,) = [sentence for sentence in said if sentence.startswith(start)]
    return found


def test_a_pair_differs_in_its_hypothesis_alone():
    for hypothesis in HYPOTHESES:
        differences = [
            set(VARIANTS[without].parameters) ^ set(VARIANTS[with_].parameters) for with_, without in hypothesis.pairs
        ]
        assert differences[0] == differences[1] != set()


def test_the_null_lacks_dysfunction_and_nothing_else():
    for variant, null in NULL_OF.items():
        assert set(VARIANTS[null].parameters) - set(VARIANTS[variant].parameters) == {"bR", "bXQ", "sline", "sres"}


def test_what_was_compared_is_named():
    rows = [{"variant": "no-exhaustion"}, {"variant": "full"}]
    said = standing({"variant": "no-exhaustion", "comparison": rows})
    assert of(said, EXHAUSTION) == f"{EXHAUSTION}compared (full with it, no-exhaustion without)."
    assert "NOT compared. Fit neither" in of(said, HOST)


@pytest.mark.parametrize("variant", ["no-exhaustion", "full"])
def test_what_the_data_cannot_tell_is_said(variant):
    null = {"variant": NULL_OF[variant], "status": SAME_LIKELIHOOD, "largest_difference": 0.0}
    said = standing({"variant": variant, RECORD: null})
    assert "these data cannot tell" in of(said, HOST)
    assert "assumed" in of(said, HOST)
    assert "NOT compared" in of(said, EXHAUSTION)


def test_a_null_that_was_to_be_fitted_and_was_not_is_not_compared():
    null = {"variant": "neither", "status": TO_BE_FITTED, "largest_difference": 0.4}
    assert "NOT compared" in of(standing({"variant": "no-exhaustion", RECORD: null}), HOST)


def test_a_model_of_ones_own_has_no_such_hypotheses():
    assert standing({"variant": "as defined", "own_model": {"name": "pk"}}) == []
