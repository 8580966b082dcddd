"""Random streams that are apart from those of an experiment's patients, whose blocks are numbered from 0."""

from enum import IntEnum
from typing import Final

import numpy as np

FIRST: Final = 2**31  # no experiment has so many blocks


class Stream(IntEnum):
    """What a stream is of. A number is never used again: results depend on it."""

    TABLES = 0
    POPULATION = 1
    FORECAST = 2
    SENSITIVITY = 3
    DESIGN = 4


def generator(seed: int, of: Stream) -> np.random.Generator:
    """The stream of a purpose."""
    return np.random.default_rng(_sequence(seed, of))


def generators(seed: int, of: Stream, count: int) -> tuple[np.random.Generator, ...]:
    """So many streams of a purpose, apart from each other."""
    return tuple(np.random.default_rng(each) for each in _sequence(seed, of).spawn(count))


def _sequence(seed: int, of: Stream) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(FIRST + of,))
