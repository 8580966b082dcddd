"""Which hypotheses of relapse a run has been compared on, and which its data cannot tell.

A fit is always judged beside its *null*: the same model in which the host's dysfunction, and earlier lines of CAR-T
cells, change nothing about a product. Where every patient has one infusion both have the same likelihood, because the
scale of dysfunction is defined at the first apheresis; then there is nothing to fit, and the run says so. Where some
have two, the null is fitted too, into ``RUN/variants``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

NULL_OF: Final[Mapping[str, str]] = {"full": "no-dysfunction", "no-exhaustion": "neither"}
"""The variant without host dysfunction beside each that has it."""

SAME_LIKELIHOOD: Final = "same likelihood"
TO_BE_FITTED: Final = "to be fitted"
RECORD: Final = "null_model"  # key of run.json


@dataclass(frozen=True)
class Hypothesis:
    """One hypothesis of why patients relapse, as variants of the model have it.

    Attributes
    ----------
    name
        In words.
    pairs
        Variants with it and without it; each pair differs in it alone.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]


HYPOTHESES: Final = (
    Hypothesis("host T-cell dysfunction", (("full", "no-dysfunction"), ("no-exhaustion", "neither"))),
    Hypothesis("exhaustion of CAR-T cells", (("full", "no-exhaustion"), ("no-dysfunction", "neither"))),
)


def standing(provenance: Mapping[str, Any]) -> list[str]:
    """Say of every hypothesis whether a run compares it, in sentences; empty for a model of one's own."""
    if provenance.get("own_model") is not None:
        return []
    variant = str(provenance.get("variant"))
    compared = {str(row["variant"]) for row in provenance.get("comparison") or []} | {variant}
    null: Mapping[str, Any] = provenance.get(RECORD) or {}
    said = []
    for hypothesis in HYPOTHESES:
        mine = [pair for pair in hypothesis.pairs if variant in pair]
        done = [pair for pair in hypothesis.pairs if compared >= set(pair)]
        other = {with_ if variant == without else without for with_, without in mine}
        if done:
            pairs = "; ".join(f"{with_} with it, {without} without" for with_, without in done)
            said.append(f"{hypothesis.name}: compared ({pairs}).")
        elif null.get("variant") in other and null.get("status") == SAME_LIKELIHOOD:
            said.append(
                f"{hypothesis.name}: these data cannot tell. With and without it ({variant} and {null['variant']}) the "
                "likelihood is the same, for no patient has an infusion on which it could act. Whatever a "
                "simulation of a second infusion says about it is assumed."
            )
        else:
            names = " or ".join(sorted(other)) or "another variant"
            said.append(
                f"{hypothesis.name}: NOT compared. Fit {names} to the same file (`reinfuse fit … --variant NAME`) and "
                "set the runs side by side with `reinfuse compare`."
            )
    return said
