"""An earlier forecast of the same patient, and what has changed since."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from reinfuse.model.errors import ReinfuseError

from ..result_folder import RUN_FILE, kind_of
from ..retreatment.statistics import STACKED
from .predictions import MEASUREMENT

KIND = "forecast"


@dataclass(frozen=True, eq=False)
class Earlier:
    """What an earlier folder holds.

    Attributes
    ----------
    written : dict
        Its `run.json`.
    tables : dict of str to DataFrame
        `forecast`, `progression`, `benefit`; those that are there.
    """

    written: dict[str, Any]
    tables: dict[str, pd.DataFrame]

    @classmethod
    def read(cls, folder: Path, patient: str) -> Self:
        """Read a folder of `reinfuse forecast`.

        Raises
        ------
        ReinfuseError
            If it is none, or of another patient.
        """
        if kind_of(folder) != KIND:
            raise ReinfuseError(f"--previous {folder} is no finished folder of `reinfuse forecast`; name one, or leave it out")
        written = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        if written["patient"] != patient:
            raise ReinfuseError(
                f"--previous {folder} forecasts patient {written['patient']}, and this is {patient}; name an earlier "
                "forecast of the same patient"
            )
        names = [name for name in ("forecast", "progression", "benefit") if (folder / f"{name}.csv").is_file()]
        return cls(written, {name: pd.read_csv(folder / f"{name}.csv") for name in names})

    @property
    def last_day(self) -> float:
        """Last day that it had seen."""
        return float(self.written["last_day"])

    def changes(self, tables: dict[str, pd.DataFrame], *, rows: int, last_day: float) -> list[str]:
        """What is different now, in sentences."""
        before = int(self.written["rows"])
        said = [
            f"The earlier forecast had seen {before} records until day {self.last_day:g}; this one has seen {rows} until day "
            f"{last_day:g}."
        ]
        said += self._progression(tables)
        said += self._assays(tables["forecast"], last_day)
        said += self._benefit(tables)
        return said

    def _progression(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        if "progression" not in tables or "progression" not in self.tables:
            return []
        both = self.tables["progression"].merge(tables["progression"], on="month", suffixes=("_before", "_now"))
        if both.empty:
            return []
        last = both.iloc[-1]
        before, now = float(last["probability_before"]), float(last["probability_now"])
        word = "as before" if abs(now - before) < 0.01 else "higher" if now > before else "lower"
        return [
            f"The chance of progression by the end of month {int(last['month'])} is {word}: {now:.0%}, after {before:.0%}."
        ]

    def _assays(self, table: pd.DataFrame, last_day: float) -> list[str]:
        """The last day that both have: how the median moved, and how much narrower the 80 % interval is."""
        said = []
        keys = ["time", "assay"]
        both = self.tables["forecast"].query("of == @MEASUREMENT", local_dict={"MEASUREMENT": MEASUREMENT}).merge(
            table[table["of"] == MEASUREMENT], on=keys, suffixes=("_before", "_now")
        )
        for assay, rows in both[both["time"] > last_day].groupby("assay", sort=False):
            last = rows.iloc[-1]
            widths = {
                when: np.log(float(last[f"high_80_{when}"]) / max(float(last[f"low_80_{when}"]), 1e-300))
                for when in ("before", "now")
            }
            share = widths["now"] / widths["before"] if widths["before"] > 0 else float("nan")
            said.append(
                f"{assay} on day {last['time']:g}: median {last['median_now']:.3g}, after {last['median_before']:.3g}; the "
                f"80 % interval is {share:.2f} times as wide as it was, on a logarithmic scale."
            )
        return said

    def _benefit(self, tables: dict[str, pd.DataFrame]) -> list[str]:
        if "benefit" not in tables or "benefit" not in self.tables:
            return []
        stacked = [table[table["world"] == STACKED] for table in (self.tables["benefit"], tables["benefit"])]
        both = stacked[0].merge(stacked[1], on="option", suffixes=("_before", "_now"))
        return [
            f"{row['option']}: chance of being better than none {row['better_now']:.0%}, after {row['better_before']:.0%}; "
            f"gain {row['gain_days_now']:.0f} days, after {row['gain_days_before']:.0f}."
            for row in both.to_dict("records")
        ]
