"""What indices say in plain sentences, and what they do not."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from .designs import Design
from .indices import ABOUT, MAIN
from .outcomes import describe, without_world
from .study import UNSCALED, Found

#: Share of the variance from which an input is worth a sentence.
WORTH_SAYING: Final = 0.05
#: Inputs of a sentence at most.
MOST: Final = 4


def sentences(found: Found, design: Design, prior_only: Sequence[str], *, has_data: bool) -> list[str]:
    """Say what drives each outcome, and what it rests on.

    Parameters
    ----------
    found, design
        The analysis.
    prior_only
        Parameters that no data have moved.
    has_data
        Whether the inputs come from data at all.
    """
    main = MAIN[design.method]
    said = []
    for name, rows in found.indices[found.indices["index"] == main].groupby("outcome", sort=False):
        if "@" not in str(name):
            said.append(_drivers(str(name), rows, main, design, set(prior_only) if has_data else set()))
    curves = dict.fromkeys(str(name).partition("@")[0] for name in found.indices["outcome"] if "@" in str(name))
    said += [_over_time(kind, found, main) for kind in curves]
    return [*said, *found.notes, *caveats(design, has_data=has_data), *_left_out(found)]


def _drivers(name: str, rows: pd.DataFrame, main: str, design: Design, prior_only: set[str]) -> str:
    scale = rows["value"].max() if design.method in UNSCALED else 1.0
    known = rows[(rows["value"] >= WORTH_SAYING * scale) & (rows["lower"] > 0)].sort_values("value", ascending=False)
    about = describe(without_world(name)).about
    if known.empty:
        return f"{name} ({about}): no single input stands out beyond its interval."
    shown = known.head(MOST)
    parts = ", ".join(
        f"{row['parameter']} {row['value']:.2f} [{row['lower']:.2f}, {row['upper']:.2f}]" for _, row in shown.iterrows()
    )
    text = f"{name} ({about}) answers most to {parts} ({main}: {ABOUT[main]})."
    from_prior = [str(p) for p in shown["parameter"] if str(p).partition(" ")[0] in prior_only]
    luck = [str(p) for p in shown["parameter"] if str(p).startswith(("death ", "hazard "))]
    if from_prior:
        text += f" Of these, {', '.join(from_prior)} come from the prior alone: the index is the prior's width at work."
    if luck:
        text += f" {', '.join(luck)} is chance, which no measurement tells beforehand."
    return text


def _over_time(kind: str, found: Found, main: str) -> str:
    rows = found.indices[(found.indices["index"] == main) & found.indices["outcome"].str.startswith(f"{kind}@")]
    days = rows["outcome"].str.partition("@")[2].astype(float)
    first, last = (rows[days == day].nlargest(1, "value").to_dict("records")[0] for day in (days.min(), days.max()))
    about = describe(without_world(kind)).about
    return (
        f"{kind} ({about}): on day {days.min():g} {first['parameter']} leads ({first['value']:.2f}), "
        f"on day {days.max():g} {last['parameter']} ({last['value']:.2f})."
    )


def caveats(design: Design, *, has_data: bool) -> list[str]:
    """What a reader must know before using the indices."""
    said = [
        "An index says how much of the spread of an outcome goes with the spread of an input, over the distribution "
        "that was put in. It is no measure of a treatment effect, and a wider prior makes a larger index.",
    ]
    if not has_data:
        said.append("Every input has its prior: no data stand behind the indices.")
    if design.method in ("pawn", "delta"):
        said.append("Between finite samples the distance is never quite 0: compare small values with those of inputs "
                    "that cannot matter.")  # fmt: skip
    if design.method == "shapley-knn":
        said.append("Nearest neighbours were looked at for the foremost inputs only; the others have 0 here, and what "
                    "they make is in no effect.")  # fmt: skip
    if design.method == "dgsm":
        said.append("The bound is never below the total share, and may lie far above it.")
    return said


def _left_out(found: Found) -> list[str]:
    said = [f"Left out: {count} runs because {reason}." for reason, count in found.reasons.items()]
    if found.left_out:
        said.append(f"In all {found.left_out} of {found.units} units ({found.share_left_out:.1%}) were left out.")
    said += [f"The ranking for {n} is not stable: {reason}." for n, reason in found.unstable.items() if "@" not in n]
    curves = [name.partition("@")[0] for name in found.unstable if "@" in name]
    said += [f"The ranking for {kind} is not stable on {curves.count(kind)} days." for kind in dict.fromkeys(curves)]
    return said
