"""Exact derivatives of what is read of a first course, by the scores of the inputs.

Read-outs and their gradients are those of `reinfuse.fits.identification.readouts`, here as the laboratory reads them: a
peak or nadir is the outermost of the days that it looks at, and moves with the curve on that day; an area is the
trapezium rule over days. What stands between is the chain rule: inputs through their quantile functions, and a
hypothesis of the world as what it multiplies.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reinfuse.model.errors import ReinfuseError
from reinfuse.model.judgement import AUC_DAYS, PEAK_DAYS
from reinfuse.model.parameters import table

from ..identification.readouts import Posed, pose
from ..retreatment.arms import MOST_ANTIGEN_LOW, arm_parameters, first_infusion
from ..retreatment.mechanisms import BETTER, MECHANISMS
from .outcomes import CURVE_DAYS, FLOORS, describe
from .reader import Reader

type Floats = NDArray[np.float64]

KINDS: Final = ("cart", "cells", "transgene", "burden")
TOLERANCE: Final = 1e-6
#: Days after the infusion that stand for its own: the curve jumps there.
JUST_AFTER: Final = 1e-6


def gradients(reader: Reader, scores: Floats) -> Floats:
    """Derivatives of all of a reader's outcomes, (n, k, q); arguments and errors as of `gradient`."""
    each = [gradient(one, name, scores) for one in reader.by_world for name in one.asked]
    return np.stack(each, axis=-1)


def gradient(reader: Reader, outcome: str, scores: Floats) -> Floats:
    """Derivatives of an outcome by the standard normal scores of the inputs.

    Parameters
    ----------
    reader
        With the inputs, the course and one world.
    outcome
        A smooth one that every patient has.
    scores
        (n, k).

    Returns
    -------
    ndarray (n, k)
        NaN where the patient could not be solved.

    Raises
    ------
    ReinfuseError
        If the outcome has no derivative.
    """
    described = describe(outcome)
    if not described.smooth or described.relapsed_only:
        raise ReinfuseError(f"{outcome} has no derivative that every patient has; take another method")
    values = reader.inputs.at(scores)
    patients, _ = reader.inputs.patients(values)
    course = [first_infusion(reader.scenario, reader.file)]
    given = arm_parameters(patients, reader.scenario, reader.worlds[0], course, table(reader.options))
    posed = pose(
        course=course, parameters=given, variant="full", n=len(values), options=reader.options, kinds=KINDS,
        tolerance=TOLERANCE,
    )  # fmt: skip
    found = _slope(posed, outcome, reader)
    result = np.zeros((len(values), reader.inputs.k))
    for i, name in enumerate(reader.inputs.names):
        symbol = _parameter_of(name, reader)
        if symbol in posed.parameters:
            result[:, i] = found[:, posed.parameters.index(symbol)] * _passed_on(symbol, values[:, i], given, reader)
    return np.asarray(result * reader.inputs.slope(scores) / np.log(10.0))


def _slope(posed: Posed, outcome: str, reader: Reader) -> Floats:
    """Derivative of the outcome's natural logarithm by the model's parameters, (n, columns)."""
    kind, _, day = outcome.partition("@")
    if kind == "auc28":
        days = np.tile(np.maximum(np.arange(AUC_DAYS + 1.0), JUST_AFTER), (posed.n, 1))
        whole, ends = posed.read("cells", days), posed.read("cells", days[:, [0, -1]])
        area, slope = (each - 0.5 * end for each, end in zip(whole, ends, strict=True))
        return np.asarray(slope / area[:, None])
    if kind == "cmax":
        days = np.arange(1.0, PEAK_DAYS + 1.0)
        return posed.read("cart", days[_highest(posed.curve("cart", days))])[1]
    if kind == "nadir":
        days = reader.times[reader.times <= CURVE_DAYS[-1]]
        at = np.maximum(days[_highest(-posed.curve("burden", days))], JUST_AFTER)
    else:
        at = np.full(posed.n, float(day))
    curve = "transgene" if kind == "transgene" else "burden"
    value, slope = posed.read(curve, at)
    return np.where(value[:, None] < np.log(FLOORS[curve]), 0.0, slope)


def _highest(curve: Floats) -> NDArray[np.int64]:
    """Places of the highest values, (n,)."""
    return np.asarray(np.where(np.isnan(curve), -np.inf, curve).argmax(axis=1))


def _parameter_of(name: str, reader: Reader) -> str:
    """The model's name of an input, of the first infusion; empty for what it does not have."""
    word, _, rest = name.partition(" ")
    if not rest:
        return word
    if word == "occasion":
        return "occ_1" if rest == "1" else ""
    return f"{word}_1" if rest == reader.scenario.first.product else ""


def _passed_on(symbol: str, value: Floats, given: Mapping[str, Floats], reader: Reader) -> Floats:
    """Derivative of a parameter under the scenario's hypotheses by its own value, (n,)."""
    after = given[symbol]
    if np.array_equal(after, value):
        return np.ones(value.shape)
    rows = table(reader.options)
    if symbol in BETTER:  # who falls short of a favourable patient does so so many times, on the log scale
        times = next(each.key for each in MECHANISMS if symbol in each.better)
        factor = reader.scenario.hypotheses(reader.worlds[0])[times]
        return np.where(after == value, 1.0, factor * after / value)
    if symbol not in rows or rows[symbol].transform == "logit":  # odds are multiplied, of a product's share too
        value, after = value * (1.0 - value), after * (1.0 - after)
    ratio = np.divide(after, value, out=np.ones(value.shape), where=value != 0.0)
    return np.where((symbol == "fr") & (given[symbol] == MOST_ANTIGEN_LOW), 0.0, ratio)
