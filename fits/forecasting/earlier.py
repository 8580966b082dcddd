"""An earlier forecast of the same patient, and what has changed since."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pandas as pd

from reinfuse.model.errors import ReinfuseError

from ..result_folder import RUN_FILE, kind_of
from ..retreatment.statistics import STACKED
from .patient import NewPatient
from .predictions import MEASUREMENT
from .words import between, value_in_words

KIND: Final = "forecast"
SAME: Final = 0.01  # difference of chances


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
            raise ReinfuseError(
                f"--previous {folder} is no finished folder of `reinfuse forecast`; name one, or leave it out"
            )
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

    def changes(self, tables: Mapping[str, pd.DataFrame], *, patient: NewPatient) -> list[str]:
        """What is different now, in sentences.

        Parameters
        ----------
        tables
            Of the present forecast.
        patient
            As it is known now.
        """
        return [
            f"The earlier forecast had seen {self.written['rows']} records until day {self.last_day:g}; this one has "
            f"seen {patient.rows} until day {patient.last_day:g}.",
            *self._progression(tables),
            *self._assays(tables["forecast"], patient),
            *self._benefit(tables),
        ]

    def _progression(self, tables: Mapping[str, pd.DataFrame]) -> list[str]:
        if "progression" not in tables or "progression" not in self.tables:
            return []
        both = self.tables["progression"].merge(tables["progression"], on="month", suffixes=("_before", "_now"))
        if both.empty:
            return []
        last = both.iloc[-1]
        before, now = float(last["probability_before"]), float(last["probability_now"])
        word = "as before" if abs(now - before) < SAME else "higher" if now > before else "lower"
        return [
            f"The chance of progression by the end of month {int(last['month'])} is {word}: {now:.0%}, after "
            f"{before:.0%}."
        ]

    def _assays(self, table: pd.DataFrame, patient: NewPatient) -> list[str]:
        """Median and 80 % interval of each assay on the last day that both have."""
        parts = (part[part["of"] == MEASUREMENT] for part in (self.tables["forecast"], table))
        before, now = parts
        both = before.merge(now, on=["time", "assay"], suffixes=("_before", "_now"))
        said = []
        for assay, rows in both[both["time"] > patient.last_day].groupby("assay", sort=False):
            last, limit = rows.iloc[-1], patient.limits.get(str(assay))
            shown = {
                when: [value_in_words(float(last[f"{name}_{when}"]), limit) for name in ("median", "low_80", "high_80")]
                for when in ("before", "now")
            }
            (median, low, high), (old, old_low, old_high) = shown["now"], shown["before"]
            said.append(
                f"{assay} on day {last['time']:g}: {median} (80 % {between(low, high)}), after {old} "
                f"({between(old_low, old_high)})."
            )
        return said

    def _benefit(self, tables: Mapping[str, pd.DataFrame]) -> list[str]:
        if "benefit" not in tables or "benefit" not in self.tables:
            return []
        stacked = [table[table["world"] == STACKED] for table in (self.tables["benefit"], tables["benefit"])]
        both = stacked[0].merge(stacked[1], on="option", suffixes=("_before", "_now"))
        return [
            f"{row['option']}: chance of being better than none {row['better_now']:.0%}, after "
            f"{row['better_before']:.0%}; gain {row['gain_days_now']:.0f} days, after {row['gain_days_before']:.0f}."
            for row in both.to_dict("records")
        ]
