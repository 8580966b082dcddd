"""The retreatment view: sliders to a scenario file, and the small experiment of `reinfuse retreat` that answers it."""

import shlex
import tempfile
import threading
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH
from reinfuse.model.products import PRODUCTS

from ..retreatment import engine
from ..retreatment.analysis import HORIZON_MONTHS
from ..retreatment.block import BLOCK, Block, Work
from ..retreatment.contrasts import contrasts
from ..retreatment.mechanisms import MECHANISMS, Mechanism
from ..retreatment.real_patient import population_of
from ..retreatment.scenarios import ScenarioFile, parse
from ..retreatment.statistics import STACKED, counted, followed
from ..retreatment.virtual_patients import SampledPopulation
from ..run import RunFolder

type Floats = NDArray[np.float64]

#: The two arms, as the scenario file calls them.
SECOND: Final = "second infusion"
NONE: Final = "no second infusion"
ARMS: Final = (SECOND, NONE)
#: Virtual patients, and draws of the posterior that they are spread over.
PATIENTS: Final = 200
#: Percentiles of the bands.
PERCENTILES: Final = (2.5, 25.0, 50.0, 75.0, 97.5)
#: Days after the second infusion at which curves are drawn: often while CAR-T cells expand, seldom later.
DAYS: Final = np.concatenate([np.arange(0.0, 60.0, 3.0), np.arange(60.0, HORIZON_MONTHS * DAYS_PER_MONTH, 15.0)])
#: Months of the curves of PFS.
MONTHS: Final = np.arange(0.0, HORIZON_MONTHS + 0.5, 1.0)
#: Names of the file that the page offers, and of the folder that its command writes.
SCENARIO_FILE: Final = "second_infusion.toml"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the controls say.

    Attributes
    ----------
    first, second
        Products.
    dose_share
        Second dose as a share of the product's reference dose.
    days
        From progression to the second infusion.
    lymphodepletion
        Intensity in [0, 1].
    bridging
        Share of the tumour left by bridging therapy, in (0, 1].
    banked
        Whether cells were taken before the first therapy.
    same_scfv
        Whether the binder is that of the first product; None: decided from the products.
    hypotheses
        Keys of `MECHANISMS` that are on.
    patient
        ID in the run's cohort; None: virtual patients of the population.
    """

    first: str = "ide-cel"
    second: str = "cilta-cel"
    dose_share: float = 1.0
    days: float = 60.0
    lymphodepletion: float = 1.0
    bridging: float = 1.0
    banked: bool = False
    same_scfv: bool | None = None
    hypotheses: tuple[str, ...] = field(default=tuple(each.key for each in MECHANISMS))
    patient: str | None = None

    @property
    def toml(self) -> str:
        """The scenario file: both arms in one world, with the hypotheses that are on."""
        dose = self.dose_share * PRODUCTS[self.second].dose
        second = [
            f'second.product = "{self.second}"',
            f"second.dose = {dose:.6g}",
            f"second.days_after_progression = {self.days:g}",
            f"second.lymphodepletion = {self.lymphodepletion:g}",
            f"second.bridging = {self.bridging:g}",
            f'second.apheresis = "{"banked" if self.banked else "at-relapse"}"',
        ]
        if self.same_scfv is not None:
            second.append(f"second.same_scfv = {str(self.same_scfv).lower()}")
        switches = [f"{each.key} = {str(each.key in self.hypotheses).lower()}" for each in MECHANISMS]
        arms = []
        for name, more in ((SECOND, []), (NONE, ["no_second = true"])):
            arms += ["", "[[scenario]]", f'name = "{name}"', f'first.product = "{self.first}"', *second, *more]
        return "\n".join(["[[world]]", 'name = "as chosen"', *switches, *arms]) + "\n"

    @property
    def file(self) -> ScenarioFile:
        """The same, checked."""
        return parse(self.toml, where=SCENARIO_FILE)

    def command(self, run: str, seed: int) -> str:
        """What repeats the answer, beside the scenario file."""
        whose = "" if self.patient is None else f" --patient {shlex.quote(self.patient)}"
        return (
            f"reinfuse retreat {run} --scenarios {SCENARIO_FILE}{whose} --patients {PATIENTS} --draws {PATIENTS} "
            f"--seed {seed} --out retreat"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What the experiment found.

    Attributes
    ----------
    burden, cart
        By arm, (5, `DAYS`): percentiles `PERCENTILES` of myeloma cells and of CAR-T cells/µL after the second infusion,
        or after the day on which it would have been.
    free
        By arm, (3, `MONTHS`): share free of progression and death after that day, and two Monte Carlo errors to either
        side.
    contrasts
        Rows of `contrasts.csv` for everybody: second infusion less none, the same patients.
    outcomes
        By arm, the rows of `outcomes.parquet`.
    patients
        Virtual patients of each arm.
    followed
        Those whose second PFS can be told after the infusion.
    """

    burden: dict[str, Floats]
    cart: dict[str, Floats]
    free: dict[str, Floats]
    contrasts: pd.DataFrame
    outcomes: dict[str, pd.DataFrame]
    patients: int
    followed: int

    def measure(self, words: str) -> dict[str, Any]:
        """The row of `contrasts` whose measure begins with these words."""
        rows = self.contrasts[self.contrasts["measure"].str.startswith(words)]
        return {str(name): value for name, value in rows.iloc[0].items()}


