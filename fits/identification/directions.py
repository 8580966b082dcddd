"""Directions in which a population is seen well or not at all, in words.

Information is looked at in units of the prior: an eigenvalue of 1 means that the data say as much of that direction as
the prior does. The weakest directions are the ones to know: a mix of parameters that may move together while the data
hardly change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

type Floats = NDArray[np.float64]

NAMED: Final = 0.3  # of the largest component: smaller ones are not named
MOST: Final = 4  # components that a sentence names
EQUAL: Final = 0.2  # relative difference up to which two components count as equal
SEEN, PARTLY = 3.0, 1.0 / 3.0  # eigenvalues: posterior sd half the prior's, and 87 % of it
RANGE: Final = 2.0  # prior sds that a two-parameter rule must not leave


@dataclass(frozen=True)
class Direction:
    """An eigen-direction of the information in prior units.

    Attributes
    ----------
    value
        Eigenvalue: information of the data over that of the prior.
    components
        (d,) of the unit eigenvector, in prior sds, its largest component positive.
    words
        What it means.
    """

    value: float
    components: Floats
    words: str

    @property
    def contraction(self) -> float:
        """1 - posterior variance / prior variance, along it."""
        return self.value / (1.0 + self.value)


def directions(information: Floats, prior_sd: Floats, names: Sequence[str], logs: Sequence[bool]) -> list[Direction]:
    """Eigen-directions of an information matrix, weakest first.

    Parameters
    ----------
    information
        (d, d).
    prior_sd
        (d,).
    names
        Of the parameters.
    logs
        Whether each is on a logarithmic scale, so that two of them make a product or a ratio.
    """
    scaled = prior_sd[:, None] * (0.5 * (information + information.T)) * prior_sd[None, :]
    values, vectors = np.linalg.eigh(scaled)
    found = []
    for value, vector in zip(np.maximum(values, 0.0), vectors.T, strict=True):
        up = vector * np.sign(vector[np.argmax(np.abs(vector))])
        found.append(Direction(float(value), up, sentence(float(value), up, prior_sd, names, logs)))
    return found


def sentence(value: float, vector: Floats, prior_sd: Floats, names: Sequence[str], logs: Sequence[bool]) -> str:
    """Say what a direction (d,), in prior sds, is made of and how well it is seen."""
    order = np.argsort(-np.abs(vector), kind="stable")
    chosen = [int(i) for i in order if abs(vector[i]) >= NAMED * abs(vector[order[0]])][:MOST]
    seen = value >= SEEN
    if len(chosen) == 1:
        name = names[chosen[0]]
        return f"{name} by itself: " + ("measured" if seen else "hardly seen" if value < PARTLY else "partly seen")
    moves = vector * prior_sd / vector[chosen[0]]  # the first by one prior sd
    together = f"{_move(names[chosen[0]], moves[chosen[0]], logs[chosen[0]])} with " + _listed(
        [_move(names[i], moves[i], logs[i]) for i in chosen[1:]]
    )
    if seen:
        return f"{together}: measured"
    if len(chosen) == 2 and all(logs[i] for i in chosen):
        first, second = chosen
        step = abs(moves[second] / moves[first])
        return f"{together}: only {_combination(names[first], names[second], step, moves[second] < 0)} is seen"
    return f"{together}: " + ("hardly seen apart" if value < PARTLY else "partly seen apart")


def _move(name: str, by: float, log: bool) -> str:
    """A parameter's move in words: as a factor on a logarithmic scale."""
    return f"{name} {'up' if by > 0 else 'down'} ({f'× {np.exp(by):.2g}' if log else f'by {abs(by):.2g}'})"


def _combination(first: str, second: str, step: float, falls: bool) -> str:
    """What stays as it is when ln first rises by 1 and ln second moves by a step."""
    if abs(step - 1.0) <= EQUAL:
        return "their product" if falls else "their ratio"
    return f"{second} {'×' if falls else '/'} {first}^{step:.2g}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
