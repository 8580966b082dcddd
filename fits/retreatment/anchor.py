"""The published study of ten patients, beside what the model says a study of ten would show.

All that is known of the study is a summary. No patient's times, doses or kinetics are known and none are made
up. With ten patients even a perfect model agrees with almost anything: the exact intervals say how little.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from reinfuse.model.parameters import DAYS_PER_MONTH

from .outcomes import DURABLE_MONTHS, responded
from .statistics import (
    Estimate,
    central_counts,
    clopper_pearson,
    proportion,
    rank_correlation,
    trial_counts,
    trials_with_longer,
    two_sided_tail,
)

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

TABLE_COLUMNS: Final = (
    "patients",
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


def patients_of(outcomes: pd.DataFrame, scenario: str) -> pd.DataFrame:
    """Virtual patients of one scenario that count: simulated and alive at the second infusion."""
    chosen = outcomes[outcomes["scenario"] == scenario]
    return chosen[~chosen["failed"] & chosen["infused"]]


def simulated_outcomes(patients: pd.DataFrame) -> list[tuple[pd.Series, pd.Series]]:
    """Outcome and draw of each virtual patient, in the order of `COUNTS`."""
    judged = patients[patients["evaluable_2"]]
    vgpr = pd.Series(responded(judged["best_2"].to_numpy().astype(str), "VGPR"), index=judged.index)
    return [
        (vgpr, judged["draw"]),
        (patients["mrd5_2"], patients["draw"]),
        (patients["antigen_loss"], patients["draw"]),
    ]


def compare(outcomes: pd.DataFrame, scenario: str, *, responders: bool = False, level: float = 0.95) -> pd.DataFrame:
    """Set the study's counts beside the simulated ones.

    Parameters
    ----------
    outcomes
        As the engine gives them.
    scenario
        Name of the scenario that mimics the study.
    responders
        Only virtual patients whose first response was at least PR.
    level
        Of every interval.

    Returns
    -------
    DataFrame
        Columns `TABLE_COLUMNS`, one row per count. `observed_low` and `observed_high` are the exact binomial
        interval; `simulated_*` the posterior interval; `trial_*` the central interval of the count in virtual
        studies of the same size; `tail_probability` how often such a study would lie at least as far out.
    """
    patients = patients_of(outcomes, scenario)
    if responders:
        patients = patients[responded(patients["best_1"].to_numpy().astype(str))]
    rows: list[dict[str, object]] = []
    for published, (outcome, draw) in zip(COUNTS, simulated_outcomes(patients), strict=True):
        low, high = clopper_pearson(published.successes, published.n, level)
        figure: Estimate = proportion(outcome, draw, level)
        row: dict[str, object] = {
            "patients": RESPONDERS if responders else EVERYONE,
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
        if figure.n:
            counts = trial_counts(outcome, draw, published.n)
            row["trial_low"], row["trial_high"] = central_counts(counts, level)
            row["tail_probability"] = two_sided_tail(counts, published.successes)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(TABLE_COLUMNS))


def direction(outcomes: pd.DataFrame, scenario: str, *, rng: np.random.Generator) -> Direction:
    """Ask whether a long first response goes with a long second one, as the study says without a number."""
    patients = patients_of(outcomes, scenario)
    first, second = patients["pfs_days_1"].to_numpy(), patients["pfs_days_2"].to_numpy()
    durable = first > DURABLE_MONTHS * DAYS_PER_MONTH
    return Direction(
        correlation=rank_correlation(first, second),
        trials_longer=trials_with_longer(durable, second, size=SIZE, repeats=TRIALS, rng=rng),
        share_durable=float(durable.mean()) if durable.size else float("nan"),
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
