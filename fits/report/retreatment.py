"""The report's section on second infusions, from a folder of `reinfuse retreat`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from reinfuse.model.errors import ReinfuseError

from ..figures import style
from ..result_folder import FIGURES_FOLDER, RUN_FILE
from ..retreatment.folder import KIND
from ..retreatment.statistics import STACKED

#: Pictures that the report shows, in this order, and what they are.
PICTURES: Final = (
    ("pfs_by_scenario.png", "Second PFS by scenario, Kaplan-Meier, stacked over the hypotheses."),
    ("pfs_by_group.png", "Second PFS by first response."),
    ("waterfall.png", "Deepest fall of M-protein after the second infusion, patient by patient."),
    ("paired_difference_1.png", "The same patients under two arms: difference of second PFS."),
)
#: Measures that the report's table shows, of the second course.
MEASURES: Final = ("ORR", ">=VGPR", "CR", "MRD-negative 1e-5", "PFS median", "PFS at 12 months", "PFS at 24 months")


@dataclass(frozen=True)
class Retreatment:
    """What a report shows of an experiment.

    Attributes
    ----------
    source
        What the experiment says of where its patients come from.
    words
        Headings, each with its sentences.
    caveats
        What the experiment cannot say.
    summary
        Rows of `summary.csv` that are shown.
    pictures
        Captions and image data, as the template takes them.
    """

    source: str
    words: Sequence[tuple[str, Sequence[str]]]
    caveats: Sequence[str]
    summary: pd.DataFrame
    pictures: Sequence[dict[str, str]]


def read_retreatment(path: Path, *, cohort_sha256: str | None = None) -> Retreatment:
    """Read a finished experiment.

    Parameters
    ----------
    path
        Folder of `reinfuse retreat`.
    cohort_sha256
        Of the run's cohort; an experiment on a fit of another cohort is refused.

    Raises
    ------
    ReinfuseError
        If the folder is no finished experiment, or belongs to another cohort.
    """
    try:
        record: dict[str, Any] = json.loads((path / RUN_FILE).read_text(encoding="utf-8"))
        table = pd.read_csv(path / "summary.csv")
    except (OSError, ValueError) as error:
        raise ReinfuseError(f"{path} cannot be read as a folder of `reinfuse retreat`: {error}") from error
    if record.get("kind") != KIND:
        raise ReinfuseError(f"{path} is no folder of `reinfuse retreat`: {RUN_FILE} says {record.get('kind')!r}")
    theirs = record.get("cohort_sha256")
    if cohort_sha256 is not None and theirs != cohort_sha256:
        raise ReinfuseError(
            f"{path} is an experiment on a fit of another cohort ({str(theirs)[:12]}…, not {cohort_sha256[:12]}…); "
            "run `reinfuse retreat` on this run"
        )
    measure = table["measure"].isin(MEASURES)
    worlds = set(table["world"])
    shown = table[measure & (table["course"] == 2) & (table["group"] == "all")]
    shown = shown[shown["world"] == (STACKED if STACKED in worlds else table["world"].iloc[0])]
    return Retreatment(
        source=str(record.get("source", "")),
        words=[(heading, list(sentences)) for heading, sentences in dict(record.get("words", {})).items()],
        caveats=list(record.get("caveats", [])),
        summary=shown.reset_index(drop=True),
        pictures=[
            {"uri": style.data_address(picture.read_bytes()), "caption": caption}
            for name, caption in PICTURES
            if (picture := path / FIGURES_FOLDER / name).is_file()
        ],
    )
