"""What a model is: names, and five plain functions of states, held values and parameters.

The functions receive namespaces and may be run on floats, on arrays, or on the symbols of `derive.algebra`;
they must not branch on values. ``y`` has the states in natural units (also those integrated as logarithms),
``h`` the held values (set by events, constant between them), ``p`` the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """One state: its unit, and whether it is integrated as a logarithm.

    ``rates`` returns d(ln y)/dt for a logarithmic state and dy/dt for a linear one. The local error of a linear
    state is held below the tolerance times its size plus ``scale``, in the state's unit: accuracy is relative above
    it and absolute below.
    """

    name: str
    unit: str
    log: bool = True
    scale: float = 1.0


@dataclass(frozen=True)
class OdeModel:
    """An ODE model as text.

    Attributes
    ----------
    start
        ``start(p) -> (states, held values)`` at time 0, before any event.
    rates
        ``rates(t, y, h, p) -> derivatives`` by state name.
    events
        For each event's name, ``event(y, h, p) -> (changed states, changed held values)``; the order gives
        the codes.
    readouts
        ``readouts(t, y, h, p) -> values`` that a simulation reports, by name.
    observations
        ``observations(t, y, h, p) -> {kind: (location, scale)}``: for an assay the natural logarithm of its
        prediction and the residual sd on that scale; for an event time the log-hazard and the cumulative
        hazard.
    """

    name: str
    states: tuple[State, ...]
    held: tuple[str, ...]
    start: Callable[[Any], tuple[Values, Values]]
    rates: Callable[[Any, Any, Any, Any], Values]
    readouts: Callable[[Any, Any, Any, Any], Values]
    events: Mapping[str, Callable[[Any, Any, Any], tuple[Values, Values]]] = field(default_factory=dict)
    observations: Callable[[Any, Any, Any, Any], Mapping[str, tuple[Any, Any]]] = field(default=lambda t, y, h, p: {})

    def state(self, name: str) -> State:
        """The state of that name."""
        return next(s for s in self.states if s.name == name)
