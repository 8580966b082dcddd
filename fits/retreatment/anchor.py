"""The published study of ten patients, beside what the model says a study of ten would show.

All that is known of the study is a summary. No patient's times, doses or kinetics are known and none are made
up. With ten patients even a perfect model agrees with almost anything: the exact intervals say how little.

The comparison is made in each world (hypothesis of relapse) and for their mixture. A table of millions of virtual
patients need not be in memory: `tally` one scenario and world at a time, then `beside_study`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .counts import NOTHING, Estimate, Layout, Share, between
from .outcomes import DURABLE_MONTHS
from .statistics import (
    STACKED,
    central_counts,
    checked_weights,
    clopper_pearson,
    counted,
    followed,
    rank_correlation,
    reaches,
    trials_with_longer,
    two_sided_tail,
)

type Floats = NDArray[np.float64]
type Flags = NDArray[np.bool_]

SOURCE: Final = (
    'Richardson, Holtick, Frenking, Scheid, Goedel: "Sequential BCMA CAR T-cell therapy in refractory '
    'multiple myeloma", Blood Advances; known here from a published summary only'
)
#: Patients of the study: progressed after ide-cel, then given cilta-cel.
SIZE: Final = 10
#: Virtual trials for what has no closed form.
TRIALS: Final = 4000


@dataclass(frozen=True, kw_only=True)
class Published:
    """One count of the study.

    Attributes
    ----------
    measure : str
        What was counted.
    successes, n : int
        The count.
    remark : str
        What the summary leaves open.
    """

    measure: str
    successes: int
    n: int
    remark: str = ""


#: The study's counts.
COUNTS: Final = (
    Published(measure=">=VGPR to the second product", successes=10, n=SIZE),
    Published(
        measure="MRD-negative after the second product",
        successes=6,
        n=SIZE,
        remark="sensitivity and day are not known; simulated at 1e-5, at any visit before progression",
    ),
    Published(
        measure="antigen loss at relapse",
        successes=1,
        n=SIZE,
        remark="after which product is not known; simulated at the first relapse: most of the tumour BCMA-low",
    ),
)
#: The study's statement without a number.
DIRECTION: Final = "first response longer than 12 months: longer second remission"
UNKNOWN: Final = (
    "Whether the study's patients had responded to ide-cel is not known, and much hangs on it: compare with "
    "every virtual patient who progressed, and with those who had responded."
)
#: Whom of the virtual patients the study is compared with.
EVERYONE: Final = "all who progressed"
RESPONDERS: Final = "first responders"
#: What a world is called in outcomes that have no column for it.
ONE_WORLD: Final = "as assumed"
#: Columns of the outcomes that are looked at.
COLUMNS: Final = (
    *("draw", "failed", "infused", "best_1", "pfs_days_1"),
    *("best_2", "evaluable_2", "mrd5_2", "antigen_loss", "pfs_days_2"),
)

TABLE_COLUMNS: Final = (
    "patients",
    "world",
    "measure",
    "observed",
    "n_observed",
    "observed_share",
    "observed_low",
    "observed_high",
    "simulated_share",
    "simulated_low",
    "simulated_high",
    "mc_error",
    "n_simulated",
    "trial_low",
    "trial_high",
    "tail_probability",
    "remark",
)


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Whether a long first response goes with a long second one.

    Attributes
    ----------
    correlation : float
        Spearman correlation of first and second PFS over the virtual patients.
    trials_longer : float
        Share of virtual trials of ten in which second PFS ranks higher after a first PFS above 12 months.
    share_durable : float
        Share of virtual patients with a first PFS above 12 months.
    """

    correlation: float
    trials_longer: float
    share_durable: float

    @property
    def sentence(self) -> str:
        """The answer in words, with the caution that belongs to it."""
        if np.isnan(self.trials_longer):
            return "No virtual patients on both sides of a first PFS of 12 months: the direction cannot be told."
        return (
            f"Second PFS ranks higher after a first PFS above {DURABLE_MONTHS:g} months in "
            f"{self.trials_longer:.0%} of virtual studies of {SIZE} (Spearman correlation over all virtual "
            f"patients {self.correlation:.2f}). Frailty alone gives such a correlation: it is no evidence of "
            "exhaustion."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Virtual patients of one world by draw: those with an outcome, and those in whom it could be seen.

    Attributes
    ----------
    hits, size : tuple of ndarray (draws,)
        One pair per count of the study, in the order of `COUNTS`.
    """

    hits: tuple[Floats, ...]
    size: tuple[Floats, ...]


def worlds_of(outcomes: pd.DataFrame, scenario: str) -> dict[str, pd.DataFrame]:
    """Virtual patients that count of one scenario, by world: simulated, alive at the second infusion."""
    of_scenario = (outcomes["scenario"] == scenario).to_numpy() & counted(outcomes)
    if "world" not in outcomes:
        return {ONE_WORLD: _taken(outcomes, of_scenario)}
    present = [str(world) for world in outcomes["world"].unique()]
    return {world: _taken(outcomes, of_scenario & (outcomes["world"] == world).to_numpy()) for world in present}


def _taken(outcomes: pd.DataFrame, rows: Flags) -> pd.DataFrame:
    return outcomes.loc[rows, [column for column in COLUMNS if column in outcomes]]


def patients_of(outcomes: pd.DataFrame, scenario: str, *, world: str | None = None) -> pd.DataFrame:
    """Virtual patients of one scenario that count, in one world.

    Raises
    ------
    ReinfuseError
        If the outcomes hold several worlds and none is named, or not the one named.
    """
    worlds = worlds_of(outcomes, scenario)
    if world is None and len(worlds) == 1:
        return next(iter(worlds.values()))
    if world not in worlds:
        raise ReinfuseError(f"world is {world!r}; the outcomes hold {', '.join(worlds) or 'none'}: name one of them")
    return worlds[world]


def simulated_outcomes(patients: pd.DataFrame) -> list[tuple[pd.Series, pd.Series]]:
    """Outcome and draw of each virtual patient, in the order of `COUNTS`."""
    judged = patients[patients["evaluable_2"]]
    vgpr = pd.Series(reaches(judged["best_2"], "VGPR"), index=judged.index)
    return [
        (vgpr, judged["draw"]),
        (patients["mrd5_2"], patients["draw"]),
        (patients["antigen_loss"], patients["draw"]),
    ]


def tally(patients: pd.DataFrame, *, responders: bool = False) -> Tally:
    """Count outcomes by draw.

    Parameters
    ----------
    patients
        Rows of one scenario and world; rows that do not count are passed over.
    responders
        Only virtual patients whose first response was at least PR.
    """
    given = counted(patients)
    if responders:
        given &= reaches(patients["best_1"], "PR")
    layout = Layout(patients["draw"].to_numpy())
    judged = given & patients["evaluable_2"].to_numpy(dtype=np.bool_)
    seen = (
        (judged, reaches(patients["best_2"], "VGPR")),
        (given, patients["mrd5_2"].to_numpy(dtype=np.bool_)),
        (given, patients["antigen_loss"].to_numpy(dtype=np.bool_)),
    )
    return Tally(
        hits=tuple(layout.count(who & outcome)[0] for who, outcome in seen),
        size=tuple(layout.count(who)[0] for who, _ in seen),
    )


def compare(
    outcomes: pd.DataFrame,
    scenario: str,
    *,
    responders: bool = False,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Set the study's counts beside the simulated ones.

    Parameters
    ----------
    outcomes
        As the engine gives them, in one world or several.
    scenario
        Name of the scenario that mimics the study.
    responders
        Only virtual patients whose first response was at least PR.
    weights
        Of worlds; with them the rows of the mixture come last.
    level
        Of every interval.

    Returns
    -------
    DataFrame
        As `beside_study`.

    Raises
    ------
    ReinfuseError
        As `beside_study`.
    """
    tallies = {
        world: tally(patients, responders=responders) for world, patients in worlds_of(outcomes, scenario).items()
    }
    return beside_study(tallies, responders=responders, weights=weights, level=level)


def beside_study(
    tallies: Mapping[str, Tally],
    *,
    responders: bool = False,
    weights: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Set the study's counts beside tallies.

    Parameters
    ----------
    tallies
        By world.
    responders
        Whether the tallies are of first responders only, for the record.
    weights
        Of worlds; with them the rows of the mixture come last, in world `STACKED`. In a mixture a virtual study happens
        in one world, so its counts mix and do not average.
    level
        Of every interval.

    Returns
    -------
    DataFrame
        Columns `TABLE_COLUMNS`, one row per world and count. `observed_low` and `observed_high` are the exact binomial
        interval; `simulated_*` the posterior interval; `trial_*` the central interval of the count in virtual
        studies of the same size; `tail_probability` how often such a study would lie at least as far out.

    Raises
    ------
    ReinfuseError
        If the weights do not sum to 1, or name a world without a tally.
    """
    groups = [(world, {world: 1.0}) for world in tallies]
    if weights is not None:
        groups.append((STACKED, _weighed(tallies, weights)))
    rows = [
        {
            "patients": RESPONDERS if responders else EVERYONE,
            "world": world,
            **_row(
                published, [(w, tallies[name].hits[k], tallies[name].size[k]) for name, w in mixture.items()], level
            ),
        }
        for world, mixture in groups
        for k, published in enumerate(COUNTS)
    ]
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def _weighed(tallies: Mapping[str, Tally], weights: Mapping[str, float]) -> dict[str, float]:
    missing = [world for world, weight in weights.items() if weight > 0 and world not in tallies]
    if missing:
        raise ReinfuseError(f"there are no outcomes of the world {missing[0]!r}; there are {', '.join(tallies)}")
    return {world: weight for world, weight in checked_weights(weights).items() if weight > 0}


def _row(published: Published, parts: Sequence[tuple[float, Floats, Floats]], level: float) -> dict[str, object]:
    """One count beside a mixture of weighted hits and sizes by draw."""
    low, high = clopper_pearson(published.successes, published.n, level)
    figure, counts = mixed_share(parts, level, published.n)
    row: dict[str, object] = {
        "measure": published.measure,
        "observed": published.successes,
        "n_observed": published.n,
        "observed_share": published.successes / published.n,
        "observed_low": low,
        "observed_high": high,
        "simulated_share": figure.value,
        "simulated_low": figure.low,
        "simulated_high": figure.high,
        "mc_error": figure.mc_error,
        "n_simulated": figure.n,
        "remark": published.remark,
    }
    if counts is not None:
        row["trial_low"], row["trial_high"] = central_counts(counts, level)
        row["tail_probability"] = two_sided_tail(counts, published.successes)
    return row


def mixed_share(
    parts: Sequence[tuple[float, Floats, Floats]], level: float, size: int
) -> tuple[Estimate, Floats | None]:
    """Share with an outcome over a mixture of worlds, and the counts of virtual studies.

    Parameters
    ----------
    parts
        Weight of each world, patients with the outcome and patients by draw.
    level
        Of the interval.
    size
        Patients of a study.

    Returns
    -------
    estimate : Estimate
    counts : ndarray (size + 1,) or None
        Distribution of the count in virtual studies; None without virtual patients.
    """
    there = [(weight, hits, of) for weight, hits, of in parts if of.sum() > 0]
    total = sum(weight for weight, _, _ in there)
    if total <= 0:
        return NOTHING, None
    shares = [weight / total for weight, _, _ in there]
    worlds = [share for _, hits, of in there if (share := Share.of(hits, of)) is not None]
    counts = sum(
        (weight * between(hits, of).counts(size) for weight, (_, hits, of) in zip(shares, there, strict=True)),
        np.zeros(size + 1),
    )
    return Share.mixed(worlds, shares).estimate(level), counts


def direction(
    outcomes: pd.DataFrame, scenario: str, *, rng: np.random.Generator, world: str | None = None
) -> Direction:
    """Ask whether a long first response goes with a long second one, as the study says without a number.

    Parameters
    ----------
    outcomes, scenario
        As `compare`.
    rng
        Draws virtual studies.
    world
        Which; may be left out where there is but one.

    Raises
    ------
    ReinfuseError
        As `patients_of`.
    """
    patients = patients_of(outcomes, scenario, world=world)
    patients = patients[followed(patients)]
    first, second = (patients[f"pfs_days_{course}"].to_numpy(dtype=np.float64) for course in (1, 2))
    durable = first > DURABLE_MONTHS * DAYS_PER_MONTH
    return Direction(
        correlation=rank_correlation(first, second),
        trials_longer=trials_with_longer(durable, second, size=SIZE, repeats=TRIALS, rng=rng),
        share_durable=float(durable.mean()) if durable.size else float("nan"),
    )


def stacked_direction(worlds: Mapping[str, Direction], weights: Mapping[str, float]) -> Direction:
    """Average the directions of worlds: each virtual study happens in one of them.

    Raises
    ------
    ReinfuseError
        If the weights do not sum to 1, or name a world that is not there.
    """
    share = checked_weights(weights)
    missing = [world for world, weight in share.items() if weight > 0 and world not in worlds]
    if missing:
        raise ReinfuseError(f"there are no outcomes of the world {missing[0]!r}; there are {', '.join(worlds)}")
    parts = [(weight, worlds[world]) for world, weight in share.items() if weight > 0]
    return Direction(
        correlation=sum(weight * part.correlation for weight, part in parts),
        trials_longer=sum(weight * part.trials_longer for weight, part in parts),
        share_durable=sum(weight * part.share_durable for weight, part in parts),
    )


def words(row: pd.Series) -> str:
    """One count in a sentence."""
    text = (
        f"{row['measure']}: observed {row['observed']}/{row['n_observed']} "
        f"[{row['observed_low']:.0%}, {row['observed_high']:.0%}]"
    )
    if not row["n_simulated"]:
        return f"{text}; no virtual patient to compare with."
    return (
        f"{text}; simulated {row['simulated_share']:.0%} "
        f"[{row['simulated_low']:.0%}, {row['simulated_high']:.0%}], so {int(row['trial_low'])} to "
        f"{int(row['trial_high'])} of {row['n_observed']} expected; a study at least this far out: "
        f"{row['tail_probability']:.0%}."
    )
