"""Chance events of virtual patients: they belong to the patient and the course, never to the arm."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from .scenarios import MOST_COURSES

type Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Luck:
    """Of n candidates.

    Attributes
    ----------
    clocks : ndarray (n, 2, MOST_COURSES)
        Standard exponential numbers: when death, and progression by hazard, come in each course.
    extinct : ndarray (n, MOST_COURSES)
        Uniform numbers: whether the last cells of a tumour die out in each course.
    antibody : ndarray (n,)
        Standard normal numbers: how well a bispecific antibody works in this patient.
    """

    clocks: Floats
    extinct: Floats
    antibody: Floats

    @classmethod
    def draw(cls, n: int, rng: np.random.Generator) -> Self:
        """Draw them; a patient's numbers do not depend on how many follow."""
        uniform = rng.random((n, 3 * MOST_COURSES + 1))
        clocks = -np.log1p(-uniform[:, : 2 * MOST_COURSES]).reshape(n, 2, MOST_COURSES)
        return cls(
            clocks=clocks,
            extinct=uniform[:, 2 * MOST_COURSES : -1],
            antibody=ndtri(np.clip(uniform[:, -1], 1e-16, 1 - 1e-16)),
        )

    @classmethod
    def together(cls, groups: Sequence[Self]) -> Self:
        """Join groups of candidates into one."""
        return cls(
            clocks=np.concatenate([group.clocks for group in groups]),
            extinct=np.concatenate([group.extinct for group in groups]),
            antibody=np.concatenate([group.antibody for group in groups]),
        )

    def death(self, course: int) -> Floats:
        """Clock of death without relapse in a course (1 for the first), (n,)."""
        return self.clocks[:, 0, course - 1]

    def hazard(self, course: int) -> Floats:
        """Clock of progression by hazard in a course, (n,)."""
        return self.clocks[:, 1, course - 1]
