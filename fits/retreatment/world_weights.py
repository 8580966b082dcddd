"""How much do worlds weigh, if fits have been compared? Weights of `reinfuse compare`, brought to worlds.

A fit of a variant and a world of an experiment speak of the same hypotheses where both are without the same
(`Mechanism.absent`). Such worlds share the weight that they have together in the scenario file as pseudo-BMA+ shares it
among their fits; all others keep theirs, since no comparison speaks of them. Not as stacking does: of two fits that
predict alike it may leave one with nothing, and a tie would become a choice.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import VARIANTS

from ..ranking import TABLE_FILE, WORDS_FILE
from .mechanisms import MECHANISMS, Mechanism
from .scenarios import ScenarioFile, World

type Off = frozenset[str]

_COLUMNS: Final = ("variant", "weight_pseudo_bma", "tie", "converged")
#: A world is no fit, and readers have to know.
NOT_REFITTED: Final = (
    "A world is this run's posterior with hypotheses switched off, not the posterior of the fit without them: the "
    "other numbers are not fitted anew."
)


def weigh(
    file: ScenarioFile, folder: Path, *, cohort: str, lacking: Collection[Mechanism]
) -> tuple[ScenarioFile, list[str]]:
    """Give worlds the weights of a comparison.

    Parameters
    ----------
    file
        The scenarios.
    folder
        Of `reinfuse compare`.
    cohort
        SHA-256 of the cohort that the experiment's run was fitted to.
    lacking
        Mechanisms that the run has none of (`SampledPopulation.lacking`).

    Returns
    -------
    file, words
        The scenarios with the new weights, and in sentences which worlds got them and which did not.

    Raises
    ------
    ReinfuseError
        If the folder holds no comparison, it is of another cohort, or fewer than two of its fits have a world.
    """
    table = _read(folder, cohort)
    weight_of = {
        str(name): float(rows["weight_pseudo_bma"].sum()) for name, rows in table.groupby("variant", sort=False)
    }
    fits = {_of_variant(VARIANTS[name].parameters): name for name in weight_of if name in VARIANTS}
    stands = {
        world.name: fits[off]
        for world in file.worlds
        if world.weight > 0 and (off := _of_world(world, lacking)) is not None and off in fits
    }
    matched = list(dict.fromkeys(stands.values()))
    total = sum(weight_of[name] for name in matched)
    if len(matched) < 2 or not total > 0:
        raise ReinfuseError(_nothing_matches(folder, weight_of, stands, lacking))
    shared = sum(world.weight for world in file.worlds if world.name in stands)
    weights = {world.name: world.weight for world in file.worlds}
    for name in matched:
        alike = [world for world in file.worlds if stands.get(world.name) == name]
        part = shared * weight_of[name] / total / sum(world.weight for world in alike)
        weights |= {world.name: world.weight * part for world in alike}
    worlds = [world.model_copy(update={"weight": weights[world.name]}) for world in file.worlds]
    weighed = file.model_copy(update={"worlds": worlds})
    return weighed, _words(weighed, folder, stands, weight_of, table)


def _of_variant(held: Mapping[str, float]) -> Off:
    """Keys of the mechanisms that a variant which holds these values has none of."""
    return frozenset(mechanism.key for mechanism in MECHANISMS if not mechanism.better and mechanism.absent(held))


def _of_world(world: World, lacking: Collection[Mechanism]) -> Off | None:
    """Keys of what a world is without in a run; None for a world that multiplies, which no variant does."""
    if not set(world.multipliers.values()) <= {0.0, 1.0}:
        return None
    switched = {key for key, factor in world.multipliers.items() if factor == 0.0}
    return frozenset(switched | {mechanism.key for mechanism in lacking if not mechanism.better})


def _read(folder: Path, cohort: str) -> pd.DataFrame:
    """The table of a comparison of fits to this cohort."""
    try:
        content: dict[str, Any] = json.loads((folder / WORDS_FILE).read_text(encoding="utf-8"))
        table = pd.read_csv(folder / TABLE_FILE, usecols=list(_COLUMNS))
        compared = str(content["cohort_sha256"])
    except (OSError, ValueError, KeyError) as fault:
        raise ReinfuseError(
            f"{folder} holds no comparison that can be read ({type(fault).__name__}: {fault}); give a folder that "
            "`reinfuse compare … --out DIR` wrote"
        ) from None
    if compared != cohort:
        raise ReinfuseError(
            f"{folder} compares fits to another cohort than the run's (SHA-256 {compared[:12]}… and {cohort[:12]}…); "
            "compare fits to the run's own file"
        )
    return table


def _nothing_matches(
    folder: Path, weight_of: Mapping[str, float], stands: Mapping[str, str], lacking: Collection[Mechanism]
) -> str:
    found = ", ".join(f"{world!r} for {name}" for world, name in stands.items()) or "none"
    has_none = " and no ".join(mechanism.words for mechanism in lacking if not mechanism.better)
    why = f" This run has no {has_none}, and no world can give it back." if has_none else ""
    return (
        f"{folder} compares {', '.join(weight_of)}. Of the worlds that weigh something, these stand for one of them: "
        f"{found}; two that stand for different ones are needed.{why} Take a run that has every hypothesis "
        "(`reinfuse fit --variant full`, or RUN/variants/full after `--compare`) and compare it with its variants; "
        "leave the worlds of the scenario file out, or name those that the variants stand for."
    )


def _words(
    file: ScenarioFile, folder: Path, stands: Mapping[str, str], weight_of: Mapping[str, float], table: pd.DataFrame
) -> list[str]:
    """What was done, and what it is worth."""
    listed = "; ".join(f"{world!r} ({name}) {file.weights[world]:.0%}" for world, name in stands.items())
    said = [f"Weights by pseudo-BMA+ of the fits compared in {folder.name}: {listed}."]
    others = [f"{world.name!r} {file.weights[world.name]:.0%}" for world in file.worlds if world.name not in stands]
    if others:
        said.append(f"As the scenario file has them, for no fit there is without the same: {', '.join(others)}.")
    unused = {name: weight for name, weight in weight_of.items() if name not in stands.values()}
    if unused:
        listed = ", ".join(f"{name} ({weight:.0%} of it)" for name, weight in unused.items())
        said.append(f"Not used, for no world stands for it: {listed}.")
    mine = table[table["variant"].isin(set(stands.values()))]
    if mine["tie"].any():
        said.append(
            "The comparison calls some of these fits a tie: the data do not choose, and weights of a tie say little. "
            "Read every world of its own."
        )
    if not mine["converged"].all():
        said.append("Not all of these fits have converged: do not rely on these weights.")
    return [*said, NOT_REFITTED]