class Laboratory:
    """A run, ready to answer: populations are read once, one experiment is done at a time.

    Parameters
    ----------
    run
        A finished fit.
    seed
        As `reinfuse retreat --seed`.
    """

    def __init__(self, run: RunFolder, *, seed: int = 1) -> None:
        self.run, self.seed = run, seed
        self._lock = threading.Lock()
        self._population = lru_cache(maxsize=16)(self._read)

    def _read(self, patient: str | None, names: tuple[str, ...]) -> SampledPopulation:
        products = [PRODUCTS[name] for name in names]
        return population_of(self.run, products=products, n_draws=PATIENTS, seed=self.seed, patient=patient)

    @property
    def lacking(self) -> tuple[Mechanism, ...]:
        """Mechanisms that the run's model has none of: to switch them does nothing."""
        return self._population(None, Choice().file.product_names).lacking

    def answer(self, choice: Choice) -> Answer:
        """Do the experiment.

        Parameters
        ----------
        choice
            What the controls say.

        Raises
        ------
        ReinfuseError
            If a control has an impossible value, or nobody gets to a second infusion.
        """
        file = choice.file
        with self._lock, tempfile.TemporaryDirectory(prefix="reinfuse-explore-") as place:
            population = self._population(choice.patient, file.product_names)
            path = Path(place) / "outcomes.parquet"
            found = engine.run(file, population, patients=PATIENTS, seed=self.seed, path=path, cores=1)
            world = file.worlds[0].name
            outcomes = {arm: found.outcomes.read(arm, world) for arm in ARMS}
            frame = outcomes[SECOND]
            kept = frame[counted(frame)]
            if kept.empty:
                raise ReinfuseError("nobody lived to the second infusion; choose an earlier day")
            curves = {arm: self._curves(file, population, at, kept) for at, arm in enumerate(ARMS)}
        table = contrasts(
            lambda scenario, _: outcomes[scenario],
            pairs=[ARMS],
            groups=[],
            weights=file.weights,
            horizon_months=HORIZON_MONTHS,
            level=file.settings.level,
        )
        return Answer(
            burden={arm: _bands(burden) for arm, (burden, _) in curves.items()},
            cart={arm: _bands(cart) for arm, (_, cart) in curves.items()},
            free={arm: _free(outcomes[arm]) for arm in ARMS},
            contrasts=table[table["world"] == STACKED].reset_index(drop=True),
            outcomes=outcomes,
            patients=len(kept),
            followed=int(followed(frame).sum()),
        )

    def _curves(
        self, file: ScenarioFile, population: SampledPopulation, at: int, kept: pd.DataFrame
    ) -> tuple[Floats, Floats]:
        """Burden and CAR-T cells of the patients of an arm at `DAYS`, (n, t)."""
        burden: list[Floats] = []
        cart: list[Floats] = []
        blocks = kept["patient"].to_numpy() // BLOCK
        for number in np.unique(blocks):
            work = Work(Block(number=int(number), seed=self.seed, file=file, population=population, arms=()))
            some = kept[blocks == number]
            day = some["infusion_day"].to_numpy(dtype=np.float64)
            rows = some["patient"].to_numpy(dtype=np.int64) % BLOCK
            made = work.trajectories(file.scenarios[at], file.worlds[0], rows, day, times=DAYS, since=day)
            found = made.transpose("patient", "time", ...)
            burden.append(found["Ts"].to_numpy() + found["Tr"].to_numpy())
            cart.append(np.sum([found[name].to_numpy() for name in found.data_vars if str(name)[0] in "EMX"], axis=0))
        return np.concatenate(burden), np.concatenate(cart)


def _bands(curves: Floats) -> Floats:
    percentile = np.nanpercentile if np.isnan(curves).any() else np.percentile  # the former is many times slower
    return np.asarray(percentile(curves, PERCENTILES, axis=0))


def _free(frame: pd.DataFrame) -> Floats:
    """Share free of progression and death at `MONTHS`, and two Monte Carlo errors to either side."""
    days = frame[followed(frame)]["pfs_days_2"].to_numpy(dtype=np.float64)
    share = (days[:, None] > MONTHS * DAYS_PER_MONTH).mean(axis=0)
    error = 2.0 * np.sqrt(share * (1.0 - share) / days.size)
    return np.stack([share, np.maximum(share - error, 0.0), np.minimum(share + error, 1.0)])
